"""What is trained on: volumes, each with its targets; which view is kept out, and in which order the others come."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffrender.dvr.settings import TrainSettings
from diffrender.dvr.targets import Target
from diffrender.errors import ImageError, SettingError, notify
from diffrender.learning import drawn
from diffrender.rays.field import check_finite
from diffrender.volume import Volume

ENOUGH = 3  # views to learn from, so that one can be spared


@dataclass(frozen=True, eq=False)
class Case:
    """A volume and what cameras should see of it. Targets that weigh nothing anywhere are not trained on."""

    volume: Volume
    targets: tuple[Target, ...]


@dataclass(frozen=True)
class HeldOut:
    """The view that is kept out.

    Attributes:
        case, view: which one; what is shown as the preview.
        scored: whether it has something to be compared with, and is not trained on.
    """

    case: int
    view: int
    scored: bool


def check_cases(cases: Sequence[Case], settings: TrainSettings) -> None:
    """Raises: ImageError, SettingError for what cannot be trained on."""
    if not any(target.counts for case in cases for target in case.targets):
        raise ImageError("There is nothing to learn from: no target has a pixel that counts. Paint a view, or more.")
    for case in cases:
        volume = case.volume
        check_finite(volume.values, volume.source or "The volume")
        low, high = volume.values.amin().item(), volume.values.amax().item()
        if low == high:
            raise ImageError(
                f"{volume.source or 'The volume'} holds the value {low:g} and no other, so nothing in it can be told "
                "apart. Was the right file read?"
            )
    count = sum(len(case.targets) for case in cases)
    if settings.held_out is not None and not -1 <= settings.held_out < count:
        raise SettingError(
            f"held_out is the number of one of the {count} views, from 0, or -1; not {settings.held_out}."
        )
    held = held_out_of(cases, settings, quiet=True)
    if not trained_views(cases, held):
        raise ImageError("The view that is kept out is the only one to learn from. Paint another, or give held_out=-1.")
    if settings.renderer == "clusters" and len(cases) > 1:
        raise SettingError("clusters are those of one volume; train it on one, or take another renderer for several.")


def held_out_of(cases: Sequence[Case], settings: TrainSettings, quiet: bool = False) -> HeldOut:
    """Which view is kept out and scored. With a `Notice` where none can be spared."""
    flat = [(c, v) for c, case in enumerate(cases) for v in range(len(case.targets))]
    telling = [(c, v) for c, v in flat if cases[c].targets[v].counts]
    if settings.held_out is not None and settings.held_out >= 0:
        case, view = flat[settings.held_out]
        return HeldOut(case, view, cases[case].targets[view].counts)
    if settings.held_out is None and len(telling) >= ENOUGH:
        return HeldOut(*telling[-1], True)
    if settings.held_out is None and not quiet:
        notify(
            f"There {'is one view' if len(telling) == 1 else f'are {len(telling)} views'} to learn from, so none is "
            "kept out, and how well it does on others is not measured."
        )
    silent = [place for place in flat if place not in telling]
    return HeldOut(*(silent or telling)[-1], False)


def trained_views(cases: Sequence[Case], held: HeldOut) -> list[tuple[int, int]]:
    """(case, view) of all that are trained on."""
    return [
        (c, v)
        for c, case in enumerate(cases)
        for v, target in enumerate(case.targets)
        if target.counts and not (held.scored and (c, v) == (held.case, held.view))
    ]


def epoch(views: Sequence[tuple[int, int]], batch: int, seed: int, number: int) -> list[tuple[int, list[int]]]:
    """The order of one epoch: batches (case, views), each of one volume, since that is encoded once a step."""
    random = drawn(seed, "epoch", number)
    batches = []
    for case in sorted({c for c, _ in views}):
        own = [v for c, v in views if c == case]
        shuffled = [own[n] for n in torch.randperm(len(own), generator=random).tolist()]
        batches += [(case, shuffled[n : n + batch]) for n in range(0, len(shuffled), batch)]
    return [batches[n] for n in torch.randperm(len(batches), generator=random).tolist()]


def case_record(case: Case) -> dict[str, Any]:
    """Hashes that tell one training's data from another's: of the volume's numbers and lattice, and of its targets."""
    volume = case.volume
    targets = hashlib.sha256()
    for target in case.targets:
        targets.update(json.dumps(target.camera.to_dict()).encode())
        for tensor in (target.image, target.weight, target.alpha_weight):
            targets.update(_bytes(tensor))
    return {
        "volume": hashlib.sha256(_bytes(volume.values) + _bytes(volume.world_from_voxel)).hexdigest(),
        "targets": targets.hexdigest(),
        "views": len(case.targets),
    }


def difference(ours: Mapping[str, Any], theirs: Mapping[str, Any], prefix: str = "") -> str | None:
    """The first entry in which two records differ, in words; None where they are equal."""
    for key in sorted({*ours, *theirs}):
        a, b = ours.get(key), theirs.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            if found := difference(a, b, f"{prefix}{key}."):
                return found
        elif a != b:
            return f"{prefix.removeprefix('settings.')}{key} is {_short(a)} here and was {_short(b)} there"
    return None


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().numpy().tobytes()


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
