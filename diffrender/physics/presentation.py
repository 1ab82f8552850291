"""A radiograph as a viewing station shows it: structure evened out, windowed, through a look-up curve."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from diffrender.errors import SettingError
from diffrender.physics.blur import gaussian

VOI = ("linear", "sigmoid")
PHOTOMETRIC = ("MONOCHROME1", "MONOCHROME2")
AIR = 0.05  # [no unit] more than air and clothes attenuate
BODY = 0.25  # of the median of all that is not air: tables and the skin's rim lie below, lungs above
RIM = 0.03  # of the image's shorter side: how far in from the skin an automatic window begins to look
# Deviations of the Gaussians between which structures lie, in the same shares.
SCALES = (0.004, 0.012, 0.035, 0.1)


@dataclass(frozen=True)
class Presentation:
    """How log-attenuation becomes grey.

    Attributes:
        window: (centre, width) of log-attenuation, after `contrast` and `evened`; None: from `percentiles`.
        percentiles: of the exposed body that an automatic window puts at 5 and 95 per cent of the grey range.
        voi: "linear" or "sigmoid", the curve through the window.
        photometric: "MONOCHROME2" shows bone bright, "MONOCHROME1" dark.
        gamma: exponent of what is shown; below 1 brighter.
        contrast: times the structures of each of the `SCALES`, the finest first; 1 leaves them.
        evened: how much of the differences coarser than all of them is taken away, 0 to 1.
    Raises: SettingError.
    """

    window: tuple[float, float] | None = None
    percentiles: tuple[float, float] = (2.0, 98.0)
    voi: str = "sigmoid"
    photometric: str = "MONOCHROME2"
    gamma: float = 1.0
    contrast: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    evened: float = 0.0

    def __post_init__(self):
        offered = (("voi", self.voi, VOI), ("photometric", self.photometric, PHOTOMETRIC))
        for name, value, names in offered:
            if value not in names:
                raise SettingError(f"{name} is one of {', '.join(names)}, not {value!r}.")
        if self.window is not None and not self.window[1] > 0:
            raise SettingError(f"A window has a centre and a width above zero, not {self.window}.")
        low, high = self.percentiles
        if not 0 <= low < high <= 100:
            raise SettingError(f"percentiles rise from 0 to 100; {low} to {high} do not.")
        if not self.gamma > 0 or not 0 <= self.evened <= 1:
            raise SettingError(f"gamma is above zero and evened from 0 to 1, not {self.gamma} and {self.evened}.")
        if len(self.contrast) != len(SCALES) or min(self.contrast) < 0:
            raise SettingError(f"contrast is {len(SCALES)} factors from 0 on, finest first, not {self.contrast}.")


def present(
    log_attenuation: Float[Tensor, "h w"], presentation: Presentation, exposed: Bool[Tensor, "h w"] | None = None
) -> Float[Tensor, "h w"]:
    """Greys 0 to 1 as shown, 1 the brightest; differentiable in the image, not in an automatic window.

    Args:
        exposed: pixels that the beam reached; the others are shown black, as shutters are.
    Source: DICOM PS3.3 C.11.2.1.3.1 (sigmoid) and C.11.2.1.3.2 (linear exact); structures apart by scale as in Burt &
        Adelson, IEEE Trans. Commun. 31 (1983) 532, doi:10.1109/TCOM.1983.1095851.
    """
    body = body_of(log_attenuation.detach(), exposed)
    values = _enhanced(log_attenuation, presentation, body)
    centre, width = presentation.window or _window(values.detach()[_without_rim(body)], presentation)
    if presentation.voi == "sigmoid":
        shown = torch.sigmoid(4 * (values - centre) / width)
    else:
        shown = ((values - centre) / width + 0.5).clamp(0, 1)
    if presentation.photometric == "MONOCHROME1":
        shown = 1 - shown
    if presentation.gamma != 1:
        shown = shown.clamp(min=1e-6) ** presentation.gamma
    return shown if exposed is None else shown * exposed


def body_of(log_attenuation: Float[Tensor, "h w"], exposed: Bool[Tensor, "h w"] | None = None) -> Bool[Tensor, "h w"]:
    """Pixels that show the patient: not air, not beyond the shutters; all of the exposed where there is no patient."""
    field = torch.ones_like(log_attenuation, dtype=torch.bool) if exposed is None else exposed
    shadow = field & (log_attenuation > AIR)
    if not shadow.any():
        return field if field.any() else torch.ones_like(field)
    return shadow & (log_attenuation > BODY * log_attenuation[shadow].median())


def _enhanced(
    values: Float[Tensor, "h w"], presentation: Presentation, body: Bool[Tensor, "h w"]
) -> Float[Tensor, "h w"]:
    """Each scale's structures times its factor; what is coarser than all of them drawn towards its mean."""
    if presentation.evened == 0 and set(presentation.contrast) == {1.0}:
        return values
    side, inside = min(values.shape), body.to(values)
    made, finer = torch.zeros_like(values), values
    for scale, factor in zip(SCALES, presentation.contrast, strict=True):
        # Means over the body alone: bright air beside the skin would otherwise darken what lies behind it.
        weight = gaussian(inside, (1.0, 1.0), scale * side)
        coarser = gaussian(values * inside, (1.0, 1.0), scale * side) / weight.clamp(min=1e-3)
        coarser = torch.where(weight > 1e-3, coarser, values)
        made, finer = made + factor * (finer - coarser), coarser
    made = made + finer + presentation.evened * (finer.detach()[body].mean() - finer)
    thin = max(BODY * values.detach()[body].median().item(), AIR)
    return values + (made - values) * (values.detach() / thin).clamp(0, 1)  # less and less towards the skin; not in air


def _without_rim(body: Bool[Tensor, "h w"]) -> Bool[Tensor, "h w"]:
    """The body without the skin's rim, which is to be as dark as it likes; all of it where it is all rim."""
    share = gaussian(body.double(), (1.0, 1.0), RIM * min(body.shape))
    deep = body & (share > 0.9)
    return deep if deep.sum() > 0.1 * body.sum() else body


def _window(body: Float[Tensor, "n"], presentation: Presentation) -> tuple[float, float]:
    shares = torch.tensor(presentation.percentiles, dtype=body.dtype) / 100
    low, high = torch.quantile(body[:: 1 + body.numel() // 200_000], shares).tolist()
    centre, width = (low + high) / 2, max(high - low, AIR)
    # A sigmoid is at 5 and 95 per cent 0.736 widths from its centre, a straight line 0.45.
    return centre, width / (2 * 0.736 if presentation.voi == "sigmoid" else 0.9)
