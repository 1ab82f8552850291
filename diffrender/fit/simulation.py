"""Fluoroscopy frames whose truth is known: bones in a torso with what a shape model lacks, or a CT, as a C-arm sees it.

A registration that is tried on the model's own pictures passes for better than it is. These frames hold femurs, lumbar
spine, soft tissue, bowel gas, scatter and noise, and none of that is in the model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.random import Generator
from torch import Tensor

from diffrender.camera import Camera, c_arm
from diffrender.errors import SettingError
from diffrender.fit.confounders import Anatomy, length_in_any, soft_tissue, tool
from diffrender.fit.neighbours import Bone, anatomy_of, femurs, lumbar_spine, outward, shrunk
from diffrender.mesh import Mesh
from diffrender.physics.attenuation import water_attenuation
from diffrender.rays.surface import surface_pass
from diffrender.volume import Volume
from diffrender.xray import Radiograph, RadiographSettings, radiograph

PARTS = ("left hip", "right hip", "sacrum")
LABELS = {1: "left hip", 2: "right hip", 3: "vertebrae", 4: "sacrum", 5: "left femur", 6: "right femur"}  # DeepFluoro's
CIOS_FIELD = 1536 * 0.194  # mm; the panel of a Siemens CIOS Fusion
FAT, MUSCLE, DISC, TOOL = -95.0, 50.0, 90.0, 12000.0  # HU at the energy of the frame
CORTEX, SPONGY = (1250.0, 1650.0), (120.0, 320.0)
CORTEX_DEPTH = (1.3, 2.3)  # mm, of hips and sacrum
SCATTER_REACH = 0.13  # of the image's longer side: one deviation of the kernel that spreads scatter
SEEN = 1.0  # mm of path from which a label is seen


@dataclass(frozen=True)
class SimulateSettings:
    """What a simulated frame holds besides the bones that were given; each can be turned off.

    Attributes:
        torso: soft tissue with fat under the skin, muscles, thighs; without it bones lie in air.
        gas: bubbles in the bowel. They replace soft tissue, so without a torso there are none.
        femurs, spine: neighbouring bones, L3 to L5 with their discs.
        cortex: hips and sacrum have a dense shell around spongy bone; without it they are of one density.
        scatter: scattered to primary intensity, on average.
        photons: quanta per pixel where the image has its median; None for no noise.
        blur: of focal spot and detector, one deviation [px].
        collimation: shutters reach into the image.
        text: a marker is burnt into the image.
        tool: a metal wire lies before the pelvis.
        energy: of the beam [keV].
    Raises: SettingError.
    """

    torso: bool = True
    gas: bool = True
    femurs: bool = True
    spine: bool = True
    cortex: bool = True
    scatter: float = 0.3
    photons: float | None = 1500.0
    blur: float = 0.6
    collimation: bool = False
    text: bool = False
    tool: bool = False
    energy: float = 70.0

    def __post_init__(self):
        if not 0 <= self.scatter < 10 or not 0 <= self.blur < 100:
            raise SettingError(
                f"scatter is a share of the primary from 0 on and blur a deviation [px] from 0 on, not {self.scatter} "
                f"and {self.blur}."
            )
        if self.photons is not None and not self.photons > 0:
            raise SettingError(
                f"photons is a number of quanta per pixel above 0, or None for no noise: {self.photons}."
            )

    def clean(self) -> "SimulateSettings":
        """The same without all that a shape model of the pelvis cannot explain; the torso stays."""
        return replace(
            self,
            gas=False,
            femurs=False,
            spine=False,
            scatter=0.0,
            photons=None,
            collimation=False,
            text=False,
            tool=False,
        )


@dataclass(frozen=True, eq=False)
class Truth:
    """What a simulated frame was made of.

    Attributes:
        mesh: all given bones as one, in the order given, RAS [mm]; None for a CT.
        parts: {name: Mesh}.
        landmarks: {name: (3,)}, RAS [mm], as they were given.
        settings, seed: that made it.
    """

    mesh: Mesh | None
    parts: Mapping[str, Mesh]
    landmarks: Mapping[str, Float[Tensor, "3"]]
    settings: SimulateSettings
    seed: int


@dataclass(frozen=True, eq=False)
class Simulated:
    """A frame, the same one without what confounds it, and the truth.

    Attributes:
        radiograph: kind "intensity", open beam 1; its path lengths and masks are those of the bones, with the ids and
            names of LABELS.
        clean: the bones given in their torso, without femurs, spine, gas, scatter, noise, shutters, text or tool.
        truth: what is shown.
    """

    radiograph: Radiograph
    clean: Radiograph
    truth: Truth


def cios_camera(
    primary: float = 0.0,
    secondary: float = 0.0,
    isocentre: Sequence[float] = (0.0, 0.0, 0.0),
    source_to_isocenter: float = 700.0,
    size: int = 256,
) -> Camera:
    """The C-arm of DeepFluoro's frames (Siemens CIOS Fusion): 1020 mm from source to detector, a field of 298 mm.

    Args:
        primary, secondary: as in `c_arm` [degrees].
        isocentre: RAS [mm]; the origin of the world by default.
        source_to_isocenter: [mm].
        size: rows and columns [px]; 1536 in full, 256 in use.
    """
    return c_arm(isocentre, primary, secondary, 1020.0, source_to_isocenter, CIOS_FIELD / size, (size, size))


def simulate(
    bodies: Mapping[str, Mesh] | Sequence[Mesh] | Volume,
    camera: Camera | Sequence[Camera],
    settings: SimulateSettings | None = None,
    seed: int = 0,
    landmarks: Mapping[str, Float[Tensor, "3"]] | None = None,
) -> "Simulated | list[Simulated]":
    """Make a fluoroscopy frame of bones in a torso, or of a CT.

    Args:
        bodies: left hip, right hip and sacrum as closed surfaces, RAS [mm], by name or in that order, the patient more
            or less upright along the world's axes; or a CT in HU, which has its soft tissue with it.
        camera: one, or a sequence for frames of one patient.
        settings: what the frame holds.
        seed: of all that is random: the same patient for the same seed, whatever the cameras; noise differs by view.
        landmarks: {name: (3,)} RAS [mm], for the truth; where FH-l and FH-r are among them, femurs are hung there.
    Returns: a `Simulated`, or a list of them for a sequence of cameras.
    Raises: SettingError, MeshError, UnitError.
    Scatter is a low-pass of the primary intensity scaled to `scatter` of it, noise is Poisson's.
    Source: Swindell & Evans, Med. Phys. 23 (1996) 63, for scatter as a convolution of the primary.
    """
    settings = SimulateSettings() if settings is None else settings
    views = [camera] if isinstance(camera, Camera) else list(camera)
    if isinstance(bodies, Volume):
        made = [_of_volume(bodies, view, settings, seed, n) for n, view in enumerate(views)]
    else:
        patient = patient_of(bodies, settings, seed, landmarks)
        made = [_of_patient(patient, view, n) for n, view in enumerate(views)]
    return made[0] if isinstance(camera, Camera) else made


@dataclass(frozen=True, eq=False)
class Patient:
    """The bodies that a frame is made of, each with its attenuation beyond what it lies in [1/mm].

    Attributes:
        bones: (label, outer surface, inner surface or None, cortex [1/mm], spongy bone [1/mm]).
        discs: surfaces.
        anatomy: None where hips and sacrum were not told apart and nothing is placed by them.
    """

    truth: Truth
    bones: Sequence[tuple[int, Mesh, Mesh | None, float, float]]
    discs: Sequence[Mesh]
    anatomy: Anatomy | None


def patient_of(
    bodies: Mapping[str, Mesh] | Sequence[Mesh],
    settings: SimulateSettings,
    seed: int,
    landmarks: Mapping[str, Float[Tensor, "3"]] | None = None,
) -> Patient:
    """The bones given, with the neighbours that the settings ask for. Raises: MeshError."""
    if isinstance(bodies, Mapping):
        parts = {name.replace("_", " "): mesh for name, mesh in bodies.items()}
    else:
        parts = dict(zip(_names(len(bodies)), bodies, strict=True))
    if set(PARTS) <= set(parts):
        parts = {name: parts[name] for name in (*PARTS, *(name for name in parts if name not in PARTS))}
    parts = {name: outward(mesh) for name, mesh in parts.items()}
    marks = dict(landmarks or {})
    heads = np.stack([_point(marks[f"FH-{side}"]) for side in "lr"]) if {"FH-l", "FH-r"} <= set(marks) else None
    wanted = settings.torso or settings.femurs or settings.spine or settings.tool
    anatomy = anatomy_of(list(parts.values()), heads) if wanted else None
    water, random = water_attenuation(settings.energy), generator(seed, "bones")
    bones = []
    for n, mesh in enumerate(parts.values()):
        depth, dense, spongy = (random.uniform(*span) for span in (CORTEX_DEPTH, CORTEX, SPONGY))
        inner = shrunk(mesh, depth) if settings.cortex else None
        bones.append((_label(n), mesh, inner, _mu(dense if inner else 600.0, water), _mu(spongy, water)))
    discs: list[Mesh] = []
    if anatomy is not None:
        thighs = femurs(anatomy, generator(seed, "femurs")) if settings.femurs else []
        column, discs = lumbar_spine(anatomy, generator(seed, "spine")) if settings.spine else ([], [])
        labelled = [*zip((5, 6), thighs, strict=False), *((3, bone) for bone in column)]
        bones += [_neighbour(label, bone, random, water) for label, bone in labelled]
    return Patient(Truth(_joined(parts), parts, marks, settings, seed), bones, discs, anatomy)


def attenuation_of(
    patient: Patient, camera: Camera
) -> tuple[Float[Tensor, "h w"], Float[Tensor, "h w"], Float[Tensor, "label h w"], Float[Tensor, "label h w"]]:
    """p of Beer and Lambert through the whole patient, and through the bones given in their torso alone, (h, w) each;
    then each label's path length (label, h, w) [mm], of all bones and of those given."""
    settings, water, size = patient.truth.settings, water_attenuation(patient.truth.settings.energy), camera.image_size
    soft = patient.anatomy is not None and settings.torso
    around = _mu(MUSCLE, water) if soft else 0.0
    bare, beyond = np.zeros(size), np.zeros(size)
    source, rays = camera.rays()
    origin, directions = source.numpy(), np.ascontiguousarray(rays.reshape(-1, 3).numpy().T)
    if patient.anatomy is not None:
        tissue, gas, wire = _soft(patient.anatomy, patient.truth, origin, directions)
        bare += tissue.reshape(size)
        beyond += (wire - gas).reshape(size)
    own, beside = np.zeros((2, len(LABELS), *size), dtype=np.float32)
    for n, (label, outer, inner, dense, spongy) in enumerate(patient.bones):
        p, lengths = (bare, own) if n < len(patient.truth.parts) else (beyond, beside)
        through = _length(outer, camera)
        core = np.minimum(np.maximum(_length(inner, camera), 0), through) if inner is not None else 0.0
        p += (dense - around) * through - (dense - spongy) * core
        lengths[label - 1] += through
    for disc in patient.discs:
        beyond += (_mu(DISC, water) - around) * _length(disc, camera)
    whole, bare = (torch.from_numpy(np.maximum(p, 0)) for p in (bare + beyond, bare))
    return whole, bare, torch.from_numpy(own + beside), torch.from_numpy(own)


