"""`diffrender info`: what a file is. Of a patient it says nothing."""

import json as json_lines
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffrender.commands.console import Debug, Json, current, example
from diffrender.commands.target import check_given, suffix_of
from diffrender.errors import LabelError, PathError

if TYPE_CHECKING:
    from torch import Tensor

EXAMPLE = example("diffrender info ct.nii.gz")
MESHES = (".stl", ".ply", ".obj", ".vtk", ".vtp")
TABLES = (".csv", ".ctbl", ".label", ".lut")
# What is said of a DICOM X-ray: how it was taken. Nothing else is read, so nothing of the patient can be shown.
XRAY_TAGS = (
    ("view", "ViewPosition"),
    ("image rows and columns go to", "PatientOrientation"),
    ("body part", "BodyPartExamined"),
    ("patient position", "PatientPosition"),
    ("bits stored", "BitsStored"),
    ("colours", "PhotometricInterpretation"),
    ("frames", "NumberOfFrames"),
    ("pixel spacing [mm, row column]", "PixelSpacing"),
    ("imager pixel spacing [mm, row column]", "ImagerPixelSpacing"),
    ("source to detector [mm]", "DistanceSourceToDetector"),
    ("source to patient [mm]", "DistanceSourceToPatient"),
    ("magnification", "EstimatedRadiographicMagnificationFactor"),
    ("primary angle [degrees, + LAO]", "PositionerPrimaryAngle"),
    ("secondary angle [degrees, + cranial]", "PositionerSecondaryAngle"),
    ("positioner", "PositionerMotion"),
    ("field of view", "FieldOfViewShape"),
    ("field of view turned by [degrees]", "FieldOfViewRotation"),
    ("field of view mirrored", "FieldOfViewHorizontalFlip"),
    ("grey values are", "PixelIntensityRelationship"),
    ("tube voltage [kV]", "KVP"),
    ("lossy compression", "LossyImageCompression"),
)
MOST_FRAMES = 8  # angles of a rotation run that are listed
MOST_IDS = 256  # a label map has fewer different values, a CT has more

Facts = dict[str, Any]


