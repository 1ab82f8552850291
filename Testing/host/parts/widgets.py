"""Stand-ins for the ctk and qMRML widgets that our .ui files use, with the properties and signals that we use."""

import slicer

from parts.qt_names import QtCore, QtWidgets, as_properties


class ctkCollapsibleButton(QtWidgets.QWidget):
    contentsCollapsed = QtCore.Signal(bool)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._collapsed = False
        self._button = QtWidgets.QPushButton(self)
        self._button.checkable = True
        self._button.checked = True
        self._button.toggled.connect(lambda on: setattr(self, "collapsed", not on))
        self.setContentsMargins(0, 28, 0, 0)

    def resizeEvent(self, event):
        self._button.geometry = QtCore.QRect(0, 0, event.size().width(), 26)
        super().resizeEvent(event)

    @QtCore.Property(str)
    def text(self):
        return self._button.text[2:]

    @text.setter
    def text(self, text):
        self._button.text = ("▸ " if self._collapsed else "▾ ") + text

    @QtCore.Property(bool)
    def collapsed(self):
        return self._collapsed

    @collapsed.setter
    def collapsed(self, collapsed):
        self._collapsed = collapsed
        self._button.checked = not collapsed
        self.text = self._button.text[2:]
        self._show_contents()
        self.contentsCollapsed.emit(collapsed)

    def showEvent(self, event):
        self._show_contents()  # what the .ui loader has added meanwhile
        super().showEvent(event)

    def _show_contents(self):
        for child in self.findChildren(QtWidgets.QWidget, options=QtCore.Qt.FindDirectChildrenOnly):
            if child is not self._button:
                child.visible = not self._collapsed
        self.maximumHeight = 30 if self._collapsed else 16777215


class qMRMLWidget(QtWidgets.QWidget):
    mrmlSceneChanged = QtCore.Signal(object)

    def __init__(self, parent=None):
        super().__init__(parent)
        self.isEntered = False
        self._scene = None

    def mrmlScene(self):
        return self._scene

    def setMRMLScene(self, scene):
        self._scene = scene
        self.mrmlSceneChanged.emit(scene)


class qMRMLNodeComboBox(QtWidgets.QWidget):
    """Lists the nodes of a live scene; follows nodes that come, go and are renamed."""

    currentNodeChanged = QtCore.Signal(object)
    nodeTypes, showChildNodeTypes, noneEnabled, addEnabled, removeEnabled, renameEnabled, editEnabled = as_properties(
        nodeTypes=("QStringList", []),
        showChildNodeTypes=(bool, True),
        noneEnabled=(bool, False),
        addEnabled=(bool, True),
        removeEnabled=(bool, True),
        renameEnabled=(bool, False),
        editEnabled=(bool, False),
    )

    def __init__(self, parent=None):
        super().__init__(parent)
        self._scene, self._nodes, self._tags, self._current, self._wanted = None, [], [], None, None
        self._box = QtWidgets.QComboBox(self)
        layout = QtWidgets.QVBoxLayout(self)
        layout.contentsMargins = QtCore.QMargins(0, 0, 0, 0)
        layout.addWidget(self._box)
        self._box.activated.connect(self.setCurrentNodeIndex)
        self.focusProxy = self._box

    def setMRMLScene(self, scene):
        for tag in self._tags:
            self._scene.RemoveObserver(tag)
        self._scene = scene
        events = (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndBatchProcessEvent) if scene else ()
        self._tags = [scene.AddObserver(event, self._fill) for event in events]
        self._fill()

    def mrmlScene(self):
        return self._scene

    def currentNode(self):
        return self._current

    def setCurrentNode(self, node):
        self._wanted = node  # a scene that is being read has not told of it yet; the real one waits for it as well
        node = node if node in self._nodes else None
        if node is not self._current:
            self._current = node
            self._mark()
            self.currentNodeChanged.emit(node)

    def setCurrentNodeIndex(self, index):
        self.setCurrentNode(([None, *self._nodes] if self.noneEnabled else self._nodes)[index])

    def nodeCount(self):
        return len(self._nodes)

    def _fill(self, *event):
        if self._scene is not None and self._scene.IsBatchProcessing():
            return
        kinds = self.nodeTypes if self._scene else ()
        found = [node for kind in kinds for node in slicer.util.getNodesByClass(kind, self._scene)]
        self._nodes = [
            node
            for node in found
            if not node.GetHideFromEditors() and (self.showChildNodeTypes or node.GetClassName() in self.nodeTypes)
        ]
        self._box.clear()
        self._box.addItems((["None"] if self.noneEnabled else []) + [node.GetName() or "" for node in self._nodes])
        if self._wanted is not self._current and self._wanted in self._nodes:
            self.setCurrentNode(self._wanted)
        lost = self._current not in self._nodes
        if lost and (self._current is not None or not self.noneEnabled):
            self._current = self._nodes[0] if self._nodes and not self.noneEnabled else None
            self._mark()
            self.currentNodeChanged.emit(self._current)
        self._mark()

    def _mark(self):
        offset = 1 if self.noneEnabled else 0
        self._box.currentIndex = (
            self._nodes.index(self._current) + offset if self._current in self._nodes else offset - 1
        )


class ctkSliderWidget(QtWidgets.QWidget):
    valueChanged = QtCore.Signal(float)
    decimals, singleStep, minimum, maximum, suffix = as_properties(
        decimals=(int, 2), singleStep=(float, 1.0), minimum=(float, 0.0), maximum=(float, 100.0), suffix=(str, "")
    )

    def __init__(self, parent=None):
        super().__init__(parent)
        self._value = 0.0
        self._slider, self._box = QtWidgets.QSlider(QtCore.Qt.Horizontal, self), QtWidgets.QDoubleSpinBox(self)
        layout = QtWidgets.QHBoxLayout(self)
        layout.contentsMargins = QtCore.QMargins(0, 0, 0, 0)
        layout.addWidget(self._slider)
        layout.addWidget(self._box)
        self._slider.maximum = 1000
        self._slider.sliderMoved.connect(self._slid)
        self._box.valueChanged.connect(lambda value: setattr(self, "value", value))

    @QtCore.Property(float)
    def value(self):
        return self._value

    @value.setter
    def value(self, value):
        value = min(max(value, self.minimum), self.maximum)
        if value == self._value:
            return
        self._value = value
        self._box.minimum, self._box.maximum, self._box.decimals = self.minimum, self.maximum, self.decimals
        self._box.suffix, self._box.value = self.suffix, value
        span = (self.maximum - self.minimum) or 1.0
        self._slider.value = round(1000 * (value - self.minimum) / span)
        self.valueChanged.emit(value)

    def _slid(self, step):
        self.value = self.minimum + (self.maximum - self.minimum) * step / 1000


class ctkPathLineEdit(QtWidgets.QWidget):
    currentPathChanged = QtCore.Signal(str)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._edit = QtWidgets.QLineEdit(self)
        layout = QtWidgets.QHBoxLayout(self)
        layout.contentsMargins = QtCore.QMargins(0, 0, 0, 0)
        layout.addWidget(self._edit)
        layout.addWidget(QtWidgets.QToolButton(self))
        self._edit.textChanged.connect(self.currentPathChanged)

    @QtCore.Property(str)
    def currentPath(self):
        return self._edit.text

    @currentPath.setter
    def currentPath(self, path):
        self._edit.text = path
