"""Files before they are read: what a path leads to, what kind of file that is, and whether memory holds it."""

import gzip
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path

from diffrender.errors import MemoryNeedError, PathError

KNOWN = (
    "NIfTI (.nii, .nii.gz), NRRD (.nrrd, .nhdr), MetaImage (.mha, .mhd), a DICOM file, a folder or a zip of DICOM files"
)
# What a person may take for a volume by mistake, by its first bytes.
_STRANGERS = (
    (b"\x89PNG", "a PNG picture, not a volume"),
    (b"\xff\xd8\xff", "a JPEG picture, not a volume"),
    (b"II*\0", "a TIFF picture, not a volume"),
    (b"MM\0*", "a TIFF picture, not a volume"),
    (b"\x89HDF", "an HDF5 file, not a volume of a kind that is read here"),
    (b"PK\3\4", "a zip that is truncated or damaged; copy or download it again"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it, and give the folder"),
    (b"Rar!", "a RAR archive; unpack it, and give the folder"),
    (b"BZh", "a bzip2 archive; unpack it first"),
    (b"%PDF", "a PDF document, not a volume"),
    (b"# vtk DataFile", "a legacy VTK file; save the volume as NRRD or NIfTI"),
)
_CLAIMS = (".nii", ".nii.gz", ".hdr", ".nrrd", ".nhdr", ".mha", ".mhd", ".dcm", ".zip")


@dataclass(frozen=True)
class Part:
    """One file of an input, on the disk or in a zip: what it is called in messages, and how to open it."""

    name: str
    open: Callable[[], BufferedIOBase]


def found(path: str | Path) -> Path:
    """The file or folder that `path` means, `~` included. Raises: PathError where there is none, or it is empty."""
    try:
        place = Path(path).expanduser()
    except RuntimeError:
        raise PathError(f"{path} begins with the home folder of a user that this machine does not know.") from None
    try:
        if place.is_symlink() and not place.exists():
            raise PathError(f"{path} is a link to {place.readlink()}, which does not exist. Give the file itself.")
        if not place.exists():
            raise PathError(
                f"{path} does not exist{_nearest(place)}. Check the path, and put quotes round one with spaces."
            )
        if place.is_dir():
            next(place.iterdir(), None)
        elif place.stat().st_size == 0:
            raise PathError(f"{path} is empty (0 bytes): its copy or download broke off. Fetch the file again.")
        else:
            place.open("rb").close()
    except OSError as problem:
        raise PathError(f"{path} cannot be read: {problem.strerror}. Check who may read it.") from None
    return place


def kind_of(path: str | Path) -> str:
    """What `path` leads to, by its bytes: folder, zip, dicom, dicomdir, nifti, nrrd or metaimage.

    Raises: PathError where nothing is there, or it is of no kind that holds a volume.
    """
    place = found(path)
    if place.is_dir():
        return "folder"
    if zipfile.is_zipfile(place):
        return "zip"
    with place.open("rb") as file:
        head = file.read(1024)
    if is_dicom(head):
        return "dicomdir" if place.name.upper() == "DICOMDIR" or b"1.2.840.10008.1.3.10" in head[:400] else "dicom"
    if head.startswith(b"NRRD000"):
        return "nrrd"
    if head.startswith((b"ObjectType", b"NDims")) or b"\nElementDataFile" in head or b"\nNDims" in head:
        return "metaimage"
    inside = head
    if head.startswith(b"\x1f\x8b"):
        inside = _gunzipped(path, place)
    if is_nifti(inside):
        return "nifti"
    raise PathError(f"{path} {_what_it_is(place, head, inside)}. A CT is read from {KNOWN}.")


def is_dicom(head: bytes) -> bool:
    """Whether a file that begins so is DICOM; old ones lack the preamble and begin with group 0002 or 0008."""
    if head[128:132] == b"DICM":
        return True
    if len(head) < 132 or head[:2] not in (b"\x02\0", b"\x08\0") or head[3] != 0:
        return False
    (length,) = struct.unpack("<I", head[4:8])
    return (head[4:6].isalpha() and head[4:6].isupper()) or length < 256


def is_nifti(head: bytes) -> bool:
    """Whether a file that begins so is NIfTI-1 or -2, of either byte order, or the Analyze file it grew out of."""
    return head[:4] in (b"\x5c\1\0\0", b"\0\0\1\x5c", b"\x1c\2\0\0", b"\0\0\2\x1c") and len(head) >= 348


@contextmanager
def parts_of(path: str | Path) -> Iterator[list[Part]]:
    """The files in a folder (and the folders in it) or in a zip, or the one file. Raises: PathError."""
    place = found(path)
    if place.is_dir():
        yield [Part(_shown(path, place, file), _opener(file)) for file in _files_below(path, place)]
    elif zipfile.is_zipfile(place):
        with zipfile.ZipFile(place) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir() and not _is_shadow(entry.filename)]
            if any(entry.flag_bits & 1 for entry in entries):
                raise PathError(f"{path} is a zip with a password. Unpack it, and give the folder.")
            yield [Part(f"{path}: {entry.filename}", _opener_in(archive, entry)) for entry in entries]
    else:
        yield [Part(str(path), _opener(place))]


