"""The CT of a radius registered to two calibrated views of a wrist: real biplane frames, whose pose nobody gives.

A search through all orientations and places finds it in three pairs of frames. In the first the pose had been found by
turns about the forearm's axis and chosen by eye before, and is kept here to be compared with.
"""

import math
import sys
import time
from dataclasses import replace

import numpy as np
import torch
from cases import DATA
from PIL import Image, ImageSequence
from report import REPOSITORY, Result, Row, at_most
from scipy import ndimage

from diffrender.fit.ct_registration import WIDE_CT_SETTINGS, ct
from diffrender.fit.result import Fit
from diffrender.fit.similarity import gradients
from diffrender.fit.wide import WideSettings, without_rim
from diffrender.io import read_radiographs
from diffrender.pose import motion, way_between
from diffrender.volume import Volume
from diffrender.xray import Radiograph, radiograph

FOLDER, FRAMES = DATA / "fluoro-autoscoper", ("0002", "0099", "0158")
VOXEL = (0.39625, 0.39625, 0.625)  # mm, columns, rows, slices
SOFT = 1040.0  # in the file's numbers, HU + 1000: what a bone takes the place of
POSE = (  # world_from_bone in the first frames, by eye
    (-0.9561988, 0.2904025, 0.0367447, 107.697),
    (-0.0140683, -0.1709768, 0.9851746, 158.796),
    (0.2923797, 0.9415059, 0.1675733, 75.213),
    (0.0, 0.0, 0.0, 1.0),
)
SETTINGS = replace(WIDE_CT_SETTINGS, sizes=(110, 220), steps=15)
STARTS, OFF = 10, (5.0, 5.0)  # mm, degrees
SEARCH_NOTE = (
    "Searches look at all orientations and all places that both frames see, by the settings that are the default; "
    "nothing is marked and no shutter is masked by hand. The CT mirrored is the control: no pose of it is right."
)
STARTS_NOTE = (
    f"Starts lie evenly within {OFF[0]:g} mm and {OFF[1]:g} degrees per axis of the pose found in frame {FRAMES[0]}. "
    "No true pose comes with the data, so the spread is how well the end is determined, not how right it is."
)
SHEET = REPOSITORY / "build" / "fit-wrist.png"  # pictures of a data set that is not ours: never in the repository


def wrist() -> Result | None:
    """Where a search ends in three pairs of frames, and how far apart ten starts about its end do."""
    if not FOLDER.exists():
        return None
    bone, rows, sheet, poses = radius(), [], [], []
    for frame in FRAMES:
        row, fit = searched(f"search, frame {frame}", frame, bone)
        rows.append(row)
        poses.append(fit.world_from_model)
        sheet.append(np.concatenate([outlined(one, moved(bone, poses[-1])) for one in views(frame)], 1))
    rows.append(searched(f"search, frame {FRAMES[0]}, the CT mirrored", FRAMES[0], mirrored(bone))[0])
    SHEET.parent.mkdir(exist_ok=True)
    Image.fromarray(np.concatenate(sheet)).save(SHEET)
    way, turn = way_between(torch.tensor(POSE, dtype=torch.float64), poses[0], bone.centre)
    fits = ten([without_rim(one) for one in views(FRAMES[0])], bone, poses[0])
    ends = [fit.world_from_model for fit in fits]
    middle, turns = spread(ends, bone)
    rows += [
        at_most(f"frame {FRAMES[0]}: found, from the pose chosen by eye", way, 1.0, " mm"),
        at_most("the same, turned", turn, 1.0, " degrees"),
        at_most("spread of 10 starts, the farthest from their mean", float(middle.max()), 1.0, " mm"),
        at_most("the same, turned", float(turns.max()), 1.0, " degrees"),
        Row("median of the same", "", f"{np.median(middle):.2f} mm, {np.median(turns):.2f} degrees"),
        Row(
            "correlation of gradients, mean over both views",
            "",
            f"{min(map(alike, fits)):.3f} to {max(map(alike, fits)):.3f}",
        ),
    ]
    figures = {"found": [pose.tolist() for pose in poses], "poses": [end.tolist() for end in ends]}
    return Result(rows, figures, [SEARCH_NOTE, STARTS_NOTE])


