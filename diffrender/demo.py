"""Everything the library does, on one page: `python -m diffrender demo`. A new pipeline is one line in SECTIONS."""

import base64
import dataclasses
import html
import io
import json
import os
import platform
import string
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Shaped
from PIL import Image
from torch import Tensor

from diffrender import __version__
from diffrender.camera import c_arm, looking_along
from diffrender.display import annotated
from diffrender.errors import BackendError
from diffrender.io import read_volume
from diffrender.io.whole import write_whole
from diffrender.jobs import Progress
from diffrender.phantom import torso
from diffrender.physics.attenuation import water_attenuation
from diffrender.provenance import write_provenance
from diffrender.rays.line import line_integrals, line_integrals_with_jacobian
from diffrender.views import PRESETS, orbit, preset
from diffrender.volume import Volume
from diffrender.xray import Radiograph, RadiographSettings, Scene, radiograph, scene_of

SIZE = (384, 384)  # of the radiographs [px]
SHOWN, SMALL = 350, 255  # longer side of a picture on the page [px]: three or four stand side by side
AIR = -500.0  # below it is air, outside or inside the patient [HU]
SOFT_TISSUE = (-160.0, 240.0)  # the window in which slices of a CT are read [HU]
TEMPLATE = Path(__file__).with_name("data") / "demo.html"
# What a view is about: it is centred on the labels whose names hold one of these words, along the patient's axis.
VIEWS = {"chest-pa": ("lung", "clavicula"), "chest-lateral": ("lung", "clavicula"), "pelvis-ap": ("hip", "femur")}
UNNAMED = ("frontal", "spine-lateral")  # the views where no label tells what part of the patient this is
COLOURED = {
    "chest-pa": ("lung", "heart", "clavicula", "aorta"),
    "pelvis-ap": ("hip", "femur", "sacrum", "urinary_bladder"),
}
MOTIONS = (
    "shift to R",
    "shift to A",
    "shift to H",
    "turn about the R axis",
    "turn about the A axis",
    "turn about the H axis",
)
MOSTLY_AIR = 0.9  # of the beam: what lets more through is beside the patient
MOST_COLOURED = 12  # labels drawn into one picture; more cannot be told apart


@dataclass(frozen=True, eq=False)
class Case:
    """What the demo is about: a volume, what to call it, and how long it took to get [s]."""

    volume: Volume
    subject: str
    seconds: float

    @cached_property
    def scene(self) -> Scene:
        return scene_of(self.volume, RadiographSettings())

    @cached_property
    def views(self) -> dict[str, Radiograph]:
        """A radiograph for each of VIEWS that the volume has labels for; without any, from the front and the side."""
        cameras = {name: preset(name, part, SIZE) for name, words in VIEWS.items() if (part := self.around(words))}
        if not cameras:
            cameras = {name: preset(name, self.volume, SIZE) for name in UNNAMED}
        return {name: radiograph(self.scene, camera) for name, camera in cameras.items()}

    def named(self, words: Sequence[str]) -> list[int]:
        return [n for n in self.volume.label_ids if any(word in self.volume.label_name(n).lower() for word in words)]

    def around(self, words: Sequence[str]) -> Volume | None:
        """The part of the volume, cut across the patient's long axis, that holds some labels; None without them."""
        ids = self.named(words)
        if not ids:
            return None
        axis = 2 - int(self.volume.world_from_voxel[2, :3].abs().argmax())  # of the array (k, j, i)
        across = tuple(n for n in range(3) if n != axis)
        held = torch.stack([self.volume.mask(label).any(dim=across) for label in ids]).any(dim=0).nonzero()
        first, last = int(held[0]), int(held[-1])
        lattice = self.volume.world_from_voxel.clone()
        lattice[:3, 3] += lattice[:3, 2 - axis] * first
        return Volume(self.volume.values.narrow(axis, first, last - first + 1), lattice)


@dataclass(frozen=True, eq=False)
class Picture:
    """An image (h, w, 3), what stands under it, and what it says to those who do not see it."""

    image: Shaped[np.ndarray, "h w 3"]
    caption: str
    alt: str


