"""People for a shape model from CTs and their segmentations: the parametric pelvis warped to each."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from diffrender.errors import SettingError

if TYPE_CHECKING:
    from diffrender.mesh import Mesh


def check_people(cts: Sequence[str], segmentations: Sequence[str], excluded: Sequence[str], sample: str | None) -> None:
    """Raises: SettingError where they are no pairs, one person, or something is asked that an atlas alone has."""
    if len(cts) != len(segmentations):
        raise SettingError(
            f"{len(cts)} CT{'s' * (len(cts) != 1)} and {len(segmentations)} segmentation"
            f"{'s' * (len(segmentations) != 1)} were given: each segmentation belongs to one CT, in the same order."
        )
    if excluded or sample is not None:
        what = "--exclude" if excluded else "--sample"
        raise SettingError(f"{what} is of an atlas; with --segmentations the CTs that are named are the people.")
    if len(cts) < 2:
        raise SettingError(
            "A shape model tells how people differ, and one CT is given: give two at least, better twenty."
        )


def people_of(
    cts: Sequence[str], segmentations: Sequence[str], names: str | None, progress: Callable[[int, int], object]
) -> "tuple[list[dict[str, Mesh]], dict[str, Any]]":
    """{part: Mesh} of each person in one correspondence, and what to note in the model.

    Args:
        names: the table that names the labels, as `read_volume` takes it.
        progress: called with (done, total).
    Raises: LabelError where a bone is missing, and what `read_volume` raises.
    """
    from diffrender import read_volume
    from diffrender.fit.correspond import in_correspondence
    from diffrender.fit.parametric import default_pelvis

    template = default_pelvis()
    bodies, distances = [], []
    for n, (ct, labels) in enumerate(zip(cts, segmentations, strict=True)):
        progress(n, len(cts))
        meshes, errors = in_correspondence([read_volume(ct, labels=labels, names=names)], template)
        bodies += meshes
        distances.append({part: error.from_body for part, error in errors[0].items()})
    mean = {part: sum(one[part] for one in distances) / len(distances) for part in distances[0]}
    ids = [f"person {n}" for n in range(1, len(cts) + 1)]  # no names of files, which may be those of patients
    return bodies, {"ids": ids, "template": "parametric", "correspondence error [mm]": mean}
