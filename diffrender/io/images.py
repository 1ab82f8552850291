"""A radiograph out: 16-bit PNG, NIfTI, TIFF or DICOM by the name's ending, and its labels beside it."""

import gzip
import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tifffile
from jaxtyping import Float, UInt16
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from scipy.spatial.transform import Rotation

from diffrender import __version__
from diffrender.camera import Camera
from diffrender.errors import OutputError
from diffrender.io.dicom_out import write_dicom
from diffrender.io.whole import together, whole
from diffrender.xray import Radiograph

Sink = BinaryIO | BytesIO
NOTICE = "Digitally reconstructed radiograph by DiffRender; research use only, not for clinical use"
LABELS_SUFFIX = ".labels.npz"
GREYS = 65535
MM_PER_INCH = 25.4
SMALLEST = 1e-6  # mm; PNG counts pixels a metre in 31 bits, TIFF those a centimetre in 32
_NIFTI = np.dtype(
    [
        ("sizeof_hdr", "<i4"),
        ("unused", "V34"),
        ("regular", "S1"),
        ("dim_info", "i1"),
        ("dim", "<i2", 8),
        ("intent", "V14"),
        ("datatype", "<i2"),
        ("bitpix", "<i2"),
        ("slice_start", "<i2"),
        ("pixdim", "<f4", 8),
        ("vox_offset", "<f4"),
        ("scl_slope", "<f4"),
        ("scl_inter", "<f4"),
        ("slice_end", "V3"),
        ("xyzt_units", "i1"),
        ("display", "V24"),
        ("descrip", "S80"),
        ("aux_file", "S24"),
        ("qform_code", "<i2"),
        ("sform_code", "<i2"),
        ("quatern", "<f4", 3),
        ("qoffset", "<f4", 3),
        ("srow", "<f4", (3, 4)),
        ("intent_name", "S16"),
        ("magic", "S4"),
    ]
)


def write_radiograph(radiograph: Radiograph, path: str | Path, anonymous: bool = False) -> list[Path]:
    """Write the picture as the name's ending says, and its labels, if it has any, as NAME.labels.npz beside it.

    .png holds 16-bit greys, with the slope and intercept back to the values in its text; .nii, .nii.gz and .tif hold
    the float32 values themselves, NIfTI in the image plane's true place (RAS); .dcm is a derived DX image for
    processing. Only .dcm carries anything of the patient, and with `anonymous` neither does it.

    Returns: the files written, the picture first. All of them, or on an error none.
    Raises: OutputError for another ending, for values that the file cannot say, or where it cannot be written.
    """
    _, write = _writer(path)
    files = [Path(path)]
    with together():
        with whole(path) as image:
            write(radiograph, image, path, anonymous)
        if radiograph.masks is not None or radiograph.path_lengths is not None:
            files.append(write_labels_of(radiograph, labels_path(path)))
    return files


def encoded(radiograph: Radiograph, name: str, anonymous: bool = True) -> bytes:
    """The bytes of the picture's file called `name`, for who keeps files elsewhere. Raises: OutputError."""
    buffer = BytesIO()
    _writer(name)[1](radiograph, buffer, name, anonymous)
    return buffer.getvalue()


def write_labels_of(radiograph: Radiograph, path: str | Path) -> Path:
    """Write masks and path lengths of all labels in one NPZ: `path`, or NAME.labels.npz beside a picture at `path`.

    Keys: `masks` (label, h, w) bool, or float32 in 0..1 when soft; `path_lengths` (label, h, w) float32 [mm]; `ids`
    (label,); `names` (label,) in the same order; `camera`, its JSON. Nothing in it needs pickle.
    Raises: OutputError where the radiograph has no labels, or the file cannot be written.
    """
    if radiograph.masks is None and radiograph.path_lengths is None:
        raise OutputError(f"{path} would be empty: this radiograph has no labels. Read the volume with labels first.")
    target = Path(path) if Path(path).suffix == ".npz" else labels_path(path)
    with whole(target) as file:
        _write_labels(radiograph, file)
    return target


