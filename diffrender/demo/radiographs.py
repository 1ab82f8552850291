"""The sections on the patient and the radiographs: views, what a detector counts, labels, a C-arm's angles, motion."""

import dataclasses
import html
import time

import numpy as np
import torch
from torch import Tensor

from diffrender.camera import c_arm, looking_along
from diffrender.demo.case import SIZE, VIEWS, Case
from diffrender.demo.page import SHOWN, SMALL, Picture, Section, duration
from diffrender.display import annotated
from diffrender.physics.attenuation import water_attenuation
from diffrender.rays.line import line_integrals, line_integrals_with_jacobian
from diffrender.views import PRESETS
from diffrender.volume import Volume
from diffrender.xray import Radiograph, radiograph

AIR = -500.0  # below it is air, outside or inside the patient [HU]
SOFT_TISSUE = (-160.0, 240.0)  # the window in which slices of a CT are read [HU]
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


def patient(case: Case) -> Section:
    volume = case.volume
    pictures = []
    for axis in range(3):
        across = int(volume.world_from_voxel[:3, 2 - axis].abs().argmax())
        name = ("Sagittal", "Coronal", "Axial")[across]
        image = slice_of(volume, axis, volume.shape[axis] // 2)
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
            ("time to draw or read it", duration(case.seconds)),
        ],
        {"world_from_voxel": volume.world_from_voxel.tolist(), "names": volume.names},
    )


def views_of(case: Case) -> Section:
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
            ("time for one, without labels", duration(bare)),
            (f"time for {len(views)}, with all labels, set-up included", duration(first)),
            *((name, f"p up to {r.pixels.max():.2f}, {r.camera}") for name, r in views.items()),
        ],
        {
            "settings": dataclasses.asdict(case.scene.settings),
            "cameras": {n: r.camera.to_dict() for n, r in views.items()},
        },
    )


def intensity(case: Case) -> Section:
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
            picture_of(
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


def projected_labels(case: Case) -> Section:
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
            picture_of(
                view, lengths[None], (0, top or 1.0), f"path in {title}, 0 to {top:.0f} mm", f"Path length in {title}"
            )
        )
        figures.append((title, f"path up to {top:.1f} mm, on {int((lengths > 1).sum())} px"))
    return Section(
        "Projected labels",
        "Every label of the CT is projected in the same pass as the picture: how many mm of it each ray meets, and "
        "from that a mask. Masks may overlap, as organs do in a radiograph.",
        pictures,
        [(f"picture with {len(view.ids)} labels", duration(seconds)), *figures],
    )


def c_arm_views(case: Case) -> Section:
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


def pose(case: Case) -> Section:
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
            picture_of(view, derivative[None], (-reach, reach), caption, f"Change of the radiograph, {name}", SHOWN)
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
        [("picture and derivatives, 192 x 192 px", duration(seconds)), *figures],
    )


def slice_of(volume: Volume, axis: int, at: int) -> np.ndarray:
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


def picture_of(
    view: Radiograph, pixels: Tensor, window: tuple[float, float], caption: str, alt: str, size: int | None = None
) -> Picture:
    """Other numbers of the same rays as greys, from black to white linearly."""
    dressed = dataclasses.replace(
        view, pixels=pixels.float(), kind="log-attenuation"
    )  # the kind whose greys are linear
    return Picture(annotated(dressed, size=size or SHOWN, window=window), caption, alt)
