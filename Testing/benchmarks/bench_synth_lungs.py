"""Lungs on real chest X-rays by networks that met no labelled X-ray: what they were trained on, and how well they do.

Four kinds of training images from two CTs, all with the same views, masks, geometry, network and steps; and what a mix
with half of the labelled patients brings. Every training is kept under build/synth-lungs, so that a bench that was
stopped goes on. What is run is changed by `DIFFRENDER_SYNTH_SEEDS` ("0,1,2"), `DIFFRENDER_SYNTH_STEPS`,
`DIFFRENDER_SYNTH_ROWS` (names of rows, with ; between them) and `DIFFRENDER_VRR` (a generator's file, for the row of
the VRR; without it that row is left out. Its discriminator may have seen radiographs of the first half of the patients,
so that row is of the other half).
"""

import csv
import os
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from report import REPOSITORY, Result, Row

from conftest import data_folder
from diffrender.io.volumes import read_volume
from diffrender.synth.appearance import PLAIN
from diffrender.synth.course import Training
from diffrender.synth.ct_views import CtViews, layers_of_ct
from diffrender.synth.films import Film
from diffrender.synth.layers import Layers, extended
from diffrender.synth.lungs import with_lungs
from diffrender.synth.pairs import OF_CTS, Films, Generated, Masked, Mixed, Source, masked_in_folder
from diffrender.synth.scores import Scored, evaluate_segmenter, mean_dice
from diffrender.synth.segmenter import Segmenter, adapted, load_segmenter, save_segmenter
from diffrender.synth.segmenting import SEGMENT_PRESETS, train_segmenter
from diffrender.synth.segmenting_report import segmentation_page
from diffrender.volume import Volume

PLACE = REPOSITORY / "build" / "synth-lungs"  # pictures of a data set that is not ours: never in the repository
LABELS = {1: "lung_right", 2: "lung_left"}
VIEWS = CtViews()
MIX = 1.0  # generated pairs for each real one
AVERAGE, DRR, OURS, ADAPTED, VRR, REAL, BOTH = (
    "average projection",
    "the paper's DRR (matter from HU, opacity constant)",
    "physics, random appearance",
    "physics, random appearance, adapted to the other half's images without their labels",
    "VRR",
    "real alone, half of the patients",
    "physics and real, half of the patients",
)
ASKED = {OURS: (0.91, 0.90, 0.78), ADAPTED: (0.92, None, None), VRR: (0.92, None, None)}


def lungs() -> Result | None:
    """Mean Dice of both lungs over images, pixels that people left undecided aside."""
    x_rays = data_folder() / "cxr-hannover-v7"
    if not x_rays.exists() or not (data_folder() / "ct-chest-lidc0001").exists():
        return None
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    table = {row["file"]: row for row in csv.DictReader((x_rays / "index.csv").open(encoding="utf-8"))}
    groups = {name: row["patient_id"] for name, row in table.items()}
    films = masked_in_folder(x_rays / "images", x_rays / "masks", LABELS, groups)
    patients = sorted(set(groups.values()))
    seen = [one for one in films if one.group in patients[::2]]  # the method was developed on these
    unseen = [one for one in films if one.group not in patients[::2]]
    made = Sources(seen, unseen)
    result = Result([])
    for name, source, tested in made.rows():
        scored = [_scored(name, seed, source, tested, (seen, unseen)) for seed in _seeds()]
        _tell(result, name, scored, table, {one.film.name for one in unseen})
    training, (rule, *_) = _training(0), VIEWS.rules
    result.notes.append(
        f"Two CTs, {VIEWS.views} views of each; {training.steps} steps of {training.batch} images of "
        f"{training.image_size[0]} px on one thread; seeds {', '.join(map(str, _seeds()))}. No label of an X-ray was "
        f"used but in the rows that say so. One mask rule for all: from {rule.lateral:g} mm of path laterally and "
        f"{rule.medial:g} mm medially, above the dome."
    )
    result.notes.append(
        f"Developed on {len(seen)} images of {len(patients[::2])} patients; 'not looked at': the other {len(unseen)}."
    )
    return result


