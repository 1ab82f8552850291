"""What a mask is, label by label: where a path is long enough, or a lung as a radiologist outlines it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from diffrender.errors import LabelError, SettingError
from diffrender.synth.outlines import Outlines, bases_of, outlined
from diffrender.volume import Volume
from diffrender.xray import Radiograph

OUTLINES = ("path", "lung")
BONES = "rib*|vertebra*|clavicula*|scapula*|humerus*|femur*|hip*|sacrum*|sternum*|skull*|*bone*|costal*|pelvis*"
DEVICES = "*catheter*|*tube*|*wire*|*lead|*metal*|*implant*|*screw*|*device*"
VESSELS = "*aorta*|*artery*|*vein*|*vena*|*vessel*|*trunk*"


@dataclass(frozen=True)
class MaskRule:
    """When a pixel belongs to a label.

    Attributes:
        names: patterns as file names have them, in small letters, several parted by "|".
        threshold: a pixel belongs to the label where its ray runs further than this inside it [mm].
        outline: "path", the threshold alone; or "lung", the outline that a radiologist draws: above the dome of the
            diaphragm, without holes, from where the path exceeds `lateral` at the chest wall to where it exceeds
            `medial` at the mediastinum. The part behind the heart belongs to it.
        lateral, medial: [mm], of "lung" alone.
        dome: of "lung" alone: whether what the diaphragm's dome hides is left out.
        joined: the labels of these names are added up to one structure of this name, shown beside them; "lung" needs
            "right" or "left" in it.
    Raises: SettingError.
    """

    names: str
    threshold: float = 1.0
    outline: str = "path"
    lateral: float = 20.0
    medial: float = 60.0
    dome: bool = True
    joined: str | None = None

    def __post_init__(self):
        if self.outline not in OUTLINES:
            raise SettingError(f"outline is one of {', '.join(OUTLINES)}, not {self.outline!r}.")
        for name in ("threshold", "lateral", "medial"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e3:
                raise SettingError(f"{name} is a path [mm] above zero and below 1000, not {value!r}.")
        if self.outline == "lung" and self.side is None:
            raise SettingError(
                f'The outline "lung" is of one side, and neither {self.names!r} nor joined={self.joined!r} names right '
                'or left. Write two rules, one for each side, with joined="lung_right" and joined="lung_left".'
            )

    @property
    def side(self) -> str | None:
        """ "right" or "left"."""
        text = self.joined or self.names
        return next((side for side in ("right", "left") if side in text.lower()), None)

    def fits(self, name: str) -> bool:
        return any(fnmatchcase(name.lower(), pattern) for pattern in self.names.lower().split("|"))


LUNGS = tuple(
    MaskRule(f"*lung*{side}*|*{side}*lung*", outline="lung", joined=f"lung_{side}") for side in ("right", "left")
)
DEFAULT_RULES: tuple[MaskRule, ...] = (
    *LUNGS,
    MaskRule(BONES, 2.0),  # a label's edge is soft by half a voxel; at 1 mm bones come out about that much too wide
    MaskRule(DEVICES, 0.5),
    MaskRule(VESSELS, 2.0),
    MaskRule("*", 5.0),  # soft organs: their thin rims are seen by nobody
)


def outlines_of(volume: Volume, rules: Sequence[MaskRule] = DEFAULT_RULES) -> Outlines:
    """What outlined lungs need of a CT, worked out once for all its views: where each rests on the diaphragm."""
    bases = {}
    for rule in rules:
        if rule.outline == "lung" and (members := _members(volume, rule)):
            lung = _union(volume, members)
            bases[rule.joined or rule.names] = bases_of(lung, volume.world_from_voxel, rule.side == "right")
    return Outlines(bases)


def masks_of(
    radiograph: Radiograph, rules: Sequence[MaskRule] = DEFAULT_RULES, outlines: Outlines | None = None
) -> Radiograph:
    """The radiograph, with masks by these rules; structures may overlap.

    Args:
        radiograph: with the path lengths of labels that have names.
        rules: the first that fits a label's name holds for it, those with `joined` left aside; joined structures
            follow the labels, with ids after the highest, or take the place of a label of that very name.
        outlines: of the volume, by `outlines_of`; needed where a rule cuts at the dome.
    Returns: `masks` bool (label, h, w), and `path_lengths`, `ids` and `names` with the joined structures. A label that
        is not in view has an empty mask: `unseen` names those.
    Raises: LabelError for a radiograph without labels, a label that no rule fits, or a lung without its dome.
    """
    lengths = radiograph.path_lengths
    if lengths is None or not radiograph.ids:
        raise LabelError("This radiograph shows no labels, so it has no masks. Give a volume with labels.")
    entries = {radiograph.label_name(n): (n, lengths[at]) for at, n in enumerate(radiograph.ids)}
    joined: dict[str, tuple[int, Tensor, MaskRule]] = {}
    highest = max(int(n) for n in (*radiograph.ids, *(radiograph.names or ())))
    for rule, own in ((rule, rule.joined) for rule in rules):
        if own is None:
            continue
        members = [entries[own][1]] if own in entries else [e[1] for name, e in entries.items() if rule.fits(name)]
        if members:
            highest, label = (highest, entries[own][0]) if own in entries else (highest + 1, highest + 1)
            joined[own] = (label, torch.stack(members).sum(0), rule)
    single = [r for r in rules if not r.joined]
    parts = {name: (*entry, _rule(single, name)) for name, entry in entries.items() if name not in joined} | joined
    masks = [_mask(name, path, rule, radiograph, outlines) for name, (_, path, rule) in parts.items()]
    return replace(
        radiograph,
        path_lengths=torch.stack([path for _, path, _ in parts.values()]),
        masks=torch.stack(masks),
        ids=tuple(label for label, _, _ in parts.values()),
        names={**(radiograph.names or {}), **{label: name for name, (label, _, _) in parts.items()}},
    )


def unseen(radiographs: Radiograph | Sequence[Radiograph]) -> tuple[str, ...]:
    """Names of the labels whose mask is empty in every one of these radiographs: beside the picture, or too thin."""
    views = [radiographs] if isinstance(radiographs, Radiograph) else list(radiographs)
    seen: dict[str, bool] = {}
    for view in views:
        for label, mask in zip(view.ids, () if view.masks is None else view.masks, strict=False):
            name = view.label_name(label)
            seen[name] = seen.get(name, False) or bool(mask.any())
    return tuple(name for name, some in seen.items() if not some)


def _rule(rules: Sequence[MaskRule], name: str) -> MaskRule:
    rule = next((rule for rule in rules if rule.fits(name)), None)
    if rule is None:
        raise LabelError(f'No rule says what the mask of {name!r} is. Add one for it, or MaskRule("*") at the end.')
    return rule


def _members(volume: Volume, rule: MaskRule) -> list[int]:
    return [label for label in volume.label_ids if rule.fits(volume.label_name(label))]


def _union(volume: Volume, labels: Sequence[int]) -> Bool[Tensor, "k j i"]:
    whole = torch.zeros(volume.shape, dtype=torch.bool)
    for label in labels:
        whole |= volume.mask(label).cpu()
    return whole


def _mask(
    name: str, path: Float[Tensor, "h w"], rule: MaskRule, radiograph: Radiograph, outlines: Outlines | None
) -> Bool[Tensor, "h w"]:
    if rule.outline == "path":
        return path > rule.threshold
    base = None
    if rule.dome:
        base = None if outlines is None else outlines.bases.get(rule.joined or rule.names)
        if base is None:
            raise LabelError(
                f"{name} is cut at the dome of the diaphragm, and its place is not given. Give "
                "outlines=outlines_of(volume, rules) of the same volume and rules, or a rule with dome=False."
            )
    assert rule.side is not None
    return outlined(path, radiograph.camera, rule.side == "right", rule.lateral, rule.medial, base)
