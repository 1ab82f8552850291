"""`diffrender fit simulate`: fluoroscopy frames whose truth is known."""

import os
import re
from dataclasses import asdict, replace
from enum import Enum
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffrender.commands.console import Debug, Json, current, example
from diffrender.commands.radiograph import CAMERA, parse_size, stem_of
from diffrender.commands.target import Target, check_given, check_outputs, check_writable
from diffrender.errors import PathError, SettingError, notify
from diffrender.jobs import Progress

if TYPE_CHECKING:
    from diffrender import Camera, Mesh, Volume
    from diffrender.fit.simulation import Simulated, SimulateSettings
    from diffrender.fit.start import Start
    from diffrender.xray import Radiograph

EXAMPLE = example("diffrender fit simulate parametric --views 0,50 --seed 3 -o frames/")
PARAMETRIC = "parametric"
MODELS = (".h5", ".hdf5")
MESHES = (".ply", ".stl", ".obj", ".vtk", ".vtp")
LABELS, PREVIEWS = ".labels.npz", "previews"
BYTES_A_PIXEL = 60  # on disk: a frame, its labels' masks and path lengths, a preview
PARTS = ("left hip", "right hip", "sacrum")
MOST_VIEWS = 360


class Thing(str, Enum):
    """What a frame may hold besides bones."""

    torso = "torso"
    gas = "gas"
    femurs = "femurs"
    spine = "spine"
    cortex = "cortex"
    scatter = "scatter"
    noise = "noise"
    blur = "blur"
    collimation = "collimation"
    text = "text"
    tool = "tool"


