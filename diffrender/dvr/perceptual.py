"""LPIPS: how different two pictures look to a network that has seen many; its weights come from a local file.

They are not part of DiffRender and are never downloaded. The file is .safetensors with the layers of torchvision's
AlexNet ("features.0.weight", "features.0.bias", then 3, 6, 8 and 10) and LPIPS' own ("lin0.model.1.weight" to "lin4").
Source: Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, CVPR 2018.
"""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diffrender.errors import PathError

_LAYERS = ((0, 4, 2), (3, 1, 2), (6, 1, 1), (8, 1, 1), (10, 1, 1))  # AlexNet: number, stride, padding
_POOLED_BEFORE = (3, 6)
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of pictures -1..1, as LPIPS has them
SMALLEST_SIDE = 35  # px that AlexNet needs to reach its last layer


@lru_cache(maxsize=2)
def weights_of(path: str | Path, device: str = "cpu") -> dict[str, Tensor]:
    """The weights in a file. Raises: PathError for one that is missing, no safetensors, or of other layers."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        found = load(Path(path).expanduser().read_bytes())
    except OSError as problem:
        raise PathError(
            f"{path} cannot be read: {problem.strerror}. It should hold the weights of LPIPS, which do not come with "
            "DiffRender; without them leave `perceptual` at 0, or take `gradient`."
        ) from None
    except SafetensorError:
        raise PathError(
            f"{path} is no .safetensors file. Weights of LPIPS as .pth can run code when opened; convert them."
        ) from None
    names = [f"features.{n}.{kind}" for n, *_ in _LAYERS for kind in ("weight", "bias")]
    names += [f"lin{n}.model.1.weight" for n in range(len(_LAYERS))]
    missing = [name for name in names if name not in found]
    if missing:
        raise PathError(f"{path} has no {missing[0]} and {len(missing) - 1} others of the {len(names)} parts of LPIPS.")
    return {name: found[name].float().to(device) for name in names}


def lpips(
    a: Float[Tensor, "3 h w"],
    b: Float[Tensor, "3 h w"],
    weights: Mapping[str, Tensor],
    mask: Float[Tensor, "h w"] | None = None,
) -> Float[Tensor, ""]:
    """Perceptual difference of pictures 0..1; where the mask is 0 both show the second one. Differentiable."""
    if mask is not None:
        a = torch.where(mask > 0, a, b)
    total = a.sum() * 0
    for number, (x, y) in enumerate(zip(_features(a, weights), _features(b, weights), strict=True)):
        apart = (_unit(x) - _unit(y)) ** 2
        total = total + F.conv2d(apart, weights[f"lin{number}.model.1.weight"]).mean()
    return total


def _features(image: Tensor, weights: Mapping[str, Tensor]) -> list[Tensor]:
    shift, scale = (image.new_tensor(v)[:, None, None] for v in (_SHIFT, _SCALE))
    short = max(1.0, SMALLEST_SIDE / min(image.shape[-2:]))
    x = ((2 * image - 1 - shift) / scale)[None]
    if short > 1:
        x = F.interpolate(x, scale_factor=short, mode="bilinear")
    found = []
    for number, stride, padding in _LAYERS:
        if number in _POOLED_BEFORE:
            x = F.max_pool2d(x, 3, 2)
        x = F.relu(
            F.conv2d(x, weights[f"features.{number}.weight"], weights[f"features.{number}.bias"], stride, padding)
        )
        found.append(x)
    return found


def _unit(x: Tensor) -> Tensor:
    return x / (x.norm(dim=1, keepdim=True) + 1e-10)
