"""One image of a data set: a CT, a view and a seed in; a picture, its masks and a line of the manifest out."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool

from diffrender.camera import Camera
from diffrender.errors import SettingError
from diffrender.physics.presets import examination
from diffrender.physics.settings import Physics
from diffrender.provenance import plain
from diffrender.synth.balance import shown
from diffrender.synth.boxes import boxes_of, projected_landmarks
from diffrender.synth.cases import Known, landmarks_of, volume_of
from diffrender.synth.label_checks import check_labels
from diffrender.synth.mask_rules import DEFAULT_RULES, MaskRule, masks_of, outlines_of, unseen
from diffrender.synth.outlines import Outlines
from diffrender.synth.store import Store
from diffrender.synth.views import ViewSpread, drawn_camera, spread_preset
from diffrender.synth.writers import IMAGES, MASKS, image_file, mask_files, presented, presented_bytes
from diffrender.volume import Volume
from diffrender.xray import KINDS, Radiograph, RadiographSettings, Scene, radiograph, scene_of

RECORDS = ".parts"  # a record for each image that is done, until the manifest holds them all
OWN = "own"  # physics: that of the view's examination


@dataclass(frozen=True)
class Imaging:
    """How an image is taken and written.

    Attributes:
        view: a spread of views, or the name of one of its presets.
        image_size: (h, w) [px].
        pixel_size: [mm], on the detector; None: the detector is sized to what the view is of.
        physics: "own", that of the view's examination; of one's own; or None: one energy, nothing else.
        kind: of the values, "log-attenuation" or "intensity".
        presented: greys as on a viewing station, bone bright, in the values' place; of PNG alone.
        rules: what a mask is, label by label.
        lungs: lungs are found in the CT where it has no label of them.
        image: "png" (16 bits) or "nifti".
        masks: "npz" (masks and path lengths of all labels), "tiff" (a page for each label) or "png" (a file for each).
        dicom: also a DX image and a Segmentation, marked as synthetic.
        patient: these carry the CT's patient and study; otherwise those fields are empty.
    Raises: SettingError.
    """

    view: str | ViewSpread = "frontal"
    image_size: tuple[int, int] = (256, 256)
    pixel_size: float | None = None
    physics: str | Physics | None = OWN
    kind: str = "log-attenuation"
    presented: bool = False
    rules: tuple[MaskRule, ...] = DEFAULT_RULES
    lungs: bool = False
    image: str = "png"
    masks: str = "npz"
    dicom: bool = False
    patient: bool = False

    def __post_init__(self):
        offered = (("image", self.image, IMAGES), ("masks", self.masks, MASKS), ("kind", self.kind, KINDS))
        for name, value, names in offered:
            if value not in names:
                raise SettingError(f"{name} is one of {', '.join(names)}, not {value!r}.")
        if min(self.image_size) < 1:
            raise SettingError(f"image_size is (rows, columns), each 1 or more; not {self.image_size}.")
        if self.presented and self.image != "png":
            raise SettingError("Greys as on a viewing station are written as PNG; NIfTI holds values. Choose one.")
        if isinstance(self.physics, str) and self.physics != OWN:
            examination(self.physics)
        _ = self.spread

    @property
    def spread(self) -> ViewSpread:
        return spread_preset(self.view) if isinstance(self.view, str) else self.view

    @property
    def examination(self) -> str:
        """Whose physics and presentation are taken where none are given."""
        named = self.spread.view
        return named if isinstance(named, str) else "frontal"

    def xray(self) -> RadiographSettings:
        physics = self.physics
        if isinstance(physics, str):
            physics = examination(self.examination if physics == OWN else physics).physics
        return RadiographSettings(self.kind, physics=physics)


@dataclass(frozen=True)
class Piece:
    """Views of one case, for one pair of hands: all that another process needs."""

    case: Known
    views: tuple[int, ...]
    imaging: Imaging
    seed: int
    url: str


def made(piece: Piece) -> list[str]:
    """Make and write the images of a piece. Returns the names of labels that none of them shows.

    An image's record is written last: with it the image counts as done.
    """
    ready, landmarks = _ready(piece.case, piece.imaging), landmarks_of(piece.case.case.landmarks)
    store, hidden = Store(piece.url), None
    for view in piece.views:
        taken = _taken(ready, piece, view)
        name = piece.case.image(view)
        image = _image_file(name, taken, piece.imaging)
        masks = mask_files(name, taken, piece.imaging.masks)
        files = {**image, **masks}
        if piece.imaging.dicom:
            from diffrender.synth.dicom_pairs import dicom_files

            files |= dicom_files(name, f"{piece.case.key} {piece.seed}", view + 1, taken, piece.imaging.patient)
        for file, content in files.items():
            store.write(file, content)
        record = _record(piece, view, taken, next(iter(image)), list(masks))
        record["landmarks"] = _visible(landmarks, taken.camera)
        store.write(f"{RECORDS}/{name}.json", json.dumps(record, sort_keys=True).encode())
        hidden = [name for name in unseen(taken) if hidden is None or name in hidden]
    return hidden or []


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


def shown_in_views(
    case: Known, names: Sequence[str], views: int, seed: int, imaging: Imaging
) -> Bool[torch.Tensor, "view label"]:
    """Which labels the first `views` views show."""
    volume = volume_of(case.case, imaging.lungs)
    return shown(volume, names, [camera_of(volume, case, view, seed, imaging) for view in range(views)])


def noise_seed(case: Known, view: int, seed: int) -> int:
    """Of one image's noise: of its CT, its view and the seed alone."""
    return int(hashlib.sha256(f"noise {case.ct} {view} {seed}".encode()).hexdigest()[:8], 16)


