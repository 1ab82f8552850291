"""Radiographs as they are typed: files, and folders of them, one after the other."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from diffrender.errors import InputError, PathError, notify

if TYPE_CHECKING:
    from numpy import ndarray

    from diffrender.synth.films import Film

BESIDE = (".preview.png", ".presented.png")  # what our own pictures have beside them
SIDE = 400  # px of the longer side of what a page shows


@dataclass(frozen=True)
class Films:
    """Files of radiographs; of those from folders, what cannot be used is left out, and said.

    Attributes:
        files: in order.
        typed: those that were named themselves.
    """

    files: tuple[Path, ...]
    typed: frozenset[Path]

    def __len__(self) -> int:
        return len(self.files)

    def read(self) -> "Iterator[tuple[str, Film]]":
        """Each with a name of its own for what is made of it. Raises: as `read_film`; PathError if none can be used."""
        from diffrender.synth.films import read_film

        count = 0
        for stem, file in zip(stems([str(file) for file in self.files]), self.files, strict=True):
            try:
                film = read_film(file)
            except InputError as problem:
                if file in self.typed:
                    raise
                notify(f"Left out: {problem}")
                continue
            count += 1
            yield stem, film
        if not count:
            raise PathError(f"None of the {len(self)} files is a radiograph that can be used.")


def films_given(images: Sequence[str]) -> Films:
    """The radiographs that are meant. Raises: PathError for what is not there, and for a folder without any."""
    from diffrender.synth.films import films_in

    files, typed = {}, set()
    for path in images:
        inside = [file for file in films_in(path) if not file.name.endswith(BESIDE)]
        if not Path(path).expanduser().is_dir():
            typed |= set(inside)
        files |= dict.fromkeys(inside)
    return Films(tuple(files), frozenset(typed))


def stems(files: Sequence[str]) -> list[str]:
    """A name for each file: its own without ending, with a number where another has had it."""
    taken: dict[str, int] = {}
    found = []
    for file in files:
        name = Path(file).name
        stem = (name[: -len(".nii.gz")] if name.lower().endswith(".nii.gz") else Path(name).stem) or name
        taken[stem] = taken.get(stem, 0) + 1
        found.append(stem if taken[stem] == 1 else f"{stem}-{taken[stem]}")
    return found


def reduced(film: "Film", layers: "ndarray") -> "tuple[Film, ndarray]":
    """A film and its masks, no larger than a page shows them: a thousand whole ones fit into no memory."""
    import numpy as np
    from PIL import Image

    from diffrender.synth.films import Film

    h, w = film.values.shape
    scale = SIDE / max(h, w)
    if scale >= 1:
        return film, layers
    size = max(1, round(w * scale)), max(1, round(h * scale))
    values = np.asarray(Image.fromarray(film.values).resize(size, Image.Resampling.BOX))
    rows, columns = (((np.arange(n) + 0.5) * old / n).astype(int) for n, old in ((size[1], h), (size[0], w)))
    return Film(values.astype(np.float32), film.name, film.inverted), layers[:, rows[:, None], columns]
