"""A training under way: what comes next, when it ends, and what a resume needs of it."""

import dataclasses
import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from diffrender.dvr.cases import Case, HeldOut, difference, epoch, trained_views
from diffrender.dvr.learner import Learner
from diffrender.dvr.renderer import Renderer
from diffrender.dvr.room import check_room, room_for
from diffrender.dvr.score import Score
from diffrender.dvr.settings import Augmentation, TrainSettings, device_of
from diffrender.dvr.targets import Target
from diffrender.errors import MemoryNeedError, PathError, notify
from diffrender.jobs import Checkpoint, Progress
from diffrender.learning import free_memory, is_out_of_memory
from diffrender.volume import Volume

FORMAT = 1
SCORED = 25  # times, over a budget of steps or epochs
START_SHARE = 0.15  # of the time, after which no more previews are fitted
SCORE_SHARE = 0.1  # of the time, over a budget of seconds
FIRST, RECENT = 10, 100  # steps whose mean loss is that of the start, and that of now
FAR_ABOVE = 3.0  # times the loss of the start
FINISHED, DIVERGED = "finished", "diverged"
_COUNTERS = ("done", "taken", "batch", "outcome", "losses")


class Course:
    """A training under way, step by step. All randomness follows from the seed and the counters.

    Args:
        renderer: is trained in place, on the device that the settings name.
        augment, held: as `train_on` has settled them.
        training: what tells this training from others; a save of another one is refused.
    """

    def __init__(
        self,
        renderer: Renderer,
        cases: Sequence[Case],
        settings: TrainSettings,
        augment: Augmentation,
        held: HeldOut,
        training: Mapping[str, Any],
    ):
        self.settings, self.held, self.training = settings, held, training
        device = device_of(settings)
        self.learner = Learner(renderer.to(device), settings, augment)
        self.volumes = [_volume_on(case.volume, device) for case in cases]
        self.targets = [[_target_on(target, device) for target in case.targets] for case in cases]
        self.score = Score(self.targets[held.case][held.view] if held.scored else None)
        self.views = trained_views(cases, held)
        self.batch, self.done, self.taken, self.outcome = settings.batch_size, 0, 0, ""
        self.losses: list[float] = []  # of the first FIRST steps and of the last RECENT
        self._before, self._began = 0.0, time.monotonic()
        self._scored_at, self._scoring = 0.0, 0.0

    @property
    def seconds(self) -> float:
        """That it has taken, over all resumes."""
        return self._before + time.monotonic() - self._began

    @property
    def share(self) -> float:
        """Of the budget that is used up, 0 to 1."""
        kind, limit = self._budget
        used = {"steps": self.done, "epochs": self.taken / len(self.views), "seconds": self.seconds}[kind]
        return min(1.0, used / limit)

    def begin(self, checkpoint: Checkpoint) -> None:
        """Go on from what was saved, or score the start; refuse what has no room.

        Raises: PathError for a save of another training, MemoryNeedError.
        """
        saved = checkpoint.load()
        if saved is not None:
            self._restore(saved, checkpoint)
        if self.outcome:
            return
        self._check_room()
        self._began = time.monotonic()
        if saved is None:
            self._fit_start()
            self._score()
        else:
            self.score.preview = self._picture().cpu()

    def advance(self) -> Progress:
        """One step further. Raises: MemoryNeedError where not even one view fits."""
        self._watch(self._fitted() if self.settings.renderer == "clusters" else self._learned())
        if not self.outcome and self.share >= 1.0:
            self.outcome = FINISHED
        if self.outcome == FINISHED or (not self.outcome and self._due()):
            self._score()
        kind, limit = self._budget
        total = int(limit) if kind == "steps" else math.ceil(self.done / max(self.share, 1e-6))
        left = max(0.0, limit - self.seconds) if kind == "seconds" else None
        loss = self.losses[-1] if self.losses and self.outcome != DIVERGED else None
        scores = dict(self.score.now) or None
        return Progress(self.done, self.done if self.outcome else total, loss, left, self.score.preview, scores)

    def state(self) -> dict[str, Any]:
        """What a resume needs."""
        return {
            "format": FORMAT,
            "training": dict(self.training),
            "learner": self.learner.state(),
            "checkpointing": self.learner.checkpointing,
            "score": self.score.state(),
            "seconds": self.seconds,
            **{name: getattr(self, name) for name in _COUNTERS},
        }

    def sentence(self) -> str:
        """How it ended, and what to try next."""
        best = self.score.best
        if self.outcome == DIVERGED:
            kept = f"the best, of step {best['step']}, was kept" if best else "nothing worth keeping came before"
            return (
                f"Stopped at step {self.done}: the loss was no number, or stayed far above where it began, so the "
                f"training diverged; {kept}. Try a lower rate (it was {self.settings.rate_at(0.0):g})."
            )
        if best and best["step"] == 0:
            return (
                f"Finished after {self.done} steps in {self.seconds:.0f} s, and nothing that was learned draws the "
                "view that was kept out better than the start did, which was kept. Train longer, or try another rate "
                f"(it was {self.settings.rate_at(0.0):g})."
            )
        told = ", ".join(f"{name} {value:.4g}" for name, value in self.score.best_scores.items())
        at = f"; on the view that was kept out {told}, best at step {best['step']}." if told and best else "."
        return f"Finished after {self.done} steps in {self.seconds:.0f} s{at}"

    @property
    def _budget(self) -> tuple[str, float]:
        return ("steps", 1.0) if self.settings.renderer == "clusters" else self.settings.budget

    def _restore(self, saved: Mapping[str, Any], checkpoint: Checkpoint) -> None:
        if saved.get("format") != FORMAT or "learner" not in saved:
            raise PathError(f"{checkpoint.path} is no save of a training, or of another version. Give another file.")
        if other := difference(self.training, saved["training"]):
            raise PathError(
                f"{checkpoint.path} is the save of another training: {other}. Go on with what it was begun with, or "
                "choose another place to save to, or delete it to begin anew."
            )
        self.learner.checkpoint(saved["checkpointing"])
        self.learner.restore(saved["learner"])
        self.score.restore(saved["score"])
        for name in _COUNTERS:
            setattr(self, name, saved[name])
        self._before = self._scored_at = saved["seconds"]

    def _learned(self) -> float:
        case, views = self._next()
        while True:
            targets = [self.targets[case][view] for view in views[: self.batch]]
            try:
                loss = self.learner.step(case, self.volumes[case], targets, self.share, self.done)
                self.taken += len(targets)
                return loss
            except (RuntimeError, MemoryError) as problem:
                if not is_out_of_memory(problem):
                    raise
            self._take_less()  # here, where what the failed step had made is gone with its traceback

    def _fit_start(self) -> None:
        """Fit what the renderer starts from, where it has such a thing, to the views that are trained on.

        A start is of one volume as it is: several patients, or one who is turned from step to step, have none.
        """
        start = getattr(self.learner.renderer.encoder, "start", None)
        fresh = self.training.get("start") is None and "encoder" in self.settings.slots
        if start is None or not fresh or len(self.volumes) > 1 or self.learner.augment.changes:
            return
        targets = [self.targets[case][view] for case, view in self.views]
        in_seconds = self._budget[0] == "seconds"
        start.fit(self.volumes[0], targets, lambda: in_seconds and self.share > START_SHARE)

    def _fitted(self) -> float:
        from diffrender.dvr.clusters import fit_clusters

        targets = [self.targets[case][view] for case, view in self.views]
        fit_clusters(self.learner.renderer, self.volumes[0], targets)
        self.taken += len(targets)
        return 0.0

    def _next(self) -> tuple[int, list[int]]:
        """The views whose turn it is, all of one volume: known from the seed and from how many were taken."""
        number, before = divmod(self.taken, len(self.views))
        for case, views in epoch(self.views, self.settings.batch_size, self.settings.seed, number):
            if before < len(views):
                return case, views[before:]
            before -= len(views)
        raise AssertionError("an epoch has as many views as are trained on")

    def _take_less(self) -> None:
        self.learner.forget()
        if self.batch > 1:
            self.batch //= 2
            notify(f"The memory is full. A step takes {self.batch} views from now on instead of {2 * self.batch}.")
        elif not self.learner.checkpointing and self.learner.can_checkpoint:
            self.learner.checkpoint(True)
            notify("The memory is full. The encoder's results are computed twice from now on instead of being kept.")
        else:
            volume, size, free = self._largest()
            raise MemoryNeedError(
                f"The memory is full with one view a step. {room_for(self.settings, volume, size, 0.9 * free)} Close "
                "other programs, resample or crop the volume, or take a lighter renderer (unet-s, lookup)."
            )

    def _check_room(self) -> None:
        volume, size, free = self._largest()
        if check_room(self.settings, volume, size, free) and self.learner.can_checkpoint:
            self.learner.checkpoint(True)
            notify("Memory is short: the encoder's results are computed twice instead of being kept.")

    def _largest(self) -> tuple[Volume, tuple[int, int], float]:
        """The largest volume, an image's size, and the memory that is free but for the weights [bytes]."""
        case = max(range(len(self.volumes)), key=lambda n: self.volumes[n].values.numel())
        size = self.targets[case][0].camera.image_size
        weights = sum(t.numel() * t.element_size() for t in self.learner.renderer.state_dict().values())
        return self.volumes[case], size, free_memory(self.learner.device) + weights

    def _watch(self, loss: float) -> None:
        self.done += 1
        if not math.isfinite(loss):
            self.outcome = DIVERGED
            return
        if len(self.losses) == FIRST + RECENT:
            del self.losses[FIRST]
        self.losses.append(loss)
        first, recent = self.losses[:FIRST], self.losses[FIRST:]
        if len(recent) == RECENT and sum(recent) / RECENT > FAR_ABOVE * sum(first) / FIRST + 1e-3:
            self.outcome = DIVERGED

    def _due(self) -> bool:
        kind, limit = self._budget
        if kind == "seconds":
            return self.seconds - self._scored_at >= self._scoring / SCORE_SHARE
        steps = limit if kind == "steps" else self.done / self.share
        return self.done % max(1, round(steps / SCORED)) == 0

    def _picture(self) -> Tensor:
        case = self.held.case
        return self.learner.picture(case, self.volumes[case], self.targets[case][self.held.view].camera)

    def _score(self) -> None:
        before = self.seconds
        self.score.add(self._picture(), self.learner.renderer, self.done, before, self.losses[FIRST:] or self.losses)
        self._scored_at, self._scoring = self.seconds, self.seconds - before


def weights_hash(renderer: Renderer) -> str:
    """SHA256 of what a renderer has learned."""
    found = hashlib.sha256()
    for name, tensor in renderer.state_dict().items():
        found.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def _volume_on(volume: Volume, device: torch.device) -> Volume:
    return dataclasses.replace(volume, values=volume.values.to(device), labels=None, names=None)


def _target_on(target: Target, device: torch.device) -> Target:
    return Target(target.camera, *(t.float().to(device) for t in (target.image, target.weight, target.alpha_weight)))
