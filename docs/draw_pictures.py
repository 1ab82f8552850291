"""Draw DiffRender.png, the extension's icon, and Screenshots/radiographs.png: `python docs/draw_pictures.py`.

The icon is rays from a source through a body onto a detector. The radiographs are the library's own, of the torso that
it draws itself, so the picture shows no patient.
"""

from pathlib import Path

from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[1]
SIZE, FINER = 128, 8  # px of the icon; it is drawn so many times larger, then made smaller
NIGHT, SKY, DEEP, GOLD, BONE = "#14314f", "#7fb2ff", "#2b62c4", "#ffd24d", "#f6efe0"
VIEWS = ("chest-pa", "pelvis-ap")
VIEW, GAP = 512, 8  # px


def icon() -> Image.Image:
    picture = Image.new("RGBA", (SIZE * FINER, SIZE * FINER))
    draw = ImageDraw.Draw(picture, "RGBA")

    def at(*places: float) -> list[float]:
        return [place * FINER for place in places]

    draw.rounded_rectangle(at(2, 2, 126, 126), radius=24 * FINER, fill=NIGHT)
    for column in range(20, 109, 8):
        draw.line(at(64, 16, column, 106), fill=(255, 224, 138, 120), width=FINER)
    draw.ellipse(at(30, 42, 98, 92), fill=SKY)
    draw.ellipse(at(40, 50, 60, 84), fill=DEEP)
    draw.ellipse(at(68, 50, 88, 84), fill=DEEP)
    draw.ellipse(at(59, 74, 69, 88), fill=BONE)
    for column in range(20, 109, 8):  # the same rays on their way out of the body, fainter
        draw.line(at(64, 16, column, 106), fill=(255, 224, 138, 46), width=FINER)
    draw.ellipse(at(56, 8, 72, 24), fill=GOLD)
    draw.rounded_rectangle(at(14, 104, 114, 116), radius=3 * FINER, fill=BONE)
    for column, grey in zip(range(20, 108, 8), (235, 200, 150, 90, 120, 40, 40, 120, 90, 150, 200), strict=True):
        draw.rectangle(at(column, 106, column + 8, 114), fill=(grey, grey, grey))
    return picture.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def radiographs() -> Image.Image:
    """Views side by side, in each the labels that tell most."""
    import diffrender as dr
    from diffrender.display import annotated, bone_window, most_telling

    torso = dr.torso()
    taken = [dr.radiograph(torso, dr.preset(name, torso, image_size=(VIEW, VIEW))) for name in VIEWS]
    pictures = []
    for xray in taken:
        labels, left_out = most_telling(xray)
        pictures.append(Image.fromarray(annotated(xray, labels, VIEW, window=bone_window(xray), left_out=left_out)))
    sheet = Image.new("RGB", (sum(one.width + GAP for one in pictures) - GAP, max(one.height for one in pictures)))
    left = 0
    for picture in pictures:
        sheet.paste(picture, (left, 0))
        left += picture.width + GAP
    return sheet


if __name__ == "__main__":
    (ROOT / "Screenshots").mkdir(exist_ok=True)
    icon().save(ROOT / "DiffRender.png", optimize=True)
    radiographs().save(ROOT / "Screenshots" / "radiographs.png", optimize=True)
