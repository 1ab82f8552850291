"""A CT registered to radiographs of the same patient: six numbers, by its own digitally reconstructed radiographs."""

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from diffrender.errors import GeometryError, SettingError
from diffrender.fit.chance import likeness_and_chance
from diffrender.fit.cut import cut_places, pixels_of, radius_about
from diffrender.fit.evolution import minimise_widely
from diffrender.fit.frames import Frame, pyramid
from diffrender.fit.independence import independent_pixels
from diffrender.fit.levenberg import Normal, Solution, Step, minimise
from diffrender.fit.one_thread import in_one_thread
from diffrender.fit.result import Certainty, Fit, Fitted
from diffrender.fit.settings import FitSettings
from diffrender.fit.similarity import residual, similarity
from diffrender.fit.wide import Sought, WideSettings, search, without_rim
from diffrender.jobs import Job, Progress
from diffrender.pose import is_rigid, motion, way_between
from diffrender.rays.line import line_integrals, line_integrals_with_jacobian
from diffrender.rays.prepared import Prepared
from diffrender.volume import Volume
from diffrender.xray import Radiograph, RadiographSettings, scene_of

# One view shows all six numbers once the shape is known, so that no prior is needed. Of the similarities the
# correlation with local contrast taken out has the widest basin: from 20 mm and 10 degrees gradients found the way from
# three of eight starts, it from all.
CT_SETTINGS = FitSettings(
    similarity="correlation",
    blur=60.0,
    sizes=(32, 64, 128, 256),
    start_translation=0.0,
    start_rotation=0.0,
    tolerance=1e-6,
    shape=False,
    turn=False,
)
# Much else is in a frame in which a CT's place is not known: edges tell a bone from skin, and of local contrast what is
# as narrow as a bone.
WIDE_CT_SETTINGS = replace(CT_SETTINGS, similarity="gradient-correlation", blur=15.0, sizes=(110, 160, 220))
SHADOW = 0.02  # of its largest value: where a drawn body counts as there
AROUND = 12.0  # mm on the image plane: so far from its shadow a body still has an edge to compare
CUT = 8.0  # mm on the image plane: so far from where a CT is cut off its picture has an edge that the patient has not
KEPT = 3  # starts that are refined to the end
KEPT_WIDE = 12  # of the candidates of a search, after the first and coarsest fit
FIRST_STEPS = 8  # of a candidate's refinement, but the last: enough to tell which are worth more
SEARCHED = 110  # px: a wide search needs no more
GOOD = 0.3  # likeness below which a fit has found nothing, where wrong places do not tell (`chance`)
ALIKE = 0.02  # of similarity: two ends nearer than this are equally good
APART = (5.0, 3.0)  # mm, degrees: two ends farther than this are two poses
SPREAD = (20.0, 10.0)  # mm, degrees: what CMA-ES looks through where no box is given


@dataclass(frozen=True, eq=False)
class _View:
    """One view at one resolution; `cut` is where the CT, at rest, ends in the middle of the patient [mm]."""

    frame: Frame
    attenuation: Prepared
    cut: Float[Tensor, "k 3"]


