"""Draw docs/conventions.svg: `python docs/draw_conventions.py`.

The places in it come from the library's own Camera and Volume, so the drawing cannot say anything else than the code.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from diffrender.camera import Camera, c_arm
from diffrender.volume import Volume

WIDTH, HEIGHT = 1320, 900
INK, SOFT, RED, GREEN, BLUE, BONE = "#1c2430", "#8a94a3", "#c8372d", "#2a8a4a", "#2b62c4", "#e9e2d0"
TURN, TILT = math.radians(60), math.radians(17)  # of the eye that looks at the first panel
SCALE, ORIGIN = 0.72, (385.0, 345.0)  # px per mm, and where the isocentre is drawn


def main() -> None:
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="Helvetica, sans-serif">',
        "<title>DiffRender: frames, axes and centres</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        *(_marker(colour) for colour in (INK, SOFT, RED, GREEN, BLUE)),
        *_scene(),
        *_voxels(850, 70),
        *_pixels(850, 345),
        *_primary(180, 735),
        *_secondary(600, 735),
        *_pose(950, 690),
        "</svg>",
    ]
    Path(__file__).with_name("conventions.svg").write_text("\n".join(parts) + "\n", encoding="utf-8", newline="\n")


def _scene() -> list[str]:
    """World, patient, and the camera of c_arm at 0/0 with the frame it has."""
    camera = c_arm([0.0, 0, 0], source_to_detector=820, source_to_isocenter=520, pixel_size=1.0, image_size=(300, 300))
    source, matrix = camera.source.tolist(), camera.world_from_camera[:3, :3]
    x, y, z = (matrix[:, n].tolist() for n in range(3))

    def on_image(row: float, column: float) -> list[float]:
        across, down = (column - 150) * camera.pixel_size[1], (row - 150) * camera.pixel_size[0]
        return [s + 820 * c + across * a + down * b for s, a, b, c in zip(source, x, y, z, strict=True)]

    corners = [on_image(0, 0), on_image(0, 300), on_image(300, 300), on_image(300, 0)]
    parts = [_text(40, 44, "World, camera and image: c_arm at 0/0", bold=True)]
    parts += [_polygon([_flat(p) for p in corners], "#dfe8f7", BLUE, 0.85)]
    parts += [_line(_flat(source), _flat(p), SOFT, 1, dash=True) for p in corners]
    parts += _patient()
    parts.append(_line(_flat(source), _flat(on_image(150, 150)), SOFT, 1, dash=True))
    for axis, colour, name in (
        ((170, 0, 0), RED, "+x: R, right"),
        ((0, 165, 0), GREEN, "+y: A, front"),
        ((0, 0, 150), BLUE, "+z: S, head"),
    ):
        parts += _arrow(_flat([0, 0, 0]), _flat(axis), colour, name, 2.6)
    parts += _dot(_flat([0, 0, 0]), INK)
    for axis, name in ((x, "x: columns"), (y, "y: rows"), (z, "z: to the image plane")):
        parts += _arrow(_flat(source), _flat([s + 110 * a for s, a in zip(source, axis, strict=True)]), INK, name, 2)
    parts += [
        *_dot(_flat(source), INK),
        _text(_flat(source)[0], _flat(source)[1] - 14, "source", anchor="middle", bold=True),
    ]
    parts += _arrow(_flat(on_image(0, 0)), _flat(on_image(0, 130)), BLUE, "column", 2)
    parts += _arrow(_flat(on_image(0, 0)), _flat(on_image(130, 0)), BLUE, "row", 2)
    u, v = _flat(on_image(0, 0))
    parts += [_text(u + 8, v - 10, "image corner (0, 0)", colour=BLUE)]
    u, v = _flat(on_image(150, 150))
    parts += [*_dot((u, v), BLUE), _text(u + 8, v + 20, "principal point", colour=BLUE)]
    for letter, place in (("R", (230, 18)), ("L", (230, 280)), ("H", (26, 200)), ("F", (284, 150))):
        u, v = _flat(on_image(*place))
        parts.append(_text(u, v + 6, letter, colour=BLUE, bold=True, anchor="middle"))
    parts.append(
        _text(
            40,
            590,
            "Seen from the detector the patient's left is on the image's right: determinant of world_from_camera = -1.",
            size=13.5,
        )
    )
    return parts


def _patient() -> list[str]:
    """A torso as stacked outlines, standing where the isocentre is."""
    levels = [
        (-210, 125, 80),
        (-140, 132, 84),
        (-60, 112, 76),
        (30, 124, 82),
        (110, 140, 86),
        (165, 122, 74),
        (185, 66, 46),
        (205, 44, 44),
    ]
    turns = [n * math.pi / 24 for n in range(48)]
    rings = [[_flat((a * math.cos(t), b * math.sin(t), z)) for t in turns] for z, a, b in levels]
    outline = [min(ring) for ring in rings] + [max(ring) for ring in reversed(rings)]
    middle = _flat((0, 8, 262))
    head = [(middle[0] + 50 * math.cos(t), middle[1] + 46 * math.sin(t)) for t in turns]
    nose = [(middle[0] - 46, middle[1] - 12), (middle[0] - 64, middle[1] + 8), (middle[0] - 46, middle[1] + 14)]
    bodies = [_polygon(body, BONE, "#b9ae93", 0.75) for body in (nose, head, outline)]
    return [*bodies, *(_polygon(ring, "none", "#cfc5ab", 1) for ring in rings[1:-1])]


def _voxels(left: float, top: float) -> list[str]:
    """Centres at integers, and how the values fall off beyond the outermost ones."""
    volume = Volume(torch.zeros(3, 4, 5), torch.eye(4, dtype=torch.float64))
    low, step = volume.corners.min(dim=0).values.tolist(), 40
    parts = [_text(left, top - 26, "Voxels: centres at integers, arrays (k, j, i)", bold=True)]
    for j in range(3):
        for i in range(5):
            u, v = left + 30 + (i - low[0]) * step, top + 24 + (j - low[1]) * step
            parts.append(_square(u, v, step, "none"))
            parts += _dot((u, v), INK, 3)
            parts += [_text(u, v + 17, f"{i},{j}", size=11, anchor="middle", colour=SOFT)]
    parts += _arrow((left + 30, top + 14), (left + 110, top + 14), INK, "i", 2)
    parts += _arrow((left + 20, top + 24), (left + 20, top + 100), INK, "j", 2)
    u, v = left + 260, top + 120
    parts += [
        _line((u, v), (u + 120, v), SOFT, 1),
        _text(u, v + 20, "outermost centre", size=12),
        _text(u + 122, v + 20, "+1", size=12, anchor="end"),
    ]
    parts.append(
        f'<path d="M{u} {v - 70} L{u + 30} {v - 70} L{u + 110} {v}" fill="none" stroke="{RED}" stroke-width="2.5"/>'
    )
    parts += [
        *_dot((u + 30, v - 70), INK, 3),
        _text(u + 40, v - 74, "value falls to air", size=12),
        _text(u + 56, v - 58, "within one voxel", size=12),
    ]
    return [*parts, _text(left, top + 178, "world_from_voxel (i, j, k, 1) -> RAS [mm]", size=13.5)]


def _pixels(left: float, top: float) -> list[str]:
    camera = c_arm([0.0, 0, 0], image_size=(3, 5))
    centres, step = camera.pixel_centres(), 40
    parts = [_text(left, top - 26, "Pixels: centres at half integers, images (channel, h, w)", bold=True)]
    for row in range(3):
        for column in range(5):
            v, u = (centres[row, column] * step).tolist()
            u, v = left + 30 + u, top + 14 + v
            parts.append(_square(u, v, step, "#eef3fb"))
            parts += _dot((u, v), BLUE, 3)
    parts += [
        *_dot((left + 30, top + 14), RED, 4),
        _text(left + 22, top + 6, "(0, 0)", colour=RED, size=12, anchor="end"),
    ]
    parts += [_text(left + 245, top + 30, "corner of the image: (0, 0)", colour=RED, size=13)]
    parts += [_text(left + 245, top + 54, "centre of its first pixel: (0.5, 0.5)", colour=BLUE, size=13)]
    parts += [_text(left + 245, top + 78, "places are (row, column)", size=13)]
    parts += [_text(left + 245, top + 102, "sizes are (row step, column step) mm", size=13)]
    return [*parts, _text(left, top + 166, "principal_point: by default (h/2, w/2), the image's centre", size=13.5)]


def _primary(u: float, v: float) -> list[str]:
    """The C-arm from the patient's feet, as axial slices are shown: the patient's left on the right."""
    parts = [_text(u - 140, v - 98, "Primary angle, seen from the feet", bold=True)]
    parts.append(f'<ellipse cx="{u}" cy="{v}" rx="62" ry="38" fill="{BONE}" stroke="#b9ae93"/>')
    for angle, colour in ((0, SOFT), (30, BLUE)):
        camera = c_arm([0.0, 0, 0], primary=angle, source_to_isocenter=88, source_to_detector=166, pixel_size=1.0)
        parts += _beam(camera, 0, lambda p: (u - p[0], v - p[1]), colour)
    return [
        *parts,
        _text(u - 80, v + 5, "R", bold=True, anchor="end"),
        _text(u + 70, v + 5, "L", bold=True),
        _text(u + 62, v - 52, "+30: LAO", colour=BLUE),
        _text(u - 140, v + 128, "+ turns the detector to the patient's left", size=13.5),
    ]


def _secondary(u: float, v: float) -> list[str]:
    """From the patient's left side: the front to the left of the drawing."""
    parts = [_text(u - 140, v - 98, "Secondary angle, seen from the left", bold=True)]
    parts.append(f'<rect x="{u - 34}" y="{v - 78}" width="68" height="156" rx="30" fill="{BONE}" stroke="#b9ae93"/>')
    for angle, colour in ((0, SOFT), (30, BLUE)):
        camera = c_arm([0.0, 0, 0], secondary=angle, source_to_isocenter=96, source_to_detector=184, pixel_size=1.0)
        parts += _beam(camera, 1, lambda p: (u - p[1], v - p[2]), colour)
    return [
        *parts,
        _text(u, v - 58, "H", bold=True, anchor="middle"),
        _text(u, v + 70, "F", bold=True, anchor="middle"),
        _text(u - 150, v - 62, "+30: cranial", colour=BLUE),
        _text(u - 140, v + 128, "+ turns the detector to the head", size=13.5),
    ]