@dataclass(frozen=True, eq=False)
class _Ready:
    """A CT made ready for all its views."""

    volume: Volume
    scene: Scene
    outlines: Outlines | None


_kept: "tuple[Any, _Ready] | None" = None  # the last CT made ready: its pieces follow each other


def _ready(case: Known, imaging: Imaging) -> _Ready:
    global _kept
    key = (case.key, imaging)
    if _kept is None or _kept[0] != key:
        _kept = None  # two at a time may be too much for memory
        volume = volume_of(case.case, imaging.lungs)
        check_labels(volume)
        outlines = outlines_of(volume, imaging.rules) if volume.label_ids else None
        _kept = key, _Ready(volume, scene_of(volume, imaging.xray()), outlines)
    return _kept[1]


def _visible(landmarks: dict[str, torch.Tensor], camera: Camera) -> dict[str, list[float]]:
    places = projected_landmarks(landmarks, camera)
    return {name: [mark.row, mark.column] for name, mark in places.items() if mark.visible}


def _taken(ready: _Ready, piece: Piece, view: int) -> Radiograph:
    camera = camera_of(ready.volume, piece.case, view, piece.seed, piece.imaging)
    settings = ready.scene.settings
    if settings.physics is not None:
        physics = replace(settings.physics, seed=noise_seed(piece.case, view, piece.seed))
        settings = replace(settings, physics=physics)
    taken = radiograph(replace(ready.scene, settings=settings), camera)
    return masks_of(taken, piece.imaging.rules, ready.outlines) if taken.ids else taken


def _image_file(name: str, taken: Radiograph, imaging: Imaging) -> dict[str, bytes]:
    if not imaging.presented:
        return image_file(name, taken, imaging.image)
    return {f"images/{name}.png": presented_bytes(presented(taken, imaging.examination).numpy(), taken)}


def _record(piece: Piece, view: int, taken: Radiograph, image: str, masks: Sequence[str]) -> dict[str, Any]:
    """The manifest's line, but for the split, which hangs on all CTs."""
    labels = []
    if taken.masks is not None:
        counts, boxes = taken.masks.flatten(1).sum(1).tolist(), boxes_of(taken.masks.bool()).tolist()
        seen = zip(taken.ids, counts, boxes, strict=True)
        labels = [
            {"id": label, "name": taken.label_name(label), "pixels": int(count), "box": box}
            for label, count, box in seen
            if count
        ]
    files: Any = masks[0] if len(masks) == 1 else list(masks) or None
    if piece.imaging.masks == "png" and masks:
        files = {taken.label_name(label): file for label, file in zip(taken.ids, masks, strict=True)}
    return {
        "name": piece.case.image(view),
        "image": image,
        "masks": files,
        "camera": taken.camera.to_dict(),
        "physics": plain(piece.imaging.xray().physics),
        "values": "presented" if piece.imaging.presented else taken.kind,
        "ct": piece.case.ct,
        "labels": labels,
        "view": view,
        "seed": piece.seed,
        "synthetic": True,
    }
