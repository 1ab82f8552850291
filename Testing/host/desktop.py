"""A small stand-in for the desktop of 3D Slicer, to click our panels where there is none.

What is real: our module files, .ui files and widget classes; widgets, timers and processes (Qt for Python, with its
properties as attributes, as PythonQt has them); MRML scene and nodes, and slicer.util (slicer-core). What is played by
parts/ and slicer_parts/, as far as our panels use it: the module base classes, parameterNodeWrapper, qMRML and ctk
widgets, slicer.app. There are no slice or 3D views, no module manager and no PythonQt: that a panel works here is no
proof that it works in Slicer; that it fails here almost always is one that it fails there. Testing/slicer has the tests
for Slicer itself.
"""

import importlib.util
import os
import sys
import time
import types
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import slicer
from parts import qt_names
from parts.qt_names import QtCore, QtGui, QtUiTools, QtWidgets

ROOT = Path(__file__).resolve().parents[2]
MODULES = ("DeepDVR", "NeRPSynth", "XrayRegistration")
WIDTH = 420  # px; a module panel as Slicer opens it


class App:
    """slicer.app"""

    applicationName = "Slicer"

    def __init__(self):
        self.started: list[Callable[[], None]] = []
        self.qt = QtWidgets.QApplication.instance() or QtWidgets.QApplication(["Slicer"])
        self.qt.setStyle("Fusion")
        self.plain = QtGui.QPalette(self.qt.palette())

    def connect(self, signal, slot):
        assert signal == "startupCompleted()", signal
        self.started.append(slot)

    def testingEnabled(self):
        return True

    def processEvents(self):
        self.qt.processEvents()

    def clipboard(self):
        return self.qt.clipboard()

    def setOverrideCursor(self, cursor):
        self.qt.setOverrideCursor(cursor)

    def restoreOverrideCursor(self):
        self.qt.restoreOverrideCursor()


class Desktop:
    """One Slicer with an empty scene; modules are opened in it one at a time."""

    def __init__(self):
        self.modules: dict[str, types.SimpleNamespace] = {}
        self.shown: str | None = None
        slicer.app = APP
        slicer.modules = types.SimpleNamespace()
        slicer.mrmlScene = slicer.vtkMRMLScene()
        slicer.util.reloadScriptedModule = self.reload

    def open(self, name: str):
        """Switch to a module, as the module selector does. Returns its widget."""
        if self.shown and self.shown != name:
            self._leave()
        if name not in self.modules:
            self._load(name)
        self.shown = name
        module = self.modules[name]
        if module.widget is None:
            self._build(name)
        else:
            module.place.isEntered = True
            module.widget.enter()
        module.place.visible = True
        APP.processEvents()
        return module.widget

    def reload(self, name: str) -> None:
        """What Slicer's Reload button does, in its order."""
        module = self.modules[name]
        self._read(module, name)
        module.widget.cleanup()
        for child in list(module.place.children()):
            if child.isWidgetType():
                child.visible = False
                child.deleteLater()
        self._build(name)

    def close_scene(self) -> None:
        slicer.mrmlScene.Clear(0)
        APP.processEvents()

    def close(self) -> None:
        """What happens when Slicer is closed."""
        for name, module in self.modules.items():
            if module.widget is not None:
                module.widget.cleanup()
                module.place.deleteLater()
            delattr(slicer.modules, name.lower())
            sys.modules.pop(name, None)
        self.modules = {}
        APP.processEvents()

    def wait(self, until: Callable[[], bool], seconds: float = 30.0) -> float:
        """Let the event loop run until `until()`. Returns the longest time in which it did not turn [s]."""
        end, last, longest = time.monotonic() + seconds, time.monotonic(), 0.0
        while not until():
            assert time.monotonic() < end, f"still waiting after {seconds} s"
            APP.processEvents()
            longest = max(longest, time.monotonic() - last)
            last = time.monotonic()
            time.sleep(0.002)
        return longest

    def screenshot(self, folder: Path, name: str, dark: bool = False) -> list[Path]:
        """The panel shown, at 1x and at 2x, as PNG."""
        place = self.modules[self.shown].place
        APP.qt.setPalette(dark_palette() if dark else APP.plain)
        place.resize(WIDTH, max(place.sizeHint.height(), 520))
        APP.processEvents()
        paths = []
        for scale in (1, 2):
            image = QtGui.QImage(place.size * scale, QtGui.QImage.Format_RGB32)
            image.setDevicePixelRatio(scale)
            image.fill(place.palette.color(QtGui.QPalette.Window))
            place.render(image)
            paths.append(folder / f"{name}{'.dark' if dark else ''}@{scale}x.png")
            folder.mkdir(parents=True, exist_ok=True)
            assert image.save(str(paths[-1]))
        APP.qt.setPalette(APP.plain)
        return paths

    def _load(self, name: str) -> None:
        module = types.SimpleNamespace(path=str(ROOT / name / f"{name}.py"), widget=None, place=None)
        self.modules[name] = module
        setattr(slicer.modules, name.lower(), module)
        folder = str(ROOT / name)
        if folder not in sys.path:  # and not ROOT: the module has to find the library itself
            sys.path.append(folder)
        self._read(module, name)
        module.description = getattr(module.python, name)(module)  # sets title, categories, ... on its parent

    def _read(self, module, name: str) -> None:
        spec = importlib.util.spec_from_file_location(name, module.path)
        module.python = importlib.util.module_from_spec(spec)
        sys.modules[name] = module.python
        spec.loader.exec_module(module.python)

    def _build(self, name: str) -> None:
        module = self.modules[name]
        if module.place is None:
            module.place = slicer.qMRMLWidget()
            QtWidgets.QVBoxLayout(module.place)
            module.place.setMRMLScene(slicer.mrmlScene)
        module.place.isEntered = True
        module.widget = getattr(module.python, f"{name}Widget")(module.place)
        setattr(slicer.modules, f"{name}Widget", module.widget)
        module.widget.setup()
        module.widget.enter()

    def _leave(self) -> None:
        module = self.modules[self.shown]
        module.place.isEntered = False
        module.place.visible = False
        module.widget.exit()


