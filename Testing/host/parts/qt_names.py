"""Qt as PythonQt shows it: properties are attributes, and objectName is called name.

A module whose source has the word PySide6 in it gets Qt with getters and setters, unless it says otherwise as this one
does; so no other module of the stand-in writes that word: they import Qt from here.
"""

import ctypes
import sys

import PySide6.QtWidgets  # noqa: F401, before the feature is switched on
from __feature__ import true_property  # noqa: F401
from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

PARTS = (QtCore, QtGui, QtWidgets, QtUiTools)

if sys.version_info < (3, 12):
    # PySide6 6.12 gives back one reference to None too many with each call that returns nothing, until the interpreter
    # aborts. From Python 3.12 on None is immortal; here it is made so. (ob_refcnt is the first field of an object.)
    ctypes.c_ssize_t.from_address(id(None)).value = 2**60


def as_properties(**kinds):
    """Qt properties that keep a value and do nothing else: name=(type, default)."""
    return tuple(_property(name, kind, default) for name, (kind, default) in kinds.items())


def _property(name, kind, default):
    place = f"_{name}"

    def read(self):
        return getattr(self, place, default)

    def write(self, value):
        setattr(self, place, value)

    return QtCore.Property(kind, read, write)


def fill(module):
    """Put all names of Qt into one module, as PythonQt's `qt` has them."""
    for part in PARTS:
        for name in dir(part):
            if name.startswith("Q"):
                setattr(module, name, getattr(part, name))
    name = property(lambda self: self.objectName, lambda self, value: setattr(self, "objectName", value))
    QtWidgets.QWidget.name = name
    QtWidgets.QWidget.isWidgetType = lambda self: True
