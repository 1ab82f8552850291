"""The three panels in the stand-in desktop: they open, follow the scene, reload, close, and are looked at."""

import json
import subprocess
import sys
import unittest
from pathlib import Path

import pytest
import slicer
from scenes import ct_node

HERE = Path(__file__).parent
MODULES = ("DeepDVR", "NeRPSynth", "XrayRegistration")
OWN = {"qt", "ctk", "slicer", "vtk", "vtkmodules", "slicer_core", "numpy", "DiffRenderLib", *MODULES}

# Time of import and of building the panel, and what was imported meanwhile that the stand-in had not.
BUILD = """
import json, sys, time
from pathlib import Path
root = Path({here!r}).parents[1]
sys.path[:] = [{here!r}, *(one for one in sys.path if Path(one).resolve() != root)]  # as Slicer's: not our folder
import desktop, numpy
import slicer.ScriptedLoadableModule, slicer.parameterNodeWrapper
one = desktop.Desktop()
before = set(sys.modules)
wall, cpu = time.perf_counter(), time.process_time()
one.open({name!r})
assert str(root) in sys.path, "the module has not looked for the library"
spent = [time.perf_counter() - wall, time.process_time() - cpu]
print(json.dumps([spent, sorted(set(sys.modules) - before)]))
one.close()
"""


def a_volume(name="CT", kind="vtkMRMLScalarVolumeNode"):
    return slicer.mrmlScene.AddNewNodeByClass(kind, name)


@pytest.mark.parametrize("name", MODULES)
def test_a_panel_opens_without_importing_what_has_to_be_installed(name):
    asked = subprocess.run(
        [sys.executable, "-c", BUILD.format(here=str(HERE), name=name)], capture_output=True, text=True, check=False
    )
    assert asked.returncode == 0, asked.stderr
    spent, imported = json.loads(asked.stdout.splitlines()[-1])
    print(f"{name}: {spent[0]:.3f} s, of these {spent[1]:.3f} s of the processor")
    foreign = {one.partition(".")[0] for one in imported} - OWN - set(sys.stdlib_module_names)
    assert foreign == set()


@pytest.mark.parametrize("name", MODULES)
def test_a_module_says_what_it_is(desktop, name):
    desktop.open(name)
    said = desktop.modules[name]
    assert said.title
    assert said.contributors == ["DiffRender contributors"]
    assert "research only" in said.helpText
    assert "cite" in said.acknowledgementText
    assert said.icon is not None
    assert not said.icon.isNull()


@pytest.mark.parametrize("name", MODULES)
def test_the_panel_says_that_it_is_for_research_and_names_what_lacks(desktop, name):
    ui = desktop.open(name).panel.ui
    assert "research only" in ui.noticeLabel.text
    assert "Choose a CT" in ui.statusLabel.text
    assert not ui.commandText.visible


@pytest.mark.parametrize("name", MODULES)
def test_a_modules_own_tests_pass(desktop, name):
    desktop.open(name)
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromModule(desktop.modules[name].python).run(result)
    assert result.testsRun >= 2
    assert result.wasSuccessful(), result.failures + result.errors


@pytest.mark.parametrize("name", MODULES)
def test_the_first_ct_is_chosen_and_labels_are_no_ct(desktop, name):
    a_volume("labels", "vtkMRMLLabelMapVolumeNode")
    a_volume("colours", "vtkMRMLVectorVolumeNode")
    volume = a_volume("a CT")
    panel = desktop.open(name).panel
    assert panel.parameters.volume is volume
    assert panel.ui.inputSelector.currentNode() is volume
    assert panel.ui.inputSelector.nodeCount() == 1
    assert "Save a CT" in panel.ui.statusLabel.text


@pytest.mark.parametrize("name", MODULES)
def test_choosing_in_the_panel_is_kept_in_the_scene_and_back(desktop, name):
    first, second = a_volume("first"), a_volume("second")
    panel = desktop.open(name).panel
    panel.ui.inputSelector.setCurrentNode(second)
    node = slicer.mrmlScene.GetSingletonNode(name, "vtkMRMLScriptedModuleNode")
    assert node.GetNodeReference("volume") is second
    node.SetNodeReferenceID("volume", first.GetID())
    assert panel.ui.inputSelector.currentNode() is first
    assert "first" in panel.ui.statusLabel.text


@pytest.mark.parametrize("name", MODULES)
def test_a_deleted_ct_is_gone_from_the_panel(desktop, name):
    panel = desktop.open(name).panel
    panel.ui.inputSelector.setCurrentNode(volume := a_volume())
    assert "Save" in panel.ui.statusLabel.text
    slicer.mrmlScene.RemoveNode(volume)
    assert panel.parameters.volume is None
    assert "Choose a CT" in panel.ui.statusLabel.text


