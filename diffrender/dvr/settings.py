"""How a training goes: one dataclass, whose fields the panel, the command line and the checkpoint read."""

import math
from dataclasses import dataclass, field

import torch

from diffrender.dvr.losses import LossSettings
from diffrender.dvr.renderer import SLOTS, RendererSettings
from diffrender.dvr.renderers import recipe
from diffrender.errors import SettingError

PRECISIONS = ("float32", "auto")
DEFAULT_SECONDS = 120.0
COARSE = 0.7  # of the budget of unet-s


@dataclass(frozen=True)
class Augmentation:
    """How a volume is changed from step to step, so that a network learns patients and not one patient's voxels.

    There are no flips: left and right are anatomy.

    Attributes:
        rotation: the volume is turned with the camera, by up to this about any axis [degrees]; the picture stays.
        shift: added to all HU, standard deviation.
        noise: added to each voxel's HU, standard deviation.
    Raises: SettingError.
    """

    rotation: float = 0.0
    shift: float = 0.0
    noise: float = 0.0

    def __post_init__(self):
        if not 0 <= self.rotation <= 180:
            raise SettingError(f"rotation goes from 0 to 180 degrees, {self.rotation} does not.")
        for name, value in (("shift", self.shift), ("noise", self.noise)):
            if not 0 <= value < math.inf:
                raise SettingError(f"{name} is a standard deviation in HU, from 0 on, not {value}.")

    @property
    def changes(self) -> bool:
        """Whether it changes anything."""
        return bool(self.rotation or self.shift or self.noise)


OF_SEVERAL = Augmentation(rotation=10.0, shift=15.0, noise=10.0)  # of trainings over several patients


@dataclass(frozen=True)
class TrainSettings:
    """How a renderer is trained.

    Attributes:
        renderer: one of the table of renderers.
        drawing: what the renderer is made with. Without a transfer function of its own it starts from the views'.
        steps, seconds, epochs: the budget, one of them; by default 120 seconds. Seconds count over resumes. Only a
            budget in steps or epochs ends bitwise the same twice.
        batch: views a step; None: the renderer's recipe.
        rate: learning rate at the start; None: the recipe's.
        decay: what is left of the rate at the end, which it reaches along a cosine; 1 keeps it.
        sampling: s_l and s_h of eq. 14, samples a voxel: s = s_l (1 - (e/E)^2) + s_h (e/E)^2. Equal ones fix it.
        jitter: whether each ray starts anew within its first step (eq. 7).
        held_out: number of the view that is kept out and scored; None: the last one that has something to learn from,
            where there are three or more; -1: none.
        augment: None: nothing for one volume, `OF_SEVERAL` for several.
        slots: which parts learn; the others stay as they are, and what they make is kept from step to step.
        checkpointing: gradient checkpointing: the encoder's layers are computed twice and not kept.
        precision: "float32", or "auto": float16 where CUDA has it, with a scaled loss.
        device: "auto" takes CUDA where torch sees it; or torch's name of one.
        patches: whether a step takes a part of each view, growing from 1/8 to 1/2 of its sides; None: for rendernet.
        seed: of the order of views, jitter, augmentation, dropout and patches.
        coarse: share of the budget in which views are looked at with 100 pixels a side or fewer, as `fit_clusters`
            does; None: 0.7 for unet-s, 0 for all others.
        loss: how its parts are added up.
    Raises: SettingError.
    """

    renderer: str = "unet-s"
    drawing: RendererSettings = field(default_factory=RendererSettings)
    steps: int | None = None
    seconds: float | None = None
    epochs: float | None = None
    batch: int | None = None
    rate: float | None = None
    decay: float = 0.1
    sampling: tuple[float, float] = (0.25, 1.0)
    jitter: bool = True
    held_out: int | None = None
    augment: Augmentation | None = None
    slots: tuple[str, ...] = SLOTS
    checkpointing: bool = False
    precision: str = "auto"
    device: str = "auto"
    patches: bool | None = None
    seed: int = 0
    coarse: float | None = None
    loss: LossSettings = field(default_factory=LossSettings)

    def __post_init__(self):
        recipe(self.renderer)
        budgets = {name: getattr(self, name) for name in ("steps", "seconds", "epochs")}
        given = {name: value for name, value in budgets.items() if value is not None}
        if len(given) > 1:
            raise SettingError(f"A training has one budget, in steps, seconds or epochs; these are {given}.")
        for name, value in (*given.items(), ("batch", self.batch), ("rate", self.rate)):
            if value is not None and not 0 < value < math.inf:
                raise SettingError(f"{name} is above 0, not {value}.")
        for name, value in (("steps", self.steps), ("batch", self.batch)):
            if value is not None and value != int(value):
                raise SettingError(f"{name} is a whole number, not {value}.")
        if not 0 < self.decay <= 1:
            raise SettingError(f"decay is a share above 0 and at most 1, not {self.decay}.")
        if len(self.sampling) != 2 or not all(0 < s <= 64 for s in self.sampling):
            raise SettingError(
                f"sampling is two numbers of samples a voxel, above 0 and at most 64, not {self.sampling}."
            )
        unknown = [slot for slot in self.slots if slot not in SLOTS]
        if unknown or not self.slots:
            raise SettingError(f"slots are some of {', '.join(SLOTS)}; {unknown or 'none'} cannot be trained.")
        if self.coarse is not None and not 0 <= self.coarse <= 1:
            raise SettingError(f"coarse is a share from 0 to 1, not {self.coarse}.")
        if self.precision not in PRECISIONS:
            raise SettingError(f"precision is one of {', '.join(PRECISIONS)}, not {self.precision!r}.")

    @property
    def budget(self) -> tuple[str, float]:
        """("steps" | "seconds" | "epochs", how many)."""
        if self.steps is not None:
            return "steps", float(self.steps)
        if self.epochs is not None:
            return "epochs", float(self.epochs)
        return "seconds", DEFAULT_SECONDS if self.seconds is None else float(self.seconds)

    @property
    def batch_size(self) -> int:
        """Views a step."""
        return recipe(self.renderer).batch if self.batch is None else int(self.batch)

    def rate_at(self, share: float) -> float:
        """The learning rate when a share of the budget, 0 to 1, is used up."""
        first = recipe(self.renderer).rate if self.rate is None else self.rate
        return first * (self.decay + (1 - self.decay) * (1 + math.cos(math.pi * share)) / 2)

    def sampling_at(self, share: float) -> float:
        """Samples a voxel when a share of the budget, 0 to 1, is used up. Source: eq. 14, e/E being the share."""
        low, high = self.sampling
        return low * (1 - share**2) + high * share**2

    def coarse_at(self, share: float) -> bool:
        """Whether views are looked at with fewer pixels when a share of the budget, 0 to 1, is used up."""
        return share < ((COARSE if self.renderer == "unet-s" else 0.0) if self.coarse is None else self.coarse)

    @property
    def in_patches(self) -> bool:
        """Whether steps take parts of views."""
        return self.renderer == "rendernet" if self.patches is None else self.patches


def device_of(settings: TrainSettings) -> torch.device:
    """Where it is trained."""
    if settings.device != "auto":
        return torch.device(settings.device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
