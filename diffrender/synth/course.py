"""A network's training under way, whatever it learns: steps, scores, saves, memory that is short."""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from math import cos, pi
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffrender.errors import MemoryNeedError, PathError, SettingError
from diffrender.io.lock import locked
from diffrender.jobs import Checkpoint, Progress
from diffrender.learning import is_out_of_memory, reproducible
from diffrender.provenance import plain

FORMAT = 1
WARM = 0.1  # of all steps, in which the rate rises
LEAST = 0.01  # of the rate, at the start and at the end
FREE = ("device", "score_every")  # settings that a resume may change


@dataclass(frozen=True)
class Training:
    """How a network is trained.

    Attributes:
        steps, batch: how many, and images in each.
        rate, decay: of AdamW (Loshchilov and Hutter 2019); the rate rises, then falls as a cosine.
        network: by the name that the task has for it.
        image_size: (h, w) [px].
        seed: of weights and draws.
        score_every: steps between scores on what is kept out.
        device: "cpu" or "cuda"; "auto" takes a GPU where there is one.
    Raises: SettingError.
    """

    steps: int = 800
    batch: int = 16
    rate: float = 2e-3
    decay: float = 1e-3
    network: str = "small"
    image_size: tuple[int, int] = (96, 96)
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


@dataclass(frozen=True, eq=False)
class Task:
    """What is learned.

    Attributes:
        kind: "segmenter", "classifier": a save of another kind is refused.
        settings: of the network, as JSON data: a save with others is refused.
        network: is trained in place.
        draw: the batch of one step, by its number alone; all tensors have the same length.
        loss: of the network on a batch, the mean over its images.
        score: of the network, on the CPU and in evaluation, by name; empty where nothing is kept out.
    """

    kind: str
    settings: Any
    network: nn.Module
    draw: Callable[[int], tuple[Tensor, ...]]
    loss: Callable[[nn.Module, tuple[Tensor, ...]], Float[Tensor, ""]]
    score: Callable[[nn.Module], dict[str, float]]


@dataclass(frozen=True, eq=False)
class Learned:
    """How a training ended: scores each time they were taken, steps made, seconds over all resumes."""

    history: Sequence[Mapping[str, float]]
    steps: int
    seconds: float

    @property
    def scores(self) -> dict[str, float]:
        """The last ones."""
        last = self.history[-1] if self.history else {}
        return {name: value for name, value in last.items() if name not in ("step", "loss")}


def course(task: Task, training: Training, path: str | Path | None) -> Generator[Progress, None, Learned]:
    """Train to the end; on GeneratorExit it saves what a resume needs.

    Raises: PathError where the save is another training's, OutputError, MemoryNeedError where not even one image at a
        time fits.
    """
    if path is None:
        return (yield from _Course(task, training).run(Checkpoint(None)))
    with locked(path, "A training"):
        return (yield from _Course(task, training).run(Checkpoint(path)))


def weights_seeded(seed: int, make: Callable[[], nn.Module]) -> nn.Module:
    """A network whose weights hang on the seed alone; torch's own state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


@dataclass(eq=False)
class _Course:
    task: Task
    training: Training
    done: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    parts: int = 1  # of a batch, each by itself where memory is short

    def __post_init__(self):
        name = self.training.device
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(name)
        weights = self.task.network.to(self.device).parameters()
        self.optimiser = torch.optim.AdamW(weights, self.training.rate, weight_decay=self.training.decay)

    def run(self, checkpoint: Checkpoint) -> Generator[Progress, None, Learned]:
        if (saved := checkpoint.load()) is not None:
            self._restore(saved, checkpoint)
        total = self.training.steps
        try:
            while self.done < total:
                began = time.monotonic()
                loss = self._step()
                self.done += 1
                scores = None
                if self.done % self.training.score_every == 0 or self.done == total:
                    scores = self._scored(loss)
                self.seconds += time.monotonic() - began
                yield Progress(self.done, total, loss, scores=scores)
                if checkpoint.due():
                    checkpoint.save(self._state())
        except GeneratorExit:
            checkpoint.save(self._state())
            raise
        checkpoint.save(self._state())
        self.task.network.cpu().eval()
        return Learned(tuple(self.history), self.done, self.seconds)

    def _step(self) -> float:
        batch = self.task.draw(self.done)
        for group in self.optimiser.param_groups:
            group["lr"] = self.training.rate * share_of_rate(self.done / self.training.steps)
        while True:
            try:
                return self._learn(batch)
            except (RuntimeError, MemoryError) as problem:
                if not is_out_of_memory(problem):
                    raise
            if self.parts >= len(batch[0]):
                raise MemoryNeedError(
                    "Memory is full with one image at a time. Take a smaller image_size or network, or another device."
                )
            self.parts *= 2
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _learn(self, batch: tuple[Tensor, ...]) -> float:
        self.task.network.train()
        self.optimiser.zero_grad()
        count, total = len(batch[0]), 0.0
        with reproducible(self.device):
            for part in zip(*(one.tensor_split(min(self.parts, count)) for one in batch), strict=True):
                loss = self.task.loss(self.task.network, tuple(one.to(self.device) for one in part))
                loss = loss * (len(part[0]) / count)
                loss.backward()
                total += float(loss.detach())
            self.optimiser.step()
        return total

    def _scored(self, loss: float) -> dict[str, float]:
        scores = self.task.score(self.task.network.cpu().eval())
        self.task.network.to(self.device)
        self.history.append({"step": float(self.done), "loss": loss, **scores})
        return scores

    def _state(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "kind": self.task.kind,
            "settings": plain(self.task.settings),
            "training": self._fixed(),
            "network": self.task.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "done": self.done,
            "seconds": self.seconds,
            "history": self.history,
        }

    def _restore(self, saved: Mapping[str, Any], checkpoint: Checkpoint) -> None:
        if saved.get("format") != FORMAT or saved.get("kind") != self.task.kind:
            raise PathError(f"{checkpoint.path} is no save of the training of a {self.task.kind}. Give another file.")
        if saved["settings"] != plain(self.task.settings) or saved["training"] != self._fixed():
            raise PathError(
                f"{checkpoint.path} is the save of a training with other settings. Go on with those it was begun with, "
                "or choose another place to save to, or delete it to begin anew."
            )
        self.task.network.load_state_dict(saved["network"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.done, self.seconds, self.history = saved["done"], saved["seconds"], list(saved["history"])

    def _fixed(self) -> dict[str, Any]:
        return {name: value for name, value in plain(self.training).items() if name not in FREE}


def share_of_rate(share: float) -> float:
    """Of the highest rate, when that share of the steps is done."""
    if share < WARM:
        return 0.1 + 0.9 * share / WARM
    return LEAST + (1 - LEAST) * 0.5 * (1 + cos(pi * (share - WARM) / (1 - WARM)))
