"""The report of one fit as a page: overlays before and after, residuals, convergence, certainty."""

import html
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from diffrender.camera import Camera
from diffrender.display import annotated_colours
from diffrender.fit import charts
from diffrender.fit.overlay import FOUND, START, outline_of, overlay, parts_of, shown_size
from diffrender.fit.result import Fit
from diffrender.fit.shape import ShapeModel
from diffrender.mesh import Mesh
from diffrender.pages import figure, figures, page, section, table
from diffrender.xray import Radiograph

SHOWN = 420  # px
FIELDS = 8  # of a chessboard, along the longer side
WIDEST = 0.98  # quantile of the deviations that is yellow
SHAPE_TOO = (
    "Landmarks and vertices err by more than the place of the whole body: theirs hold the shape too, with what the "
    "model cannot show of it."
)


def fit_report(
    fit: Fit,
    radiographs: Sequence[Radiograph],
    model: ShapeModel | None = None,
    start: Mesh | None = None,
    title: str = "Registration",
    began: Sequence[str] = (),
) -> str:
    """One fit for a person: overlays before and after, residuals, convergence, certainty.

    Args:
        fit: of a shape model, or of a CT (then without outlines).
        radiographs: the frames that were fitted, in the fit's order.
        model: that was fitted; its parts are outlined each by itself.
        start: the mesh where the fit began, RAS [mm].
        began: where that is, a sentence for each start.
    """
    sections = [section("Result", _result(fit, began))]
    for n, radiograph in enumerate(radiographs):
        name = "Frame" if len(radiographs) == 1 else f"Frame {n + 1} of {len(radiographs)}"
        shown = figures(_overlays(fit, radiograph, model, start)) + figures(_compared(fit, n, radiograph.camera), True)
        sections.append(section(name, shown))
    sections.append(
        section(
            "Convergence",
            charts.line(
                fit.history,
                f"cost at {len(fit.history)} steps, at each resolution in turn, from its highest to its lowest",
            ),
        )
    )
    sections.append(section("Certainty", _certainty(fit, radiographs[0].camera)))
    return page(title, sections)


def _result(fit: Fit, began: Sequence[str]) -> str:
    stated = fit.certainty
    lines = [f"<strong>{html.escape(fit.outcome)}.</strong> {html.escape(fit.sentence)}"]
    lines += [f"Began: {html.escape(one)}" for one in began]
    lines.append(
        f"Error of the place to be expected (one standard deviation): {stated.depth:.1f} mm in depth, along the first "
        f"view's axis, and {stated.in_plane:.1f} mm across it."
    )
    return "".join(f"<p>{line}</p>" for line in lines)


def _overlays(fit: Fit, radiograph: Radiograph, model: ShapeModel | None, start: Mesh | None) -> list[str]:
    camera = radiograph.camera
    parts = (lambda mesh: mesh) if model is None else (lambda mesh: parts_of(mesh, model.parts))
    found = []
    if start is not None:
        before = overlay(radiograph, [outline_of(parts(start), camera, START, "start", SHOWN)], SHOWN)
        found.append(figure(before, "Before: where the fit began"))
    if fit.mesh is not None:
        after = overlay(radiograph, [outline_of(parts(fit.mesh), camera, FOUND, "fit", SHOWN)], SHOWN)
        found.append(figure(after, "After: the fitted bones"))
    return found


def _compared(fit: Fit, n: int, camera: Camera) -> list[str]:
    if n >= len(fit.frames):
        return []
    frame, whose = fit.frames[n], "CT" if fit.mesh is None else "fitted bones"
    shown, own = _grey(frame.shown), _grey(frame.predicted)
    pictures = [
        (shown, "The frame as it was compared"),
        (own, f"The same of the picture that the {whose} would give"),
        (_signed(frame.residual), "What is left: red where the frame is brighter than the fit, blue where darker"),
    ]
    if fit.mesh is None:
        pictures.append((_chequered(shown, own), "Both in turns, as on a chessboard: bones run on from field to field"))
    return [figure(_lettered(picture, camera), caption) for picture, caption in pictures]


