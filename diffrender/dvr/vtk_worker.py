"""The process that draws in VTK: where no OpenGL can be loaded, VTK's first Render ends the interpreter it runs in.

Started by `vtk_view` as `python -m diffrender.dvr.vtk_worker FOLDER`; it reads FOLDER/task.json and FOLDER/values.npy,
and writes FOLDER/images.npy, (n, h, w, 4) uint8, premultiplied. Imports neither torch nor the rest of the library.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np


def main(folder: str) -> None:
    task = json.loads(Path(folder, "task.json").read_text(encoding="utf-8"))
    values = np.load(Path(folder, "values.npy"), mmap_mode="r")
    images = draw(values, task)
    np.save(Path(folder, "images.npy"), images)


def draw(values: np.ndarray, task: dict[str, Any]) -> np.ndarray:
    """All views of one volume, (n, h, w, 4) uint8."""
    import vtkmodules.vtkRenderingOpenGL2
    import vtkmodules.vtkRenderingVolumeOpenGL2  # noqa: F401  # both register what the classes below are made of
    from vtkmodules.vtkRenderingCore import vtkRenderer, vtkRenderWindow, vtkVolume

    mapper = _mapper(task)
    mapper.SetInputData(_image(values, task["spacing"]))
    volume = vtkVolume()
    volume.SetMapper(mapper)
    volume.SetProperty(_property(task))
    volume.SetUserMatrix(_matrix(task["world_from_image"]))
    renderer = vtkRenderer()
    renderer.SetBackground(0, 0, 0)
    renderer.SetBackgroundAlpha(0)
    renderer.AddVolume(volume)
    window = vtkRenderWindow()
    window.SetOffScreenRendering(1)
    window.SetAlphaBitPlanes(1)
    window.SetMultiSamples(0)
    window.AddRenderer(renderer)
    return np.stack([_view(window, renderer, camera) for camera in task["cameras"]])


def _mapper(task: dict[str, Any]) -> Any:
    from vtkmodules.vtkRenderingVolume import vtkFixedPointVolumeRayCastMapper
    from vtkmodules.vtkRenderingVolumeOpenGL2 import vtkOpenGLGPUVolumeRayCastMapper

    if task["mapper"] == "gpu":
        mapper = vtkOpenGLGPUVolumeRayCastMapper()
        mapper.UseJitteringOff()
        mapper.LockSampleDistanceToInputSpacingOff()
    else:
        mapper = vtkFixedPointVolumeRayCastMapper()
        mapper.IntermixIntersectingGeometryOff()
        mapper.LockSampleDistanceToInputSpacingOff()
    mapper.AutoAdjustSampleDistancesOff()
    mapper.SetImageSampleDistance(1.0)
    mapper.SetSampleDistance(task["step"])
    mapper.SetBlendModeToComposite()
    return mapper


def _image(values: np.ndarray, spacing: list[float]) -> Any:
    from vtkmodules.util.numpy_support import numpy_to_vtk
    from vtkmodules.vtkCommonDataModel import vtkImageData

    image = vtkImageData()
    image.SetDimensions(*values.shape[2::-1])
    image.SetSpacing(*spacing)
    components = values.shape[3] if values.ndim == 4 else 1
    flat = np.ascontiguousarray(values).reshape(-1, components) if components > 1 else np.ascontiguousarray(values)
    image.GetPointData().SetScalars(numpy_to_vtk(flat if components > 1 else flat.ravel(), deep=True))
    return image


def _property(task: dict[str, Any]) -> Any:
    from vtkmodules.vtkCommonDataModel import vtkPiecewiseFunction
    from vtkmodules.vtkRenderingCore import vtkColorTransferFunction, vtkVolumeProperty

    opacity = vtkPiecewiseFunction()
    for value, alpha in task["opacities"]:
        opacity.AddPoint(value, alpha)
    look = vtkVolumeProperty()
    look.SetScalarOpacity(opacity)
    look.SetScalarOpacityUnitDistance(task["unit_distance"])
    look.SetInterpolationTypeToLinear()
    look.ShadeOff()
    if task["colours"] is None:  # the volume's own red, green and blue
        look.IndependentComponentsOff()
    else:
        colour = vtkColorTransferFunction()
        for point in task["colours"]:
            colour.AddRGBPoint(*point)
        look.SetColor(colour)
    return look


def _view(window: Any, renderer: Any, camera: dict[str, Any]) -> np.ndarray:
    from vtkmodules.util.numpy_support import vtk_to_numpy
    from vtkmodules.vtkCommonCore import vtkUnsignedCharArray

    height, width = camera["image_size"]
    window.SetSize(width, height)
    eye = renderer.GetActiveCamera()
    eye.SetPosition(*camera["position"])
    eye.SetFocalPoint(*camera["focal_point"])
    eye.SetViewUp(*camera["up"])
    eye.SetClippingRange(*camera["range"])
    eye.SetExplicitProjectionTransformMatrix(_matrix(camera["projection"]))
    eye.UseExplicitProjectionTransformMatrixOn()
    window.Render()
    if tuple(window.GetSize()) != (width, height):
        sys.exit(f"VTK made a window of {window.GetSize()} pixels in place of {(width, height)}.")
    pixels = vtkUnsignedCharArray()
    window.GetRGBACharPixelData(0, 0, width - 1, height - 1, 0, pixels)
    upright = vtk_to_numpy(pixels).reshape(height, width, 4)[::-1]
    return upright[:, ::-1] if camera["mirrored"] else upright


def _matrix(rows: list[list[float]]) -> Any:
    from vtkmodules.vtkCommonMath import vtkMatrix4x4

    matrix = vtkMatrix4x4()
    for row in range(4):
        for column in range(4):
            matrix.SetElement(row, column, rows[row][column])
    return matrix


if __name__ == "__main__":
    main(sys.argv[1])
