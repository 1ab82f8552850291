"""A statistical shape model registered to radiographs: pose, shape and joint together, and how certain each is.

The most probable body is sought, by Levenberg-Marquardt on the Jacobian, coarse to fine. Each view's log likelihood is
that of locally normalised images, weakened to the information it has (`evidence`); the prior is the model's own normal
distribution of shapes and the box in which the start may be off.
"""

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from diffrender.camera import Camera
from diffrender.errors import GeometryError, SettingError, notify
from diffrender.fit.adam import descend
from diffrender.fit.certainty import certainty_of
from diffrender.fit.chance import likeness_and_chance
from diffrender.fit.evidence import mixed
from diffrender.fit.evolution import minimise_widely
from diffrender.fit.frames import Frame, pyramid
from diffrender.fit.levenberg import Solution, Step, minimise
from diffrender.fit.matching import matched
from diffrender.fit.one_thread import in_one_thread
from diffrender.fit.problem import Problem, free_of, likeness, nearby, prior_of, problem_at, with_parts
from diffrender.fit.result import Fit, Fitted
from diffrender.fit.scene import POSE, Scene, scene_of
from diffrender.fit.settings import FitSettings
from diffrender.fit.shape import ShapeModel
from diffrender.fit.start import Start, start_at_isocentre
from diffrender.jobs import Job, Progress
from diffrender.xray import Radiograph

# Of the independent numbers that a frame is worth (`evidence_of`): with less at first the prior holds the coarse stages
# where they begin, with more at last what the model lacks moves depth.
FIRST_SHARE, LAST_SHARE = 0.65, 0.45
ROUNDS = 2  # of weights and information, then steps, at each size
COARSE = 48  # px; after contours were matched, frames of fewer pixels would lead away again
KEPT = 2  # of all that are begun, refined beyond the coarsest size
FAR_BEHIND = 20.0  # of -2 log posterior: who is so much less likely after a size is given up
SEEN = 0.1  # of the vertices must project into some frame at the start
POOR = 0.15  # similarity below which the other sign of the image is tried
INVERTED = 0.1  # of similarity, by which the other sign must be better
APART = 3.0  # mm; ends of two starts that far apart are two answers
AS_LIKELY = 4.0  # of -2 log posterior: two ends nearer than this cannot be told apart
SPREAD = (10.0, 5.0)  # mm, degrees: how far a wide search goes where no box is given


def pelvis(
    radiographs: Sequence[Radiograph],
    model: ShapeModel | None = None,
    settings: FitSettings | None = None,
    start: Start | Sequence[Start] | None = None,
) -> Job[Fit]:
    """Find the body of a shape model that radiographs show.

    Args:
        radiographs: one or more, of one patient in one position; all are fitted together.
        model: by default the small parametric pelvis, which is no real one's average; that is said.
        settings: by default `FitSettings()`.
        start: where to begin, one or several; by default the model upright at the isocentre, or where that is not known
            in the middle of the beam, its depth then a guess with a wide prior. All are begun, the best
            refined to the end, and ends that are apart but as likely are told.
    Returns: a job whose result is a `Fit`; its `Progress` has the cost and a picture of the outline on the first frame.
    Raises: ImageError for a frame of one value, GeometryError where the model projects into no frame, SettingError for
        coefficients that the model does not have, LabelError where labels are asked for and missing.
    Source: the problem is that of Shetty et al. (2021); the likelihood is weakened as `evidence` says.
    """
    settings = FitSettings() if settings is None else settings
    views = list(radiographs)
    if not views:
        raise SettingError("A fit needs at least one radiograph.")
    model = chosen_model(model)
    begun = [start] if isinstance(start, Start) else list(start or ())
    begun = begun or [start_at_isocentre([view.camera for view in views], model)]
    if not settings.depth:
        settings = replace(settings, depth=max(one.depth for one in begun))
    levels = _levels(views, settings)
    states = [_begin(one, model, settings, views) for one in begun]
    if settings.similarity == "labels":
        levels = [[with_parts(frame, states[0].scene) for frame in level] for level in levels]
    return Job(in_one_thread(_steps(levels, states, settings)))


def chosen_model(model: ShapeModel | None) -> ShapeModel:
    """The model, or the parametric one where there is none, which is said."""
    if model is not None:
        return model
    from diffrender.fit.parametric import default_pelvis

    notify(
        "No shape model was given: the small parametric pelvis drawn from formulas is fitted, which stands for no "
        "population. Build a model (`diffrender fit model`) for shapes that mean something."
    )
    return default_pelvis()


@dataclass(frozen=True, eq=False)
class _State:
    """How far the fit from one start has come."""

    scene: Scene
    x: Float[Tensor, "n"]
    problem: Problem | None = None
    solution: Solution | None = None

    @property
    def cost(self) -> float:
        return math.inf if self.solution is None else self.solution.normal.cost


