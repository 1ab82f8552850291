"""Shape models in files: HDF5 in the layout of statismo 0.9, with what is ours beside it in the group /diffrender.

    /version/{majorVersion, minorVersion}          0, 9
    /model/{mean, pcaBasis, pcaVariance, noiseVariance}   (3v,), (3v, m) orthonormal, (m,) [mm^2], float
    /representer/{points, cells}                   (3, v) [mm], (3, f); attributes name, version, datasetType
    /modelinfo/{scores, modelBuilder-0/...}        what built it, as text
    /diffrender                                    format, world; unexplained, parts, landmarks, joint, about as JSON

Coordinates are RAS [mm]. A file is read without trust: nothing in it is executed, no link leads out of it, and numbers
are checked before they are used.
"""

import io
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from diffrender.errors import DiffRenderError, MeshError, PathError, notify
from diffrender.fit.repair import open_edges
from diffrender.fit.shape import Joint, Landmark, ShapeModel
from diffrender.fit.training import METRES
from diffrender.io.files import found
from diffrender.io.whole import write_whole

FORMAT = 1
OWN = "diffrender"
MOST_NUMBERS = 2**30  # of a data set; larger ones are refused before they fill the memory
ORDER = 1e-4  # variances may rise by this share of the first: rounding, no disorder
ORTHOGONAL = 1e-2


def save_shape_model(model: ShapeModel, path: str | Path) -> Path:
    """Write a model as HDF5, whole or not at all; the same model makes the same bytes. Raises: OutputError."""
    memory = io.BytesIO()
    with h5py.File(memory, "w", track_order=False) as file:
        _write(file, model)
    return write_whole(Path(path), memory.getvalue())


def load_shape_model(path: str | Path) -> ShapeModel:
    """Read a model that `save_shape_model`, statismo or scalismo wrote.

    One without our group /diffrender has one part, "body", and no landmarks; its noise variance says what is
    unexplained. Raises: PathError for a file that is no such model, MeshError for one whose numbers cannot be.
    """
    place, shown = found(path), str(path)
    if place.is_dir():
        raise PathError(f"{shown} is a folder; a shape model is one file, .h5. `fit model` makes one from an atlas.")
    try:
        with h5py.File(place, "r") as file:
            return _read(file, shown)
    except DiffRenderError:
        raise
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError) as problem:
        raise PathError(
            f"{shown} is no shape model, or it is damaged or cut off ({_first_line(problem)}). A model is HDF5 as "
            "`fit model` or statismo write it; make or fetch it again."
        ) from None


def _write(file: h5py.File, model: ShapeModel) -> None:
    flat = model.modes.detach().cpu().numpy().astype(np.float64).reshape(len(model.modes), -1)
    variances = (flat**2).sum(1)
    mean = model.mean.detach().cpu().numpy()
    unexplained = model.unexplained.detach().cpu().numpy()
    _put(file, "version/majorVersion", np.int32(0))
    _put(file, "version/minorVersion", np.int32(9))
    _put(file, "model/mean", mean.reshape(-1).astype(np.float32))
    _put(file, "model/pcaBasis", (flat / np.sqrt(np.maximum(variances, 1e-30))[:, None]).T.astype(np.float32))
    _put(file, "model/pcaVariance", variances.astype(np.float32))
    _put(file, "model/noiseVariance", np.float32(np.mean(unexplained.astype(np.float64) ** 2)))
    _put(file, "representer/points", mean.T.astype(np.float32))
    _put(file, "representer/cells", model.faces.cpu().numpy().T.astype(np.uint32))
    file["representer"].create_group("pointData")
    file["representer"].attrs.update({"name": "itkStandardMeshRepresenter", "version": "0.1"})
    file["representer"].attrs["datasetType"] = "POLYGON_MESH"
    _put(file, "modelinfo/scores", np.zeros((1, 1), np.float32))
    _put(file, "modelinfo/modelBuilder-0/builderName", "diffrender")
    _put(file, "modelinfo/modelBuilder-0/buildTime", "")
    file.create_group("modelinfo/modelBuilder-0/dataInfo")
    for key, value in model.about.items():
        text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
        _put(file, f"modelinfo/modelBuilder-0/parameters/{key.replace('/', '_')}", text)
    _write_own(file.create_group(OWN), model, unexplained)


