"""Pictures of a volume with their cameras and what is painted on them; `views` keeps them in a folder."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jaxtyping import Float, UInt8
from torch import Tensor

from diffrender.camera import Camera
from diffrender.dvr.transfer import TransferFunction
from diffrender.errors import ImageError, LabelError, SettingError
from diffrender.rays.field import Field, MarchSettings, Table
from diffrender.rays.march import march
from diffrender.volume import Volume

ROLES = ("recolour", "hide", "keep", "ignore")
MOST_BINS = 4096  # of the table that views are drawn with; one a HU up to here


@dataclass(frozen=True)
class Role:
    """What a paint means.

    Attributes:
        name: of the paint, for people.
        role: "recolour": this colour, at the luminance that the render has; "hide": nothing should be here; "keep":
            it should look as it does; "ignore": it does not matter.
        colour: sRGB display values 0..1; needed to recolour, otherwise for the brush alone.
        strength: of recolouring; 0 leaves the render, 1 takes all of the paint's colour.
    Raises: SettingError.
    """

    name: str
    role: str
    colour: tuple[float, float, float] | None = None
    strength: float = 1.0

    def __post_init__(self):
        if self.role not in ROLES:
            raise SettingError(f"{self.name}: a paint's role is one of {', '.join(ROLES)}, not {self.role!r}.")
        if not 0 <= self.strength <= 1:
            raise SettingError(f"{self.name}: a paint's strength lies between 0 and 1; {self.strength} does not.")
        if self.colour is None and self.role == "recolour":
            raise SettingError(f"{self.name} is to recolour and has no colour. Give it one: [red, green, blue], 0..1.")
        if self.colour is not None and (len(self.colour) != 3 or not all(0 <= c <= 1 for c in self.colour)):
            raise SettingError(
                f"{self.name}: a colour is red, green and blue from 0 to 1, not {self.colour}. Divide 0..255 by 255."
            )


@dataclass(frozen=True, eq=False)
class View:
    """One picture.

    Attributes:
        camera: where from.
        image: premultiplied RGBA, sRGB display values 0..1, no background.
        paint: ids, 0 where nothing is painted; None for none.
    Raises: ImageError where the sizes differ.
    """

    camera: Camera
    image: Float[Tensor, "4 h w"]
    paint: UInt8[Tensor, "_ _"] | None = None  # sizes are compared in words

    def __post_init__(self):
        for what, values in (("picture", self.image), ("paint", self.paint)):
            if values is not None and tuple(values.shape[-2:]) != tuple(self.camera.image_size):
                height, width = self.camera.image_size
                raise ImageError(
                    f"The {what} of a view has {values.shape[-2]} x {values.shape[-1]} pixels and its camera {height} "
                    f"x {width}. They belong to different views; draw the views again."
                )

    @property
    def painted(self) -> bool:
        """Whether anything is painted on it."""
        return self.paint is not None and bool(self.paint.any())


@dataclass(frozen=True, eq=False)
class Views:
    """Views of one volume, and what is known of it.

    Attributes:
        views: the pictures, in order.
        transfer: what drew them; None where nobody knows.
        volume: of which they are, where it is in memory.
        roles: what each paint means.
        folder: where they were read from.
        source: the CT's path, as given.
        sha256: of the CT, as `diffrender.provenance.hash_of` has it.
        series: which one of a DICOM folder.
        labels, names: of the CT, as `read_volume` takes them.
    Raises: LabelError for a painted id without a role, ImageError for no view or pictures of several sizes.
    """

    views: tuple[View, ...]
    transfer: TransferFunction | None = None
    volume: Volume | None = None
    roles: Mapping[int, Role] = field(default_factory=dict)
    folder: Path | None = None
    source: str | None = None
    sha256: str | None = None
    series: str | int | None = None
    labels: str | None = None
    names: str | None = None

    def __post_init__(self):
        if not self.views:
            raise ImageError("There are no views. Draw some: `dvr views CT -o FOLDER`, or `render_views`.")
        sizes = [tuple(view.camera.image_size) for view in self.views]
        odd = next((n for n, size in enumerate(sizes) if size != sizes[0]), None)
        if odd is not None:
            raise ImageError(
                f"View 0 has {sizes[0][0]} x {sizes[0][1]} pixels and view {odd} {sizes[odd][0]} x {sizes[odd][1]}; "
                "all views have one size. Draw them again."
            )
        for number, view in enumerate(self.views):
            unknown = sorted(set() if view.paint is None else set(view.paint.unique().tolist()) - {0, *self.roles})
            if unknown:
                raise LabelError(
                    f"View {number} is painted with {unknown[0]}, and no role says what that means; there are roles "
                    f"for {sorted(self.roles) or 'no paint'}. Add it to the roles (paint/roles.json in a folder)."
                )

    def open_volume(self, ct: str | Path | None = None, labels: bool = False) -> Volume:
        """The volume that the views show: the one in memory, or the file, which must be the very same.

        Args:
            ct: where the CT lies by now; by default where it lay when the views were drawn.
            labels: read its labels too, where views have been drawn of a CT with labels.
        Raises: PathError where it is not there, or is another one; as `read_volume`.
        """
        if self.volume is not None and ct is None:
            return self.volume
        from diffrender.dvr.views import open_volume

        return open_volume(self, ct, labels)


def render_views(
    volume: Volume,
    transfer: TransferFunction,
    cameras: Sequence[Camera],
    sampling_rate: float = 1.0,
    progress: Callable[[int, int], object] | None = None,
) -> Views:
    """Views of a volume as a transfer function shows it.

    Args:
        cameras: such as `diffrender.orbit` gives; images of one size.
        sampling_rate: samples a voxel.
        progress: called with the views done and all of them.
    """
    shown = field_through(volume, transfer)
    settings = MarchSettings(sampling_rate=sampling_rate)
    views = []
    for number, camera in enumerate(cameras):
        views.append(View(camera, march(shown, camera, settings).float().clamp(0, 1)))
        if progress is not None:
            progress(number + 1, len(cameras))
    return Views(tuple(views), transfer, volume, source=volume.source)


def field_through(volume: Volume, transfer: TransferFunction) -> Field:
    """A volume as a transfer function shows it: its numbers, and a table fine enough to be the function itself."""
    table = whole_table(transfer)
    return Field(volume.values, volume.world_from_voxel, Table(table.entries.to(volume.values.device), table.ranges))


def whole_table(transfer: TransferFunction) -> Table:
    """A table fine enough to be the transfer function itself."""
    points = [point[0] for point in (*transfer.colours, *transfer.opacities)]
    low, high = min(points), max(points)
    high = high if high > low else low + 1.0
    return transfer.table(min(MOST_BINS, round(high - low) + 1), low, high)


def classified(volume: Volume, transfer: TransferFunction) -> Float[Tensor, "4 k j i"]:
    """Red, green, blue and extinction [1/mm] of each voxel: what light and labels are worked out with."""
    return transfer.at(volume.values.float()).movedim(-1, 0)
