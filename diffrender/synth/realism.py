"""How far made radiographs are from real ones, without any network's weights: greys, texture, and patches.

All three compare two sets of pictures, not pictures one by one: the sets show different people.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diffrender.errors import ImageError
from diffrender.learning import drawn

Pictures = Float[Tensor, "..."] | Sequence[Float[Tensor, "1 h w"]]  # (n, 1, h, w), checked in words

BINS = 64  # of greys from 0 to 1
FEWEST = 2  # pictures of each set
SMALLEST = 16  # px a side
PATCH, PATCHES, DIRECTIONS = 7, 128, 128  # px a side; of each picture and level; onto which patches are projected
COARSEST = 16  # px a side of the pyramid's last level
LEAST_POWER = 1e-12  # of a spectrum: where there is nothing, its logarithm says nothing


def histogram_distance(made: Pictures, real: Pictures) -> float:
    """Mean difference between the greys of both sets, matched from the darkest to the brightest (Wasserstein 1).

    0 to 1: 0.1 is a tenth of the grey range.
    Raises: ImageError for fewer than two pictures, or other numbers than finite ones.
    """
    shares = [torch.histc(_checked(part).clamp(0.0, 1.0).double(), BINS, 0.0, 1.0) for part in (made, real)]
    below = [torch.cumsum(share / share.sum(), 0) for share in shares]
    return float((below[0] - below[1]).abs().sum() / BINS)


def spectrum_distance(made: Pictures, real: Pictures) -> float:
    """Root mean square difference of the mean radial power spectra [dB], from one period a picture to Nyquist.

    Smooth pictures lack power where real ones have edges and noise. Each picture's window is taken off first: of greys
    with mean 0 and standard deviation 1, seen through Hann's window.
    Raises: ImageError as `histogram_distance`, and where the two sets' sizes differ.
    """
    first, second = _same_size(made, real)
    levels = [10.0 * spectrum(part).clamp(min=LEAST_POWER).log10() for part in (first, second)]
    return float((levels[0] - levels[1]).square().mean().sqrt())


def spectrum(pictures: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "ring"]:
    """Mean power of rings of frequencies, ring r from r - 1/2 to r + 1/2 periods a picture's shorter side, r from 1."""
    height, width = pictures.shape[2:]
    greys = pictures[:, 0].double()
    greys = greys - greys.mean((1, 2), keepdim=True)
    greys = greys / greys.std((1, 2), unbiased=False, keepdim=True).clamp(min=1e-6)
    windows = [torch.hann_window(n, periodic=False, dtype=torch.float64) for n in (height, width)]
    window = windows[0][:, None] * windows[1]
    power = torch.fft.fft2(greys * window).abs().square().mean(0) / window.square().sum()
    side = min(height, width)
    down, across = (torch.fft.fftfreq(n, dtype=torch.float64) * side for n in (height, width))
    ring = (down[:, None].square() + across.square()).sqrt().round().long()
    rings = side // 2 + 1
    inside = ring < rings
    sums = torch.zeros(rings, dtype=torch.float64).index_add(0, ring[inside], power[inside])
    counts = torch.zeros(rings, dtype=torch.float64).index_add(0, ring[inside], torch.ones_like(power[inside]))
    return (sums / counts.clamp(min=1.0))[1:]


def sliced_wasserstein(made: Pictures, real: Pictures, seed: int = 0) -> dict[int, float]:
    """Distance between the patches of both sets at every level of a Laplacian pyramid, finest first, by side [px].

    Patches of 7 x 7 pixels, drawn, are projected onto random directions and sorted; the mean absolute difference is the
    distance: 0 for equal sets, times 1000 as in the source. Greys are compared as they are, not normalised.

    Args:
        seed: of the patches and directions.
    Raises: ImageError as `spectrum_distance`.
    Source: Karras et al., Progressive Growing of GANs (2018), arXiv:1710.10196, section 5, appendix B.
    """
    first, second = _same_size(made, real)
    found = {}
    for a, b in zip(_pyramid(first), _pyramid(second), strict=True):
        side = min(a.shape[2:])
        sets = [_patches(part, drawn(seed, "patches", side)) for part in (a, b)]
        ways = torch.randn(sets[0].shape[1], DIRECTIONS, generator=drawn(seed, "ways", side), dtype=torch.float64)
        ways = ways / ways.norm(dim=0)
        sorted_, other = (_quantiles((part @ ways).sort(0).values) for part in sets)
        found[side] = 1000.0 * float((sorted_ - other).abs().mean())
    return found


