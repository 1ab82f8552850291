"""Rare findings as frequent as wanted: CTs and views chosen by what they show.

Pham and Tran (2022) name balance as an aim of synthesis: classes are made frequent by choosing CTs. Here views too: of
each CT, views that show a label and views that do not are told apart by projecting the label's voxels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool

from diffrender.camera import Camera
from diffrender.errors import SettingError, notify
from diffrender.volume import Volume

POINTS = 400  # of a label that are projected
LOOKED_AT = 4  # views looked at for each that is taken
FEWEST = 32  # views looked at of each CT
MISSED_BY = 0.02  # share by which a wish may be missed without a word


@dataclass(frozen=True, eq=False)
class Seen:
    """Which of the wished-for labels the first views of a CT show.

    Attributes:
        key: the CT's.
        shows: (view, label).
    """

    key: str
    shows: Bool[torch.Tensor, "view label"]


def views_looked_at(count: int, cases: int) -> int:
    """How many views of each CT are looked at for `count` images in all."""
    return max(FEWEST, LOOKED_AT * -(-count // cases))


def shown(volume: Volume, names: Sequence[str], cameras: Sequence[Camera]) -> Bool[torch.Tensor, "view label"]:
    """Whether any voxel of each label falls into each camera's picture; a label that is absent does not."""
    ids = {volume.label_name(label): label for label in volume.label_ids}
    found = torch.zeros(len(cameras), len(names), dtype=torch.bool)
    for n, name in enumerate(names):
        if name not in ids:
            continue
        voxels = volume.mask(ids[name]).nonzero().flip(1).double()
        some = voxels[:: max(1, len(voxels) // POINTS)]
        points = some @ volume.world_from_voxel[:3, :3].T + volume.world_from_voxel[:3, 3]
        for view, camera in enumerate(cameras):
            found[view, n] = _falls_inside(points, camera)
    return found


def chosen(seen: Sequence[Seen], wishes: Mapping[str, float], count: int) -> list[tuple[int, ...]]:
    """The views of each CT that together come nearest to the wishes: one after the other, always the best next.

    Args:
        seen: of each CT, in an order that does not depend on how they were given; labels as in `wishes`.
        wishes: {label's name: share of the images that show it}.
        count: images in all.
    Raises: SettingError for a label that no CT shows, or too few views.
    """
    wanted = torch.tensor(list(wishes.values()), dtype=torch.float64)
    for n, name in enumerate(wishes):
        if wishes[name] > 0 and not any(bool(one.shows[:, n].any()) for one in seen):
            raise SettingError(f"No CT shows {name!r} in any view, so no image can. Check the label's name.")
    groups = _groups(seen)
    taken: list[list[int]] = [[] for _ in seen]
    have = torch.zeros_like(wanted)
    for n in range(count):
        left = [key for key, views in groups.items() if views]
        if not left:
            raise SettingError(f"Only {n} views were found for {count} images. Ask for fewer, or give more CTs.")
        costs = {key: float(((have + torch.tensor(key[1])) / (n + 1) - wanted).abs().sum()) for key in left}
        best = min(left, key=lambda key: (round(costs[key], 9), len(taken[key[0]]), groups[key][0], key[0]))
        taken[best[0]].append(groups[best].pop(0))
        have += torch.tensor(best[1])
    for name, share, reached in zip(wishes, wanted.tolist(), (have / count).tolist(), strict=True):
        if abs(share - reached) > max(MISSED_BY, 1 / count):
            notify(
                f"{name} shows in {100 * reached:.0f} % of the images, not in {100 * share:.0f} %: these CTs do not "
                f"have enough views that {'show it' if reached < share else 'leave it out'}. Widen the spread of "
                "views, or give CTs with and without it."
            )
    return [tuple(sorted(views)) for views in taken]


def _groups(seen: Sequence[Seen]) -> dict[tuple[int, tuple[bool, ...]], list[int]]:
    """Views that show the same labels of the same CT, in order."""
    groups: dict[tuple[int, tuple[bool, ...]], list[int]] = {}
    for n, one in enumerate(seen):
        for view, row in enumerate(one.shows.tolist()):
            groups.setdefault((n, tuple(row)), []).append(view)
    return groups


def _falls_inside(points: torch.Tensor, camera: Camera) -> bool:
    projected = torch.cat([points, torch.ones_like(points[:, :1])], 1) @ camera.projection().T
    column, row = (projected[:, :2] / projected[:, 2:]).unbind(1)
    height, width = camera.image_size
    inside = (projected[:, 2] > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    return bool(inside.any())
