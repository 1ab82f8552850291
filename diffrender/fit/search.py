"""Where a fit begins when nobody marked anything: a grid of views of a patient lying straight, looked at coarsely.

For each view the mean shape is drawn once, larger than the frame, and the frame is slid over it by FFT; the best place
of each view is kept. Compared are masks, where the frame has them, or intensities.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from diffrender.camera import Camera, c_arm
from diffrender.errors import LabelError, SettingError
from diffrender.fit.frames import Frame, blurred, frame_of, radii_of
from diffrender.fit.settings import FitSettings
from diffrender.fit.shape import ShapeModel
from diffrender.fit.similarity import SOFT_EDGE, gradients
from diffrender.fit.start import USUAL_DEPTH, Start
from diffrender.mesh import Mesh
from diffrender.rays.surface import surface_pass
from diffrender.xray import Radiograph


@dataclass(frozen=True)
class PresetSettings:
    """Which views are tried, and how coarsely.

    Attributes:
        primary, secondary: C-arm angles about a patient who lies straight [degrees].
        roll: turns of the picture in its plane [degrees].
        depths: of the body's middle beyond the isocentre, along the beam [mm].
        size: of the frame's longer side [px].
        blur: what is wider than this is no bone's edge [mm on the image plane]; for intensities.
        keep: how many starts are returned at most.
        apart: starts nearer than this [degrees] count as one, the better.
        backend: of the rays.
    Raises: SettingError.
    """

    primary: tuple[float, ...] = (-45.0, -30.0, -15.0, 0.0, 15.0, 30.0, 45.0)
    secondary: tuple[float, ...] = (-30.0, -15.0, 0.0, 15.0, 30.0)
    roll: tuple[float, ...] = (0.0,)
    depths: tuple[float, ...] = (-80.0, 0.0, 80.0)
    size: int = 64
    blur: float = 40.0
    keep: int = 6
    apart: float = 8.0
    backend: str = "auto"

    def __post_init__(self):
        if not all((self.primary, self.secondary, self.roll, self.depths)):
            raise SettingError(
                "A search looks at one angle and one depth at least: give (0,) where none is looked for."
            )
        if self.size < 16 or self.keep < 1 or not self.apart >= 0 or not self.blur > 0:
            raise SettingError(f"size is 16 px or more, keep 1 or more, blur above zero: {self}.")


def starts_from_presets(
    radiograph: Radiograph, model: ShapeModel, labels: bool = False, settings: PresetSettings | None = None
) -> list[Start]:
    """Places where the mean shape looks like the frame, the most alike first.

    Args:
        radiograph: whose camera need not know the patient: only how the image lies to the source matters. The body
            comes to lie in that camera's world. A world's origin inside the beam is taken for the isocentre.
        model: a pelvis, in its own frame as a patient lies straight.
        labels: compare masks (of labels named as the model's parts; pixels of other labels hide it and count for
            nothing) and not intensities.
    Raises: LabelError where no mask is one of the model's parts; ImageError for a frame of constant value.
    """
    settings = PresetSettings() if settings is None else settings
    frame = frame_of(radiograph, settings.size, FitSettings(blur=settings.blur))
    camera, weights = frame.camera, frame.weights
    wide = _widened(camera)
    parts = _parts(model)
    if labels:
        wanted, hidden = _label_masks(frame.masks, frame.parts, [name for name, _ in model.parts])
        look = _Overlap(wanted, weights * (1 - hidden))
    else:
        look = _Likeness(frame)
    found = []
    for rotation in _views(camera, settings):
        for depth in settings.depths:
            pose = _placed(rotation, model, camera, depth)
            drawn = _drawn(parts, pose, wide, settings.backend)
            score, row, column = look.best(drawn)
            offset = (camera.image_size[0] // 2 - row, camera.image_size[1] // 2 - column)
            found.append((score, _aimed(pose, camera, offset)))
    return _apart(found, settings)


def named_part(label: str, parts: Sequence[str]) -> str | None:
    """The part that a label means: "hip_left", "left-hemipelvis" and "Left hip" are "left hip"."""
    return next((part for part in parts if _words(part) == _words(label)), None)


def _words(name: str) -> frozenset[str]:
    words = name.lower().replace("_", " ").replace("-", " ").split()
    same = {"hemipelvis": "hip", "hips": "hip", "innominate": "hip"}
    return frozenset(same.get(word, word) for word in words) - {"bone", "upper"}


class _Overlap:
    """Dice of masks, at every shift of a frame over a larger picture."""

    def __init__(self, masks: Float[Tensor, "part h w"], weights: Float[Tensor, "h w"]):
        self.area = float((masks * weights).sum())
        self.masks, self.weights = _reversed(masks * weights), _reversed(weights[None])
        self.size = (weights.shape[0], weights.shape[1])

    def best(self, lengths: Float[Tensor, "part h2 w2"]) -> tuple[float, int, int]:
        shown = 1 - torch.exp(-lengths / SOFT_EDGE)
        both = _slid(self.masks, shown, self.size).sum(0)
        area = _slid(self.weights, shown.sum(0, keepdim=True), self.size)[0]
        return _highest(2 * both / (self.area + area).clamp(min=1e-6))


class _Likeness:
    """Gradient correlation under local contrast, at every shift of a frame over a larger picture.

    On real frames the best place by it was the right one more often than by a correlation of the pictures themselves:
    neighbouring bones are as bright as what is looked for, and their edges run otherwise.
    """

    def __init__(self, frame: Frame):
        self.radii = radii_of(frame.camera, frame.blur)
        weights = frame.weights / frame.contrast.square()
        edges = gradients(frame.high_passed(frame.image))
        self.norms = (edges.square() * weights).sum((-2, -1)).sqrt()[:, None, None]
        self.edges, self.weights = _reversed(edges * weights), _reversed(weights[None])
        self.size = (frame.image.shape[0], frame.image.shape[1])

    def best(self, lengths: Float[Tensor, "part h2 w2"]) -> tuple[float, int, int]:
        shown = lengths.sum(0)
        edges = gradients(shown - blurred(shown, self.radii))
        match, energy = _slid(self.edges, edges, self.size), _slid(self.weights, edges.square(), self.size)
        energy = energy.clamp(min=0)
        # A place where hardly anything is drawn is like anything.
        floor = 0.1 * energy.amax((-2, -1), keepdim=True)
        return _highest((match / (self.norms * (energy + floor).sqrt()).clamp(min=1e-9)).mean(0))


def _reversed(images: Float[Tensor, "n h w"]) -> Tensor:
    """The conjugate spectrum of images, in twice their size."""
    return torch.fft.rfft2(images, s=(2 * images.shape[1], 2 * images.shape[2])).conj()


def _slid(spectrum: Tensor, larger: Float[Tensor, "n h2 w2"], size: tuple[int, int]) -> Float[Tensor, "n h1 w1"]:
    """Sums of products with a picture twice as large, the small one's corner at rows 0 to h and columns 0 to w."""
    height, width = larger.shape[-2:]
    found = torch.fft.irfft2(spectrum * torch.fft.rfft2(larger), s=(height, width))
    return found[..., : size[0] + 1, : size[1] + 1]


