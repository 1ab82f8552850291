"""Where cameras stand: named views of a patient as radiographers take them, and views from all around."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from diffrender.camera import Camera, looking_along
from diffrender.errors import GeometryError, LabelError, SettingError
from diffrender.volume import Volume

MARGIN = 1.02  # of the detector around the volume's shadow
TO_DETECTOR = 20.0  # from the volume's far side to the detector [mm]: a bucky's cover, a mattress
HIP_FIELD = 240.0  # side of the cube that a hip view shows [mm]
FEMUR_TOP = 50.0  # of the femur's upper end that a hip view is centred on [mm]: head, neck and trochanters
ORBIT_HALF_ANGLE = math.radians(15.0)


@dataclass(frozen=True)
class View:
    """A named view: the axes of the camera's frame (x, y, z as RAS), and how far the detector is from the source."""

    axes: tuple[tuple[float, float, float], ...]
    source_to_detector: float  # [mm]
    what: str
    source_to_isocenter: float | None = None  # [mm]; None: the volume lies close before the detector
    side: str | None = None  # "left" or "right" for a view of one hip


def _posterior_anterior() -> tuple[tuple[float, float, float], ...]:
    return (-1.0, 0.0, 0.0), (0.0, 0.0, -1.0), (0.0, 1.0, 0.0)  # seen from the detector before the patient


def _anterior_posterior(caudal: float = 0.0) -> tuple[tuple[float, float, float], ...]:
    """From before the patient; `caudal` [degrees] tilts the beam towards the feet (negative: towards the head)."""
    s, c = math.sin(math.radians(caudal)), math.cos(math.radians(caudal))
    return (-1.0, 0.0, 0.0), (0.0, s, -c), (0.0, -c, -s)


def _lateral() -> tuple[tuple[float, float, float], ...]:
    return (0.0, -1.0, 0.0), (0.0, 0.0, -1.0), (-1.0, 0.0, 0.0)  # left side at the detector, seen from it


PRESETS: dict[str, View] = {
    "frontal": View(_posterior_anterior(), 1020.0, "C-arm at 0/0, detector before the patient", 700.0),
    "c-arm": View(_posterior_anterior(), 1000.0, "mobile C-arm at 0/0, patient half-way to the detector", 550.0),
    "chest-pa": View(_posterior_anterior(), 1800.0, "standing, chest to the detector, 180 cm"),
    "chest-ap-bedside": View(_anterior_posterior(), 1000.0, "lying on the detector, tube before the patient, 100 cm"),
    "chest-lateral": View(_lateral(), 1800.0, "left side to the detector, 180 cm"),
    "pelvis-ap": View(_anterior_posterior(), 1150.0, "lying, tube before the patient, 115 cm"),
    "pelvis-inlet": View(_anterior_posterior(40.0), 1150.0, "as pelvis-ap, beam tilted 40 degrees to the feet"),
    "pelvis-outlet": View(_anterior_posterior(-40.0), 1150.0, "as pelvis-ap, beam tilted 40 degrees to the head"),
    "pelvis-lateral": View(_lateral(), 1150.0, "left side to the detector, 115 cm"),
    "hip-left": View(_anterior_posterior(), 1150.0, "as pelvis-ap, centred on the left hip joint", side="left"),
    "hip-right": View(_anterior_posterior(), 1150.0, "as pelvis-ap, centred on the right hip joint", side="right"),
    "spine-lateral": View(_lateral(), 1150.0, "left side to the detector, 115 cm"),
}


def preset(
    name: str,
    volume: Volume,
    image_size: tuple[int, int] = (256, 256),
    pixel_size: float | tuple[float, float] | None = None,
) -> Camera:
    """The camera of a named view of `volume`; `PRESETS` lists them.

    Every frontal view shows the patient's left on the image's right, head up; laterals show anterior on the image's
    left.

    Args:
        name: one of `PRESETS`.
        image_size: (height, width) [px].
        pixel_size: (row, column) step [mm], or one number; None sizes the detector to the volume's shadow, with square
            pixels.
    Raises: SettingError for an unknown name, LabelError for a hip view without labels named hip or femur.
    """
    if name not in PRESETS:
        raise SettingError(f"{name!r} is no preset; there are {', '.join(PRESETS)}.")
    view = PRESETS[name]
    direction = torch.tensor(view.axes[2], dtype=torch.float64)
    aim, shadow = (volume.centre, volume.corners) if view.side is None else _hip(volume, view.side)
    distance = view.source_to_isocenter
    if distance is None:
        depth = ((volume.corners - aim) @ direction).max().item()
        distance = view.source_to_detector - depth - TO_DETECTOR
        if distance <= 0:
            raise GeometryError(
                f"The volume reaches {depth:.0f} mm from the aim towards the detector, and {name} puts the source only "
                f"{view.source_to_detector:.0f} mm from the detector. Crop the volume, or give a camera of your own."
            )
    step = 1.0 if pixel_size is None else pixel_size
    camera = looking_along(view.axes, aim, distance, view.source_to_detector, step, image_size)
    return camera if pixel_size is not None else _sized_to(camera, shadow, name)