@dataclass(frozen=True, eq=False)
class Section:
    """A part of the page. `figures` are rows (what, value), `settings` is what a program would read."""

    title: str
    text: str
    pictures: Sequence[Picture] = ()
    figures: Sequence[tuple[str, str]] = ()
    settings: object = None


def write_demo(
    folder: Path,
    ct: Path | None,
    labels: Path | None,
    progress: Callable[[Progress, str], None] | None = None,
    names: str | Path | None = None,
) -> Path:
    """Run every pipeline and write `folder`/index.html: one file that needs no other.

    Args:
        ct: a CT of the user's, as `read_volume` takes it; None for the torso that the library draws.
        labels: its labels.
        progress: called before each section.
        names: the table of the labels' names, as `read_volume` takes it.
    Returns: the page.
    Raises: what reading and casting raise; OutputError where the page cannot be written.
    """
    tell = progress or (lambda progress, what: None)
    total = len(SECTIONS) + 1
    tell(Progress(0, total), "Drawing the torso" if ct is None else f"Reading {ct}")
    start = time.perf_counter()
    volume = torso() if ct is None else read_volume(ct, labels, names)
    subject = "a torso that the library draws itself" if ct is None else Path(ct).name
    case = Case(volume, subject, time.perf_counter() - start)
    sections: dict[str, Section] = {}
    for number, (name, make) in enumerate(SECTIONS.items(), 1):
        tell(Progress(number, total), name.replace("-", " ").capitalize())
        sections[name] = make(case)
    page = write_whole(Path(folder) / "index.html", _page(case, sections, time.perf_counter() - start))
    settings = {"ct": None if ct is None else str(ct), "labels": None if labels is None else str(labels)}
    settings["names"] = None if names is None else str(names)
    write_provenance(
        folder, ["diffrender", "demo"], settings, [path for path in (ct, labels) if path is not None], seed=0
    )
    tell(Progress(total, total), "Writing the page")
    return page