def check_memory(path: str | Path, need: float, available: float | None = None) -> None:
    """Refuse what memory cannot hold, before it is read.

    Args:
        path: the input, for the message.
        need: [bytes].
        available: [bytes]; by default what this machine has free now.
    Raises: MemoryNeedError.
    """
    free = available_memory() if available is None else available
    if need > free:
        raise MemoryNeedError(
            f"{path} needs {_gigabytes(need)} of memory, and {_gigabytes(free)} are free. It was not read. Close other "
            "programs, use a larger machine, or resample or crop the volume first."
        )


def available_memory() -> float:
    """Memory that can still be taken [bytes]: of the machine, or of the container where that has less."""
    import psutil

    free = float(psutil.virtual_memory().available)
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        used = Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii").strip()
        cache = dict(
            line.split() for line in Path("/sys/fs/cgroup/memory.stat").read_text(encoding="ascii").splitlines()
        )
    except OSError:
        return free
    if limit == "max":
        return free
    return min(free, float(limit) - float(used) + float(cache.get("inactive_file", 0)))


def _gigabytes(size: float) -> str:
    return f"{size / 2**30:.3g} GiB" if size < 999 * 2**30 else f"{size / 2**40:.3g} TiB"


def _nearest(place: Path) -> str:
    """Where the path stops being there."""
    for parent in place.parents:
        if parent.exists():
            return "" if parent == place.parent else f" (nor does {parent.name and place.parent})"
    return ""


def _shown(path: str | Path, place: Path, file: Path) -> str:
    return str(Path(path) / file.relative_to(place))


def _files_below(path: str | Path, place: Path) -> list[Path]:
    def closed(problem: OSError) -> None:  # os.walk, and rglob too, would leave the folder out without a word
        raise PathError(
            f"{path}: its folder {problem.filename} cannot be read ({problem.strerror}). Check who may read it."
        )

    return sorted(
        Path(folder, name)
        for folder, _, names in os.walk(place, onerror=closed)
        for name in names
        if not _is_shadow(name)
    )


def _is_shadow(name: str) -> bool:
    """What macOS puts beside every file on a foreign disk or in a zip, under the same name and suffix."""
    return name.rpartition("/")[2].startswith("._")


def _opener(file: Path) -> Callable[[], BufferedIOBase]:
    return lambda: file.open("rb")


def _opener_in(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Callable[[], BufferedIOBase]:
    return lambda: archive.open(entry)  # pyright: ignore[reportReturnType]


def _gunzipped(path: str | Path, place: Path) -> bytes:
    try:
        with gzip.open(place, "rb") as file:
            return file.read(1024)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise PathError(
            f"{path} is a gzip file that is truncated or damaged: its first kilobyte cannot be unpacked. "
            "Its copy or download broke off; fetch it again."
        ) from None


def _what_it_is(place: Path, head: bytes, inside: bytes) -> str:
    if inside is not head:
        return "is a gzip file, but what is packed in it is no NIfTI; unpack it, and give what comes out"
    for magic, what in _STRANGERS:
        if head.startswith(magic):
            return f"is {what}"
    text = b"\0" not in head and all(byte >= 32 or byte in b"\t\r\n\f" for byte in head)
    named = "".join(place.suffixes[-2:]) if place.suffix == ".gz" else place.suffix
    claim = f", although it is named {named}" if named.lower() in _CLAIMS else ""
    return f"is {'a text file' if text else 'of an unknown kind'}{claim}"