def ct(
    radiographs: Sequence[Radiograph],
    volume: Volume,
    settings: FitSettings | None = None,
    starts: Sequence[Float[Tensor, "4 4"]] = (),
    wide: WideSettings | None = None,
) -> Job[Fit]:
    """Find where a CT's patient lies in radiographs of known geometry.

    Args:
        radiographs: one or more, taken at the same time; all are fitted together.
        volume: the CT [HU]; a single bone, cut out with air around it, works too: frames are compared only where the
            CT casts a shadow.
        settings: by default `CT_SETTINGS`, with `wide` `WIDE_CT_SETTINGS`. A box about the start (`start_translation`,
            `start_rotation`) becomes a prior; `optimiser="wide"` begins with CMA-ES, which looks through that box.
        starts: world_from_ct (4, 4), rigid; by default where the CT lies. All are begun, the best refined to the end.
        wide: look everywhere first, in all orientations: for a CT whose place is not known at all. The rim of the
            collimation is then left out.
    Returns: a job whose result has `world_from_model` = world_from_ct, no mesh, no coefficients.
    Raises: UnitError where the CT is not in HU; ImageError for a frame of one value; GeometryError for a start that is
        not rigid, or from which no ray meets the CT.
    Source: Levenberg-Marquardt on the Jacobian that the ray kernel makes in the same pass as the picture.
    """
    settings = (CT_SETTINGS if wide is None else WIDE_CT_SETTINGS) if settings is None else settings
    if not radiographs:
        raise SettingError("A fit needs at least one radiograph.")
    if settings.similarity == "labels":
        raise SettingError("A CT is compared by its intensities; take another similarity than labels.")
    if settings.optimiser == "adam":
        raise SettingError("A CT is registered by levenberg or wide, which begins with CMA-ES; not by adam.")
    begun = [torch.as_tensor(start, dtype=torch.float64) for start in starts] or [torch.eye(4, dtype=torch.float64)]
    for start in begun:
        if not is_rigid(start):
            raise GeometryError(
                f"A start is a rigid 4 x 4 matrix, world_from_ct [mm], and this is {start.tolist()}. Scale, shear and "
                "mirrors move no patient."
            )
    attenuation = scene_of(volume, RadiographSettings(labels=False, backend=settings.backend)).attenuation
    if wide is not None:
        radiographs = [without_rim(one) for one in radiographs]
    levels = _levels(radiographs, volume, attenuation, settings)
    return Job(in_one_thread(_steps(levels, volume, settings, begun, wide)))


def _steps(
    levels: list[list[_View]],
    volume: Volume,
    settings: FitSettings,
    starts: list[Tensor],
    wide: WideSettings | None,
) -> Generator[Progress, None, Fit]:
    if wide is not None:
        yield Progress(0, 0)
        starts = _found(levels, volume, settings, wide)
    kept = [KEPT if wide is None or number else KEPT_WIDE for number in range(len(levels))]
    ends = [_End(start, torch.zeros(6, dtype=torch.float64)) for start in starts]
    total, done = len(starts) + sum(kept[:-1]), 0
    history: list[float] = []
    for number, level in enumerate(levels):
        solved = []
        for end in ends:
            problem = _Problem(level, volume, settings, end)
            hasty = wide is not None and number < len(levels) - 1
            steps = _optimiser(
                problem, settings, number == 0, min(settings.steps, FIRST_STEPS) if hasty else settings.steps
            )
            while True:  # not `yield from`: what is told of a step is a Progress
                try:
                    step = next(steps)
                except StopIteration as last:
                    solved.append(_End(end.start, last.value.x, problem, last.value))
                    break
                yield Progress(done, total, step.cost)
            done += 1
        solved.sort(key=lambda end: end.cost)
        history += list(solved[0].history)
        ends = _distinct(solved, kept[number])
    yield Progress(total, total, ends[0].cost)
    return _fit(ends, len(starts), tuple(history))


def _distinct(ends: list["_End"], most: int) -> list["_End"]:
    """The best ends, no two at the same pose."""
    kept: list[_End] = []
    for end in ends:
        if len(kept) < most and all(_apart(end, other) for other in kept):
            kept.append(end)
    return kept


def _optimiser(problem: "_Problem", settings: FitSettings, first: bool, most: int) -> Generator[Step, None, Solution]:
    if first and settings.optimiser == "wide":
        spread = _box(settings.start_translation or SPREAD[0], settings.start_rotation or SPREAD[1])
        return minimise_widely(lambda x: problem.evaluate(x, False).cost, problem.end.xi, spread, seed=settings.seed)
    return minimise(problem.evaluate, problem.end.xi, most, settings.tolerance * problem.information)