def _steps(levels: list[list[Frame]], states: list[_State], settings: FitSettings) -> Generator[Progress, None, Fit]:
    begun = len(states)
    yield Progress(0, 0)
    if settings.similarity != "labels":
        states, levels = _near(states, levels, settings)
    total = ROUNDS * (len(states) + min(KEPT, len(states)) * (len(levels) - 1))
    done, history = 0, []
    for number, frames in enumerate(levels):
        ended = []
        for state in states:
            for turn in range(ROUNDS):
                state = yield from _stage(state, frames, settings, (done, total), _share(number, turn, len(levels)))
                done += 1
            ended.append(state)
        states = _ranked(ended)
        history += states[0].solution.history if states[0].solution else ()
    yield Progress(total, total, states[0].cost)
    frames = [evidence.frame for evidence in states[0].problem.evidence] if states[0].problem else levels[-1]
    return _fit(states, begun, frames, levels[-1], tuple(history), settings)


def _near(
    states: list[_State], levels: list[list[Frame]], settings: FitSettings
) -> tuple[list[_State], list[list[Frame]]]:
    """From where the model's contours were found in the frames, and the frames that go on, bone bright."""
    found, told = _matched(states, levels, settings)
    if told < POOR:
        turned = [[frame.inverted() for frame in level] for level in levels]
        others, otherwise = _matched(states, turned, settings)
        if otherwise > told + INVERTED:
            notify(
                "The frames fit with bright and dark exchanged, and hardly as their files say: they are taken as "
                "inverted (bone dark where bone was stated bright, or the other way round)."
            )
            found, levels = others, turned
    if not settings.match:
        return states, levels
    return found, [level for level in levels if max(level[0].camera.image_size) >= COARSE] or levels[-1:]


def _matched(states: list[_State], levels: list[list[Frame]], settings: FitSettings) -> tuple[list[_State], float]:
    """Each start moved to where the contours were found, the most alike first, and how alike that is."""
    found = []
    for state in states:
        precision, free = prior_of(state.scene, levels[0][0].camera, settings), free_of(state.scene, settings)
        x = matched(state.scene, state.x, levels, precision, free, settings.seed)
        found.append((likeness(state.scene, levels[-1], x, settings.similarity), _State(state.scene, x)))
    found.sort(key=lambda one: -one[0])
    return [state for _, state in found], found[0][0]


def _share(level: int, turn: int, levels: int) -> float:
    """Of a frame's independent numbers, over all stages."""
    return FIRST_SHARE + (LAST_SHARE - FIRST_SHARE) * (ROUNDS * level + turn) / max(ROUNDS * levels - 1, 1)


def _stage(
    state: _State, frames: list[Frame], settings: FitSettings, progress: tuple[int, int], share: float
) -> Generator[Progress, None, _State]:
    problem = problem_at(state.scene, frames, state.x, settings, share)
    steps = _optimiser(problem, settings, first=share == FIRST_SHARE)
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            solution: Solution = end.value
            return _State(state.scene, problem.whole(solution.x), problem, solution)
        x = problem.whole(step.x)
        yield Progress(*progress, step.cost, preview=_preview(state.scene, frames[0], x))


def _optimiser(problem: Problem, settings: FitSettings, first: bool) -> Generator[Step, None, Solution]:
    y = problem.held[problem.free]
    if settings.optimiser == "adam":
        spread = problem.precision.diagonal()[problem.free].clamp(min=1e-3).rsqrt()
        return descend(problem.evaluate, y, spread, 10 * settings.steps, settings.tolerance)
    if settings.optimiser == "wide" and first:
        return _widely(problem, settings)
    return minimise(problem.evaluate, y, settings.steps, settings.tolerance)


def _widely(problem: Problem, settings: FitSettings) -> Generator[Step, None, Solution]:
    """CMA-ES in the pose alone, the shape as at the start."""
    y0 = problem.held[problem.free]

    def cost(pose: Tensor) -> float:
        return problem.evaluate(torch.cat([pose, y0[POSE:]]), False).cost

    place, turn = settings.start_translation or SPREAD[0], math.radians(settings.start_rotation or SPREAD[1])
    spread = torch.tensor([place] * 3 + [turn] * 3, dtype=torch.float64)
    steps = minimise_widely(cost, y0[:POSE], spread, seed=settings.seed)
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            found: Solution = end.value
            y = torch.cat([found.x, y0[POSE:]])
            return Solution(y, problem.evaluate(y, True), found.outcome, found.history)
        yield Step(step.number, torch.cat([step.x, y0[POSE:]]), step.cost, step.accepted, step.damping)


