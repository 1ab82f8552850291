"""The folder that keeps views: pictures, cameras, transfer function, which CT, and the paint; see `read_views`."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from diffrender.camera import read_cameras
from diffrender.dvr.pictures import read_paint, read_picture, write_ids, write_picture
from diffrender.dvr.transfer import read_transfer, write_transfer
from diffrender.dvr.view import ROLES, Role, View, Views, field_through, render_views
from diffrender.errors import InputError, LabelError, OutputError, PathError, SettingError, notify
from diffrender.io.files import found
from diffrender.io.volumes import read_volume
from diffrender.io.whole import together, write_whole
from diffrender.provenance import hash_of
from diffrender.volume import Volume

__all__ = [
    "ROLES",
    "Role",
    "View",
    "Views",
    "field_through",
    "open_volume",
    "read_views",
    "refuse_to_lose_paint",
    "render_views",
    "write_paint",
    "write_views",
]

FORMAT = 1
CAMERAS, TRANSFER, VOLUME, PAINT, MEANINGS = "cameras.json", "transfer.json", "volume.json", "paint", "roles.json"


def read_views(folder: str | Path) -> Views:
    """The views in a folder, as `write_views` or a person left them.

    It holds 0000.png, 0001.png, ... (RGBA, straight alpha), cameras.json (a list), transfer.json (what drew them),
    volume.json (the CT: path as given, hash), and, where something is painted, paint/0000.png (ids as 8 bit greys or a
    palette, or a layer in the roles' colours) and paint/roles.json: {id: {"name", "role", "colour": [r, g, b],
    "strength"}}.

    Raises: PathError for what is missing or does not belong there, ImageError for pictures of wrong kind or size,
        LabelError for paint without a role, SettingError for a role that cannot be, GeometryError for a camera.
    """
    place = found(folder)
    if not place.is_dir():
        raise PathError(f"{folder} is a file; views are a folder. `dvr views CT -o FOLDER` makes one.")
    missing = [name for name in (CAMERAS, TRANSFER, VOLUME) if not (place / name).is_file()]
    if missing:
        raise PathError(
            f"{folder} holds no {' and no '.join(missing)}, so it is no folder of views, or not all of one. "
            "`dvr views CT -o FOLDER` makes one; copy it as a whole."
        )
    cameras = read_cameras(place / CAMERAS)
    _check_pictures(folder, place, len(cameras))
    paints = _numbered(place / PAINT)
    stray = sorted(set(paints) - set(range(len(cameras))))
    if stray:
        raise PathError(f"{paints[stray[0]]} belongs to no view: there are {len(cameras)}, from 0. Delete it.")
    roles = _read_roles(place / PAINT / MEANINGS, bool(paints))
    record = _read_json(place / VOLUME)
    views = tuple(_read_view(place / _name(n), camera, paints.get(n), roles) for n, camera in enumerate(cameras))
    try:
        return Views(
            views, read_transfer(place / TRANSFER), None, roles, Path(folder), record.get("path"), record.get("sha256"),
            record.get("series"), record.get("labels"), record.get("names"),
        )  # fmt: skip
    except InputError as problem:
        raise type(problem)(f"{folder}: {problem}") from None


def write_views(folder: str | Path, views: Views) -> Path:
    """Write a folder of views, whole or not at all. Nothing is deleted: paint that was wiped away is written as zeros.

    Raises: OutputError, also where views that somebody painted, or more views than these, already lie there;
        SettingError where nobody knows what drew the views; PathError where their CT is gone.
    """
    place = Path(folder).expanduser()
    if views.transfer is None:
        raise SettingError(f"{folder} was not written: these views do not say which transfer function drew them.")
    refuse_to_lose_paint(folder, views)
    beyond = [n for n in _numbered(place) if n >= len(views.views)]
    if beyond:
        raise OutputError(
            f"{folder} holds views up to {_name(max(beyond))}, and these are only {len(views.views)}: the others would "
            "stay, without cameras. Choose another folder, or delete the earlier views first."
        )
    paint_there = [n for n in _numbered(place / PAINT) if n < len(views.views)]
    paints = {n: torch.zeros(views.views[n].camera.image_size, dtype=torch.uint8) for n in paint_there}
    paints |= {n: view.paint for n, view in enumerate(views.views) if view.paint is not None}
    with together():
        for number, view in enumerate(views.views):
            write_picture(place / _name(number), view.image)
        _write_json(place / CAMERAS, [view.camera.to_dict() for view in views.views])
        write_transfer(place / TRANSFER, views.transfer)
        _write_json(place / VOLUME, _volume_record(views))
        if paints or views.roles:
            write_paint(folder, paints, views.roles)
    return Path(folder)


def write_paint(folder: str | Path, paints: Mapping[int, UInt8[Tensor, "h w"]], roles: Mapping[int, Role]) -> Path:
    """Write the paint of some views, {number: ids}, and the roles; pictures and other views' paint stay as they are.

    Raises: OutputError.
    """
    place = Path(folder).expanduser() / PAINT
    with together():
        for number, paint in paints.items():
            write_ids(place / _name(number), paint)
        _write_json(place / MEANINGS, {str(n): _role_record(role) for n, role in sorted(roles.items())})
    return place


def open_volume(views: Views, ct: str | Path | None = None, labels: bool = False) -> Volume:
    """As `Views.open_volume`, which see."""
    place = _place_of_ct(views, ct)
    of = "These views" if views.folder is None else f"The views in {views.folder}"
    if views.sha256 is None:
        notify(f"{of} do not say which CT they show; {place} is taken for it, unchecked.")
    elif (hash_now := hash_of(place)) != views.sha256:
        raise PathError(
            f"{place} is not the CT that was drawn. {of} belong to one whose SHA256 begins with {views.sha256[:12]}, "
            f"this one's begins with {hash_now[:12]}. Its voxels may lie elsewhere, and the paint would then mean "
            "something else. Give the very same file or folder (--ct), or draw the views of this one again."
        )
    if not labels:
        return read_volume(place, series=views.series)
    if views.labels is None:
        raise LabelError(f"{of} were drawn of a CT without labels, so there are none to read.")
    known = _standing(views, views.labels)
    return read_volume(place, known or views.labels, views.names, views.series)


def _place_of_ct(views: Views, ct: str | Path | None) -> Path:
    """Where it is given, or where it was, as seen from here or from the folder; of several the one that is the same."""
    if ct is not None:
        return found(ct)
    of = "these views" if views.folder is None else str(views.folder)
    if views.source is None:
        raise PathError(
            f"Where the CT of {of} lies is not known: it was in memory only. Give it: --ct, open_volume(ct)"
        )
    here = _standing(views, views.source, views.sha256)
    if here is None:
        raise PathError(
            f"The CT of {of} is not at {views.source} any more, neither from here nor from that folder. "
            "Say where it is now: --ct PATH, or open_volume(PATH)."
        )
    return here


def _standing(views: Views, path: str, sha256: str | None = None) -> Path | None:
    beside = [] if views.folder is None else [views.folder.expanduser() / path]
    places = dict.fromkeys(place.resolve() for place in (Path(path).expanduser(), *beside) if place.exists())
    same = (place for place in list(places)[1:] if hash_of(place) == sha256)
    return next(same, next(iter(places), None))


def _read_view(path: Path, camera: Any, paint: Path | None, roles: Mapping[int, Role]) -> View:
    image = read_picture(path)
    colours = {number: role.colour for number, role in roles.items() if role.colour is not None}
    ids = None if paint is None else read_paint(paint, colours)
    try:
        View(camera, image)
    except InputError as problem:
        raise type(problem)(f"{path}: {problem}") from None
    try:
        return View(camera, image, ids)
    except InputError as problem:
        raise type(problem)(f"{paint}: {problem}") from None


def _check_pictures(folder: str | Path, place: Path, count: int) -> None:
    there, due = set(_numbered(place)), set(range(count))
    if there == due:
        return
    odd = min(there ^ due)
    raise PathError(
        f"{folder} holds {len(there)} pictures and {CAMERAS} {count} cameras: {_name(odd)} "
        f"{'has no camera' if odd in there else 'is missing'}. Pictures are numbered from 0000.png, one for each "
        "camera; draw the views again, or put the right ones there."
    )


def _numbered(folder: Path) -> dict[int, Path]:
    """The files 0000.png, 0001.png, ... of a folder."""
    if not folder.is_dir():
        return {}
    names = (re.fullmatch(r"(\d{4,})\.png", file.name) for file in folder.iterdir())
    return {int(name[1]): folder / name[0] for name in names if name}


def _name(number: int) -> str:
    return f"{number:04}.png"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise PathError(f"{path} cannot be read: {problem.strerror}.") from None
    except ValueError as problem:
        raise PathError(f"{path} is no JSON ({problem}). Correct it, or draw the views again.") from None
    if not isinstance(record, dict):
        raise PathError(f"{path} holds {type(record).__name__}, not a JSON object {{...}}. Draw the views again.")
    if path.name == VOLUME and record.get("format") != FORMAT:
        raise PathError(
            f'{path} says "format": {record.get("format")!r}, and this DiffRender reads {FORMAT}. Draw the views again.'
        )
    return record


def _read_roles(path: Path, needed: bool) -> dict[int, Role]:
    if not path.is_file():
        if needed:
            raise LabelError(f"{path} is missing, so nobody knows what the paint in {path.parent} means. Write it.")
        return {}
    return dict(_role(path, key, record) for key, record in _read_json(path).items())


def _role(path: Path, key: str, record: Any) -> tuple[int, Role]:
    if not re.fullmatch(r"\d+", key) or not 0 < int(key) < 256:
        raise LabelError(f"{path}: {key!r} is no paint; a paint's id goes from 1 to 255.")
    if not isinstance(record, dict) or "role" not in record:
        raise LabelError(f'{path}: paint {key} has no "role"; it is {{"name", "role", "colour", "strength"}}.')
    colour, strength = record.get("colour"), record.get("strength", 1.0)
    numbers = [strength, *(colour if isinstance(colour, list) else [])]
    if not all(isinstance(n, int | float) for n in numbers) or not isinstance(colour, list | None):
        raise SettingError(
            f"{path}: paint {key} has the colour {colour!r} and the strength {strength!r}; both are numbers."
        )
    try:
        name = str(record.get("name") or f"paint {key}")
        return int(key), Role(name, record["role"], None if colour is None else tuple(colour), strength)
    except SettingError as problem:
        raise SettingError(f"{path}: {problem}") from None


def _role_record(role: Role) -> dict[str, Any]:
    colour = None if role.colour is None else list(role.colour)
    return {"name": role.name, "role": role.role, "colour": colour, "strength": role.strength}


def _volume_record(views: Views) -> dict[str, Any]:
    source, sha256 = views.source, views.sha256
    if views.volume is not None and source is not None and not Path(source).expanduser().exists():
        source = None  # such as the phantom: in memory only
    if sha256 is None and source is not None:
        sha256 = hash_of(source)
    record: dict[str, Any] = {"format": FORMAT, "path": source, "sha256": sha256}
    given = {"series": views.series, "labels": views.labels, "names": views.names}
    return {**record, **{key: value for key, value in given.items() if value is not None}}


def refuse_to_lose_paint(folder: str | Path, views: Views | None = None) -> None:
    """Raises: OutputError where somebody painted views in `folder`, unless `views` were read from there."""
    place = Path(folder).expanduser()
    own = views is not None and views.folder is not None and views.folder.expanduser().resolve() == place.resolve()
    if own or not _numbered(place / PAINT):
        return
    raise OutputError(
        f"{folder} holds painted views, and these would take their place: the paint would be lost, or lie on pictures "
        "it was not made for. Choose another folder, or move paint/ away first."
    )


def _write_json(path: Path, record: Any) -> None:
    write_whole(path, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
