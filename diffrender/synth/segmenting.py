"""Training a segmenter of radiographs: a job that can be stopped and resumed, and is scored on radiographs kept out."""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from diffrender import __version__
from diffrender.errors import LabelError, SettingError
from diffrender.jobs import Job, Progress
from diffrender.provenance import plain
from diffrender.synth.course import Learned, Task, Training, course, weights_seeded
from diffrender.synth.pairs import Masked, Source
from diffrender.synth.scores import evaluate_segmenter, mean_dice
from diffrender.synth.segmenter import Segmenter, SegmenterSettings, network_of, standardised

SMOOTH = 1.0  # px, added to both sides of Dice, so that a label that is absent has a gradient
SEGMENT_PRESETS: dict[str, Training] = {
    "small": Training(),  # five minutes of one core
    "large": Training(20000, 32, 1e-3, 1e-2, "large", (256, 256), score_every=1000),  # for a GPU
}


@dataclass(frozen=True, eq=False)
class TrainedSegmenter:
    """What a training came to: the segmenter as the last step left it, and how the training went."""

    segmenter: Segmenter
    learned: Learned


def train_segmenter(
    source: Source,
    training: Training | None = None,
    checkpoint: str | Path | None = None,
    held_out: Sequence[Masked] = (),
    start: Segmenter | None = None,
    single: bool = True,
    info: Mapping[str, Any] | None = None,
) -> Job[TrainedSegmenter]:
    """Train a segmenter on pairs from anywhere: `Generated`, `Films`, or `Mixed` of both.

    Args:
        source: what pairs are drawn from; each draw hangs on the seed and its number alone.
        training: how; `SEGMENT_PRESETS` has one for two cores and one for a GPU.
        checkpoint: file to save to and to go on from.
        held_out: radiographs with masks on which it is scored and which it never learns from.
        start: a trained one to go on from.
        single: whether each label is one part, as lungs are.
        info: what should stand in the model file besides, as JSON data.
    Raises: SettingError, LabelError; the job itself what `course` raises.
    """
    training = Training() if training is None else training
    settings = SegmenterSettings(tuple(source.names), training.network, training.image_size, single)
    if start is not None and start.settings != settings:
        raise SettingError(f"The segmenter to go on from is {start.settings}; this training is of {settings}.")
    if any(len(one.masks) != len(settings.names) for one in held_out):
        raise LabelError(f"The radiographs kept out need a mask for each of {', '.join(settings.names)}.")
    network = weights_seeded(training.seed, lambda: network_of(settings))
    if start is not None:
        network.load_state_dict(start.network.state_dict())

    def draw(step: int) -> tuple[Tensor, ...]:
        return batch_of(source, training, step)

    def score(network: nn.Module) -> dict[str, float]:
        return _scores(Segmenter(settings, network), held_out)

    task = Task("segmenter", settings, network, draw, _loss_of, score)
    return Job(_run(task, training, checkpoint, dict(info or {})))


def batch_of(source: Source, training: Training, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images as the network takes them, masks, and where those say something: of one step, by its number alone."""
    numbers = range(step * training.batch, (step + 1) * training.batch)
    pairs = [source.draw(training.image_size, np.random.default_rng((training.seed, n))) for n in numbers]
    images = standardised(torch.from_numpy(np.stack([pair.image for pair in pairs]))[:, None])
    masks = torch.from_numpy(np.stack([pair.masks for pair in pairs])).float()
    return images, masks, torch.from_numpy(np.stack([pair.known for pair in pairs]))[:, None].float()


def segmentation_loss(
    logits: Float[Tensor, "n label h w"], masks: Float[Tensor, "n label h w"], known: Float[Tensor, "n 1 h w"]
) -> Float[Tensor, ""]:
    """1 - Dice of each label by itself, plus binary cross entropy; pixels that nobody knows count in neither.

    Source: Milletari, Navab and Ahmadi, V-Net (2016), arXiv:1606.04797, for the soft Dice.
    """
    shares, truth = torch.sigmoid(logits) * known, masks * known
    both, each = (shares * truth).sum((2, 3)), shares.sum((2, 3)) + truth.sum((2, 3))
    overlap = ((2 * both + SMOOTH) / (each + SMOOTH)).mean()
    entropy = F.binary_cross_entropy_with_logits(logits, masks, reduction="none") * known
    return 1 - overlap + entropy.sum() / (known.sum() * logits.shape[1]).clamp(min=1)


def _loss_of(network: nn.Module, batch: tuple[Tensor, ...]) -> Float[Tensor, ""]:
    images, masks, known = batch
    return segmentation_loss(network(images), masks, known)


def _scores(segmenter: Segmenter, held_out: Sequence[Masked]) -> dict[str, float]:
    if not held_out:
        return {}
    scored = evaluate_segmenter(segmenter, held_out)
    by_label = np.nanmean(np.array([one.dice for one in scored]), axis=0)
    names = (f"dice of {name}" for name in segmenter.settings.names)
    return {"dice": mean_dice(scored), **dict(zip(names, by_label.tolist(), strict=True))}


def _run(
    task: Task, training: Training, path: str | Path | None, info: dict[str, Any]
) -> Generator[Progress, None, TrainedSegmenter]:
    learned = yield from course(task, training, path)
    about = {
        "version": __version__,
        "training": asdict(training),
        "steps": learned.steps,
        "seconds": round(learned.seconds, 1),
        "scores": learned.scores,
        **plain(info),
    }
    return TrainedSegmenter(Segmenter(task.settings, task.network, about), learned)
