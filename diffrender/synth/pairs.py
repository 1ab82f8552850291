"""Where training pairs come from: mixed anew from CTs at every draw, from a data set, from real radiographs with masks.

A draw is a function of its source and of a random generator alone.
"""

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32
from PIL import Image

from diffrender.errors import ImageError, LabelError, PathError, SettingError, notify
from diffrender.synth.appearance import Appearance, attenuated, blurred, radiographed, shown
from diffrender.synth.augment import Warp, swapped, warped
from diffrender.synth.films import Film, films_in, read_film
from diffrender.synth.layers import Layers
from diffrender.synth.manifest import Entry, of_split, read_manifest

UNKNOWN = 255  # of a mask that is a picture of ids: nobody says what is there
MOST_KEPT = 320  # px of an image's longer side while it waits to be drawn


@dataclass(frozen=True, eq=False)
class Pair:
    """An image and what it shows.

    Attributes:
        image: 0 to 1, bone bright but where an appearance turns it round.
        masks: of each label.
        known: where the masks say something.
    """

    image: Float32[np.ndarray, "h w"]
    masks: Bool[np.ndarray, "label h w"]
    known: Bool[np.ndarray, "h w"]


@runtime_checkable
class Source(Protocol):
    """Anything that pairs can be drawn from."""

    names: tuple[str, ...]

    def draw(self, size: tuple[int, int], random: np.random.Generator) -> Pair:
        """One pair, (h, w) [px]."""
        ...


# A CT views the whole chest; films are cut closer, and no two people are built alike.
OF_CTS = Warp(zoom=(1.15, 2.1), stretch=0.1, turn=4.0, shift=0.06, bend=0.02, mirror=0.5)
OF_FILMS = Warp(zoom=(0.9, 1.2), stretch=0.07, turn=4.0, shift=0.03, bend=0.015, mirror=0.5)


class Generated:
    """Views of CTs, each draw with a new appearance.

    Args:
        layers: of views, all with the same labels.
    Raises: LabelError where there are no views or their labels differ.
    """

    def __init__(self, layers: Sequence[Layers], appearance: Appearance | None = None, warp: Warp = OF_CTS):
        names = {one.names for one in layers}
        if len(names) != 1:
            raise LabelError(
                f"Views of CTs with the same labels are needed; {len(layers)} views with {len(names)} lists of labels "
                "were given."
            )
        self.names = names.pop()
        self.layers, self.warp = tuple(layers), warp
        self.appearance = Appearance() if appearance is None else appearance

    def draw(self, size: tuple[int, int], random: np.random.Generator) -> Pair:
        view = self.layers[int(random.integers(len(self.layers)))]
        p = attenuated(view.images, self.appearance, random)
        planes = warped(np.concatenate([p[None], view.masks.astype(np.float32)]), size, self.warp, random)
        image = shown(radiographed(planes[0], self.appearance, random), self.appearance, random)
        pair = Pair(image, planes[1:] > 0.5, np.ones(size, dtype=bool))
        return _mirrored(pair, self.names) if random.random() < self.warp.mirror else pair


@dataclass(frozen=True, eq=False)
class Masked:
    """A radiograph with masks: `film`, (label, h, w) bool, and where they say something."""

    film: Film
    masks: Bool[np.ndarray, "label h w"]
    known: Bool[np.ndarray, "h w"]
    group: str = ""


class Films:
    """Radiographs with masks; each draw with another geometry and another way to show it.

    Args:
        masked: the radiographs.
        names: of their labels.
        appearance: whether and how they are shown anew; objects are added too.
    """

    def __init__(
        self,
        masked: Sequence[Masked],
        names: Sequence[str],
        appearance: Appearance | None = None,
        warp: Warp = OF_FILMS,
    ):
        if not masked:
            raise PathError("There is no radiograph with masks to learn from.")
        self.masked, self.names, self.warp = tuple(_smaller(one) for one in masked), tuple(names), warp
        self.appearance = (
            Appearance(objects=3, arms=0.0, noise=(0.0, 0.0), scatter=(0.0, 0.0), uneven=(0.0, 0.2))
            if appearance is None
            else appearance
        )

    def draw(self, size: tuple[int, int], random: np.random.Generator) -> Pair:
        one = self.masked[int(random.integers(len(self.masked)))]
        stack = np.concatenate([one.film.values[None], one.known[None], one.masks]).astype(np.float32)
        planes = warped(stack, size, self.warp, random)
        image = planes[0]
        if random.random() < 0.8:  # as it is, too: that is how it will be met
            image = shown(radiographed(3 * image, self.appearance, random), self.appearance, random)
        pair = Pair(image.astype(np.float32), planes[2:] > 0.5, planes[1] > 0.5)
        return _mirrored(pair, self.names) if random.random() < self.warp.mirror else pair


