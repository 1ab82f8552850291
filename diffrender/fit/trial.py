"""One trial of an evaluation: a held-out subject's frames, a start beside the truth, a fit, and how far off it is."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from diffrender.camera import Camera
from diffrender.errors import SettingError
from diffrender.fit.atlas import Subject
from diffrender.fit.building import ModelSettings, build_shape_model
from diffrender.fit.metrics import Errors, errors_of, floor_of, inside_deviations, share_in_view
from diffrender.fit.overlay import FOUND, START, TRUE, outline_of, overlay, parts_of
from diffrender.fit.registration import pelvis
from diffrender.fit.result import Fit
from diffrender.fit.settings import FitSettings
from diffrender.fit.shape import ShapeModel
from diffrender.fit.simulation import Simulated, SimulateSettings, cios_camera, simulate
from diffrender.fit.start import Start
from diffrender.fit.training import prepare
from diffrender.mesh import Mesh
from diffrender.pose import motion

ANGLES = 10.0  # degrees; the C-arm stands within so much of the angles asked for
AIM = (25.0, 15.0, 25.0)  # mm; the pelvis lies within so much of the isocentre: across, in depth, along
PATIENT = 4.0  # degrees; the patient lies within so much of straight
LEAST_IN_VIEW = 0.5
TRIES = 50
SHOWN = 384  # px


@dataclass(frozen=True)
class Trial:
    """What is fitted and what is given.

    Attributes:
        views: (primary, secondary) of each [degrees].
        depth: as in FitSettings: 0 for the start's box as the prior, inf for none.
        depth_known: the start has the true depth.
        shape_known: the model is the true shape, and only pose is fitted.
        pose_known: the start has the true pose, and only shape is fitted.
        clean: frames without what the model lacks.
        translation, rotation: half-widths of the starts' box, per axis [mm, degrees].
        source_to_isocenter: of the C-arm [mm].
    """

    views: tuple[tuple[float, float], ...] = ((0.0, 0.0),)
    depth: float = 0.0
    depth_known: bool = False
    shape_known: bool = False
    pose_known: bool = False
    clean: bool = False
    translation: float = 10.0
    rotation: float = 5.0
    source_to_isocenter: float = 700.0


@dataclass(frozen=True, eq=False)
class HeldOut:
    """A subject and a model that knows nothing of it.

    Attributes:
        id: of the subject.
        truth: its surface, repaired, in the model's frame [mm].
        model: built from the others.
        floor: the model's best instance for it, in the model's frame.
        made: frames made so far.
    """

    id: int
    truth: Mesh
    model: ShapeModel
    floor: Mesh
    made: dict[tuple[Any, ...], "Frames"] = field(default_factory=dict)

    def landmarks(self, mesh: Mesh) -> dict[str, Float[Tensor, "3"]]:
        return {name: mark.at(mesh.vertices) for name, mark in self.model.landmarks_at.items()}


@dataclass(frozen=True, eq=False)
class Frames:
    """A subject before the C-arm: its surface in the world, world_from_model, and what the views show."""

    truth: Mesh
    world_from_model: Float[Tensor, "4 4"]
    views: list[Simulated]


def true_surfaces(subjects: Sequence[Subject]) -> dict[int, Mesh]:
    """{id: repaired surface}, RAS [mm], by the rule by which a model's own subjects are repaired."""
    prepared = prepare([one.meshes for one in subjects], mirror=False)
    faces = torch.from_numpy(prepared.faces)
    parts = [part.points for part in prepared.repaired.values()]
    return {
        one.id: Mesh(torch.from_numpy(np.concatenate([points[n] for points in parts])).to(torch.float32), faces)
        for n, one in enumerate(subjects)
    }


def held_out(
    subjects: Sequence[Subject], truth: Mesh, subject: int, left_out: Sequence[int], modes: int = 0
) -> HeldOut:
    """A subject of an atlas, with the model of the others.

    Args:
        truth: its surface, RAS [mm].
        left_out: the subjects that are kept out of the model, itself among them.
        modes: most modes of the model; 0 for all that it keeps by default.
    Raises: SettingError where too few are left, MeshError.
    """
    kept = [one.meshes for one in subjects if one.id not in left_out]
    if subject not in left_out:
        raise SettingError(f"Subject {subject} is to be fitted, so it must not be in its own model.")
    settings = ModelSettings(modes=modes) if modes else ModelSettings()
    model = build_shape_model(kept, settings)
    floor, world_from_model, _ = floor_of(model, truth)
    model_from_world = torch.linalg.inv(world_from_model)
    return HeldOut(subject, _moved(truth, model_from_world), model, _moved(floor, model_from_world))


def tried(
    case: HeldOut,
    trial: Trial,
    start: int,
    settings: FitSettings,
    seed: int,
    picture: Path | None = None,
) -> dict[str, Any]:
    """Fit once, from the start of this number, and compare with the truth: a row of plain data without its key."""
    frames = frames_of(case, trial, seed)
    cameras = [view.radiograph.camera for view in frames.views]
    model = _known(case) if trial.shape_known else case.model
    pose = _start(case, trial, frames, start, seed)
    settings = replace(
        settings,
        depth=trial.depth,
        start_translation=trial.translation,
        start_rotation=trial.rotation,
        shape=not trial.shape_known,
        pose=not trial.pose_known,
    )
    shown = [view.clean if trial.clean else view.radiograph for view in frames.views]
    # Labels would tell where the bones are, and marked landmarks too.
    shown = [replace(one, path_lengths=None, masks=None, ids=(), names=None, landmarks=None) for one in shown]
    began, worked = time.perf_counter(), time.process_time()
    fit = pelvis(shown, model, settings, Start(pose)).run()
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - worked
    before = _moved(model.mesh(), pose)
    assert fit.mesh is not None
    row = {
        "outcome": fit.outcome,
        "seconds": round(seconds, 3),
        "cpu_seconds": round(cpu_seconds, 3),
        "in_view": min(share_in_view(frames.truth, camera) for camera in cameras),
        "before": _errors(case, before, frames, cameras),
        "after": _errors(case, fit.mesh, frames, cameras),
        "floor": _errors(case, _moved(case.floor, frames.world_from_model), frames, cameras),
        **_certainty(fit, frames, model),
        "coefficients": [round(float(c), 4) for c in fit.coefficients],
        "overlay": None,
    }
    if picture is not None:
        row["overlay"] = _draw(picture, frames, before, fit.mesh, case.model)
    return row


