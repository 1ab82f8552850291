"""`diffrender synth drr`: a radiograph with tube, scatter, detector and noise."""

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diffrender.commands.console import Debug, Json, current, example
from diffrender.commands.radiograph import SIZE, Request, take
from diffrender.commands.target import Target
from diffrender.errors import SettingError

if TYPE_CHECKING:
    from diffrender import Radiograph, RadiographSettings
    from diffrender.physics.settings import Physics

EXAMPLE = example("diffrender synth drr ct.nii.gz --preset chest-pa --kvp 120 -o chest.png")
PRESENTED = ".presented.png"
OFF = {"scatter": None, "grid": None, "heel": None, "detector": None, "noise": False, "focal-spot": 0.0}


class Effect(str, Enum):
    """What happens between tube and picture, and can be left out."""

    scatter = "scatter"
    grid = "grid"
    heel = "heel"
    detector = "detector"
    noise = "noise"
    focal_spot = "focal-spot"
    inverse_square = "inverse-square"


def drr(
    ct: Annotated[str, typer.Argument(metavar="CT", help="NIfTI, NRRD, MHA, or a DICOM file, folder or zip.")],
    labels: Annotated[str | None, typer.Option(metavar="F", help="Labels to project.")] = None,
    names: Annotated[
        str | None, typer.Option(metavar="F", help="Names of the labels: CSV or JSON, or totalsegmentator-v1 or -v2.")
    ] = None,
    series: Annotated[str | None, typer.Option(metavar="S", help="Which DICOM series, where CT holds several.")] = None,
    preset: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="View and examination: chest-pa, chest-ap-bedside, pelvis-ap, c-arm, ..."),
    ] = None,
    camera: Annotated[
        str | None, typer.Option(metavar="F", help="A camera's JSON file in the view's place; a list gives a folder.")
    ] = None,
    examination: Annotated[
        str | None, typer.Option(metavar="NAME", help="Tube, grid and detector of another preset than the view's.")
    ] = None,
    size: Annotated[str | None, typer.Option(metavar="N", help=f"N x N pixels, or HEIGHTxWIDTH; {SIZE}.")] = None,
    pixel_size: Annotated[float | None, typer.Option(metavar="MM", help="Pixels of the detector [mm].")] = None,
    kvp: Annotated[float | None, typer.Option(metavar="KV", help="Tube voltage, 40 to 150 [kV].")] = None,
    filtration: Annotated[float | None, typer.Option(metavar="MM", help="Of the tube, in all [mm aluminium].")] = None,
    dose: Annotated[
        float | None, typer.Option(metavar="UGY", help="Air kerma of the open beam at the detector [uGy].")
    ] = None,
    spectrum: Annotated[
        str | None, typer.Option(metavar="F", help="CSV of energy [keV] and photons, in the tube's place.")
    ] = None,
    without: Annotated[list[Effect] | None, typer.Option(help="Leave it out. May be given several times.")] = None,
    intensity: Annotated[bool, typer.Option("--intensity", help="The signal itself, bone dark.")] = False,
    threshold: Annotated[float, typer.Option(metavar="MM", help="A label is seen where its path is longer.")] = 1.0,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the noise.")] = 0,
    anonymous: Annotated[bool, typer.Option("--anonymous", help="No patient fields in DICOM output.")] = False,
    out: Annotated[
        str | None, typer.Option("-o", "--out", metavar="FILE|DIR", help="PNG, NIfTI, TIFF or DICOM, or a folder.")
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Take a radiograph as an X-ray machine does: spectrum, scatter and grid, detector, noise.

    It is `diffrender radiograph` with the physics of an examination, and writes what that writes, and beside it
    NAME.presented.png: greys as on a viewing station, 16 bits.
    """
    request = Request(ct, labels, names, series, preset, camera, size, pixel_size, anonymous, out)

    def settings_for(view: str) -> "RadiographSettings":
        from diffrender.xray import RadiographSettings

        kind = "intensity" if intensity else "log-attenuation"
        changed = (kvp, filtration, dose, spectrum, seed)
        return RadiographSettings(kind, threshold=threshold, physics=physics_of(examination or view, changed, without))

    def present(picture: "Radiograph", target: Target, n: int) -> list[Path]:
        return [_write_presented(picture, target.file(PRESENTED, n), examination or preset or "frontal")]

    current().result(*take(request, settings_for, present))


def physics_of(
    name: str,
    changed: tuple[float | None, float | None, float | None, str | None, int],
    without: list[Effect] | None = None,
) -> "Physics":
    """An examination's physics, with what was typed. Raises: SettingError."""
    from dataclasses import replace

    from diffrender.physics.presets import physics_preset

    kvp, filtration, dose, spectrum, seed = changed
    if spectrum is not None and (kvp is not None or filtration is not None):
        raise SettingError("--spectrum takes the tube's place; leave out --kvp and --filtration.")
    given = {"kvp": kvp, "aluminium": filtration, "dose": dose, "spectrum_file": spectrum}
    physics = replace(physics_preset(name), seed=seed, **{key: n for key, n in given.items() if n is not None})
    off = {effect.value.replace("-", "_"): OFF.get(effect.value, False) for effect in without or ()}
    return replace(physics, **off)


def _write_presented(picture: "Radiograph", path: Path, examination: str) -> Path:
    from diffrender.io.whole import write_whole
    from diffrender.synth.writers import presented, presented_bytes

    return write_whole(path, presented_bytes(presented(picture, examination).numpy(), picture))
