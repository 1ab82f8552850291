"""Commands of the library in the words a person would type, for what the scene holds."""

from pathlib import Path
from typing import Any

from slicer.i18n import tr as _


def file_of(volume: Any) -> Path | None:
    """The file that holds a volume node's voxels as they are now; None where there is none or it is out of date."""
    storage = volume.GetStorageNode() if volume is not None else None
    name = storage.GetFullNameFromFileName() if storage is not None else ""
    if not name or volume.GetModifiedSinceRead() or not Path(name).is_file():
        return None
    return Path(name)


def status(volume: Any, does: str) -> str:
    """What has to be done before the command can be typed, or what it `does`."""
    if volume is None:
        return _("Choose a CT, or load one: drag its file into Slicer, or take one from Sample Data.")
    if file_of(volume) is None:
        first = _("Save {name} as CT.nrrd (menu File, Save Data); then this command of the library {does}:")
        return first.format(name=volume.GetName(), does=does)
    return _("This command of the library {does}:").format(does=does)


def stem(path: Path) -> str:
    """'CT.nii.gz' is 'CT'."""
    return path.name.removesuffix(path.suffix).removesuffix(".nii").removesuffix(".seg")


def typed(words: list[str]) -> str:
    """One line, with quotes where they are needed in any shell."""
    return " ".join(f'"{word}"' if set(word) & set(" ()&;'*?!$") else word for word in ["diffrender", *words])