class Sources:
    """What each row learns from; views of CTs are taken once."""

    def __init__(self, seen: Sequence[Masked], unseen: Sequence[Masked]):
        self.seen, self.unseen = seen, unseen
        self.volumes: dict[str, Volume] = {}
        self.layers: list[tuple[str, Layers]] = []

    def rows(self) -> list[tuple[str, Callable[[], Source], Sequence[Masked]]]:
        """(name, what makes its source, what it is tested on)."""
        every = [*self.seen, *self.unseen]
        names = tuple(LABELS.values())
        real = Films(self.seen, names)
        rows = [
            (AVERAGE, lambda: Generated(self.views(), PLAIN), every),
            (DRR, lambda: Films(self.pictured(None), names, PLAIN, OF_CTS), every),
            (OURS, lambda: Generated(self.views()), every),
            (ADAPTED, lambda: Generated(self.views()), every),
            (VRR, lambda: Films(self.pictured(os.environ["DIFFRENDER_VRR"]), names, PLAIN, OF_CTS), self.unseen),
            (REAL, lambda: real, self.unseen),
            (BOTH, lambda: Mixed(Generated(self.views()), real, MIX), self.unseen),
        ]
        wanted = os.environ.get("DIFFRENDER_SYNTH_ROWS")
        rows = [row for row in rows if not wanted or row[0] in wanted.split(";")]
        return [row for row in rows if row[0] != VRR or os.environ.get("DIFFRENDER_VRR")]

    def views(self) -> list[Layers]:
        return [layers for _, layers in self._taken()]

    def pictured(self, generator: str | None) -> list[Masked]:
        """The same views as pictures: of a trained generator, or of the paper's baseline."""
        from diffrender.synth.fields import GeneratorSettings
        from diffrender.synth.generator import drr_baseline, load_generator, viewed

        found = []
        model = None if generator is None else load_generator(generator)[0].eval()
        with torch.no_grad():
            for ct, one in self._taken():
                assert one.camera is not None
                assert one.world_from_voxel is not None
                body = replace(self.volumes[ct], world_from_voxel=one.world_from_voxel)
                if model is None:
                    picture = drr_baseline(body, one.camera, GeneratorSettings(points=192))
                else:
                    picture = viewed(model.fields(body), body, one.camera, model.settings)
                grey = picture[0].cpu().numpy().astype(np.float32)
                known = np.ones(grey.shape, dtype=bool)
                found.append(Masked(Film(grey, f"{ct} {len(found)}"), one.masks, known, ct))
        return found

    def _taken(self) -> list[tuple[str, Layers]]:
        if not self.layers:
            for ct, volume in _cts().items():
                self.volumes[ct] = extended(volume, VIEWS.above, VIEWS.below)
                self.layers += [(ct, layers) for layers in layers_of_ct(volume, VIEWS, ct)]
        return self.layers


def _cts() -> dict[str, Volume]:
    place = data_folder() / "ct-chest-lidc0001"
    labelled = read_volume(place / "ct_256.nii.gz", labels=place / "labels_256.nii.gz", names=place / "structures.csv")
    other = read_volume(data_folder() / "ct-chest-cmbcrc" / "ct_256.nii.gz")
    return {"lidc0001": labelled, "cmbcrc": with_lungs(other)}


def _seeds() -> list[int]:
    return [int(seed) for seed in os.environ.get("DIFFRENDER_SYNTH_SEEDS", "0,1,2").split(",")]


def _training(seed: int) -> Training:
    usual = SEGMENT_PRESETS["small"]
    steps = int(os.environ.get("DIFFRENDER_SYNTH_STEPS", usual.steps))
    return replace(usual, steps=steps, seed=seed, score_every=steps, device="cpu")


