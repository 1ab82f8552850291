"""The section on registration: a simulated fluoroscopy frame, a pelvis model fitted to it, and how certain that is."""

import time
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from diffrender.demo.case import Case
from diffrender.demo.page import SHOWN, Picture, Section, duration
from diffrender.fit.charts import fallen, stages_of
from diffrender.fit.metrics import Errors, errors_of
from diffrender.fit.overlay import FOUND, START, TRUE, Outline, outline_of, overlay, parts_of
from diffrender.fit.parametric import default_pelvis
from diffrender.fit.registration import pelvis
from diffrender.fit.report import certainty_picture
from diffrender.fit.result import Fit
from diffrender.fit.settings import FitSettings
from diffrender.fit.shape import ShapeModel
from diffrender.fit.simulation import Simulated, cios_camera, simulate
from diffrender.fit.start import Start
from diffrender.mesh import Mesh
from diffrender.pose import motion
from diffrender.xray import Radiograph

SEED = 4
BUILT = 1.2  # how far the person is from the model's mean: each coefficient's deviation
START_OFF = ((6.0, -7.0, 5.0), (3.0, -4.0, 3.0))  # mm, degrees: right, front, head


def registered(case: Case) -> Section:
    """One frame, one view: what a single picture tells of a pelvis, and what it does not."""
    model = default_pelvis()
    drawn = torch.randn(len(model.modes), generator=torch.Generator().manual_seed(SEED), dtype=torch.float64)
    coefficients = BUILT * drawn
    middle = model.mesh(coefficients).centre
    world_from_model = torch.eye(4, dtype=torch.float64)
    world_from_model[:3, 3] = -middle
    truth = _placed(model, coefficients, world_from_model)
    marks = {name: place.double() - middle for name, place in model.landmarks_of(coefficients).items()}
    began = time.perf_counter()
    made = simulate(parts_of(truth, model.parts), cios_camera(), seed=SEED, landmarks=marks)
    assert isinstance(made, Simulated)
    simulated = time.perf_counter() - began
    shift, turn = START_OFF
    xi = torch.cat([torch.tensor(shift), torch.deg2rad(torch.tensor(turn))]).double()
    start = Start(motion(xi, torch.zeros(3, dtype=torch.float64)) @ world_from_model)
    settings = FitSettings()
    began = time.perf_counter()
    fit = pelvis([_unlabelled(made)], model, settings, start).run()
    fitted = time.perf_counter() - began
    before = _placed(model, torch.zeros(0, dtype=torch.float64), start.world_from_model)
    assert fit.mesh is not None
    camera = made.radiograph.camera
    old, new = (errors_of(mesh, truth, camera, _marks(model, mesh), marks) for mesh in (before, fit.mesh))
    return Section(
        "Fit a pelvis to a fluoroscopy frame",
        "A shape model knows how pelves differ; a C-arm's geometry is known. The model is moved, turned and bent until "
        "its picture is that of the frame. The frame is simulated, so that the truth is known, and holds what the "
        "model does not: soft tissue, bowel gas, femurs, lumbar spine, scatter and noise. The person is drawn from the "
        "model, which here is a small one of our own making that stands for no population: with real people the "
        "model's own misfit is added. Depth is what one view hardly shows; the fit says so itself.",
        _pictures(made, model, before, truth, fit),
        _figures(old, new, fit, simulated, fitted),
        {"seed": SEED, "start": {"mm": shift, "degrees": turn}, "sizes": settings.sizes},
    )


