"""`diffrender fit model`: a shape model of the pelvis from an atlas of surfaces."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffrender.commands.console import Debug, Json, Stopped, current, example
from diffrender.commands.fit.people import check_people, people_of
from diffrender.commands.target import check_given, check_outputs, check_writable, target_of
from diffrender.errors import SettingError, notify
from diffrender.jobs import Progress

if TYPE_CHECKING:
    from diffrender.fit.atlas import Subject
    from diffrender.fit.building import ModelSettings
    from diffrender.fit.shape import ShapeModel
    from diffrender.fit.training import Training

EXAMPLE = example("diffrender fit model --sample pelvis-atlas -o pelvis.h5")
SUFFIXES = (".h5", ".hdf5")
NEED = 64 * 2**20  # bytes; a model of 15 000 vertices and 60 modes takes 12 MB
ATLAS = "pelvis-atlas"
SAME_PERSON = (15, 25)  # of the published atlas
SHOWN = (1, 2, 3, 5, 10, 15, 20, 30, 40, 60, 80, 100)  # numbers of modes in the tables
TRIED = (5, 10, 15, 20, 30, 40, 60)


def model(
    atlas: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FOLDER|F.npz|CT...",
            help="LeftHip10_cpd.vtk, RightHip10_cpd.vtk, Sacrum10_cpd.vtk, ... in a folder or below it; or an .npz "
            "with ids, left_hip_points, left_hip_faces, ... LPS [mm]. Or, with --segmentations, CTs.",
        ),
    ] = None,
    sample: Annotated[
        str | None, typer.Option(metavar="NAME", help="A sample instead, fetched if it is not here: pelvis-atlas.")
    ] = None,
    segmentations: Annotated[
        list[str] | None,
        typer.Option(
            metavar="F",
            help="Of each CT, in their order: labels such as hip_left, hip_right, sacrum. The parametric pelvis is "
            "warped to each (half a minute a CT).",
        ),
    ] = None,
    names: Annotated[
        str | None, typer.Option(metavar="F", help="What the labels are: CSV, JSON, or totalsegmentator-v1 or -v2.")
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ID...",
            help="Subjects to leave out. Of the published atlas 15 and 25 are the same person: leave out both.",
        ),
    ] = None,
    out: Annotated[
        str | None, typer.Option("-o", "--out", metavar="F.h5", help="The model, HDF5 as statismo has it; pelvis.h5.")
    ] = None,
    modes: Annotated[int, typer.Option(metavar="N", help="At most so many modes.")] = 60,
    plain: Annotated[
        bool, typer.Option("--plain", help="Principal components alone: no mirror images, no further modes.")
    ] = False,
    per_bone: Annotated[bool, typer.Option("--per-bone", help="Each bone varies for itself.")] = False,
    leave_one_out: Annotated[
        bool, typer.Option("--leave-one-out", help="Measure the errors on each subject in turn (a few minutes).")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Fetch the sample without asking.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Build a statistical shape model of the pelvis: repair, alignment, modes, 14 landmarks.

    From an atlas of surfaces in correspondence, or from CTs with segmentations.

    By default mirror images train too, far correlations are doubted and smooth changes are added, as leave-one-out
    errors advise. Says how compact the model is and how much of the surfaces was repaired.
    """
    console = current()
    cts = list(atlas or []) if segmentations else []
    if segmentations:
        check_people(cts, segmentations, exclude or [], sample)
    elif names is not None:
        raise SettingError("--names names the labels of --segmentations, and none are given.")
    path, excluded = (None, []) if segmentations else _typed(atlas or [], exclude or [])
    check_given({"FOLDER|F.npz": path, "--sample": sample, "--out": out})
    if not segmentations and (path is None) == (sample is None):
        raise SettingError("Say what to build from: a folder, an .npz, or --sample pelvis-atlas; one of them.")
    target = target_of(out, "pelvis", "pelvis", SUFFIXES)
    file = target.file()
    given = [*cts, *(segmentations or []), *([path] if path else [])]
    check_outputs([file, target.provenance], given)

    from diffrender.fit.building import ModelSettings, model_of
    from diffrender.fit.model_files import save_shape_model
    from diffrender.fit.training import prepare
    from diffrender.io.whole import together
    from diffrender.provenance import write_provenance

    settings = ModelSettings(
        modes, mirror=not plain, local=0.0 if plain else ModelSettings.local, together=not per_bone
    )
    settings = settings if not plain else _without_smooth(settings)
    check_writable(target.folder, NEED)
    with console.listening(), together():
        if segmentations:
            turn = partial(_turn, what="Warping the pelvis to each")
            bodies, about = people_of(cts, segmentations, names, turn)
        else:
            source = path if path is not None else str(_fetched(str(sample), yes))
            given = [source]
            console.progress(Progress(0, 4), f"Reading {source}")
            subjects, about = _read(source, excluded)
            bodies = [subject.meshes for subject in subjects]
        console.progress(Progress(1, 4), "Repairing and aligning")
        training = prepare(bodies, settings.mirror)
        console.progress(Progress(2, 4), "Modes")
        built = model_of(training, settings, about, lambda done, total: _turn(done, total, "Leaving out in turns"))
        errors = _left_out(training, settings, about["ids"]) if leave_one_out else []
        save_shape_model(built, file)
        record = {**built.about, "modes": len(built.modes)}
        files = [file, write_provenance(file, console.command, record, given)]
    data = {"files": files, "about": built.about, "compactness": _compactness(built), "left_out": errors}
    console.result(data, "\n".join([*_text(built, errors), *(f"  {one}" for one in files)]))


