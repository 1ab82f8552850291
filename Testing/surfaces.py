"""Closed triangle meshes with known path lengths, and a judge: every ray against every face, float64, by autograd."""

import itertools

import numpy as np
import torch

import phantoms
from diffrender.mesh import Mesh


def icosphere(subdivisions: int) -> tuple[np.ndarray, np.ndarray]:
    """A unit sphere of 20 * 4**subdivisions triangles, wound outward: (v, 3), (f, 3)."""
    golden = (1 + 5**0.5) / 2
    vertices = np.array(
        [np.roll([0, a, b * golden], n) for n in range(3) for a, b in itertools.product((-1, 1), (-1, 1))]
    )
    triples = np.array(list(itertools.combinations(range(12), 3)))
    sides = np.linalg.norm(vertices[triples] - vertices[np.roll(triples, 1, axis=1)], axis=2)
    faces = triples[(np.abs(sides - 2) < 1e-9).all(axis=1)]
    return subdivided(vertices, turned_outward(vertices, faces), subdivisions, on_sphere=True)


def turned_outward(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """The faces of a convex solid about the origin, wound counter-clockwise seen from outside."""
    a, b, c = (vertices[faces[:, n]] for n in range(3))
    inward = np.einsum("fx,fx->f", a, np.cross(b, c)) < 0
    return np.where(inward[:, None], faces[:, ::-1], faces)


def subdivided(vertices, faces, times: int, on_sphere: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Each triangle cut into four at the middles of its sides, so many times."""
    for _ in range(times):
        sides = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
        ends, new = np.unique(sides, axis=0, return_inverse=True)
        ab, bc, ca = (new.reshape(-1) + len(vertices)).reshape(3, -1)
        vertices = np.concatenate([vertices, vertices[ends].mean(axis=1)])
        a, b, c = faces.T
        parts = [[a, ab, ca], [ab, b, bc], [ca, bc, c], [ab, bc, ca]]
        faces = np.concatenate([np.stack(part, axis=1) for part in parts])
    if on_sphere:
        vertices = vertices / np.linalg.norm(vertices, axis=1, keepdims=True)
    return vertices, faces


def of_ellipsoid(solid: phantoms.Ellipsoid, subdivisions: int = 3, dtype=torch.float32) -> Mesh:
    """An ellipsoid's inscribed mesh."""
    vertices, faces = icosphere(subdivisions)
    world = (vertices * solid.radii) @ solid.axes.T + solid.centre
    return Mesh(torch.as_tensor(world, dtype=dtype), torch.from_numpy(faces))


def of_box(solid: phantoms.Box, subdivisions: int = 0, dtype=torch.float32) -> Mesh:
    """A box as 12 * 4**subdivisions triangles."""
    corners = np.array(list(itertools.product((-1.0, 1.0), repeat=3)))
    quads = [[n for n in range(8) if corners[n, axis] == side] for axis in range(3) for side in (-1, 1)]
    faces = np.array([part for q in quads for part in (q[:3], q[1:])])
    vertices, faces = subdivided(corners, turned_outward(corners, faces), subdivisions)
    world = (vertices * solid.half) @ solid.axes.T + solid.centre
    return Mesh(torch.as_tensor(world, dtype=dtype), torch.from_numpy(faces))


def cast(mesh: Mesh, source, directions) -> tuple[torch.Tensor, torch.Tensor]:
    """Path lengths (ray,) [mm] and the least |n . d| of each ray's crossings; differentiable in the vertices.

    Source: Moller & Trumbore, J. Graph. Tools 2 (1997) 21, for which faces a ray meets; sums of signed distances.
    """
    source, d = torch.as_tensor(source), torch.as_tensor(directions).reshape(-1, 3)
    a, b, c = mesh.vertices.double()[mesh.faces].unbind(1)
    normal = torch.linalg.cross(b - a, c - a)
    slope = d @ normal.T
    cross = torch.linalg.cross(d[:, None].expand(-1, len(a), 3), (c - a)[None].expand(len(d), -1, 3))
    lever = torch.linalg.cross(source - a, b - a)
    v = (d @ lever.T) / (cross * (b - a)).sum(-1)
    u = (cross * (source - a)).sum(-1) / (cross * (b - a)).sum(-1)
    distance = (normal * (a - source)).sum(1) / slope
    hit = ((u > 0) & (v > 0) & (u + v < 1) & (distance > 0)).detach()
    lengths = torch.where(hit, slope.sign() * distance, 0.0).sum(1)
    cosine = torch.where(hit, slope.abs() / normal.norm(dim=1), torch.inf).amin(1)
    return lengths, cosine.detach()
