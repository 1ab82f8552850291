"""What a radiograph is taken with: tube, dose, scatter and grid, field, detector. Every effect can be turned off."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from diffrender.errors import SettingError
from diffrender.physics.decompose import Decomposition

SIDES = ("top", "bottom", "left", "right")  # of the image


@dataclass(frozen=True)
class Scatter:
    """Radiation that the patient scatters onto the detector.

    Attributes:
        strength: times what the kernels say; 1 is the model.
        air_gap: from the patient's exit side to the detector [mm]; None: from the geometry, by how thick the body is.
    """

    strength: float = 1.0
    air_gap: float | None = None

    def __post_init__(self):
        _check("Scatter", [("strength", self.strength, 0, 100)])
        if self.air_gap is not None:
            _check("Scatter", [("air_gap [mm]", self.air_gap, 0, 10_000)])


@dataclass(frozen=True)
class Grid:
    """A focused anti-scatter grid: lead strips with aluminium between them.

    Attributes:
        ratio: height of the strips to the distance between them, 5 to 15.
        primary, scatter: the share of the primary and of the scattered signal that passes; None: from the table of
            `scatter.grid_transmission`.
    """

    ratio: float = 12.0
    primary: float | None = None
    scatter: float | None = None

    def __post_init__(self):
        _check("Grid", [("ratio", self.ratio, 5, 15)])
        for name in ("primary", "scatter"):
            if (share := getattr(self, name)) is not None:
                _check("Grid", [(f"{name}, a share that passes", share, 1e-3, 1)])


@dataclass(frozen=True)
class Detector:
    """A flat panel with a scintillator, that integrates energy.

    Attributes:
        scintillator: a material of the library.
        mass_thickness: of it [g/cm2]; 0.2 is 0.6 mm of needles of CsI, three quarters filled.
        half_modulation: spatial frequency at which its modulation transfer is one half [1/mm]; None for no blur. By
            default what Marshall et al. found for six CsI panels (Phys. Med. Biol. 56 (2011) 957, abstract).
        swank: Swank's factor, the noise of the light that one photon makes; 1 for none.
        gain: electrons read for each keV absorbed; 0 for a gain so high that it adds no noise.
        pitch: of its own pixels [mm], to which electronic noise refers. A pixel of the image may be larger.
        flat_field: divide by the open field pixel by pixel, as every panel's calibration does; the field's fall-off and
            the heel then remain in noise and scatter alone.
    """

    scintillator: str = "csi"
    mass_thickness: float = 0.2
    half_modulation: float | None = 1.29
    swank: float = 0.85
    gain: float = 25.0
    pitch: float = 0.15
    flat_field: bool = True

    def __post_init__(self):
        numbers = [
            ("mass_thickness [g/cm2]", self.mass_thickness, 1e-3, 100),
            ("swank", self.swank, 0.1, 1),
            ("gain [electrons/keV]", self.gain, 0, 1e6),
            ("pitch [mm]", self.pitch, 1e-3, 10),
        ]
        if self.half_modulation is not None:
            numbers.append(("half_modulation [1/mm]", self.half_modulation, 1e-2, 1e3))
        _check("Detector", numbers)


@dataclass(frozen=True)
class Collimation:
    """Shutters that leave a rectangle of the image exposed.

    Attributes:
        margins: how far they reach into the image from top, right, bottom and left [mm on the detector].
        edge: one deviation of the soft edge, the penumbra [mm on the detector]; 0 for a sharp one.
        leak: the share of the beam that comes through the shutters.
    """

    margins: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    edge: float = 1.0
    leak: float = 0.001

    def __post_init__(self):
        margins = tuple(self.margins) if isinstance(self.margins, Iterable) else ()
        if len(margins) != 4:
            raise SettingError(f"Collimation needs four margins (top, right, bottom, left) [mm], not {self.margins!r}.")
        object.__setattr__(self, "margins", margins)
        numbers = [("a margin [mm]", margin, 0, 1e5) for margin in margins]
        _check("Collimation", [*numbers, ("edge [mm]", self.edge, 0, 1e3), ("leak", self.leak, 0, 1)])


@dataclass(frozen=True)
class Heel:
    """The tube's own shadow: photons towards the anode pass through more of the target.

    Attributes:
        anode_angle: of the target's face to the central ray [degrees].
        towards: the side of the image that the anode is at: "top", "bottom", "left" or "right".
        depth: in the target at which photons are made, along the electrons' way [mm].
    """

    anode_angle: float = 12.0
    towards: str = "top"
    depth: float = 0.008

    def __post_init__(self):
        _check("Heel", [("anode_angle [degrees]", self.anode_angle, 3, 45), ("depth [mm]", self.depth, 0, 1)])
        if self.towards not in SIDES:
            raise SettingError(f"Heel.towards is one of {', '.join(SIDES)}, not {self.towards!r}.")


@dataclass(frozen=True)
class Physics:
    """How the beam is made and seen. Each effect is turned off by None, 0 or False.

    Attributes:
        kvp: tube voltage [kV].
        aluminium, copper: the tube's whole filtration [mm].
        spectrum_file: CSV of energies and fluences in the tube's place.
        energy: one energy [keV] in the tube's place.
        dose: air kerma in the open beam at the detector, before a grid [uGy].
        mas: tube load [mAs] instead of a dose; not with a spectrum from a file, whose output is not known, nor with one
            energy.
        noise: quantum noise at that dose, and that of reading it.
        electronic_noise: of reading one of the detector's own pixels [electrons].
        scatter, grid, detector, collimation, heel: as described there. Without a detector every photon is absorbed, and
            nothing blurs.
        focal_spot: its side [mm]; it blurs what lies away from the detector, in the plane of the volume's middle.
        inverse_square: the beam thins out towards the detector's rim, and meets it at an angle there.
        materials: which HU stand for which materials.
        seed: of the noise: the same picture for the same seed.
    Raises: SettingError.
    """

    kvp: float = 120.0
    aluminium: float = 2.5
    copper: float = 0.0
    spectrum_file: str | None = None
    energy: float | None = None
    dose: float | None = 100.0
    mas: float | None = None
    noise: bool = True
    electronic_noise: float = 1500.0
    scatter: Scatter | None = field(default_factory=Scatter)
    grid: Grid | None = None
    detector: Detector | None = field(default_factory=Detector)
    focal_spot: float = 1.0
    collimation: Collimation | None = None
    inverse_square: bool = True
    heel: Heel | None = None
    materials: Decomposition = field(default_factory=Decomposition)
    seed: int = 0

    def __post_init__(self):
        numbers = [
            ("aluminium [mm]", self.aluminium, 0, 100),
            ("copper [mm]", self.copper, 0, 10),
            ("electronic_noise [electrons]", self.electronic_noise, 0, 1e9),
            ("focal_spot [mm]", self.focal_spot, 0, 20),
        ]
        numbers += [
            (f"{name} {unit}", value, 1e-9, 1e9)
            for name, unit, value in (("dose", "[uGy]", self.dose), ("mas", "[mAs]", self.mas))
            if value is not None
        ]
        _check("Physics", numbers)
        if self.energy is not None and self.spectrum_file is not None:
            raise SettingError(
                "A beam has one energy, or a spectrum from a file; give one of energy and spectrum_file."
            )
        if self.mas is not None and (self.energy is not None or self.spectrum_file is not None):
            raise SettingError("mas needs a tube whose output is known; give a dose [uGy] with this spectrum instead.")
        if self.noise and self.dose is None and self.mas is None:
            raise SettingError("Noise needs a dose [uGy at the detector, open beam] or mas; or set noise=False.")

    @classmethod
    def plain(cls, **changes) -> "Physics":
        """A spectrum that is absorbed in full, and nothing else; `changes` turn single effects on."""
        off = cls(
            dose=None,
            noise=False,
            electronic_noise=0.0,
            scatter=None,
            detector=None,
            focal_spot=0.0,
            inverse_square=False,
        )
        return replace(off, **changes)


def _check(owner: str, numbers: list[tuple[str, float, float, float]]) -> None:
    for name, value, least, most in numbers:
        good = isinstance(value, int | float) and not isinstance(value, bool)
        if not good or not math.isfinite(value) or not least <= value <= most:
            raise SettingError(f"{owner}: {name} goes from {least:g} to {most:g}, not {value!r}.")