def _typed(words: Sequence[str], exclude: Sequence[str]) -> tuple[str | None, list[int]]:
    """The path, and the subjects left out: "--exclude 15 --exclude 25", "--exclude 15,25" and "--exclude 15 25"."""
    paths = [word for word in words if not (exclude and word.isdigit() and not os.path.exists(word))]
    listed = [part for text in (*exclude, *(w for w in words if w not in paths)) for part in text.split(",") if part]
    wrong = [part for part in listed if not part.strip().isdigit()]
    if wrong:
        raise SettingError(f"--exclude takes numbers of subjects, as 15 or 15,25, not {wrong[0]!r}.")
    if len(paths) > 1:
        raise SettingError(f"{paths[0]} and {paths[1]} are two atlases; a model is built from one.")
    return (paths[0] if paths else None), sorted({int(part) for part in listed})


def _without_smooth(settings: "ModelSettings") -> "ModelSettings":
    from dataclasses import replace

    return replace(settings, smooth=0.0)


def _fetched(name: str, yes: bool) -> Path:
    from diffrender.samples import get_sample, is_here, list_samples

    console = current()
    offered = {one.name: one for one in list_samples()}
    if name != ATLAS:
        raise SettingError(f"{name!r} is no sample to build a model from; {ATLAS!r} is.")
    one = offered[name]
    size = "" if one.size is None else f"{one.size / 1e6:.0f} MB in "
    words = f"{one.name}: {one.what}\nlicence:  {one.licence}\ncitation: {one.citation}\n{size}{len(one.files)} files"
    if console.json:
        console.notice(words)
    else:
        console.text(words)
    if not (yes or console.json or is_here(one)) and not console.ask("Fetch it?"):
        raise Stopped("Nothing was fetched.")
    return get_sample(name, lambda done, total: console.progress(Progress(done, total or 0), f"Fetching {name}"))


def _read(source: str, excluded: Sequence[int]) -> "tuple[list[Subject], dict[str, Any]]":
    from diffrender.fit.atlas import read_atlas
    from diffrender.fit.landmarks import ATLAS as PUBLISHED
    from diffrender.fit.landmarks import fingerprint

    subjects = read_atlas(source, excluded)
    ids = [subject.id for subject in subjects]
    about: dict[str, Any] = {"ids": ids, "excluded": list(excluded)}
    if not subjects or fingerprint([mesh.faces.numpy() for mesh in subjects[0].meshes.values()]) != PUBLISHED:
        return subjects, about
    from diffrender.samples import list_samples

    atlas = next(one for one in list_samples() if one.name == ATLAS)
    about |= {"licence": atlas.licence, "citation": atlas.citation, "source": atlas.what}
    about["note"] = "Not for clinical use. Subjects 15 and 25 are almost certainly the same person."
    here = [one for one in SAME_PERSON if one in ids]
    if len(here) == 1 and set(SAME_PERSON) & set(excluded):
        gone = next(one for one in SAME_PERSON if one != here[0])
        notify(
            f"Subject {gone} is left out, and subject {here[0]}, almost certainly the same person, is not. To test on "
            f"{gone}, leave out both: --exclude 15 --exclude 25."
        )
    return subjects, about


def _left_out(training: "Training", settings: "ModelSettings", ids: Sequence[Any]) -> list[dict[str, Any]]:
    from diffrender.fit.quality import generalisation

    person = [ids.index(one) for one in SAME_PERSON if one in ids]
    tried = [count for count in TRIED if count <= settings.modes]
    total, found = len(ids) * len(tried), []
    for one in generalisation(training, settings, tried, together=[person] if len(person) == 2 else []):
        found.append(one)
        _turn(len(found), total, "Leaving out one by one")
    rows = []
    for count in tried:
        own = [one for one in found if one.modes == count]
        names = ("point", "landmark", "hausdorff", "hausdorff95")
        rows.append({"modes": count, **{name: sum(getattr(one, name) for one in own) / len(own) for name in names}})
    return rows


def _turn(done: int, total: int, what: str) -> None:
    current().progress(Progress(done, total), what)


def _compactness(built: "ShapeModel") -> dict[int, float]:
    from diffrender.fit.quality import compactness

    shares = compactness(built).tolist()
    return {n: shares[n - 1] for n in sorted({*SHOWN, len(shares)}) if n <= len(shares)}


def _text(built: "ShapeModel", errors: Sequence[dict[str, Any]]) -> list[str]:
    about = built.about
    lines = [
        f"{built!r} from {about['subjects']} subjects",
        *(f"{key}: {about[key]}" for key in ("licence", "citation", "note") if key in about),
        f"left out in turns, the modes come to within {about['left-out mean point error [mm]']:.2f} mm of the points",
        *(
            f"{part}: the warped surface lies {far:.1f} mm off, on average"
            for part, far in about.get("correspondence error [mm]", {}).items()
        ),
        "",
        "modes  share of the variance",
        *(f"{n:5}  {100 * share:5.1f} %" for n, share in _compactness(built).items()),
        "",
        "repaired    stray vertices  in subjects  holes closed  faces added, removed, turned",
    ]
    for part, one in about["repair"].items():
        lines.append(
            f"{part:10}  {100 * one['stray vertices']:12.3f} %  {one['subjects with stray vertices']:11}  "
            f"{one['holes closed']:12}  {one['faces added']}, {one['faces removed']}, {one['faces turned']}"
        )
    if errors:
        lines += ["", "left out one by one, mean [mm]", "modes  points  landmarks  Hausdorff  95 %"]
        lines += [
            f"{e['modes']:5}  {e['point']:6.2f}  {e['landmark']:9.2f}  {e['hausdorff']:9.2f}  {e['hausdorff95']:4.2f}"
            for e in errors
        ]
    return [*lines, "", "Written:"]