def searched(what: str, frame: str, bone: Volume) -> tuple[Row, Fit]:
    """Where the bone is, when nothing is known of it; with the time of one core."""
    start = time.process_time()
    fit = ct(views(frame), bone, wide=WideSettings()).run()
    row = Row(what, "", f"{fit.outcome}. {fit.sentence} {time.process_time() - start:.0f} CPU s")
    print(f"{row.what}: {row.measured}", fit.world_from_model.tolist(), file=sys.stderr, flush=True)
    return row, fit


def views(frame: str) -> list[Radiograph]:
    """Both calibrated views."""
    return [
        read_radiographs(
            FOLDER / "XMA_UND" / f"xr_data_wrist_cam0{camera}" / f"xr_rad_uln_cam0{camera}_UND.{frame}.tif",
            camera=FOLDER / "Calibration" / f"xr_calib_wrist_cam0{camera}.txt",
            kind="intensity",
        )[0]
        for camera in (1, 2)
    ]


def radius() -> Volume:
    """The bone about its middle: what it attenuates beyond the soft tissue it takes the place of [HU]."""
    pages = ImageSequence.Iterator(Image.open(FOLDER / "Models" / "rad_dcm_cropped.tif"))
    values = np.stack([np.array(page) for page in pages]).astype(np.float32)
    lattice = np.diag([*VOXEL, 1.0])
    lattice[:3, 3] = -lattice[:3, :3] @ ((np.array(values.shape)[::-1] - 1) / 2)
    return Volume(torch.from_numpy(np.maximum(values - SOFT - 1000, -1000)), torch.from_numpy(lattice))


def alike(fit: Fit) -> float:
    """Correlation of gradients as they were compared, mean over the views."""
    scores = []
    for one in fit.frames:
        shown, drawn = (gradients(image) for image in (one.shown, one.predicted))
        scores.append(float((shown * drawn).sum() / (shown.norm() * drawn.norm()).clamp(min=1e-12)))
    return float(np.mean(scores))


def ten(frames: list[Radiograph], bone: Volume, pose: torch.Tensor) -> list[Fit]:
    """Where starts about a pose end."""
    random, fits = torch.Generator().manual_seed(0), []
    box = torch.tensor([OFF[0]] * 3 + [math.radians(OFF[1])] * 3, dtype=torch.float64)
    for _ in range(STARTS):
        xi = (2 * torch.rand(6, generator=random, dtype=torch.float64) - 1) * box
        start = motion(xi, pose[:3, :3] @ bone.centre + pose[:3, 3]) @ pose
        fits.append(ct(frames, bone, SETTINGS, [start]).run())
    return fits


def spread(ends: list[torch.Tensor], bone: Volume) -> tuple[np.ndarray, np.ndarray]:
    """How far each lies from their mean: the bone's middle [mm], its orientation [degrees]."""
    places = torch.stack([end[:3, :3] @ bone.centre + end[:3, 3] for end in ends])
    left, _, right = torch.linalg.svd(torch.stack([end[:3, :3] for end in ends]).mean(0))
    mean = left @ right
    cosines = torch.stack([((mean.T @ end[:3, :3]).trace() - 1) / 2 for end in ends]).clamp(-1, 1)
    return (places - places.mean(0)).norm(dim=1).numpy(), torch.rad2deg(cosines.arccos()).numpy()


def moved(bone: Volume, pose: torch.Tensor) -> Volume:
    return replace(bone, world_from_voxel=pose @ bone.world_from_voxel)


def mirrored(bone: Volume) -> Volume:
    mirror = torch.diag(torch.tensor([-1.0, 1, 1, 1], dtype=torch.float64))
    return replace(bone, world_from_voxel=mirror @ bone.world_from_voxel)


def outlined(frame: Radiograph, bone: Volume) -> np.ndarray:
    """The frame at 880 px with the bone's outline."""
    size = (880, 880)
    drawn = radiograph(bone, frame.camera.resized(size)).pixels[0].numpy()
    grey = torch.nn.functional.adaptive_avg_pool2d(frame.pixels, size)[0].numpy()
    picture = np.repeat((255 * grey).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
    inside = drawn > 0.03 * drawn.max()
    picture[inside & ~ndimage.binary_erosion(inside, iterations=2)] = (255, 40, 30)
    return picture


if __name__ == "__main__":
    sys.exit("Run `python run.py bench fit-wrist`.")