def frames_of(case: HeldOut, trial: Trial, seed: int) -> Frames:
    """The subject's frames: the same for every trial with these views, so that trials can be compared.

    The pelvis lies about the isocentre, the C-arm stands about as asked; drawn anew until over half of it is in view.
    """
    key = (trial.views, trial.source_to_isocenter, seed)
    if key not in case.made:
        case.made[key] = _frames(case, trial, seed)
    return case.made[key]


def _frames(case: HeldOut, trial: Trial, seed: int) -> Frames:
    random = np.random.default_rng([seed, case.id])
    middle = case.truth.centre
    for _ in range(TRIES):
        xi = np.concatenate([random.uniform(-1, 1, 3) * AIM, np.radians(random.uniform(-PATIENT, PATIENT, 3))])
        shift = torch.eye(4, dtype=torch.float64)
        shift[:3, 3] = -middle
        world_from_model = motion(torch.from_numpy(xi), torch.zeros(3, dtype=torch.float64)) @ shift
        off = random.uniform(-ANGLES, ANGLES, 2)
        cameras = [
            cios_camera(primary + off[0], secondary + off[1], source_to_isocenter=trial.source_to_isocenter)
            for primary, secondary in trial.views
        ]
        truth = _moved(case.truth, world_from_model)
        if min(share_in_view(truth, camera) for camera in cameras) > LEAST_IN_VIEW:
            break
    else:
        raise SettingError(
            f"Subject {case.id} does not fit into these views: less than half of the pelvis is seen wherever it lies."
        )
    bodies = parts_of(truth, case.model.parts)
    made = simulate(bodies, cameras, SimulateSettings(), seed * 1000 + case.id, case.landmarks(truth))
    assert isinstance(made, list)
    return Frames(truth, world_from_model, made)


def _start(case: HeldOut, trial: Trial, frames: Frames, start: int, seed: int) -> Float[Tensor, "4 4"]:
    """world_from_model: the true pose, moved by a draw from the box about the middle of the mean shape."""
    random = np.random.default_rng([seed, case.id, start])
    xi = np.concatenate(
        [
            random.uniform(-trial.translation, trial.translation, 3),
            np.radians(random.uniform(-trial.rotation, trial.rotation, 3)),
        ]
    )
    if trial.pose_known:
        return frames.world_from_model
    if trial.depth_known:
        axis = frames.views[0].radiograph.camera.direction.numpy()
        xi[:3] -= (xi[:3] @ axis) * axis
    middle = _moved(case.model.mesh(), frames.world_from_model).centre
    return motion(torch.from_numpy(xi), middle) @ frames.world_from_model


def _known(case: HeldOut) -> ShapeModel:
    """The true shape as a model that knows no other."""
    model = case.model
    return replace(
        model,
        mean=case.truth.vertices,
        modes=model.modes[:0],
        unexplained=torch.zeros_like(model.unexplained),
        joint=None,
    )


def _errors(case: HeldOut, mesh: Mesh, frames: Frames, cameras: Sequence[Camera]) -> dict[str, float]:
    marks: tuple[Mapping[str, Tensor], Mapping[str, Tensor]] = (case.landmarks(mesh), case.landmarks(frames.truth))
    found: Errors = errors_of(mesh, frames.truth, cameras, *marks)
    return {name: round(value, 4) for name, value in found.to_dict().items()}


def _certainty(fit: Fit, frames: Frames, model: ShapeModel) -> dict[str, Any]:
    assert fit.mesh is not None
    stated = fit.certainty
    one, two = inside_deviations(fit.mesh.vertices, frames.truth.vertices, stated.vertices)
    return {
        "within_1": round(one, 4),
        "within_2": round(two, 4),
        "stated": {
            "depth": round(stated.depth, 4),
            "in_plane": round(stated.in_plane, 4),
            "vertex": round(float(stated.vertices.square().mean().sqrt()), 4),
        },
    }


def _draw(path: Path, frames: Frames, before: Mesh, after: Mesh, model: ShapeModel) -> str:
    """The frames with start, truth and fit, side by side. Returns: the file's name within the record's folder."""
    from PIL import Image

    pictures = []
    for view in frames.views:
        camera = view.radiograph.camera
        bodies = ((before, START, "start"), (frames.truth, TRUE, "truth"), (after, FOUND, "fit"))
        outlines = [outline_of(parts_of(m, model.parts), camera, colour, name, SHOWN) for m, colour, name in bodies]
        pictures.append(overlay(view.radiograph, outlines, SHOWN))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(pictures, axis=1)).save(path, quality=88)
    return f"{path.parent.name}/{path.name}"


def _moved(mesh: Mesh, matrix: Float[Tensor, "4 4"]) -> Mesh:
    points = mesh.vertices.double() @ matrix[:3, :3].T + matrix[:3, 3]
    return Mesh(points.to(mesh.vertices), mesh.faces)