@pytest.mark.parametrize("name", MODULES)
def test_a_closed_scene_leaves_a_panel_that_works_on(desktop, name):
    a_volume()
    panel = desktop.open(name).panel
    desktop.close_scene()
    assert panel.parameters.volume is None
    assert "Choose a CT" in panel.ui.statusLabel.text
    panel.ui.inputSelector.setCurrentNode(volume := a_volume("another"))
    assert panel.parameters.volume is volume
    assert "another" in panel.ui.statusLabel.text


@pytest.mark.parametrize("name", MODULES)
def test_a_scene_saved_and_opened_again_has_its_choice(desktop, tmp_path, name):
    a_volume("first")
    chosen = ct_node(tmp_path / "chosen.nrrd")
    panel = desktop.open(name).panel
    panel.ui.inputSelector.setCurrentNode(chosen)
    scene = slicer.mrmlScene
    scene.SetURL(str(tmp_path / "scene.mrml"))
    assert scene.Commit()
    desktop.close_scene()
    assert panel.parameters.volume is None
    assert scene.Connect()  # closes the scene and reads the file, as Slicer does
    assert panel.parameters.volume.GetName() == "chosen"
    assert panel.ui.inputSelector.currentNode().GetName() == "chosen"
    assert "chosen.nrrd" in panel.ui.commandText.plainText


def test_while_a_scene_closes_the_panel_has_let_go_of_its_nodes(desktop):
    a_volume()
    panel = desktop.open("DeepDVR").panel
    seen = []
    scene = slicer.mrmlScene
    tag = scene.AddObserver(scene.EndCloseEvent, lambda *event: seen.append(panel.parameters), 10.0)  # before the panel
    desktop.close_scene()
    scene.RemoveObserver(tag)
    assert seen == [None]


def test_a_scene_closed_while_another_module_is_shown_is_noticed_on_return(desktop):
    a_volume("old")
    panel = desktop.open("DeepDVR").panel
    desktop.open("NeRPSynth")
    assert panel.parameters is None
    desktop.close_scene()
    assert panel.parameters is None
    volume = a_volume("new")
    desktop.open("DeepDVR")
    assert panel.parameters.volume is volume


def test_a_reloaded_module_lets_go_of_the_scene_and_builds_anew(desktop):
    volume = a_volume()
    widget = desktop.open("DeepDVR")
    before = widget.panel
    widget.onReload()
    after = desktop.modules["DeepDVR"].widget.panel
    assert after is not before
    assert type(after) is not type(before)  # the shared files are read again too
    assert before.parameters is None
    assert not before._observers.Observations
    slicer.mrmlScene.RemoveNode(volume)
    assert after.parameters.volume is None


def test_the_command_names_the_file_of_the_ct_with_quotes_where_needed(desktop, tmp_path):
    volume = ct_node(tmp_path / "Bäume und Häuser" / "a (CT).nrrd")
    panel = desktop.open("DeepDVR").panel
    file = tmp_path / "Bäume und Häuser" / "a (CT).nrrd"
    assert f'"{file}" --preset' in panel.ui.commandText.plainText
    assert panel.ui.statusLabel.text.startswith("This command")
    volume.GetImageData().GetPointData().GetScalars().SetValue(0, 7)
    volume.GetImageData().Modified()
    volume.Modified()
    panel.changed()
    assert panel.ui.statusLabel.text.startswith("Save"), "its file no longer holds what the node holds"


@pytest.mark.parametrize("name", MODULES)
def test_each_control_has_a_tooltip_and_is_reached_by_the_keyboard(desktop, name):
    ui = desktop.open(name).panel.ui
    for control in (ui.doctorButton, ui.commandText):
        assert control.toolTip, control.objectName
        assert control.focusPolicy != 0, control.objectName


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("dark", [False, True])
def test_pictures_of_the_panels(desktop, pictures, name, dark):
    a_volume("CT of a patient with a rather long name, thin slices")
    desktop.open(name)
    one, two = desktop.screenshot(pictures, name, dark)
    from desktop import QtGui

    small, large = QtGui.QImage(str(one)), QtGui.QImage(str(two))
    assert (large.width(), large.height()) == (2 * small.width(), 2 * small.height())
    colours = {small.pixel(x, y) for x in range(0, small.width(), 3) for y in range(0, small.height(), 3)}
    assert len(colours) > 20, "a blank picture"