def _certainty(fit: Fit, camera: Camera) -> str:
    stated = fit.certainty
    lines = [["one standard deviation of the error to be expected", "right", "front", "head"]]
    for name, spread, unit in (
        ("place of the body's middle", stated.pose[:3], "mm"),
        ("rotation about this axis", torch.rad2deg(stated.pose[3:]), "degrees"),
        *((f"landmark {name}", spread, "mm") for name, spread in stated.landmarks.items()),
    ):
        lines.append([name, *(f"{value:.1f} {unit}" for value in spread.tolist())])
    told = "" if fit.mesh is None else f"<p>{SHAPE_TOO}</p>"
    pictures = []
    if fit.mesh is not None and len(stated.vertices):
        spread = stated.vertices.double().square().sum(1).sqrt()
        image, (low, high) = certainty_picture(fit.mesh, spread, camera)
        pictures.append(
            figure(
                _lettered(image, camera),
                f"Deviation of each vertex, the three axes together: from {low:.1f} mm (dark blue) to {high:.1f} mm "
                "(yellow), as the first frame sees the bones",
            )
        )
    return table(lines) + told + figures(pictures)


def certainty_picture(
    mesh: Mesh, deviations: Float[Tensor, "v"], camera: Camera, size: int = SHOWN
) -> tuple[UInt8[np.ndarray, "height width 3"], tuple[float, float]]:
    """The surface as the camera's picture shows it, coloured by how uncertain each place is, the nearer one in front.

    Returns: the picture, and the deviations [mm] that are dark blue and yellow.
    """
    fine = camera.resized(shown_size(camera, size))
    points = mesh.vertices.detach().double()
    corners = fine.project(points).flip(1)[mesh.faces].numpy()
    low, high = (float(deviations.double().quantile(share)) for share in (1 - WIDEST, WIDEST))
    shade = ((deviations.double() - low) / max(high - low, 1e-6)).clamp(0, 1)[mesh.faces].mean(1).numpy()
    # From dark blue through teal to yellow: bright means uncertain, in grey as well.
    stops = np.array([[35, 30, 110], [30, 120, 140], [90, 190, 100], [250, 230, 60]])
    colours = np.stack([np.interp(shade, np.linspace(0, 1, 4), stops[:, c]) for c in range(3)], axis=1)
    a, b, c = points[mesh.faces].unbind(1)
    normals = torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=1)
    colours *= (0.5 + 0.5 * (normals @ camera.direction).abs().numpy())[:, None]
    depth = ((points - camera.source) @ camera.direction)[mesh.faces].mean(1).numpy()
    height, width = fine.image_size
    canvas = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(canvas)
    # Seen from the detector, what is far from the source is near.
    for n in np.argsort(depth if camera.mirrored else -depth):
        if np.isfinite(corners[n]).all():
            draw.polygon([tuple(corner) for corner in corners[n].tolist()], fill=tuple(colours[n].astype(int).tolist()))
    return np.asarray(canvas), (low, high)


def _grey(image: Float[Tensor, "h w"]) -> np.ndarray:
    values = image.detach().double().numpy()
    low, high = np.percentile(values[np.isfinite(values)], (1, 99))
    grey = np.rint(((np.nan_to_num(values) - low) / max(high - low, 1e-9)).clip(0, 1) * 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def _signed(image: Float[Tensor, "h w"]) -> np.ndarray:
    values = np.nan_to_num(image.detach().double().numpy())
    share = (values / max(float(np.percentile(np.abs(values), 99)), 1e-9)).clip(-1, 1)
    white = 1 - np.abs(share)
    colours = np.stack([np.where(share > 0, 1, white), white, np.where(share < 0, 1, white)], axis=2)
    return np.rint(colours * 255).astype(np.uint8)


def _chequered(one: UInt8[np.ndarray, "h w 3"], other: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    row, column = np.indices(one.shape[:2])
    field = max(1, max(one.shape[:2]) // FIELDS)
    return np.where(((row // field + column // field) % 2 == 0)[..., None], one, other)


def _lettered(image: UInt8[np.ndarray, "h w 3"], camera: Camera) -> UInt8[np.ndarray, "height width 3"]:
    """As large as the overlays, with the letters of the camera's picture."""
    opaque = np.concatenate([image, np.full_like(image[..., :1], 255)], axis=2)
    return annotated_colours(torch.from_numpy(opaque).permute(2, 0, 1) / 255, camera, SHOWN)
