"""Labels in: every kind of file that holds them, laid on a volume's lattice, with the names of what they are."""

import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

from diffrender.errors import LabelError, PathError, notify
from diffrender.io.files import found
from diffrender.io.label_sources import (
    IMAGE_SUFFIXES,
    SPECK,
    LabelSource,
    Structure,
    read_label_image,
    smallest_type,
    values_in,
)
from diffrender.io.label_tables import Names, read_label_table
from diffrender.io.lattices import centres_coincide, describe_both, is_same, overlap, resample_nearest
from diffrender.io.segmentations import read_segmentation
from diffrender.volume import Volume

MOST_LISTED = 10  # ids that a message lists before it counts the rest


def read_labels(
    path: str | Path, volume: Volume, names: Names | None = None
) -> tuple[Shaped[Tensor, "k j i"] | Bool[Tensor, "n k j i"], dict[int, str]]:
    """Labels on the volume's lattice, and what they are called.

    Args:
        path: a multi-label NIfTI, NRRD or MHA; a Slicer .seg.nrrd; a DICOM SEG or RTSTRUCT; a folder of masks
            (NAME.nii.gz each, ids in the order of the sorted file names unless `names` has them); or a zip of these.
        volume: where they belong. Labels on another lattice take the nearest voxel, and that is said.
        names: see `read_label_table`. For files that have names themselves (all but the first kind) a table in which
            all of these occur gives the ids; any other table gives the names by id, and that is said.
    Returns:
        ids (k, j, i), 0 for background, in the smallest of uint8, int16, int32; or (n, k, j, i) bool where structures
        overlap, one layer for each that has a voxel.
        {id: name}: all of the table, or what the file itself names; for layers exactly one name each, in their order.
    Raises: PathError, LabelError, GeometryError, ImageError.
    """
    table = None if names is None else read_label_table(names)
    with ExitStack() as stack:
        source = _open(Path(path), str(path), volume, stack)
        if table is not None:
            source = _with_table(source, table, names)
        _say_other_frame(source, volume)
        labels, ids = lay(source, volume)
    if not ids:
        notify(
            f"{path} has no labelled voxel within the volume: every voxel is background. If that is not meant, check "
            "that these labels belong to this volume."
        )
    empty = [structure.name for structure in source.structures if structure.name and structure.id not in ids]
    if ids and empty:
        notify(f"{path}: no voxel of {_listed(empty)} lies within the volume.")
    known = {structure.id: structure.name for structure in source.structures if structure.name}
    if labels.ndim == 4:  # a Volume's layers have exactly one name each
        return torch.from_numpy(labels), {label: known.get(label, f"label {label}") for label in ids}
    return torch.from_numpy(labels), known if table is None else table


def _open(path: Path, shown: str, volume: Volume, stack: ExitStack) -> LabelSource:
    path = found(path)
    if path.is_dir():
        return _read_folder(path, str(Path(shown)), volume, os.sep)
    if zipfile.is_zipfile(path) or path.suffix.lower() == ".zip":
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="diffrender-")))
        try:
            with zipfile.ZipFile(path) as archive:
                archive.extractall(folder)
        except (zipfile.BadZipFile, EOFError, zlib.error, RuntimeError) as error:
            raise PathError(f"{shown} is no whole zip file ({error}). Copy or download it again.") from error
        return _read_folder(folder, shown, volume, ": ")
    return _read_file(path, shown, volume)


def _read_file(path: Path, shown: str, volume: Volume) -> LabelSource:
    from diffrender.io.dicom_labels import is_dicom, read_dicom_labels  # a second of imports, for these files alone

    return read_dicom_labels(path, shown, volume) if is_dicom(path) else read_segmentation(path, shown)


