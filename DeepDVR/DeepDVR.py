"""DeepDVR: paint on a few views of a CT what you want to see; a renderer learns to draw the volume so."""

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


class DeepDVR(ScriptedLoadableModule):
    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("DeepDVR")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Rendering")]
        parent.dependencies = []
        parent.contributors = ["DiffRender contributors"]
        parent.helpText = _(
            "Paint on a few rendered views of a CT what you want to see, and a renderer learns to draw the volume so. "
            "For research only, not a medical device. "
            '<a href="https://github.com/OWNER/SlicerDiffRender">How to use it</a>.'
        )
        parent.acknowledgementText = _(
            "After J. Weiss, N. Navab: Deep Direct Volume Rendering: Learning Visual Feature Mappings From "
            "Exemplary Images, 2021, arXiv:2106.05429. Please cite it where you use this module."
        )


@parameterNodeWrapper
class DeepDVRParameterNode:
    """What the panel remembers, saved with the scene.

    volume: the CT.
    """

    volume: vtkMRMLScalarVolumeNode


class DeepDVRWidget(ScriptedLoadableModuleWidget):
    def __init__(self, parent=None):
        self.panel: Any = None  # before Slicer's own __init__, which may call setup
        ScriptedLoadableModuleWidget.__init__(self, parent)

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        self.logic = DeepDVRLogic()
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


class DeepDVRLogic(ScriptedLoadableModuleLogic):
    """All that the panel does, to be called from Python too:

    >>> logic = slicer.util.getModuleLogic("DeepDVR")
    >>> volume = slicer.util.loadVolume("CT.nrrd")
    >>> print(logic.typed(logic.words(volume)))
    >>> work = logic.start(logic.words(volume), on_end=print, on_line=print)  # work.cancel() stops it
    """

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        find_library()

    def getParameterNode(self):
        return DeepDVRParameterNode(ScriptedLoadableModuleLogic.getParameterNode(self))

    def words(self, volume: Any) -> list[str]:
        """The library's command that draws the views to paint on, for a CT of the scene.

        Args:
            volume: a scalar volume node, or None. One that no file holds as it is now is called CT.nrrd.
        """
        from DiffRenderLib import commands

        file = commands.file_of(volume) or Path("CT.nrrd")
        folder = file.with_name(commands.stem(file) + "-views")
        return ["dvr", "views", str(file), "--preset", "ct-bone", "--n", "16", "-o", str(folder)]

    def status(self, volume: Any) -> str:
        """What the panel says about `volume`."""
        from DiffRenderLib import commands

        return commands.status(volume, _("draws the views to paint on"))

    def typed(self, words: list[str]) -> str:
        """A command as one line to copy."""
        from DiffRenderLib import commands

        return commands.typed(words)

    def start(self, words: list[str], on_end: Any, **callbacks: Any) -> Any:
        """Run a command of the library in a process of its own; see DiffRenderLib.worker.Worker."""
        from DiffRenderLib.worker import Worker

        return Worker(words, on_end, **callbacks)


class DeepDVRTest(ScriptedLoadableModuleTest):
    def setUp(self):
        slicer.mrmlScene.Clear()

    def test_without_a_ct_the_panel_says_so(self):
        assert "Choose a CT" in DeepDVRLogic().status(None)

    def test_a_ct_without_a_file_is_to_be_saved_first(self):
        volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "a CT")
        assert "Save a CT" in DeepDVRLogic().status(volume)
        assert "CT.nrrd" in DeepDVRLogic().typed(DeepDVRLogic().words(volume))
