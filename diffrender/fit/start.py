"""Where a fit begins: from landmarks that a person marked, from the C-arm's geometry, from a file."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from diffrender.camera import Camera
from diffrender.errors import GeometryError, PathError, SettingError, notify
from diffrender.fit.pnp import root_mean_square, sighting, solve
from diffrender.fit.shape import ShapeModel
from diffrender.io.whole import write_whole
from diffrender.pose import is_rigid

FORMAT = 1
LEAST = 4  # three points have up to four poses that look alike
THINNEST = 0.02  # of their length: landmarks spread less across it lie on a line
SMALLEST = 2.0  # px: marks spread less over the frame are one place
SWAPPED = 0.6  # of the error as given: below it, left and right exchanged explain the marks better
SWAP_GAIN = 1.0  # px, by which they must do so besides
FAR_OFF = 25.0  # mm on the image plane; the mean shape of a pelvis misses the marks of a person by less
TURNED = 110.0  # degrees; a patient lying on a side is turned by 90
USUAL_DEPTH = 0.65  # of the distance from source to detector: where a C-arm's isocentre is, about
ISOCENTRE_DEPTHS = (0.45, 0.9)  # of the same: where it can be
GUESSED_DEPTH = 50.0  # mm; one deviation of where a patient lies about the usual depth
GUESS = "in the middle of the beam at the usual depth, a guess, since nothing tells where the isocentre is"
LEAST_ANGLE = 5.0  # degrees between two beams, from which their axes meet in a place
OFF_AXIS = 5.0  # mm; a C-arm sags so much at most, and a world's origin elsewhere hardly lies nearer to the axis
DOUBT = 1.3  # of the best pose's error: another pose below it looks as good
# Patient positions (DICOM 0018,5100) as turns of a patient who lies head first and supine [degrees about R, A, S].
POSITIONS = {
    "HFS": (0, 0, 0), "HFP": (0, 0, 180), "HFDR": (0, 0, -90), "HFDL": (0, 0, 90),
    "FFS": (0, 180, 0), "FFP": (180, 0, 0), "FFDR": (0, 180, 90), "FFDL": (0, 180, -90),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Start:
    """A pose, and a shape, to begin from.

    Attributes:
        world_from_model: (4, 4), rigid, RAS [mm].
        coefficients: (m,) in standard deviations; none means the mean shape.
        turn: (3,) rotation vector of the model's joint [rad].
        error_px: root mean square distance of the landmarks used from where they were marked [px]; None where the start
            is not from landmarks.
        errors_px: {name: distance [px], of the worst view}, of all landmarks that were marked and known.
        left_out: landmarks that do not fit the rest, and were not believed.
        sentence: where it comes from, for a person.
        depth: standard deviation of its depth along the first view's axis [mm], where that is worse known than the box
            about a start says; 0 where it is not.
    """

    world_from_model: Float[Tensor, "4 4"]
    coefficients: Float[Tensor, "m"] = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    turn: Float[Tensor, "3"] = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))
    error_px: float | None = None
    errors_px: Mapping[str, float] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    sentence: str = ""
    depth: float = 0.0


def start_from_landmarks(
    cameras: Camera | Sequence[Camera],
    points_2d: Mapping[str, Sequence[float]] | Sequence[Mapping[str, Sequence[float]]],
    landmarks_3d: ShapeModel | Mapping[str, Any],
) -> Start:
    """The rigid pose in which the model's landmarks project to where they were marked.

    Args:
        cameras: one, or one a view.
        points_2d: {name: (row, column)} [px from the image's corner; pixel centres at half integers], one a view.
        landmarks_3d: a shape model (its mean shape), or {name: (3,)} in the model's frame [mm].
    Returns: the best pose; landmarks that do not fit the rest are left out, and said.
    Raises: SettingError for fewer than four known landmarks, or another number of views than cameras; GeometryError
        for landmarks on a line, or where left and right are swapped: that is seen by trying the exchanged names, which
        then miss by far less.
    """
    views = [cameras] if isinstance(cameras, Camera) else list(cameras)
    marks = [points_2d] if isinstance(points_2d, Mapping) else list(points_2d)
    known = landmarks_3d.landmarks if isinstance(landmarks_3d, ShapeModel) else dict(landmarks_3d)
    places = {name: torch.as_tensor(place, dtype=torch.float64) for name, place in known.items()}
    if len(views) != len(marks):
        raise SettingError(f"{len(views)} cameras and landmarks in {len(marks)} views were given: give one for each.")
    marks = _known_marks(marks, places)
    _check_spread(marks, places)
    poses = _solutions(views, marks, places)
    as_named = root_mean_square(poses[0][2], torch.ones_like(poses[0][2])) if poses else math.inf
    _check_sides(views, marks, places, as_named)
    if not poses:
        raise GeometryError(
            "No pose before the cameras explains the landmarks. Check that each name stands at its place, and that the "
            "places are (row, column) in the pixels of the frame that the camera belongs to."
        )
    pose, names, errors, weights = poses[0]
    used = root_mean_square(errors, weights)
    worst = {
        name: max(float(e) for n, e in zip(names, errors, strict=True) if n == name) for name in dict.fromkeys(names)
    }
    left_out = tuple(dict.fromkeys(n for n, weight in zip(names, weights, strict=True) if weight < 0.1))
    if left_out:
        told = ", ".join(f"{name} ({worst[name]:.0f} px)" for name in left_out)
        notify(
            f"Landmarks that do not fit the others were left out of the start: {told}. Mark them again, or not at all."
        )
    rivals = [root_mean_square(other[2], other[3]) for other in poses[1:]]
    if rivals and min(rivals) < DOUBT * used + 0.5:
        notify(
            f"Another pose explains the landmarks nearly as well ({min(rivals):.1f} px against {used:.1f} px). Mark "
            "more of them, or a second view, if the fit does not land."
        )
    if used * max(max(camera.pixel_size) for camera in views) > FAR_OFF:
        pairs = ", ".join(name for name, _ in sorted(worst.items(), key=lambda one: -one[1])[:2])
        notify(
            f"The landmarks are met within {used:.0f} px only, worst {pairs}: some may be marked wrongly, or left and "
            "right of some are swapped."
        )
    turned = math.degrees(math.acos(min(1.0, max(-1.0, (float(pose[:3, :3].trace()) - 1) / 2))))
    if turned > TURNED:
        notify(
            f"By the landmarks the patient lies turned by {turned:.0f} degrees against the world's axes (RAS). If that "
            "is not so, their left and right are swapped, or the image is mirrored."
        )
    views_text = f"{len(views)} view{'' if len(views) == 1 else 's'}"
    sentence = f"From {len(worst) - len(left_out)} landmarks in {views_text}, which it meets within {used:.1f} px."
    return Start(pose, error_px=used, errors_px=worst, left_out=left_out, sentence=sentence)


def start_at_isocentre(
    cameras: Camera | Sequence[Camera],
    model: ShapeModel | Mapping[str, Any],
    position: str = "HFS",
    isocentre: Sequence[float] | None = None,
) -> Start:
    """The model straight, its middle at the isocentre: all that a C-arm's geometry tells of the patient.

    Args:
        cameras: one or more.
        model: the middle of its mean shape, or of landmarks {name: (3,)}, is put there (of the bounding box).
        position: how the patient lies against the world's axes, as in DICOM (0018,5100). Frames from DICOM have their
            axes from the patient, so that "HFS" is right for every one of them.
        isocentre: RAS [mm]; by default where the beams' axes meet. For one view the world's origin where the beam's
            axis passes it at an isocentre's distance, as for frames from DICOM; if not, the middle of the beam at the
            usual depth, which is a guess, and said.
    Raises: SettingError for an unknown position.
    """
    views = [cameras] if isinstance(cameras, Camera) else list(cameras)
    if position not in POSITIONS:
        raise SettingError(f"{position!r} is no patient position; there are {', '.join(POSITIONS)}.")
    places = model.mean if isinstance(model, ShapeModel) else list(map(torch.as_tensor, model.values()))
    points = places.double() if isinstance(places, Tensor) else torch.stack(places).double()
    middle = (points.amin(0) + points.amax(0)) / 2
    aim, where = _isocentre(views) if isocentre is None else (torch.as_tensor(list(isocentre)).double(), "")
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = _turned(*POSITIONS[position])
    pose[:3, 3] = aim - pose[:3, :3] @ middle
    sentence = f"The model's middle {where or 'at the isocentre'}, the patient lying {position}."
    return Start(pose, sentence=sentence, depth=GUESSED_DEPTH if where == GUESS else 0.0)


def middle_of_beam(camera: Camera) -> Float[Tensor, "3"]:
    """On the ray through the image's middle, at the depth where a C-arm's isocentre usually is; RAS [mm]."""
    height, width = camera.image_size
    source, rays = camera.rays(torch.tensor([[height / 2, width / 2]], dtype=torch.float64))
    return source + USUAL_DEPTH * camera.source_to_detector / float(rays[0] @ camera.direction) * rays[0]


def read_start(path: str | Path) -> Start:
    """What `write_start` or a fit's pose.json says. Raises: PathError, GeometryError."""
    try:
        data = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except OSError as problem:
        raise PathError(f"{path} cannot be read: {problem.strerror}. Give a pose.json.") from None
    except ValueError as problem:
        raise PathError(f"{path} is no JSON file ({problem}). A start is a pose.json, as a fit writes it.") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT or data.get("world") != "RAS":
        raise GeometryError(
            f'{path}: a start is JSON with "format": {FORMAT}, "world": "RAS" and "world_from_model", 4 x 4 in mm. '
            "Other formats have to be converted."
        )
    try:
        pose = torch.tensor(data["world_from_model"], dtype=torch.float64)
        coefficients = torch.tensor(data.get("coefficients") or [], dtype=torch.float64)
        turn = torch.tensor(data.get("turn") or [0.0, 0.0, 0.0], dtype=torch.float64)
    except (KeyError, TypeError, ValueError):
        raise GeometryError(f"{path}: world_from_model, coefficients or turn are missing or not numbers.") from None
    _check_rigid(path, pose)
    if coefficients.ndim != 1 or turn.shape != (3,) or not torch.isfinite(torch.cat([coefficients, turn])).all():
        raise GeometryError(f"{path}: coefficients are a list of finite numbers and turn three of them [rad].")
    return Start(pose, coefficients, turn, sentence=f"From {path}.")


def write_start(start: Start, path: str | Path) -> Path:
    """As pose.json. Raises: OutputError."""
    data = {
        "format": FORMAT,
        "world": "RAS",
        "world_from_model": start.world_from_model.tolist(),
        "coefficients": start.coefficients.tolist(),
    }
    if bool(start.turn.any()):
        data["turn"] = start.turn.tolist()
    return write_whole(path, json.dumps(data, indent=2) + "\n")


def other_side(name: str) -> str:
    """FH-l to FH-r, "left hip" to "right hip"; a name without a side as it is."""
    for one, other in (("left", "right"), ("Left", "Right"), ("LEFT", "RIGHT")):
        if one in name or other in name:
            return name.replace(one, "\0").replace(other, one).replace("\0", other)
    for one, other in (("-l", "-r"), ("_l", "_r"), ("-L", "-R"), ("_L", "_R")):
        for a, b in ((one, other), (other, one)):
            if name.endswith(a):
                return name.removesuffix(a) + b
    return name


def _known_marks(
    marks: Sequence[Mapping[str, Sequence[float]]], places: Mapping[str, Tensor]
) -> list[dict[str, tuple[float, float]]]:
    strangers = sorted({name for view in marks for name in view if name not in places})
    kept = [{name: (float(p[0]), float(p[1])) for name, p in view.items() if name in places} for view in marks]
    names = {name for view in kept for name in view}
    if len(names) < LEAST:
        raise SettingError(
            f"A start needs at least {LEAST} landmarks, and {len(names)} of those marked "
            f"({', '.join(sorted(names)) or 'none'}) are the model's"
            + (f"; it does not know {', '.join(strangers)}" if strangers else "")
            + f". Mark more of {', '.join(places)}."
        )
    if strangers:
        notify(f"Landmarks that the model does not have were left out: {', '.join(strangers)}.")
    if any(not math.isfinite(n) for view in kept for place in view.values() for n in place):
        raise SettingError("Places of landmarks are finite numbers, (row, column) in pixels; one is NaN or infinite.")
    return kept


def _check_spread(marks: Sequence[Mapping[str, tuple[float, float]]], places: Mapping[str, Tensor]) -> None:
    names = sorted({name for view in marks for name in view})
    points = torch.stack([places[name] for name in names])
    extents = [torch.tensor(list(view.values())).std(0).norm() for view in marks if len(view) > 1]
    if extents and float(max(extents)) < SMALLEST:
        raise GeometryError(
            "All landmarks are marked at one place of the frame, which tells nothing. Mark each at its own."
        )
    spread = torch.linalg.svdvals(points - points.mean(0))
    if float(spread[1]) < THINNEST * float(spread[0]):
        raise GeometryError(
            f"The landmarks {', '.join(names)} are collinear: they lie on a line, about which the body could turn "
            "unseen. Mark one more, off that line."
        )


def _solutions(
    views: Sequence[Camera], marks: Sequence[Mapping[str, tuple[float, float]]], places: Mapping[str, Tensor]
) -> list[tuple[Tensor, list[str], Tensor, Tensor]]:
    entries = [(n, name, pixel) for n, view in enumerate(marks) for name, pixel in view.items()]
    points = torch.stack([places[name] for _, name, _ in entries])
    pixels = torch.tensor([pixel for _, _, pixel in entries], dtype=torch.float64)
    seen = sighting(views, [n for n, _, _ in entries], points, pixels)
    names = [name for _, name, _ in entries]
    return [(pose, names, errors, weights) for pose, errors, weights in solve(seen)]


def _check_sides(
    views: Sequence[Camera],
    marks: Sequence[Mapping[str, tuple[float, float]]],
    places: Mapping[str, Tensor],
    error: float,
) -> None:
    """Refuse landmarks whose left and right are swapped, in all views or in one of several."""
    sets: list[tuple[int, ...]] = [tuple(range(len(marks)))]
    if len(marks) > 1:
        sets += [(n,) for n in range(len(marks))]
    best = error
    found: tuple[int, ...] = ()
    for which in sets:
        exchanged = [_exchanged(view) if n in which else view for n, view in enumerate(marks)]
        if exchanged == list(marks) or any(name not in places for view in exchanged for name in view):
            continue
        poses = _solutions(views, exchanged, places)
        other = root_mean_square(poses[0][2], torch.ones_like(poses[0][2])) if poses else best
        if other < best:
            best, found = other, which
    if found and best < SWAPPED * error and best + SWAP_GAIN < error:
        where = f" of view {found[0] + 1}" if len(found) < len(marks) else ""
        raise GeometryError(
            f"The left and right landmarks{where} are swapped: as named they miss their marks by {error:.1f} px, "
            f"exchanged by {best:.1f} px. Exchange the names, or find out whether the image is mirrored, or the places "
            "are (column, row)."
        )


def _exchanged(view: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    return {other_side(name): pixel for name, pixel in view.items()}


def _isocentre(views: Sequence[Camera]) -> tuple[Float[Tensor, "3"], str]:
    """Where the isocentre is taken to be, and why in words."""
    if len(views) > 1:
        meeting, apart = _meeting(views), max(_angle(views[0], other) for other in views[1:])
        if apart > LEAST_ANGLE and all(_isocentre_like(meeting, camera) for camera in views):
            return meeting, "where the beams' axes meet"
    origin = torch.zeros(3, dtype=torch.float64)
    if all(_isocentre_like(origin, camera) for camera in views):
        return origin, "at the isocentre (the world's origin)"
    return middle_of_beam(views[0]), GUESS


def _isocentre_like(place: Float[Tensor, "3"], camera: Camera) -> bool:
    """Whether a beam's axis passes so near a place, at such a distance, that it can be the C-arm's isocentre."""
    along = float((place - camera.source) @ camera.direction)
    across = float((place - camera.source - along * camera.direction).norm())
    low, high = (share * camera.source_to_detector for share in ISOCENTRE_DEPTHS)
    return low <= along <= high and across <= OFF_AXIS


def _angle(a: Camera, b: Camera) -> float:
    """Between two beams' axes [degrees]."""
    return math.degrees(math.asin(min(1.0, float(torch.linalg.cross(a.direction, b.direction).norm()))))


def _meeting(views: Sequence[Camera]) -> Float[Tensor, "3"]:
    """The place nearest to all beams' axes."""
    total, right = torch.zeros(3, 3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for camera in views:
        across = torch.eye(3, dtype=torch.float64) - torch.outer(camera.direction, camera.direction)
        total, right = total + across, right + across @ camera.source
    return torch.linalg.pinv(total, rtol=1e-6) @ right


def _turned(about_r: float, about_a: float, about_s: float) -> Float[Tensor, "3 3"]:
    from scipy.spatial.transform import Rotation

    return torch.from_numpy(Rotation.from_euler("xyz", [about_r, about_a, about_s], degrees=True).as_matrix())


def _check_rigid(path: str | Path, pose: Tensor) -> None:
    if not is_rigid(pose):
        reflected = pose.shape == (4, 4) and is_rigid(pose * torch.tensor([-1.0, 1, 1, 1]).to(pose))
        raise GeometryError(
            f"{path}: world_from_model is no rigid motion: its axes are "
            f"{'reflected' if reflected else 'scaled or sheared, or no numbers'}. A start turns and moves the model; "
            "its shape is told by the coefficients."
        )
