"""The camera of a DICOM X-ray frame: C-arm angles, distances, the turned and cropped field of view."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from pydicom.dataset import Dataset

from diffrender.camera import Camera, c_arm
from diffrender.errors import DicomError, GeometryError, notify
from diffrender.io.dicom_out import PRIVATE, PRIVATE_CREATOR, PRIVATE_GROUP
from diffrender.io.frame_geometry import turned
from diffrender.io.laterality import direction_of, oriented

# Beam direction where there are no angles: (primary, secondary) as `c_arm` takes them.
VIEWS = {"PA": (0.0, 0.0), "AP": (180.0, 0.0), "LL": (90.0, 0.0), "RL": (-90.0, 0.0)}
_HOW = (
    "Give the geometry beside the frame: `camera=` (a Camera, a JSON file or a 3 x 4 matrix; on the command line "
    "--camera), or a file NAME.camera.json beside it; docs/frame-geometry.md has the formats."
)
_TAGS = {
    "DistanceSourceToDetector": "Distance Source to Detector (0018,1110)",
    "DistanceSourceToPatient": "Distance Source to Patient (0018,1111)",
    "ImagerPixelSpacing": "Imager Pixel Spacing (0018,1164)",
    "PositionerPrimaryAngle": "Positioner Primary Angle (0018,1510)",
    "PositionerSecondaryAngle": "Positioner Secondary Angle (0018,1511)",
}
_GROUPS = ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence")


def camera_of(header: Dataset, index: int, count: int, size: tuple[int, int], name: str) -> Camera:
    """The camera of frame `index` of `count` in a file; `name` begins messages.

    The world's origin is the isocentre, its axes the patient's (RAS). Angles are those of the standard, about the
    patient: they are the same for one who lies head first or feet first, supine or prone. The picture of one who lies
    feet first has the feet on top, unless the frame says where its sides look (Patient Orientation), which goes before
    everything else: the field of view's rotation and flip, and the patient's position.
    A file of our own has the exact camera, in the world of its CT.

    Raises: DicomError where tags are missing or too few for the frames, GeometryError where they cannot be.
    Source: DICOM PS3.3 C.8.7.5 (XA Positioner), C.8.7.8 and C.8.11.4 (detector), C.7.6.1.1.1.
    """
    ours = private_of(header)
    if "camera" in ours:
        return _stated_camera(ours["camera"], size, name)
    spacing, distance, to_isocentre, angles = _needed(header, index, count, name)
    camera = c_arm((0.0, 0.0, 0.0), *angles, distance, to_isocentre, spacing, size)
    camera = _with_field_of_view(header, index, camera)
    turn = _number(header, index, "FieldOfViewRotation") or 0.0
    if turn % 90:
        raise GeometryError(
            f"{name}: Field of View Rotation (0018,7032) is {turn:g} degrees; it is 0, 90, 180 or 270. {_HOW}"
        )
    stated = value_of(header, index, "FieldOfViewHorizontalFlip")
    # a view from the front, known by its name alone, is shown as radiographs are, the patient's left on the right
    shown = "YES" if angles == VIEWS["AP"] and _number(header, index, "PositionerPrimaryAngle") is None else "NO"
    flip = str(stated or shown).strip().upper() == "YES"
    feet_first = str(value_of(header, index, "PatientPosition") or "").strip().upper().startswith("FF")
    camera = turned(camera, int(turn + (180 if feet_first else 0)) % 360, flip)
    return _as_stated(header, index, camera, name)


def value_of(header: Dataset, index: int, keyword: str) -> Any:
    """An attribute of one frame: its own functional group, the shared one, the top of the file; None without value."""
    for holder in _holders(header, index):
        value = holder.get(keyword)
        if value is not None and value != "" and not (isinstance(value, Sequence) and len(value) == 0):
            return value
    return None


def private_of(header: Dataset) -> dict[str, Any]:
    """What our own writer put into a file; nothing for a stranger's."""
    try:
        block = header.private_block(PRIVATE_GROUP, PRIVATE_CREATOR)
    except KeyError:
        return {}
    return {name: block[element].value for name, (element, _) in PRIVATE.items() if element in block}


