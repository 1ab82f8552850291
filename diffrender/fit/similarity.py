"""How alike a picture and a frame are, as a sum of squares: what Levenberg and Marquardt's method asks for.

Each similarity is a residual r with |r|^2 the cost, and its derivative; `similarity` is the same as one number through
torch's own gradients. Local mean and contrast (where the frame has a `blur`) and weights are in all of them.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from diffrender.errors import LabelError, SettingError
from diffrender.fit.frames import Frame
from diffrender.fit.settings import SIMILARITIES

SOFT_EDGE = 5.0  # mm of path over which a projected part's mask rises from 0 to 1 - 1/e
Residual = tuple[Tensor, Tensor | None]


def residual(
    kind: str,
    shown: Float[Tensor, "*part h w"],
    frame: Frame,
    jacobian: Float[Tensor, "*part h w p"] | None = None,
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n p"] | None]:
    """What is left between a picture and a frame, and its derivative.

    Args:
        kind: one of SIMILARITIES.
        shown: the picture, bone bright, on any scale (h, w); for "labels" path lengths of each of the frame's parts
            (part, h, w) [mm].
        jacobian: d shown / d parameters.
    Returns: r and d r / d parameters, the derivative of every normalisation included. |r|^2 is
        "correlation": 2 - 2 NCC of the images;
        "gradient-correlation": 2 - the sum of the NCC of the two gradient images, as in Shetty et al. (2021);
        "gradient-difference": the share of pixels whose gradients differ, sum of d^2 / (v + d^2), with d the
            difference to the best multiple of the picture's gradient and v the variance of the frame's (Penney et al.,
            IEEE Trans. Med. Imaging 17 (1998) 586, doi:10.1109/42.730403);
        "labels": the sum of the squared differences of masks over that of the frame's masks.
    Raises: SettingError for a kind that is not offered, LabelError for a frame without masks.
    """
    if kind not in RESIDUALS:
        raise SettingError(f"similarity is one of {', '.join(SIMILARITIES)}, not {kind!r}.")
    return RESIDUALS[kind](shown, frame, jacobian)


def similarity(kind: str, shown: Float[Tensor, "*part h w"], frame: Frame) -> Float[Tensor, ""]:
    """How alike they are: 1 for the same up to scale and offset; differentiable in `shown`."""
    r, _ = residual(kind, shown, frame)
    return 1 - r.square().sum() / (2 if "correlation" in kind else 1)


def gradients(images: Float[Tensor, "*n h w"]) -> Float[Tensor, "*n 2 h w"]:
    """Central differences along rows and columns, 0 at the border."""
    down, right = torch.zeros_like(images), torch.zeros_like(images)
    down[..., 1:-1, :] = (images[..., 2:, :] - images[..., :-2, :]) / 2
    right[..., 1:-1] = (images[..., 2:] - images[..., :-2]) / 2
    return torch.stack([down, right], -3)


def unit(a: Float[Tensor, "n"], rates: Float[Tensor, "p n"] | None) -> tuple[Tensor, Tensor | None]:
    """a / |a| and its derivative (p, n); a picture that shows nothing stays zero."""
    size = a.norm().clamp(min=torch.finfo(a.dtype).tiny ** 0.5)
    direction = a / size
    if rates is None:
        return direction, None
    return direction, (rates - (rates @ direction)[:, None] * direction) / size


def _correlation(shown: Tensor, frame: Frame, jacobian: Tensor | None) -> Residual:
    a, rates = _flat(frame.normalised(shown)), _filtered(frame.normalised, jacobian)
    direction, turned = unit(a, rates)
    return direction - unit(_flat(frame.normalised(frame.image.to(shown))), None)[0], _columns(turned)


def _gradient_correlation(shown: Tensor, frame: Frame, jacobian: Tensor | None) -> Residual:
    a, b, rates = _gradients_of(shown, frame, jacobian)
    parts = [unit(_flat(a[n]), None if rates is None else rates[:, n].flatten(1)) for n in range(2)]
    target = [unit(_flat(b[n]), None)[0] for n in range(2)]
    r = torch.cat([part[0] - one for part, one in zip(parts, target, strict=True)]) / 2**0.5
    if rates is None:
        return r, None
    return r, _columns(torch.cat([part[1] for part in parts if part[1] is not None], 1) / 2**0.5)


def _gradient_difference(shown: Tensor, frame: Frame, jacobian: Tensor | None) -> Residual:
    a, b, rates = _gradients_of(shown, frame, jacobian)
    a, b = _flat(a), _flat(b)
    size = a.square().sum().clamp(min=torch.finfo(a.dtype).tiny ** 0.5)
    scale = (a @ b) / size
    d, spread = b - scale * a, b.square().mean()
    root = (spread + d.square()).sqrt() * len(d) ** 0.5
    if rates is None:
        return d / root, None
    rates = rates.flatten(1)
    of_scale = (rates @ (b - 2 * scale * a)) / size
    of_d = -scale * rates - of_scale[:, None] * a
    return d / root, _columns(of_d * (spread / (spread + d.square()) / root))


def _labels(shown: Tensor, frame: Frame, jacobian: Tensor | None) -> Residual:
    if frame.masks is None or frame.masks.shape != shown.shape:
        raise LabelError(
            f"Masks are compared part by part: the picture has {list(shown.shape)} and the frame "
            f"{'none' if frame.masks is None else list(frame.masks.shape)}. Give a frame with a mask of every part, or "
            "another similarity."
        )
    through = torch.exp(-shown / SOFT_EDGE)
    weights = frame.weights.sqrt()
    size = (frame.masks * weights).norm().clamp(min=1e-6)
    r = _flat((1 - through - frame.masks) * weights / size)
    if jacobian is None:
        return r, None
    return r, (jacobian * (through * weights / (SOFT_EDGE * size))[..., None]).flatten(0, -2)


def _gradients_of(shown: Tensor, frame: Frame, jacobian: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of picture (2, h, w), frame and derivatives (p, 2, h, w), weighted and centred."""

    def prepared(images: Tensor) -> Tensor:
        root = (frame.weights.sqrt() / frame.contrast).to(images)
        found = gradients(frame.high_passed(images)) * root
        return found - root * ((found * root).sum((-2, -1), keepdim=True) / root.square().sum())

    return prepared(shown), prepared(frame.image.to(shown)), _filtered(prepared, jacobian)


def _filtered(work: Callable[[Tensor], Tensor], jacobian: Tensor | None) -> Tensor | None:
    """`work` on each column of a Jacobian (h, w, p): (p, ...); flattened where it gives images."""
    if jacobian is None:
        return None
    found = work(jacobian.movedim(-1, 0))
    return found.flatten(1) if found.ndim == 3 else found


def _columns(rates: Tensor | None) -> Tensor | None:
    return None if rates is None else rates.T


def _flat(image: Tensor) -> Tensor:
    return image.reshape(-1)


RESIDUALS: dict[str, Callable[[Tensor, Frame, Tensor | None], Residual]] = {
    "correlation": _correlation,
    "gradient-correlation": _gradient_correlation,
    "gradient-difference": _gradient_difference,
    "labels": _labels,
}