def _write_own(group: h5py.Group, model: ShapeModel, unexplained: np.ndarray) -> None:
    group.attrs.update({"format": FORMAT, "world": "RAS", "unit": "mm"})
    _put(group, "unexplained", unexplained.astype(np.float32))
    _put(group, "parts", json.dumps([[name, count] for name, count in model.parts]))
    _put(group, "about", json.dumps(dict(model.about), sort_keys=True, default=str))
    for name, landmark in model.landmarks_at.items():
        _put(group, f"landmarks/{name}/vertices", landmark.vertices.cpu().numpy().astype(np.int64))
        _put(group, f"landmarks/{name}/weights", landmark.weights.cpu().numpy().astype(np.float64))
    if model.joint is not None:
        joint = {"part": model.joint.part, "centre": model.joint.centre.tolist(), "spread": model.joint.spread}
        _put(group, "joint", json.dumps(joint))


def _put(group: h5py.Group, name: str, value: Any) -> None:
    group.create_dataset(name, data=value, track_times=False)


def _read(file: h5py.File, shown: str) -> ShapeModel:
    mean = _numbers(file, "model/mean", shown).reshape(-1)
    basis = _numbers(file, "model/pcaBasis", shown)
    variances = _numbers(file, "model/pcaVariance", shown).reshape(-1)
    cells = _numbers(file, "representer/cells", shown, whole=True)
    points = _numbers(file, "representer/points", shown)
    count, modes = len(mean) // 3, len(variances)
    if len(mean) != 3 * count or not count:
        raise MeshError(f"{shown}: the mean has {len(mean)} numbers, which are no points of three. It is damaged.")
    if points.ndim != 2 or points.shape != (3, count):
        raise MeshError(
            f"{shown}: the mean has {count} vertices and the mesh points of the shape {list(points.shape)}, not "
            f"[3, {count}]. They do not belong together; build the model again."
        )
    if basis.shape != (3 * count, modes):
        raise MeshError(
            f"{shown}: the modes have the shape {list(basis.shape)}; {count} vertices and {modes} variances need "
            f"[{3 * count}, {modes}]. They do not belong together; build the model again."
        )
    if cells.ndim != 2 or cells.shape[0] != 3 or cells.min() < 0 or cells.max() >= count:
        raise MeshError(
            f"{shown}: the triangles (shape {list(cells.shape)}, vertices {cells.min()} to {cells.max()}) do not fit "
            f"{count} vertices. Build the model again."
        )
    scaled = _modes(file, basis, variances, shown)
    own = _group(file, OWN, shown) if OWN in file else None
    noise = float(np.sqrt(max(0.0, float(_numbers(file, "model/noiseVariance", shown)))))
    rest = _own(own, count, shown) if own is not None else {"parts": (("body", count),), "landmarks_at": {}}
    unexplained = np.full(count, noise) if own is None else _numbers(own, "unexplained", shown).reshape(-1)
    if len(unexplained) != count or unexplained.min() < 0:
        raise MeshError(f"{shown}: what is unexplained is not one number from 0 for each of {count} vertices.")
    faces = np.ascontiguousarray(cells.T.astype(np.int64))
    _say_of(mean.reshape(-1, 3), faces, shown)
    return ShapeModel(
        mean=_tensor(mean.reshape(-1, 3)),
        modes=_tensor(scaled.T.reshape(modes, count, 3)),
        faces=torch.from_numpy(faces),
        unexplained=_tensor(unexplained),
        **rest,
    )


def _modes(file: h5py.File, basis: np.ndarray, variances: np.ndarray, shown: str) -> np.ndarray:
    """(3v, m) modes times their standard deviations, whichever of statismo's two layouts the file has."""
    if variances.size and (variances.min() < 0 or (np.diff(variances) > ORDER * variances.max()).any()):
        raise MeshError(
            f"{shown}: the variances of the modes are {', '.join(f'{v:.4g}' for v in variances[:6])}, ...; they must "
            "be positive and fall from the first to the last. Build the model again."
        )
    version = 9
    if "version" in file:
        version = int(_numbers(file, "version/minorVersion", shown))
    if version == 8:  # the basis holds the standard deviations already
        return basis
    lengths = np.sqrt((basis.astype(np.float64) ** 2).sum(0))
    if (np.abs(lengths - 1) > ORTHOGONAL).any() and variances.max(initial=0) > 0:
        raise MeshError(
            f"{shown}: the modes of a statismo 0.9 file have the length 1; these have {lengths.min():.3g} to "
            f"{lengths.max():.3g}. Write it again, or state the version it is of."
        )
    return basis * np.sqrt(variances)


def _own(group: h5py.Group, count: int, shown: str) -> dict[str, Any]:
    version = int(group.attrs.get("format", 0))
    if version != FORMAT:
        raise PathError(
            f"{shown} is of format {version}, and this DiffRender reads format {FORMAT}. Build it again, or take a "
            "newer DiffRender."
        )
    parts = tuple((str(name), int(size)) for name, size in _json(group, "parts", shown))
    if sum(size for _, size in parts) != count or any(size < 1 for _, size in parts):
        raise MeshError(
            f"{shown}: the parts have {', '.join(f'{size} ({name})' for name, size in parts)} vertices, the mean has "
            f"{count}. They do not belong together; build the model again."
        )
    landmarks = {}
    if "landmarks" in group:
        places = _group(group, "landmarks", shown)
        landmarks = {name: _landmark(_group(places, name, shown), name, count, shown) for name in map(str, places)}
    return {
        "parts": parts,
        "landmarks_at": landmarks,
        "joint": _joint(group, parts, shown),
        "about": _json(group, "about", shown),
    }