def _of_patient(patient: Patient, camera: Camera, view: int) -> Simulated:
    p, bare, lengths, own = attenuation_of(patient, camera)
    settings, seed = patient.truth.settings, patient.truth.seed
    shared = {"ids": tuple(LABELS), "names": LABELS}
    frame = detected(p, camera, settings, seed, view, patient.truth)
    clean = detected(bare, camera, settings.clean(), seed, view, patient.truth)
    return Simulated(
        replace(frame, path_lengths=lengths, masks=lengths > SEEN, **shared),
        replace(clean, path_lengths=own, masks=own > SEEN, **shared),
        patient.truth,
    )


def _of_volume(volume: Volume, camera: Camera, settings: SimulateSettings, seed: int, view: int) -> Simulated:
    taken = radiograph(volume, camera, RadiographSettings(energy=settings.energy))
    truth, shown = Truth(None, {}, {}, settings, seed), ("path_lengths", "masks", "ids", "names", "source")
    labels = {name: getattr(taken, name) for name in shown}
    p = taken.pixels[0].double()
    frame = detected(p, camera, settings, seed, view, truth)
    clean = detected(p, camera, settings.clean(), seed, view, truth)
    return Simulated(replace(frame, **labels), replace(clean, **labels), truth)


def detected(
    p: Float[Tensor, "h w"],
    camera: Camera,
    settings: SimulateSettings,
    seed: int,
    view: int,
    truth: Truth,
) -> Radiograph:
    """What the detector makes of attenuation p: blur, shutters, scatter, noise and a burnt-in marker, in that order."""
    from scipy.ndimage import gaussian_filter

    random = generator(seed, "detector", view)
    image = np.exp(-p.numpy())
    if settings.blur:
        image = gaussian_filter(image, settings.blur, mode="nearest")
    exposed = None
    if settings.collimation:
        exposed = _shutters(camera.image_size, random)
        image = image * gaussian_filter(exposed.astype(float), 1.0)
    if settings.scatter:
        spread = gaussian_filter(image, SCATTER_REACH * max(image.shape), mode="nearest")
        image = image + settings.scatter * image.mean() / spread.mean() * spread
    if settings.photons is not None:
        inside = image if exposed is None else image[exposed]
        gain = settings.photons / float(np.median(inside))
        image = random.poisson(image * gain) / gain
    pixels = torch.from_numpy(image).to(torch.float32)
    if settings.text:
        pixels[_marker(camera.image_size, random)] = float(pixels.max())
    return Radiograph(
        pixels[None],
        "intensity",
        camera,
        exposed=None if exposed is None else torch.from_numpy(exposed),
        landmarks=_seen(truth, camera),
    )


