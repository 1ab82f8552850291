"""Baked volumes in files: NAME.nrrd with four components, NAME.vp.json, Slicer's volume property for it, NAME.json."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffrender.dvr.bake import UNIT, Baked
from diffrender.dvr.volume_property import Points, write_volume_property
from diffrender.errors import ImageError, OutputError, PathError
from diffrender.io.files import found
from diffrender.io.itk import RAS_FROM_LPS
from diffrender.io.whole import together, whole, write_whole
from diffrender.quiet import without_native_output

FORMAT = 1
SUFFIX = ".nrrd"
TYPES = {8: ("uint8", "u1"), 16: ("uint16", "<u2")}  # as NRRD names them, and numpy; the low byte first


def write_baked(path: str | Path, baked: Baked) -> list[Path]:
    """Write NAME.nrrd, NAME.vp.json and NAME.json, all of them or on an error none.

    Slicer hangs a volume into the world by a matrix and lets VTK measure in voxel edges: the opacities of NAME.vp.json
    are those of one edge, of the mean length where edges differ (then Slicer shows less of what is seen along the
    longer ones). They are for a volume with dependent components (independentComponents: false).
    Returns: the files, in this order. Raises: OutputError.
    """
    place = Path(path)
    if place.suffix != SUFFIX:
        raise OutputError(f"{path}: a baked volume is written as NAME{SUFFIX}, with NAME.vp.json and NAME.json beside.")
    files = [place, place.with_suffix(".vp.json"), place.with_suffix(".json")]
    with together():
        with whole(place) as file:
            file.write(_header(baked).encode("ascii"))
            with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=4, mtime=0, filename="") as packed:
                packed.write(baked.pixels.astype(TYPES[baked.bits][1]).data)
        write_whole(files[1], json.dumps(_property(baked), indent=2) + "\n")
        write_whole(files[2], json.dumps(_record(baked, place), indent=2) + "\n")
    return files


def read_baked(path: str | Path) -> Baked:
    """What `write_baked` wrote, by the name of its .nrrd or its .json. Raises: PathError, ImageError."""
    import SimpleITK as sitk  # noqa: N813

    record_file = Path(path).with_suffix(".json")
    try:
        record = json.loads(found(record_file).read_text(encoding="utf-8"))
        volume, kappa_max = record_file.with_name(record["volume"]), float(record["kappa_max"])
        name, finer = record["renderer"], int(record.get("finer", 1))
    except (OSError, ValueError, KeyError, TypeError):
        raise PathError(f"{record_file} is no record of a baked volume, or it is damaged. Bake it again.") from None
    try:
        with without_native_output():
            image = sitk.ReadImage(str(found(volume)))
    except RuntimeError:
        raise PathError(f"{volume} cannot be read, or it is damaged. Bake it again.") from None
    if image.GetNumberOfComponentsPerPixel() != 4 or image.GetPixelID() not in (
        sitk.sitkVectorUInt8,
        sitk.sitkVectorUInt16,
    ):
        raise ImageError(f"{volume} holds no RGBA of 8 or 16 bits, so it is no baked volume. Bake it again.")
    world = np.eye(4)
    world[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    world[:3, 3] = image.GetOrigin()
    pixels = sitk.GetArrayFromImage(image)
    rgba = torch.from_numpy(pixels if pixels.dtype == np.uint8 else pixels.astype(np.int32))
    return Baked(rgba, torch.from_numpy(RAS_FROM_LPS @ world), kappa_max, str(name), finer)


def _header(baked: Baked) -> str:
    axes = (RAS_FROM_LPS @ baked.world_from_voxel.numpy())[:3].T
    vectors = [f"({','.join(repr(float(n)) for n in axis)})" for axis in axes]
    k, j, i, components = baked.rgba.shape
    lines = [
        "NRRD0004",
        "# RGBA by DiffRender: alpha is extinction, see the .json of the same name; research use only",
        f"type: {TYPES[baked.bits][0]}",
        *(["endian: little"] if baked.bits > 8 else []),
        "dimension: 4",
        "space: left-posterior-superior",
        f"sizes: {components} {i} {j} {k}",
        f"space directions: none {' '.join(vectors[:3])}",
        "kinds: RGBA-color domain domain domain",
        "encoding: gzip",
        f"space origin: {vectors[3]}",
    ]
    return "\n".join(lines) + "\n\n"


def _property(baked: Baked) -> dict[str, Any]:
    edge = float(np.cbrt(abs(np.linalg.det(baked.world_from_voxel[:3, :3].numpy()))))
    opacities = baked.opacities_over(edge)
    # The colours are the volume's own; a property has some all the same.
    grey = [(0.0, 0.0, 0.0, 0.0), (opacities[-1][0], 1.0, 1.0, 1.0)]
    record = json.loads(write_volume_property(Points(grey, opacities, UNIT), baked.name, whole=True))
    record["volumeProperties"][0]["independentComponents"] = False
    return record


def _record(baked: Baked, place: Path) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "what": "baked volume: red, green, blue (sRGB, not premultiplied) and extinction / kappa_max, in levels",
        "levels": 2**baked.bits - 1,
        "renderer": baked.name,
        "finer": baked.finer,
        "volume": place.name,
        "property": place.with_suffix(".vp.json").name,
        "kappa_max": baked.kappa_max,
        "unit": "1/mm",
    }