def orbit(volume: Volume, n: int = 16, image_size: tuple[int, int] = (200, 200), seed: int | None = 0) -> list[Camera]:
    """Eyes evenly spread over the sphere around a volume, head up, all of it in view.

    Args:
        n: how many.
        image_size: (height, width) [px].
        seed: turns the spread about the patient's long axis; None leaves it where it is.
    Raises: SettingError for fewer than one.
    Source: Fibonacci lattice; Gonzalez, Math. Geosci. 42 (2010) 49, doi:10.1007/s11004-009-9257-x.
    """
    if n < 1:
        raise SettingError(f"An orbit has at least one view, not {n}.")
    turn = 0.0 if seed is None else torch.rand(1, generator=torch.Generator().manual_seed(seed)).item() * 2 * math.pi
    golden = math.pi * (3 - math.sqrt(5))
    cameras = []
    for index in range(n):
        height = 1 - (2 * index + 1) / n
        ring, angle = math.sqrt(1 - height**2), turn + golden * index
        cameras.append(eye(volume, (ring * math.cos(angle), ring * math.sin(angle), height), image_size))
    return cameras


def eye(volume: Volume, towards: Sequence[float], image_size: tuple[int, int] = (200, 200)) -> Camera:
    """An eye that looks at the middle of a volume, head up, all of it in view from wherever it looks.

    Args:
        towards: where the eye lies as seen from the middle, RAS, of any length; (0, 1, 0) is before the patient.
        image_size: (height, width) [px].
    """
    centre, corners = volume.centre, volume.corners
    radius = (corners - centre).norm(dim=1).max().item()
    distance = radius / math.sin(ORBIT_HALF_ANGLE)
    pixel = 2 * distance * math.tan(ORBIT_HALF_ANGLE) / min(image_size)
    to_eye = torch.tensor(list(towards), dtype=torch.float64)
    axes = _eye_axes(-to_eye / to_eye.norm())
    return looking_along(axes, centre, distance, distance, pixel, image_size)


def _eye_axes(z: Float[Tensor, "3"]) -> Sequence[Sequence[float]]:
    up = torch.tensor([0.0, 0, 1] if z[2].abs() < 0.999 else [0.0, 1, 0], dtype=torch.float64)
    y = -(up - (up @ z) * z)
    y = y / y.norm()
    return [torch.linalg.cross(y, z).tolist(), y.tolist(), z.tolist()]


def _sized_to(camera: Camera, points: Float[Tensor, "n 3"], name: str) -> Camera:
    camera_from_world = torch.linalg.inv(camera.world_from_camera)
    x, y, z = (points @ camera_from_world[:3, :3].T + camera_from_world[:3, 3]).unbind(1)
    if z.min() < 1.0:
        raise GeometryError(
            f"The volume reaches behind the source of {name}, so no detector holds its shadow. "
            "Give pixel_size, crop the volume, or give a camera of your own."
        )
    height, width = camera.image_size
    across = 2 * (x / z).abs().max().item() * camera.source_to_detector / width
    down = 2 * (y / z).abs().max().item() * camera.source_to_detector / height
    step = MARGIN * max(across, down)
    return Camera(camera.world_from_camera, camera.source_to_detector, (step, step), camera.image_size)


def _hip(volume: Volume, side: str) -> tuple[Tensor, Tensor]:
    """The middle of one hip joint, and the corners of the cube around it that the view shows."""
    named = {label: volume.label_name(label).lower() for label in volume.label_ids}
    femurs, hips = ([n for n, name in named.items() if bone in name and side in name] for bone in ("femur", "hip"))
    if not femurs and not hips:
        raise LabelError(
            f"hip-{side} is aimed at a label named hip or femur and {side}; this volume has "
            f"{', '.join(named.values()) if named else 'no labels'}. Give labels and their names, or take pelvis-ap."
        )
    mask = volume.mask((femurs or hips)[0])
    k, j, i = mask.nonzero().unbind(1)
    voxels = torch.stack([i, j, k], 1).double()
    points = voxels @ volume.world_from_voxel[:3, :3].T + volume.world_from_voxel[:3, 3]
    if femurs:
        points = points[points[:, 2] > points[:, 2].max() - FEMUR_TOP]
    else:
        points = points[points[:, 2] < points[:, 2].mean()]
    aim = points.mean(0)
    ends = torch.tensor([-HIP_FIELD / 2, HIP_FIELD / 2], dtype=torch.float64)
    return aim, aim + torch.cartesian_prod(ends, ends, ends)
