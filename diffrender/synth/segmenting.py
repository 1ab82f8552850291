"""Training a segmenter of radiographs: a job that can be stopped and resumed, and is scored on radiographs kept out."""

import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diffrender import __version__
from diffrender.errors import LabelError, MemoryNeedError, PathError, SettingError
from diffrender.io.lock import locked
from diffrender.jobs import Checkpoint, Job, Progress
from diffrender.learning import drawn, is_out_of_memory, reproducible
from diffrender.provenance import plain
from diffrender.synth.pairs import Masked, Source
from diffrender.synth.scores import evaluate_segmenter, mean_dice
from diffrender.synth.segmenter import Segmenter, SegmenterSettings, network_of, standardised

FORMAT = 1
SMOOTH = 1.0  # px, added to both sides of Dice, so that a label that is absent has a gradient
WARM = 0.1  # of all steps, in which the rate rises


@dataclass(frozen=True)
class SegmentTraining:
    """How a segmenter is trained.

    Attributes:
        steps, batch: how many, and images in each.
        rate, decay: of AdamW; the rate rises, then falls as a cosine.
        network, image_size: as in `SegmenterSettings`.
        seed: of weights and draws.
        score_every: steps between scores on what is kept out.
        device: "cpu" or "cuda"; "auto" takes a GPU where there is one.
    Raises: SettingError.
    """

    steps: int = 600
    batch: int = 16
    rate: float = 2e-3
    decay: float = 1e-3
    network: str = "small"
    image_size: tuple[int, int] = (128, 128)
    seed: int = 0
    score_every: int = 100
    device: str = "auto"

    def __post_init__(self):
        if min(self.steps, self.batch, self.score_every) < 1 or not self.rate > 0 or not self.decay >= 0:
            raise SettingError(
                f"steps, batch and score_every are 1 or more, rate above 0, decay not below; not {self}."
            )
        if self.device not in ("auto", "cpu", "cuda"):
            raise SettingError(f'device is "auto", "cpu" or "cuda", not {self.device!r}.')


PRESETS: dict[str, SegmentTraining] = {
    "small": SegmentTraining(),  # about four minutes of one core
    "large": SegmentTraining(20000, 32, 1e-3, 1e-2, "large", (256, 256), score_every=1000),  # for a GPU
}


@dataclass(frozen=True, eq=False)
class TrainedSegmenter:
    """What a training came to.

    Attributes:
        segmenter: as the last step left it.
        scores: of what was kept out: "dice", and "dice of LABEL"; empty without such images.
        history: each time it was scored.
        steps, seconds: made, and taken over all resumes.
    """

    segmenter: Segmenter
    scores: Mapping[str, float]
    history: Sequence[Mapping[str, float]]
    steps: int
    seconds: float


def train_segmenter(
    source: Source,
    training: SegmentTraining | None = None,
    checkpoint: str | Path | None = None,
    held_out: Sequence[Masked] = (),
    start: Segmenter | None = None,
    info: Mapping[str, Any] | None = None,
) -> Job[TrainedSegmenter]:
    """Train a segmenter on pairs from anywhere: `Generated`, `Films`, or `Mixed` of both.

    Args:
        source: what pairs are drawn from; each draw hangs on the seed and its number alone.
        training: how; `PRESETS` has one for two cores and one for a GPU.
        checkpoint: file to save to and to go on from.
        held_out: radiographs with masks on which it is scored and which it never learns from.
        start: a trained one to go on from.
        info: what should stand in the model file besides.
    Raises: SettingError, LabelError. The job itself raises PathError where the checkpoint is another training's,
        OutputError, and MemoryNeedError where not even one image at a time fits.
    """
    training = SegmentTraining() if training is None else training
    settings = SegmenterSettings(tuple(source.names), training.network, training.image_size)
    if start is not None and start.settings != settings:
        raise SettingError(f"The segmenter to go on from is {start.settings}; this training is of {settings}.")
    if any(len(one.masks) != len(settings.names) for one in held_out):
        raise LabelError(f"The radiographs kept out need a mask for each of {', '.join(settings.names)}.")
    return Job(_run(source, settings, training, checkpoint, tuple(held_out), start, dict(info or {})))


def _run(
    source: Source,
    settings: SegmenterSettings,
    training: SegmentTraining,
    path: str | Path | None,
    held_out: tuple[Masked, ...],
    start: Segmenter | None,
    info: dict[str, Any],
) -> Generator[Progress, None, TrainedSegmenter]:
    course = _Course(source, settings, training, held_out, start)
    if path is None:
        yield from course.run(Checkpoint(None))
    else:
        with locked(path, "A training"):
            yield from course.run(Checkpoint(path))
    return course.outcome(info)