@dataclass(frozen=True, eq=False)
class _End:
    """Where the fit from one start has come to: the CT moved by `xi` about its middle, from `start`."""

    start: Float[Tensor, "4 4"]
    xi: Float[Tensor, "6"]
    problem: "_Problem | None" = None
    solution: Solution | None = None

    @property
    def cost(self) -> float:
        """Unlikeness at the end, of the image alone and so comparable between starts and ends."""
        return math.inf if self.problem is None else self.problem.unlike(self.xi)

    @property
    def history(self) -> tuple[float, ...]:
        return () if self.solution is None else self.solution.history

    def pose(self, centre: Float[Tensor, "3"]) -> Float[Tensor, "4 4"]:
        """world_from_ct."""
        return motion(self.xi, self.start[:3, :3] @ centre + self.start[:3, 3]) @ self.start


class _Problem:
    """One start at one resolution: from six numbers to minus twice the log likelihood, with derivatives."""

    def __init__(self, views: list[_View], volume: Volume, settings: FitSettings, end: _End):
        self.volume, self.settings, self.end = volume, settings, end
        self.lattice = end.start @ volume.world_from_voxel
        self.centre = end.start[:3, :3] @ volume.centre + end.start[:3, 3]
        self.whole, self.views = views, [self._shadowed(view) for view in views]
        if not any(bool((view.frame.weights > 0).any()) for view in self.views):
            raise GeometryError(
                "From this start no ray of any frame meets the CT, so nothing can be compared. Give a start nearer to "
                "the patient's place, or look everywhere (a wide search)."
            )
        self.precision = _precision(settings)
        self.information = self._information()

    def evaluate(self, xi: Float[Tensor, "6"], wanted: bool) -> Normal:
        """At the CT moved by `xi` from its start."""
        cost = float(self.precision @ xi.square())
        gradient, hessian = self.precision * xi, torch.diag(self.precision)
        for view in self.views:
            shown, rates = self._drawn(view, xi, wanted)
            r, j = residual(self.settings.similarity, shown, view.frame, rates)
            cost += self.information * float(r @ r)
            if j is not None:
                gradient = gradient + self.information * (j.T @ r).to(torch.float64)
                hessian = hessian + self.information * (j.T @ j).to(torch.float64)
        return Normal(cost, gradient, hessian) if wanted else Normal(cost)

    def unlike(self, xi: Float[Tensor, "6"]) -> float:
        """1 less the mean similarity over the views."""
        kind = self.settings.similarity
        scores = [float(similarity(kind, self._drawn(view, xi, False)[0], view.frame)) for view in self.views]
        return 1 - sum(scores) / len(scores)

    def likeness_and_chance(self, xi: Float[Tensor, "6"]) -> tuple[float, float]:
        """Means over the views of how alike picture and frame are, and of what hardly any wrong place exceeds."""
        pairs = zip(self.views, self.whole, strict=True)
        both = [likeness_and_chance(self._drawn(near, xi, False)[0], all_.frame, near.frame) for near, all_ in pairs]
        likeness, chance = (sum(one) / len(both) for one in zip(*both, strict=True))
        return likeness, chance

    def pictures(self, xi: Float[Tensor, "6"]) -> tuple[Fitted, ...]:
        """Every frame, and the CT's own picture, as they were compared."""
        return tuple(self._compared(view, xi) for view in self.views)

    def _compared(self, view: _View, xi: Tensor) -> Fitted:
        drawn = self._drawn(view, xi, False)[0]
        frame, picture = (view.frame.normalised(image) for image in (view.frame.image, drawn))
        picture = picture * ((frame * picture).sum() / picture.square().sum().clamp(min=1e-12))
        return Fitted(frame, picture, frame - picture, (drawn > SHADOW * drawn.amax())[None])

    def _drawn(self, view: _View, xi: Tensor, wanted: bool) -> tuple[Tensor, Tensor | None]:
        """The CT's picture, with its derivative in `xi` where it is wanted."""
        camera, backend = view.frame.camera, self.settings.backend
        if wanted:
            return line_integrals_with_jacobian(
                view.attenuation, self.lattice, camera, self.centre, xi=xi, backend=backend
            )
        return line_integrals(view.attenuation, self.lattice, camera, xi, backend, self.centre), None

    def _shadowed(self, view: _View) -> _View:
        """The view with no weight where the CT casts no shadow, as what lies there is not of the CT, nor near where
        the CT is cut off, unless that is most of it."""
        drawn = self._drawn(view, self.end.xi, False)[0]
        there = view.frame.near(drawn > SHADOW * drawn.amax().clamp(min=1e-12), AROUND)
        pose = self.end.pose(self.volume.centre)
        cut = pixels_of(view.cut @ pose[:3, :3].T + pose[:3, 3], view.frame.camera)
        uncut = there.weights * (view.frame.near(cut, CUT).weights == 0)
        return replace(
            view, frame=replace(there, weights=uncut if 2 * uncut.sum() > there.weights.sum() else there.weights)
        )

    def _information(self) -> float:
        """What a squared residual of 1 is worth: independent pixels over the squared residual that is there.

        Residuals of neighbouring pixels are alike, so that many pixels say less than their number.
        """
        total = independent = 0.0
        for picture in self.pictures(self.end.xi):
            total += float(picture.residual.square().sum() / picture.shown.square().sum().clamp(min=1e-12))
            independent += independent_pixels(picture.residual)
        return max(independent, 10.0) / max(total, 1e-4)


