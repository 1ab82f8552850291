"""Stand-in for slicer.parameterNodeWrapper: nodes, numbers, texts, choices and paths, and their bond to widgets.

Like the real one it refuses a pair of widget and type that it does not know, and a bounded widget without bounds.
"""

import enum
import pathlib
import typing
from dataclasses import dataclass

import ctk
import qt
import slicer
import vtk


@dataclass(frozen=True)
class WithinRange:
    minimum: float
    maximum: float


@dataclass(frozen=True)
class Minimum:
    minimum: float


@dataclass(frozen=True)
class Maximum:
    maximum: float


@dataclass(frozen=True)
class Choice:
    choices: list


@dataclass(frozen=True)
class Default:
    value: typing.Any


EMPTY = {int: 0, float: 0.0, bool: False, str: "", pathlib.Path: pathlib.Path()}


class Parameter:
    """One typed field of a parameter node."""

    def __init__(self, name, hint, preset):
        self.name = name
        self.type, *self.notes = typing.get_args(hint) if hasattr(hint, "__metadata__") else (hint,)
        options = [one for one in typing.get_args(self.type) if one is not type(None)]
        self.type = options[0] if options else self.type  # Node | None
        self.is_node = isinstance(self.type, type) and issubclass(self.type, slicer.vtkMRMLNode)
        marked = [note.value for note in self.notes if isinstance(note, Default)]
        known = [preset] if preset is not None else marked
        self.default = known[0] if known else self._empty()

    def _empty(self):
        if self.is_node:
            return None
        return next(iter(self.type)) if issubclass(self.type, enum.Enum) else EMPTY[self.type]

    def write(self, node, value):
        if self.is_node:
            node.SetNodeReferenceID(self.name, value.GetID() if value else None)
            return
        for note in self.notes:
            low, high = getattr(note, "minimum", value), getattr(note, "maximum", value)
            if not low <= value <= high or value not in getattr(note, "choices", [value]):
                raise ValueError(f"{self.name} = {value!r} breaks {note}")
        node.SetParameter(self.name, value.name if isinstance(value, enum.Enum) else str(value))

    def read(self, node):
        if self.is_node:
            return node.GetNodeReference(self.name)
        text = node.GetParameter(self.name)
        if issubclass(self.type, enum.Enum):
            return self.type[text]
        return text == "True" if self.type is bool else self.type(text)


# type(widget) -> (signal, read, write): the pairs that the real one has.
def _connector(widget, parameter):
    kind, wanted = type(widget), parameter.type
    if kind is slicer.qMRMLNodeComboBox and parameter.is_node:
        return "currentNodeChanged", widget.currentNode, widget.setCurrentNode
    if kind is qt.QCheckBox and wanted is bool:
        return "stateChanged", *_property(widget, "checked")
    if kind in (qt.QSpinBox, qt.QSlider) and wanted is int:
        _bound(widget, parameter)
        return "valueChanged", *_property(widget, "value")
    if kind in (qt.QDoubleSpinBox, ctk.ctkSliderWidget) and wanted in (int, float):
        _bound(widget, parameter, needed=kind is ctk.ctkSliderWidget)
        return "valueChanged", *_property(widget, "value")
    if kind is qt.QComboBox and (wanted is str or (isinstance(wanted, type) and issubclass(wanted, enum.Enum))):
        return "currentIndexChanged", *_choice(widget, parameter)
    if kind is qt.QLineEdit and wanted is str:
        return "textChanged", *_property(widget, "text")
    if kind is ctk.ctkPathLineEdit and wanted is pathlib.Path:
        return (
            "currentPathChanged",
            lambda: pathlib.Path(widget.currentPath),
            lambda value: setattr(widget, "currentPath", str(value)),
        )
    raise RuntimeError(f"Unable to create GUI connector from datatype '{wanted}' to widget type '{kind}'.")


def _property(widget, name):
    return lambda: getattr(widget, name), lambda value: setattr(widget, name, value)


def _bound(widget, parameter, needed=False):
    bounds = {
        key: getattr(note, key) for note in parameter.notes for key in ("minimum", "maximum") if hasattr(note, key)
    }
    if needed and len(bounds) < 2:
        raise RuntimeError("Cannot have a connection to ctkSliderWidget where the float types is unbounded.")
    for key, value in bounds.items():
        setattr(widget, key, value)


def _choice(widget, parameter):
    if parameter.type is str:
        return lambda: widget.currentText, lambda value: setattr(widget, "currentText", value)
    members = list(parameter.type)
    if widget.count == 0:
        widget.addItems([str(one.value) for one in members])
    return lambda: members[widget.currentIndex], lambda value: setattr(widget, "currentIndex", members.index(value))


def parameterNodeWrapper(cls):
    parameters = {
        name: Parameter(name, hint, getattr(cls, name, None))
        for name, hint in typing.get_type_hints(cls, include_extras=True).items()
    }

    def init(self, node):
        self.parameterNode = node
        self._bonds, self._tags, self._writing = {}, {}, False
        for one in parameters.values():
            if not one.is_node and not node.GetParameter(one.name):
                one.write(node, one.default)

    def connect_gui(self, gui):
        """Bind every widget of `gui` whose dynamic property SlicerParameterName names a field."""
        bonds = []
        for widget in vars(gui).values():
            name = widget.property("SlicerParameterName")
            if not name:
                continue
            if name not in parameters:
                raise ValueError(f"Cannot find a param with the given name: {name}")
            signal, read, write = _connector(widget, parameters[name])
            write(getattr(self, name))
            slot = _from_gui(self, name, read)
            getattr(widget, signal).connect(slot)
            bonds.append((widget, signal, slot, name, write))
        tag = len(self._tags) + 1
        self._bonds[tag] = bonds
        self._tags[tag] = self.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *event: _to_gui(self, tag))
        return tag

    def disconnect_gui(self, tag):
        for widget, signal, slot, *_ in self._bonds.pop(tag, ()):
            getattr(widget, signal).disconnect(slot)
        if tag in self._tags:
            self.RemoveObserver(self._tags[tag])

    cls.__init__ = init
    cls.allParameters = parameters
    cls.connectGui, cls.disconnectGui = connect_gui, disconnect_gui
    cls.AddObserver = lambda self, event, call, priority=0.0: self.parameterNode.AddObserver(event, call, priority)
    cls.RemoveObserver = lambda self, tag: self.parameterNode.RemoveObserver(tag)
    cls.StartModify = lambda self: self.parameterNode.StartModify()
    cls.EndModify = lambda self, was: self.parameterNode.EndModify(was)
    for one in parameters.values():
        setattr(cls, one.name, property(_reader(one), _writer(one)))
    return cls


def _reader(one):
    return lambda self: one.read(self.parameterNode)


def _writer(one):
    return lambda self, value: one.write(self.parameterNode, value)


def _from_gui(self, name, read):
    def slot(*ignored):
        if not self._writing:
            setattr(self, name, read())

    return slot


def _to_gui(self, tag):
    if self._writing:
        return
    self._writing = True
    try:
        for *_, name, write in self._bonds.get(tag, ()):
            write(getattr(self, name))
    finally:
        self._writing = False