def simulate(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL|MESH|CT",
            help="A shape model (.h5), of which a person is drawn, or the word parametric for our own; three meshes of "
            "left hip, right hip and sacrum, or one that holds all; or a CT.",
        ),
    ],
    views: Annotated[
        str,
        typer.Option(metavar="P/S,...", help="Angles of the C-arm [degrees], primary or primary/secondary: 0,50/10."),
    ] = "0",
    seed: Annotated[int, typer.Option(metavar="N", help="Of the person, what lies around the bones, and noise.")] = 0,
    size: Annotated[str, typer.Option(metavar="N", help="N x N pixels of a field of 298 mm.")] = "256",
    source_to_isocenter: Annotated[
        float, typer.Option(metavar="MM", help="The bones' middle lies so far from the source; the detector, 1020.")
    ] = 700.0,
    without: Annotated[list[Thing] | None, typer.Option(help="Leave it out. May be given several times.")] = None,
    with_: Annotated[list[Thing] | None, typer.Option("--with", help="Take it in: collimation, text, tool.")] = None,
    mean: Annotated[bool, typer.Option("--mean", help="Of a model, the mean shape instead of a drawn person.")] = False,
    out: Annotated[
        str | None, typer.Option("-o", "--out", metavar="DIR", help="The folder; by default NAME-frames.")
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Simulate fluoroscopy frames of a pelvis, as a Siemens CIOS Fusion takes them, with their truth.

    Hips and sacrum lie in a torso with fat, bowel gas, femurs and lumbar spine; 30 % scatter, and noise. Beside the
    frames 0000.png, ... (16 bits, bone dark) with their cameras and labels lie mesh.ply (what is shown, RAS), pose.json
    and landmarks.json where a model was given, and previews/ to look at.
    """
    console = current()
    check_given({"MODEL|MESH|CT": what[0], "--out": out})
    angles = angles_of(views)
    height, width = parse_size(size)
    if height != width:
        raise SettingError(f"--size is N for N x N pixels: the detector is square; not {size}.")
    settings_ = settings_of(without or [], with_ or [])
    kind = _kind(what)
    folder = Path(out if out is not None else f"{stem_of(Path(what[0]).stem)}-frames").expanduser()
    target = Target(folder, None, ".png", True)
    names = [target.file(ending, n) for n in range(len(angles)) for ending in ("", CAMERA, LABELS)]
    names += [folder / PREVIEWS / f"{n:04}.png" for n in range(len(angles))]
    names += [folder / name for name in ("cameras.json", "mesh.ply", "pose.json", "landmarks.json", "provenance.json")]
    check_outputs(names, what)
    check_writable(folder, len(angles) * height * width * BYTES_A_PIXEL)

    from diffrender.fit.simulation import cios_camera
    from diffrender.io.whole import together, write_whole
    from diffrender.provenance import write_provenance

    with console.listening(), together():
        console.progress(Progress(0, len(angles) + 1), "Reading")
        bodies, landmarks, start = _bodies(what, kind, seed, mean)
        middle = [0.0, 0.0, 0.0] if kind == "model" else _middle(bodies)
        cameras = [cios_camera(p, s, middle, source_to_isocenter, height) for p, s in angles]
        made = _simulated(bodies, cameras, settings_, seed, landmarks)
        files: list[Path] = []
        for n, one in enumerate(made):
            console.progress(Progress(n + 1, len(angles) + 1), "Writing frames")
            files += _write_frame(one.radiograph, target, n)
        shown = [camera.to_dict() for camera in cameras]
        files.append(write_whole(folder / "cameras.json", dumps(shown, indent=1) + "\n"))
        files += _write_truth(folder, made[0], start)
        hashed = [path for path in what if os.path.exists(os.path.expanduser(path))]
        given = {"views": angles, "source_to_isocenter": source_to_isocenter, **asdict(settings_)}
        files.append(write_provenance(folder, console.command, given, hashed, seed))
    count = f"{len(made)} frame{'s' * (len(made) > 1)} of {height} x {height} pixels"
    text = f"{folder}: {count} with the truth beside.\nThen: {_next(what[0], kind, folder)}"
    console.result({"folder": folder, "files": files, "cameras": shown}, text)


def _next(what: str, kind: str, folder: Path) -> str:
    """What can be typed now."""
    if kind == "ct":
        return f'diffrender fit ct "{folder}" --ct "{what}" -o fit'
    model = "" if what == PARAMETRIC else f' --model "{what}"' if kind == "model" else " --model F.h5"
    return f'diffrender fit pelvis "{folder}"{model} -o fit'


def angles_of(text: str) -> list[tuple[float, float]]:
    """[(primary, secondary)] of "0,50/10" [degrees]. Raises: SettingError."""
    found = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([-+]?\d+(?:\.\d*)?)\s*(?:/\s*([-+]?\d+(?:\.\d*)?)\s*)?", part)
        if match is None:
            raise SettingError(
                f"--views {text!r} cannot be read at {part!r}: give each view's primary angle, or PRIMARY/SECONDARY, "
                "with commas between views, as 0,50 or 0/10,50/0 [degrees]."
            )
        found.append((float(match[1]), float(match[2] or 0)))
    if len(found) > MOST_VIEWS:
        raise SettingError(f"--views names {len(found)} views; at most {MOST_VIEWS} are simulated at once.")
    return found


def settings_of(without: list[Thing], with_: list[Thing]) -> "SimulateSettings":
    """What a frame holds, by the names of what is left out and taken in. Raises: SettingError."""
    from diffrender.fit.simulation import SimulateSettings

    both = set(without) & set(with_)
    if both:
        raise SettingError(f"{both.pop().value} is both left out and taken in; say one of it.")
    off: dict[str, Any] = {"scatter": 0.0, "noise": None, "blur": 0.0}
    settings = SimulateSettings()
    for things, on in ((without, False), (with_, True)):
        for thing in things:
            name = "photons" if thing is Thing.noise else thing.value
            value = getattr(SimulateSettings(), name) if on and thing.value in off else off.get(thing.value, on)
            settings = replace(settings, **{name: value})
    return settings


def _kind(what: list[str]) -> str:
    """ "model", "meshes" or "ct", by the names' endings. Raises: SettingError."""
    endings = {Path(path).suffix.lower() for path in what}
    if what == [PARAMETRIC] or (len(what) == 1 and endings <= set(MODELS)):
        return "model"
    if endings <= set(MESHES):
        if len(what) not in (1, 3):
            raise SettingError(
                f"{len(what)} meshes were given: give left hip, right hip and sacrum, in this order, or one of all."
            )
        return "meshes"
    if len(what) > 1:
        raise SettingError(f"{', '.join(what)}: give one model, one CT, or three meshes.")
    return "ct"


def _bodies(
    what: list[str], kind: str, seed: int, mean: bool
) -> "tuple[dict[str, Mesh] | Volume, dict[str, Any] | None, Start | None]":
    """What is shown, its landmarks, and where the model lies, if it is one."""
    if kind == "ct":
        from diffrender import read_volume

        return read_volume(what[0]), None, None
    if kind == "meshes":
        return _meshes(what), None, None
    return _person(what[0], seed, mean)


def _person(path: str, seed: int, mean: bool) -> "tuple[dict[str, Mesh], dict[str, Any], Start]":
    """A person drawn from a model, the middle of the bones at the world's origin."""
    import torch

    from diffrender.fit import default_pelvis, load_shape_model
    from diffrender.fit.overlay import parts_of
    from diffrender.fit.start import Start
    from diffrender.mesh import Mesh

    model = default_pelvis() if path == PARAMETRIC else load_shape_model(path)
    drawn = torch.randn(len(model.modes), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    coefficients = torch.zeros_like(drawn) if mean else drawn.clamp(-2.5, 2.5)
    body = model.mesh(coefficients)
    shift = -body.centre
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, 3] = shift
    placed = Mesh(body.vertices + shift.to(body.vertices), body.faces)
    landmarks = {name: place.double() + shift for name, place in model.landmarks_of(coefficients).items()}
    return parts_of(placed, model.parts), landmarks, Start(pose, coefficients)


def _meshes(what: list[str]) -> "dict[str, Mesh]":
    from diffrender.io import read_mesh

    if len(what) == 3:
        return _looked_at(dict(zip(PARTS, (read_mesh(path) for path in what), strict=True)), what)
    pieces = _pieces(read_mesh(what[0]))
    if len(pieces) != 3:
        raise PathError(
            f"{what[0]} consists of {len(pieces)} connected surface{'s' * (len(pieces) != 1)}; a pelvis is three: left "
            "hip, right hip and sacrum. Give them as three files, in this order."
        )
    left, sacrum, right = sorted(pieces, key=lambda mesh: float(mesh.centre[0]))
    return _looked_at(dict(zip(PARTS, (left, right, sacrum), strict=True)), what)


def _looked_at(bodies: "dict[str, Mesh]", what: list[str]) -> "dict[str, Mesh]":
    """The meshes in mm; that they were in metres, or are not closed, is said."""
    from diffrender.fit.repair import open_edges
    from diffrender.fit.training import METRES
    from diffrender.mesh import Mesh

    size = float(max((mesh.bounds[1] - mesh.bounds[0]).norm() for mesh in bodies.values()))
    if size < METRES:
        notify(f"{', '.join(what)}: {size:.3g} across is taken for metres, and multiplied by 1000.")
        bodies = {name: Mesh(mesh.vertices * 1000, mesh.faces, mesh.source) for name, mesh in bodies.items()}
    counts = {name: open_edges(mesh.faces.numpy()) for name, mesh in bodies.items()}
    opened = [f"{name} ({count} open edges)" for name, count in counts.items() if count]
    if opened:
        notify(f"Not closed: {', '.join(opened)}. Path lengths through such a surface are partly guesses; close it.")
    return bodies


def _pieces(mesh: "Mesh") -> "list[Mesh]":
    """The connected surfaces of a mesh."""
    import numpy as np
    import torch
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    from diffrender.mesh import Mesh

    faces = mesh.faces.numpy()
    ends = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]]])
    count = len(mesh.vertices)
    graph = coo_matrix((np.ones(len(ends)), ends.T), shape=(count, count))
    _, piece = connected_components(graph, directed=False)
    found = []
    for number in np.unique(piece[faces[:, 0]]):
        own = faces[piece[faces[:, 0]] == number]
        used, renumbered = np.unique(own, return_inverse=True)
        found.append(Mesh(mesh.vertices[torch.from_numpy(used)], torch.from_numpy(renumbered.reshape(-1, 3))))
    return found


