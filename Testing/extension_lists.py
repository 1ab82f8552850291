"""The lists of files in the CMake files. After adding a file: `python Testing/extension_lists.py` writes them again.

Slicer installs what these lists name and nothing else; a file that is missing there works from a checkout and is
missing in the installed extension alone.
"""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("diffrender", "DiffRenderLib")  # installed as folders of their own
MODULES = ("DeepDVR", "NeRPSynth", "XrayRegistration")

LIST = """# Written by Testing/extension_lists.py, which a test compares with the files there are.
slicerMacroBuildScriptedModule(
  NAME {name}
  SCRIPTS
    {scripts}
{resources}  WITH_SUBDIR
  )
"""


def files(package: str) -> list[str]:
    """What belongs to a package, as git has it; without git all there is. Relative to the package, '/' between."""
    folder = ROOT / package
    if (ROOT / ".git").exists():
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=folder, capture_output=True, text=True, check=True)
        names = {name for name in listed.stdout.split("\0") if name and (folder / name).exists()}
    else:
        found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
        names = {path.as_posix() for path in found if "__pycache__" not in path.parts}
    return sorted(names - {"CMakeLists.txt"})


def text(package: str) -> str:
    """The CMake file that `package` should have."""
    names = files(package)
    scripts = [name for name in names if name.endswith(".py")]
    others = [name for name in names if not name.endswith(".py")]
    resources = "  RESOURCES\n    " + "\n    ".join(others) + "\n" if others else ""
    return LIST.format(name=package, scripts="\n    ".join(scripts), resources=resources)


def listed(folder: Path) -> set[str]:
    """The files that the CMake file of a module or package names, its variables filled in."""
    words = (folder / "CMakeLists.txt").read_text(encoding="utf-8")
    words = words.replace("${MODULE_NAME}", folder.name)
    return set(re.findall(r"^\s+([\w./-]+\.\w+)$", words, re.MULTILINE))


if __name__ == "__main__":
    for package in PACKAGES:
        (ROOT / package / "CMakeLists.txt").write_text(text(package), encoding="utf-8", newline="\n")
