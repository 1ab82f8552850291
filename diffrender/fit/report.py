"""The report of one fit as a page: overlays before and after, residuals, convergence, certainty."""

import html
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from diffrender.camera import Camera
from diffrender.fit import charts
from diffrender.fit.overlay import FOUND, START, outline_of, overlay, parts_of
from diffrender.fit.pages import figure, figures, page, section, table
from diffrender.fit.result import Fit
from diffrender.fit.shape import ShapeModel
from diffrender.mesh import Mesh
from diffrender.xray import Radiograph

SHOWN = 420  # px
WIDEST = 0.98  # quantile of the certainty's scale


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
    sections.append(section("Convergence", charts.line(fit.history, f"cost over {len(fit.history)} accepted steps")))
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
        image, top = certainty_picture(fit.mesh, spread, camera)
        pictures.append(figure(image, f"Deviation of each vertex: dark blue 0, yellow {top:.1f} mm or more"))
    return table(lines) + figures(pictures)


def certainty_picture(
    mesh: Mesh, deviations: Float[Tensor, "v"], camera: Camera, size: int = SHOWN
) -> tuple[UInt8[np.ndarray, "height width 3"], float]:
    """The vertices seen by a camera, coloured by how uncertain they are, the nearer ones in front; and the scale's top
    [mm]."""
    fine = camera.resized((size, size))
    pixels = fine.project(mesh.vertices.detach().double()).numpy()
    top = max(float(deviations.quantile(WIDEST)), 1e-6)
    shade = (deviations / top).clamp(0, 1).double().numpy()
    # From dark blue through teal to yellow: bright means uncertain, in grey as well.
    stops = np.array([[35, 30, 110], [30, 120, 140], [90, 190, 100], [250, 230, 60]])
    colours = np.stack([np.interp(shade, np.linspace(0, 1, 4), stops[:, c]) for c in range(3)], axis=1)
    picture = np.zeros((size, size, 3), dtype=np.uint8)
    depth = ((mesh.vertices.detach().double() - camera.source) @ camera.direction).numpy()
    nearness = -depth if not camera.mirrored else depth  # seen from the detector, what is far from the source is near
    for n in np.argsort(nearness):
        row, column = pixels[n]
        if 1 <= row < size - 1 and 1 <= column < size - 1:
            picture[int(row) - 1 : int(row) + 2, int(column) - 1 : int(column) + 2] = colours[n]
    return picture, top


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
