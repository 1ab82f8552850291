"""Places within the start's box from which a fit is worth beginning: likeness of many poses on the coarsest frame.

Bone edges are narrow: from a start 10 mm off, no slope leads past the next edge. The box is small enough to look at.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.quasirandom import SobolEngine

from diffrender.fit.frames import Frame
from diffrender.fit.problem import likeness
from diffrender.fit.scene import POSE, Scene
from diffrender.fit.settings import FitSettings

APART = (4.0, 2.5)  # mm, degrees: places nearer than this lead to the same end


def scattered(
    scene: Scene, x: Float[Tensor, "n"], frames: list[Frame], settings: FitSettings, count: int
) -> list[Float[Tensor, "n"]]:
    """The start and up to `count` others, the most alike first, no two of them close together.

    Poses fill the box evenly (Sobol's sequence), but for the depth, which the likeness hardly depends on.
    """
    if not settings.scan or not settings.pose or not settings.start_translation:
        return [x]
    turn = math.radians(settings.start_rotation)
    half = torch.tensor([settings.start_translation] * 3 + [turn] * 3, dtype=torch.float64)
    places = (2 * SobolEngine(POSE).draw(settings.scan, dtype=torch.float64) - 1) * half
    if len(frames) == 1:
        axis = frames[0].camera.direction
        places[:, :3] -= (places[:, :3] @ axis)[:, None] * axis
    tried = [x] + [torch.cat([x[:POSE] + place, x[POSE:]]) for place in places]
    scores = torch.tensor([likeness(scene, frames, one, settings.similarity) for one in tried])
    found: list[Tensor] = []
    for n in scores.argsort(descending=True, stable=True).tolist():
        if all(_apart(tried[n], other) for other in found):
            found.append(tried[n])
        if len(found) == count:
            break
    return found


def _apart(a: Tensor, b: Tensor) -> bool:
    off = a[:POSE] - b[:POSE]
    return bool(off[:3].norm() > APART[0] or off[3:].norm() > math.radians(APART[1]))
