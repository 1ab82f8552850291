"""The arrows of the house point one way, Slicer is imported in its own rooms alone, and nothing heavy comes with
`import diffrender`. Read from the sources, so a line in a function that no test runs counts too."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import run

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "diffrender"
PANELS = ("DeepDVR", "NeRPSynth", "XrayRegistration")

# Each part may import from its own layer and from those above it in this list, which is from the ground up.
LAYERS = (
    ("diffrender", "errors", "lazy", "quiet"),
    ("volume", "camera", "mesh", "pose", "jobs", "pool"),
    ("rays", "physics"),
    ("xray", "display", "pages", "views", "phantom"),
    ("io", "provenance", "samples", "learning"),
    ("dvr", "synth", "fit"),
    ("mrml", "demo"),
    ("commands",),
    ("__main__",),
)
NEIGHBOURS_APART = {"dvr", "synth", "fit", "mrml", "demo"}  # share a layer and must not know each other
SLICERS_OWN = ("slicer", "qt", "ctk", "mrml", "vtkSlicer", "vtkMRML", "vtkSegmentationCore", "MRML", "PythonQt")
HEAVY = {"torch", "numpy", "scipy", "vtk", "vtkmodules", "SimpleITK", "pydicom", "monai", "warp", "slicer", "jaxtyping"}
DISTRIBUTION = {
    "gdcm": "python-gdcm",
    "openjpeg": "pylibjpeg-openjpeg",
    "PIL": "pillow",
    "vtkmodules": "vtk",
    "warp": "warp-lang",
}


def sources() -> list[Path]:
    return sorted(LIBRARY.rglob("*.py"))


def rank(part: str) -> int:
    layers = [n for n, layer in enumerate(LAYERS) if part in layer]
    assert layers, f"diffrender/{part} is new: give it a place in LAYERS of this test"
    return layers[0]


def part_of(module: str) -> str:
    """'diffrender.rays.line' is of the part 'rays'; 'diffrender' itself is its own."""
    return module.split(".")[1] if "." in module else module


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, full name of what is imported), without those that only a type checker sees."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    unseen = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and ast.unparse(branch.test).endswith("TYPE_CHECKING")
        for statement in branch.body
        for node in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in unseen:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno} imports relatively; write the full name"
            for alias in node.names:
                member = f"{node.module}.{alias.name}"
                yield node.lineno, member if is_module(member) else str(node.module)


def is_module(name: str) -> bool:
    """Whether `from diffrender import rays` takes a module, and not a class or a function."""
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").exists()


def test_arrows_point_one_way():
    wrong = []
    for path in sources():
        own = part_of(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
        for line, module in imports(path):
            if module.split(".")[0] != "diffrender":
                continue
            other = part_of(module)
            apart = own != other and {own, other} <= NEIGHBOURS_APART and rank(own) == rank(other)
            if rank(other) > rank(own) or apart:
                wrong.append(f"{path.relative_to(ROOT)}:{line} ({own}) imports {module} ({other})")
    assert not wrong, "\n".join(wrong)


def test_slicer_is_imported_by_the_bridge_and_the_panels_alone():
    files = [path for path in sources() if path.relative_to(LIBRARY).parts[0] != "mrml"]
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in files
        for line, module in imports(path)
        if module.split(".")[0].startswith(SLICERS_OWN)
    ]
    assert files
    assert not wrong, "\n".join(wrong)


def test_every_folder_of_modules_is_a_package():
    # A folder without __init__.py works from a checkout and is missing in the installed extension. `data` folders hold
    # tables and the scripts that made them: nothing that is imported.
    folders = {path.parent for path in sources() if path.parent.name != "data"}
    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


def test_what_is_imported_is_asked_for():
    asked = {run.name_of(one) for one in run.project_requirements(*run.EXTRAS, "video", "fidelity")}
    ours = {"diffrender", *sys.stdlib_module_names}
    found = {module.split(".")[0] for path in sources() for _, module in imports(path) if "mrml" not in path.parts}
    foreign = {run.plain(DISTRIBUTION.get(root, root)) for root in found - ours if not root.startswith(SLICERS_OWN)}
    foreign.discard("xraylib")  # of a script that made a table once
    assert foreign - asked == set(), "imported, but not in pyproject.toml"


@pytest.mark.parametrize(
    "statement",
    ["import diffrender; dir(diffrender)", "from diffrender.__main__ import main; main(['--help'])"],
)
def test_nothing_heavy_is_imported_before_it_is_used(statement):
    question = f"import sys; {statement}; print('HEAVY', *sorted(set(sys.modules) & {HEAVY!r}))"
    asked = subprocess.run([sys.executable, "-c", question], cwd=ROOT, capture_output=True, text=True, check=False)
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout.splitlines()[-1].strip() == "HEAVY", asked.stdout
