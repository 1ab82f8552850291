"""Random appearances of one view: what matter attenuates, scatter, noise, what lies on the patient, how it is shown.

A network that has met every look is not led astray by the one that real radiographs have (domain randomisation; Tobin
et al., IROS 2017, doi:10.1109/IROS.2017.8202133). All numbers are drawn anew for each image, from the generator given.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float

from diffrender.errors import SettingError
from diffrender.physics.materials import mass_attenuation
from diffrender.synth.layers import DISEASE
from diffrender.synth.occluders import arms, occluders, writing

Range = tuple[float, float]
DARKEST = 1e-5  # of the open beam


@dataclass(frozen=True)
class Appearance:
    """Between what numbers an appearance is drawn.

    Attributes:
        energy: of the beam [keV].
        weights: {material: what multiplies its attenuation}; those of `WEIGHTS` where none is given.
        nearly: what multiplies all other materials.
        disease: chance of disease in the lungs.
        scatter: share of the signal that is a veil.
        noise: relative deviation of the signal where it is a hundredth of the open beam's.
        objects: most of them on the patient.
        arms, writing: chances.
        uneven: attenuation of broad patches of tissue that come and go, one standard deviation.
        display: whether the way it is shown is random, or always a plain window.
        inverted: chance that bone is dark.
    Raises: SettingError for a range that falls.
    """

    energy: Range = (45.0, 95.0)
    weights: Mapping[str, Range] | None = None
    nearly: Range = (0.93, 1.07)
    disease: float = 0.5
    scatter: Range = (0.0, 0.6)
    noise: Range = (0.0, 0.012)
    objects: int = 8
    arms: float = 0.5
    writing: float = 0.3
    uneven: Range = (0.0, 0.4)
    display: bool = True
    inverted: float = 0.0

    def __post_init__(self):
        ranges = {
            "energy": self.energy,
            "scatter": self.scatter,
            "noise": self.noise,
            "uneven": self.uneven,
            **(self.weights or {}),
        }
        for name, (low, high) in ranges.items():
            if not 0 <= low <= high:
                raise SettingError(f"{name} is drawn between two numbers, from 0 on and rising; not {low} and {high}.")


# CTs know bone, contrast medium and half-filled lung less well than they know water
WEIGHTS: dict[str, Range] = {"lung": (0.6, 1.6), "cortical-bone": (0.5, 2.0), "iodine": (0.0, 1.5), "blood": (0.9, 1.1)}
PLAIN = Appearance((70, 70), dict.fromkeys(WEIGHTS, (1.0, 1.0)), (1, 1), 0, (0, 0), (0, 0), 0, 0, 0, (0, 0), False)


def attenuated(
    images: Mapping[str, Float[np.ndarray, "h w"]], appearance: Appearance, random: np.random.Generator
) -> Float[np.ndarray, "h w"]:
    """p of Beer and Lambert's law at a random energy: areal densities times mass attenuation, each with a weight."""
    energy = random.uniform(*appearance.energy)
    weights = {**WEIGHTS, **(appearance.weights or {})}
    total: Any = 0.0
    for name, image in images.items():
        if name == DISEASE:
            share = random.random() ** 1.5 if random.random() < appearance.disease else 0.0
        else:
            share = random.uniform(*weights.get(name, appearance.nearly))
        total = total + (share * _attenuation(name, energy)) * image.astype(np.float32)
    return np.asarray(total, dtype=np.float32)


def _attenuation(name: str, energy: float) -> float:
    return _tabulated(name, round(energy))  # whole keV, so that the table is asked a few times only


@cache
def _tabulated(name: str, energy: int) -> float:
    return float(mass_attenuation("soft-tissue" if name == DISEASE else name, energy)[0])