def orientation_of(header: Dataset, index: int) -> tuple[str, str] | None:
    """Where the frame says that its right and its lower edge look; None where it does not, or not in such letters."""
    stated = value_of(header, index, "PatientOrientation")
    if stated is None or isinstance(stated, str) or len(stated) != 2:
        return None
    right, below = str(stated[0]), str(stated[1])
    return (right, below) if direction_of(right) is not None and direction_of(below) is not None else None


def numbers_of(header: Dataset, index: int, keyword: str) -> list[float]:
    """An attribute's numbers; none where it is missing or text."""
    value = value_of(header, index, keyword)
    values = [value] if isinstance(value, str | int | float) or not isinstance(value, Sequence) else list(value)
    try:
        numbers = [float(one) for one in values if one is not None]
    except (TypeError, ValueError):
        return []
    return numbers if all(math.isfinite(number) for number in numbers) else []


def _holders(header: Dataset, index: int) -> Iterator[Dataset]:
    own, shared = (header.get(keyword) or [] for keyword in _GROUPS)
    for group in (*own[index : index + 1], *shared[:1]):
        yield group
        for element in group:
            if element.VR == "SQ" and element.value:
                yield element.value[0]
    yield header


def _needed(
    header: Dataset, index: int, count: int, name: str
) -> tuple[tuple[float, float], float, float, tuple[float, float]]:
    """Pixel spacing, source to detector, source to isocentre [mm], and the angles [degrees]."""
    spacing = numbers_of(header, index, "ImagerPixelSpacing")
    distance = _number(header, index, "DistanceSourceToDetector")
    to_isocentre = _number(header, index, "DistanceSourceToIsocenter")
    if to_isocentre is None:
        to_isocentre = _number(header, index, "DistanceSourceToPatient")
    angles = _angles(header, index, count, name)
    found = {
        "DistanceSourceToDetector": distance,
        "DistanceSourceToPatient": to_isocentre,
        "ImagerPixelSpacing": spacing if len(spacing) == 2 else None,
        "PositionerPrimaryAngle": angles[0],
        "PositionerSecondaryAngle": angles[1],
    }
    missing = [_TAGS[keyword] for keyword, value in found.items() if value is None]
    if missing:
        hint = ""
        if len(spacing) != 2 and numbers_of(header, index, "PixelSpacing"):
            hint = " Its Pixel Spacing (0028,0030) is no substitute: it may be that in the patient."
        raise DicomError(
            f"{name} does not say how it was taken. Missing: {', '.join(missing)}.{hint} Without them nobody knows "
            f"where source and detector stood. {_HOW}"
        )
    primary, secondary = (0.0 if angle is None else angle for angle in angles)
    distance, to_isocentre = distance or 0.0, to_isocentre or 0.0
    if min(spacing) <= 0:
        raise GeometryError(
            f"{name}: {_TAGS['ImagerPixelSpacing']} is {spacing[0]:g} x {spacing[1]:g} mm; a spacing is above zero. "
            f"The tag is a dummy. {_HOW}"
        )
    if min(distance, to_isocentre) <= 0 or distance < to_isocentre:
        raise GeometryError(
            f"{name}: the source-detector distance SDD, {_TAGS['DistanceSourceToDetector']}, is {distance:g} mm, and "
            f"the source-isocentre distance SOD, {_TAGS['DistanceSourceToPatient']}, {to_isocentre:g} mm: the detector "
            f"would lie before the patient{', or a distance is none' if min(distance, to_isocentre) <= 0 else ''}. Are "
            f"the two exchanged? {_HOW}"
        )
    return (spacing[0], spacing[1]), distance, to_isocentre, (primary, secondary)


def _angles(header: Dataset, index: int, count: int, name: str) -> tuple[float | None, float | None]:
    primary, secondary = (_angle(header, index, count, which, name) for which in ("Primary", "Secondary"))
    if primary is None and secondary is None:
        view = str(value_of(header, index, "ViewPosition") or "").strip().upper()
        return VIEWS.get(view, (None, None))
    return primary, secondary


