"""Training a classifier of radiographs for several labels at once, from a manifest; AUC on those kept out."""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from diffrender import __version__
from diffrender.errors import LabelError
from diffrender.jobs import Job, Progress
from diffrender.provenance import plain
from diffrender.synth.appearance import Appearance, radiographed, shown
from diffrender.synth.augment import Warp, swapped, warped
from diffrender.synth.classifier import Classifier, ClassifierSettings, network_of
from diffrender.synth.course import Learned, Task, Training, course, weights_seeded
from diffrender.synth.films import Film, read_film
from diffrender.synth.manifest import Entry, of_split, read_manifest
from diffrender.synth.segmenter import standardised

CLASSIFY_PRESETS: dict[str, Training] = {
    "small": Training(400, 16, 1e-3, 1e-3),
    "densenet121": Training(20000, 32, 5e-4, 1e-2, "densenet121", (256, 256), score_every=1000),  # for a GPU
}
WARP = Warp(zoom=(0.95, 1.15), stretch=0.05, turn=4.0, shift=0.03, bend=0.01, mirror=0.5)
LOOK = Appearance(objects=3, arms=0.0, noise=(0.0, 0.0), scatter=(0.0, 0.0))
DYNAMIC = 3.0  # log-attenuation that greys from 0 to 1 are taken for, when objects are put on them


@dataclass(frozen=True, eq=False)
class Labelled:
    """A radiograph, and which labels it shows."""

    film: Film
    shows: Bool[np.ndarray, "label"]


@dataclass(frozen=True, eq=False)
class TrainedClassifier:
    """What a training came to: the classifier as the last step left it, and how the training went."""

    classifier: Classifier
    learned: Learned


def labels_in_manifest(path: str | Path) -> tuple[str, ...]:
    """The labels that some of a data set's images show and some do not, in the order of their names."""
    shown_by = [_labels_of(entry) for entry in read_manifest(path)]
    every = sorted(set().union(*shown_by))
    return tuple(name for name in every if not all(name in some for some in shown_by))


def labelled_in_manifest(path: str | Path, names: Sequence[str], split: str = "train") -> list[Labelled]:
    """The images of one split with what they show: labels in view, and findings.

    Raises: PathError; LabelError where all of the images show a label, or none does: there is nothing to tell apart.
    """
    folder = Path(path).expanduser()
    folder = folder if folder.is_dir() else folder.parent
    found = []
    for entry in of_split(read_manifest(path), split):
        seen = _labels_of(entry)
        film = read_film(folder / entry["image"], detect=False)
        found.append(Labelled(film, np.array([name in seen for name in names], dtype=bool)))
    shares = np.mean([one.shows for one in found], axis=0) if found else np.zeros(len(names))
    if split == "train" and (same := [n for n, share in zip(names, shares, strict=True) if share in (0, 1)]):
        raise LabelError(
            f"Of the {len(found)} training images of {path} all show {', '.join(same)}, or none does, so there is "
            "nothing to learn of it. Leave it out, or make a data set with a balance of it."
        )
    return found


def train_classifier(
    labelled: Sequence[Labelled],
    names: Sequence[str],
    training: Training | None = None,
    checkpoint: str | Path | None = None,
    held_out: Sequence[Labelled] = (),
    info: Mapping[str, Any] | None = None,
) -> Job[TrainedClassifier]:
    """Train MONAI's DenseNet to tell which labels a radiograph shows.

    Args:
        labelled: what it learns from; each draw has another geometry and another look.
        names: of the labels.
        training: how; `CLASSIFY_PRESETS` has one for two cores and one for a GPU.
        held_out: radiographs for its scores, the area under each label's ROC curve.
    Raises: SettingError, LabelError; the job itself what `course` raises.
    """
    training = CLASSIFY_PRESETS["small"] if training is None else training
    settings = ClassifierSettings(tuple(names), training.network, training.image_size)
    if not labelled or any(len(one.shows) != len(settings.names) for one in (*labelled, *held_out)):
        raise LabelError(
            f"Each radiograph needs a yes or no for each of {', '.join(names)}, and one is needed at least."
        )
    network = weights_seeded(training.seed, lambda: network_of(settings))

    def draw(step: int) -> tuple[Tensor, ...]:
        return _batch(labelled, settings.names, training, step)

    def score(network: nn.Module) -> dict[str, float]:
        if not held_out:
            return {}
        values = aucs(Classifier(settings, network), held_out)
        return {"auc": float(np.nanmean(values)), **{f"auc of {n}": v for n, v in zip(names, values, strict=True)}}

    task = Task("classifier", settings, network, draw, _loss, score)
    return Job(_run(task, training, checkpoint, dict(info or {})))


def aucs(classifier: Classifier, labelled: Sequence[Labelled]) -> list[float]:
    """The area under each label's ROC curve; NaN where all radiographs show it or none does."""
    sure = np.stack([classifier.probabilities(one.film) for one in labelled])
    truth = np.stack([one.shows for one in labelled])
    return [auc(sure[:, n], truth[:, n]) for n in range(truth.shape[1])]


def auc(sure: Float[np.ndarray, "n"], truth: Bool[np.ndarray, "n"]) -> float:
    """The chance that one that shows it gets a higher number than one that does not; equal numbers count half.

    Source: Hanley and McNeil, Radiology 143 (1982) 29, doi:10.1148/radiology.143.1.7063747.
    """
    from scipy.stats import rankdata

    yes, no = int(truth.sum()), int((~truth).sum())
    if not yes or not no:
        return float("nan")
    return float((rankdata(sure)[truth].sum() - yes * (yes + 1) / 2) / (yes * no))


def _labels_of(entry: Entry) -> set[str]:
    """Labels in view, and findings: a text, a list of them, or {finding: whether}."""
    seen = {str(label["name"]) for label in entry.get("labels", ()) if label.get("pixels", 1)}
    finding = entry.get("finding")
    if isinstance(finding, Mapping):
        return seen | {str(name) for name, there in finding.items() if there}
    if isinstance(finding, str):
        return seen | {finding}
    return seen | {str(name) for name in finding or ()}


def _batch(
    labelled: Sequence[Labelled], names: tuple[str, ...], training: Training, step: int
) -> tuple[Tensor, Tensor]:
    images, truths = [], []
    for number in range(step * training.batch, (step + 1) * training.batch):
        random = np.random.default_rng((training.seed, number))
        one = labelled[int(random.integers(len(labelled)))]
        image = warped(one.film.values[None], training.image_size, WARP, random)[0]
        if random.random() < 0.7:
            image = shown(radiographed(DYNAMIC * image, LOOK, random), LOOK, random)
        mirrored = random.random() < WARP.mirror
        images.append(np.ascontiguousarray(image[:, ::-1]) if mirrored else image)
        truths.append(one.shows[swapped(names)] if mirrored else one.shows)
    return standardised(torch.from_numpy(np.stack(images))[:, None].float()), torch.from_numpy(np.stack(truths)).float()


def _loss(network: nn.Module, batch: tuple[Tensor, ...]) -> Float[Tensor, ""]:
    images, truth = batch
    return F.binary_cross_entropy_with_logits(network(images), truth)


def _run(
    task: Task, training: Training, path: str | Path | None, info: dict[str, Any]
) -> Generator[Progress, None, TrainedClassifier]:
    learned = yield from course(task, training, path)
    about = {
        "version": __version__,
        "training": asdict(training),
        "steps": learned.steps,
        "seconds": round(learned.seconds, 1),
        "scores": learned.scores,
        **plain(info),
    }
    return TrainedClassifier(Classifier(task.settings, task.network, about), learned)
