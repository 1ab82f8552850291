"""A panel's life in Slicer: its .ui, the parameter node behind it, scenes that close, and the work it runs."""

from collections.abc import Callable
from typing import Any

import slicer
import vtk
from slicer.i18n import tr as _

from DiffRenderLib.work import Work


class Panel:
    """Held by a module's widget, which forwards enter, exit and cleanup to it.

    `ui` has the named widgets of the module's .ui; `parameters` is the wrapped parameter node, or None while there is
    no scene to have one. What the three modules have in common in their .ui: doctorButton, inputSelector.
    """

    def __init__(self, widget: Any, logic: Any, on_change: Callable[["Panel"], None]):
        """
        Args:
            widget: the module's ScriptedLoadableModuleWidget, in its `setup`.
            on_change: gets this after each change of a parameter, and when a computation starts or ends.
        """
        self._widget, self._logic, self._on_change = widget, logic, on_change
        self._observers = slicer.util.VTKObservationMixin()
        self._gui_tag: int | None = None
        self.parameters: Any = None
        self.root = slicer.util.loadUI(widget.resourcePath(f"UI/{widget.moduleName}.ui"))
        widget.layout.addWidget(self.root)
        self.ui = slicer.util.childWidgetVariables(self.root)
        self.root.setMRMLScene(slicer.mrmlScene)
        self.work = Work(self.ui.workPlace.layout(), self.changed)
        self.ui.doctorButton.clicked.connect(self.doctor)
        scene = slicer.mrmlScene
        self._observers.addObserver(scene, scene.StartCloseEvent, self._scene_closes)
        self._observers.addObserver(scene, scene.EndCloseEvent, self._scene_is_new)
        self._observers.addObserver(scene, scene.EndImportEvent, self._scene_is_new)
        self.enter()

    def enter(self) -> None:
        """The module is shown: have a parameter node, and choose a CT where none is chosen."""
        self._bind(self._logic.getParameterNode())
        if self.parameters.volume is None:
            self.parameters.volume = first_ct()
        self.changed()

    def exit(self) -> None:
        """Another module is shown; what runs goes on."""
        self._bind(None)

    def close(self) -> None:
        """The module is reloaded or Slicer ends: nothing may be left running or observed."""
        self.work.close()
        self._bind(None)
        self._observers.removeObservers()

    def changed(self, *ignored) -> None:
        self.ui.doctorButton.enabled = not self.work.running
        if self.parameters is not None:
            self._on_change(self)

    def doctor(self, *ignored) -> None:
        """What this computer has and lacks for the library, line by line."""
        self.work.start(["doctor"], _("Looking at what this computer has"), self._show_findings)

    def _show_findings(self, result: dict[str, Any]) -> str:
        marks = {"ok": "", "slow": _("slow: "), "missing": _("missing: "), "broken": _("broken: ")}
        advised_first = sorted(result["findings"], key=lambda one: not one["advice"])
        for one in advised_first:
            self.work.tell(f"{one['name']}: {marks[one['state']]}{one['found']}. {one['advice']}".strip())
        self.work.show_details()
        if not result["works"]:
            return _("The library cannot work on this computer yet; Details says what to do.")
        if advised_first[0]["advice"]:
            return _("Everything needed is here. Details begins with what could be better.")
        return _("Everything is here.")

    def _scene_closes(self, caller: Any, event: Any) -> None:
        self.work.cancel()  # its input goes; what it wrote stays
        self._bind(None)

    def _scene_is_new(self, caller: Any, event: Any) -> None:
        # What a file brings for the parameter node is copied into it without a word, so bind it again.
        if self._widget.parent.isEntered:
            self.enter()

    def _bind(self, parameters: Any) -> None:
        if self.parameters is not None:
            self.parameters.disconnectGui(self._gui_tag)
            self._observers.removeObserver(self.parameters, vtk.vtkCommand.ModifiedEvent, self.changed)
        self.parameters = parameters
        if parameters is not None:
            self._gui_tag = parameters.connectGui(self.ui)
            self._observers.addObserver(parameters, vtk.vtkCommand.ModifiedEvent, self.changed)


def first_ct() -> Any:
    """The first scalar volume of the scene that is neither labels nor colours; None without one."""
    volumes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    return next((one for one in volumes if one.GetClassName() == "vtkMRMLScalarVolumeNode"), None)
