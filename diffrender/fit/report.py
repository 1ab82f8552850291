"""The report of one fit as a page: overlays before and after, residuals, convergence, certainty."""

import html
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from diffrender.camera import Camera
from diffrender.fit import charts
from diffrender.fit.overlay import FOUND, START, outline_of, overlay, parts_of, shown_size
from diffrender.fit.pages import figure, figures, page, section, table
from diffrender.fit.result import Fit
from diffrender.fit.shape import ShapeModel
from diffrender.mesh import Mesh
from diffrender.xray import Radiograph

SHOWN = 420  # px
WIDEST = 0.98  # quantile of the deviations that is yellow


def fit_report(
    fit: Fit,
    radiographs: Sequence[Radiograph],
    model: ShapeModel | None = None,
    start: Mesh | None = None,
    title: str = "Registration",
) -> str:
    """One fit for a person: overlays before and after, residuals, convergence, certainty.

    Args:
        fit: of a shape model, or of a CT (then without outlines).
        radiographs: the frames that were fitted, in the fit's order.
        model: that was fitted; its parts are outlined each by itself.
        start: the mesh where the fit began, RAS [mm].
    """
    sections = [section("Result", f"<p><strong>{html.escape(fit.outcome)}.</strong> {html.escape(fit.sentence)}</p>")]
    for n, radiograph in enumerate(radiographs):
        name = "Frame" if len(radiographs) == 1 else f"Frame {n + 1} of {len(radiographs)}"
        sections.append(section(name, figures(_frame_pictures(fit, n, radiograph, model, start))))
    sections.append(
        section(
            "Convergence",
            charts.line(fit.history, f"cost over {len(fit.history)} accepted steps, at each resolution in turn"),
        )
    )
    sections.append(section("Certainty", _certainty(fit, radiographs[0].camera)))
    return page(title, sections)


CAUSES = ("depth", "in_plane", "rotation", "shape", "projected", "mtre")


def _frame_pictures(
    fit: Fit, n: int, radiograph: Radiograph, model: ShapeModel | None, start: Mesh | None
) -> list[str]:
    camera = radiograph.camera
    parts = (lambda mesh: mesh) if model is None else (lambda mesh: parts_of(mesh, model.parts))
    found = []
    if start is not None:
        before = overlay(radiograph, [outline_of(parts(start), camera, START, "start", SHOWN)], SHOWN)
        found.append(figure(before, "Before: where the fit began"))
    if fit.mesh is not None:
        after = overlay(radiograph, [outline_of(parts(fit.mesh), camera, FOUND, "fit", SHOWN)], SHOWN)
        found.append(figure(after, "After: the fitted bones"))
    if n < len(fit.frames):
        shown = fit.frames[n]
        for image, caption in ((shown.shown, "The frame as it was compared"), (shown.predicted, "The fit's own")):
            found.append(figure(_grey(image), caption))
        found.append(figure(_signed(shown.residual), "What is left: red brighter in the frame, blue darker"))
    return found


def _certainty(fit: Fit, camera: Camera) -> str:
    stated = fit.certainty
    lines = [["one standard deviation of the error to be expected", ""]]
    lines += [["depth, along the first view's axis", f"{stated.depth:.1f} mm"]]
    lines += [["across it", f"{stated.in_plane:.1f} mm"]]
    turn = ", ".join(f"{d:.1f}" for d in torch.rad2deg(stated.pose[3:]).tolist())
    lines += [["rotation about right, front, head", f"{turn} degrees"]]
    lines += [
        [f"landmark {name} (right, front, head)", ", ".join(f"{d:.1f}" for d in spread.tolist()) + " mm"]
        for name, spread in stated.landmarks.items()
    ]
    pictures = []
    if fit.mesh is not None and len(stated.vertices):
        spread = stated.vertices.double().square().sum(1).sqrt()
        image, (low, high) = certainty_picture(fit.mesh, spread, camera)
        pictures.append(
            figure(image, f"Deviation of each vertex, from {low:.1f} mm (dark blue) to {high:.1f} (yellow)")
        )
    return table(lines) + figures(pictures)


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
    return _large(np.repeat(grey[..., None], 3, axis=2))


def _signed(image: Float[Tensor, "h w"]) -> np.ndarray:
    values = np.nan_to_num(image.detach().double().numpy())
    share = (values / max(float(np.percentile(np.abs(values), 99)), 1e-9)).clip(-1, 1)
    white = 1 - np.abs(share)
    colours = np.stack([np.where(share > 0, 1, white), white, np.where(share < 0, 1, white)], axis=2)
    return _large(np.rint(colours * 255).astype(np.uint8))


def _large(image: UInt8[np.ndarray, "h w 3"]) -> np.ndarray:
    scale = SHOWN / max(image.shape[:2])
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
