"""Surfaces of what is drawn or labelled on a lattice."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped

from diffrender.errors import MeshError
from diffrender.mesh import Mesh


def contour(
    values: Shaped[np.ndarray, "k j i"],
    level: float,
    world_from_voxel: Float[np.ndarray, "4 4"],
    smoothing: int = 0,
    triangles: int | None = None,
) -> Mesh:
    """The closed surface, wound outward, of where `values` exceed `level`; beyond the lattice they are below it.

    Args:
        values: at the voxels' centres.
        world_from_voxel: of (i, j, k, 1), RAS [mm]; may be oblique and left-handed.
        smoothing: passes of a filter that takes steps of the lattice away and keeps volume (windowed sinc).
        triangles: thin it out to about so many.
    Raises: MeshError where nothing exceeds the level.
    """
    from vtkmodules.util.numpy_support import numpy_to_vtk, vtk_to_numpy
    from vtkmodules.vtkCommonDataModel import vtkImageData
    from vtkmodules.vtkFiltersCore import vtkFlyingEdges3D

    if not (values > level).any():
        raise MeshError(f"Nothing on this lattice of {list(values.shape)} exceeds {level:g}: there is no surface.")
    # Half as far below the level as the lattice goes: a neighbour of infinity would pull the surface onto the border.
    below = min(float(values.min()), level - 0.5 * (float(values.max()) - level))
    padded = np.pad(values.astype(np.float32), 1, constant_values=below)
    image = vtkImageData()
    image.SetDimensions(*padded.shape[::-1])
    image.SetSpacing(*np.linalg.norm(world_from_voxel[:3, :3], axis=0).tolist())
    image.GetPointData().SetScalars(numpy_to_vtk(padded.ravel(), deep=True))
    edges = vtkFlyingEdges3D()
    edges.SetInputData(image)
    edges.SetValue(0, level)
    edges.ComputeNormalsOff()
    edges.ComputeScalarsOff()
    edges.Update()
    surface = _thinned(_smoothed(edges.GetOutput(), smoothing), triangles)
    points = vtk_to_numpy(surface.GetPoints().GetData()).astype(np.float64)
    faces = vtk_to_numpy(surface.GetPolys().GetConnectivityArray()).reshape(-1, 3).astype(np.int64)
    steps = points / np.linalg.norm(world_from_voxel[:3, :3], axis=0) - 1  # the padding shifts by one
    world = steps @ world_from_voxel[:3, :3].T + world_from_voxel[:3, 3]
    if np.linalg.det(world_from_voxel[:3, :3]) < 0:
        faces = faces[:, ::-1].copy()
    return Mesh(torch.from_numpy(world.astype(np.float32)), torch.from_numpy(faces))


def _smoothed(surface: Any, passes: int) -> Any:
    if not passes:
        return surface
    from vtkmodules.vtkFiltersCore import vtkWindowedSincPolyDataFilter

    smooth = vtkWindowedSincPolyDataFilter()
    smooth.SetInputData(surface)
    smooth.SetNumberOfIterations(passes)
    smooth.SetPassBand(0.05)
    smooth.NormalizeCoordinatesOn()
    smooth.Update()
    return smooth.GetOutput()


def _thinned(surface: Any, triangles: int | None) -> Any:
    if triangles is None or triangles >= surface.GetNumberOfPolys():
        return surface
    from vtkmodules.vtkFiltersCore import vtkQuadricDecimation

    fewer = vtkQuadricDecimation()
    fewer.SetInputData(surface)
    fewer.SetTargetReduction(1 - triangles / surface.GetNumberOfPolys())
    fewer.VolumePreservationOn()
    fewer.Update()
    return fewer.GetOutput()