def info(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A volume, labels, mesh, camera, radiograph, or a folder of DICOM.")
    ],
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what a file is.

    Knows volumes (NIfTI, NRRD, MHA, DICOM) and their series, labels and their tables, meshes, cameras, radiographs
    that we wrote, and DICOM X-rays. It says nothing of the patient.
    """
    console = current()
    check_given({"FILE": file})
    facts = examine(file)
    console.result({"file": file, **facts}, "\n".join([f"{file} is {facts.pop('is')}", *_lines(facts)]))


def examine(path: str) -> Facts:
    """What `path` is ("is") and what is to be said of it. Raises: InputError of the reader that it belongs to."""
    from diffrender.io.files import found, kind_of

    place = found(path)
    name = place.name.lower()
    if place.is_file():
        for endings, look in BY_ENDING:
            if name.endswith(endings):
                return look(path, place)
    if place.is_dir() and (masks := _masks(place)):
        return {"is": f"a folder of {len(masks)} images, one a label, it seems", "labels": masks}
    kind = kind_of(path)
    if kind == "nifti" and b"DRR by DiffRender" in _head(place):
        return _radiograph_nifti(path, place)
    return _dicom(path, place) if kind in ("folder", "zip", "dicom") else _volume(path)


def _volume(path: str) -> Facts:
    import torch

    from diffrender import read_volume

    volume = read_volume(path)
    if volume.values.amin() >= 0 and torch.equal(volume.values, volume.values.round()):
        ids = [int(n) for n in torch.unique(volume.values).tolist() if n]
        if len(ids) < MOST_IDS and _in_pieces(volume.values):
            return {"is": "a volume of few whole numbers: labels, it seems", "volume": repr(volume), "ids": ids}
    return {"is": "a volume", "volume": repr(volume)}


def _in_pieces(values: "Tensor") -> bool:
    """Whether most voxels above zero have a neighbour like them, as labels do and the greys of MR or CT do not."""
    above = values > 0
    alike = [((values.diff(dim=axis) == 0) & above.narrow(axis, 1, values.shape[axis] - 1)).sum() for axis in range(3)]
    return bool(max(alike) * 2 > above.sum())


def _masks(place: Path) -> list[str]:
    """The names of a folder's volume files (TotalSegmentator's layout); DICOM files have other endings, or none."""
    from diffrender.io.label_sources import IMAGE_SUFFIXES

    endings = {file.name: suffix_of(file.name, IMAGE_SUFFIXES) for file in sorted(place.iterdir())}
    return [name[: -len(ending)] for name, ending in endings.items() if ending]


def _dicom(path: str, place: Path) -> Facts:
    from diffrender.io import list_series, read_volume
    from diffrender.io.dicom_series import XRAY_MODALITIES

    if place.is_file() and (other := _dicom_labels(place)):
        return other
    series = list_series(path)
    volumes = [one for one in series if one.is_volume]
    if len(series) == 1 and place.is_file() and series[0].modality in XRAY_MODALITIES:
        return _dicom_xray(place)
    listed = [str(one) for one in series]
    if len(volumes) == 1:
        return {"is": "a volume", "volume": repr(read_volume(path)), "series": listed}  # labels are a SEG in DICOM
    what = "pictures, no volume among them" if not volumes else f"{len(volumes)} volumes: take one with --series"
    return {"is": f"DICOM, {what}", "series": listed}


def _dicom_labels(place: Path) -> Facts | None:
    from pydicom import dcmread

    try:
        header = dcmread(
            place, stop_before_pixels=True, specific_tags=["Modality", "SegmentSequence", "StructureSetROISequence"]
        )
    except Exception:  # whatever is wrong with it, the reader of images says it better
        return None
    if header.get("Modality") == "SEG":
        names = [str(one.get("SegmentLabel", "")) for one in header.get("SegmentSequence", ())]
        return {"is": "a DICOM segmentation (SEG)", "labels": names}
    if header.get("Modality") == "RTSTRUCT":
        names = [str(one.get("ROIName", "")) for one in header.get("StructureSetROISequence", ())]
        return {"is": "DICOM contours (RTSTRUCT)", "labels": names}
    return None


def _dicom_xray(place: Path) -> Facts:
    from pydicom import dcmread

    words = ["Modality", "SOPClassUID", "Rows", "Columns", *(keyword for _, keyword in XRAY_TAGS)]
    header = dcmread(place, stop_before_pixels=True, force=True, specific_tags=words)
    facts: Facts = {
        "is": f"a DICOM X-ray ({header.get('Modality')})",
        "kind": header.SOPClassUID.name if "SOPClassUID" in header else "unknown",
    }
    facts["size"] = f"{header.Rows} x {header.Columns} pixels (height x width)"
    facts["compression"] = (
        header.file_meta.TransferSyntaxUID.name if "TransferSyntaxUID" in header.file_meta else "unknown"
    )
    for name, keyword in XRAY_TAGS:
        value = header.get(keyword)
        if value not in (None, ""):
            facts[name] = _few(value)
    if "DistanceSourceToDetector" not in header:
        facts["geometry"] = (
            "incomplete: no source-to-detector distance, so give a camera with --camera where one is needed"
        )
    return facts


def _few(value: Any) -> Any:
    if isinstance(value, str | int | float):
        return value
    parts = [str(part) for part in value]
    return " ".join(parts[:MOST_FRAMES]) + (f" ... {parts[-1]} ({len(parts)})" if len(parts) > MOST_FRAMES else "")


def _json_file(path: str, place: Path) -> Facts:
    from diffrender.camera import read_cameras
    from diffrender.io.label_tables import read_label_table

    try:
        data = json_lines.loads(place.read_text(encoding="utf-8-sig"))
    except ValueError as problem:
        raise PathError(f"{path} is no JSON file, or a damaged one ({problem}). Save it again.") from None
    first = data[0] if isinstance(data, list) and data else data
    if isinstance(first, Mapping) and "world_from_camera" in first:
        cameras = read_cameras(path)
        return {
            "is": "a camera" if len(cameras) == 1 else f"a list of {len(cameras)} cameras",
            "cameras": [repr(c) for c in cameras],
        }
    if isinstance(first, Mapping) and {"versions", "inputs"} <= set(first):
        return {"is": "a provenance file", "versions": first["versions"]}
    return {"is": "a table of label names", "labels": read_label_table(path)}


def _table(path: str, place: Path) -> Facts:
    from diffrender.io.label_tables import read_label_table

    return {"is": "a table of label names", "labels": read_label_table(path)}


def _text(path: str, place: Path) -> Facts:
    try:
        return _table(path, place)
    except LabelError:
        raise PathError(f"{path} is a text, and no table of label names. There is nothing more to say of it.") from None


def _mesh(path: str, place: Path) -> Facts:
    from diffrender import read_mesh

    return {"is": "a mesh", "mesh": repr(read_mesh(path))}


def _segmentation(path: str, place: Path) -> Facts:
    from diffrender.io.segmentations import read_segmentation

    structures = read_segmentation(place, path).structures
    return {
        "is": "a segmentation of 3D Slicer",
        "labels": {one.id: one.name or f"label {one.id}" for one in structures},
    }


def _labels_npz(path: str, place: Path) -> Facts:
    import zipfile

    import numpy as np

    try:
        with np.load(place) as file:
            names = dict(zip(file["ids"].tolist(), file["names"].tolist(), strict=True))
            return {
                "is": "the labels of a radiograph",
                **_camera_facts(json_lines.loads(str(file["camera"]))),
                "labels": names,
            }
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        raise PathError(
            f"{path} is no label file of a radiograph (which `radiograph` writes as NAME.labels.npz), or it is damaged."
        ) from None


def _picture(path: str, place: Path) -> Facts:
    from PIL import Image

    try:
        with Image.open(place) as image:
            size = f"{image.height} x {image.width} pixels (height x width), {image.mode}"
            text = image.info.get("diffrender") or getattr(image, "tag_v2", {}).get(270, "")  # 270: ImageDescription
    except (OSError, SyntaxError, ValueError):
        raise PathError(
            f"{path} is named as a picture and cannot be read as one: it is damaged or another kind of file."
        ) from None
    try:
        said = json_lines.loads(text)
        return {"is": f"a radiograph of ours ({said['kind']})", "size": size, **_camera_facts(said["camera"])}
    except (ValueError, KeyError, TypeError):
        return {"is": "a picture, not one that we wrote; without a camera its geometry is unknown", "size": size}


def _radiograph_nifti(path: str, place: Path) -> Facts:
    import SimpleITK

    image = SimpleITK.ReadImage(str(place))
    width, height = image.GetSize()[:2]
    column, row = image.GetSpacing()[:2]
    return {
        "is": "a radiograph of ours",
        "size": f"{height} x {width} pixels (height x width) of {row:.4g} x {column:.4g} mm",
    }


def _camera_facts(data: Mapping[str, Any]) -> Facts:
    from diffrender.camera import Camera

    return {"camera": repr(Camera.from_dict(data))}


def _head(place: Path) -> bytes:
    import gzip

    with (gzip.open if place.name.lower().endswith(".gz") else open)(place, "rb") as file:
        return file.read(348)


def _lines(facts: Facts) -> list[str]:
    lines = []
    for name, value in facts.items():
        if isinstance(value, Mapping):
            lines += [f"  {name}:", *(f"    {key}  {entry}" for key, entry in value.items())]
        elif isinstance(value, list) and value and isinstance(value[0], str):
            lines += [f"  {name}:", *(f"    {entry}" for entry in value)]
        elif isinstance(value, list):
            lines.append(f"  {name}: {', '.join(str(entry) for entry in value) or 'none'}")
        else:
            lines.append(f"  {name}: {value}")
    return lines


BY_ENDING: tuple[tuple[tuple[str, ...], Callable[[str, Path], Facts]], ...] = (
    ((".json",), _json_file),
    (TABLES, _table),
    ((".txt",), _text),
    (MESHES, _mesh),
    ((".seg.nrrd",), _segmentation),
    ((".npz",), _labels_npz),
    ((".png", ".tif", ".tiff"), _picture),
)
