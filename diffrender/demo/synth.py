"""The section on synthetic radiographs: six views as a DRR and with the physics of an X-ray machine, and a data set."""

import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from diffrender.demo.case import Case
from diffrender.demo.page import SHOWN, Picture, Section, duration
from diffrender.display import annotated
from diffrender.errors import GeometryError, LabelError, SettingError
from diffrender.physics.presets import examination
from diffrender.synth.datasets import Dataset, DatasetSettings, dataset
from diffrender.synth.imaging import Imaging
from diffrender.synth.mask_rules import masks_of, outlines_of
from diffrender.synth.views import drawn_camera, spread_preset, widened
from diffrender.synth.writers import presented
from diffrender.xray import Radiograph, RadiographSettings, radiograph, scene_of

VIEWS = ("chest-pa", "chest-ap-bedside", "chest-lateral", "pelvis-ap", "c-arm", "hip-left", "spine-lateral", "frontal")
SIX = 6
SIZE = (256, 256)
OUTLINED = ("lung_right", "lung_left", "heart", "hip_left", "hip_right", "femur_left", "femur_right", "sacrum")
IMAGES, IMAGE_SIZE, ACROSS = 20, (128, 128), 5


def synthesised(case: Case) -> Section:
    """The same rays as a DRR and as an X-ray machine takes them; then as many as wanted."""
    outlines = outlines_of(case.volume) if case.volume.label_ids else None
    pictures, times = [], []
    for name in VIEWS:
        if len(pictures) == SIX:
            break
        try:
            camera = drawn_camera(
                case.volume, widened(spread_preset(name), 0), ct_hash="", view=0, seed=0, image_size=SIZE
            )
        except (LabelError, GeometryError, SettingError):  # no lungs, no hips: not of this patient
            continue
        taken = examination(name)
        began = time.perf_counter()
        scene = scene_of(case.volume, RadiographSettings(physics=taken.physics))
        physical = radiograph(scene, camera)
        times.append(time.perf_counter() - began)
        physical = masks_of(physical, outlines=outlines) if physical.ids else physical
        drr = radiograph(case.scene, camera)
        caption = f"{name}: DRR, and with the physics ({taken.what})"
        pictures.append(Picture(_pair(drr, physical, name), caption, f"{name} twice, as DRR and as radiograph"))
    view = VIEWS[0] if "chest-pa: " in pictures[0].caption else "frontal"
    began = time.perf_counter()
    made, sheet, size = _data_set(case, view)
    took = time.perf_counter() - began
    caption = f"a data set of {IMAGES} images of {IMAGE_SIZE[0]} x {IMAGE_SIZE[1]} px, each another view ({view})"
    pictures.append(Picture(sheet, caption, f"{IMAGES} small radiographs"))
    shown = Counter(label["name"] for entry in made.entries for label in entry["labels"])
    return Section(
        "Synthetic radiographs with exact labels",
        "A DRR knows one energy and no scatter. Here a tube's spectrum passes through air, fat, soft tissue, bone and "
        "metal, scatters, meets a grid and a detector that blurs and counts photons; then greys are made of it as on a "
        "viewing station. Labels are projected along the same rays: bones wherever a ray meets them, lungs as a "
        "radiologist outlines them, above the dome of the diaphragm. The last picture is a data set, drawn around one "
        "view: images, masks, and a manifest that names them.",
        pictures,
        [
            ("a radiograph with physics and all labels, set-up included", duration(float(np.median(times)))),
            (f"the data set of {IMAGES} images with all masks", f"{duration(took)}, {size / 1e6:.1f} MB"),
            (
                "labels in it",
                f"{len(shown)}, the most frequent: {', '.join(n for n, _ in shown.most_common(5)) or '-'}",
            ),
        ],
        {"views": VIEWS[:SIX], "data set": {"view": view, "images": IMAGES, "size": IMAGE_SIZE, "seed": 0}},
    )


def _pair(drr: Radiograph, physical: Radiograph, name: str) -> UInt8[np.ndarray, "h w 3"]:
    """The DRR, and beside it what a viewing station shows, with outlines."""
    greys = presented(physical, name)
    seen = [n for n in physical.ids if physical.label_name(n) in OUTLINED and _visible(physical, n)]
    left = annotated(drr, size=SHOWN)
    right = annotated(replace(physical, pixels=greys[None]), seen, size=SHOWN, window=(0.0, 1.0))
    height = max(len(left), len(right))
    return np.concatenate([_padded(left, height), _padded(right, height)], 1)


def _visible(radiograph: Radiograph, label: int) -> bool:
    assert radiograph.masks is not None
    return bool(radiograph.masks[radiograph.ids.index(label)].any())


def _padded(image: UInt8[np.ndarray, "h w 3"], height: int) -> UInt8[np.ndarray, "height w 3"]:
    return np.pad(image, ((0, height - len(image)), (0, 0), (0, 0)))


def _data_set(case: Case, view: str) -> tuple[Dataset, UInt8[np.ndarray, "h w 3"], int]:
    """The data set, its images side by side, and how many bytes it has."""
    imaging = Imaging(view=view, image_size=IMAGE_SIZE, presented=True)
    with tempfile.TemporaryDirectory(prefix="diffrender-demo-") as folder:
        made = dataset([case.volume], folder, DatasetSettings(views=IMAGES, imaging=imaging)).run()
        pictures = [np.asarray(Image.open(Path(folder, entry["image"]))) // 257 for entry in made.entries]
        size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    rows = [np.concatenate(pictures[n : n + ACROSS], 1) for n in range(0, IMAGES, ACROSS)]
    sheet = np.concatenate(rows).astype(np.uint8)
    return made, np.repeat(sheet[..., None], 3, 2), size
