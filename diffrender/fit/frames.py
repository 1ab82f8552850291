"""A radiograph made ready to be compared: bone bright, at one resolution, with a weight for every pixel."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from diffrender.camera import Camera
from diffrender.errors import ImageError
from diffrender.fit.settings import FitSettings
from diffrender.xray import Radiograph

EXTREMES = 0.002  # share of pixels at either end that are taken as no darker or brighter than the rest: text, tools
DARKEST = 1e-4  # of the brightest intensity: a logarithm of less is noise
LEAST_CONTRAST = 0.25  # of the median local contrast: below it a flat place is not stretched further
NEAR_EDGE = 2.0  # px at the level in use that a shutter's edge reaches into the image


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame at one resolution.

    Attributes:
        image: bone bright, (h, w) [no unit]: log attenuation up to an unknown scale and offset.
        weights: (h, w), 0 where the beam did not reach.
        camera: of this resolution.
        blur: standard deviation of the neighbourhood that `high_passed` takes away [mm on the image plane]; 0 for the
            mean of the whole frame.
        contrast: (h, w), local standard deviation of `image` by which both pictures are divided; ones without `blur`.
        masks: (part, h, w) 0..1, where parts project, in the order of `parts`; None where the frame has none.
        parts: their names.
    """

    image: Float[Tensor, "h w"]
    weights: Float[Tensor, "h w"]
    camera: Camera
    blur: float
    contrast: Float[Tensor, "h w"]
    masks: Float[Tensor, "part h w"] | None = None
    parts: tuple[str, ...] = ()

    def inverted(self) -> "Frame":
        """The frame with bone dark: for one whose file tells its kind wrongly."""
        return replace(self, image=-self.image)

    def near(self, there: Bool[Tensor, "h w"], reach: float) -> "Frame":
        """The frame with no weight farther than `reach` [mm on the image plane] from where `there` is: what lies there
        is not of the body that is fitted."""
        rows, columns = (max(1, round(reach / step)) for step in self.camera.pixel_size)
        shadow = there.to(self.weights)[None, None]
        around = F.max_pool2d(shadow, (2 * rows + 1, 2 * columns + 1), 1, (rows, columns))[0, 0]
        return replace(self, weights=self.weights * around)

    def high_passed(self, images: Float[Tensor, "*n h w"]) -> Float[Tensor, "*n h w"]:
        """Images less their weighted local mean; linear, so a derivative is filtered as the image is."""
        return images - local_mean(images, self.weights.to(images), self._radii())

    def normalised(self, images: Float[Tensor, "*n h w"]) -> Float[Tensor, "*n h w"]:
        """`high_passed` over the frame's own local contrast, times the root of the weights: what is compared."""
        return self.high_passed(images) * (self.weights.sqrt() / self.contrast).to(images)

    def _radii(self) -> tuple[float, float]:
        return radii_of(self.camera, self.blur)


def frame_of(radiograph: Radiograph, size: int, settings: FitSettings) -> Frame:
    """A frame at `size` pixels along its longer side (or its own size where that is smaller).

    Args:
        radiograph: of either kind; pixels that the beam did not reach are left out.
    Raises: ImageError for a frame of constant value, or one that the beam reached nowhere.
    """
    image = attenuation_like(radiograph)
    exposed = torch.ones_like(image) if radiograph.exposed is None else radiograph.exposed.to(image)
    height, width = radiograph.camera.image_size
    share = min(1.0, size / max(height, width))
    small = (max(1, round(height * share)), max(1, round(width * share)))
    weights = _reduced(exposed, small)
    reduced = _reduced(image * exposed, small) / weights.clamp(min=1e-6)
    camera = radiograph.camera.resized(small)
    weights = _inside(weights)
    if not bool(weights.any()):
        raise ImageError(f"{radiograph.source or 'A frame'}: no pixel of it is exposed, so there is nothing to fit.")
    reduced = torch.where(weights > 0, reduced, (reduced * weights).sum() / weights.sum())
    frame = Frame(reduced, weights, camera, settings.blur, torch.ones_like(reduced), *_masks(radiograph, small))
    return replace(frame, contrast=_contrast(frame)) if settings.blur > 0 else frame


def pyramid(radiograph: Radiograph, settings: FitSettings) -> list[Frame]:
    """The frame at each of `settings.sizes` that it has pixels for, coarse first."""
    most = max(radiograph.camera.image_size)
    sizes = [size for size in settings.sizes if size < most] or [most]
    if len(sizes) < len(settings.sizes) and sizes[-1] < most:
        sizes.append(most)
    return [frame_of(radiograph, size, settings) for size in sizes]


