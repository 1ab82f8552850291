"""One image of a data set: a CT, a view and a seed in; a picture, its masks and a line of the manifest out."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import torch

from diffrender.camera import Camera
from diffrender.errors import SettingError
from diffrender.io.volumes import read_volume
from diffrender.provenance import hash_of
from diffrender.synth.balance import shown
from diffrender.synth.mask_rules import DEFAULT_RULES, MaskRule, outline_volume
from diffrender.synth.store import Store, fetched
from diffrender.synth.views import ViewSpread, drawn_camera, spread_preset
from diffrender.synth.writers import IMAGES, MASKS, image_file, mask_files
from diffrender.volume import Volume
from diffrender.xray import RadiographSettings, Scene, scene_of

NAME_LENGTH = 12  # of a hash: enough to tell millions of CTs apart
ALL_NAMES = "totalsegmentator-v1", "totalsegmentator-v2"


@dataclass(frozen=True)
class Case:
    """One CT with its labels.

    Attributes:
        path, labels, names, series: as `read_volume` takes them, or URLs that fsspec reaches.
        patient: who it is of: CTs of one patient are in one split. By default what DICOM says, else each CT is a
            patient of its own. It is written nowhere.
    """

    path: str
    labels: str | None = None
    names: str | None = None
    series: str | None = None
    patient: str | None = None


@dataclass(frozen=True)
class Known:
    """A case and what identifies it.

    Attributes:
        case: as given.
        ct, labels: SHA256 of the CT's files, and of the labels'.
        patient: for splits alone.
    """

    case: Case
    ct: str
    labels: str | None
    patient: str

    @property
    def key(self) -> str:
        """Of the CT together with its labels."""
        if self.labels is None:
            return self.ct
        return hashlib.sha256(f"{self.ct} {self.labels}".encode()).hexdigest()

    @property
    def name(self) -> str:
        return self.key[:NAME_LENGTH]

    def image(self, view: int) -> str:
        """What the image's files are called, without ending."""
        return f"{self.name}-{view:05}"


@dataclass(frozen=True)
class Imaging:
    """How an image is taken and written.

    Attributes:
        view: a spread of views, or the name of one of its presets.
        image_size: (h, w) [px].
        pixel_size: [mm], on the detector; None: the detector is sized to the view.
        xray: physics, or none, and what is made of it; its threshold and masks give way to `rules`.
        rules: what a mask is, label by label.
        image: "png" (16 bits) or "nifti".
        masks: "npz" (masks and path lengths of all labels), "tiff" (a page for each label) or "png" (a file for each).
        presented: greys as on a viewing station instead of log-attenuation or intensity.
        dicom: also a DX image and a Segmentation, marked as synthetic.
    Raises: SettingError.
    """

    view: str | ViewSpread = "chest-pa"
    image_size: tuple[int, int] = (256, 256)
    pixel_size: float | None = None
    xray: RadiographSettings = field(default_factory=RadiographSettings)
    rules: tuple[MaskRule, ...] = DEFAULT_RULES
    image: str = "png"
    masks: str = "npz"
    presented: bool = False
    dicom: bool = False

    def __post_init__(self):
        for name, value, offered in (("image", self.image, IMAGES), ("masks", self.masks, MASKS)):
            if value not in offered:
                raise SettingError(f"{name} is one of {', '.join(offered)}, not {value!r}.")
        if min(self.image_size) < 1:
            raise SettingError(f"image_size is (rows, columns), each 1 or more; not {self.image_size}.")

    @property
    def spread(self) -> ViewSpread:
        return spread_preset(self.view) if isinstance(self.view, str) else self.view


@dataclass(frozen=True)
class Piece:
    """Views of one case, for one pair of hands: all that another process needs."""

    case: Known
    views: tuple[int, ...]
    imaging: Imaging
    seed: int
    url: str


def known(case: Case) -> Known:
    """Raises: PathError where a file is not there, and what reading a DICOM header raises."""
    with fetched(case.path) as path:
        ct = hash_of(path)
        patient = case.patient or _patient_in(path) or ct
    if case.labels is None:
        return Known(case, ct, None, patient)
    with fetched(case.labels) as path:
        return Known(case, ct, hash_of(path), patient)


def made(piece: Piece) -> list[str]:
    """Make and write the images of a piece. Returns the names of labels that the last one does not show.

    A record in `.parts` is written last: with it an image counts as done.
    """
    ready = _ready(piece.case.case, piece.imaging.xray, piece.imaging.rules)
    store, unseen = Store(piece.url), []
    for view in piece.views:
        taken, seed = _taken(ready, piece, view)
        name = piece.case.image(view)
        image = image_file(name, taken, piece.imaging.image, piece.imaging.presented)
        masks = mask_files(name, taken, piece.imaging.masks)
        files = {**image, **masks}
        if piece.imaging.dicom:
            from diffrender.synth.dicom_pairs import dicom_files

            files |= dicom_files(name, taken, ready.volume.header)
        for file, content in files.items():
            store.write(file, content)
        record = _record(piece, view, seed, taken, next(iter(image)), list(masks))
        store.write(f".parts/{name}.json", json.dumps(record, sort_keys=True).encode())
        seen = {label["id"] for label in record["labels"]}
        unseen = [taken.label_name(label) for label in taken.ids if label not in seen]
    return unseen


def camera_of(volume: Volume, case: Known, view: int, seed: int, imaging: Imaging) -> Camera:
    """The camera of one view: of its CT, its number and the seed alone."""
    return drawn_camera(
        volume,
        imaging.spread,
        ct_hash=case.ct,
        view=view,
        seed=seed,
        image_size=imaging.image_size,
        pixel_size=imaging.pixel_size,
    )


def shown_in_views(case: Known, names: Sequence[str], views: int, seed: int, imaging: Imaging) -> torch.Tensor:
    """(view, label) bool: which labels the first `views` views show."""
    volume = _volume(case.case)
    return shown(volume, names, [camera_of(volume, case, view, seed, imaging) for view in range(views)])


def noise_seed(case: Known, view: int, seed: int) -> int:
    """Of one image's noise: of its CT, its view and the seed alone."""
    return int(hashlib.sha256(f"noise {case.ct} {view} {seed}".encode()).hexdigest()[:12], 16)


@dataclass(frozen=True, eq=False)
class _Ready:
    volume: Volume
    scene: Scene
    outlines: Volume | None


def _volume(case: Case) -> Volume:
    names = case.names
    with fetched(case.path) as path:
        if case.labels is None:
            return read_volume(path, series=case.series)
        with fetched(case.labels) as labels:
            if names is None or names in ALL_NAMES:
                return read_volume(path, labels=labels, names=names, series=case.series)
            with fetched(names) as table:
                return read_volume(path, labels=labels, names=table, series=case.series)


@lru_cache(maxsize=1)
def _ready(case: Case, settings: RadiographSettings, rules: tuple[MaskRule, ...]) -> _Ready:
    """A CT made ready for all its views; kept while its pieces follow each other."""
    volume = _volume(case)
    return _Ready(volume, scene_of(volume, settings), outline_volume(volume, rules))
