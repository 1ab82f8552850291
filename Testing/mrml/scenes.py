"""A scene with the nodes and the logics of slicer-core, without Slicer's windows and modules."""

from pathlib import Path

import numpy as np


class Slicer:
    """A scene and what keeps it alive."""

    def __init__(self, cache: Path):
        import slicer

        self.scene = slicer.vtkMRMLScene()
        application = slicer.vtkSlicerApplicationLogic()
        application.SetMRMLScene(self.scene)
        names = (
            "vtkSlicerVolumesLogic", "vtkSlicerSegmentationsModuleLogic", "vtkSlicerVolumeRenderingLogic",
            "vtkSlicerMarkupsLogic", "vtkSlicerSequencesLogic", "vtkSlicerTransformLogic",
        )  # fmt: skip
        self.logics = [application, *(getattr(slicer, name)() for name in names)]
        for logic in self.logics[1:]:
            logic.SetMRMLScene(self.scene)
        colours = slicer.vtkMRMLColorLogic()
        colours.SetMRMLScene(self.scene)
        self.files = slicer.vtkMRMLRemoteIOLogic()  # a scene in an .mrb is unpacked into its cache
        self.files.GetCacheManager().SetRemoteCacheDirectory(str(cache))
        self.files.SetMRMLScene(self.scene)
        self.files.AddDataIOToScene()
        self.logics += [colours]

    def add(self, kind: str, name: str = "node", parent=None):
        node = self.scene.AddNewNodeByClass(f"vtkMRML{kind}Node", name)
        assert node is not None, kind
        if parent is not None:
            node.SetAndObserveTransformNodeID(parent.GetID())
        return node

    def transform(self, matrix, parent=None, name: str = "transform"):
        """A linear transform node with this matrix to its parent, made by hand."""
        node = self.add("LinearTransform", name, parent)
        node.SetMatrixTransformToParent(vtk4(matrix))
        return node

    def grid(self, linear, shift, parent=None):
        """A grid transform node that moves x to x + linear @ x + shift within 300 mm of the origin.

        Displacements are linear between nodes of a grid, so linear ones are exact.
        """
        from vtkmodules.util.numpy_support import numpy_to_vtk
        from vtkmodules.vtkCommonDataModel import vtkImageData
        from vtkmodules.vtkFiltersHybrid import vtkGridTransform

        n, step = 5, 150.0
        image = vtkImageData()
        image.SetDimensions(n, n, n)
        image.SetOrigin(-300, -300, -300)
        image.SetSpacing(step, step, step)
        k, j, i = np.meshgrid(*[np.arange(n) * step - 300] * 3, indexing="ij")
        points = np.stack([i, j, k], -1).reshape(-1, 3)
        image.GetPointData().SetScalars(numpy_to_vtk(points @ np.asarray(linear).T + shift, deep=True))
        transform = vtkGridTransform()
        transform.SetDisplacementGridData(image)
        transform.SetInverseTolerance(1e-6)
        transform.SetInverseIterations(5000)
        node = self.add("GridTransform", "warp", parent)
        node.SetAndObserveTransformToParent(transform)
        return node


def vtk4(matrix):
    from vtkmodules.vtkCommonMath import vtkMatrix4x4

    made = vtkMatrix4x4()
    for row in range(4):
        for column in range(4):
            made.SetElement(row, column, float(matrix[row][column]))
    return made
