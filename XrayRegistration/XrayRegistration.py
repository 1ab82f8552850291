"""XrayRegistration: a pelvis, or the patient's CT, from fluoroscopy frames whose geometry is known."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import slicer
from slicer import vtkMRMLScalarVolumeNode
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)


def find_library() -> None:
    """Once installed, the library lies beside this file; in a source checkout, in the folder above."""
    if importlib.util.find_spec("DiffRenderLib") is None:
        sys.path.append(str(Path(__file__).resolve().parents[1]))


class XrayRegistration(ScriptedLoadableModule):
    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("X-ray Registration")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Registration")]
        parent.dependencies = []
        parent.contributors = ["DiffRender contributors"]
        parent.helpText = _(
            "The pelvis of a patient from one or more C-arm frames: its shape, where it lies, and how certain each is. "
            "For research only, not a medical device. "
            '<a href="https://github.com/OWNER/SlicerDiffRender">How to use it</a>.'
        )
        parent.acknowledgementText = _(
            "After K. Shetty et al.: Deep Learning compatible Differentiable X-ray Projections for "
            "Inverse Rendering, BVM 2021, arXiv:2102.02912. Please cite it where you use this module."
        )


@parameterNodeWrapper
class XrayRegistrationParameterNode:
    """What the panel remembers, saved with the scene.

    volume: the CT.
    """

    volume: vtkMRMLScalarVolumeNode


class XrayRegistrationWidget(ScriptedLoadableModuleWidget):
    def __init__(self, parent=None):
        self.panel: Any = None  # before Slicer's own __init__, which may call setup
        ScriptedLoadableModuleWidget.__init__(self, parent)

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        self.logic = XrayRegistrationLogic()
        from DiffRenderLib.panel import Panel

        self.panel = Panel(self, self.logic, self.onChanged)

    def enter(self):
        self.panel.enter()

    def exit(self):
        self.panel.exit()

    def cleanup(self):
        if self.panel is not None:
            self.panel.close()

    def onReload(self):
        for name in [name for name in sys.modules if name.partition(".")[0] == "DiffRenderLib"]:
            del sys.modules[name]  # Slicer itself reads this file alone again
        ScriptedLoadableModuleWidget.onReload(self)

    def onChanged(self, panel):
        volume = panel.parameters.volume
        panel.ui.statusLabel.text = self.logic.status(volume)
        panel.ui.commandText.plainText = self.logic.typed(self.logic.words(volume))
        panel.ui.commandText.visible = volume is not None


class XrayRegistrationLogic(ScriptedLoadableModuleLogic):
    """All that the panel does, to be called from Python too:

    >>> logic = slicer.util.getModuleLogic("XrayRegistration")
    >>> volume = slicer.util.loadVolume("CT.nrrd")
    >>> print(logic.typed(logic.words(volume)))
    >>> work = logic.start(logic.words(volume), on_end=print, on_line=print)  # work.cancel() stops it
    """

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        find_library()

    def getParameterNode(self):
        return XrayRegistrationParameterNode(ScriptedLoadableModuleLogic.getParameterNode(self))

    def words(self, volume: Any) -> list[str]:
        """The library's command that simulates C-arm frames of its pelvis, for a CT of the scene.

        Args:
            volume: a scalar volume node, or None. One that no file holds as it is now is called CT.nrrd.
        """
        from DiffRenderLib import commands

        file = commands.file_of(volume) or Path("CT.nrrd")
        folder = file.with_name(commands.stem(file) + "-frames")
        return ["fit", "simulate", str(file), "--views", "0,50", "-o", str(folder)]

    def status(self, volume: Any) -> str:
        """What the panel says about `volume`."""
        from DiffRenderLib import commands

        return commands.status(volume, _("simulates C-arm frames of its pelvis to register"))

    def typed(self, words: list[str]) -> str:
        """A command as one line to copy."""
        from DiffRenderLib import commands

        return commands.typed(words)

    def start(self, words: list[str], on_end: Any, **callbacks: Any) -> Any:
        """Run a command of the library in a process of its own; see DiffRenderLib.worker.Worker."""
        from DiffRenderLib.worker import Worker

        return Worker(words, on_end, **callbacks)


class XrayRegistrationTest(ScriptedLoadableModuleTest):
    def setUp(self):
        slicer.mrmlScene.Clear()

    def test_without_a_ct_the_panel_says_so(self):
        assert "Choose a CT" in XrayRegistrationLogic().status(None)

    def test_a_ct_without_a_file_is_to_be_saved_first(self):
        volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "a CT")
        assert "Save a CT" in XrayRegistrationLogic().status(volume)
        assert "CT.nrrd" in XrayRegistrationLogic().typed(XrayRegistrationLogic().words(volume))