def _pictures(made: Simulated, model: ShapeModel, before: Mesh, truth: Mesh, fit: Fit) -> list[Picture]:
    frame, camera = made.radiograph, made.radiograph.camera
    assert fit.mesh is not None

    def drawn(mesh: Mesh, colour: tuple[int, int, int], name: str) -> Outline:
        return outline_of(parts_of(mesh, model.parts), camera, colour, name, SHOWN)

    true = drawn(truth, TRUE, "truth")
    spread = fit.certainty.vertices.double().square().sum(1).sqrt()
    image, (low, high) = certainty_picture(fit.mesh, spread, camera, SHOWN)
    return [
        Picture(overlay(frame, [], SHOWN), "the simulated frame", "A simulated fluoroscopy frame of a pelvis"),
        Picture(
            overlay(frame, [true, drawn(before, START, "start")], SHOWN),
            "before: the mean shape, where the fit begins",
            "The frame with outlines of the true bones and of the start, which lie apart",
        ),
        Picture(
            overlay(frame, [true, drawn(fit.mesh, FOUND, "fit")], SHOWN),
            "after: the fitted pelvis",
            "The frame with outlines of the true bones and of the fitted ones",
        ),
        Picture(
            _curve(fit.history),
            "convergence: how the cost falls, at each resolution of the images in turn",
            "Curves that fall",
        ),
        Picture(
            image,
            f"certainty: deviation of each vertex, from {low:.1f} mm (dark blue) to {high:.1f} mm (yellow)",
            "The fitted pelvis from the front, coloured by how uncertain each place is",
        ),
    ]


def _figures(old: Errors, new: Errors, fit: Fit, simulated: float, fitted: float) -> list[tuple[str, str]]:
    stated = fit.certainty
    return [
        ("the fit says", fit.sentence),
        ("landmark error, before and after", f"{old.landmark:.1f} and {new.landmark:.1f} mm"),
        ("Hausdorff distance, before and after", f"{old.hausdorff:.1f} and {new.hausdorff:.1f} mm"),
        ("error in depth, made; standard deviation stated", f"{new.depth:.1f} mm; {stated.depth:.1f} mm"),
        ("error across, made; standard deviation stated", f"{new.in_plane:.1f} mm; {stated.in_plane:.1f} mm"),
        ("simulating the frame took", duration(simulated)),
        ("the fit took", duration(fitted)),
    ]


def _curve(history: tuple[float, ...]) -> UInt8[np.ndarray, "h w 3"]:
    """How the cost falls at each resolution of the images, from that stage's highest to its lowest."""
    picture = Image.new("RGB", (SHOWN, SHOWN), (16, 20, 26))
    draw, font, margin, done = ImageDraw.Draw(picture), ImageFont.load_default(13), 30, 0
    draw.line((margin, margin, margin, SHOWN - margin, SHOWN - margin, SHOWN - margin), fill=(120, 130, 145))
    step = (SHOWN - 2 * margin) / max(1, len(history) - 1)
    for stage in stages_of(history):
        x = [margin + step * (done + n) for n in range(len(stage))]
        y = [SHOWN - margin - left * (SHOWN - 2.5 * margin) for left in fallen(stage)]
        draw.line([*zip(x, y, strict=True)], fill=FOUND, width=2)
        for at, height in zip(x, y, strict=True):
            draw.ellipse((at - 3, height - 3, at + 3, height + 3), fill=FOUND)
        done += len(stage)
    draw.text((SHOWN / 2, SHOWN - 6), f"{len(history)} steps", font=font, anchor="mb", fill=(225, 225, 225))
    return np.asarray(picture)


def _unlabelled(made: Simulated) -> Radiograph:
    """The frame without what tells where its bones are."""
    return replace(made.radiograph, path_lengths=None, masks=None, ids=(), names=None, landmarks=None)


def _placed(model: ShapeModel, coefficients: Float[Tensor, "k"], world_from_model: Float[Tensor, "4 4"]) -> Mesh:
    body = model.mesh(coefficients)
    points = body.vertices.double() @ world_from_model[:3, :3].T + world_from_model[:3, 3]
    return Mesh(points.to(body.vertices), body.faces)


def _marks(model: ShapeModel, mesh: Mesh) -> dict[str, Float[Tensor, "3"]]:
    return {name: mark.at(mesh.vertices) for name, mark in model.landmarks_at.items()}
