"""Pictures as people look at them: bone bright, edges lettered, labels drawn on them, and that it is research."""

import colorsys
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from diffrender.camera import Camera
from diffrender.errors import LabelError, SettingError
from diffrender.xray import KINDS, Radiograph

AIR = 0.05  # [no unit] more than air and clothes attenuate: 2.6 mm of water at 70 keV
BODY = 0.25  # of the median of all that is not air: tables and the skin's rim lie below, lungs above
WINDOW = (0.5, 99.5)  # percentiles of the body that become black and white
BONE_WINDOW = (12.0, 99.9)  # the same where bone should stand out: of the body's thin rim no detail is left
MOST_OUTLINED = 12  # labels in one picture; the outlines of more are a tangle
# What is drawn where not all labels can be, the first ones first: bones show in a radiograph, soft parts hardly.
BONES = (
    "hip", "pelvis", "femur", "sacrum", "vertebra", "spine", "clavicula", "clavicle", "scapula", "humerus", "skull",
    "mandib", "sternum", "rib", "patella", "tibia", "fibula", "talus", "radius", "ulna", "bone",
)  # fmt: skip
DARKEST = 1e-6  # of the beam; what is darker, or below zero by noise, is shown as this
STYLES = ("outline", "filled")
NOTICE = "Research use only"


def to_display(
    pixels: Float[Tensor, "*one h w"], kind: str, window: tuple[float, float] | None = None
) -> UInt8[np.ndarray, "h w"]:
    """Greys to look at: linear in log-attenuation whatever the kind, bone bright, no gamma.

    Args:
        pixels: (1, h, w) or (h, w).
        kind: "log-attenuation" or "intensity"; the latter is shown as -log of it.
        window: the log-attenuation shown black and the one shown white; by default the 0.5th and 99.5th percentile of
            the body. A picture of air alone is black.
    Raises: SettingError for an unknown kind, or a window without width.
    """
    if kind not in KINDS:
        raise SettingError(f"kind is one of {', '.join(KINDS)}, not {kind!r}.")
    values = _log_attenuation(pixels, kind)
    low, high = _window(values) if window is None else window
    if not high > low:
        raise SettingError(f"A window goes from black up to white; {low} to {high} does not.")
    scaled = np.nan_to_num((values - low) / (high - low), nan=0.0)
    return np.rint(scaled.clip(0, 1) * 255).astype(np.uint8)


def bone_window(radiograph: Radiograph) -> tuple[float, float]:
    """The log-attenuation shown black and the one shown white for bone to stand out; a window for `annotated`."""
    return _window(_log_attenuation(radiograph.pixels, radiograph.kind), BONE_WINDOW)


def most_telling(radiograph: Radiograph) -> tuple[list[int], int]:
    """The labels in sight that one picture can show, at most MOST_OUTLINED, bones first; and how many are left out."""
    masks = radiograph.masks
    seen = [] if masks is None else [i for i, mask in zip(radiograph.ids, masks > 0.5, strict=True) if mask.any()]
    if len(seen) <= MOST_OUTLINED:
        return seen, 0
    names = {label: radiograph.label_name(label).lower() for label in seen}
    rank = {i: next((n for n, bone in enumerate(BONES) if bone in names[i]), len(BONES)) for i in seen}
    return sorted(seen, key=rank.__getitem__)[:MOST_OUTLINED], len(seen) - MOST_OUTLINED


