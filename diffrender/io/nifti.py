"""NIfTI-1 and NIfTI-2, read as a stream.

ITK, which reads the other formats here, holds a NIfTI twice while it reads, takes another affine where the written one
is sheared, and takes the sign off a negative spacing; this says so instead.
Source: Cox et al., A (sort of) new image data format standard: NIfTI-1 (2004), nifti1.h.
"""

import gzip
import struct
import zlib
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path

import numpy as np
import torch

from diffrender.errors import GeometryError, ImageError, PathError, notify
from diffrender.io.files import check_memory, found
from diffrender.io.filling import filled, most_bytes
from diffrender.volume import Volume, check_affine

_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_COLOUR = {
    128: "colours (RGB)",
    2304: "colours (RGBA)",
    32: "complex numbers",
    1792: "complex numbers",
    1: "single bits",
}
_MILLIMETRES = {1: 1000.0, 3: 0.001}  # by unit code: metres, micrometres; 0 (unknown) and 2 are millimetres
DISAGREEMENT = 0.5  # [mm] at a corner; below it two affines are the same one, rounded differently


@dataclass(frozen=True)
class Header:
    """What the first 348 (540) bytes say."""

    dim: tuple[int, ...]  # number of axes, then their lengths
    pixdim: tuple[float, ...]  # handedness of the quaternion, then the steps
    dtype: np.dtype
    offset: int
    slope: float
    intercept: float
    unit: float  # [mm]
    qform_code: int
    sform_code: int
    quaternion: tuple[float, ...]  # b, c, d, then the offset
    sform: tuple[float, ...]
    separate: bool  # the numbers are in an .img beside the .hdr


def read_nifti(path: str | Path) -> Volume:
    """A volume from .nii, .nii.gz, or .hdr with its .img. Its numbers count as HU: the format has no word on it.

    Raises: ImageError, GeometryError, PathError, MemoryNeedError.
    """
    place = found(path)
    try:
        with _opened(place) as file:
            header = _header(path, file.read(540))
            shape = _shape(path, header)
            affine = _affine(path, header)
            check_memory(
                path, 1.02 * np.prod(shape, dtype=float) * most_bytes(header.dtype, header.slope, header.intercept)
            )
            if not header.separate:
                file.seek(header.offset)
                values = filled(path, file, header.dtype, shape, header.slope, header.intercept)
        if header.separate:
            with _opened(found(_beside(path))) as file:
                file.seek(header.offset)
                values = filled(_beside(path), file, header.dtype, shape, header.slope, header.intercept)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise PathError(
            f"{path} is truncated or damaged: its gzip stream cannot be unpacked to the end. Its copy or download "
            "broke off; fetch it again."
        ) from None
    return Volume(torch.from_numpy(values), torch.from_numpy(affine), source=str(path))


def _opened(place: Path) -> BufferedIOBase:
    with place.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return gzip.open(place, "rb") if packed else place.open("rb")  # pyright: ignore[reportReturnType]


def _beside(path: str | Path) -> Path:
    name = str(path)
    for end, other in ((".hdr.gz", ".img.gz"), (".hdr", ".img"), (".HDR", ".IMG")):
        if name.endswith(end):
            return Path(name.removesuffix(end) + other)
    raise PathError(
        f"{path} is the header of a NIfTI pair; it must be named .hdr, and its numbers lie beside it in an .img."
    )


def _header(path: str | Path, raw: bytes) -> Header:
    order = "<" if raw[:4] in (b"\x5c\1\0\0", b"\x1c\2\0\0") else ">"
    second = raw[:4] in (b"\x1c\2\0\0", b"\0\0\2\x1c")
    if second and len(raw) < 540:
        raise PathError(f"{path} is truncated: {len(raw)} bytes of a header of 540. Fetch the file again.")
    magic = raw[4:8] if second else raw[344:348]
    if magic[:3] not in (b"n+1", b"ni1", b"n+2", b"ni2"):
        raise ImageError(
            f"{path} is an Analyze 7.5 file, the forerunner of NIfTI: it does not say where left and right are. "
            "Export the volume as NIfTI, NRRD or DICOM."
        )

    def get(letters: str, first: int, other: int) -> tuple:
        return struct.unpack_from(order + letters, raw, other if second else first)

    (datatype,) = get("h", 70, 12)
    if datatype not in _TYPES:
        what = _COLOUR.get(datatype, f"numbers of type {datatype}")
        raise ImageError(f"{path} holds {what}; a CT holds one whole or floating-point number (HU) a voxel.")
    slope, intercept = get("2d" if second else "2f", 112, 176)
    used = slope != 0 and np.isfinite(slope) and np.isfinite(intercept)
    floats, wholes = ("d", "i") if second else ("f", "h")
    (unit,) = get("i", 0, 500) if second else (raw[123],)
    return Header(
        dim=get("8q" if second else "8h", 40, 16),
        pixdim=get("8" + floats, 76, 104),
        dtype=np.dtype(order + _TYPES[datatype]),
        offset=int(get("q" if second else "f", 108, 168)[0]),
        slope=float(slope) if used else 1.0,
        intercept=float(intercept) if used else 0.0,
        unit=_MILLIMETRES.get(unit & 7, 1.0),
        qform_code=get(wholes, 252, 344)[0],
        sform_code=get(wholes, 254, 348)[0],
        quaternion=get("6" + floats, 256, 352),
        sform=get("12" + floats, 280, 400),
        separate=magic[:2] == b"ni",
    )


