"""A simulated patient as a CT: the same bodies on a lattice, in HU, with labels."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from diffrender.errors import SettingError
from diffrender.fit.confounders import Quadric, soft_tissue
from diffrender.fit.simulation import DISC, FAT, LABELS, MUSCLE, Patient, SimulateSettings, generator, patient_of
from diffrender.mesh import Mesh
from diffrender.physics.attenuation import HU_AIR, water_attenuation
from diffrender.volume import Volume

MARGIN = 40.0  # mm of lattice above and below the bones that were given
MOST_VOXELS = 2**28


def voxelised(
    bodies: Mapping[str, Mesh] | Sequence[Mesh],
    settings: SimulateSettings | None = None,
    seed: int = 0,
    spacing: float = 2.0,
    landmarks: Mapping[str, Float[Tensor, "3"]] | None = None,
) -> Volume:
    """The patient of `simulate` with the same seed, as a CT whose labels are those of `simulate.LABELS`.

    Args:
        bodies, settings, seed, landmarks: as in `simulate`. Scatter, noise and what else happens outside the patient
            are left out.
        spacing: edge of a voxel [mm]. A shell thinner than that is drawn as thick as its voxels' centres say.
    Raises: SettingError, MeshError.
    """
    settings = SimulateSettings() if settings is None else settings
    patient = patient_of(bodies, settings, seed, landmarks)
    low, high = _bounds(patient)
    size = np.maximum(np.ceil((high - low) / spacing).astype(int) + 1, 1)
    if not spacing > 0 or size.prod() > MOST_VOXELS:
        raise SettingError(f"Voxels of {spacing:g} mm would be {size.prod():.2g} in number; take larger ones.")
    lattice = np.diag([spacing, spacing, spacing, 1.0])
    lattice[:3, 3] = low
    values = np.full(size[::-1], HU_AIR, dtype=np.float32)
    labels = np.zeros(size[::-1], dtype=np.uint8)
    if settings.torso and patient.anatomy is not None:
        _draw_soft(values, patient, settings, seed, low, spacing)
    water = water_attenuation(settings.energy)
    for disc in patient.discs:
        values[_inside(disc, values.shape, low, spacing)] = DISC
    for label, outer, inner, dense, spongy in patient.bones:
        whole = _inside(outer, values.shape, low, spacing)
        values[whole] = 1000 * (dense / water - 1)
        if inner is not None:
            values[whole & _inside(inner, values.shape, low, spacing)] = 1000 * (spongy / water - 1)
        labels[whole] = label
    return Volume(torch.from_numpy(values), torch.from_numpy(lattice), torch.from_numpy(labels), LABELS)


def _bounds(patient: Patient) -> tuple[np.ndarray, np.ndarray]:
    bounds = torch.stack([mesh.bounds for mesh in patient.truth.parts.values()])
    low, high = bounds[:, 0].amin(0).numpy() - MARGIN, bounds[:, 1].amax(0).numpy() + MARGIN
    if patient.anatomy is not None and patient.truth.settings.torso:
        trunk = soft_tissue(patient.anatomy, generator(patient.truth.seed, "torso")).outer[0]
        reach = np.abs(trunk.axes[:2].T) @ np.array(trunk.radii[:2])
        low[:2] = np.minimum(low[:2], (trunk.centre - reach)[:2] - 4)
        high[:2] = np.maximum(high[:2], (trunk.centre + reach)[:2] + 4)
    return low, high


def _draw_soft(
    values: np.ndarray, patient: Patient, settings: SimulateSettings, seed: int, low: np.ndarray, spacing: float
) -> None:
    assert patient.anatomy is not None
    body = soft_tissue(patient.anatomy, generator(seed, "torso"))
    for solid in body.outer:
        _paint(values, solid, low, spacing, lambda old: FAT)
    for solid in body.inner:
        _paint(values, solid, low, spacing, lambda old: MUSCLE)
    for solid, share in body.lumps:
        _paint(values, solid, low, spacing, lambda old, s=share: np.where(old > FAT, old - s * (MUSCLE - FAT), old))
    for solid in body.gas if settings.gas else ():
        _paint(values, solid, low, spacing, lambda old: np.where(old > HU_AIR, HU_AIR, old))


def _paint(values: np.ndarray, solid: Quadric, low: np.ndarray, spacing: float, new) -> None:
    """Change the voxels in a solid, looked for in the box around it alone."""
    shape = np.array(values.shape[::-1])
    reach = np.nan_to_num(np.abs(solid.axes.T) @ np.array(solid.radii), posinf=1e6, nan=1e6)
    first = np.clip(np.floor((solid.centre - reach - low) / spacing), 0, shape).astype(int)
    last = np.clip(np.ceil((solid.centre + reach - low) / spacing) + 1, 0, shape).astype(int)
    if (last <= first).any():
        return
    part = values[first[2] : last[2], first[1] : last[1], first[0] : last[0]]
    for k in range(part.shape[0]):  # a slice at a time: whole boxes of points take gigabytes
        y, x = np.mgrid[first[1] : last[1], first[0] : last[0]]
        points = low + spacing * np.stack([x, y, np.full_like(x, first[2] + k)], axis=-1)
        here = solid.holds(points)
        part[k][here] = new(part[k][here])


def _inside(mesh: Mesh, shape: tuple[int, ...], low: np.ndarray, spacing: float) -> Bool[np.ndarray, "k j i"]:
    """The voxels whose centres lie in a closed surface."""
    from vtkmodules.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray, vtk_to_numpy
    from vtkmodules.vtkCommonCore import vtkPoints
    from vtkmodules.vtkCommonDataModel import vtkCellArray, vtkPolyData
    from vtkmodules.vtkImagingStencil import vtkImageStencilToImage, vtkPolyDataToImageStencil

    surface, corners, cells = vtkPolyData(), vtkPoints(), vtkCellArray()
    voxels = (mesh.vertices.detach().double().numpy() - low) / spacing
    corners.SetData(numpy_to_vtk(np.ascontiguousarray(voxels), deep=True))
    offsets = np.arange(0, 3 * len(mesh.faces) + 1, 3)
    cells.SetData(*(numpy_to_vtkIdTypeArray(n, deep=True) for n in (offsets, mesh.faces.numpy().ravel())))
    surface.SetPoints(corners)
    surface.SetPolys(cells)
    stencil, image = vtkPolyDataToImageStencil(), vtkImageStencilToImage()
    stencil.SetInputData(surface)
    stencil.SetOutputWholeExtent(0, shape[2] - 1, 0, shape[1] - 1, 0, shape[0] - 1)
    image.SetInputConnection(stencil.GetOutputPort())
    image.SetInsideValue(1)
    image.SetOutsideValue(0)
    image.SetOutputScalarTypeToUnsignedChar()
    image.Update()
    return vtk_to_numpy(image.GetOutput().GetPointData().GetScalars()).reshape(shape).astype(bool)