def _precision(settings: FitSettings) -> Float[Tensor, "6"]:
    """Of the prior: the box about the start, as a normal distribution of the same standard deviation."""
    box = _box(settings.start_translation or math.inf, settings.start_rotation or math.inf)
    return 3 / box.square()


def _box(translation: float, rotation: float) -> Float[Tensor, "6"]:
    """Six numbers [mm, rad] from [mm] and [degrees]."""
    return torch.tensor([translation] * 3 + [math.radians(rotation)] * 3, dtype=torch.float64)


def _levels(
    radiographs: Sequence[Radiograph], volume: Volume, attenuation: Prepared, settings: FitSettings
) -> list[list[_View]]:
    """All views at each resolution, coarse first; the CT about as coarse as the pixels."""
    pyramids = [pyramid(radiograph, settings) for radiograph in radiographs]
    cut = cut_places(volume)
    count = min(len(one) for one in pyramids)
    voxel = float(volume.world_from_voxel[:3, :3].norm(dim=0).amin())
    levels = []
    for n in range(count):
        views = []
        for one in pyramids:
            frame = one[n - count]
            pixel = min(frame.camera.pixel_size) * _shrunk(frame, volume)
            coarse = max(0, math.floor(math.log2(max(1.0, pixel / voxel))))
            views.append(_View(frame, attenuation.level(min(coarse, _coarsest(attenuation))), cut))
        levels.append(views)
    return levels


def _shrunk(frame: Frame, volume: Volume) -> float:
    """How much smaller than on the image plane things are where the CT lies."""
    depth = float((volume.centre - frame.camera.source) @ frame.camera.direction)
    return min(1.0, max(0.2, depth / frame.camera.source_to_detector))


def _coarsest(attenuation: Prepared) -> int:
    return max(0, int(math.log2(min(attenuation.shape))) - 4)


def _found(levels: list[list[_View]], volume: Volume, settings: FitSettings, wide: WideSettings) -> list[Tensor]:
    """Candidates from everywhere."""
    usable = [n for n, level in enumerate(levels) if max(level[0].frame.camera.image_size) <= SEARCHED] or [0]
    views = levels[usable[-1]]

    def cast(moved: Tensor, camera) -> Tensor:
        return line_integrals(views[0].attenuation, moved @ volume.world_from_voxel, camera, backend=settings.backend)

    frames = [view.frame for view in views]
    candidates = search(
        [frame.image for frame in frames],
        [frame.weights for frame in frames],
        [frame.camera for frame in frames],
        Sought(cast, volume.centre, radius_about(volume, volume.centre), views[0].cut),
        middle_of([frame.camera for frame in frames], volume.centre),
        wide,
    )
    return [candidate.moved_from_body for candidate in candidates]


