"""A training of learned radiographs under way: what comes next, when it ends, and what a resume needs of it."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from diffrender.camera import Camera
from diffrender.errors import MemoryNeedError, PathError, notify
from diffrender.jobs import Checkpoint, Progress
from diffrender.learning import drawn, is_out_of_memory
from diffrender.provenance import plain
from diffrender.synth.gan import Adversaries, StepLosses
from diffrender.synth.generator import drr_baseline
from diffrender.synth.reach import volume_hash
from diffrender.synth.views import drawn_camera
from diffrender.synth.vrr_settings import VRRSettings
from diffrender.synth.watch import COLLAPSED, SATURATED, Watch, preview
from diffrender.synth.xray_folder import XrayPictures
from diffrender.volume import Volume

FORMAT = 1
FINISHED, DIVERGED = "finished", "diverged"
MOST_BAD = 20  # steps on end whose losses or gradients were no numbers
BUDGETS = ("steps", "epochs", "seconds")  # a save goes on with another budget
_COUNTERS = ("done", "taken", "batch", "outcome", "bad")


class Contest:
    """A training under way. All randomness follows from the seed and the counters."""

    def __init__(self, cts: Sequence[Volume], real: XrayPictures, settings: VRRSettings):
        self.cts, self.real, self.settings = cts, real.pictures, settings
        self.hashes = [volume_hash(ct) for ct in cts]
        self.training = {
            "settings": {key: value for key, value in plain(settings).items() if key not in ("device", *BUDGETS)},
            "volumes": list(self.hashes),
            "radiographs": list(real.names),
        }
        self.pair = Adversaries(settings, settings.where)
        self.watch, self.history = Watch(), []
        self.batch, self.done, self.taken, self.bad, self.outcome = min(settings.batch, len(self.real)), 0, 0, 0, ""
        self.losses: list[StepLosses] = []  # of this epoch
        self.kept: dict[str, Tensor] = {}  # the average of an epoch that was still well
        self._drrs: Float[Tensor, "n 1 h w"] | None = None
        self._preview: Float[Tensor, "1 r c"] | None = None
        self._before, self._began = 0.0, time.monotonic()

    @property
    def seconds(self) -> float:
        """That it has taken, over all resumes."""
        return self._before + time.monotonic() - self._began

    @property
    def epochs(self) -> int:
        """How often every radiograph has been seen."""
        return self.taken // len(self.real)

    @property
    def share(self) -> float:
        """Of the budget that is used up, 0 to 1."""
        kind, limit = self.settings.budget
        used = {"steps": self.done, "epochs": self.epochs, "seconds": self.seconds}[kind]
        return min(1.0, used / limit)

    def begin(self, checkpoint: Checkpoint) -> None:
        """Go on from what was saved. Raises: PathError for a save of another training."""
        saved = checkpoint.load()
        if saved is not None:
            self._restore(saved, checkpoint)
            pictures, drrs = self._previews()
            self._preview = preview(drrs, pictures)
        if self.outcome == FINISHED and self.share < 1.0:
            self.outcome = ""  # it goes on where the budget is larger now

    def advance(self) -> Progress:
        """One step further. Raises: MemoryNeedError where not even one view fits."""
        epoch = self.epochs
        losses = self._step()
        self.done += 1
        self.taken += self.batch
        self.bad = 0 if losses.finite else self.bad + 1
        self.losses.append(losses)
        self.watch.step(losses)
        if self.bad >= MOST_BAD:
            self.outcome = DIVERGED
        elif self.share >= 1.0:
            self.outcome = FINISHED
        if self.done == 1 or self.epochs > epoch or self.outcome == FINISHED:
            self._look()
        kind, limit = self.settings.budget
        total = int(limit) if kind == "steps" else math.ceil(self.done / max(self.share, 1e-6))
        left = max(0.0, limit - self.seconds) if kind == "seconds" else None
        scores = {"discriminator": losses.discriminator, "to_drr": losses.to_drr, "told": losses.told}
        over = self.done if self.outcome else total
        return Progress(self.done, over, losses.generator if losses.finite else None, left, self._preview, scores)

    def state(self) -> dict[str, Any]:
        """What a resume needs."""
        return {
            "format": FORMAT,
            "vrr": dict(self.training),
            "pair": self.pair.state(),
            "watch": self.watch.state(),
            "history": [dict(line) for line in self.history],
            "losses": [vars(one) for one in self.losses],
            "kept": dict(self.kept),
            "seconds": self.seconds,
            **{name: getattr(self, name) for name in _COUNTERS},
        }

    def sentence(self) -> str:
        """How it ended, and what to try next."""
        if self.outcome == DIVERGED:
            return (
                f"Stopped at step {self.done}: {MOST_BAD} steps on end had losses or gradients that were no numbers. "
                f"The weights are those before. Try a lower rate (it was {self.settings.rate:g})."
            )
        if self.outcome == COLLAPSED:
            return (
                f"Stopped at step {self.done}: the generator collapsed ({', '.join(self.watch.said)}); its average of "
                "the epoch before was kept. Try a larger l1, a lower rate, or more radiographs."
            )
        told = self.history[-1] if self.history else {}
        also = (
            " The discriminator was saturated on the way; see r1 and augment." if SATURATED in self.watch.said else ""
        )
        return (
            f"Finished after {self.done} steps, {self.epochs} epochs, in {self.seconds:.0f} s; pictures differ from "
            f"their DRR by {told.get('to_drr', 0.0):.3f} of the grey range, and the discriminator tells "
            f"{told.get('told', 0.0):.0%} rightly (50 % is chance).{also}"
        )

    def _restore(self, saved: Mapping[str, Any], checkpoint: Checkpoint) -> None:
        if saved.get("format") != FORMAT or "vrr" not in saved:
            raise PathError(
                f"{checkpoint.path} is no save of such a training, or of another version. Give another file."
            )
        other = [key for key, value in self.training.items() if saved["vrr"].get(key) != value]
        if other:
            raise PathError(
                f"{checkpoint.path} is the save of another training: its {other[0]} differ. Go on with what it was "
                "begun with, or choose another place to save to, or delete it to begin anew."
            )
        self.pair.restore(saved["pair"])
        self.watch.restore(saved["watch"])
        self.history = [dict(line) for line in saved["history"]]
        self.losses = [StepLosses(**one) for one in saved["losses"]]
        self.kept = dict(saved["kept"])
        for name in _COUNTERS:
            setattr(self, name, saved[name])
        self._before, self._began = saved["seconds"], time.monotonic()

    def _step(self) -> StepLosses:
        while True:
            try:
                return self._tried()
            except (RuntimeError, MemoryError) as problem:
                if not is_out_of_memory(problem):
                    raise
            self._take_less()  # here, where what the failed step had made is gone with its traceback

    def _tried(self) -> StepLosses:
        seed, number = self.settings.seed, self.done
        ct = int(torch.randint(len(self.cts), (1,), generator=drawn(seed, "ct", number)))
        cameras = [self._camera(ct, number * self.settings.batch + n) for n in range(self.batch)]
        return self.pair.step(self.cts[ct], cameras, self.real[self._next()], number)

    def _next(self) -> Tensor:
        """Numbers of the radiographs that are next; every one is taken once before any is taken again."""
        count, places = len(self.real), range(self.taken, self.taken + self.batch)
        orders = {
            epoch: torch.randperm(count, generator=drawn(self.settings.seed, "order", epoch))
            for epoch in {place // count for place in places}
        }
        return torch.stack([orders[place // count][place % count] for place in places])

    def _camera(self, ct: int, view: int) -> Camera:
        return drawn_camera(
            self.cts[ct],
            self.settings.spread,
            ct_hash=self.hashes[ct],
            view=view,
            seed=self.settings.seed,
            image_size=self.settings.image_size,
        )

    def _look(self) -> None:
        """Draw the fixed views, and see whether all is well."""
        pictures, drrs = self._previews()
        self._preview = preview(drrs, pictures)
        found = self.watch.epoch(pictures, drrs)
        mean = {
            name: sum(getattr(one, name) for one in self.losses) / max(1, len(self.losses))
            for name in ("discriminator", "generator", "to_drr", "told")
        }
        self.history.append({"epoch": self.epochs, "step": self.done, "seconds": self.seconds, **mean, **found})
        self.losses = []
        if self.watch.collapsed:
            self.outcome = COLLAPSED
        else:
            self.kept = {name: value.detach().cpu().clone() for name, value in self.pair.average.state_dict().items()}

    def _previews(self) -> tuple[Float[Tensor, "n 1 h w"], Float[Tensor, "n 1 h w"]]:
        """The average's pictures of the fixed views, of the CTs in turn, and their DRRs."""
        count, settings = self.settings.previews, self.settings
        views = [(n % len(self.cts), self._camera(n % len(self.cts), -1 - n)) for n in range(count)]
        if self._drrs is None:
            self._drrs = torch.stack([drr_baseline(self.cts[ct], one, settings.generator) for ct, one in views])
        with torch.no_grad():
            pictures = torch.stack([self.pair.average(self.cts[ct], camera).cpu() for ct, camera in views])
        return pictures, self._drrs

    def _take_less(self) -> None:
        self.pair.forget()
        settings = self.settings.generator
        if self.batch == 1:
            raise MemoryNeedError(
                f"Memory ran out with one view a step ({settings.mapper} on {settings.lattice}^3 voxels, fields of "
                f"{settings.detail}^3, {self.settings.image_size[0]} x {self.settings.image_size[1]} px). Take a "
                'smaller lattice and detail, a smaller image_size, the mapper "unet", or a larger GPU, and '
                "another save: this one goes on with its own settings alone."
            )
        self.batch //= 2
        notify(f"Memory ran out: from here on a step takes {self.batch} views instead of {2 * self.batch} or more.")