def _read_folder(folder: Path, shown: str, volume: Volume, within: str) -> LabelSource:
    """A folder of masks; or one that holds a single label file. `within` joins its name to theirs in messages."""
    from diffrender.io.dicom_labels import is_dicom

    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and not file.name.startswith((".", "._"))]
    where = {file: f"{shown}{within}{file.relative_to(folder)}" for file in files}
    masks = {file: where[file] for file in files if file.name.lower().endswith(IMAGE_SUFFIXES)}
    dicom = [file for file in files if file not in masks and is_dicom(file)]
    if len(masks) + len(dicom) == 1:
        (file,) = [*masks, *dicom]
        source = _read_file(file, where[file], volume)
        lone_mask = masks and len(source.structures) <= 1 and not any(part.name for part in source.structures)
        return _masks_source(masks, shown) if lone_mask else source
    if dicom:
        raise LabelError(
            f"{shown} holds {len(dicom)} DICOM files and {len(masks)} masks: labels are one DICOM SEG or RTSTRUCT, or "
            "a folder of masks alone. Give the path of the one file."
        )
    if not masks:
        raise PathError(
            f"{shown} holds no labels: no file in it ends with {', '.join(IMAGE_SUFFIXES)} or is DICOM. Check the path."
        )
    return _masks_source(masks, shown)


def _masks_source(masks: dict[Path, str], shown: str) -> LabelSource:
    """`masks`: each file, and what it is called in messages."""
    names = [_stem(file) for file in masks]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise LabelError(
            f"{shown} holds two masks called {twice!r}: they could not be told apart. Rename one, or move it away."
        )
    structures = tuple(Structure(n, name, n - 1, 1) for n, name in enumerate(names, 1))
    return LabelSource(shown, structures, _mask_parts(masks), ids_from_names=True)