@dataclass(eq=False)
class _Course:
    """A training under way."""

    source: Source
    settings: SegmenterSettings
    training: SegmentTraining
    held_out: tuple[Masked, ...]
    start: Segmenter | None
    done: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self):
        training = self.training
        name = training.device if training.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(name)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(drawn(training.seed, "weights").initial_seed())
            self.network = network_of(self.settings)
        if self.start is not None:
            self.network.load_state_dict(self.start.network.state_dict())
        self.network.to(self.device)
        self.optimiser = torch.optim.AdamW(self.network.parameters(), training.rate, weight_decay=training.decay)
        self.parts = 1  # of a batch, each by itself where memory is short

    def run(self, checkpoint: Checkpoint) -> Generator[Progress, None, None]:
        if (saved := checkpoint.load()) is not None:
            self._restore(saved, checkpoint)
        total = self.training.steps
        try:
            while self.done < total:
                began = time.monotonic()
                loss = self._step()
                self.done += 1
                if self.done % self.training.score_every == 0 or self.done == total:
                    self._score(loss)
                self.seconds += time.monotonic() - began
                scores = self.history[-1] if self.history and self.history[-1]["step"] == self.done else None
                yield Progress(self.done, total, loss, scores=scores)
                if checkpoint.due():
                    checkpoint.save(self._state())
        except GeneratorExit:
            checkpoint.save(self._state())
            raise
        checkpoint.save(self._state())

    def outcome(self, info: dict[str, Any]) -> TrainedSegmenter:
        last = self.history[-1] if self.history else {}
        scores = {name: value for name, value in last.items() if name.startswith("dice")}
        about = {
            "version": __version__,
            "training": asdict(self.training),
            "steps": self.done,
            "seconds": round(self.seconds, 1),
            "scores": scores,
            **plain(info),
        }
        segmenter = Segmenter(self.settings, self.network.cpu().eval(), about)
        return TrainedSegmenter(segmenter, scores, tuple(self.history), self.done, self.seconds)

    def _step(self) -> float:
        size, batch = self.settings.image_size, self.training.batch
        numbers = range(self.done * batch, (self.done + 1) * batch)
        pairs = [self.source.draw(size, np.random.default_rng((self.training.seed, n))) for n in numbers]
        images = standardised(torch.from_numpy(np.stack([pair.image for pair in pairs]))[:, None])
        masks = torch.from_numpy(np.stack([pair.masks for pair in pairs])).float()
        known = torch.from_numpy(np.stack([pair.known for pair in pairs]))[:, None].float()
        for group in self.optimiser.param_groups:
            group["lr"] = self.training.rate * _share_of_rate(self.done / self.training.steps)
        while True:
            try:
                return self._learn(images, masks, known)
            except (RuntimeError, MemoryError) as problem:
                if not is_out_of_memory(problem):
                    raise
            if self.parts >= batch:
                raise MemoryNeedError(
                    "Memory is full with one image at a time. Take a smaller image_size or network, or another device."
                )
            self.parts *= 2
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _learn(self, images: Tensor, masks: Tensor, known: Tensor) -> float:
        self.network.train()
        self.optimiser.zero_grad()
        total, parts = 0.0, min(self.parts, len(images))
        with reproducible(self.device):
            for part in zip(*(one.tensor_split(parts) for one in (images, masks, known)), strict=True):
                image, mask, where = (one.to(self.device) for one in part)
                loss = segmentation_loss(self.network(image), mask, where) * (len(image) / len(images))
                loss.backward()
                total += float(loss.detach())
            self.optimiser.step()
        return total

    def _score(self, loss: float) -> None:
        line = {"step": float(self.done), "loss": loss}
        if self.held_out:
            scored = evaluate_segmenter(Segmenter(self.settings, self.network.cpu()), self.held_out)
            self.network.to(self.device)
            line["dice"] = mean_dice(scored)
            for n, name in enumerate(self.settings.names):
                line[f"dice of {name}"] = float(np.nanmean([one.dice[n] for one in scored]))
        self.history.append(line)

    def _state(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "kind": "segmenter",
            "settings": plain(self.settings),
            "training": _kept(self.training),
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "done": self.done,
            "seconds": self.seconds,
            "history": self.history,
        }

    def _restore(self, saved: Mapping[str, Any], checkpoint: Checkpoint) -> None:
        if saved.get("format") != FORMAT or saved.get("kind") != "segmenter":
            raise PathError(f"{checkpoint.path} is no save of a segmenter's training. Give another file.")
        if saved["settings"] != plain(self.settings) or saved["training"] != _kept(self.training):
            raise PathError(
                f"{checkpoint.path} is the save of a training with other settings. Go on with those it was begun with, "
                "or choose another place to save to, or delete it to begin anew."
            )
        self.network.load_state_dict(saved["network"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.done, self.seconds, self.history = saved["done"], saved["seconds"], list(saved["history"])


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


def _share_of_rate(share: float) -> float:
    """Of the highest rate: rising over the first tenth, then falling as a cosine."""
    if share < WARM:
        return 0.1 + 0.9 * share / WARM
    return 0.01 + 0.99 * 0.5 * (1 + float(np.cos(np.pi * (share - WARM) / (1 - WARM))))


def _kept(training: SegmentTraining) -> dict[str, Any]:
    """What a resume must share; the device may be another."""
    return {name: value for name, value in plain(training).items() if name != "device"}
