"""A pencil of rays: one camera's rays in the voxel coordinates of one volume, and how they move with its pose."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from diffrender.camera import Camera
from diffrender.pose import inverse_motion_and_derivatives

# Voxels of air around the volume: one for the fall to air, one more so that a neighbour never lies outside the array.
PAD = 2
# A ray this steep to both other axes (the squares of its two slopes together) samples each slice twice, half a hat's
# width to either side: two Gauss points of the hat function by which the trilinear interpolant weighs a slice.
STEEP = 0.77  # a view at 40 degrees; where none of the usual angles puts whole columns of rays on the edge
HALF_HAT = 6**-0.5


@dataclass(frozen=True, eq=False)
class Pencil:
    """The rays of one camera, in padded voxel coordinates (i, j, k), index + PAD.

    Attributes:
        matrices: (7, 3, 4) padded-voxel-from-camera, and its derivatives in the six numbers of the pose.
        detector: columns, row step [mm], column step [mm], principal row, principal column [px], distance [mm].
        pixels: (n, 2) positions (row, column) [px from the image's corner] of sparse rays; empty for all pixels.
        size: the result's shape: (h, w), or (n,) for sparse rays.
        inside: whether the source lies in the volume or so close that a ray's first step, from the source to the
            nearest slice, can end in it: that step is a part of one.
    """

    matrices: Float[np.ndarray, "7 3 4"]
    detector: Float[np.ndarray, "6"]
    pixels: Float[np.ndarray, "n 2"]
    size: tuple[int, ...]
    inside: bool

    @property
    def count(self) -> int:
        """The number of rays."""
        return int(np.prod(self.size))

    def camera_directions(self) -> Float[np.ndarray, "ray 3"]:
        """Directions in the camera frame [mm], to the image plane; float64. The kernel works them out on its own."""
        columns, row_step, column_step, row, column, distance = self.detector
        if len(self.pixels):
            rows_at, columns_at = self.pixels.T
        else:
            n = np.arange(self.count)
            rows_at, columns_at = n // int(columns) + 0.5, n % int(columns) + 0.5
        x, y = (columns_at - column) * column_step, (rows_at - row) * row_step
        return np.stack([x, y, np.full_like(x, distance)], axis=1)

    def dominant_axes(self) -> set[int]:
        """The axes (0 = i, 1 = j, 2 = k) along which some ray advances fastest."""
        directions = np.abs(self.camera_directions() @ self.matrices[0, :, :3].T)
        return set(np.unique(directions.argmax(axis=1)).tolist())


def pencil_of(
    camera: Camera,
    world_from_voxel: Float[np.ndarray, "4 4"],
    shape: tuple[int, int, int],
    xi: Float[np.ndarray, "6"],
    centre: Float[np.ndarray, "3"],
    pixels: Float[np.ndarray, "n 2"] | None = None,
) -> Pencil:
    """The rays of `camera` through a volume of `shape` (k, j, i) on the lattice `world_from_voxel`, moved by `xi`."""
    voxel_from_body = np.linalg.inv(world_from_voxel)[:3]
    body_from_moved, derivatives = inverse_motion_and_derivatives(xi, centre)
    world_from_camera = camera.world_from_camera.numpy()
    matrices = np.empty((7, 3, 4))
    matrices[0] = voxel_from_body @ body_from_moved @ world_from_camera
    matrices[0, :, 3] += PAD
    matrices[1:] = voxel_from_body[:, :3] @ derivatives[:, :3] @ world_from_camera
    source, ends = matrices[0, :, 3], np.array(shape[::-1]) + PAD
    detector = (camera.image_size[1], *camera.pixel_size, *camera.principal_point, camera.source_to_detector)
    return Pencil(
        matrices,
        np.array(detector, dtype=np.float64),
        np.zeros((0, 2)) if pixels is None else np.ascontiguousarray(pixels, dtype=np.float64),
        camera.image_size if pixels is None else (len(pixels),),
        bool((source > PAD - 2).all() and (source < ends + 1).all()),
    )
