"""Whether labels belong to their CT: bones lie on bone and lungs on lung, or they are of somebody else."""

import torch

from diffrender.errors import LabelError, notify
from diffrender.synth.mask_rules import BONES, MaskRule
from diffrender.volume import Volume

BONY = 100.0  # [HU]; bone lies above, but for marrow and the edges of coarse voxels; muscle below
AIRY = -300.0  # [HU]; lung lies below, but for vessels, collapse and consolidation
BONE_SHARE = 0.45  # of bone labels on bone at the least: 0.73 and more in true pairs, 0.25 and less of strangers
LUNG_SHARE = 0.15  # of lung labels on air at the least: 0.98 in true pairs; a collapsed lung leaves little more
ENOUGH = 200  # voxels from which on a share says something
MOST_LOOKED_AT = 500_000


def check_labels(volume: Volume) -> None:
    """Refuse labels of another patient, and name those that are empty.

    Raises: LabelError where bone labels lie mostly on what is no bone, or lung labels on what is no lung; it says
        which share. A Notice names layers without a voxel; a table may name labels that do not occur.
    """
    if volume.labels is None or volume.unit != "HU":
        return
    if volume.labels.ndim == 4:
        empty = [volume.label_name(n) for n in volume.label_ids if not bool(volume.mask(n).any())]
        if empty:
            notify(f"{len(empty)} of {len(volume.label_ids)} labels have no voxel: {', '.join(empty)}.")
    for what, rule, on, limit, least in (
        ("bones", MaskRule(BONES), "bone (above", BONY, BONE_SHARE),
        ("lungs", MaskRule("*lung*"), "lung (below", AIRY, LUNG_SHARE),
    ):
        values = _values(volume, [n for n in volume.label_ids if rule.fits(volume.label_name(n))])
        if len(values) < ENOUGH:
            continue
        share = float(((values > limit) if what == "bones" else (values < limit)).float().mean())
        if share < least:
            raise LabelError(
                f"Only {100 * share:.0f} % of the voxels labelled as {what} lie on {on} {limit:.0f} HU) in "
                f"{volume.source or 'this volume'}: CT and labels are of different patients, or the labels are shifted "
                "or turned against the CT. Give the labels that were made of this CT."
            )


def _values(volume: Volume, labels: list[int]) -> torch.Tensor:
    """HU of the voxels of these labels, or of an even share of them."""
    if not labels or volume.labels is None:
        return torch.zeros(0)
    if volume.labels.ndim == 4:
        inside = torch.stack([volume.mask(n) for n in labels]).any(0)
    else:
        inside = torch.isin(volume.labels, torch.tensor(labels, device=volume.labels.device).to(volume.labels.dtype))
    values = volume.values[inside]
    return values[:: max(1, len(values) // MOST_LOOKED_AT)].float()