def middle_of(cameras: Sequence, near: Float[Tensor, "3"]) -> Float[Tensor, "3"]:
    """The place nearest to the middles of all frames; with one view as deep as `near` [mm]."""
    sources, rays = [], []
    for camera in cameras:
        h, w = camera.image_size
        sources.append(camera.source)
        rays.append(camera.rays(torch.tensor([[h / 2, w / 2]], dtype=torch.float64))[1][0])
    if len(cameras) == 1:
        return sources[0] + rays[0] * ((near - sources[0]) @ rays[0])
    planes = [torch.eye(3, dtype=torch.float64) - torch.outer(ray, ray) for ray in rays]
    weighted = sum((plane @ source for plane, source in zip(planes, sources, strict=True)), torch.zeros(3).double())
    return torch.linalg.lstsq(sum(planes, torch.zeros(3, 3).double()), weighted[:, None]).solution[:, 0]


def _fit(ends: list[_End], starts: int, history: tuple[float, ...]) -> Fit:
    best = ends[0]
    problem, solution = best.problem, best.solution
    assert problem is not None
    assert solution is not None
    outcome, sentence = _outcome(ends, starts)
    return Fit(
        mesh=None,
        world_from_model=best.pose(problem.volume.centre),
        coefficients=torch.zeros(0),
        turn=torch.zeros(3),
        landmarks={},
        outcome=outcome,
        sentence=sentence,
        certainty=_certainty(problem, solution, best),
        frames=problem.pictures(best.xi),
        history=history,
    )


def _outcome(ends: list[_End], starts: int) -> tuple[str, str]:
    best, rivals = ends[0], [end for end in ends[1:] if end.cost - ends[0].cost < ALIKE]
    score = 1 - best.cost
    assert best.solution is not None
    said = f"similarity {score:.3f}, 1 for the same picture"
    after = ""
    if len(ends) > 1:
        way, turn = _way(best, ends[1])
        after = f", the next pose {way:.0f} mm and {turn:.0f} degrees away with {1 - ends[1].cost:.3f}"
    if best.solution.outcome == "diverged" or not math.isfinite(best.cost):
        return "diverged", "The fit diverged: its cost is no number. Check the frame's geometry and the CT's values."
    assert best.problem is not None
    likeness, chance = best.problem.likeness_and_chance(best.xi)
    if likeness < (chance or GOOD):
        return "diverged", (
            f"The CT's picture and the frame have little in common (likeness {likeness:.2f}, and "
            f"{chance or GOOD:.2f} at wrong places): the start was too far off, the geometry is another, or it is not "
            "this patient. Give a start nearer by, or look everywhere."
        )
    if rivals:
        return "ambiguous", (
            f"{len(rivals) + 1} poses explain the frames about as well ({said}){after}. The best is given; a second "
            "view, or a start known to be near, tells them apart."
        )
    if best.solution.outcome == "step limit":
        return "step limit", f"The fit had not settled when its steps were used up ({said}). Allow more steps."
    of = f" from the best of {starts} starts" if starts > 1 else ""
    return "converged", f"Converged{of} ({said}){after}."


def _apart(a: _End, b: _End) -> bool:
    way, turn = _way(a, b)
    return way > APART[0] or turn > APART[1]


def _way(a: _End, b: _End) -> tuple[float, float]:
    assert a.problem is not None
    centre = a.problem.volume.centre
    return way_between(a.pose(centre), b.pose(centre), centre)


def _certainty(problem: _Problem, solution: Solution, best: _End) -> Certainty:
    hessian = problem.evaluate(best.xi, True).hessian if solution.normal.hessian is None else solution.normal.hessian
    assert hessian is not None
    covariance = torch.linalg.pinv(hessian, hermitian=True)
    place = covariance[:3, :3]
    axis = problem.views[0].frame.camera.direction
    across = torch.linalg.qr(torch.cat([axis[:, None], torch.eye(3, dtype=torch.float64)], 1))[0][:, 1:3]
    return Certainty(
        covariance=covariance,
        pose=covariance.diagonal().clamp(min=0).sqrt(),
        depth=float((axis @ place @ axis).clamp(min=0).sqrt()),
        in_plane=float((across.T @ place @ across).diagonal().amax().clamp(min=0).sqrt()),
        vertices=torch.zeros(0, 3),
        landmarks={},
    )
