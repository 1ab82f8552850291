"""Commands of the library in the words a person would type, for what the scene holds."""

from pathlib import Path
from typing import Any


def file_of(volume: Any) -> Path | None:
    """The file that holds a volume node's voxels as they are now; None where there is none or it is out of date."""
    storage = volume.GetStorageNode() if volume is not None else None
    name = storage.GetFullNameFromFileName() if storage is not None else ""
    if not name or volume.GetModifiedSinceRead() or not Path(name).is_file():
        return None
    return Path(name)


def stem(path: Path) -> str:
    """'CT.nii.gz' is 'CT'."""
    return path.name.removesuffix(path.suffix).removesuffix(".nii").removesuffix(".seg")


def typed(words: list[str]) -> str:
    """One line, with quotes where they are needed in any shell."""
    return " ".join(f'"{word}"' if set(word) & set(" ()&;'*?!$") else word for word in ["diffrender", *words])