def annotated(
    radiograph: Radiograph,
    labels: Sequence[int] | None = None,
    size: int | None = None,
    style: str = "outline",
    window: tuple[float, float] | None = None,
    left_out: int = 0,
) -> UInt8[np.ndarray, "height width 3"]:
    """The picture with orientation letters at its four edges, an L or R where it shows left and right, and labels.

    Args:
        labels: ids to draw, each in its colour, with a legend beside the picture; None for none.
        size: of the picture's longer side [px], legend and notice not counted; by default its own size, at least 512.
            Oblong pixels are shown in their true proportion.
        style: "outline" or "filled".
        window: as in `to_display`.
        left_out: how many labels are seen and not drawn; the legend says so.
    Raises: LabelError for a label that the radiograph has not, SettingError for another style.
    """
    if style not in STYLES:
        raise SettingError(f"style is one of {', '.join(STYLES)}, not {style!r}.")
    ids = tuple(labels or ())
    shown = _shown_size(radiograph.camera, size)
    grey = Image.fromarray(to_display(radiograph.pixels, radiograph.kind, window)).resize(
        shown, Image.Resampling.BICUBIC
    )
    picture = np.asarray(grey.convert("RGB")).copy()
    for number, label in enumerate(ids):
        _draw_label(picture, _mask(radiograph, label), label_colour(number), style)
    letter_height = max(11, round(min(shown) * 0.045))
    canvas = Image.fromarray(picture)
    _draw_letters(canvas, radiograph.camera.orientation(), letter_height)
    names = [_spelt(radiograph.label_name(n)) for n in ids]
    return np.asarray(
        _with_margins(canvas, names, letter_height, f"and {left_out} more, not drawn" if left_out else "")
    )