def _beam(camera: Camera, along: int, flat: Callable[[list[float]], tuple[float, float]], colour: str) -> list[str]:
    """Source, central ray and detector of a camera in a plane; `along` is the axis of its frame that lies in it."""
    source = camera.source
    middle = source + camera.direction * camera.source_to_detector
    ends = [flat((middle + camera.world_from_camera[:3, along] * s).tolist()) for s in (-34, 34)]
    return [
        _line(flat(source.tolist()), flat(middle.tolist()), colour, 1.5, dash=True),
        _line(*ends, colour, 5),
        *_dot(flat(source.tolist()), colour, 5),
    ]


def _pose(u: float, v: float) -> list[str]:
    """A pose change: about the lattice's middle, along world axes."""
    still = [(0, 0), (120, 0), (120, 80), (0, 80)]
    r, centre, shift = math.radians(-18), (60, 40), (105, 26)
    moved = [
        (
            centre[0] + shift[0] + math.cos(r) * (p - centre[0]) - math.sin(r) * (q - centre[1]),
            centre[1] + shift[1] + math.sin(r) * (p - centre[0]) + math.cos(r) * (q - centre[1]),
        )
        for p, q in still
    ]
    parts = [_text(u - 40, v - 53, "Pose change xi = (t, r): the body moves", bold=True)]
    parts.append(_polygon([(u + p, v + q) for p, q in still], "none", SOFT, 1))
    parts.append(_polygon([(u + p, v + q) for p, q in moved], "#dfe8f7", BLUE, 0.7))
    parts += [*_dot((u + 60, v + 40), INK), _text(u + 50, v + 60, "centre", size=13, anchor="middle")]
    parts += _arrow((u + 60, v + 40), (u + 60 + shift[0], v + 40 + shift[1]), RED, "", 2.4)
    parts += [
        _text(u + 118, v + 38, "t [mm]", colour=RED, size=13),
        _text(u + 196, v + 120, "turned by r [rad]", colour=BLUE, size=13),
    ]
    return [*parts, _text(u - 40, v + 173, "x' = exp([r]x)(x - centre) + centre + t, along world axes", size=13.5)]


