"""What Slicer's build and its extensions index ask: every file listed, nothing colliding, and the index's own checks.

The rules are those of Slicer/ExtensionsIndex, scripts/check_description_files.py, and of Slicer's schema of a catalogue
entry, version 1.0.1; what they ask of the network (addresses that answer) cannot be asked before there is an address.
"""

import ast
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import extension_lists
import pytest
from extension_lists import MODULES, PACKAGES, ROOT

CMAKE = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
ENTRY = json.loads((ROOT / "DiffRender.json").read_text(encoding="utf-8"))
SLICERS_OWN = {"slicer", "vtk", "qt", "ctk", "DICOMLib", "numpy"}
SCHEMA = (
    "https://raw.githubusercontent.com/Slicer/Slicer/main/Schemas/slicer-extension-catalog-entry-schema-v1.0.1.json#"
)
# field of the schema: its type; no further field is allowed
FIELDS = {
    "$schema": str,
    "category": str,
    "scm_url": str,
    "scm_revision": str,
    "scm_type": str,
    "build_dependencies": list,
    "build_subdirectory": str,
    "enabled": bool,
    "tier": int,
}
CATEGORIES = {"Image Synthesis", "Registration", "Rendering", "Segmentation", "Simulation"}  # of the accepted, ours


def metadata(name: str) -> str:
    """The quoted value of set(EXTENSION_<name> "..."), found by the pattern that the index uses."""
    found = re.findall(rf'set\s*\(EXTENSION_{name}\s*"([^"]+)"[ ]*\)', CMAKE)
    assert len(found) == 1, f"EXTENSION_{name} stands {len(found)} times"
    return found[0]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_file_of_a_package_is_in_its_cmake_list(package):
    there, listed = set(extension_lists.files(package)), extension_lists.listed(ROOT / package)
    advice = f"type `python Testing/extension_lists.py`; missing {there - listed}, too many {listed - there}"
    assert there == listed, advice
    assert "data/samples.csv" in there or package != "diffrender"


@pytest.mark.parametrize("module", MODULES)
def test_every_file_of_a_module_is_in_its_cmake_list(module):
    there = {path.relative_to(ROOT / module).as_posix() for path in (ROOT / module).rglob("*.*") if path.is_file()}
    there = {name for name in there if "__pycache__" not in name} - {"CMakeLists.txt"}
    assert extension_lists.listed(ROOT / module) == there
    assert len(there) >= 3


def test_every_folder_is_added_to_the_build():
    added = re.findall(r"add_subdirectory\(([\w/]+)\)", CMAKE)
    assert set(added) == {*PACKAGES, *MODULES, "Testing/slicer"}
    scripts = re.findall(r"SCRIPT (\w+\.py)", (ROOT / "Testing/slicer/CMakeLists.txt").read_text(encoding="utf-8"))
    assert {path.name for path in (ROOT / "Testing/slicer").glob("*Test.py")} == set(scripts)


def test_nothing_collides_in_the_one_folder_where_all_is_installed():
    installed = [name for module in MODULES for name in extension_lists.listed(ROOT / module)]
    installed += [f"{package}/{name}" for package in PACKAGES for name in extension_lists.listed(ROOT / package)]
    folded = [name.casefold() for name in installed]  # Windows and macOS take no notice of case
    assert len(set(folded)) == len(folded)
    assert not {name.split("/")[0].removesuffix(".py") for name in folded} & {"test", "testing", "resources.py"}


@pytest.mark.parametrize("module", [*MODULES, "DiffRenderLib"])
def test_resources_carry_the_name_of_their_module(module):
    names = [Path(name) for name in extension_lists.listed(ROOT / module) if name.startswith("Resources/")]
    assert names
    assert all(name.name.startswith(module) for name in names), names


def test_the_project_is_named_as_the_description_file():
    assert re.findall(r"project\s*\(\s*([^\s\)]+)", CMAKE) == ["DiffRender"]
    assert not (ROOT / "DiffRender.json").stem.lower().startswith("slicer")
    assert re.search(r"cmake_minimum_required\(VERSION \d+(\.\d+)+\.\.\.\d+(\.\d+)+ FATAL_ERROR\)", CMAKE)


@pytest.mark.parametrize("name", ["ICONURL", "SCREENSHOTURLS"])
def test_pictures_have_quoted_addresses_of_files_that_there_are(name):
    for address in metadata(name).split():
        found = re.fullmatch(
            r"https://raw\.githubusercontent\.com/OWNER/SlicerDiffRender/main/(.+\.(png|jpg|gif))", address
        )
        assert found, address
        assert (ROOT / found[1]).is_file(), address


