"""How the training of a generator of learned radiographs goes."""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

import torch

from diffrender.errors import SettingError
from diffrender.synth.fields import GeneratorSettings
from diffrender.synth.views import ViewSpread

LOSSES = ("non-saturating", "hinge", "log")


@dataclass(frozen=True)
class VRRSettings:
    """How a generator is trained against real radiographs.

    Attributes:
        generator: what is trained.
        discriminator: channels of each scale of the U-Net that tells real from made, the finest first.
        spectral: whether its layers have spectral norm.
        image_size: (height, width) [px].
        spread: where the cameras stand, or the name of a preset of spreads.
        steps, epochs, seconds: the budget, one of them; by default 600 seconds. An epoch has seen every radiograph
            once. Seconds count over resumes; only a budget in steps or epochs ends bitwise the same twice.
        batch: views of one CT, and radiographs, a step.
        loss: of the generator: "non-saturating", "hinge", or "log", the paper's form.
        l1: lambda of the paper: weight of the mean difference to the DRR.
        r1, r1_every: gamma of the R1 penalty, and every how many steps it is worked out (lazily, and as much stronger).
        cutmix: weight of what pixels of cut and mixed pictures should say; 0 leaves it out.
        augment: whether pictures are shifted, brightened and steepened before the discriminator sees them.
        ema: how much of the generator's running average a step keeps.
        rate, discriminator_rate: of the two Adams.
        previews: fixed views that are drawn in every epoch.
        seed: of the weights, cameras, the order of radiographs and everything else that is drawn.
        device: "auto" takes CUDA where torch sees it; or torch's name of one.
    Raises: SettingError.
    """

    generator: GeneratorSettings = field(default_factory=GeneratorSettings)
    discriminator: tuple[int, ...] = (8, 16, 32, 64)
    spectral: bool = False
    image_size: tuple[int, int] = (96, 96)
    spread: ViewSpread | str = "chest-pa"
    steps: int | None = None
    epochs: int | None = None
    seconds: float | None = None
    batch: int = 4
    loss: str = "non-saturating"
    l1: float = 1.0
    r1: float = 0.1
    r1_every: int = 16
    cutmix: float = 0.0
    augment: bool = True
    ema: float = 0.99
    rate: float = 2e-3
    discriminator_rate: float = 1e-3
    previews: int = 4
    seed: int = 0
    device: str = "auto"

    def __post_init__(self):
        for name in ("discriminator", "image_size"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.loss not in LOSSES:
            raise SettingError(f"loss is one of {', '.join(LOSSES)}, not {self.loss!r}.")
        budgets = [getattr(self, name) for name in ("steps", "epochs", "seconds")]
        if sum(budget is not None for budget in budgets) > 1:
            raise SettingError("A training has one budget, in steps, epochs or seconds.")
        for name in ("batch", "r1_every", "previews", "rate", "discriminator_rate", "steps", "epochs", "seconds"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise SettingError(f"{name} is above 0, not {value}.")
        for name in ("l1", "r1", "cutmix"):
            if not 0 <= getattr(self, name) < math.inf:
                raise SettingError(f"{name} is a weight, from 0 on, not {getattr(self, name)}.")
        if not 0 <= self.ema < 1:
            raise SettingError(f"ema is a share from 0 to below 1, not {self.ema}.")
        multiple = 2 ** (len(self.discriminator) - 1)
        if len(self.image_size) != 2 or any(side < 2 * multiple or side % multiple for side in self.image_size):
            raise SettingError(
                f"image_size is a height and a width that are multiples of {multiple}, which the discriminator can "
                f"halve {len(self.discriminator) - 1} times; not {self.image_size}."
            )

    @property
    def budget(self) -> tuple[str, float]:
        """("steps" | "epochs" | "seconds", how many)."""
        for name in ("steps", "epochs", "seconds"):
            if (limit := getattr(self, name)) is not None:
                return name, float(limit)
        return "seconds", 600.0

    @property
    def where(self) -> torch.device:
        """The device it is trained on."""
        if self.device != "auto":
            return torch.device(self.device)
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def vrr_preset(name: str, **changes: Any) -> VRRSettings:
    """Settings by name, with changes.

    "small" is for two CPU cores and minutes: a U-Net that says on 32^3 voxels what the tissues of 96^3 become, 96 px,
    128 points. It is not the paper's: expect greys, contrast and the weight of bone and lung to come closer to the
    radiographs, and no finer anatomy than the CT has. "paper" is the paper's size for a GPU: V-Net on 128^3, 256 x 256
    rays of 512 points, its losses, 200 epochs.
    Raises: SettingError.
    """
    if name not in PRESETS:
        raise SettingError(f"{name!r} is no preset of a training; there are {', '.join(PRESETS)}.")
    return dataclasses.replace(PRESETS[name], **changes)


PRESETS = {
    "small": VRRSettings(seconds=600.0),
    "paper": VRRSettings(
        GeneratorSettings("vnet", lattice=128, detail=128, tissues=False, points=512),
        discriminator=(64, 128, 256, 512, 512),
        spectral=True,
        image_size=(256, 256),
        epochs=200,
        loss="log",
        r1=10.0,
        ema=0.999,
        rate=2e-4,
        discriminator_rate=2e-4,
    ),
}