def _levels(views: list[Radiograph], settings: FitSettings) -> list[list[Frame]]:
    """All frames at each size, coarse first; the finest ones of each where some have fewer pixels."""
    pyramids = [pyramid(view, settings) for view in views]
    count = max(map(len, pyramids))
    return [[one[max(0, n - count + len(one))] for one in pyramids] for n in range(count)]


def _begin(start: Start, model: ShapeModel, settings: FitSettings, views: list[Radiograph]) -> _State:
    scene = scene_of(model, start.world_from_model, settings, len(views))
    coefficients = torch.as_tensor(start.coefficients, dtype=torch.float64)
    if len(coefficients) > len(model.modes):
        raise SettingError(
            f"The start has {len(coefficients)} coefficients and the model {len(model.modes)} modes: it belongs to "
            "another model. Give that model, or a start without coefficients."
        )
    if bool(start.turn.any()) and not scene.turning:
        raise SettingError("The start turns a joint, and this model has none. Give the model that the start is of.")
    x = torch.zeros(scene.size, dtype=torch.float64)
    kept = min(len(coefficients), scene.modes)
    x[POSE : POSE + kept] = coefficients[:kept]
    x[POSE + scene.modes : POSE + scene.modes + scene.turning] = start.turn[: scene.turning]
    _check_in_view(scene, x, views)
    return _State(scene, x)


def _check_in_view(scene: Scene, x: Tensor, views: list[Radiograph]) -> None:
    for number, view in enumerate(views, 1):
        inside = _share_inside(scene, x, view.camera)
        if inside < SEEN:
            raise GeometryError(
                f"{view.source or f'Frame {number}'}: from this start {100 * inside:.0f} % of the model project "
                "into the frame, so there is nothing to fit it to. Check the camera (its world must be that of the "
                "start, RAS in mm), or give a start nearer to the patient (--start, or landmarks)."
            )


def _ranked(states: list[_State]) -> list[_State]:
    """The most likely first, under one yardstick: the weights and the information that the best of them measured."""
    best = max(states, key=_explained)
    costs = {id(state): _common_cost(best.problem, state) for state in states}
    states = sorted(states, key=lambda state: costs[id(state)])
    return [state for state in states[:KEPT] if costs[id(state)] < costs[id(states[0])] + FAR_BEHIND]


def _explained(state: _State) -> float:
    """The similarity, mean over the views."""
    assert state.problem is not None
    frames = [evidence.frame for evidence in state.problem.evidence]
    return likeness(state.scene, frames, state.x, state.problem.evidence[0].kind)


def _common_cost(problem: Problem | None, state: _State) -> float:
    """-2 log posterior under another start's evidence; its own pose prior counts, for starts differ in that alone."""
    assert problem is not None
    assert state.problem is not None
    return float(state.x @ state.problem.precision @ state.x) + sum(
        evidence.normal(state.scene.pictures(state.x, evidence.frame.camera, view), None).cost
        for view, evidence in enumerate(problem.evidence)
    )


def _preview(scene: Scene, frame: Frame, x: Tensor) -> Float[Tensor, "3 h w"]:
    """The first frame, grey, with the model's outline in colour."""
    shown = (frame.normalised(frame.image) / 4 + 0.5).clamp(0, 1)
    inside = scene.pictures(x, frame.camera, 0).amax(0) > 0
    edge = inside.clone()
    edge[1:-1, 1:-1] &= ~(inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:])
    return torch.stack([torch.where(edge, value, shown) for value in (1.0, 0.6, 0.0)])


def _fit(
    states: list[_State],
    count: int,
    frames: list[Frame],
    whole: list[Frame],
    history: tuple[float, ...],
    settings: FitSettings,
) -> Fit:
    best = states[0]
    scene, x, problem, solution = best.scene, best.x, best.problem, best.solution
    assert problem is not None
    assert solution is not None
    assert solution.normal.hessian is not None
    outcome, sentence = _outcome(states, count, whole, settings)
    pose = scene.pose(x)
    turn = scene.turn(x) if scene.turning else torch.zeros(3, dtype=torch.float64)
    places = scene.model.landmarks_of(scene.coefficients(x), turn if scene.turning else None)
    return Fit(
        mesh=scene.mesh(x),
        world_from_model=pose,
        coefficients=scene.coefficients(x).clone(),
        turn=turn.clone(),
        landmarks={name: pose[:3, :3] @ place.to(torch.float64) + pose[:3, 3] for name, place in places.items()},
        outcome=outcome,
        sentence=sentence,
        certainty=certainty_of(problem, x, solution.normal.hessian, frames[0].camera),
        frames=tuple(_fitted(problem, x, view) for view in range(len(problem.evidence))),
        history=history,
    )


