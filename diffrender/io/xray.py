"""`read_radiographs`: the one way in for X-ray frames, whatever they are stored as, and the checks that all share."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffrender.camera import Camera
from diffrender.errors import GeometryError, ImageError, PathError, SettingError, notify
from diffrender.io.files import found, is_dicom
from diffrender.io.frame_geometry import FrameGeometry, geometries_of
from diffrender.io.pictures import CAMERA_SUFFIX, LABELS_SUFFIX, beside, is_picture, read_picture
from diffrender.io.xray_shutters import border_of
from diffrender.xray import KINDS, Radiograph

CAMERAS_FILE = "cameras.json"
_NO_GEOMETRY = (
    "Give it: `camera=` (a Camera, a JSON file, a 3 x 4 matrix or a calibration; on the command line --camera), or a "
    "file {beside} beside the picture. It holds source_to_detector, source_to_isocenter, pixel_size and the angles of "
    "the C-arm; docs/frame-geometry.md has the formats."
)


def read_radiographs(
    path: str | Path | Sequence[str | Path], camera: Any = None, kind: str | None = None
) -> list[Radiograph]:
    """X-ray frames with the cameras that took them.

    Args:
        path: DICOM (XA, RF, DX, CR; a file, a folder or a zip), DeepFluoro's HDF5 (`file.h5::17-1882/003`; see
            `diffrender.io.deepfluoro`), a picture (PNG, TIFF, JPEG, NIfTI), a folder of pictures, a JSON file that
            lists frames (docs/frame-geometry.md), or a sequence of any of these.
        camera: how they were taken, in place of what the files say: a Camera, a 3 x 4 matrix, a geometry in words, the
            path of a JSON or calibration file; or a sequence of these, one a frame. Without it a picture's camera is
            that in NAME.camera.json or NAME.labels.npz beside it, the one our own writers put into the file, or its
            entry in the folder's cameras.json.
        kind: "log-attenuation" (bone bright) or "intensity" (bone dark), for pictures that do not say.
    Returns: the frames, in order; those of DICOM by series and instance number, those of a folder by name. Without a CT
        the world's origin is the isocentre, its axes RAS. Masks are read where NAME.labels.npz lies beside a frame.
    Raises: PathError, DicomError, GeometryError for a frame without geometry or one that cannot be, ImageError for a
        truncated or a constant frame, SettingError.
    """
    if kind not in (None, *KINDS):
        raise SettingError(f"kind is one of {', '.join(KINDS)}, not {kind!r}.")
    geometries = None if camera is None else geometries_of(camera)
    paths = [path] if isinstance(path, str | Path) else list(path)
    if not paths:
        raise PathError("An empty list of frames was given. Give one path or more.")
    several = geometries is not None and len(geometries) > 1 and len(paths) > 1
    if geometries is not None and several and len(geometries) != len(paths):
        raise GeometryError(_fewer(f"{len(paths)} files", len(paths), len(geometries)))
    frames = []
    for n, one in enumerate(paths):
        frames += _read(one, geometries[n : n + 1] if several and geometries is not None else geometries, kind)
    for frame in frames:
        _check(frame)
    return frames


def _read(path: str | Path, geometries: list[FrameGeometry] | None, kind: str | None) -> list[Radiograph]:
    from diffrender.io.deepfluoro import is_deepfluoro, read_deepfluoro

    if is_deepfluoro(path):
        return _of_kind(_with_cameras(read_deepfluoro(path), geometries, str(path)), kind)
    place = found(path)
    if place.is_dir():
        return _folder(path, place, geometries, kind)
    if place.suffix.lower() == ".json":
        return _listed(path, place, geometries, kind)
    with place.open("rb") as file:
        head = file.read(1024)
    if is_dicom(head) or head.startswith(b"PK\3\4") or place.suffix.lower() == ".dcm":
        return _of_kind(_dicom(path, place, geometries), kind)
    return _pictures([str(path)], geometries, kind, str(path))


def _folder(
    path: str | Path, place: Path, geometries: list[FrameGeometry] | None, kind: str | None
) -> list[Radiograph]:
    files = sorted(file for file in place.iterdir() if file.is_file() and is_picture(file))
    if not files:
        return _of_kind(_dicom(path, place, geometries), kind)
    if geometries is None and (place / CAMERAS_FILE).exists():
        geometries = geometries_of(place / CAMERAS_FILE)
    return _pictures([str(Path(path) / file.name) for file in files], geometries, kind, str(path))


def _listed(
    path: str | Path, place: Path, geometries: list[FrameGeometry] | None, kind: str | None
) -> list[Radiograph]:
    """The pictures that a JSON file lists, each with its geometry."""
    listed = geometries_of(place)
    if any(geometry.image is None for geometry in listed):
        raise PathError(
            f"{path} is the geometry of frames, and does not name their pictures. Give the picture, with this file as "
            '`camera`; or name the picture of each frame in it, as "image".'
        )
    images = [str(place.parent / str(geometry.image)) for geometry in listed]
    return _pictures(images, listed if geometries is None else geometries, kind, str(path))


def _pictures(
    paths: list[str], geometries: list[FrameGeometry] | None, kind: str | None, where: str
) -> list[Radiograph]:
    if geometries is not None and len(geometries) not in (1, len(paths)):
        raise GeometryError(_fewer(where, len(paths), len(geometries)))
    return [
        _picture(one, None if geometries is None else geometries[n % len(geometries)], kind)
        for n, one in enumerate(paths)
    ]


def _picture(path: str, geometry: FrameGeometry | None, kind: str | None) -> Radiograph:
    picture = read_picture(path)
    size = (int(picture.values.shape[0]), int(picture.values.shape[1]))
    if geometry is None and (lying := _beside(path)):
        if len(lying) != 1:
            raise GeometryError(_fewer(path, 1, len(lying)))
        geometry = lying[0]
    if geometry is not None:
        camera = geometry.camera_for(size)
    elif picture.camera is not None:
        camera = picture.camera
    else:
        raise GeometryError(
            f"{path} does not say how it was taken: no camera is in the file, and none beside it. "
            + _NO_GEOMETRY.format(beside=beside(path, CAMERA_SUFFIX).name)
        )
    meant = kind or picture.kind or (geometry.kind if geometry else None)
    if meant is None:
        notify(
            f"{path} does not say whether bone is bright or dark in it: it is taken as bright (log-attenuation). Where "
            'it is dark, give kind="intensity", or "kind" in its geometry.'
        )
    meant = meant or "log-attenuation"
    exposed = None if picture.camera is not None else border_of(picture.values, meant, path)  # we draw none
    radiograph = Radiograph(
        torch.from_numpy(picture.values)[None],
        meant,
        camera,
        source=path,
        exposed=None if exposed is None else torch.from_numpy(exposed),
    )
    return _with_labels(radiograph, beside(path, LABELS_SUFFIX))


def _dicom(path: str | Path, place: Path, geometries: list[FrameGeometry] | None) -> list[Radiograph]:
    from diffrender.io.xray_dicom import read_frames

    if geometries is None and not place.is_dir():
        geometries = _beside(str(path))
    used = 0

    def given(name: str, index: int, size: tuple[int, int]) -> Camera | None:
        nonlocal used
        if geometries is None:
            return None
        used += 1
        if len(geometries) > 1 and used > len(geometries):
            raise GeometryError(_fewer(str(path), f"at least {used}", len(geometries)))
        return geometries[0 if len(geometries) == 1 else used - 1].camera_for(size)

    frames = read_frames(path, given)
    if geometries is not None and len(geometries) not in (1, len(frames)):
        raise GeometryError(_fewer(str(path), len(frames), len(geometries)))
    if place.is_dir() or len(frames) != 1:
        return frames
    return [_with_labels(frames[0], beside(path, LABELS_SUFFIX))]


def _beside(path: str) -> list[FrameGeometry] | None:
    """What lies beside a frame, or a run of frames, and says how they were taken."""
    sidecar, labels = beside(path, CAMERA_SUFFIX), beside(path, LABELS_SUFFIX)
    if sidecar.exists():
        return geometries_of(sidecar)
    if labels.exists():
        with _labels(labels) as content:
            if "camera" in content:
                return geometries_of(json.loads(str(content["camera"])))
    return None


def _with_labels(radiograph: Radiograph, path: Path) -> Radiograph:
    """The radiograph with the masks that our own writer put beside it."""
    if not path.exists():
        return radiograph
    with _labels(path) as content:
        layers = {key: torch.from_numpy(content[key]) for key in ("masks", "path_lengths") if key in content}
        ids = tuple(int(n) for n in content["ids"]) if "ids" in content else ()
        names = [str(name) for name in content["names"]] if "names" in content else []
    if any(tuple(layer.shape[1:]) != radiograph.camera.image_size for layer in layers.values()):
        notify(f"{path} has labels of another size than the picture beside it; they were left out.")
        return radiograph
    return replace(radiograph, ids=ids, names=dict(zip(ids, names, strict=False)), **layers)


def _labels(path: Path) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError):
        raise PathError(f"{path} is truncated or no labels file. Delete it, or write it again.") from None


def _with_cameras(frames: list[Radiograph], geometries: list[FrameGeometry] | None, where: str) -> list[Radiograph]:
    if geometries is None:
        return frames
    if len(geometries) not in (1, len(frames)):
        raise GeometryError(_fewer(where, len(frames), len(geometries)))
    return [
        replace(frame, camera=geometries[n % len(geometries)].camera_for(frame.camera.image_size))
        for n, frame in enumerate(frames)
    ]


def _of_kind(frames: list[Radiograph], kind: str | None) -> list[Radiograph]:
    return frames if kind is None else [replace(frame, kind=kind) for frame in frames]


def _fewer(where: str, frames: int | str, geometries: int) -> str:
    return (
        f"{where} has {frames} frame{'' if frames == 1 else 's'}, and {geometries} "
        f"geometr{'y' if geometries == 1 else 'ies'} were given: nobody knows which frame was taken from where. Give "
        "one for each, in order, or a single one for all."
    )


def _check(frame: Radiograph) -> None:
    seen = frame.pixels[0] if frame.exposed is None else frame.pixels[0][frame.exposed]
    bad = int((~torch.isfinite(seen)).sum())
    if bad:
        raise ImageError(f"{frame.source} has {bad} pixels that are NaN or infinite. Export it again, or fill them in.")
    if float(seen.amin()) == float(seen.amax()):
        raise ImageError(
            f"{frame.source} is constant: every pixel is {float(seen.amin()):g}. Nothing was exposed, or the export "
            "failed; leave this frame out."
        )