def _soft(
    anatomy: Anatomy, truth: Truth, source: np.ndarray, directions: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """p through soft tissue, what gas takes away of it, and p through a tool; (ray,) each, zeros for what is off."""
    settings, water = truth.settings, water_attenuation(truth.settings.energy)
    p, gas, wire = np.zeros((3, directions.shape[1]))
    if settings.torso:
        fat, muscle = _mu(FAT, water), _mu(MUSCLE, water)
        body = soft_tissue(anatomy, generator(truth.seed, "torso"))
        inside = length_in_any(body.inner, source, directions)
        p = fat * length_in_any(body.outer, source, directions) + (muscle - fat) * inside
        for lump, share in body.lumps:
            p -= share * (muscle - fat) * np.minimum(length_in_any([lump], source, directions), inside)
        if settings.gas:
            gas = muscle * np.minimum(length_in_any(body.gas, source, directions), inside)
    if settings.tool:
        rod = tool(anatomy, generator(truth.seed, "tool"))
        wire = _mu(TOOL, water) * length_in_any([rod], source, directions)
    return p, gas, wire


def _length(mesh: Mesh, camera: Camera) -> Float[np.ndarray, "h w"]:
    """Quietly: a shrunk surface may cross itself, and is clamped where it is used."""
    return surface_pass(mesh, camera).lengths.detach().double().numpy()


def _neighbour(label: int, bone: Bone, random: Generator, water: float) -> tuple[int, Mesh, Mesh | None, float, float]:
    dense, spongy = random.uniform(*CORTEX), random.uniform(*SPONGY)
    return label, bone.outer, bone.inner, _mu(dense, water), _mu(spongy, water)


def _joined(parts: Mapping[str, Mesh]) -> Mesh:
    """One mesh of all, in order."""
    vertices, faces, first = [], [], 0
    for mesh in parts.values():
        vertices.append(mesh.vertices)
        faces.append(mesh.faces + first)
        first += len(mesh.vertices)
    return Mesh(torch.cat(vertices), torch.cat(faces))


def _shutters(size: tuple[int, int], random: Generator) -> np.ndarray:
    """Four blades, turned a little; the beam reaches what lies between them."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    y, x = (rows + 0.5) / size[0] - 0.5, (columns + 0.5) / size[1] - 0.5
    turn = np.radians(random.uniform(-8, 8))
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    left, right, top, bottom = random.uniform(0.36, 0.5, 4)
    return (u > -left) & (u < right) & (v > -top) & (v < bottom)


def _marker(size: tuple[int, int], random: Generator) -> Tensor:
    """The pixels of a line of text in a corner."""
    from PIL import Image, ImageDraw, ImageFont

    canvas = Image.new("L", (size[1], size[0]))
    text = f"{random.integers(55, 95)} kV  {random.uniform(0.5, 4):.1f} mA"
    place = (0.03 * size[1], random.choice([0.02, 0.92]) * size[0])
    ImageDraw.Draw(canvas).text(place, text, fill=255, font=ImageFont.load_default(max(8, size[0] // 20)))
    return torch.from_numpy(np.asarray(canvas).copy() > 127)


def _seen(truth: Truth, camera: Camera) -> dict[str, tuple[float, float]] | None:
    """Where the landmarks lie in the image, those inside it."""
    if not truth.landmarks:
        return None
    found = {}
    for name, point in truth.landmarks.items():
        row, column = camera.project(torch.as_tensor(point).double()[None])[0].tolist()
        if 0 <= row < camera.image_size[0] and 0 <= column < camera.image_size[1]:
            found[name] = (row, column)
    return found


def _label(n: int) -> int:
    return (1, 2, 4)[n] if n < 3 else 4


def _names(count: int) -> list[str]:
    return [PARTS[n] if n < len(PARTS) else f"part {n + 1}" for n in range(count)]


def _mu(hu: float, water: float) -> float:
    return water * (1 + hu / 1000)


def _point(point: Float[Tensor, "3"]) -> Float[np.ndarray, "3"]:
    return torch.as_tensor(point).detach().double().numpy()


def generator(seed: int, what: str, view: int = 0) -> Generator:
    """The owner of all that is random about one thing: turning one off does not change the others."""
    return np.random.default_rng([seed, view, *what.encode()])
