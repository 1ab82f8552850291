"""The panels in a real Slicer: they open, follow the scene, reload. Run by ctest, or in Slicer's Python console:

>>> import sys; sys.path.append(".../Testing/slicer"); import slicer.testing
>>> slicer.testing.runUnitTest([], "DiffRenderPanelsTest")
"""

import sys
import unittest

import slicer

MODULES = ("DeepDVR", "NeRPSynth", "XrayRegistration")


class DiffRenderPanelsTest(unittest.TestCase):
    def setUp(self):
        slicer.mrmlScene.Clear()

    def panels(self):
        for name in MODULES:
            with self.subTest(module=name):
                yield name, slicer.util.getModuleWidget(name).panel

    def test_no_panel_imports_what_has_to_be_installed(self):
        if "torch" in sys.modules:
            self.skipTest("another module has imported torch before")
        for _name, _panel in self.panels():
            assert "torch" not in sys.modules

    def test_a_deleted_ct_is_gone_from_the_panel(self):
        for name, panel in self.panels():
            slicer.util.selectModule(name)
            volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
            panel.ui.inputSelector.setCurrentNode(volume)
            assert panel.parameters.volume is volume
            slicer.mrmlScene.RemoveNode(volume)
            assert panel.parameters.volume is None
            assert "Choose a CT" in panel.ui.statusLabel.text

    def test_a_closed_scene_leaves_a_panel_that_works_on(self):
        for name, panel in self.panels():
            slicer.util.selectModule(name)
            slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
            slicer.mrmlScene.Clear()
            assert panel.parameters.volume is None
            volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "another")
            panel.ui.inputSelector.setCurrentNode(volume)
            assert "another" in panel.ui.statusLabel.text

    def test_a_module_reloads(self):
        for name, panel in self.panels():
            slicer.util.getModuleWidget(name).onReload()
            assert slicer.util.getModuleWidget(name).panel is not panel
            assert panel.parameters is None

    def test_a_command_that_fails_says_so(self):
        import qt

        slicer.util.selectModule("DeepDVR")
        panel = slicer.util.getModuleWidget("DeepDVR").panel
        panel.work.start(["no-such-command"], "Trying", lambda result: "done")
        clock = qt.QElapsedTimer()
        clock.start()
        while panel.work.running and clock.elapsed() < 60000:
            slicer.app.processEvents()
        assert not panel.work.running
        assert panel.work.ui.workLabel.text not in ("", "done")
