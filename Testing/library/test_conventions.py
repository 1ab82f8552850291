"""docs/conventions.md says what the code does: its numbers are read from the page and worked out anew."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from diffrender.camera import Camera, c_arm
from diffrender.phantom import torso
from diffrender.physics.attenuation import water_attenuation
from diffrender.views import PRESETS, preset

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "conventions.md").read_text(encoding="utf-8")


def rows(heading):
    """The body of the table whose first column is called `heading`."""
    table = re.search(rf"\| {re.escape(heading)} .*\n\| ---.*\n((?:\|.*\n)+)", PAGE)
    assert table, f"no table {heading}"
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.group(1).splitlines()]


def test_the_camera_on_the_page_is_the_one_it_names():
    written = Camera.from_dict(json.loads(re.search(r"```json\n(.*?)```", PAGE, re.DOTALL).group(1)))
    named = c_arm((0.0, 0, 0))
    torch.testing.assert_close(written.world_from_camera, named.world_from_camera)
    assert written.to_dict().keys() == named.to_dict().keys()
    assert written.image_size == named.image_size
    assert written.pixel_size == named.pixel_size


def test_the_table_of_angles_holds():
    for angles, detector, _, shown in rows("primary / secondary"):
        primary, secondary = (float(part) for part in angles.split("/"))
        camera = c_arm((11.0, -7.0, 30.0), primary, secondary)
        where = camera.direction.tolist()  # from the isocentre the detector lies that way
        towards = {"front": (1, 1), "left": (0, -1), "right": (0, 1), "head": (2, 1), "feet": (2, -1)}
        axis, sign = next(value for word, value in towards.items() if word in detector)
        assert where[axis] * sign > 0.4, angles
        edges, top = camera.orientation(), shown.split(", ")[1]
        assert f"{edges['left']} / {edges['right']}" == shown.split(", ")[0]
        expected = {"head": "H", "head and behind": "HP", "head and in front": "HA"}[top]
        assert edges["top"] == expected, angles


def test_the_table_of_presets_holds_and_is_whole():
    volume, seen = torso((40, 24, 36)), set()
    for names, beam, viewer, shown in rows("preset"):
        for name in re.findall(r"`([a-z-]+)`", names):
            camera = preset(name, volume)
            seen.add(name)
            axis, sign = {"the front": (1, 1), "the back": (1, -1), "the left side": (0, -1)}[beam.split(",")[0]]
            assert camera.direction[axis] * sign > 0.7, name
            assert camera.mirrored == (viewer == "the detector"), name
            edges = camera.orientation()
            assert f"{edges['left']} / {edges['right']}" == shown, name
            assert edges["top"].startswith("H"), name
    assert seen == set(PRESETS)


def test_the_attenuation_of_water_on_the_page():
    assert f"mu_water = {water_attenuation(70.0):.5f} / mm" in PAGE


def test_the_drawing_is_what_its_script_draws(tmp_path):
    script = tmp_path / "draw_conventions.py"
    script.write_text((DOCS / "draw_conventions.py").read_text(encoding="utf-8"), encoding="utf-8")
    subprocess.run([sys.executable, str(script)], check=True, env={"PYTHONPATH": str(DOCS.parent)}, timeout=120)
    drawn, kept = ((folder / "conventions.svg").read_text(encoding="utf-8") for folder in (tmp_path, DOCS))
    if drawn != kept:
        pytest.fail("docs/conventions.svg is older than its script: run `python docs/draw_conventions.py`")