def labels_path(path: str | Path) -> Path:
    """Where the labels of a picture lie: chest.nii.gz has chest.labels.npz beside it."""
    ending, _ = _writer(path)
    return Path(path).with_name(Path(path).name[: -len(ending)] + LABELS_SUFFIX)


def greys(radiograph: Radiograph, path: str | Path) -> tuple[UInt16[np.ndarray, "h w"], float, float]:
    """The picture in 16 bits, with slope and intercept: value = grey * slope + intercept, to half a slope.

    The intercept is 0 unless noise went below, so that greys stay proportional to values. `path` begins the message.
    Raises: OutputError where values are NaN or infinite.
    """
    values = radiograph.pixels[0].detach().cpu().double().numpy()
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise OutputError(
            f"{path} was not written: {bad} of {values.size} pixels are NaN or infinite; 16-bit greys know neither. "
            "Find out where they come from, or write .nii.gz or .tif, which keep them."
        )
    low, high = min(0.0, values.min()), values.max()
    slope = (high - low) / GREYS if high > low else 1 / GREYS
    return np.rint((values - low) / slope).astype(np.uint16), float(slope), float(low)


def world_from_pixel(camera: Camera) -> Float[np.ndarray, "4 4"]:
    """(column, row, 0, 1) to RAS [mm], pixel centres at integers as in NIfTI; the third axis is the beam's, 1 mm."""
    (row_step, column_step), (row, column) = camera.pixel_size, camera.principal_point  # pyright: ignore[reportGeneralTypeIssues, reportOptionalIterable]
    camera_from_pixel = np.array(
        [
            [column_step, 0, 0, (0.5 - column) * column_step],
            [0, row_step, 0, (0.5 - row) * row_step],
            [0, 0, 1, camera.source_to_detector],
            [0, 0, 0, 1],
        ]
    )
    return camera.world_from_camera.numpy() @ camera_from_pixel


def _writer(path: str | Path) -> tuple[str, Callable[[Radiograph, Sink, str | Path, bool], None]]:
    name = Path(path).name
    for ending, write in WRITERS.items():
        if name.lower().endswith(ending) and len(name) > len(ending):
            return ending, write
    raise OutputError(
        f"{path} does not end with a kind of picture that can be written. Known endings: {', '.join(WRITERS)}."
    )


def _description(radiograph: Radiograph, **more: Any) -> str:
    """What a reader of the file needs, as ASCII JSON; nothing of the patient, no path."""
    return json.dumps(
        {
            "format": 1,
            "kind": radiograph.kind,
            **more,
            "orientation": radiograph.camera.orientation(),
            "camera": radiograph.camera.to_dict(),
            "notice": NOTICE,
        }
    )


def _density(camera: Camera, length: float) -> tuple[float, float] | None:
    """Pixels (across, down) on `length` [mm]; None where they are too small to be counted.

    The description says how large they are in any case.
    """
    row_step, column_step = camera.pixel_size
    return (length / column_step, length / row_step) if min(camera.pixel_size) > SMALLEST else None


def _write_png(radiograph: Radiograph, file: Sink, path: str | Path, anonymous: bool) -> None:
    values, slope, intercept = greys(radiograph, path)
    text = PngInfo()
    text.add_text("Software", f"DiffRender {__version__}")
    text.add_text("Disclaimer", NOTICE)
    rule = {"value": "grey * slope + intercept", "slope": slope, "intercept": intercept}
    text.add_text("diffrender", _description(radiograph, **rule))
    density = _density(radiograph.camera, MM_PER_INCH)
    Image.fromarray(values).save(file, format="PNG", pnginfo=text, **({"dpi": density} if density else {}))


def _write_tiff(radiograph: Radiograph, file: Sink, path: str | Path, anonymous: bool) -> None:
    density = _density(radiograph.camera, 10)
    buffer = BytesIO()  # tifffile's own words for a full disk do not say that it is full
    tifffile.imwrite(
        buffer,
        _float32(radiograph),
        photometric="minisblack",
        resolution=density,
        resolutionunit="CENTIMETER" if density else None,
        description=_description(radiograph),
        software=f"DiffRender {__version__}",
        metadata=None,
    )
    file.write(buffer.getvalue())