def attenuation_like(radiograph: Radiograph) -> Float[Tensor, "h w"]:
    """Pixels as log attenuation with an unknown scale and offset, the few extreme ones held at the rest's range.

    Raises: ImageError for a frame of constant value, or of values that are not finite.
    """
    what = radiograph.source or "A frame"
    pixels = radiograph.pixels[0].detach()
    seen = pixels if radiograph.exposed is None else pixels[radiograph.exposed]
    if not bool(torch.isfinite(seen).all()):
        raise ImageError(f"{what} has pixels that are NaN or infinite. Export it again, or mask them as not exposed.")
    if not len(seen.reshape(-1)) or float(seen.amax() - seen.amin()) <= 1e-6 * float(seen.abs().amax()):
        raise ImageError(
            f"{what} has one value, {float(pixels.flatten()[0]):g}, in all its pixels: there is no patient in it. "
            "Give the frame that was exposed, not an empty or a dark one."
        )
    if radiograph.kind == "intensity":
        brightest = float(_quantile(seen, 0.999))
        pixels = -torch.log((pixels / brightest).clamp(min=DARKEST))
        seen = pixels if radiograph.exposed is None else pixels[radiograph.exposed]
    low, high = _quantile(seen, EXTREMES), _quantile(seen, 1 - EXTREMES)
    low, high = (low, high) if high > low else (seen.amin(), seen.amax())
    return torch.nan_to_num(pixels).clamp(low, high)


def local_mean(
    images: Float[Tensor, "*n h w"], weights: Float[Tensor, "h w"], radii: tuple[float, float]
) -> Float[Tensor, "*n h w"]:
    """Weighted mean over a Gaussian neighbourhood (standard deviations in rows and columns [px]; 0: over all)."""
    if min(radii) <= 0:
        return ((images * weights).sum((-2, -1), keepdim=True) / weights.sum()).expand_as(images)
    return blurred(images * weights, radii) / blurred(weights, radii).clamp(min=1e-6)


def blurred(images: Float[Tensor, "*n h w"], radii: tuple[float, float]) -> Float[Tensor, "*n h w"]:
    """Images under a Gaussian [px], zero outside: two products with banded matrices."""
    height, width = images.shape[-2:]
    rows, columns = (_gaussian(n, radius).to(images) for n, radius in ((height, radii[0]), (width, radii[1])))
    return rows @ images @ columns


def radii_of(camera: Camera, blur: float) -> tuple[float, float]:
    """A length on the image plane [mm] as (rows, columns) [px]."""
    return blur / camera.pixel_size[0], blur / camera.pixel_size[1]


def _gaussian(n: int, radius: float) -> Float[Tensor, "n n"]:
    place = torch.arange(n, dtype=torch.float64)
    return torch.exp(-0.5 * ((place[:, None] - place) / radius) ** 2) / (radius * (2 * torch.pi) ** 0.5)


def _contrast(frame: Frame) -> Float[Tensor, "h w"]:
    squares = frame.high_passed(frame.image).square()
    contrast = local_mean(squares, frame.weights, radii_of(frame.camera, frame.blur)).clamp(min=0).sqrt()
    usual = _quantile(contrast[frame.weights > 0], 0.5)
    return (contrast.square() + (LEAST_CONTRAST * usual).square()).sqrt().clamp(min=1e-12)


def _inside(weights: Float[Tensor, "h w"]) -> Float[Tensor, "h w"]:
    """0 where a pixel or one beside it is partly unexposed."""
    reach = round(NEAR_EDGE)
    hidden = F.max_pool2d((weights < 0.999).to(weights)[None, None], 2 * reach + 1, 1, reach)[0, 0]
    return 1 - hidden


def _reduced(image: Float[Tensor, "*n h w"], size: tuple[int, int]) -> Float[Tensor, "*n h2 w2"]:
    return F.adaptive_avg_pool2d(image.reshape(-1, 1, *image.shape[-2:]), size).reshape(*image.shape[:-2], *size)


def _masks(radiograph: Radiograph, size: tuple[int, int]) -> tuple[Tensor | None, tuple[str, ...]]:
    if radiograph.masks is None:
        return None, ()
    return _reduced(radiograph.masks.to(torch.float32), size), tuple(map(radiograph.label_name, radiograph.ids))


def _quantile(values: Tensor, share: float) -> Tensor:
    """As torch.quantile, which takes no more than 16 million values."""
    values = values.reshape(-1)
    return values.kthvalue(1 + round(share * (len(values) - 1))).values
