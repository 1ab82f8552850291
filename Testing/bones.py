"""Bones of our own making, for registration: unlike themselves however they are turned or mirrored."""

import torch

import diffrender as dr


def wedge() -> dr.Volume:
    """A bone like no other when turned or mirrored: three rods of different lengths and widths."""
    k, j, i = torch.meshgrid(*(torch.arange(n).double() for n in (40, 36, 32)), indexing="ij")
    places = torch.stack([i * 1.5, j * 1.3, k * 1.6], -1)
    values = torch.full(k.shape, -1000.0)
    for end, width in (((40.0, 8.0, 6.0), 6.0), ((9.0, 40.0, 12.0), 4.0), ((14.0, 12.0, 57.0), 5.0)):
        corner = torch.tensor([8.0, 8.0, 8.0]).double()
        axis = torch.tensor(end).double() - corner
        along = (((places - corner) @ axis) / (axis @ axis)).clamp(0, 1)
        away = (places - corner - along[..., None] * axis).norm(dim=-1)
        values = torch.where(away < width, 900.0, values)
    lattice = torch.diag(torch.tensor([1.5, 1.3, 1.6, 1.0]).double())
    lattice[:3, 3] = torch.tensor([-21.0, -30.0, -24.0])
    return dr.Volume(values.float(), lattice)