def _patient(case: Case) -> Section:
    volume = case.volume
    pictures = []
    for axis in range(3):
        across = int(volume.world_from_voxel[:3, 2 - axis].abs().argmax())
        name = ("Sagittal", "Coronal", "Axial")[across]
        image = _slice(volume, axis, volume.shape[axis] // 2)
        pictures.append(
            Picture(image, f"{name} slice through the middle", f"{name} slice of the CT, soft-tissue window")
        )
    values = volume.values[:: max(1, volume.shape[0] // 64)].float()
    body = values[values > AIR] if (values > AIR).any() else values
    low, middle, high = np.percentile(body.numpy(), [1, 50, 99.9]).tolist()
    return Section(
        "The patient",
        f"The CT that all pictures below are made of: {html.escape(case.subject)}. Window {SOFT_TISSUE[0]:g} to "
        f"{SOFT_TISSUE[1]:g} HU. HU are kept as they were read; attenuation is made of them when rays are cast.",
        pictures,
        [
            ("volume", repr(volume)),
            (f"above {AIR:g} HU: 1st, 50th and 99.9th percentile", f"{low:.0f}, {middle:.0f} and {high:.0f} HU"),
            ("labels", f"{len(volume.label_ids)}" if volume.label_ids else "none"),
            ("time to draw or read it", _seconds(case.seconds)),
        ],
        {"world_from_voxel": volume.world_from_voxel.tolist(), "names": volume.names},
    )


def _radiographs(case: Case) -> Section:
    start = time.perf_counter()
    views = case.views
    first = time.perf_counter() - start
    start = time.perf_counter()
    for view in views.values():
        line_integrals(case.scene.attenuation, case.volume.world_from_voxel, view.camera)
    bare = (time.perf_counter() - start) / len(views)
    return Section(
        "Radiographs",
        "Views as radiographers take them, each made by one call: <code>dr.radiograph(volume, dr.preset(name, "
        "volume))</code>. Grey is log-attenuation, the p of Beer and Lambert's law I = I<sub>0</sub> exp(-p): the more "
        "matter, the brighter.",
        [
            Picture(annotated(r, size=SHOWN), f"{name}: {PRESETS[name].what}", f"Radiograph {name}, bone bright")
            for name, r in views.items()
        ],
        [
            ("image", f"{SIZE[0]} x {SIZE[1]} px"),
            ("time for one, without labels", _seconds(bare)),
            (f"time for {len(views)}, with all labels, set-up included", _seconds(first)),
            *((name, f"p up to {r.pixels.max():.2f}, {r.camera}") for name, r in views.items()),
        ],
        {
            "settings": dataclasses.asdict(case.scene.settings),
            "cameras": {n: r.camera.to_dict() for n, r in views.items()},
        },
    )


def _intensity(case: Case) -> Section:
    name, view = next(iter(case.views.items()))
    share = torch.exp(-view.pixels)
    behind = share[share < MOSTLY_AIR]
    brightest = min(1.0, 3 * float(behind.median())) if behind.numel() else 1.0
    water = water_attenuation(case.scene.settings.energy)
    return Section(
        "What the detector counts",
        "The same rays as log-attenuation, and as the share of the beam that arrives, with bone dark and air white: "
        '<code>RadiographSettings(kind="intensity")</code>. HU become attenuation as those of denser or thinner water.',
        [
            Picture(
                annotated(view, size=SHOWN), "log-attenuation", f"Radiograph {name} as log-attenuation, bone bright"
            ),
            _picture(
                view,
                share,
                (0.0, brightest),
                f"intensity, 0 to {brightest:.2g} of the beam",
                f"Radiograph {name} as intensity, bone dark",
            ),
        ],
        [
            ("energy", f"{case.scene.settings.energy:g} keV; water attenuates {water:.5f} / mm"),
            ("darkest pixel", f"{share.min():.4f} of the beam"),
            ("median behind the body", f"{behind.median():.4f} of the beam" if behind.numel() else "nothing but air"),
        ],
    )


def _labels(case: Case) -> Section:
    if not case.volume.label_ids:
        return Section(
            "Projected labels",
            "This CT came without labels. Give them with <code>--labels FILE</code>; every one of them is projected "
            "along the very rays that make the picture.",
        )
    pictures, figures = [], []
    for name, view in case.views.items():
        ids = (case.named(COLOURED.get(name, ())) or list(view.ids))[:MOST_COLOURED]
        if name in COLOURED or name not in VIEWS:
            pictures.append(
                Picture(
                    annotated(view, ids, size=SHOWN), f"{name} with labels", f"Radiograph {name} with outlined labels"
                )
            )
    view = next(iter(case.views.values()))
    assert view.path_lengths is not None
    lengths_of = dict(zip(view.ids, view.path_lengths, strict=True))
    start = time.perf_counter()
    radiograph(case.scene, view.camera)
    seconds = time.perf_counter() - start
    for label in sorted(view.ids, key=lambda n: -float(lengths_of[n].max()))[:3]:
        lengths = lengths_of[label]
        top = float(lengths.max())
        title = view.label_name(label)
        pictures.append(
            _picture(
                view, lengths[None], (0, top or 1.0), f"path in {title}, 0 to {top:.0f} mm", f"Path length in {title}"
            )
        )
        figures.append((title, f"path up to {top:.1f} mm, on {int((lengths > 1).sum())} px"))
    return Section(
        "Projected labels",
        "Every label of the CT is projected in the same pass as the picture: how many mm of it each ray meets, and "
        "from that a mask. Masks may overlap, as organs do in a radiograph.",
        pictures,
        [(f"picture with {len(view.ids)} labels", _seconds(seconds)), *figures],
    )


def _c_arm(case: Case) -> Section:
    angles = {"LAO 40": (40, 0), "RAO 30": (-30, 0), "cranial 25": (0, 25), "LAO 20, caudal 20": (20, -20)}
    part = case.around(("hip", "sacrum")) or case.volume
    cameras = {
        name: c_arm(part.centre, primary, secondary, pixel_size=1.35, image_size=(256, 256))
        for name, (primary, secondary) in angles.items()
    }
    pictures = [
        Picture(annotated(radiograph(case.scene, camera), size=SMALL), name, f"C-arm radiograph at {name}")
        for name, camera in cameras.items()
    ]
    return Section(
        "C-arm",
        "Angles as DICOM writes them: positive primary turns the detector to the patient's left (LAO), positive "
        "secondary to the head (cranial). The picture is seen from the detector and never flips.",
        pictures,
        [(name, str(camera)) for name, camera in cameras.items()],
        {name: camera.to_dict() for name, camera in cameras.items()},
    )


def _pose(case: Case) -> Section:
    camera = next(iter(case.views.values())).camera.resized((192, 192))
    lattice, held = case.volume.world_from_voxel, case.scene.attenuation
    start = time.perf_counter()
    p, jacobian = line_integrals_with_jacobian(held, lattice, camera)
    seconds = time.perf_counter() - start
    view = Radiograph(p[None], "log-attenuation", camera)
    pictures, figures = [], []
    steps = (0.01,) * 3 + (3e-5,) * 3  # [mm], [rad]: as small as single precision bears
    for n, name in enumerate(MOTIONS):
        derivative = jacobian[..., n]
        reach = float(torch.quantile(derivative.abs().flatten(), 0.995)) or 1.0
        unit = "mm" if n < 3 else "rad"
        caption = f"{name}: -{reach:.3g} to {reach:.3g} / {unit}"
        pictures.append(
            _picture(view, derivative[None], (-reach, reach), caption, f"Change of the radiograph, {name}", SHOWN)
        )
        xi = torch.zeros(2, 6)
        xi[0, n], xi[1, n] = steps[n], -steps[n]
        there, back = line_integrals(held, lattice, camera, xi)
        slope = (there - back) / (2 * steps[n])
        figures.append((name, f"{float((slope - derivative).norm() / derivative.norm()):.2%} from finite differences"))
    return Section(
        "How the picture changes when the patient moves",
        "The derivative of every pixel in six motions of the patient, worked out in the same pass as the picture; "
        "mid-grey is no change. Registration follows it from a first guess to the pose that fits a real radiograph. "
        "(Finite differences come close, not equal: linear interpolation has a kink at every voxel, and this CT noise. "
        "The tests compare them on a smooth volume, to 0.1 %.)",
        pictures,
        [("picture and derivatives, 192 x 192 px", _seconds(seconds)), *figures],
    )


def _backends(case: Case) -> Section:
    camera = next(iter(case.views.values())).camera.resized((192, 192))
    results: dict[str, Tensor] = {}
    figures: list[tuple[str, str]] = []
    for backend in ("torch", "warp"):
        try:
            seconds = []
            for _ in range(3):
                start = time.perf_counter()
                results[backend] = line_integrals(
                    case.scene.attenuation, case.volume.world_from_voxel, camera, backend=backend
                )
                seconds.append(time.perf_counter() - start)
            figures.append((backend, f"{_seconds(min(seconds))} for 192 x 192 px, the best of three"))
        except BackendError as problem:
            figures.append((backend, str(problem)))
    if len(results) == 2:
        apart = float((results["torch"] - results["warp"]).norm() / results["torch"].norm())
        figures.append(("difference of the two pictures", f"{apart:.1e} (relative L2)"))
    return Section(
        "Two engines, one answer",
        "A plain torch version is the reference and runs everywhere; fused kernels (warp) do the same work faster "
        'where they run. <code>backend="auto"</code> takes what is there.',
        figures=figures,
    )  # fmt: skip


def _batch(case: Case) -> Section:
    cameras = orbit(case.volume, n=8, image_size=(160, 160))
    start = time.perf_counter()
    p = line_integrals(case.scene.attenuation, case.volume.world_from_voxel, cameras)
    seconds = time.perf_counter() - start
    alone = line_integrals(case.scene.attenuation, case.volume.world_from_voxel, cameras[3])
    views = [Radiograph(image[None], "log-attenuation", camera) for image, camera in zip(p, cameras, strict=True)]
    return Section(
        "Many cameras at once",
        "Eyes spread evenly over the sphere, in one call: a batch is a sequence of cameras. A view comes out of a "
        "batch as it comes out alone.",
        [
            Picture(annotated(view, size=SMALL), f"eye {n}", f"Radiograph from eye {n} of the orbit")
            for n, view in enumerate(views)
        ],
        [
            ("8 views of 160 x 160 px", _seconds(seconds)),
            ("largest difference between a view alone and in the batch", f"{float((p[3] - alone).abs().max()):.1e}"),
        ],
    )


# The page, from top to bottom: a name for links and progress, and what makes the section.
SECTIONS: dict[str, Callable[[Case], Section]] = {
    "patient": _patient,
    "radiographs": _radiographs,
    "intensity": _intensity,
    "labels": _labels,
    "c-arm": _c_arm,
    "pose": _pose,
    "backends": _backends,
    "batch": _batch,
}


def _slice(volume: Volume, axis: int, at: int) -> np.ndarray:
    """A slice with its letters. It is dressed as what a camera sees that looks along the lattice, so that both kinds of
    picture are lettered and sized by the same code; the patient's left or back comes to the right, the head up."""
    pixels = volume.values.select(axis, at)
    rows, columns = (n for n in range(3) if n != axis)
    directions = volume.world_from_voxel[:3, :3] / volume.world_from_voxel[:3, :3].norm(dim=0)
    down, right = directions[:, 2 - rows], directions[:, 2 - columns]
    if right[right.abs().argmax()] > 0:  # columns grow to L or P
        pixels, right = pixels.flip(1), -right
    if down[down.abs().argmax()] > 0:  # rows grow to P or F
        pixels, down = pixels.flip(0), -down
    normal = torch.linalg.cross(right, down)
    camera = looking_along(
        [right.tolist(), down.tolist(), normal.tolist()], volume.centre, 1.0, 1.0,
        (volume.spacing[rows], volume.spacing[columns]), (pixels.shape[0], pixels.shape[1]),
    )  # fmt: skip
    return annotated(Radiograph(pixels.float()[None], "log-attenuation", camera), size=SHOWN, window=SOFT_TISSUE)


def _picture(
    view: Radiograph, pixels: Tensor, window: tuple[float, float], caption: str, alt: str, size: int | None = None
) -> Picture:
    """Other numbers of the same rays as greys, from black to white linearly."""
    dressed = dataclasses.replace(
        view, pixels=pixels.float(), kind="log-attenuation"
    )  # the kind whose greys are linear
    return Picture(annotated(dressed, size=size or SHOWN, window=window), caption, alt)


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _page(case: Case, sections: dict[str, Section], seconds: float) -> str:
    contents = "\n".join(f'<li><a href="#{name}">{html.escape(s.title)}</a></li>' for name, s in sections.items())
    footer = (
        f"DiffRender {__version__}, torch {torch.__version__}, numpy {np.__version__}, "
        f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores. "
        f"Made in {_seconds(seconds)}. Research use only, not a medical device. This page is one file and asks nothing "
        "of the network."
    )
    template = string.Template(TEMPLATE.read_text(encoding="utf-8"))
    return template.substitute(
        subject=html.escape(case.subject),
        contents=contents,
        sections="\n".join(_section(name, section) for name, section in sections.items()),
        footer=html.escape(footer),
    )


def _section(name: str, section: Section) -> str:
    pictures = "\n".join(_figure(picture) for picture in section.pictures)
    rows = "\n".join(
        f"<tr><td>{html.escape(what)}</td><td>{html.escape(value)}</td></tr>" for what, value in section.figures
    )
    parts = [f'<section id="{name}">', f"<h2>{html.escape(section.title)}</h2>", f"<p>{section.text}</p>"]
    parts += [f'<div class="pictures">\n{pictures}\n</div>'] if pictures else []
    parts += [f"<table>\n{rows}\n</table>"] if rows else []
    if section.settings is not None:
        settings = html.escape(json.dumps(section.settings, indent=1))
        parts.append(f"<details><summary>Settings</summary><pre>{settings}</pre></details>")
    return "\n".join([*parts, "</section>"])


def _figure(picture: Picture) -> str:
    image = Image.fromarray(picture.image)
    grey = bool((picture.image == picture.image[..., :1]).all())
    buffer = io.BytesIO()
    (image.convert("L") if grey else image).save(buffer, "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return (
        f'<figure><img src="data:image/png;base64,{data}" width="{image.width}" height="{image.height}" '
        f'alt="{html.escape(picture.alt)}"><figcaption>{html.escape(picture.caption)}</figcaption></figure>'
    )