def _flat(p: Sequence[float]) -> tuple[float, float]:
    """A place in the world [mm] on the sheet [px], seen without perspective from the front, the left and above."""
    x, y, z = p
    across = -x * math.cos(TURN) - y * math.sin(TURN)
    depth = -x * math.sin(TURN) + y * math.cos(TURN)
    return ORIGIN[0] + SCALE * across, ORIGIN[1] - SCALE * (z * math.cos(TILT) - depth * math.sin(TILT))


def _line(
    a: Sequence[float], b: Sequence[float], colour: str, width: float, dash: bool = False, head: bool = False
) -> str:
    extra = (' stroke-dasharray="5 4"' if dash else "") + (f' marker-end="url(#head{colour[1:]})"' if head else "")
    ends = f'x1="{a[0]:.1f}" y1="{a[1]:.1f}" x2="{b[0]:.1f}" y2="{b[1]:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-width="{width}"{extra}/>'


def _arrow(a: Sequence[float], b: Sequence[float], colour: str, name: str, width: float) -> list[str]:
    """An arrow with its name beyond the tip."""
    length = math.hypot(b[0] - a[0], b[1] - a[1]) or 1.0
    du, dv = (b[0] - a[0]) / length, (b[1] - a[1]) / length
    anchor = "start" if du > 0.35 else "end" if du < -0.35 else "middle"
    label = _text(b[0] + 12 * du, b[1] + 18 * dv + 5, name, colour=colour, anchor=anchor, halo=True)
    return [_line(a, b, colour, width, head=True), *([label] if name else [])]