def _scored(
    name: str,
    seed: int,
    source: Callable[[], Source],
    tested: Sequence[Masked],
    halves: tuple[Sequence[Masked], Sequence[Masked]],
) -> tuple[list[Scored], dict]:
    """Train, or take what an earlier run has trained with the same settings."""
    training = _training(seed)
    stem = "-".join("".join(c if c.isalnum() else " " for c in (OURS if name == ADAPTED else name)).split())
    path = PLACE / f"{stem}-{training.steps}-{seed}.safetensors"
    if not path.exists():
        began = time.process_time()
        drawn_from = source()
        ready = time.process_time()
        trained = train_segmenter(drawn_from, training, path.with_suffix(".ckpt")).run()
        times = {"views": ready - began, "cpu": time.process_time() - ready, "wall": trained.learned.seconds}
        save_segmenter(path, replace(trained.segmenter, info={**trained.segmenter.info, "times": times}))
        path.with_suffix(".ckpt").unlink(missing_ok=True)
    segmenter = load_segmenter(path)
    scored = _adapted(segmenter, halves) if name == ADAPTED else evaluate_segmenter(segmenter, tested)
    page = path.with_name(path.stem + ("-adapted" if name == ADAPTED else "") + ".html")
    page.write_text(segmentation_page(segmenter, scored, title=f"{name}, seed {seed}"), encoding="utf-8")
    print(f"{name}, seed {seed}: {mean_dice(scored):.4f}, worst {scored[0].mean:.3f}", flush=True)
    return scored, dict(segmenter.info["times"])


def _adapted(segmenter: Segmenter, halves: tuple[Sequence[Masked], Sequence[Masked]]) -> list[Scored]:
    """Each half of the patients by the segmenter adapted to the other half's images."""
    scored = []
    for some, others in (halves, halves[::-1]):
        scored += evaluate_segmenter(adapted(segmenter, [one.film for one in others]), some)
    return sorted(scored, key=lambda one: one.mean)


def _tell(result: Result, name: str, runs: Sequence[tuple[list[Scored], dict]], table: dict, unseen: set[str]) -> None:
    """The row of one kind of training, with what is asked of it."""

    def mean(which: Callable[[Scored], bool]) -> list[float]:
        return [mean_dice([one for one in scored if which(one)]) for scored, _ in runs]

    def of(one: Scored) -> dict[str, str]:
        return table[Path(one.film.name).name]

    every, supine = mean(lambda _: True), mean(lambda one: of(one)["view"].startswith("AP"))
    erect, new = mean(lambda one: of(one)["view"] == "PA"), mean(lambda one: one.film.name in unseen)
    worst = [scored[0] for scored, _ in runs]
    cpu, wall = (np.mean([times[kind] for _, times in runs]) for kind in ("cpu", "wall"))
    asked = ASKED.get(name)
    measured = (
        f"{_pm(every)} (not looked at {_pm(new)}, PA {_pm(erect)}, AP supine {_pm(supine)}, worst image "
        f"{min(one.mean for one in worst):.3f}); {cpu:.0f} CPU-s, {wall:.0f} s"
    )
    text = "reported" if asked is None else f"{asked[0]:.2f}"
    holds = None if asked is None else bool(np.mean(every) >= asked[0])
    result.rows.append(Row(f"mean Dice, trained on: {name}", text, measured, holds))
    if asked is not None and asked[1] is not None:
        result.rows.append(Row(f"AP supine: {name}", f"{asked[1]:.2f}", _pm(supine), bool(np.mean(supine) >= asked[1])))
        low = float(np.mean([one.mean for one in worst]))
        result.rows.append(
            Row(f"worst image, mean over seeds: {name}", f"{asked[2]:.2f}", f"{low:.3f}", low >= asked[2])
        )
    five = [f"{one.mean:.3f} ({of(one)['view']}, {of(one)['finding']})" for one in runs[0][0][:5]]
    result.notes.append(f"{name}: the five worst of the first seed {', '.join(five)}.")
    result.figures[name] = {
        "by seed": every,
        "not looked at": new,
        "PA": erect,
        "AP supine": supine,
        "images": {Path(one.film.name).name: round(one.mean, 4) for one in runs[0][0]},
        "times": [times for _, times in runs],
    }


def _pm(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f}" + (f" +- {np.std(values):.3f}" if len(values) > 1 else "")