def _mask_parts(masks: dict[Path, str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for file, where in masks.items():
        image = read_label_image(file, where)
        values = list(values_in(image.layers))
        if len(image.layers) > 1 or len(values) > 1:
            raise LabelError(
                f"{where} holds the values {_listed(values)}: in a folder of masks each file is 0 and one other value, "
                "the structure that the file's name says. Move it away, or give the path of this one file."
            )
        yield (image.layers[0] != 0).view(np.uint8), image.world_from_voxel


def _stem(file: Path) -> str:
    return next(file.name[: -len(suffix)] for suffix in IMAGE_SUFFIXES if file.name.lower().endswith(suffix))


def _with_table(source: LabelSource, table: dict[int, str], names: Names | None) -> LabelSource:
    """The structures with the ids and names of the table. Raises: LabelError where the two contradict each other."""
    what = "the table of names" if isinstance(names, Mapping) else str(names)
    ids = {name: label for label, name in table.items()}
    own = [structure.name for structure in source.structures if structure.name]
    unknown = [name for name in own if name not in ids]
    if own and len(own) == len(source.structures) and len(set(own)) == len(own) and not unknown:
        return replace(source, structures=tuple(replace(s, id=ids[str(s.name)]) for s in source.structures))
    if source.ids_from_names:
        raise LabelError(
            f"{source.shown} holds masks that {what} does not name: {_listed(unknown)}. A mask without an id could not "
            "be counted. Add them to the table, or leave the table out."
        )
    _check_complete(source, table, what)
    renamed = [f"{s.name!r} is {table[s.id]!r}" for s in source.structures if s.name and s.name != table[s.id]]
    if renamed:
        notify(f"{source.shown}: names are taken by id from {what}, where the file's own differ: {_listed(renamed)}.")
    return replace(source, structures=tuple(replace(s, name=table.get(s.id)) for s in source.structures))


def _check_complete(source: LabelSource, table: dict[int, str], what: str) -> None:
    """Raises: LabelError where the table lacks ids that occur; specks of them are only said."""
    missing = [s for s in source.structures if s.id and s.id not in table]
    if not missing:
        return
    found = f"{source.shown} holds the ids {_listed([s.id for s in missing])}, which {what} does not name"
    counts = [s.voxels for s in missing if s.voxels is not None]
    total = sum(s.voxels or 0 for s in source.structures)
    if len(counts) == len(missing) and sum(counts) <= SPECK * total:
        notify(f"{found}. They are specks ({sum(counts)} of {total} labelled voxels) and stay without a name.")
        return
    raise LabelError(f"{found}. It may be the table of other labels. Add them to the table, or leave the table out.")


def _listed(items: list) -> str:
    shown = ", ".join(str(item) for item in items[:MOST_LISTED])
    return shown if len(items) <= MOST_LISTED else f"{shown} and {len(items) - MOST_LISTED} more"


def _say_other_frame(source: LabelSource, volume: Volume) -> None:
    own = str((volume.header or {}).get("FrameOfReferenceUID") or "")
    if source.frame_of_reference and own and source.frame_of_reference != own:
        notify(
            f"{source.shown} was drawn in another frame of reference ({source.frame_of_reference}) than the volume "
            f"({own}), so both may lie anywhere to each other (another scan, another day). They are used as if they "
            "matched; look at the overlay, and register the two first if it is off."
        )


def lay(source: LabelSource, volume: Volume) -> tuple[np.ndarray, list[int]]:
    """All parts in one array, and the ids that occur: a map of ids, or layers from the first overlap on."""
    largest = max((s.id for s in source.structures), default=0)
    ids = np.zeros(volume.shape, smallest_type(largest))
    layers, order = None, []
    for number, values in enumerate(_on_lattice(source, volume)):
        present = set(values_in(values))
        structures = [s for s in source.structures if s.part == number and s.id and s.value in present]
        if layers is None:
            new = _renumbered(values, structures, ids.dtype)
            if not order or not ((ids != 0) & (new != 0)).any():
                ids = new if not order else np.where(new != 0, new, ids)
                order += [s.id for s in structures]
                continue
            layers = np.zeros((len(source.structures), *volume.shape), bool)  # takes memory where it is written to
            for n, label in enumerate(order):
                np.equal(ids, label, out=layers[n])
        for structure in structures:
            np.equal(values, structure.value, out=layers[len(order)])
            order.append(structure.id)
    return (ids, sorted(order)) if layers is None else (layers[: len(order)], order)


def _on_lattice(source: LabelSource, volume: Volume) -> Iterator[np.ndarray]:
    """Each part on the volume's lattice; once, what was done to those that lay on another. Raises: LabelError."""
    elsewhere, meeting = None, 0
    for values, lattice in source.parts:
        if is_same(values.shape, lattice, volume):
            meeting += 1
            yield values
            continue
        elsewhere = elsewhere or (values.shape, lattice)
        meets = overlap(values.shape, lattice, volume)
        meeting += meets
        yield resample_nearest(values, lattice, volume) if meets else np.zeros(volume.shape, values.dtype)
    if elsewhere is None:
        return
    there, here = describe_both(*elsewhere, volume)
    if not meeting:
        raise LabelError(
            f"{source.shown} does not overlap the volume: the labels are {there}; the volume is {here}. "
            "They belong to another scan, or one of the two lost its place in the patient. Give the labels of this CT."
        )
    coincide = centres_coincide(elsewhere[1], volume)
    if coincide and source.cropped:
        return
    notify(
        f"{source.shown} lies on another lattice than the volume and was resampled to the nearest voxel"
        f"{' (voxel centres coincide, so nothing within the volume changed)' if coincide else ''}: the labels are "
        f"{there}; the volume is {here}."
    )


def _renumbered(values: np.ndarray, structures: list[Structure], dtype: np.dtype) -> np.ndarray:
    """Ids in place of the file's own values."""
    if all(s.id == s.value for s in structures):
        return values.astype(dtype, copy=False)
    table = np.zeros(int(values.max()) + 1, dtype)
    for structure in structures:
        table[structure.value] = structure.id
    return table[values]