def radiographed(
    p: Float[np.ndarray, "h w"], appearance: Appearance, random: np.random.Generator
) -> Float[np.ndarray, "h w"]:
    """What is read: objects on the patient, a veil of scatter, noise; as -log of the signal."""
    size = (p.shape[0], p.shape[1])
    if appearance.objects:
        p = p + occluders(size, appearance.objects, random)
    if random.random() < appearance.arms:
        p = p + arms(size, random)
    if patches := random.uniform(*appearance.uneven):
        p = p + patches * _patches(size, random)
    signal = np.exp(-p)
    share = random.uniform(*appearance.scatter)
    if share:
        veil = blurred(signal, size[0] * random.uniform(0.05, 0.25))
        signal = (1 - share) * signal + share * veil * random.uniform(0.5, 1.0)
    deviation = random.uniform(*appearance.noise)
    if deviation:
        sigma = deviation * np.sqrt(0.01 * np.clip(signal, DARKEST, None))
        signal = signal + sigma * random.standard_normal(size, dtype=np.float32)
    return -np.log(np.clip(signal, DARKEST, None)).astype(np.float32)


def shown(
    image: Float[np.ndarray, "h w"], appearance: Appearance, random: np.random.Generator
) -> Float[np.ndarray, "h w"]:
    """Greys 0 to 1 as some viewing station might show them."""
    if not appearance.display:
        low, high = np.percentile(image, [1, 99])
        return np.clip((image - low) / max(high - low, 1e-6), 0, 1).astype(np.float32)
    low, high = np.percentile(image[::2, ::2], [random.uniform(0.5, 12), random.uniform(88, 99.8)])
    x = (image - low) / max(high - low, 1e-6)
    if random.random() < 0.7:
        x = _evened(np.clip(x, -1.0, 2.0), random)
    if random.random() < 0.5:
        x = x + random.uniform(0, 2) * (x - blurred(x, random.uniform(0.8, 4)))
    if random.random() < 0.3:
        x = 1 / (1 + np.exp(-random.uniform(2, 8) * (x - random.uniform(0.3, 0.7))))
    x = np.clip(x, 0, 1) ** np.exp(random.uniform(-0.8, 0.8))
    if random.random() < 0.4:
        x = blurred(x, random.uniform(0.3, 1.2))
    x = x + random.uniform(0, 0.05) * random.standard_normal(x.shape, dtype=np.float32)
    if random.random() < appearance.writing:
        x = x + writing((x.shape[0], x.shape[1]), random) * (random.uniform(0.6, 1.2) - x)
    x = 1 - x if random.random() < appearance.inverted else x
    return np.clip(x, 0, 1).astype(np.float32)


def blurred(image: Float[np.ndarray, "h w"], sigma: float) -> Float[np.ndarray, "h w"]:
    """A Gaussian; a wide one is made of a coarser image, which costs as little as a narrow one."""
    from scipy import ndimage

    step = int(sigma // 4)
    if step < 2:
        return np.asarray(ndimage.gaussian_filter(image, sigma, mode="nearest", truncate=3.0))
    h, w = image.shape
    padded = np.pad(image, ((0, -h % step), (0, -w % step)), mode="edge")
    coarse = padded.reshape(padded.shape[0] // step, step, -1, step).mean((1, 3))
    coarse = ndimage.gaussian_filter(coarse, sigma / step, mode="nearest", truncate=3.0)
    return np.asarray(ndimage.zoom(coarse, step, order=1, mode="nearest", grid_mode=True))[:h, :w]


def _patches(size: tuple[int, int], random: np.random.Generator) -> Float[np.ndarray, "h w"]:
    """Smooth noise of deviation 1 or somewhat less, its patches a third to a seventh of the image."""
    from scipy import ndimage

    cells = int(random.integers(3, 8))
    coarse = random.standard_normal((cells, cells), dtype=np.float32)
    return np.asarray(ndimage.zoom(coarse, (size[0] / cells, size[1] / cells), order=2, mode="nearest", grid_mode=True))


def _evened(x: Float[np.ndarray, "h w"], random: np.random.Generator) -> Float[np.ndarray, "h w"]:
    """Local contrast made alike everywhere, by as much as is drawn: what CLAHE and vendors' filters do."""
    sigma = x.shape[0] * random.uniform(0.04, 0.3)
    away = x - blurred(x, sigma)
    deviation = np.sqrt(np.clip(blurred(away**2, sigma), 0, None)) + 0.03
    share = random.uniform(0, 1)
    return share * (0.5 + random.uniform(0.15, 0.3) * away / deviation) + (1 - share) * x