def realism_distances(made: Pictures, real: Pictures, seed: int = 0) -> dict[str, float]:
    """All distances that need no weights, by name; smaller is nearer to the real set.

    Returns: "histogram" [share of the grey range], "spectrum" [dB], "patches", the mean over the levels of
        `sliced_wasserstein`.
    Raises: ImageError.
    """
    levels = sliced_wasserstein(made, real, seed)
    return {
        "histogram": histogram_distance(made, real),
        "spectrum": spectrum_distance(made, real),
        "patches": sum(levels.values()) / len(levels),
    }


def _pyramid(pictures: Float[Tensor, "n 1 h w"]) -> list[Float[Tensor, "n 1 r c"]]:
    """What each level adds to the next coarser one, and last the coarsest itself."""
    levels, now = [], pictures.double()
    while min(now.shape[2:]) >= 2 * COARSEST:
        coarse = F.avg_pool2d(now, 2)
        back = F.interpolate(coarse, list(now.shape[2:]), mode="bilinear", align_corners=False)
        levels.append(now - back)
        now = coarse
    return [*levels, now]


def _patches(level: Float[Tensor, "n 1 h w"], draw: torch.Generator) -> Float[Tensor, "m p"]:
    """PATCHES of each picture, drawn, as rows."""
    height, width = level.shape[2:]
    rows, columns = (torch.randint(size - PATCH + 1, (len(level), PATCHES), generator=draw) for size in (height, width))
    step = torch.arange(PATCH)
    down, across = rows[..., None, None] + step[:, None], columns[..., None, None] + step
    numbers = torch.arange(len(level))[:, None, None, None]
    return level[numbers, 0, down, across].reshape(-1, PATCH * PATCH)


def _quantiles(rising: Float[Tensor, "m d"], count: int = 512) -> Float[Tensor, "q d"]:
    """As many of either set, whatever their numbers of pictures."""
    places = (torch.arange(count, dtype=torch.float64) + 0.5) / count * len(rising) - 0.5
    low = places.floor().clamp(0, len(rising) - 1).long()
    high = (low + 1).clamp(max=len(rising) - 1)
    part = (places - low).clamp(0.0, 1.0)[:, None]
    return rising[low] * (1 - part) + rising[high] * part


def _checked(pictures: Pictures) -> Float[Tensor, "n 1 h w"]:
    made = pictures if isinstance(pictures, Tensor) else torch.stack(list(pictures)) if pictures else torch.zeros(0)
    if made.ndim != 4 or len(made) < FEWEST or min(made.shape[2:]) < SMALLEST:
        raise ImageError(
            f"Distances are between two sets of {FEWEST} or more pictures (n, 1, h, w) of {SMALLEST} px a side or "
            f"more; this set has the shape {list(made.shape)}."
        )
    if not bool(torch.isfinite(made).all()):
        raise ImageError("A picture holds numbers that are NaN or infinite, so it is at no distance from anything.")
    return made.detach().cpu()


def _same_size(made: Pictures, real: Pictures) -> tuple[Float[Tensor, "n 1 h w"], Float[Tensor, "m 1 h w"]]:
    first, second = _checked(made), _checked(real)
    if first.shape[2:] != second.shape[2:]:
        raise ImageError(
            f"The two sets have pictures of {list(first.shape[2:])} and of {list(second.shape[2:])} px; bring them to "
            "one size, since finer pictures have finer texture."
        )
    return first, second
