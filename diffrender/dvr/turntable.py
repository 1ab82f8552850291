"""The patient turned once about the long axis, as a film, an animated GIF or a folder of pictures."""

import math
import tempfile
from collections.abc import Callable, Generator, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from diffrender.camera import Camera
from diffrender.display import annotated_colours, over
from diffrender.dvr.draw import Drawing
from diffrender.dvr.pictures import write_picture
from diffrender.errors import BackendError, OutputError, SettingError
from diffrender.io.whole import together, write_whole
from diffrender.jobs import Job, Progress
from diffrender.views import eye
from diffrender.volume import Volume

FRAMES = 72
SECONDS = 6.0  # for one turn
Frame = UInt8[np.ndarray, "h w 3"]


def turn(
    volume: Volume, n: int = FRAMES, image_size: tuple[int, int] = (600, 600), elevation: float = 0.0
) -> list[Camera]:
    """Eyes on a circle about the patient's long axis, head up, the whole volume in view.

    They begin before the patient and go to his left, so that he seems to turn to his right.

    Args:
        n: how many, evenly spread.
        image_size: (height, width) [px].
        elevation: how high above the middle the eyes lie [degrees], towards the head.
    Raises: SettingError.
    """
    if n < 1:
        raise SettingError(f"A turn has one picture or more, not {n}.")
    if not -89 <= elevation <= 89:
        raise SettingError(f"The elevation of a turn goes from -89 to 89 degrees; {elevation:g} does not.")
    height = math.tan(math.radians(elevation))
    angles = [2 * math.pi * number / n for number in range(n)]
    return [eye(volume, (-math.sin(angle), math.cos(angle), height), image_size) for angle in angles]


def turntable(
    drawing: Drawing,
    path: str | Path,
    n: int = FRAMES,
    image_size: tuple[int, int] = (600, 600),
    elevation: float = 0.0,
    background: tuple[float, float, float] = (0.0, 0.0, 0.0),
    letters: bool = True,
) -> Job[list[Path]]:
    """A job that draws one turn and writes it, whole or not at all.

    Args:
        path: NAME.mp4 (needs imageio-ffmpeg), NAME.gif, or a folder, which gets 0000.png and so on with straight alpha.
        n, image_size, elevation: as in `turn`.
        background: of the film or GIF, sRGB 0..1; pictures in a folder have none.
        letters: whether a film or GIF shows orientation letters and the notice.
    Returns: the job; its result is the files. Each `Progress` has the frame as its preview.
    Raises: SettingError, OutputError, BackendError; before anything is drawn.
    """
    place = Path(path)
    cameras = turn(drawing.volume, n, image_size, elevation)
    if place.suffix == "":
        _refuse_filled(place)
        return Job(_folder(drawing, cameras, place))
    if place.suffix not in _WRITERS:
        raise SettingError(f"{path}: a turntable is written as {', '.join(_WRITERS)}, or a folder of pictures.")
    write = _WRITERS[place.suffix]()
    return Job(_film(drawing, cameras, place, write, background if letters else None, background))


def _film(
    drawing: Drawing,
    cameras: Sequence[Camera],
    place: Path,
    write: Callable[[list[Frame]], bytes],
    lettered: tuple[float, float, float] | None,
    background: tuple[float, float, float],
) -> Generator[Progress, None, list[Path]]:
    frames = []
    for done, camera in enumerate(cameras, 1):
        image = drawing.image(camera)
        size = max(camera.image_size)
        frames.append(over(image, background) if lettered is None else annotated_colours(image, camera, size, lettered))
        yield Progress(done, len(cameras), preview=image)
    return [write_whole(place, write(frames))]


def _folder(drawing: Drawing, cameras: Sequence[Camera], place: Path) -> Generator[Progress, None, list[Path]]:
    files = []
    with together():
        for done, camera in enumerate(cameras, 1):
            image = drawing.image(camera)
            files.append(write_picture(place / f"{done - 1:04d}.png", image))
            yield Progress(done, len(cameras), preview=image)
    return files


def _refuse_filled(folder: Path) -> None:
    if folder.is_dir() and any(folder.iterdir()):
        raise OutputError(
            f"{folder} holds files already, and pictures of another turn among these would be shown as one film. Give "
            "a new folder, or a name that ends with .gif or .mp4."
        )


def _gif() -> Callable[[list[Frame]], bytes]:
    def write(frames: list[Frame]) -> bytes:
        # Colours of their own for every frame: one palette for all shows bands where the first frame had none.
        first, *others = [Image.fromarray(frame).quantize(256) for frame in frames]
        content = BytesIO()
        duration = max(20, round(1000 * SECONDS / len(frames)))
        first.save(content, format="GIF", save_all=True, append_images=others, duration=duration, loop=0)
        return content.getvalue()

    return write


def _mp4() -> Callable[[list[Frame]], bytes]:
    try:
        import imageio_ffmpeg  # pyright: ignore[reportMissingImports]  # an extra that few need
    except ImportError:
        raise BackendError(
            "A film needs the package imageio-ffmpeg, which is not installed: `pip install imageio-ffmpeg`. Or give a "
            "name that ends with .gif, or a folder."
        ) from None

    def write(frames: list[Frame]) -> bytes:
        height, width = frames[0].shape[:2]
        with tempfile.TemporaryDirectory(prefix="diffrender-") as folder:
            film = Path(folder, "film.mp4")
            even = (height // 2 * 2, width // 2 * 2)  # H.264 halves the resolution of colours
            rate = len(frames) / SECONDS
            writing = imageio_ffmpeg.write_frames(
                str(film),
                even[::-1],
                fps=rate,  # pyright: ignore[reportArgumentType] # a fraction goes to ffmpeg as it is
                macro_block_size=2,
                quality=8,
            )
            writing.send(None)
            for frame in frames:
                writing.send(np.ascontiguousarray(frame[: even[0], : even[1]]))
            writing.close()
            return film.read_bytes()

    return write


_WRITERS = {".mp4": _mp4, ".gif": _gif}
