"""What lies on a chest besides the patient: tubes, cables, electrodes, devices, arms; and what is written on a film."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw

FINE = 2  # drawn this much finer and averaged, since a cable is thinner than a pixel of a small image
LETTERS = "LRAPSITZNO0123456789"


def occluders(size: tuple[int, int], most: int, random: np.random.Generator) -> Float[np.ndarray, "h w"]:
    """Attenuation [no unit] of up to `most` objects on and in the patient, added to the rays' own."""
    canvas = Image.new("F", (size[1] * FINE, size[0] * FINE))
    for _ in range(int(random.integers(0, most + 1))):
        kind = _DRAWN[int(random.choice(len(_DRAWN), p=_OFTEN))]
        layer = Image.new("L", canvas.size)
        kind(ImageDraw.Draw(layer), canvas.size, random)
        strength = 0.05 + 0.6 * float(random.random()) ** 2
        if kind is _device:
            strength *= 4
        canvas = Image.fromarray(np.asarray(canvas) + np.asarray(layer, dtype=np.float32) * (strength / 255))
    return np.asarray(canvas.resize((size[1], size[0]), Image.Resampling.BOX), dtype=np.float32)


def arms(size: tuple[int, int], random: np.random.Generator) -> Float[np.ndarray, "h w"]:
    """Attenuation of soft tissue with a bone in it that comes in at the sides: arms, a breast, a fold of skin."""
    rows, columns = np.mgrid[0 : size[0], 0 : size[1]].astype(np.float32)
    total = np.zeros(size, dtype=np.float32)
    for side in (0, 1):
        if random.random() < 0.5:
            continue
        wide = size[1] * random.uniform(0.08, 0.3)
        at = (
            side * size[1]
            + random.normal(0, 0.06) * size[1]
            + (columns * 0 + rows - size[0] / 2) * random.normal(0, 0.3)
        )
        away = (columns - at) / wide
        total += random.uniform(0.2, 1.5) * np.sqrt(np.clip(1 - away**2, 0, None))
        if random.random() < 0.5:
            away = (columns - at) / (0.35 * wide)
            total += random.uniform(0.2, 0.8) * np.sqrt(np.clip(1 - away**2, 0, None))
    return total


def writing(size: tuple[int, int], random: np.random.Generator) -> Float[np.ndarray, "h w"]:
    """How much of each pixel is covered by letters, an arrow or a side's mark, 0 to 1."""
    layer = Image.new("L", (size[1] * FINE, size[0] * FINE))
    draw = ImageDraw.Draw(layer)
    for _ in range(int(random.integers(1, 4))):
        text = "".join(random.choice(list(LETTERS), int(random.integers(1, 7))))
        edge = float(random.choice([0.03, 0.9])) + random.uniform(-0.02, 0.05)
        along = random.uniform(0.02, 0.85)
        x, y = (edge, along) if random.random() < 0.5 else (along, edge)
        draw.text((x * layer.width, y * layer.height), text, fill=255, font_size=int(random.integers(8, 30)))
    return np.asarray(layer.resize((size[1], size[0]), Image.Resampling.BOX), dtype=np.float32) / 255


def _curve(size: tuple[int, int], random: np.random.Generator) -> list[tuple[float, float]]:
    """A smooth line from anywhere to anywhere."""
    ends = random.uniform(-0.15, 1.15, (4, 2)) * np.array(size)
    t = np.linspace(0, 1, 40)[:, None]
    points = (1 - t) ** 3 * ends[0] + 3 * t * (1 - t) ** 2 * ends[1] + 3 * t**2 * (1 - t) * ends[2] + t**3 * ends[3]
    return [(float(x), float(y)) for x, y in points]


def _cable(draw: ImageDraw.ImageDraw, size: tuple[int, int], random: np.random.Generator) -> None:
    draw.line(_curve(size, random), fill=255, width=int(random.integers(1, 4)), joint="curve")


def _tube(draw: ImageDraw.ImageDraw, size: tuple[int, int], random: np.random.Generator) -> None:
    curve, wide = _curve(size, random), int(random.integers(4, 10))
    draw.line(curve, fill=255, width=wide, joint="curve")
    draw.line(curve, fill=int(random.integers(60, 200)), width=wide - 2, joint="curve")


def _electrode(draw: ImageDraw.ImageDraw, size: tuple[int, int], random: np.random.Generator) -> None:
    (x, y), r = random.uniform(0, 1, 2) * np.array(size), random.uniform(2, 8)
    draw.ellipse([x - r, y - r, x + r, y + r], fill=int(random.integers(80, 256)))
    if random.random() < 0.5:
        draw.ellipse([x - r / 2, y - r / 2, x + r / 2, y + r / 2], fill=int(random.integers(0, 256)))


def _device(draw: ImageDraw.ImageDraw, size: tuple[int, int], random: np.random.Generator) -> None:
    (x, y), (a, b) = random.uniform(0, 1, 2) * np.array(size), random.uniform(5, 24, 2)
    draw.rounded_rectangle([x - a, y - b, x + a, y + b], radius=min(a, b) * random.random(), fill=255)


_DRAWN = (_cable, _tube, _electrode, _device)
_OFTEN: Sequence[float] = (0.5, 0.2, 0.22, 0.08)
