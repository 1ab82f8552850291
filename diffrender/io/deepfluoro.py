"""DeepFluoro's HDF5 files: fluoroscopy of cadaver pelves with poses, landmarks, segmentations and CTs.

Format: README and hdf5_layouts/Readme.md of the repository rg2/DeepFluoroLabeling-IPCAI2020; Grupp et al., IJCARS 15
(2020) 759, doi:10.1007/s11548-020-02162-7. Its world is LPS; its camera has x along columns, y along rows and z towards
the source (so the intrinsic matrix has negative focal lengths), and pixel centres at integers.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from diffrender.camera import Camera, c_arm, camera_from_projection
from diffrender.errors import GeometryError, ImageError, LabelError, PathError, SettingError, notify
from diffrender.io.files import check_memory, found
from diffrender.io.frame_geometry import turned
from diffrender.io.itk import RAS_FROM_LPS
from diffrender.volume import Volume
from diffrender.xray import Radiograph

NAMES = {
    1: "left-hemipelvis", 2: "right-hemipelvis", 3: "vertebrae", 4: "upper-sacrum", 5: "left-femur", 6: "right-femur",
}  # fmt: skip
# The paper's numbers of the specimens, which the preprocessed files have for names.
SPECIMENS = {"01": "17-1882", "02": "18-1109", "03": "18-0725", "04": "18-2799", "05": "18-2800", "06": "17-1905"}
# Siemens CIOS Fusion (rg2/xreg, xregCIOSFusionDICOM.cpp): pixels, their size and distances [mm]
SIZE, PIXEL, DISTANCE, TO_ISOCENTRE = 1536, 0.194, 1020.0, 631.8
BORDER = 50  # px at each edge of a full frame in the collimator's shadow; the preprocessed files are cropped by them
_TOLERANCE = 1e-3  # poses are written in single precision


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
    with _opened(name) as file:
        specimen, frames = _selected(name, file, selection)
        if "projs" in file[specimen]:
            return _preprocessed(name, file, specimen, frames, camera)
        parameters = _parameters(name, file)
        projections = _group(name, file[specimen], "projections", specimen)
        chosen = _chosen(name, sorted(projections), frames, specimen)
        check_memory(name, len(chosen) * SIZE * SIZE * (4 + 1 + 6))
        names = _label_names(file[specimen])
        return [_full(name, specimen, key, projections[key], parameters, names, camera) for key in chosen]


def deepfluoro_volume(path: str | Path, specimen: str) -> Volume:
    """A specimen's CT with its segmentation, in RAS: the world that its frames' cameras stand in.

    Raises: PathError, SettingError; LabelError where the segmentation lies on another lattice than the CT.
    """
    name = str(path).partition("::")[0]
    with _opened(name) as file:
        group = _specimen(name, file, specimen)
        if "vol" not in group:
            raise SettingError(
                f"{name} has no CT of {specimen}: it is a preprocessed file, or cut short. The CTs are in DeepFluoro's "
                "full-resolution file."
            )
        size = group["vol/pixels"].size * group["vol/pixels"].dtype.itemsize
        check_memory(name, size * 2)
        values, lattice = _image(name, group["vol"])
        labels = None
        if "vol-seg/image" in group:
            labels, other = _image(name, group["vol-seg/image"])
            if labels.shape != values.shape or np.abs(other - lattice).max() > _TOLERANCE:
                raise LabelError(f"{name}: the segmentation of {specimen} lies on another lattice than its CT.")
        names = _label_names(group)
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
    with _opened(name) as file:
        group = _specimen(name, file, specimen)
        places = group.get("vol-landmarks", {})
        return {key: torch.from_numpy(RAS_FROM_LPS[:3, :3] @ _numbers(places[key])) for key in places}


@contextmanager
def _opened(name: str) -> Iterator[Any]:
    place = found(name)
    try:
        file = h5py.File(place, "r")
    except OSError:
        raise PathError(
            f"{name} is truncated, damaged or no HDF5 file, so no frame can be read from it. Download it again; "
            "DeepFluoro's full-resolution file has 2.5 GB."
        ) from None
    with file:
        try:
            yield file
        except (KeyError, OSError) as problem:
            raise PathError(
                f"{name} is not laid out as DeepFluoro's files are, or damaged "
                f"({' '.join(str(problem).split())[:160]}). Download it again, or give frames in another format."
            ) from None


def _selected(name: str, file: Any, selection: str) -> tuple[str, str]:
    """(specimen, which of its frames), of what stands behind `::`."""
    if selection:
        specimen, _, frames = selection.partition("/")
        _specimen(name, file, specimen)
        return _known(file, specimen) or specimen, frames
    all_of_them = _specimens(file)
    example = (all_of_them or ["17-1882"])[0]
    if len(all_of_them) != 1:
        raise SettingError(
            f"{name} holds {len(all_of_them)} specimens: {', '.join(all_of_them) or 'none'}. Say which, and which of "
            f"its frames if not all: {name}::{example} or {name}::{example}/003."
        )
    return all_of_them[0], ""


def _specimens(file: Any) -> list[str]:
    return [
        key for key in sorted(file) if isinstance(file[key], h5py.Group) and {"projections", "projs"} & set(file[key])
    ]


def _known(file: Any, specimen: str) -> str | None:
    """The name that the file has for a specimen: the lab's or the paper's number."""
    other = {**SPECIMENS, **{lab: number for number, lab in SPECIMENS.items()}}.get(specimen)
    return next((one for one in (specimen, other) if one is not None and one in _specimens(file)), None)


def _specimen(name: str, file: Any, specimen: str) -> Any:
    known = _known(file, specimen)
    if known is None:
        raise SettingError(f"{name} has no specimen {specimen!r}; it has {', '.join(_specimens(file)) or 'none'}.")
    return file[known]


def _group(name: str, group: Any, key: str, what: str) -> Any:
    if key not in group:
        raise PathError(
            f"{name}: {what} has no {key}. The file is cut short, or no DeepFluoro file; download it again."
        )
    return group[key]


def _chosen(name: str, keys: list[str], frames: str, specimen: str) -> list[str]:
    """The frames of "3,7-9", by number; all without."""
    if not frames:
        return keys
    by_number = {int(key): key for key in keys if key.isdigit()}
    chosen = []
    for word in frames.split(","):
        first, _, last = word.strip().partition("-")
        if not first.isdigit() or not (last or first).isdigit():
            raise SettingError(f"{name}: {word!r} is no frame of {specimen}. Give numbers, as in 3 or 3,7-9.")
        for number in range(int(first), int(last or first) + 1):
            if number not in by_number:
                raise SettingError(
                    f"{name}: {specimen} has {len(keys)} frames ({keys[0]} to {keys[-1]}), none {number}."
                )
            chosen.append(by_number[number])
    return chosen


def _parameters(name: str, file: Any) -> dict[str, Any]:
    group = _group(name, file, "proj-params", "the file")
    intrinsic = np.array(group["intrinsic"], dtype=np.float64)
    spacing = tuple(float(np.array(group[f"pixel-{way}-spacing"]).reshape(-1)[0]) for way in ("row", "col"))
    if min(spacing) <= 0:
        raise GeometryError(f"{name}: a pixel spacing of {spacing[0]:g} x {spacing[1]:g} mm (proj-params) cannot be.")
    return {
        "extrinsic": _rigid(name, "proj-params/extrinsic", group["extrinsic"]),
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
        pose = _rigid(where, "gt-poses/cam-to-pelvis-vol", group["gt-poses/cam-to-pelvis-vol"])
    elif given is None:
        notify(f"{where} has no ground-truth pose: its world is that of the C-arm, not of the CT.")
    camera = given or _camera(parameters, pose, where)
    segmentation = np.array(group["gt-seg/pixels"]) if "gt-seg/pixels" in group else None
    landmarks = {k: _numbers(group[f"gt-landmarks/{k}"])[::-1] + 0.5 for k in group.get("gt-landmarks", {})}
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
    chosen = [int(key) for key in _chosen(name, [f"{n:03d}" for n in range(count)], frames, specimen)]
    check_memory(name, len(chosen) * height * width * 11.0)
    names = _landmark_names(file)
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


def _image(name: str, group: Any) -> tuple[np.ndarray, Float[np.ndarray, "4 4"]]:
    """(k, j, i) numbers and the lattice, LPS from voxel."""
    values = np.array(group["pixels"])
    spacing, origin = _numbers(group["spacing"]), _numbers(group["origin"])
    axes = np.array(group["dir-mat"], dtype=np.float64) if "dir-mat" in group else np.eye(3)
    if values.ndim != 3 or spacing.shape != (3,) or origin.shape != (3,) or axes.shape != (3, 3):
        raise PathError(
            f"{name}: {group.name} is no volume as DeepFluoro writes them (pixels, spacing, origin, dir-mat)."
        )
    lattice = np.eye(4)
    lattice[:3, :3], lattice[:3, 3] = axes * spacing, origin
    return values, lattice


def _label_names(group: Any) -> dict[int, str]:
    table = group.get("vol-seg/labels-def", {})
    named = {int(key): _text(table[key]) for key in sorted(table, key=int) if key.isdigit()}
    return {number: text for number, text in named.items() if number > 0} or dict(NAMES)


def _landmark_names(file: Any) -> list[str]:
    group = file.get("land-names", {})
    return [_text(group[key]) for key in sorted(group) if key.startswith("land-")]


def _text(dataset: Any) -> str:
    value = np.array(dataset[()]).reshape(-1)[0]
    return value.decode() if isinstance(value, bytes) else str(value)


def _numbers(dataset: Any) -> np.ndarray:
    return np.array(dataset, dtype=np.float64).reshape(-1)


def _rigid(where: str, key: str, dataset: Any) -> Float[np.ndarray, "4 4"]:
    matrix = np.array(dataset, dtype=np.float64)
    rigid = matrix.shape == (4, 4) and np.abs(matrix[:3, :3] @ matrix[:3, :3].T - np.eye(3)).max() < _TOLERANCE
    if not rigid or np.linalg.det(matrix[:3, :3]) < 0:
        raise GeometryError(
            f"{where}: {key} is no rigid motion: its axes are "
            f"{'reflected, so left and right would be exchanged' if rigid else 'scaled or sheared'}. The file is "
            "damaged, or the matrix was written in another convention."
        )
    # single precision leaves axes that are a little off; the nearest rotation
    u, _, v = np.linalg.svd(matrix[:3, :3])
    return np.block([[u @ v, matrix[:3, 3:]], [np.zeros((1, 3)), np.ones((1, 1))]])
