"""DeepFluoro's HDF5 files: fluoroscopy of cadaver pelves with poses, landmarks, segmentations and CTs.

Format: README and hdf5_layouts/Readme.md of the repository rg2/DeepFluoroLabeling-IPCAI2020; Grupp et al., IJCARS 15
(2020) 759, doi:10.1007/s11548-020-02162-7. Its world is LPS; its camera has x along columns, y along rows and z towards
the source (so the intrinsic matrix has negative focal lengths), and pixel centres at integers.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from diffrender.camera import Camera, c_arm, camera_from_projection
from diffrender.errors import GeometryError, ImageError, LabelError, SettingError, notify
from diffrender.io.deepfluoro_file import (
    NAMES,
    TOLERANCE,
    chosen_frames,
    group_of,
    image_of,
    label_names,
    landmark_names,
    numbers_of,
    opened,
    rigid,
    selected,
    specimen_group,
)
from diffrender.io.files import check_memory
from diffrender.io.frame_geometry import turned
from diffrender.io.itk import RAS_FROM_LPS
from diffrender.volume import Volume
from diffrender.xray import Radiograph

# Siemens CIOS Fusion (rg2/xreg, xregCIOSFusionDICOM.cpp): pixels, their size and distances [mm]
SIZE, PIXEL, DISTANCE, TO_ISOCENTRE = 1536, 0.194, 1020.0, 631.8
BORDER = 50  # px at each edge of a full frame in the collimator's shadow; the preprocessed files are cropped by them


def is_deepfluoro(path: str | Path) -> bool:
    """Whether a path names an HDF5 file, with or without a selection behind `::`."""
    place = Path(str(path).partition("::")[0]).expanduser()
    if not place.is_file():
        return "::" in str(path)
    with place.open("rb") as file:
        return file.read(8) == b"\x89HDF\r\n\x1a\n"


def read_deepfluoro(path: str | Path, camera: Camera | None = None) -> list[Radiograph]:
    """The frames of one specimen, all upright (those that need it are turned by 180 degrees).

    Args:
        path: `file.h5`, where it holds one specimen; `file.h5::17-1882` for all frames of one; `file.h5::17-1882/003`,
            `file.h5::17-1882/3,7-9` for some.
        camera: in place of what the file says.
    Returns: of the full-resolution file "intensity" as measured, in the world of the specimen's CT (RAS) by the
        ground-truth pose of the pelvis; of the preprocessed ones "log-attenuation", with the C-arm's own geometry and
        no pose (a C-arm at 0/0, the world's origin at its isocentre), which is said. `landmarks` has those inside the
        image, `masks` one layer for each of `ids`.
    Raises: PathError, SettingError for a selection that is not there, GeometryError for matrices that are no motion.

    The poses are used as the format documents them. xreg's own programs move them by half a voxel, -0.5 mm along each
    axis, to agree with the CT as they draw it; the 2D landmarks agree with the poses as they are.
    """
    name, _, selection = str(path).partition("::")
    with opened(name) as file:
        specimen, frames = selected(name, file, selection)
        if "projs" in file[specimen]:
            return _preprocessed(name, file, specimen, frames, camera)
        parameters = _parameters(name, file)
        projections = group_of(name, file[specimen], "projections", specimen)
        chosen = chosen_frames(name, sorted(projections), frames, specimen)
        check_memory(name, len(chosen) * SIZE * SIZE * (4 + 1 + 6))
        names = label_names(file[specimen])
        return [_full(name, specimen, key, projections[key], parameters, names, camera) for key in chosen]


def deepfluoro_volume(path: str | Path, specimen: str) -> Volume:
    """A specimen's CT with its segmentation, in RAS: the world that its frames' cameras stand in.

    Raises: PathError, SettingError; LabelError where the segmentation lies on another lattice than the CT.
    """
    name = str(path).partition("::")[0]
    with opened(name) as file:
        group = specimen_group(name, file, specimen)
        if "vol" not in group:
            raise SettingError(
                f"{name} has no CT of {specimen}: it is a preprocessed file, or cut short. The CTs are in DeepFluoro's "
                "full-resolution file."
            )
        size = group["vol/pixels"].size * group["vol/pixels"].dtype.itemsize
        check_memory(name, size * 2)
        values, lattice = image_of(name, group["vol"])
        labels = None
        if "vol-seg/image" in group:
            labels, other = image_of(name, group["vol-seg/image"])
            if labels.shape != values.shape or np.abs(other - lattice).max() > TOLERANCE:
                raise LabelError(f"{name}: the segmentation of {specimen} lies on another lattice than its CT.")
        names = label_names(group)
    return Volume(
        torch.from_numpy(values.astype(np.float32, copy=False)),
        torch.from_numpy(RAS_FROM_LPS @ lattice),
        labels=None if labels is None else torch.from_numpy(labels.astype(np.int16)),
        names=names if labels is not None else None,
        source=f"{name}::{specimen}",
    )


def deepfluoro_landmarks(path: str | Path, specimen: str) -> dict[str, Float[Tensor, "3"]]:
    """{name: place in the specimen's CT}, RAS [mm]. Raises: PathError, SettingError."""
    name = str(path).partition("::")[0]
    with opened(name) as file:
        group = specimen_group(name, file, specimen)
        places = group.get("vol-landmarks", {})
        return {key: torch.from_numpy(RAS_FROM_LPS[:3, :3] @ numbers_of(places[key])) for key in places}


def _parameters(name: str, file: Any) -> dict[str, Any]:
    group = group_of(name, file, "proj-params", "the file")
    intrinsic = np.array(group["intrinsic"], dtype=np.float64)
    spacing = tuple(float(np.array(group[f"pixel-{way}-spacing"]).reshape(-1)[0]) for way in ("row", "col"))
    if min(spacing) <= 0:
        raise GeometryError(f"{name}: a pixel spacing of {spacing[0]:g} x {spacing[1]:g} mm (proj-params) cannot be.")
    return {
        "extrinsic": rigid(name, "proj-params/extrinsic", group["extrinsic"]),
        "intrinsic": intrinsic,
        "spacing": spacing,
        "size": tuple(int(np.array(group[f"num-{way}"]).reshape(-1)[0]) for way in ("rows", "cols")),
    }


def _full(
    name: str,
    specimen: str,
    key: str,
    group: Any,
    parameters: Mapping[str, Any],
    names: Mapping[int, str],
    given: Camera | None,
) -> Radiograph:
    where = f"{name}::{specimen}/{key}"
    pixels = np.array(group["image/pixels"], dtype=np.float32)
    if pixels.shape != parameters["size"]:
        raise ImageError(
            f"{where} has {' x '.join(str(n) for n in pixels.shape)} pixels, and proj-params says "
            f"{parameters['size'][0]} x {parameters['size'][1]} (rows x columns): its geometry does not fit it."
        )
    pose = np.eye(4)
    if "gt-poses/cam-to-pelvis-vol" in group:
        pose = rigid(where, "gt-poses/cam-to-pelvis-vol", group["gt-poses/cam-to-pelvis-vol"])
    elif given is None:
        notify(f"{where} has no ground-truth pose: its world is that of the C-arm, not of the CT.")
    camera = given or _camera(parameters, pose, where)
    segmentation = np.array(group["gt-seg/pixels"]) if "gt-seg/pixels" in group else None
    landmarks = {k: numbers_of(group[f"gt-landmarks/{k}"])[::-1] + 0.5 for k in group.get("gt-landmarks", {})}
    if bool(np.array(group["rot-180-for-up"]).reshape(-1)[0]) if "rot-180-for-up" in group else False:
        pixels = pixels[::-1, ::-1]
        segmentation = None if segmentation is None else segmentation[::-1, ::-1]
        landmarks = {k: np.array(pixels.shape) - place for k, place in landmarks.items()}
        camera = camera if given is not None else turned(camera, 180, False)
    return _radiograph(pixels, "intensity", camera, segmentation, names, landmarks, where)


def _camera(parameters: Mapping[str, Any], pose: Float[np.ndarray, "4 4"], where: str) -> Camera:
    """Of the picture as stored, in the world of the CT (RAS)."""
    camera_from_lps = parameters["extrinsic"] @ np.linalg.inv(pose)
    matrix = parameters["intrinsic"] @ camera_from_lps[:3] @ RAS_FROM_LPS  # which is its own inverse
    to_source = bool(parameters["intrinsic"][0, 0] < 0)
    try:
        return camera_from_projection(
            torch.from_numpy(matrix),
            parameters["size"],
            parameters["spacing"],
            pixel_centres="integer",
            flip_depth=to_source,
        )
    except GeometryError as problem:
        raise GeometryError(f"{where}: {problem}") from None


def _preprocessed(name: str, file: Any, specimen: str, frames: str, given: Camera | None) -> list[Radiograph]:
    group = file[specimen]
    count, height, width = group["projs"].shape
    chosen = [int(key) for key in chosen_frames(name, [f"{n:03d}" for n in range(count)], frames, specimen)]
    check_memory(name, len(chosen) * height * width * 11.0)
    names = landmark_names(file)
    camera = given or _cropped_camera(name, height, width)
    found_frames = []
    for n in chosen:
        places = np.array(group["lands"][n], dtype=np.float64) if "lands" in group else np.zeros((2, 0))
        landmarks = {k: places[::-1, i] + 0.5 for i, k in enumerate(names[: places.shape[1]])}
        segmentation = np.array(group["segs"][n]) if "segs" in group else None
        pixels = np.array(group["projs"][n], dtype=np.float32)
        where = f"{name}::{specimen}/{n:03d}"
        found_frames.append(_radiograph(pixels, "log-attenuation", camera, segmentation, NAMES, landmarks, where))
    return found_frames


def _cropped_camera(name: str, height: int, width: int) -> Camera:
    """The C-arm's own geometry less the cropped border, reduced by a whole factor (rounded up to whole pixels)."""
    factor = round((SIZE - 2 * BORDER) / height)
    if height != width or factor < 1 or height != -(-(SIZE - 2 * BORDER) // factor):
        raise GeometryError(
            f"{name} has frames of {height} x {width} pixels, not {SIZE} pixels less {2 * BORDER} over a whole factor, "
            "so their geometry is not known. Give `camera=`; docs/frame-geometry.md has the formats."
        )
    notify(
        f"{name} holds no poses: each frame gets the C-arm's own geometry (source to detector {DISTANCE:g} mm, pixels "
        f"of {PIXEL * factor:g} mm) at angles 0/0 with the world's origin at its isocentre. A fit has to find the rest."
    )
    point = (SIZE / 2 - BORDER) / factor
    camera = c_arm((0.0, 0.0, 0.0), 0.0, 0.0, DISTANCE, TO_ISOCENTRE, PIXEL * factor, (height, width))
    return Camera(camera.world_from_camera, DISTANCE, camera.pixel_size, camera.image_size, (point, point))


def _radiograph(
    pixels: np.ndarray,
    kind: str,
    camera: Camera,
    segmentation: np.ndarray | None,
    names: Mapping[int, str],
    landmarks: Mapping[str, np.ndarray],
    where: str,
) -> Radiograph:
    height, width = pixels.shape
    inside = {
        k: (float(row), float(column))
        for k, (row, column) in landmarks.items()
        if 0 <= row < height and 0 <= column < width
    }
    exposed = None
    if (height, width) == (SIZE, SIZE):
        exposed = torch.zeros(height, width, dtype=torch.bool)
        exposed[BORDER:-BORDER, BORDER:-BORDER] = True
    ids = tuple(names) if segmentation is not None else ()
    masks = None
    if segmentation is not None:
        masks = torch.from_numpy(np.stack([segmentation == n for n in ids]))
    return Radiograph(
        torch.from_numpy(np.ascontiguousarray(pixels))[None],
        kind,
        camera,
        masks=masks,
        ids=ids,
        names=dict(names) if segmentation is not None else None,
        source=where,
        exposed=exposed,
        landmarks=inside,
    )
