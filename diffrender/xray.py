"""A radiograph: the picture that a camera takes of a volume, with what it shows of every label."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from diffrender.camera import Camera
from diffrender.errors import ImageError, SettingError, UnitError
from diffrender.mesh import Mesh
from diffrender.physics.attenuation import HU_AIR, linear_map
from diffrender.physics.beam import Matter, areal_densities, matter_of
from diffrender.physics.chain import detected, spectrum_of
from diffrender.physics.settings import Physics
from diffrender.physics.spectra import Spectrum
from diffrender.rays.line import label_lengths, line_integrals
from diffrender.rays.prepared import MOST_LABELS, Prepared, PreparedLabels, prepare, prepare_labels
from diffrender.rays.surface import path_lengths
from diffrender.volume import Volume

KINDS = ("log-attenuation", "intensity")
MASKS = ("hard", "soft")


@dataclass(frozen=True)
class RadiographSettings:
    """How a radiograph is made.

    Attributes:
        kind: "log-attenuation", p of Beer and Lambert's I = I0 exp(-p), bone bright; or "intensity", exp(-p), the share
            of the beam that reaches the detector, bone dark.
        energy: of the one energy [keV] at which HU become attenuation; 70 is about the mean of a
            120 kVp beam that a patient has hardened.
        masks: "hard", path longer than `threshold`; or "soft", rising from 0 to 1 at twice the threshold.
        threshold: a label is seen where its path is longer than this [mm].
        labels: whether labels are projected at all.
        backend: "auto", "torch" or "warp".
        physics: spectrum, scatter, field and detector; pixels are then the detected signal relative to the open field,
            or minus its logarithm, and `energy` has no meaning. None for one energy and nothing else.
    Raises: SettingError for a value that is not offered.
    """

    kind: str = "log-attenuation"
    energy: float = 70.0
    masks: str = "hard"
    threshold: float = 1.0
    labels: bool = True
    backend: str = "auto"
    physics: Physics | None = None

    def __post_init__(self):
        for name, value, offered in (("kind", self.kind, KINDS), ("masks", self.masks, MASKS)):
            if value not in offered:
                raise SettingError(f"{name} is one of {', '.join(offered)}, not {value!r}.")
        if not all(isinstance(number, int | float) for number in (self.threshold, self.energy)):
            raise SettingError(f"threshold [mm] and energy [keV] are numbers, not {self.threshold!r}, {self.energy!r}.")
        if not self.threshold > 0:
            raise SettingError(
                f"threshold is the path [mm] beyond which a label is seen, above zero, not {self.threshold}."
            )


@dataclass(frozen=True, eq=False)
class Radiograph:
    """A radiograph and what it shows.

    Attributes:
        pixels: (1, h, w) float32; [no unit].
        kind: "log-attenuation" (bone bright) or "intensity" (bone dark).
        camera: what took it.
        path_lengths: (label, h, w) [mm], how far each ray runs inside each label; None without labels.
        masks: (label, h, w) bool, or float 0..1 when soft; None without labels.
        ids: the labels' ids, in the order of `path_lengths`.
        names: {id: name}.
        source: the file it was made of, as typed.
        header: DICOM attributes {keyword: value} of the CT that a derived image carries on; never printed.
        exposed: (h, w) bool, pixels that the beam reached: inside shutters and collimation; None where all are.
        landmarks: {name: (row, column)} [px from the image's corner], where a person marked them.
    """

    pixels: Float[Tensor, "1 h w"]
    kind: str
    camera: Camera
    path_lengths: Float[Tensor, "label h w"] | None = None
    masks: Shaped[Tensor, "label h w"] | None = None
    ids: tuple[int, ...] = ()
    names: Mapping[int, str] | None = None
    source: str | None = None
    header: Mapping[str, Any] | None = None
    exposed: Bool[Tensor, "h w"] | None = None
    landmarks: Mapping[str, tuple[float, float]] | None = None

    def __post_init__(self):
        object.__setattr__(self, "pixels", torch.as_tensor(self.pixels, dtype=torch.float32))
        if self.kind not in KINDS:
            raise ImageError(f"A radiograph is of kind {' or '.join(KINDS)}, not {self.kind!r}.")
        if tuple(self.pixels.shape) != (1, *self.camera.image_size):
            raise ImageError(
                f"The pixels have shape {list(self.pixels.shape)} and the camera takes {[1, *self.camera.image_size]}."
            )
        if self.exposed is not None and tuple(self.exposed.shape) != self.camera.image_size:
            raise ImageError(
                f"exposed has shape {list(self.exposed.shape)} and the camera takes {list(self.camera.image_size)}."
            )
        for name, layers in (("path_lengths", self.path_lengths), ("masks", self.masks)):
            if layers is not None and tuple(layers.shape) != (len(self.ids), *self.camera.image_size):
                raise ImageError(
                    f"{name} has shape {list(layers.shape)}; {len(self.ids)} ids and this camera need "
                    f"{[len(self.ids), *self.camera.image_size]}."
                )

    def label_name(self, label: int) -> str:
        """What label `label` is called; "label 7" without a table."""
        return (self.names or {}).get(label, f"label {label}")

    def __repr__(self) -> str:
        low, high = self.pixels.amin().item(), self.pixels.amax().item()
        labels = f", {len(self.ids)} labels" if self.ids else ""
        return f"Radiograph({self.kind} {low:.4g} to {high:.4g}{labels}, {self.camera})"


@dataclass(frozen=True, eq=False)
class Scene:
    """A volume made ready for many radiographs with the same settings: `radiograph` takes it in a volume's place.

    Attributes:
        matter, spectrum: what the volume is made of and the beam, where the settings have physics; else None.
    """

    volume: Volume
    settings: RadiographSettings
    attenuation: Prepared
    labels: tuple[PreparedLabels, ...]
    matter: Matter | None = None
    spectrum: Spectrum | None = None


def scene_of(volume: Volume, settings: RadiographSettings | None = None) -> Scene:
    """Pad the volume and its labels once; a radiograph then costs only its rays.

    Raises: UnitError where the values are not HU.
    """
    settings = RadiographSettings() if settings is None else settings
    if not isinstance(settings, RadiographSettings):
        raise SettingError(f"settings are RadiographSettings(...), not {settings!r}.")
    if volume.unit != "HU":
        raise UnitError(
            f"{volume.source or 'This volume'} holds values in unit {volume.unit!r}, not Hounsfield units, so what "
            "they attenuate is unknown (MR, or a CT without rescale). Give a CT; pictures of such a volume are made by "
            "volume rendering instead."
        )
    scale, offset = linear_map(settings.energy)
    ids = volume.label_ids if settings.labels else ()
    parts = [ids[n : n + MOST_LABELS] for n in range(0, len(ids), MOST_LABELS)]
    labels = [prepare_labels(_layers(volume, part), part) for part in parts]
    matter = None if settings.physics is None else matter_of(volume, settings.physics.materials)
    spectrum = None if settings.physics is None else spectrum_of(settings.physics)
    q = prepare(volume.values, scale, offset, floor=HU_AIR)
    return Scene(volume, settings, q, tuple(labels), matter, spectrum)


@overload
def radiograph(volume: Volume | Scene, camera: Camera, settings: RadiographSettings | None = None) -> Radiograph: ...
@overload
def radiograph(
    volume: Volume | Scene, camera: Sequence[Camera], settings: RadiographSettings | None = None
) -> list[Radiograph]: ...


def radiograph(
    volume: Volume | Scene, camera: Camera | Sequence[Camera], settings: RadiographSettings | None = None
) -> Radiograph | list[Radiograph]:
    """Take a radiograph of a CT, with the path through each of its labels.

    Args:
        volume: HU, or a `Scene` that holds them ready (then with the scene's settings).
        camera: one, or a sequence of them for a list of radiographs.
        settings: what is made of the rays; by default log-attenuation at 70 keV and hard masks.
    Returns: what the camera sees; `pixels` are differentiable in `volume.values` where those carry a gradient.
    Raises: UnitError where the values are not HU, SettingError, LabelError, BackendError.
    Source: Beer and Lambert, I = I0 exp(-p), p the line integral of attenuation.
    """
    scene = volume if isinstance(volume, Scene) else scene_of(volume, settings)
    if not isinstance(camera, Camera):
        return [radiograph(scene, one) for one in camera]
    settings, lattice = scene.settings, scene.volume.world_from_voxel
    ids = tuple(label for part in scene.labels for label in part.ids)
    pixels, exposed = _pixels(scene, camera)
    parts = [label_lengths(scene.attenuation, part, lattice, camera, settings.backend) for part in scene.labels]
    lengths = None if not parts else parts[0] if len(parts) == 1 else torch.cat(parts)
    return Radiograph(
        pixels.to(torch.float32)[None],
        settings.kind,
        camera,
        lengths,
        None if lengths is None else _masks(lengths, settings),
        ids,
        scene.volume.names,
        scene.volume.source,
        scene.volume.header,
        exposed,
    )


def radiograph_of_meshes(
    bodies: Sequence[tuple[Mesh, float] | tuple[Mesh, float, int | None]],
    camera: Camera,
    settings: RadiographSettings | None = None,
    volume: Volume | Scene | None = None,
    air: float = 0.0,
) -> Radiograph:
    """Take a radiograph of closed surfaces, each filled with one attenuation, and of a volume with them if asked.

    Args:
        bodies: (mesh, attenuation [1/mm]), or (mesh, attenuation, n) where the body lies inside body number n (counted
            from 0), whose attenuation it takes the place of. Bodies that overlap otherwise add up.
        camera: what takes it.
        settings: what is made of the rays. `energy` matters to the volume alone. Physics is not offered, since bodies
            are given by attenuation and not by what they are made of.
        volume: what the meshes are added to: the bodies' attenuation adds to that of the volume, and replaces nothing.
        air: attenuation of what lies between source and image plane around the bodies [1/mm].
    Returns: `path_lengths` and `masks` are those of the bodies, with ids from 1 on; pixels and path lengths are
        differentiable in the meshes' vertices.
    Raises: SettingError for a body inside one that is not there, itself or in a circle; MeshError, UnitError.
    Source: Beer and Lambert, p = sum_p mu_p L_p; air is source to detector less body, body less what lies inside, as
        in Shetty et al. (2021).
    """
    settings = RadiographSettings() if settings is None else settings
    if isinstance(volume, Scene):
        settings = volume.settings
    if settings.physics is not None:
        raise SettingError(
            "Bodies with an attenuation are of no material, so physics cannot be asked of them; leave physics out."
        )
    meshes = [body[0] for body in bodies]
    attenuations = torch.tensor(_beyond_what_they_replace(bodies, air), dtype=torch.float64)
    lengths = path_lengths(meshes, camera, backend=settings.backend)
    p = torch.einsum("n,nhw->hw", attenuations.to(lengths), lengths)
    if air:
        reach = camera.source_to_detector / (camera.rays()[1] @ camera.direction)
        p = p + air * reach.to(p)
    if volume is not None:
        scene = volume if isinstance(volume, Scene) else scene_of(volume, replace(settings, labels=False))
        through = line_integrals(scene.attenuation, scene.volume.world_from_voxel, camera, backend=settings.backend)
        p = p + through.to(p)
    pixels = (p if settings.kind == "log-attenuation" else torch.exp(-p)).to(torch.float32)
    ids = tuple(range(1, len(meshes) + 1))
    names = {n: mesh.source for n, mesh in zip(ids, meshes, strict=True) if mesh.source}
    return Radiograph(pixels[None], settings.kind, camera, lengths, _masks(lengths, settings), ids, names)


def _beyond_what_they_replace(bodies: Sequence[tuple], air: float) -> list[float]:
    """Each body's attenuation less that of what it lies in."""
    around = [body[2] if len(body) > 2 else None for body in bodies]
    for n, outer in enumerate(around):
        chain = [n]
        while outer is not None:
            if outer not in range(len(bodies)) or outer in chain:
                raise SettingError(
                    f"Body {n} lies inside body {outer}, which is {'itself' if outer in chain else 'not there'}: "
                    f"bodies are counted from 0 to {len(bodies) - 1}, and one lies in another, not in a circle."
                )
            chain.append(outer)
            outer = around[outer]
    return [body[1] - (air if outer is None else bodies[outer][1]) for body, outer in zip(bodies, around, strict=True)]


def _pixels(scene: Scene, camera: Camera) -> tuple[Float[Tensor, "h w"], Bool[Tensor, "h w"] | None]:
    """What is seen, in the kind asked for, and what shutters leave exposed."""
    settings, lattice = scene.settings, scene.volume.world_from_voxel
    if settings.physics is None or scene.matter is None or scene.spectrum is None:
        p = line_integrals(scene.attenuation, lattice, camera, backend=settings.backend)
        return (p if settings.kind == "log-attenuation" else torch.exp(-p)), None
    areal = areal_densities(scene.matter, camera, backend=settings.backend)
    middle = ((scene.volume.centre - camera.source) @ camera.direction).item()
    signal, exposed = detected(areal, scene.spectrum, camera, settings.physics, middle)
    return (signal if settings.kind == "intensity" else -torch.log(signal)), exposed


def _masks(lengths: Float[Tensor, "label h w"], settings: RadiographSettings) -> Shaped[Tensor, "label h w"]:
    if settings.masks == "hard":
        return lengths > settings.threshold
    return (lengths / (2 * settings.threshold)).clamp(max=1.0)


def _layers(volume: Volume, ids: Sequence[int]) -> Tensor:
    labels = volume.labels
    assert labels is not None
    return labels if labels.ndim == 3 else labels[[volume.label_ids.index(n) for n in ids]]
