"""Painting becomes targets, and 3D labels become a painting such as a person would have made."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped, UInt8
from scipy import ndimage
from torch import Tensor

from diffrender.dvr.colour import recoloured
from diffrender.dvr.targets import PAINTED, UNPAINTED, Target
from diffrender.dvr.view import Role, View, Views, classified
from diffrender.errors import ImageError, LabelError, SettingError, notify
from diffrender.rays.field import MarchSettings
from diffrender.rays.march import march_weights
from diffrender.volume import Volume

RIM = 2  # px on both sides of a border that are not looked at: nobody paints more exactly
SEEN = 0.1  # alpha below which a person sees nothing to paint
SPECK = 12  # px; strokes smaller than this nobody makes


def targets_of(views: Views, unpainted: float = 0.0) -> list[Target]:
    """What the painting asks for, one target a view.

    In a painted view the colours of a recoloured pixel are the paint's at the render's luminance, those of all others
    the render's; a hidden one has alpha 0, and only its alpha counts, since nobody knows what lies behind. Weights: 5
    where a paint says what is wanted, 1 where nothing is painted, 0 where ignored and within 2 px of a border between
    paints; alpha's likewise, but recolouring leaves it as it was, so that only borders of hidden and ignored paint
    have a rim there.

    Args:
        unpainted: weight of all pixels of a view without any paint. Such a view says nothing: whoever paints four views
            of sixteen has not said that the others are right as they are. So 0, and trainers leave them out.
    Raises: ImageError where nothing is painted, all of it is hidden, or nothing is left to learn from; LabelError for a
        paint without a role.
    """
    if not any(view.painted for view in views.views):
        raise ImageError(
            f"Nothing is painted on {_named(views)}, so there is nothing to learn. Paint one or more of them, and say "
            "in the roles what each paint means."
        )
    targets = [_target_of(view, views.roles, unpainted) for view in views.views]
    _check_targets(views, targets)
    return targets


def paint_from_labels(
    views: Views,
    volume: Volume,
    roles: Mapping[int, Role],
    painted: Sequence[int] | None = None,
    threshold: float = 0.5,
    sampling_rate: float = 1.0,
    progress: Callable[[int, int], object] | None = None,
) -> Views:
    """Views as if somebody had painted the labels of `volume` on them; earlier paint and roles give way.

    A pixel is painted with a label where voxels of that label, or within one of it and of no other, weigh more than
    `threshold` in what the pixel shows, all others together making up the rest. Specks and gaps that no brush would
    leave are removed.

    Args:
        views: drawn with the transfer function that they carry.
        roles: what to paint, and as what: {label id: role}. The id becomes the paint's.
        painted: numbers of the views to paint; by default all.
        threshold: share of the visible, from 0 to 1.
        progress: called with the views done and all of them.
    Raises: LabelError for a label that the volume has not, or an id beyond 255; SettingError.
    """
    if views.transfer is None:
        raise SettingError("These views do not say which transfer function drew them, so what they show is not known.")
    numbers = range(len(views.views)) if painted is None else painted
    wrong = [number for number in numbers if not 0 <= number < len(views.views)]
    if wrong:
        raise SettingError(f"There is no view {wrong[0]}; there are {len(views.views)}, counted from 0.")
    ids = _ids(volume, roles)
    extinction = classified(volume, views.transfer)[3]
    settings = MarchSettings(sampling_rate=sampling_rate)
    made = [replace(view, paint=None) for view in views.views]
    for done, number in enumerate(numbers, 1):
        view = made[number]
        weights = march_weights(ids, extinction, len(roles) + 1, volume.world_from_voxel, view.camera, settings)
        made[number] = replace(view, paint=_strokes(weights, view.image[3] >= SEEN, list(roles), threshold))
        if progress is not None:
            progress(done, len(numbers))
    return replace(views, views=tuple(made), roles=dict(roles))


def _target_of(view: View, roles: Mapping[int, Role], unpainted: float) -> Target:
    image = view.image.float()
    if view.paint is None or not view.painted:
        flat = torch.full(view.camera.image_size, unpainted)
        return Target(view.camera, image, flat, flat)
    paint, image = view.paint, image.clone()
    weight = torch.full(paint.shape, UNPAINTED)
    alpha_weight = weight.clone()
    uncertain = torch.zeros_like(paint)  # where not even alpha is that of the render
    for number in paint.unique().tolist():
        if number == 0:
            continue
        if number not in roles:
            raise LabelError(f"Paint {number} has no role; there are roles for {sorted(roles) or 'no paint'}.")
        role, here = roles[number], paint == number
        if role.role == "recolour":
            assert role.colour is not None  # a Role sees to it
            image[:3, here] = _recoloured(image[:, here], role.colour, role.strength)
        elif role.role == "hide":
            image[:, here] = 0
        colour_counts, alpha_counts, unsure = _COUNTS[role.role]
        weight[here], alpha_weight[here], uncertain[here] = colour_counts, alpha_counts, unsure
    weight[rim(paint)] = 0
    alpha_weight[rim(uncertain)] = 0
    return Target(view.camera, image, weight, alpha_weight)


# Of each role: the weight of colour, of alpha, and whether alpha is another than the render's (1 hidden, 2 unknown).
_COUNTS = {
    "recolour": (PAINTED, UNPAINTED, 0),
    "keep": (PAINTED, PAINTED, 0),
    "hide": (0.0, PAINTED, 1),
    "ignore": (0.0, 0.0, 2),
}


def rim(paint: UInt8[Tensor, "h w"], width: int = RIM) -> Bool[Tensor, "h w"]:
    """The pixels within `width` px of one that is painted otherwise, on both sides of each border."""
    ids = paint.cpu().numpy()
    near = np.zeros(ids.shape, bool)
    for number in np.unique(ids):
        here = ids == number
        if not here.all():
            near |= here & (ndimage.distance_transform_edt(here) <= width)  # pyright: ignore[reportOperatorIssue]
    return torch.from_numpy(near)


def _recoloured(
    rgba: Float[Tensor, "4 n"], colour: tuple[float, float, float], strength: float
) -> Float[Tensor, "3 n"]:
    """Premultiplied colours of premultiplied ones: luminance is that of what is seen, not of how much it covers."""
    alpha = rgba[3]
    straight = rgba[:3] / alpha.clamp(min=1e-4)
    return recoloured(straight.clamp(0, 1), colour, strength) * alpha


def _check_targets(views: Views, targets: list[Target]) -> None:
    asked = [(t, v) for t, v in zip(targets, views.views, strict=True) if v.painted]
    shown = any(bool(((t.weight > 0) & (t.image[3] > 0)).any()) for t, _ in asked)
    wanted = [number for number, role in views.roles.items() if role.role in ("recolour", "keep")]
    narrow = not shown and any(bool((v.paint == number).any()) for _, v in asked for number in wanted)
    if narrow or not any(t.counts for t, _ in asked):
        raise ImageError(
            f"The paint on {_named(views)} leaves nothing to learn from: all of it is ignored, or lies within {RIM} px "
            "of a border. Paint wider strokes, or another role."
        )
    if not shown:
        raise ImageError(
            f"Everything that {_named(views)} show is painted as hidden or ignored; a renderer would learn to draw "
            "nothing at all. Leave unpainted what should stay."
        )
    for number, role in views.roles.items():
        strokes = [(t, v.paint == number) for t, v in asked if v.paint is not None]
        if role.role == "ignore" or not any(bool(here.any()) for _, here in strokes):
            continue
        if not any(bool((t.painted & here).any()) for t, here in strokes):
            notify(
                f"{role.name} is nowhere painted wider than {2 * RIM} px, and {RIM} px along a border are not looked "
                "at, so this paint says nothing. Paint it wider, or larger views."
            )


def _named(views: Views) -> str:
    return "these views" if views.folder is None else f"the views in {views.folder}"


def _ids(volume: Volume, roles: Mapping[int, Role]) -> Shaped[Tensor, "k j i"]:
    """0 where none of the labels is, n + 1 where the n-th one is; the later ones lie over the earlier."""
    ids = torch.zeros(volume.shape, dtype=torch.int32)
    if not roles:
        raise SettingError("There is no label to paint. Give roles: {label id: Role(...)}.")
    for place, label in enumerate(roles, 1):
        if not 0 < label < 256:
            raise LabelError(f"Label {label} cannot be a paint; a paint's id goes from 1 to 255. Renumber the labels.")
        ids[volume.mask(label).cpu()] = place
    return _with_surfaces(ids, volume)


def _with_surfaces(ids: Shaped[Tensor, "k j i"], volume: Volume) -> Shaped[Tensor, "k j i"]:
    """Each structure grown by a voxel into what has no label at all.

    Labels end where a voxel is half full, and what a ray sees of an opaque structure is the soft edge before that.
    """
    assert volume.labels is not None
    bare = (volume.labels.any(0) if volume.labels.ndim == 4 else volume.labels != 0).logical_not().cpu().numpy()
    distance, nearest = ndimage.distance_transform_edt(ids.numpy() == 0, return_indices=True)  # pyright: ignore[reportGeneralTypeIssues]
    k, j, i = nearest
    return torch.where(torch.from_numpy(bare & (distance < 1.5)), ids[k, j, i], ids)


def _strokes(
    weights: Float[Tensor, "count h w"], drawn: Bool[Tensor, "h w"], labels: list[int], threshold: float
) -> UInt8[Tensor, "h w"]:
    """Of the labels' shares, where something is drawn, what a person would paint: no specks, no pinholes."""
    visible = weights.sum(0)
    share = (weights / visible.clamp(min=1e-6)).cpu().numpy()
    seen = (drawn & (visible >= SEEN).to(drawn.device)).cpu().numpy()
    paint, best = np.zeros(seen.shape, np.uint8), np.zeros(seen.shape)
    for place, label in enumerate(labels, 1):
        stroke = _brushed(seen & (share[place] > threshold)) & seen
        wins = stroke & (share[place] > best)
        paint[wins], best[wins] = label, share[place][wins]
    return torch.from_numpy(paint)


def _brushed(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    disc = ndimage.generate_binary_structure(2, 1)
    smooth: np.ndarray = ndimage.binary_closing(np.pad(ndimage.binary_opening(mask, disc), 2), disc, 2)[2:-2, 2:-2]
    pieces = np.empty(mask.shape, np.int32)
    ndimage.label(smooth, output=pieces)
    return smooth & (np.bincount(pieces.ravel()) >= SPECK)[pieces]