def test_the_icon_is_a_png_of_128_pixels():
    head = (ROOT / "DiffRender.png").read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert [int.from_bytes(head[n : n + 4], "big") for n in (16, 20)] == [128, 128]


def test_the_description_says_what_each_module_is_for_and_names_patents():
    described = metadata("DESCRIPTION")
    assert all(word in described for word in (*MODULES, "research only", "patents"))
    assert metadata("CONTRIBUTORS") == "DiffRender contributors"
    assert metadata("DEPENDS").split() == ENTRY["build_dependencies"] == ["PyTorch"]
    assert metadata("CATEGORY") == ENTRY["category"]
    assert metadata("HOMEPAGE") == ENTRY["scm_url"]


def test_the_entry_of_the_index_is_as_its_schema_says():
    assert {"$schema", "category", "scm_url"} <= set(ENTRY) <= set(FIELDS)
    assert all(type(value) is FIELDS[name] for name, value in ENTRY.items())
    assert ENTRY["$schema"] == SCHEMA
    assert ENTRY["category"] in CATEGORIES
    assert ENTRY["scm_type"] in ("git", "local")
    assert all(type(one) is str for one in ENTRY["build_dependencies"])
    assert 1 <= ENTRY["tier"] <= 5
    repository = ENTRY["scm_url"].rstrip("/").split("/")[-1].removesuffix(".git")
    assert ENTRY["scm_url"].startswith("https://")
    assert repository.startswith("Slicer")


def test_text_files_end_their_lines_with_lf_and_the_clone_is_small():
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    files = [ROOT / name for name in names.split("\0") if name and (ROOT / name).is_file()]
    if not files:
        pytest.skip("this is no git checkout")
    text = (".py", ".txt", ".json", ".md", ".ui", ".svg", ".csv", ".html", ".toml", ".cmake")
    assert [path.name for path in files if path.suffix in text and b"\r" in path.read_bytes()] == []
    assert sum(path.stat().st_size for path in files) < 50e6, "the index takes clones up to 100 MB, with their history"


def test_the_licence_has_a_name_that_the_index_knows():
    assert "Apache License" in (ROOT / "LICENSE.txt").read_text(encoding="utf-8")[:400]


def panels() -> list[Path]:
    return [*(ROOT / module / f"{module}.py" for module in MODULES), *sorted((ROOT / "DiffRenderLib").glob("*.py"))]


@pytest.mark.parametrize("path", panels(), ids=lambda path: path.stem)
def test_at_file_scope_only_slicers_own_is_imported_and_nothing_is_done(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    own = {"DiffRenderLib"} if path.parent.name == "DiffRenderLib" else set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [str(node.module)]
        else:
            # definitions, and constants made of what is at hand: no call but that of a plain path
            assert isinstance(node, ast.ClassDef | ast.FunctionDef | ast.Assign | ast.Expr), ast.unparse(node)
            called = {ast.unparse(one.func) for one in ast.walk(node) if isinstance(one, ast.Call)}
            assert isinstance(node, ast.ClassDef | ast.FunctionDef) or called <= {"Path"}, ast.unparse(node)
            continue
        roots = {name.split(".")[0] for name in names}
        assert roots <= SLICERS_OWN | own | set(sys.stdlib_module_names), ast.unparse(node)


@pytest.mark.parametrize("path", panels(), ids=lambda path: path.stem)
def test_texts_to_translate_are_no_f_strings(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "_"]
    assert all(isinstance(call.args[0], ast.Constant) for call in calls), "Slicer's tool finds whole texts alone"


@pytest.mark.parametrize("path", sorted(ROOT.glob("*/Resources/UI/*.ui")), ids=lambda path: path.stem)
def test_a_ui_file_tells_the_scene_to_each_of_its_selectors(path):
    root = ET.parse(path).getroot()
    selectors = {one.get("name") for one in root.iter("widget") if str(one.get("class")).startswith("qMRMLNode")}
    told = {one.findtext("receiver") for one in root.iter("connection")}
    assert selectors == told
    top = root.find("widget")
    assert top is not None
    assert top.get("name") == path.stem
    assert top.get("class") == ("qMRMLWidget" if selectors else "QWidget")
    used = {str(one.get("class")) for one in root.iter("widget")}
    assert {one for one in used if not one.startswith("Q")} == {
        one.findtext("class") for one in root.iter("customwidget")
    }