def _shape(path: str | Path, header: Header) -> tuple[int, int, int]:
    """(k, j, i)."""
    axes, lengths = header.dim[0], header.dim[1:]
    if not 1 <= axes <= 7 or min(lengths[:axes]) < 1:
        raise ImageError(
            f"{path} says it has {axes} axes of {list(lengths)} voxels: its header is damaged. Export it again."
        )
    if any(n > 1 for n in lengths[3:axes]):
        raise ImageError(
            f"{path} has {axes} axes, {' x '.join(str(n) for n in lengths[:axes])}: a series of volumes, or vectors. "
            "One volume of three axes is needed; save the one that you mean by itself."
        )
    if axes < 3 or 1 in lengths[:3]:
        raise ImageError(
            f"{path} is 2D or one slice only: {' x '.join(str(n) for n in lengths[:axes])} voxels. A volume has at "
            "least two slices along each of three axes; give the whole scan."
        )
    return lengths[2], lengths[1], lengths[0]


def _affine(path: str | Path, header: Header) -> np.ndarray:
    """The world (RAS) from voxel matrix that ITK, and so Slicer, would take too: see `_chosen`."""
    steps = header.pixdim[1:4]
    if min(steps) < 0:
        raise GeometryError(
            f"{path} has a negative spacing, {' x '.join(f'{s:.4g}' for s in steps)} mm (pixdim). Programs read that "
            "differently, so left and right are not sure. Write it again with positive spacing and the turn in its "
            "affine."
        )
    name, matrix = _chosen(path, header)
    matrix = matrix.copy()
    matrix[:3] *= header.unit
    check_affine(torch.from_numpy(matrix), f"{path}: its affine ({name})")
    lengths = np.linalg.norm(matrix[:3, :3], axis=0) / header.unit
    if not np.allclose(lengths, steps, rtol=1e-3):
        notify(
            f"{path} gives two spacings, {' x '.join(f'{s:.4g}' for s in lengths)} mm ({name}) and "
            f"{' x '.join(f'{s:.4g}' for s in steps)} mm (pixdim); the first is used. Slicer takes the second."
        )
    return matrix


def _chosen(path: str | Path, header: Header) -> tuple[str, np.ndarray]:
    """The sform where it means the scanner or stands alone, otherwise the qform: ITK's rule."""
    sform = np.vstack([np.reshape(header.sform, (3, 4)), [0, 0, 0, 1]]).astype(np.float64)
    qform = _qform(header)
    if header.sform_code <= 0 and header.qform_code <= 0:
        notify(
            f"{path} does not say how the patient lies (qform and sform code are 0): its axes are taken as right, "
            "anterior and superior, as the NIfTI standard has it. Check left and right before you rely on them."
        )
        return "pixdim", np.diag([*header.pixdim[1:4], 1.0])
    if header.sform_code <= 0:
        return "qform", qform
    if header.qform_code <= 0:
        return "sform", sform
    name, chosen, other = ("sform", sform, qform) if header.sform_code == 1 else ("qform", qform, sform)
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in header.dim[1:4]], [1])).reshape(4, -1)
    apart = np.abs((chosen - other) @ corners).max() * header.unit
    if not apart <= DISAGREEMENT:
        notify(
            f"{path} holds two affines that lie {apart:.1f} mm apart (qform code {header.qform_code}, sform code "
            f"{header.sform_code}); the {name} is used, as Slicer does."
        )
    return name, chosen


def _qform(header: Header) -> np.ndarray:
    b, c, d = header.quaternion[:3]
    squares = b * b + c * c + d * d
    if squares > 1:  # a half turn, rounded
        b, c, d = (n / np.sqrt(squares) for n in (b, c, d))
    a = np.sqrt(max(0.0, 1 - squares))
    turn = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * b * c - 2 * a * d, 2 * b * d + 2 * a * c],
            [2 * b * c + 2 * a * d, a * a + c * c - b * b - d * d, 2 * c * d - 2 * a * b],
            [2 * b * d - 2 * a * c, 2 * c * d + 2 * a * b, a * a + d * d - b * b - c * c],
        ]
    )
    hand = -1.0 if header.pixdim[0] < 0 else 1.0
    matrix = np.eye(4)
    matrix[:3, :3] = turn * np.array([*header.pixdim[1:3], header.pixdim[3] * hand])
    matrix[:3, 3] = header.quaternion[3:]
    return matrix