def _fitted(problem: Problem, x: Tensor, view: int) -> Fitted:
    scene, evidence = problem.scene, problem.evidence[view]
    frame = evidence.frame
    outline = scene.outlines(x, frame.camera, view)
    shells = scene.pictures(x, frame.camera, view)
    if evidence.kind == "labels":
        assert frame.masks is not None
        shown, drawn = frame.masks.amax(0), (shells > 0).to(frame.image).amax(0)
        return Fitted(shown, drawn, (shown - drawn) * frame.weights, outline)
    shown = frame.normalised(frame.image)
    drawn = frame.normalised(mixed(shells, None, frame, evidence.kind)[0].to(shown))
    drawn = drawn * ((shown * drawn).sum() / drawn.square().sum().clamp(min=1e-12))
    return Fitted(shown, drawn, (shown - drawn) * evidence.weights.to(shown), outline)


def _outcome(states: list[_State], count: int, frames: list[Frame], settings: FitSettings) -> tuple[str, str]:
    best = states[0]
    assert best.solution is not None
    assert best.problem is not None
    if best.solution.outcome == "diverged" or not bool(torch.isfinite(best.x).all()):
        return (
            "diverged",
            "The fit ran away from the frames: the result means nothing. Give a start nearer to the truth.",
        )
    rivals = [state for state in states[1:] if _apart(best, state) > APART]
    rivals = [state for state in rivals if _common_cost(best.problem, state) < _own_cost(best) + AS_LIKELY]
    if rivals:
        far = max(_apart(best, one) for one in rivals)
        return "ambiguous", (
            f"{1 + len(rivals)} of {count} starts end in places up to {far:.0f} mm apart that explain the frames as "
            "well. Add a view from another side, or landmarks."
        )
    nothing = _found_nothing(best, frames, settings)
    if nothing:
        return "diverged", nothing
    axis = best.problem.evidence[0].frame.camera.direction
    moved = float(best.x[:3] @ axis)
    allowed = settings.depth * 2 if 0 < settings.depth < math.inf else settings.start_translation
    if allowed and math.isfinite(settings.depth) and abs(moved) > allowed:
        return "depth limit", (
            f"The depth moved by {abs(moved):.0f} mm, beyond what the start allows ({allowed:.0f} mm). "
            + (
                "Depth in one view is hardly seen: check the start's depth (table height, isocentre), or add a second "
                "view."
                if len(best.problem.evidence) == 1
                else "Check the start's depth, and whether the views' geometry is that of one moment."
            )
        )
    if best.solution.outcome == "step limit":
        return "step limit", (
            f"The last stage was still getting better after {settings.steps} steps. Allow more steps, or start from "
            "this result."
        )
    return "converged", "No step makes it more likely. Look at the outline on every frame before you use it."


def _found_nothing(best: _State, frames: list[Frame], settings: FitSettings) -> str:
    """Why the body at the end is not what the frames show; "" where it may be."""
    assert best.problem is not None
    scene, x = best.scene, best.x
    seen = min(_share_inside(scene, x, frame.camera) for frame in frames)
    if seen < SEEN:
        return (
            f"At the end {100 * seen:.0f} % of the model project into a frame: it left the picture, and the result "
            "means nothing. Give a start nearer to the truth (landmarks, or --start)."
        )
    if settings.similarity == "labels":
        return ""
    both = []
    for view, evidence in enumerate(best.problem.evidence):
        shells = scene.pictures(x, evidence.frame.camera, view)
        picture = mixed(shells, None, evidence.frame, evidence.kind)[0]
        both.append(likeness_and_chance(picture, frames[view], nearby(frames[view], shells)))
    told, chance = (sum(one) / len(both) for one in zip(*both, strict=True))
    if told < chance:
        return (
            f"The model and the frames have little in common: their likeness is {told:.2f}, and the same picture put "
            f"at wrong places reaches {chance:.2f}. Give a start nearer to the truth, or check the geometry."
        )
    return ""


def _share_inside(scene: Scene, x: Tensor, camera: Camera) -> float:
    """The share of the vertices that project into an image."""
    pixels, (height, width) = camera.project(scene.mesh(x).vertices.to(torch.float64)), camera.image_size
    inside = (pixels >= 0).all(1) & (pixels[:, 0] < height) & (pixels[:, 1] < width)
    return float(inside.double().mean())


def _own_cost(state: _State) -> float:
    return _common_cost(state.problem, state)


def _apart(a: _State, b: _State) -> float:
    """Mean distance of corresponding vertices [mm]."""
    return float((a.scene.mesh(a.x).vertices - b.scene.mesh(b.x).vertices).norm(dim=1).mean())