def load_ui(path: str):
    """slicer.util.loadUI; also makes the .ui's connections of scenes, whose C++ types Python's signals have not."""
    tree = ET.parse(path)
    connections = tree.getroot().find("connections")
    made = [{part.tag: part.text for part in one} for one in connections]
    connections.clear()
    loader = QtUiTools.QUiLoader()
    for kind in CUSTOM:
        loader.registerCustomWidget(kind)
    content = QtCore.QBuffer()
    content.setData(ET.tostring(tree.getroot()))
    widget = loader.load(content)
    assert widget is not None, f"{path}: {loader.errorString()}"
    named = {child.objectName: child for child in (widget, *widget.findChildren(QtWidgets.QWidget))}
    for one in made:
        assert one["signal"] == "mrmlSceneChanged(vtkMRMLScene*)", one
        assert one["slot"] == "setMRMLScene(vtkMRMLScene*)", one
        named[one["sender"]].mrmlSceneChanged.connect(named[one["receiver"]].setMRMLScene)
    return widget


def child_widgets(widget):
    """slicer.util.childWidgetVariables"""
    children = widget.findChildren(QtWidgets.QWidget)
    return types.SimpleNamespace(**{child.objectName: child for child in children if child.objectName.isidentifier()})


def dark_palette():
    """About what Slicer's dark style has."""
    palette = QtGui.QPalette(QtGui.QColor("#35383b"), QtGui.QColor("#2b2d30"))
    palette.setColor(QtGui.QPalette.Base, QtGui.QColor("#1f2123"))
    palette.setColor(QtGui.QPalette.Highlight, QtGui.QColor("#2b62c4"))
    return palette


def install() -> App:
    """Put the parts where `import qt`, `import ctk` and `import slicer` find them."""
    for name in ("qt", "ctk"):
        sys.modules[name] = types.ModuleType(name)
    qt_names.fill(sys.modules["qt"])
    slicer.__path__.append(str(Path(__file__).parent / "slicer_parts"))
    from parts import widgets

    for kind in (one for one in vars(widgets).values() if isinstance(one, type)):
        home = slicer if kind.__name__.startswith("qMRML") else sys.modules["ctk"]
        setattr(home, kind.__name__, kind)
        CUSTOM.append(kind)
    slicer.util.loadUI, slicer.util.childWidgetVariables = load_ui, child_widgets
    return App()


CUSTOM: list[type] = []
APP = install()
