"""`diffrender synth metrics`: how far made radiographs are from real ones."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diffrender.commands.console import Debug, Json, current, example
from diffrender.commands.radiograph import parse_size
from diffrender.commands.synth.films import BESIDE
from diffrender.commands.synth.learning import reading
from diffrender.commands.target import check_given
from diffrender.errors import BackendError, PathError

if TYPE_CHECKING:
    from diffrender.synth.xray_folder import XrayPictures

EXAMPLE = example("diffrender synth metrics pictures/ radiographs/")
SIZE = 128  # px
MEANINGS = {
    "histogram": "greys, matched from dark to bright [share of the grey range]",
    "spectrum": "power at each fineness [dB]",
    "patches": "patches of 7 x 7 px at every fineness (sliced Wasserstein) [x 1000]",
    "is": "Inception score of A; larger is more varied",
    "fid": "Frechet inception distance",
    "kid": "kernel inception distance",
}


def metrics(
    a: Annotated[str, typer.Argument(metavar="A", help="Made radiographs: a folder, or a data set.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Real radiographs of other people: a folder, or a data set.")],
    size: Annotated[str, typer.Option(metavar="N", help="Both are compared at N x N pixels.")] = str(SIZE),
    fidelity: Annotated[
        bool, typer.Option("--fidelity", help="Also IS, FID and KID (torch-fidelity; its weights are downloaded).")
    ] = False,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the patches drawn.")] = 0,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure how unlike two sets of radiographs look; 0 is alike, and two halves of a real set are the yardstick.

    All pictures are cut to one shape, their greys spread, bone made bright. Three distances need no network and always
    run. IS, FID and KID come from a network that knows photographs; where it cannot be had, that is said.
    """
    console = current()
    check_given({"A": a, "B": b})
    shape = parse_size(size)

    from diffrender.synth.realism import realism_distances

    reading(console, a)
    made = _pictures(a, shape)
    reading(console, b)
    real = _pictures(b, shape)
    reading(console, "patches")
    distances: dict[str, float] = realism_distances(made.pictures, real.pictures, seed)
    missing = None
    if fidelity:
        from diffrender.synth.fidelity import fidelity_distances

        reading(console, "features")
        try:
            distances |= fidelity_distances(made.pictures, real.pictures, seed=seed)
        except BackendError as problem:
            missing = str(problem)
            console.notice(missing)
    rows = [f"  {name:10} {distances[name]:8.3f}  {text}" for name, text in MEANINGS.items() if name in distances]
    counts = {"a": len(made.names), "b": len(real.names)}
    head = f"{a} ({counts['a']} radiographs) against {b} ({counts['b']}), at {shape[0]} x {shape[1]} px:"
    data = {"images": counts, "size": list(shape), "seed": seed, "distances": distances, "fidelity_missing": missing}
    console.result(data, "\n".join([head, *rows]))


def _pictures(path: str, shape: tuple[int, int]) -> "XrayPictures":
    """The radiographs of a folder, or the images of a data set, which has masks beside them. Raises: PathError."""
    from diffrender.synth.films import films_in
    from diffrender.synth.manifest import MANIFEST, read_manifest
    from diffrender.synth.xray_folder import read_xrays

    place = Path(path).expanduser()
    if place.suffix == ".jsonl" or (place / MANIFEST).is_file():
        folder = place if place.is_dir() else place.parent
        images = [folder / entry["image"] for entry in read_manifest(path)]
        parents = {image.parent for image in images}
        if len(parents) > 1:
            raise PathError(
                f"The images of {path} lie in {len(parents)} folders; they are compared from one. Copy them."
            )
        return read_xrays(parents.pop(), shape, [image.name for image in images])
    names = [file.name for file in films_in(path)] if place.is_dir() else []
    own = [name for name in names if not name.endswith(BESIDE)]
    return read_xrays(path, shape, own if len(own) < len(names) else None)