def _landmark(group: h5py.Group, name: str, count: int, shown: str) -> Landmark:
    vertices = _numbers(group, "vertices", shown, whole=True).reshape(-1)
    weights = _numbers(group, "weights", shown).astype(np.float64).reshape(-1)
    fits = len(vertices) == len(weights) > 0 and vertices.min() >= 0 and vertices.max() < count
    if not fits or abs(weights.sum() - 1) > 1e-3:
        raise MeshError(
            f"{shown}: the landmark {name} is no weighted mean of the model's {count} vertices (weights add up to "
            f"{weights.sum():.4g}). Build the model again."
        )
    return Landmark(torch.from_numpy(vertices.astype(np.int64)), torch.from_numpy(weights))


def _joint(group: h5py.Group, parts: tuple[tuple[str, int], ...], shown: str) -> Joint | None:
    if "joint" not in group:
        return None
    data = _json(group, "joint", shown)
    centre, spread = np.asarray(data["centre"], np.float64), float(data["spread"])
    if (
        data["part"] not in dict(parts)
        or centre.shape != (3,)
        or not np.isfinite([*centre, spread]).all()
        or spread < 0
    ):
        raise MeshError(f"{shown}: its joint ({data}) does not fit its parts. Build the model again.")
    return Joint(str(data["part"]), torch.from_numpy(centre), spread)


def _say_of(mean: np.ndarray, faces: np.ndarray, shown: str) -> None:
    size = float(np.linalg.norm(mean.max(0) - mean.min(0)))
    if size < METRES:
        raise MeshError(
            f"{shown} is {size:.3g} mm across: it seems to have been built in metres. Build it from meshes in "
            "millimetres; `fit model` brings metres to millimetres."
        )
    if count := open_edges(faces):
        notify(f"{shown}: its surface has {count} open edges, so that some path lengths through it are guesses.")


def _group(parent: h5py.Group, name: str, shown: str) -> h5py.Group:
    return _inside(parent, name, h5py.Group, shown)


def _inside(parent: h5py.Group, name: str, kind: type, shown: str) -> Any:
    """A member of the file itself: a link into another file would read whatever the file's author wished."""
    here: Any = parent
    for step in name.split("/"):
        link = here.get(step, getlink=True)
        if link is None:
            raise PathError(
                f"{shown} holds no /{name}, so it is no shape model of statismo's layout. Make one with `fit model`."
            )
        if isinstance(link, h5py.ExternalLink):
            raise PathError(
                f"{shown}: /{name} leads to another file ({link.filename}), which is not followed. Ask for a model in "
                "one file."
            )
        here = here[step]
        if isinstance(here, h5py.Dataset) and (here.is_virtual or here.external):
            raise PathError(f"{shown}: /{name} lies in another file, which is not followed. Ask for one file.")
    if not isinstance(here, kind):
        raise PathError(f"{shown}: /{name} is not what a shape model has there. Make one with `fit model`.")
    return here


def _numbers(parent: h5py.Group, name: str, shown: str, whole: bool = False) -> np.ndarray:
    data = _inside(parent, name, h5py.Dataset, shown)
    if data.dtype.kind not in ("iu" if whole else "iuf"):
        raise PathError(f"{shown}: /{name} holds {data.dtype}, not numbers. It is no shape model, or it is damaged.")
    if data.size > MOST_NUMBERS or data.size == 0:
        raise PathError(f"{shown}: /{name} has the shape {list(data.shape)}, which is no shape model's.")
    numbers = np.asarray(data[()])
    if not np.isfinite(numbers).all():
        raise MeshError(
            f"{shown}: {int((~np.isfinite(numbers)).sum())} of the numbers in /{name} are NaN or infinite. It is "
            "damaged; build the model again."
        )
    return numbers


def _json(group: h5py.Group, name: str, shown: str) -> Any:
    data = _inside(group, name, h5py.Dataset, shown)
    if h5py.check_string_dtype(data.dtype) is None or data.shape != ():
        raise PathError(f"{shown}: /{name} is no text. It is no shape model of ours, or it is damaged.")
    return json.loads(data.asstr()[()])


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def _first_line(problem: BaseException) -> str:
    return str(problem).strip().partition("\n")[0].strip("'") or type(problem).__name__