def _write_nifti(radiograph: Radiograph, file: Sink, path: str | Path, anonymous: bool) -> None:
    file.write(_nifti_header(radiograph.camera))
    file.write(_float32(radiograph).tobytes())


def _write_nifti_gz(radiograph: Radiograph, file: Sink, path: str | Path, anonymous: bool) -> None:
    # No name and no time: the same picture gives the same bytes again.
    with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
        packed.write(_nifti_header(radiograph.camera))
        packed.write(_float32(radiograph).tobytes())


def _write_dcm(radiograph: Radiograph, file: Sink, path: str | Path, anonymous: bool) -> None:
    write_dicom(radiograph, *greys(radiograph, path), file, anonymous)


def _float32(radiograph: Radiograph) -> Float[np.ndarray, "h w"]:
    return np.ascontiguousarray(radiograph.pixels[0].detach().cpu().numpy(), dtype="<f4")


def _nifti_header(camera: Camera) -> bytes:
    """NIfTI-1 header of a (w, h, 1) float32 slice lying in the image plane.

    Source: nifti1.h, NIMH (2003). The quaternion says the same as the matrix, for readers that look at it alone.
    """
    (height, width), (row_step, column_step) = camera.image_size, camera.pixel_size
    world_from_image = world_from_pixel(camera)
    axes = camera.world_from_camera[:3, :3].numpy().copy()
    axes[:, 2] *= -1 if camera.mirrored else 1  # a quaternion cannot mirror: qfac, pixdim[0], says so
    quaternion = Rotation.from_matrix(axes).as_quat()
    header = np.zeros((), dtype=_NIFTI)
    header["sizeof_hdr"], header["regular"], header["magic"] = 348, b"r", b"n+1"
    header["dim"] = (3, width, height, 1, 1, 1, 1, 1)
    header["datatype"], header["bitpix"], header["vox_offset"], header["scl_slope"] = 16, 32, 352, 1
    header["pixdim"] = (-1 if camera.mirrored else 1, column_step, row_step, 1, 0, 0, 0, 0)
    header["xyzt_units"] = 2  # mm
    header["descrip"] = b"DRR by DiffRender; research use only, not for clinical use"
    header["qform_code"] = header["sform_code"] = 1  # scanner coordinates
    # Its scalar part is left out and taken to be positive.
    header["quatern"] = quaternion[:3] if quaternion[3] >= 0 else -quaternion[:3]
    header["qoffset"] = world_from_image[:3, 3]
    header["srow"] = world_from_image[:3]
    return header.tobytes() + bytes(4)  # no extensions


def _write_labels(radiograph: Radiograph, file: Sink) -> None:
    arrays: dict[str, np.ndarray] = {
        "ids": np.array(radiograph.ids, dtype=np.int64),
        "names": np.array([radiograph.label_name(n) for n in radiograph.ids], dtype=np.str_),
        "camera": np.array(json.dumps(radiograph.camera.to_dict())),
    }
    if radiograph.masks is not None:
        masks = radiograph.masks.detach().cpu().numpy()
        arrays["masks"] = masks if masks.dtype == bool else masks.astype(np.float32)
    if radiograph.path_lengths is not None:
        arrays["path_lengths"] = radiograph.path_lengths.detach().cpu().numpy().astype(np.float32, copy=False)
    np.savez_compressed(file, **arrays)  # pyright: ignore[reportArgumentType]


# Menus and messages list it; the longer of two endings comes first.
WRITERS: dict[str, Callable[[Radiograph, Sink, str | Path, bool], None]] = {
    ".png": _write_png,
    ".nii.gz": _write_nifti_gz,
    ".nii": _write_nifti,
    ".tif": _write_tiff,
    ".tiff": _write_tiff,
    ".dcm": _write_dcm,
}
