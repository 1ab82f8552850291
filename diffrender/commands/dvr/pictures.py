"""Pictures of a volume by a renderer: which are asked for, how they are drawn, written and told."""

from dataclasses import dataclass, replace
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffrender.commands.console import Console
from diffrender.commands.dvr.shared import Colour
from diffrender.commands.radiograph import WORDS
from diffrender.commands.target import Target, target_of
from diffrender.errors import notify
from diffrender.jobs import Progress

if TYPE_CHECKING:
    from torch import Tensor

    from diffrender import Camera, Volume
    from diffrender.dvr.draw import Drawing
    from diffrender.dvr.renderer import Renderer
    from diffrender.dvr.transfer import TransferFunction

SIZE = 600  # px
CAMERA, PREVIEW = ".camera.json", ".preview.png"
BLACK = (0.0, 0.0, 0.0)
FILMS = (".mp4", ".gif")
NOTHING = 1 / 255  # of alpha; less is not seen
BINS = 4096  # of a transfer function as a table: one a HU
# Where the eye lies as seen from the middle of the volume, RAS.
EYES = {
    "frontal": (0.0, 1.0, 0.0),
    "back": (0.0, -1.0, 0.0),
    "left": (-1.0, 0.0, 0.0),
    "right": (1.0, 0.0, 0.0),
    "head": (0.0, 0.0, 1.0),
    "feet": (0.0, 0.0, -1.0),
}


@dataclass(frozen=True)
class Asked:
    """Which pictures: of the cameras, of an orbit, of a turntable, or the one of a preset.

    Attributes:
        size: (height, width) [px], of the largest one.
    """

    size: tuple[int, int]
    preset: str
    cameras: "tuple[Camera, ...]" = ()
    orbit: int | None = None
    turntable: int | None = None

    @property
    def count(self) -> int:
        """How many."""
        return len(self.cameras) or self.orbit or self.turntable or 1

    def target(self, out: str | None, stem: str) -> Target:
        """Where they go. Raises: SettingError."""
        if self.turntable is not None:
            film = out is not None and out.lower().endswith(FILMS)
            return target_of(out, f"{stem}-turntable", "turntable", FILMS if film else (".png",), 1 if film else 2)
        name = "orbit" if self.orbit else "pictures" if self.cameras else self.preset
        return target_of(out, f"{stem}-{name}", "picture", (".png",), self.count)

    def files(self, target: Target) -> list[Path]:
        """All that will be written, but the provenance."""
        if target.suffix in FILMS:
            return [target.file()]
        return [target.file(ending, n) for n in range(self.count) for ending in ("", CAMERA, PREVIEW)]

    def of(self, volume: "Volume") -> "list[Camera]":
        """The cameras, now that the volume is known."""
        from diffrender.dvr.turntable import turn
        from diffrender.views import eye, orbit

        if self.cameras:
            return list(self.cameras)
        if self.turntable:
            return turn(volume, self.turntable, self.size)
        return orbit(volume, self.orbit, self.size) if self.orbit else [eye(volume, EYES[self.preset], self.size)]


def renderer_of(model: Path | None, transfer: "TransferFunction | None", sampling_rate: float | None) -> "Renderer":
    """The renderer of a model file, or one that is a transfer function. Raises: PathError."""
    from diffrender.dvr.model import load_model
    from diffrender.dvr.renderer import RendererSettings
    from diffrender.dvr.renderers import renderer

    if model is None:
        made = renderer("lookup", RendererSettings(transfer=transfer, bins=BINS))
    else:
        made = load_model(model)[0]
    if sampling_rate is not None:
        made.settings = replace(made.settings, sampling_rate=sampling_rate)
    return made


def draw(
    drawing: "Drawing", asked: Asked, target: Target, behind: Colour | None, console: Console
) -> tuple[list[Path], list[dict[str, Any]]]:
    """Write each picture and what lies beside it. Returns: the files, and what to tell of the pictures."""
    files, shown = [], []
    cameras = asked.of(drawing.volume)
    for n, camera in enumerate(cameras):
        console.progress(Progress(n, len(cameras)), "Drawing")
        image = drawing.image(camera)
        files += _write_all(image, camera, target, n, behind)
        shown.append(_summary(image, camera, target.file(n=n)))
    console.progress(Progress(len(cameras), len(cameras)), "Drawing")
    return files, shown


def film(
    drawing: "Drawing", asked: Asked, target: Target, behind: Colour | None, console: Console
) -> tuple[list[Path], list[dict[str, Any]]]:
    """Once round the patient, as a film. Returns: as `draw`. Raises: BackendError where none can be made here."""
    from diffrender.dvr.turntable import turntable

    job = turntable(drawing, target.file(), asked.count, asked.size, background=behind or BLACK)
    for progress in job:
        console.progress(progress, "Drawing")
    return job.result, []


def device_for(name: str) -> str:
    """Where to draw: as typed, or, for auto, CUDA where torch sees it."""
    if name != "auto":
        return name
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def sentences(picture: dict[str, Any]) -> list[str]:
    """What a picture shows, for a person."""
    (h, w) = picture["camera"]["image_size"]
    edges = {edge: " and ".join(WORDS[n] for n in letters) for edge, letters in picture["orientation"].items()}
    return [
        f"{picture['file']}: {h} x {w} pixels, {100 * picture['covered']:.0f} % of them covered",
        (
            f"  The patient's {edges['left']} is on the image's left, {edges['right']} on its right, "
            f"{edges['top']} on top."
        ),
    ]


def _write_all(image: "Tensor", camera: "Camera", target: Target, n: int, behind: Colour | None) -> list[Path]:
    from PIL import Image

    from diffrender.display import annotated_colours, over
    from diffrender.dvr.pictures import write_picture
    from diffrender.io.whole import whole, write_whole

    if behind is None:
        files = [write_picture(target.file(n=n), image)]
    else:
        files = [target.file(n=n)]
        with whole(files[0]) as file:
            Image.fromarray(over(image, behind)).save(file, format="PNG")
    files.append(write_whole(target.file(CAMERA, n), dumps(camera.to_dict(), indent=2) + "\n"))
    with whole(target.file(PREVIEW, n)) as file:
        Image.fromarray(annotated_colours(image, camera, background=behind or BLACK)).save(file, format="PNG")
    return [*files, target.file(PREVIEW, n)]


def _summary(image: "Tensor", camera: "Camera", file: Path) -> dict[str, Any]:
    covered = (image[3] > NOTHING).float().mean().item()
    if covered == 0:
        notify(
            f"{file} is an empty picture: nothing that this renderer shows is in sight. Check that the camera looks at "
            "the patient, and, with `diffrender info`, that the values of the CT are HU."
        )
    return {"file": file, "covered": covered, "camera": camera.to_dict(), "orientation": camera.orientation()}