def _angle(header: Dataset, index: int, count: int, which: str, name: str) -> float | None:
    """The angle of one frame: the file's angle and the frame's increment to it."""
    first = _number(header, index, f"Positioner{which}Angle")
    increments = numbers_of(header, index, f"Positioner{which}AngleIncrement")
    moves = str(header.get("PositionerMotion") or "").strip().upper() == "DYNAMIC"
    others = numbers_of(header, index, "PositionerSecondaryAngleIncrement") if which == "Primary" else [0.0]
    if moves and count > 1 and not increments and not others:
        raise DicomError(
            f"{name} has {count} frames taken while the C-arm moved (Positioner Motion, 0018,1500, DYNAMIC), and "
            "neither Positioner Primary Angle Increment (0018,1520) nor the secondary (0018,1521): fewer geometries "
            f"than frames, one for {count}. {_HOW}"
        )
    if first is None or not increments:
        return first
    if len(increments) != count and not (len(increments) == 1 and increments[0] == 0):
        tag = "0018,1520" if which == "Primary" else "0018,1521"
        raise DicomError(
            f"{name} has {count} frames and {len(increments)} angle{'' if len(increments) == 1 else 's'} in Positioner "
            f"{which} Angle Increment ({tag}): {'fewer' if len(increments) < count else 'more'} geometries than "
            f"frames, so nobody knows which frame was taken from where. {_HOW}"
        )
    return first + (increments[index] if len(increments) > 1 else 0.0)


def _with_field_of_view(header: Dataset, index: int, camera: Camera) -> Camera:
    """The principal point where the field of view is a part of the detector, off its middle.

    Source: DICOM PS3.3 C.8.11.4: the origin of the field of view (0018,7030), as (row, column) of detector elements
    before the picture was turned; the beam is taken to meet the middle of the active area.
    """
    origin = numbers_of(header, index, "FieldOfViewOrigin")
    active = numbers_of(header, index, "DetectorActiveDimensions")
    element = numbers_of(header, index, "DetectorElementSpacing")
    field = numbers_of(header, index, "FieldOfViewDimensions")
    if len(origin) != 2 or not active or len(element) != 2 or min(element) <= 0:
        return camera
    height, width = active[0], active[-1]
    turn = (_number(header, index, "FieldOfViewRotation") or 0.0) % 180 == 90
    steps, size = camera.pixel_size, camera.image_size
    extent = [steps[0] * size[0], steps[1] * size[1]]  # of the picture; before it was turned:
    extent = extent[::-1] if turn else extent
    if len(field) in (1, 2):
        extent = [field[0], field[-1]]
    down = height / 2 - (origin[0] * element[0] + extent[0] / 2)
    across = width / 2 - (origin[1] * element[1] + extent[1] / 2)
    return replace(camera, principal_point=(size[0] / 2 + down / steps[0], size[1] / 2 + across / steps[1]))


def _as_stated(header: Dataset, index: int, camera: Camera, name: str) -> Camera:
    """The camera turned so that its picture's sides look where the frame says that they do."""
    stated = orientation_of(header, index)
    if stated is None:
        return camera
    turn, flip = oriented(camera, stated)
    if flip and value_of(header, index, "FieldOfViewHorizontalFlip") is not None:
        edges = camera.orientation()
        raise GeometryError(
            f"{name} contradicts itself: by its angles and its field of view (rotation 0018,7032, horizontal flip "
            f"0018,7034) {edges['right']} is on the right and {edges['bottom']} below, and Patient Orientation "
            f"(0020,0020) states {stated[0]} on the right and {stated[1]} below, the mirror image: left and right "
            f"would be exchanged. {_HOW}"
        )
    if turn and value_of(header, index, "FieldOfViewRotation") is not None:
        notify(
            f"{name}: Patient Orientation (0020,0020) states {stated[0]} on the right and {stated[1]} below, which is "
            f"{turn} degrees from what its angles and Field of View Rotation (0018,7032) say; the former was believed."
        )
    return turned(camera, turn, flip)


def _stated_camera(text: str, size: tuple[int, int], name: str) -> Camera:
    try:
        camera = Camera.from_dict(json.loads(text))
    except (ValueError, GeometryError) as problem:
        raise GeometryError(f"{name}: the camera in its private block {PRIVATE_CREATOR} cannot be: {problem}") from None
    if camera.image_size != size:
        raise GeometryError(
            f"{name} has {size[0]} x {size[1]} pixels, and the camera in its private block {PRIVATE_CREATOR} takes "
            f"{camera.image_size[0]} x {camera.image_size[1]}: the picture was cropped or resized afterwards. {_HOW}"
        )
    return camera


def _number(header: Dataset, index: int, keyword: str) -> float | None:
    numbers = numbers_of(header, index, keyword)
    return numbers[0] if numbers else None
