"""The shape model of the published pelvis atlas: what it makes of subjects it never saw, one by one."""

from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np
import torch
from report import Result, Row, at_most

from conftest import data_folder
from diffrender.fit.atlas import read_atlas
from diffrender.fit.building import PLAIN, ModelSettings
from diffrender.fit.quality import LeftOut, compactness, generalisation, specificity
from diffrender.fit.training import Training, prepare

ATLAS = ("pelvis-atlas-jhu", "atlas30_surfaces_mm.npz")
SAME_PERSON = (15, 25)
MODES = (15, 20, 40, 60)


def shape() -> Result | None:
    """Best coefficients at known pose: the floor under any fit with this model."""
    file = data_folder().joinpath(*ATLAS)
    if not file.exists():
        print("The pelvis atlas is not here; this bench has nothing to measure.")
        return None
    torch.set_num_threads(2)
    subjects = read_atlas(file)
    training = prepare([subject.meshes for subject in subjects])
    ids = [subject.id for subject in subjects]
    person = [ids.index(one) for one in SAME_PERSON]
    priors = {
        "the default": ModelSettings(),
        "principal components": PLAIN,
        "principal components of subjects and mirror images": replace(PLAIN, mirror=True),
    }
    figures: dict = {}
    found = {}
    for name, settings in priors.items():
        own = training if settings.mirror else replace(training, mirrored=training.mirrored[:0])
        found[name] = list(generalisation(own, settings, MODES, together=[person]))
        figures[name] = {count: _means(found[name], count) for count in MODES}
    rows = _promises(figures["the default"])
    rows += [_row(name, count, figures[name][count]) for name in priors for count in MODES]
    rows += _of_the_whole(training, figures)
    notes = [
        f"{len(ids)} subjects, each left out once; 15 and 25 are one person and leave together.",
        "Hausdorff: from vertices to the other surface, both ways.",
        "Coefficients are free, at the pose of a rigid fit to the mean.",
    ]
    figures["subjects"] = {name: [asdict(one) for one in each] for name, each in found.items()}
    return Result(rows, figures, notes)


def _means(found: Sequence[LeftOut], count: int) -> dict[str, float]:
    own = [one for one in found if one.modes == count]
    names = ("point", "landmark", "hausdorff", "hausdorff95")
    return {name: float(np.mean([getattr(one, name) for one in own])) for name in names}


def _promises(default: dict[int, dict[str, float]]) -> list[Row]:
    return [
        at_most("mean point error, 20 modes", default[20]["point"], 4, " mm"),
        at_most("landmark error, 15 modes", default[15]["landmark"], 4.0, " mm"),
        at_most("landmark error, 20 modes", default[20]["landmark"], 3.8, " mm"),
        at_most("Hausdorff distance, 20 modes", default[20]["hausdorff"], 9.5, " mm"),
        at_most("Hausdorff distance, all 60 modes", default[60]["hausdorff"], 9.5, " mm"),
    ]


def _row(name: str, count: int, one: dict[str, float]) -> Row:
    words = f"{one['point']:.2f}, {one['landmark']:.2f}, {one['hausdorff']:.2f}, {one['hausdorff95']:.2f} mm"
    return Row(f"{name}, {count} modes: points, landmarks, Hausdorff, 95 %", "", words)


def _of_the_whole(training: Training, figures: dict) -> list[Row]:
    from diffrender.fit.building import model_of

    model = model_of(training, ModelSettings())
    shares = compactness(model)
    figures["compactness"] = shares.tolist()
    figures["specificity"] = specificity(model, training, torch.Generator().manual_seed(1), 50)
    figures["repair"] = dict(model.about["repair"])
    stray = max(one["stray vertices"] for one in model.about["repair"].values())
    return [
        Row(
            "share of the variance in 10, 20, 60 modes",
            "",
            ", ".join(f"{100 * shares[n - 1]:.1f} %" for n in (10, 20, 60)),
        ),
        Row("specificity: random instances to the nearest subject", "", f"{figures['specificity']:.2f} mm"),
        Row("most vertices that strayed, of a bone", "", f"{100 * stray:.3f} %"),
    ]