def _highest(scores: Float[Tensor, "h w"]) -> tuple[float, int, int]:
    at = int(scores.argmax())
    return float(scores.max()), at // scores.shape[1], at % scores.shape[1]


def _label_masks(
    masks: Tensor | None, names: Sequence[str], parts: Sequence[str]
) -> tuple[Float[Tensor, "part h w"], Float[Tensor, "h w"]]:
    """The mask of each part, and where other labels hide them."""
    known = [named_part(name, parts) for name in names]
    if masks is None or not any(known):
        raise LabelError(
            f"The frame has {'no masks' if masks is None else 'masks of ' + ', '.join(names)}, and masks of "
            f"{', '.join(parts)} are looked for. Rename its labels, or compare intensities."
        )
    nothing = torch.zeros_like(masks[0])
    wanted = [sum((m for m, part in zip(masks, known, strict=True) if part == one), nothing) for one in parts]
    hidden = sum((m for m, part in zip(masks, known, strict=True) if part is None), nothing)
    # A part that the frame does not tell of may be anywhere.
    return torch.stack(wanted), hidden.clamp(max=1)


def _widened(camera: Camera) -> Camera:
    """The camera with half an image more at each side."""
    height, width = camera.image_size
    row, column = camera.principal_point
    return replace(camera, image_size=(2 * height, 2 * width), principal_point=(row + height // 2, column + width // 2))


def _parts(model: ShapeModel) -> list[Mesh]:
    meshes = []
    for name, _ in model.parts:
        here = model.range_of(name)
        inside = (model.faces[:, 0] >= here.start) & (model.faces[:, 0] < here.stop)
        meshes.append(Mesh(model.mean[here], model.faces[inside] - here.start))
    return meshes


def _views(camera: Camera, settings: PresetSettings) -> list[Float[Tensor, "3 3"]]:
    """world_from_model of each view: as the camera would see a patient lying straight if it stood at these angles."""
    axes = camera.world_from_camera[:3, :3]
    # A C-arm's picture is seen from the detector; seen from the source the beam's axis is the other way.
    beam = torch.diag(torch.tensor([1.0, 1.0, -float(torch.linalg.det(axes).sign())], dtype=torch.float64))
    turned = []
    for primary in settings.primary:
        for secondary in settings.secondary:
            seen = c_arm((0.0, 0.0, 0.0), primary, secondary).world_from_camera[:3, :3] @ beam
            for roll in settings.roll:
                turned.append(axes @ _about_beam(math.radians(roll)) @ seen.T)
    return turned


def _about_beam(angle: float) -> Float[Tensor, "3 3"]:
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=torch.float64)


def _placed(rotation: Tensor, model: ShapeModel, camera: Camera, depth: float) -> Float[Tensor, "4 4"]:
    """The body's middle on the beam through the image's middle, so far beyond the isocentre."""
    towards = -camera.source @ camera.direction
    usual = float(towards) if 0.3 < float(towards) / camera.source_to_detector < 1 else None
    distance = (USUAL_DEPTH * camera.source_to_detector if usual is None else usual) + depth
    beam = _ray(camera, (camera.image_size[0] / 2, camera.image_size[1] / 2))
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = rotation
    pose[:3, 3] = camera.source + distance * beam - rotation @ Mesh(model.mean, model.faces).centre
    return pose


def _ray(camera: Camera, at: tuple[float, float]) -> Float[Tensor, "3"]:
    """Unit direction from the source to a place in the image (row, column) [px]; RAS."""
    row, column = (
        (place - middle) * step
        for place, middle, step in zip(at, camera.principal_point, camera.pixel_size, strict=True)
    )
    direction = torch.tensor([column, row, camera.source_to_detector], dtype=torch.float64)
    return camera.world_from_camera[:3, :3] @ (direction / direction.norm())


def _drawn(parts: Sequence[Mesh], pose: Tensor, camera: Camera, backend: str) -> Float[Tensor, "part h w"]:
    moved = [Mesh((mesh.vertices @ pose[:3, :3].T.float() + pose[:3, 3].float()), mesh.faces) for mesh in parts]
    return surface_pass(moved, camera, backend=backend).lengths.float()


def _aimed(pose: Tensor, camera: Camera, offset: tuple[int, int]) -> Float[Tensor, "4 4"]:
    """The pose turned about the source so that its picture moves by (rows, columns) [px] and hardly changes."""
    middle = (camera.image_size[0] / 2, camera.image_size[1] / 2)
    before = _ray(camera, middle)
    after = _ray(camera, (middle[0] + offset[0], middle[1] + offset[1]))
    axis, cosine = torch.linalg.cross(before, after), float(before @ after)
    cross = torch.zeros(3, 3, dtype=torch.float64)
    cross[2, 1], cross[0, 2], cross[1, 0] = axis
    cross = cross - cross.T
    rotation = torch.eye(3, dtype=torch.float64) + cross + cross @ cross / (1 + cosine)
    turned = torch.eye(4, dtype=torch.float64)
    turned[:3, :3] = rotation
    turned[:3, 3] = camera.source - rotation @ camera.source
    return turned @ pose


def _apart(found: list[tuple[float, Tensor]], settings: PresetSettings) -> list[Start]:
    kept: list[tuple[float, Tensor]] = []
    for score, pose in sorted(found, key=lambda one: -one[0]):
        if all(_angle(pose, other) >= settings.apart for _, other in kept):
            kept.append((score, pose))
        if len(kept) == settings.keep:
            break
    return [
        Start(pose, sentence=f"Found by looking at {len(found)} views and depths; likeness {score:.2f}.")
        for score, pose in kept
    ]


def _angle(a: Tensor, b: Tensor) -> float:
    """Between two poses [degrees]."""
    cosine = (float((a[:3, :3].T @ b[:3, :3]).trace()) - 1) / 2
    return math.degrees(math.acos(min(1.0, max(-1.0, cosine))))