class Mixed:
    """Generated and real pairs together.

    Args:
        ratio: G/X of Pham and Tran (2022), generated for each real one: 0 is real alone, infinity generated alone.
    Raises: SettingError for another ratio, LabelError where the labels differ.
    """

    def __init__(self, generated: Source, real: Source, ratio: float):
        if not ratio >= 0:
            raise SettingError(f"ratio is generated pairs for each real one, from 0 to infinity; not {ratio}.")
        if generated.names != real.names:
            raise LabelError(
                f"Generated pairs have the labels {', '.join(generated.names)}, real ones {', '.join(real.names)}; the "
                "same ones, in the same order, are needed."
            )
        self.names, self.generated, self.real = generated.names, generated, real
        self.share = 1.0 if ratio == float("inf") else ratio / (1 + ratio)

    def draw(self, size: tuple[int, int], random: np.random.Generator) -> Pair:
        source = self.generated if random.random() < self.share else self.real
        return source.draw(size, random)


def masked_in_folder(
    images: str | Path, masks: str | Path, labels: Mapping[int, str], groups: Mapping[str, str] | None = None
) -> list[Masked]:
    """Radiographs of a folder whose masks lie in another one, as pictures of ids under the same names.

    Args:
        labels: {id: name}; 0 is background, 255 what nobody knows.
        groups: {file's name: patient}.
    Radiographs without a mask are left out and said. Raises: PathError where no mask is found, ImageError where a mask
    has another shape than its image.
    """
    found, missing = [], []
    for file in films_in(images):
        mask = next((m for e in (".png", ".tif", ".tiff") if (m := Path(masks) / (file.stem + e)).is_file()), None)
        if mask is None:
            missing.append(file.name)
            continue
        film = read_film(file)
        try:
            ids = np.asarray(Image.open(mask))
        except (OSError, ValueError) as problem:
            raise PathError(f"{mask} cannot be read as a picture of ids: {problem}.") from None
        if ids.shape != film.values.shape:
            raise ImageError(f"{mask} is {ids.shape} px and its image {film.values.shape}; they must be alike.")
        layers = np.stack([ids == label for label in labels])
        found.append(Masked(film, layers, ids != UNKNOWN, (groups or {}).get(file.name, file.stem)))
    if not found:
        raise PathError(f"{masks} holds no mask for any of the {len(missing)} images in {images}: same name, .png.")
    if missing:
        notify(
            f"{len(missing)} of the images in {images} have no mask and are left out ({', '.join(missing[:3])} ...)."
        )
    return found


def masked_in_manifest(path: str | Path, names: Sequence[str], split: str = "train") -> list[Masked]:
    """The images of one split of a data set with their masks; a label that an image does not list is empty there.

    Raises: PathError, LabelError where none of the images has any of these labels.
    """
    folder = Path(path).expanduser()
    folder = folder if folder.is_dir() else folder.parent
    found = [_of_entry(folder, entry, names) for entry in of_split(read_manifest(path), split)]
    if not any(one.masks.any() for one in found):
        raise LabelError(f"None of the {len(found)} images of the split {split} in {path} shows {', '.join(names)}.")
    return found


def _of_entry(folder: Path, entry: Entry, names: Sequence[str]) -> Masked:
    film = read_film(folder / entry["image"], detect=False)
    masks = np.zeros((len(names), *film.values.shape), dtype=bool)
    try:
        layers = _masks_of(folder, entry)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as problem:
        raise PathError(
            f"{entry['masks']}, the masks of {film.name}, cannot be read: {problem}. Make the data set again, or "
            "delete the line in its manifest."
        ) from None
    for name, layer in layers.items():
        if layer.shape != film.values.shape:
            raise ImageError(f"The mask {name} of {film.name} is {layer.shape} px and the image {film.values.shape}.")
        if name in names:
            masks[list(names).index(name)] = layer
    return Masked(film, masks, np.ones(film.values.shape, dtype=bool), str(entry.get("ct", entry["image"])))


def _masks_of(folder: Path, entry: Entry) -> dict[str, Bool[np.ndarray, "h w"]]:
    masks = entry.get("masks")
    if isinstance(masks, Mapping):
        return {str(name): np.asarray(Image.open(folder / file)) > 0 for name, file in masks.items()}
    if not masks:
        return {}
    file = folder / str(masks)
    if file.suffix == ".npz":
        with np.load(file, allow_pickle=False) as content:
            return dict(zip((str(name) for name in content["names"]), content["masks"] > 0, strict=True))
    import tifffile

    with tifffile.TiffFile(file) as pages:
        return {page.description: page.asarray() > 0 for page in pages.pages}  # pyright: ignore[reportAttributeAccessIssue]


def _mirrored(pair: Pair, names: tuple[str, ...]) -> Pair:
    return Pair(
        np.ascontiguousarray(pair.image[:, ::-1]),
        np.ascontiguousarray(pair.masks[swapped(names)][:, :, ::-1]),
        np.ascontiguousarray(pair.known[:, ::-1]),
    )


def _smaller(one: Masked) -> Masked:
    """What is kept in memory: large images averaged, which is also what keeps them from aliasing."""
    step = -(-max(one.film.values.shape) // MOST_KEPT)
    if step == 1:
        return one
    values = blurred(one.film.values, 0.4 * step)[::step, ::step]
    film = Film(np.ascontiguousarray(values), one.film.name, one.film.inverted)
    return Masked(film, one.masks[:, ::step, ::step], one.known[::step, ::step], one.group)
