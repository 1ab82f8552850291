"""VTK's images as arrays (k, j, i) or (k, j, i, component), and back."""

from typing import Any

import numpy as np
from jaxtyping import Shaped
from numpy import ndarray

from diffrender.errors import ImageError

# What torch holds and VTK's images do not show: long long is drawn wrongly, half floats and bool are unknown to it.
_SHOWN_AS = {"bool": np.uint8, "int64": np.int32, "uint64": np.int32, "float16": np.float32}


def view_of(image: Any, what: str) -> Shaped[ndarray, "k j i *component"]:
    """The voxels of a vtkImageData, its memory shared: read or copy at once. `what` begins messages.

    Raises: ImageError where there are none.
    """
    from vtkmodules.util.numpy_support import vtk_to_numpy

    scalars = None if image is None else image.GetPointData().GetScalars()
    if image is None or scalars is None or not scalars.GetNumberOfTuples():
        raise ImageError(f"{what} holds no voxels. Load or make its image first.")
    array = vtk_to_numpy(scalars)
    components = scalars.GetNumberOfComponents()
    shape = tuple(reversed(image.GetDimensions()))
    return array.reshape(shape if components == 1 else (*shape, components))


def filled(image: Any, array: Shaped[ndarray, "k j i *component"]) -> Any:
    """A vtkImageData given this size and these voxels: one copy, into memory that VTK owns."""
    from vtkmodules.util.numpy_support import get_vtk_array_type

    dtype = np.dtype(_SHOWN_AS.get(array.dtype.name, array.dtype))
    components = array.shape[3] if array.ndim == 4 else 1
    image.SetDimensions(*array.shape[2::-1])
    image.AllocateScalars(get_vtk_array_type(dtype), components)
    view_of(image, "A new image")[...] = array
    return image


def image_of(array: Shaped[ndarray, "k j i *component"]) -> Any:
    """A new vtkImageData of these voxels."""
    from vtkmodules.vtkCommonDataModel import vtkImageData

    return filled(vtkImageData(), array)