def annotated_colours(
    image: Float[Tensor, "4 h w"],
    camera: Camera,
    size: int | None = None,
    background: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> UInt8[np.ndarray, "height width 3"]:
    """A rendered picture over a background, with orientation letters and the notice, as `annotated` does.

    Args:
        image: premultiplied RGBA, sRGB display values 0..1.
        camera: that saw it.
        size: as in `annotated`.
        background: red, green, blue, sRGB display values 0..1.
    """
    shown = _shown_size(camera, size)
    canvas = Image.fromarray(over(image, background)).resize(shown, Image.Resampling.BICUBIC)
    letter_height = max(11, round(min(shown) * 0.045))
    _draw_letters(canvas, camera.orientation(), letter_height)
    return np.asarray(_with_margins(canvas, [], letter_height, ""))


def over(
    image: Float[Tensor, "4 h w"], background: tuple[float, float, float] = (0.0, 0.0, 0.0)
) -> UInt8[np.ndarray, "h w 3"]:
    """Premultiplied RGBA over a background, 8 bits."""
    values = image.detach().cpu().double().numpy().clip(0, 1)
    behind = np.array(background)[:, None, None] * (1 - values[3])
    return np.rint((values[:3] + behind).clip(0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)


def label_colour(number: int) -> tuple[int, int, int]:
    """The colour of the n-th label drawn, RGB: hues a golden section apart, so that neighbours differ most."""
    hue = (0.02 + number * 0.6180339887498949) % 1
    red, green, blue = colorsys.hls_to_rgb(hue, (0.6, 0.5, 0.72)[number // 3 % 3], 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def _log_attenuation(pixels: Float[Tensor, "*one h w"], kind: str) -> Float[np.ndarray, "h w"]:
    values = pixels.detach().cpu().double().numpy().reshape(pixels.shape[-2:])
    return values if kind == "log-attenuation" else -np.log(np.maximum(values, DARKEST))


def _spelt(name: str) -> str:
    """A name on one line; a byte that is no Unicode, as a file's name may hold, as \\xf6."""
    return " ".join(name.encode("utf-8", "backslashreplace").decode("utf-8").split())


def _window(values: Float[np.ndarray, "h w"], percentiles: tuple[float, float] = WINDOW) -> tuple[float, float]:
    shadow = values[np.isfinite(values) & (values > AIR)]
    if shadow.size == 0:
        return AIR, 2 * AIR
    low, high = np.percentile(shadow[shadow > BODY * np.median(shadow)], percentiles)
    return (float(low), float(high)) if high > low else (float(low) - AIR, float(low) + AIR)


def _shown_size(camera: Camera, size: int | None) -> tuple[int, int]:
    """(width, height) [px] in the image's true proportion."""
    (height, width), (row_step, column_step) = camera.image_size, camera.pixel_size
    across, down = width * column_step, height * row_step
    longer = max(height, width, 512) if size is None else size
    if longer < 16:
        raise SettingError(f"A picture to look at has at least 16 pixels on its longer side, not {longer}.")
    scale = longer / max(across, down)
    return max(1, round(across * scale)), max(1, round(down * scale))


def _mask(radiograph: Radiograph, label: int) -> Bool[np.ndarray, "h w"]:
    if radiograph.masks is None or label not in radiograph.ids:
        raise LabelError(f"Label {label} is not in this radiograph; it has {list(radiograph.ids) or 'no labels'}.")
    return radiograph.masks[radiograph.ids.index(label)].detach().cpu().double().numpy() > 0.5


def _draw_label(
    picture: UInt8[np.ndarray, "height width 3"],
    mask: Bool[np.ndarray, "h w"],
    colour: tuple[int, int, int],
    style: str,
) -> None:
    """Into `picture`, which is larger than the mask; an outline lies inside the label."""
    height, width = picture.shape[:2]
    large = (
        np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize((width, height), Image.Resampling.NEAREST)) > 0
    )
    inner = large.copy()
    for _ in range(max(1, round(min(height, width) / 500))):
        inner = _eroded(inner)
    if style == "filled":
        picture[large] = np.rint(0.6 * picture[large] + 0.4 * np.array(colour))
    picture[large & ~inner] = colour


def _eroded(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    padded = np.pad(mask, 1, constant_values=True)  # what goes on beyond the image has no outline along its edge
    return mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]


def _draw_letters(canvas: Image.Image, edges: dict[str, str], height: int) -> None:
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(height)
    (width, tall), gap = canvas.size, max(2, height // 4)
    style = {"font": font, "fill": "white", "stroke_width": max(1, height // 12), "stroke_fill": "black"}
    draw.text((gap, tall / 2), edges["left"], anchor="lm", **style)
    draw.text((width - gap, tall / 2), edges["right"], anchor="rm", **style)
    draw.text((width / 2, gap), edges["top"], anchor="ma", **style)
    draw.text((width / 2, tall - gap), edges["bottom"], anchor="md", **style)
    for edge, anchor, x in (("left", "la", 2 * gap), ("right", "ra", width - 2 * gap)):
        if edges[edge].startswith("L"):  # the lead letter of a film: the patient's left is on this side
            marker = {**style, "font": ImageFont.load_default(round(1.5 * height))}
            draw.text((x, 2 * gap), "L", anchor=anchor, **marker)


def _with_margins(canvas: Image.Image, names: list[str], letter_height: int, last: str) -> Image.Image:
    """The picture with the notice below it and, for labels, the legend to its right, which ends with `last`."""
    line = max(11, round(letter_height * 0.7))
    font = ImageFont.load_default(line)
    rows = max(1, (canvas.height - line) // round(1.4 * line))
    entries = [*names, last] if last else names
    columns = [entries[n : n + rows] for n in range(0, len(entries), rows)]
    widths = [round(max(font.getlength(name) for name in column)) + 3 * line for column in columns]
    margin = round(1.6 * line)
    whole = Image.new("RGB", (canvas.width + sum(widths), canvas.height + margin))
    whole.paste(canvas, (0, 0))
    draw = ImageDraw.Draw(whole)
    draw.text((line // 2, canvas.height + margin / 2), NOTICE, anchor="lm", font=font, fill=(225, 225, 225))
    x = canvas.width
    for first, (column, width) in enumerate(zip(columns, widths, strict=True)):
        for row, name in enumerate(column):
            y = round((row + 0.5) * 1.4 * line)
            if first * rows + row < len(names):
                draw.rectangle(
                    (x + line // 2, y, x + line // 2 + line, y + line), fill=label_colour(first * rows + row)
                )
            draw.text((x + 2 * line, y + line / 2), name, anchor="lm", font=font, fill="white")
        x += width
    return whole
