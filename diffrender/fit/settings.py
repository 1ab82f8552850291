"""How a body is registered to frames: every number a fit takes, in one place."""

import math
from dataclasses import dataclass

from diffrender.errors import SettingError

SIMILARITIES = ("correlation", "gradient-correlation", "gradient-difference", "labels")
OPTIMISERS = ("levenberg", "adam", "wide")


@dataclass(frozen=True)
class FitSettings:
    """How a body is registered to frames. Angles in degrees, lengths in mm.

    Attributes:
        similarity: what is compared: one of SIMILARITIES.
        optimiser: "levenberg" (Levenberg-Marquardt on the Jacobian), "adam", or "wide" (CMA-ES, for starts far off).
        sizes: of the frames' longer side at each stage, coarse first [px].
        blur: standard deviation of the neighbourhood whose mean and contrast are taken out of the images [mm on the
            image plane]; 0 compares whole images.
        steps: most steps at each stage.
        tolerance: a stage ends where a step lowers the cost by less than this share of one unit of log likelihood.
        robust: residuals beyond this many standard deviations count less (gas, tools, text); 0 for none.
        start_translation: half-width of the box in which the true place lies about the start, per axis [mm]; the prior
            of the pose has the standard deviation of that box; 0 for no prior.
        start_rotation: the same of the rotation, per axis [degrees].
        depth: standard deviation of the start's depth along the first view's axis [mm], where it is better (isocentre,
            table height) or worse known than the box says; 0 where the box counts, math.inf for no depth prior.
        match: whether the model's contours are looked for in the frames first, which brings the start near enough for a
            slope to lead on; "labels" do without.
        shape, pose, turn: whether coefficients, pose and the joint's turn are fitted.
        modes: most modes in use; 0 for all that the model has.
        view_translation, view_rotation: standard deviation of each view's own correction [mm, degrees]; 0 for none.
        backend: "auto", "torch" or "warp".
        seed: of what is random (the wide search).
    Raises: SettingError.
    """

    similarity: str = "correlation"
    optimiser: str = "levenberg"
    sizes: tuple[int, ...] = (32, 64, 128)
    blur: float = 30.0
    steps: int = 30
    tolerance: float = 0.1
    robust: float = 2.5
    start_translation: float = 10.0
    start_rotation: float = 5.0
    depth: float = 0.0
    match: bool = True
    shape: bool = True
    pose: bool = True
    turn: bool = True
    modes: int = 0
    view_translation: float = 0.0
    view_rotation: float = 0.0
    backend: str = "auto"
    seed: int = 0

    def __post_init__(self):
        for name, value, offered in (
            ("similarity", self.similarity, SIMILARITIES),
            ("optimiser", self.optimiser, OPTIMISERS),
        ):
            if value not in offered:
                raise SettingError(f"{name} is one of {', '.join(offered)}, not {value!r}.")
        sizes = self.sizes
        if not sizes or list(sizes) != sorted(set(sizes)) or sizes[0] < 8:
            raise SettingError(f"sizes are numbers of pixels that grow from 8 on, as (32, 64, 128), not {sizes}.")
        for name in ("blur", "robust", "start_translation", "start_rotation", "view_translation", "view_rotation"):
            if not 0 <= getattr(self, name) < math.inf:
                raise SettingError(f"{name} is a number, 0 or more, not {getattr(self, name)!r}.")
        if not self.depth >= 0:
            raise SettingError(f"depth is a standard deviation [mm], 0 or more, not {self.depth!r}.")
        for name in ("steps", "modes", "seed"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < (name == "steps"):
                least = int(name == "steps")
                raise SettingError(f"{name} is a whole number, {least} or more, not {getattr(self, name)!r}.")
        if not self.tolerance > 0:
            raise SettingError(f"tolerance is above zero, not {self.tolerance!r}.")