def _middle(bodies: "dict[str, Mesh] | Volume") -> list[float]:
    import torch

    if not isinstance(bodies, dict):
        return bodies.centre.tolist()
    bounds = torch.stack([mesh.bounds for mesh in bodies.values()])
    return ((bounds[:, 0].amin(0) + bounds[:, 1].amax(0)) / 2).tolist()


def _simulated(
    bodies: "dict[str, Mesh] | Volume",
    cameras: "list[Camera]",
    settings: "SimulateSettings",
    seed: int,
    landmarks: dict[str, Any] | None,
) -> "list[Simulated]":
    from diffrender.fit.simulation import simulate as make

    made = make(bodies, cameras, settings, seed, landmarks)
    assert isinstance(made, list)
    return made


def _write_frame(radiograph: "Radiograph", target: Target, n: int) -> list[Path]:
    """A frame, its camera beside it, and its preview in a folder of its own: what lies here is read as frames."""
    from PIL import Image

    from diffrender.display import annotated
    from diffrender.io.images import write_radiograph
    from diffrender.io.whole import whole, write_whole

    files = write_radiograph(radiograph, target.file(n=n), anonymous=True)
    files.append(write_whole(target.file(CAMERA, n), dumps(radiograph.camera.to_dict(), indent=2) + "\n"))
    preview = target.folder / PREVIEWS / f"{n:04}.png"
    with whole(preview) as file:
        Image.fromarray(annotated(radiograph, radiograph.ids)).save(file, format="PNG")
    return [*files, preview]


def _write_truth(folder: Path, made: "Simulated", start: "Start | None") -> list[Path]:
    from diffrender.fit.start import write_start
    from diffrender.io import write_mesh
    from diffrender.io.whole import write_whole

    truth, files = made.truth, []
    if truth.mesh is not None:
        files.append(write_mesh(truth.mesh, folder / "mesh.ply"))
    if start is not None:
        files.append(write_start(start, folder / "pose.json"))
    if truth.landmarks:
        places = {name: place.tolist() for name, place in truth.landmarks.items()}
        data = {"format": 1, "world": "RAS", "landmarks": places}
        files.append(write_whole(folder / "landmarks.json", dumps(data, indent=1) + "\n"))
    return files
