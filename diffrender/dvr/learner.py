"""One step of a training: encode once, look through each view, go back; with what has to be kept for a resume."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from diffrender.camera import Camera
from diffrender.dvr.augment import augmented, moved_camera, patch_of, patch_share
from diffrender.dvr.clusters import coarser_target
from diffrender.dvr.losses import loss_of
from diffrender.dvr.renderer import SLOTS, Grid, Renderer, field_of
from diffrender.dvr.settings import Augmentation, TrainSettings
from diffrender.dvr.targets import Target
from diffrender.errors import SettingError
from diffrender.learning import drawn, reproducible, seeded
from diffrender.rays.field import Field, MarchSettings
from diffrender.volume import Volume

BETAS = (0.9, 0.99)  # of Adam, as in the paper


class Learner:
    """A renderer while it is trained.

    Args:
        renderer: is changed by every step; on the device where it is trained.
        augment: what is done to the volumes.
    Raises: SettingError where the chosen slots have nothing to learn.
    """

    def __init__(self, renderer: Renderer, settings: TrainSettings, augment: Augmentation):
        self.renderer, self.settings, self.augment = renderer, settings, augment
        self.device = next((p.device for p in renderer.parameters()), torch.device("cpu"))
        for slot in SLOTS:
            renderer.slot(slot).requires_grad_(slot in settings.slots)
        self.parameters = [p for p in renderer.parameters() if p.requires_grad]
        if not self.parameters and renderer.name != "clusters":
            raise SettingError(
                f"{renderer.name} has nothing to learn in {', '.join(settings.slots)}. Choose other slots; there are "
                f"{', '.join(SLOTS)}."
            )
        self.optimiser = torch.optim.Adam([{"params": self.parameters}], lr=settings.rate_at(0.0), betas=BETAS)
        self.scaler = _scaler(settings.precision == "auto" and self.device.type == "cuda")
        self._fixed = {slot for slot in SLOTS if not any(p.requires_grad for p in renderer.slot(slot).parameters())}
        self._kept: dict[tuple[int, str], Any] = {}
        self.checkpoint(settings.checkpointing)

    def step(self, case: int, volume: Volume, targets: Sequence[Target], share: float, number: int) -> float:
        """One step of the optimiser on some views of one volume. Returns the loss, before the step.

        Args:
            case: number of the volume: what is frozen is kept for it.
            share: of the budget that is used up, 0 to 1.
            number: of the step: with the seed it settles everything random.
        A loss or a gradient that is no number leaves the weights as they are, and is returned.
        """
        seed = self.settings.seed
        self._train()
        self.optimiser.zero_grad(set_to_none=True)
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.rate_at(share)
        if self.augment.changes:
            volume, turn = augmented(volume, self.augment, drawn(seed, "augment", number))
            targets = [dataclasses.replace(target, camera=moved_camera(target.camera, turn)) for target in targets]
        if self.settings.in_patches:
            side = patch_share(share)
            targets = [patch_of(t, side, drawn(seed, "patch", number, n)) for n, t in enumerate(targets)]
        if self.settings.coarse_at(share):
            targets = [coarser_target(target) for target in targets]
        with seeded(seed, number, self.device), reproducible(self.device):
            loss = self._gradients(case, volume, targets, self.settings.sampling_at(share), number)
        return self._descend(loss)

    def picture(self, case: int, volume: Volume, camera: Camera) -> Float[Tensor, "4 h w"]:
        """What it draws now."""
        self.renderer.eval()
        with torch.no_grad():
            return self._show(self._fields(case, volume), camera, None, None).cpu()

    def checkpoint(self, wanted: bool) -> None:
        """Compute the encoder's inner results twice instead of keeping them, or not."""
        self.checkpointing = wanted
        checkpoint_encoder(self.renderer, wanted)

    @property
    def can_checkpoint(self) -> bool:
        """Whether the renderer has networks that can."""
        return any(hasattr(module, "checkpointing") for module in self.renderer.modules())

    def state(self) -> dict[str, Any]:
        """What a resume needs: weights, optimiser and scaler."""
        return {
            "weights": self.renderer.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Back from `state`."""
        self.renderer.load_state_dict(state["weights"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])

    def forget(self) -> None:
        """Let go of everything that a step which failed has left in memory."""
        self.optimiser.zero_grad(set_to_none=True)
        self._kept.clear()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _gradients(
        self, case: int, volume: Volume, targets: Sequence[Target], sampling: float, number: int
    ) -> Float[Tensor, ""]:
        """Add up the gradients of all views; one view's way back is gone before the next one begins."""
        fields = self._fields(case, volume)
        leaves = [_leaf(field) for field in fields]
        march = MarchSettings(sampling_rate=sampling)
        total = torch.zeros((), device=self.device)
        for n, target in enumerate(targets):
            jitter = drawn(self.settings.seed, "jitter", number, n) if self.settings.jitter else None
            image = self._show(tuple(leaves), target.camera, march, jitter)
            loss = loss_of(image, target, self.settings.loss) / len(targets)
            total += loss.detach()
            if loss.requires_grad:
                self.scaler.scale(loss).backward()
        pairs = [pair for field, leaf in zip(fields, leaves, strict=True) for pair in _ends(field, leaf)]
        if pairs:
            torch.autograd.backward([end for end, _ in pairs], [g for _, g in pairs])
        return total

    def _descend(self, loss: Float[Tensor, ""]) -> float:
        self.scaler.unscale_(self.optimiser)
        norm = torch.nn.utils.clip_grad_norm_(
            self.parameters, float("inf")
        )  # clips nothing: asks whether all are finite
        if torch.isfinite(loss) and (torch.isfinite(norm) or self.scaler.is_enabled()):
            self.scaler.step(self.optimiser)
            self.scaler.update()
            return float(loss)
        return float("nan")

    def _show(
        self, fields: tuple[Field, ...], camera: Camera, march: MarchSettings | None, jitter: torch.Generator | None
    ) -> Float[Tensor, "4 h w"]:
        settings = MarchSettings(sampling_rate=self.renderer.settings.sampling_rate) if march is None else march
        images = self.renderer.accumulate(fields, camera, settings, jitter)
        with self._half():
            return self.renderer.decoder(images).float()

    def _fields(self, case: int, volume: Volume) -> tuple[Field, ...]:
        """What is marched through; of a volume that stays as it is, what frozen slots make of it is kept."""
        if self.augment.changes or "encoder" not in self._fixed:
            return self._classified(self._encoded(volume))
        if (case, "grids") not in self._kept:
            with torch.no_grad():
                self._kept[case, "grids"] = self._encoded(volume)
        grids = self._kept[case, "grids"]
        if not self._fixed.issuperset({"colour", "opacity"}):
            return self._classified(grids)
        if (case, "fields") not in self._kept:
            with torch.no_grad():
                self._kept[case, "fields"] = self._classified(grids)
        return self._kept[case, "fields"]

    def _encoded(self, volume: Volume) -> tuple[Grid, ...]:
        with self._half():
            return self.renderer.encoder(volume)

    def _classified(self, grids: tuple[Grid, ...]) -> tuple[Field, ...]:
        with self._half():
            slots = zip(grids, self.renderer.colour(grids), self.renderer.opacity(grids), strict=True)
            return tuple(field_of(grid, colour, opacity) for grid, colour, opacity in slots)

    def _half(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.float16, enabled=self.scaler.is_enabled())

    def _train(self) -> None:
        for slot in SLOTS:
            self.renderer.slot(slot).train(slot in self.settings.slots)


def checkpoint_encoder(renderer: Renderer, wanted: bool) -> None:
    """Have the networks of a renderer compute inner results twice instead of keeping them, or not."""
    for module in renderer.modules():
        if hasattr(module, "checkpointing"):
            vars(module)["checkpointing"] = wanted


def _scaler(half: bool) -> Any:
    """Keeps float16's gradients within its range; does nothing where they are float32. torch 2.2 has it elsewhere."""
    if hasattr(torch.amp, "GradScaler"):
        return torch.amp.GradScaler("cuda", enabled=half)
    return torch.cuda.amp.GradScaler(enabled=half)


def _leaf(field: Field) -> Field:
    """The same field, where the way back of a view ends."""
    values = field.values.detach().requires_grad_() if field.values.requires_grad else field.values
    table = field.table
    if table is not None and table.entries.requires_grad:
        table = dataclasses.replace(table, entries=table.entries.detach().requires_grad_())
    change = field.change
    if change is not None and change.requires_grad:
        change = change.detach().requires_grad_()
    unchanged = values is field.values and table is field.table and change is field.change
    return field if unchanged else Field(values, field.world_from_voxel, table, change)


def _ends(field: Field, leaf: Field) -> Iterator[tuple[Tensor, Tensor]]:
    """Where the way back goes on, and with what."""
    tables = () if field.table is None or leaf.table is None else ((field.table.entries, leaf.table.entries),)
    changes = () if field.change is None or leaf.change is None else ((field.change, leaf.change),)
    for end, start in ((field.values, leaf.values), *tables, *changes):
        if start is not end and start.grad is not None:
            yield end, start.grad
