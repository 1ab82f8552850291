"""VTK's vtkFixedPointVolumeRayCastMapper on one thread, as a contender of `bench_march`; needs vtk."""

import numpy as np
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy


class Mapper:
    """A window with one volume, and the same window without it."""

    def __init__(self, numbers: np.ndarray, points, colours, place: dict, image_size: tuple[int, int]):
        image = vtk.vtkImageData()
        image.SetDimensions(*numbers.shape[::-1])
        image.GetPointData().SetScalars(numpy_to_vtk(numbers.ravel(), deep=True))
        mapper = vtk.vtkFixedPointVolumeRayCastMapper()
        mapper.SetInputData(image)
        mapper.SetNumberOfThreads(1)
        mapper.AutoAdjustSampleDistancesOff()
        mapper.LockSampleDistanceToInputSpacingOff()
        mapper.SetImageSampleDistance(1.0)
        mapper.SetSampleDistance(1.0)
        mapper.SetInteractiveSampleDistance(1.0)
        opacity, colour, look = vtk.vtkPiecewiseFunction(), vtk.vtkColorTransferFunction(), vtk.vtkVolumeProperty()
        for point in points:
            opacity.AddPoint(*point)
        for point in colours:
            colour.AddRGBPoint(*point)
        look.SetScalarOpacity(opacity)
        look.SetColor(colour)
        look.SetInterpolationTypeToLinear()
        look.ShadeOff()
        look.SetScalarOpacityUnitDistance(1.0)
        self.volume, self.renderer, self.window = vtk.vtkVolume(), vtk.vtkRenderer(), vtk.vtkRenderWindow()
        self.volume.SetMapper(mapper)
        self.volume.SetProperty(look)
        self.renderer.AddVolume(self.volume)
        self.window.SetOffScreenRendering(1)
        self.window.SetMultiSamples(0)
        self.window.SetSize(*image_size[::-1])
        self.window.AddRenderer(self.renderer)
        camera = self.renderer.GetActiveCamera()
        camera.SetFocalPoint(*place["focal point"])
        camera.SetPosition(*place["position"])
        camera.SetViewUp(*place["up"])
        camera.SetViewAngle(place["angle"])
        self.renderer.ResetCameraClippingRange()

    def draw(self) -> None:
        self.volume.VisibilityOn()
        self.volume.Modified()
        self.window.Render()

    def empty(self) -> None:
        self.volume.VisibilityOff()
        self.window.Render()

    def picture(self) -> np.ndarray:
        """(h, w, 3) in 0..1."""
        self.draw()
        grab = vtk.vtkWindowToImageFilter()
        grab.SetInput(self.window)
        grab.Update()
        found = grab.GetOutput()
        width, height, _ = found.GetDimensions()
        return vtk_to_numpy(found.GetPointData().GetScalars()).reshape(height, width, 3)[::-1] / 255