def _text(
    u: float,
    v: float,
    text: str,
    colour: str = INK,
    bold: bool = False,
    anchor: str = "start",
    size: float = 15,
    halo: bool = False,
) -> str:
    weight = ' font-weight="bold"' if bold else ""
    outline = ' stroke="white" stroke-width="3.5" paint-order="stroke"' if halo else ""
    safe = text.replace("&", "&amp;").replace("<", "&lt;")
    style = f'fill="{colour}" font-size="{size}" text-anchor="{anchor}"{weight}{outline}'
    return f'<text x="{u:.1f}" y="{v:.1f}" {style}>{safe}</text>'


def _dot(p: Sequence[float], colour: str, radius: float = 4.5) -> list[str]:
    return [f'<circle cx="{p[0]:.1f}" cy="{p[1]:.1f}" r="{radius}" fill="{colour}"/>']


def _square(u: float, v: float, side: float, fill: str) -> str:
    return f'<rect x="{u - side / 2}" y="{v - side / 2}" width="{side}" height="{side}" fill="{fill}" stroke="{SOFT}"/>'


def _polygon(points: Sequence[Sequence[float]], fill: str, stroke: str, opacity: float) -> str:
    path = " ".join(f"{u:.1f},{v:.1f}" for u, v in points)
    return f'<polygon points="{path}" fill="{fill}" fill-opacity="{opacity}" stroke="{stroke}" stroke-width="1.2"/>'


def _marker(colour: str) -> str:
    return (
        f'<marker id="head{colour[1:]}" viewBox="0 0 10 10" refX="8" refY="5" markerWidth="6" markerHeight="6"'
        ' orient="auto">'
        f'<path d="M0 0 L10 5 L0 10 z" fill="{colour}"/></marker>'
    )


if __name__ == "__main__":
    main()
