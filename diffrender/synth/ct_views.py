"""Views of a CT to train on: several builds of body, cameras drawn around presets, each view taken apart."""

from collections.abc import Generator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from diffrender.camera import Camera
from diffrender.errors import LabelError, SettingError
from diffrender.learning import drawn
from diffrender.rays.line import label_lengths
from diffrender.rays.prepared import MOST_LABELS, PreparedLabels, prepare_labels
from diffrender.synth.layers import Layers, Parts, extended, layers_of, parts_of
from diffrender.synth.lungs import with_lungs
from diffrender.synth.mask_rules import LUNGS, MaskRule, masks_of, outlines_of
from diffrender.synth.outlines import Outlines
from diffrender.synth.views import ViewSpread, drawn_camera
from diffrender.volume import Volume
from diffrender.xray import Radiograph

CHEST = (ViewSpread("chest-pa", 6, 6, 4, 10, 100, 0.1), ViewSpread("chest-ap-bedside", 8, 10, 6, 15, 150, 0.1))
# What people outline on real films is a little wider at the chest wall than a mask of 20 mm of path
OUTLINED = tuple(replace(rule, lateral=10.0, medial=55.0) for rule in LUNGS)


@dataclass(frozen=True)
class CtViews:
    """What is taken of each CT.

    Attributes:
        views: how many, drawn from `spreads` in turn.
        spreads: views and how far they stray.
        rules: of the labels to learn. Those with `joined` name structures; the rest are names as they stand.
        image_size: (h, w) [px] of the layers; training images are cut out of them.
        margin: how much larger than the view its picture is, so that images can be cut out of it.
        builds: bodies made of each CT by stretching it along its axes.
        stretch: of a build, standard deviation of the logarithm of each axis' scale.
        above, below: that a CT is extended by at its ends [mm].
        disease: whether the lungs also come filled with disease.
    Raises: SettingError.
    """

    views: int = 40
    spreads: tuple[ViewSpread, ...] = CHEST
    rules: tuple[MaskRule, ...] = OUTLINED
    image_size: tuple[int, int] = (144, 144)
    margin: float = 1.2
    builds: int = 4
    stretch: float = 0.08
    above: float = 90.0
    below: float = 120.0
    disease: bool = True

    def __post_init__(self):
        if min(self.views, self.builds) < 1 or min(self.image_size) < 16 or not self.spreads or not self.rules:
            raise SettingError(
                f"views and builds are 1 or more, images 16 px or more, spreads and rules at least one; not {self}."
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Of the labels, in the order of the masks."""
        return tuple(rule.joined or rule.names for rule in self.rules)


def layers_of_ct(volume: Volume, settings: CtViews, ct_hash: str, seed: int = 0) -> Generator[Layers, None, None]:
    """The views of one CT, one after the other; each is a function of CT, seed and number alone.

    Args:
        volume: HU, with the labels that the rules name; lungs are looked for where it has none.
        ct_hash: stands for the CT in all draws.
    Raises: LabelError where a rule names nothing that the CT has; UnitError.
    """
    wants_lungs = any("lung" in name for name in settings.names)
    labelled = _chosen(with_lungs(volume) if wants_lungs else volume, settings)
    lungs = _lungs(labelled)
    whole = extended(replace(labelled, values=volume.values), settings.above, settings.below)
    parts = parts_of(whole, _lungs(whole) if settings.disease and lungs is not None else None, seed)
    ids = whole.label_ids
    if len(ids) > MOST_LABELS:
        raise SettingError(f"{len(ids)} labels were asked for; {MOST_LABELS} at most are learned at once.")
    assert whole.labels is not None
    prepared = prepare_labels(whole.labels, ids)
    outlines = outlines_of(labelled, settings.rules)
    stretches = [_stretch(labelled, settings, f"{ct_hash} {n} {seed}") for n in range(settings.builds)]
    bodies = [replace(whole, world_from_voxel=one @ whole.world_from_voxel) for one in stretches]
    for view in range(settings.views):
        body, stretch = bodies[view % settings.builds], stretches[view % settings.builds]
        spread = settings.spreads[view // settings.builds % len(settings.spreads)]
        camera = drawn_camera(body, spread, ct_hash=ct_hash, view=view, seed=seed, image_size=settings.image_size)
        camera = replace(
            camera, pixel_size=(settings.margin * camera.pixel_size[0], settings.margin * camera.pixel_size[1])
        )
        masks = _masks(parts, prepared, body, camera, settings, _stretched(outlines, stretch))
        yield layers_of(parts, camera, masks, settings.names, view, body.world_from_voxel)


def _chosen(volume: Volume, settings: CtViews) -> Volume:
    """The volume with the structures that the rules name, one label for each, numbered from 1."""
    layers = []
    for rule in settings.rules:
        members = [label for label in volume.label_ids if rule.fits(volume.label_name(label))]
        if not members:
            has = ", ".join(volume.label_name(label) for label in volume.label_ids[:12]) or "no labels"
            raise LabelError(f"{volume.source or 'The CT'} has no label that fits {rule.names!r}; it has {has}.")
        layers.append(torch.stack([volume.mask(label) for label in members]).any(0))
    overlap = torch.stack(layers).sum(0).amax() > 1
    if overlap:
        labels = torch.stack(layers)
    else:
        labels = sum(
            ((n + 1) * layer.to(torch.uint8) for n, layer in enumerate(layers)),
            torch.zeros(volume.shape, dtype=torch.uint8),
        )
    return replace(volume, labels=labels, names=dict(enumerate(settings.names, 1)))


def _lungs(volume: Volume) -> Bool[Tensor, "k j i"] | None:
    found = [volume.mask(label) for label in volume.label_ids if "lung" in volume.label_name(label).lower()]
    return torch.stack(found).any(0) if found else None


def _masks(
    parts: Parts, prepared: PreparedLabels, body: Volume, camera: Camera, settings: CtViews, outlines: Outlines
) -> Bool[Tensor, "label h w"]:
    material = next(iter(parts.matter.prepared.values()))
    lengths = label_lengths(material, prepared, body.world_from_voxel, camera)
    blank = torch.zeros(1, *camera.image_size)
    rules = tuple(
        replace(rule, names=name, joined=None) for rule, name in zip(settings.rules, settings.names, strict=True)
    )
    radiograph = Radiograph(blank, "log-attenuation", camera, lengths, None, prepared.ids, body.names)
    masks = masks_of(radiograph, rules, outlines).masks
    assert masks is not None
    return masks


def _stretch(volume: Volume, settings: CtViews, what: str) -> Float[Tensor, "4 4"]:
    """A map of the world that scales the CT about its middle, along its own axes: along others it would shear it."""
    scales = torch.exp(settings.stretch * torch.randn(3, generator=drawn(0, what), dtype=torch.float64))
    axes = volume.world_from_voxel[:3, :3] / volume.world_from_voxel[:3, :3].norm(dim=0)
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = axes @ torch.diag(scales) @ axes.T
    matrix[:3, 3] = volume.centre - matrix[:3, :3] @ volume.centre
    return matrix


def _stretched(outlines: Outlines, stretch: Float[Tensor, "4 4"]) -> Outlines:
    return Outlines({name: base @ stretch[:3, :3].T + stretch[:3, 3] for name, base in outlines.bases.items()})
