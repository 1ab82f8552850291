"""DICOM X-ray frames: where the camera stood, which way is left, what the greys mean, what the beam reached."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import JPEG2000Lossless
from xray_files import XA, picture, write_frame

import diffrender as dr
from diffrender.camera import Camera, c_arm
from diffrender.errors import DicomError, GeometryError, ImageError, Notice
from diffrender.io.images import write_radiograph
from diffrender.xray import Radiograph

SIZE = (30, 44)
GIVEN = c_arm((0.0, 0.0, 0.0), 27.0, -14.0, 1180.0, 760.0, (0.6, 0.9), SIZE)


def frame(tmp_path: Path, pixels: np.ndarray | None = None, modality: str = "XA", **tags) -> Radiograph:
    path = write_frame(tmp_path / "frame.dcm", picture() if pixels is None else pixels, modality, **{**XA, **tags})
    (one,) = dr.read_radiographs(path)
    return one


def same(a: Camera, b: Camera) -> bool:
    """To what a Decimal String of DICOM can say."""
    near = torch.allclose(a.world_from_camera, b.world_from_camera, atol=1e-9)
    numbers = ((a.source_to_detector, *a.pixel_size, *a.principal_point), (b.source_to_detector, *b.pixel_size))
    return (
        near
        and np.allclose(numbers[0][:3], numbers[1])
        and np.allclose(a.principal_point, b.principal_point, atol=1e-9)
        and a.image_size == b.image_size
    )


def place(camera: Camera, row: float, column: float) -> torch.Tensor:
    """Where a place of the picture lies on the detector, RAS [mm], worked out here."""
    x, y, z = camera.world_from_camera[:3, :3].T
    across = (column - camera.principal_point[1]) * camera.pixel_size[1]
    down = (row - camera.principal_point[0]) * camera.pixel_size[0]
    return camera.source + across * x + down * y + camera.source_to_detector * z


def test_the_camera_of_an_angiogram_is_the_c_arm_of_its_angles(tmp_path):
    camera = frame(tmp_path).camera
    assert same(camera, GIVEN)
    # LAO: the detector is towards the patient's left; caudal: towards the feet. The isocentre is the world's origin.
    detector = place(camera, 15, 22)
    assert detector[0] < -100
    assert detector[2] < -100
    assert torch.allclose(camera.source + 760.0 * camera.direction, torch.zeros(3, dtype=torch.float64), atol=1e-9)


def test_a_field_of_view_turned_and_flipped_keeps_every_pixel_at_its_place_on_the_detector(tmp_path):
    stored = picture()
    # what the detector saw, and what the file holds after a turn by 90 degrees clockwise and a mirror
    turned = np.rot90(stored, -1)
    sizes = {"ImagerPixelSpacing": [0.9, 0.6]}
    one = frame(tmp_path, turned, FieldOfViewRotation=90, FieldOfViewHorizontalFlip="NO", **sizes)
    two = frame(tmp_path, turned[:, ::-1], FieldOfViewRotation=90, FieldOfViewHorizontalFlip="YES", **sizes)
    for row, column in ((0.5, 0.5), (3.5, 41.5), (29.5, 7.5)):
        there = place(GIVEN, row, column)
        assert torch.allclose(place(one.camera, column, 30 - row), there, atol=1e-9)
        assert torch.allclose(place(two.camera, column, row), there, atol=1e-9)
        value = stored[int(row), int(column)] / 4095
        assert one.pixels[0, int(column), int(30 - row)] == pytest.approx(value, abs=1e-6)
        assert two.pixels[0, int(column), int(row)] == pytest.approx(value, abs=1e-6)
    assert one.camera.mirrored
    assert not two.camera.mirrored


def test_a_part_of_the_detector_moves_the_principal_point(tmp_path):
    # A detector of 60 x 80 mm in elements of 0.3 x 0.45 mm; the field (18 x 39.6 mm) begins 20 rows down, 15 across.
    detector = {
        "DetectorActiveDimensions": [60.0, 80.0],
        "DetectorElementSpacing": [0.3, 0.45],
        "FieldOfViewOrigin": [20.0, 15.0],
    }
    camera = frame(tmp_path, **detector).camera
    # the middle of the detector is 30 mm down and 40 mm across; the field's corner 6 and 6.75
    assert camera.principal_point == pytest.approx(((30 - 6) / 0.6, (40 - 6.75) / 0.9))
    turned = frame(tmp_path, np.rot90(picture(), -1), FieldOfViewRotation=90, ImagerPixelSpacing=[0.9, 0.6], **detector)
    for row, column in ((0.5, 0.5), (3.5, 41.5)):
        assert torch.allclose(place(turned.camera, column, 30 - row), place(camera, row, column), atol=1e-9)


def test_what_the_frame_states_of_its_sides_goes_before_all(tmp_path):
    upside_down = frame(tmp_path, PositionerPrimaryAngle=0, PositionerSecondaryAngle=0, PatientOrientation=["R", "H"])
    assert upside_down.camera.orientation() == {"left": "L", "right": "R", "top": "F", "bottom": "H"}
    assert upside_down.camera.mirrored
    from_before = frame(tmp_path, PositionerPrimaryAngle=0, PositionerSecondaryAngle=0, PatientOrientation=["R", "F"])
    assert from_before.camera.orientation()["right"] == "R"
    assert not from_before.camera.mirrored
    assert same(frame(tmp_path, PatientOrientation=["LP", "FP"]).camera, GIVEN)
    assert same(frame(tmp_path, PatientOrientation=["LEFT", "DOWN"]).camera, GIVEN)  # no such letters
    with pytest.raises(GeometryError, match=r"mirror image.*left and right"):
        frame(tmp_path, PatientOrientation=["R", "F"], FieldOfViewHorizontalFlip="NO", PositionerPrimaryAngle=0)
    with pytest.warns(Notice, match="180 degrees"):
        frame(tmp_path, PatientOrientation=["R", "H"], FieldOfViewRotation=0, PositionerPrimaryAngle=0)


def test_feet_first_the_feet_are_on_top(tmp_path):
    camera = frame(tmp_path, PatientPosition="FFS", PositionerPrimaryAngle=0, PositionerSecondaryAngle=0).camera
    assert camera.orientation() == {"left": "L", "right": "R", "top": "F", "bottom": "H"}
    assert camera.mirrored
    assert camera.direction.tolist() == pytest.approx([0, 1, 0])  # angles are the patient's, whichever way he lies


def test_a_moving_c_arm_has_a_camera_for_each_frame(tmp_path):
    pixels = np.stack([picture(), picture()[::-1], picture()[:, ::-1]])
    tags = {"PositionerMotion": "DYNAMIC", "PositionerPrimaryAngleIncrement": [0.0, 1.5, 4.0]}
    path = write_frame(tmp_path / "run.dcm", pixels, **XA, **tags, PositionerSecondaryAngleIncrement=[0.0, 0.0, -2.0])
    frames = dr.read_radiographs(path)
    for n, (primary, secondary) in enumerate(((27.0, -14.0), (28.5, -14.0), (31.0, -16.0))):
        expected = c_arm((0.0, 0.0, 0.0), primary, secondary, 1180.0, 760.0, (0.6, 0.9), SIZE)
        assert same(frames[n].camera, expected)
        assert np.allclose(frames[n].pixels[0], pixels[n] / 4095, atol=1e-6)
    assert [one.source for one in frames] == [f"{path} (frame {n})" for n in (1, 2, 3)]


def test_an_enhanced_run_has_its_geometry_in_each_frames_group(tmp_path):
    groups = []
    for primary in (-33.0, 12.0):
        position, geometry, pixel = Dataset(), Dataset(), Dataset()
        position.PositionerPrimaryAngle, position.PositionerSecondaryAngle = primary, 8.0
        geometry.DistanceSourceToDetector, geometry.DistanceSourceToIsocenter = 1010.0, 640.0
        pixel.ImagerPixelSpacing = [0.3, 0.4]
        group = Dataset()
        group.PositionerPositionSequence = Sequence([position])
        group.XRayGeometrySequence = Sequence([geometry])
        group.FramePixelDataPropertiesSequence = Sequence([pixel])
        groups.append(group)
    pixels = np.stack([picture(), picture()[::-1]])
    frames = dr.read_radiographs(
        write_frame(tmp_path / "e.dcm", pixels, PerFrameFunctionalGroupsSequence=Sequence(groups))
    )
    assert same(frames[0].camera, c_arm((0.0, 0.0, 0.0), -33.0, 8.0, 1010.0, 640.0, (0.3, 0.4), SIZE))
    assert same(frames[1].camera, c_arm((0.0, 0.0, 0.0), 12.0, 8.0, 1010.0, 640.0, (0.3, 0.4), SIZE))
    with pytest.raises(DicomError, match=r"2 frames and 1 geometries.*fewer geometries than frames"):
        dr.read_radiographs(
            write_frame(tmp_path / "f.dcm", pixels, PerFrameFunctionalGroupsSequence=Sequence(groups[:1]))
        )


def test_without_angles_the_named_view_says_where_the_beam_goes(tmp_path):
    angles = {"PositionerPrimaryAngle": None, "PositionerSecondaryAngle": None}
    ap = frame(tmp_path, modality="DX", ViewPosition="AP", PatientOrientation=["L", "F"], **angles).camera
    assert ap.direction.tolist() == pytest.approx([0, -1, 0], abs=1e-9)
    assert ap.orientation() == {"left": "R", "right": "L", "top": "H", "bottom": "F"}
    unsaid = frame(tmp_path, modality="DX", ViewPosition="AP", **angles).camera
    assert same(unsaid, ap)
    lateral = frame(tmp_path, modality="DX", ViewPosition="LL", **angles).camera
    assert lateral.orientation() == {"left": "A", "right": "P", "top": "H", "bottom": "F"}


@pytest.mark.parametrize("kind", ["log-attenuation", "intensity"])
def test_what_we_wrote_is_read_again(tmp_path, kind):
    turned = c_arm((12.0, -30.0, 55.0), 25, -12, 1020, 700, (0.7, 1.1), SIZE)
    camera = Camera(turned.world_from_camera, 1020.0, (0.7, 1.1), SIZE, (11.25, 31.5))
    pixels = torch.from_numpy(picture().astype(np.float32) / 900)[None]
    pixels = pixels if kind == "log-attenuation" else torch.exp(-pixels)
    for name in ("a.dcm", "a.png", "a.tif"):
        written = Radiograph(pixels, kind, camera)
        write_radiograph(written, tmp_path / name)
        (again,) = dr.read_radiographs(tmp_path / name)
        assert same(again.camera, camera)
        assert again.kind == kind
        assert (again.pixels - pixels).abs().max() < pixels.max() / 65535  # 16-bit greys, to half a step


@pytest.mark.parametrize(
    ("modality", "tags", "kind", "rises"),
    [
        ("XA", {}, "intensity", True),
        ("XA", {"PixelIntensityRelationship": "LIN"}, "intensity", True),
        ("XA", {"PixelIntensityRelationship": "LIN", "PixelIntensityRelationshipSign": -1}, "intensity", False),
        ("XA", {"PixelIntensityRelationship": "LOG"}, "log-attenuation", False),
        ("DX", {"PixelIntensityRelationship": "LOG", "PixelIntensityRelationshipSign": -1}, "log-attenuation", True),
        ("DX", {"PixelIntensityRelationship": "LOG", "PixelIntensityRelationshipSign": 1}, "log-attenuation", False),
        ("DX", {}, "log-attenuation", True),
        ("DX", {"PhotometricInterpretation": "MONOCHROME1"}, "log-attenuation", False),
        ("XA", {"PhotometricInterpretation": "MONOCHROME1"}, "intensity", False),
        ("DX", {"PixelIntensityRelationship": "LIN", "PixelIntensityRelationshipSign": 1}, "intensity", True),
        (
            "DX",
            {
                "PixelIntensityRelationship": "DISP",
                "PixelIntensityRelationshipSign": 1,
                "PhotometricInterpretation": "MONOCHROME1",
            },
            "log-attenuation",
            False,
        ),
    ],
)
def test_what_greys_mean(tmp_path, modality, tags, kind, rises):
    one = frame(tmp_path, modality=modality, **tags)
    share = picture() / 4095
    assert one.kind == kind
    # half a step of 12-bit greys in single precision
    assert np.allclose(one.pixels[0], share if rises else 1 - share, atol=1e-5)


def test_a_window_is_what_0_to_1_shows_and_cuts_nothing_off(tmp_path):
    window = {"WindowCenter": 1500, "WindowWidth": 800}
    # LINEAR (PS3.3 C.11.2.1.2.1): black at 1500 - 0.5 - 799 / 2, white at 1500 - 0.5 + 799 / 2
    shown = (picture() - 1100.0) / 799
    assert np.allclose(frame(tmp_path, modality="DX", **window).pixels[0], shown, atol=1e-5)
    inverted = frame(tmp_path, modality="DX", PhotometricInterpretation="MONOCHROME1", **window)
    assert np.allclose(inverted.pixels[0], 1 - shown, atol=1e-5)
    exact = frame(tmp_path, modality="DX", VOILUTFunction="LINEAR_EXACT", **window)
    assert np.allclose(exact.pixels[0], (picture() - 1100.0) / 800, atol=1e-5)
    rescaled = frame(tmp_path, modality="DX", RescaleSlope=2, RescaleIntercept=-100, **window)
    assert np.allclose(rescaled.pixels[0], (2.0 * picture() - 100 - 1100) / 799, atol=1e-5)
    dark = frame(tmp_path, **window)  # an intensity keeps its zero
    assert np.allclose(dark.pixels[0], picture() / 4095, atol=1e-5)


def test_colour_becomes_grey(tmp_path):
    grey = np.repeat((picture(bits=8) // 2).astype(np.uint8)[..., None], 3, axis=2)
    assert np.allclose(frame(tmp_path, grey, "DX").pixels[0], grey[..., 0] / 255, atol=1e-5)
    grey[5:9, 6:12] = (200, 30, 10)
    with pytest.warns(Notice, match="colour"):
        one = frame(tmp_path, grey, "DX")
    assert one.pixels[0, 6, 7] == pytest.approx((0.299 * 200 + 0.587 * 30 + 0.114 * 10) / 255, abs=1e-4)


def test_a_rectangular_shutter(tmp_path):
    edges = {
        "ShutterShape": "RECTANGULAR",
        "ShutterLeftVerticalEdge": 4,
        "ShutterRightVerticalEdge": 40,
        "ShutterUpperHorizontalEdge": 3,
        "ShutterLowerHorizontalEdge": 21,
    }
    exposed = frame(tmp_path, **edges).exposed
    expected = np.zeros(SIZE, dtype=bool)
    expected[2:21, 3:40] = True  # from 1, the edges within
    assert exposed is not None
    assert np.array_equal(exposed.numpy(), expected)
    with pytest.raises(DicomError, match=r"ShutterLowerHorizontalEdge.*not known"):
        frame(tmp_path, **{**edges, "ShutterLowerHorizontalEdge": None})
    nothing = {**edges, "ShutterRightVerticalEdge": 2}
    with pytest.warns(Notice, match="leave nothing"):
        assert frame(tmp_path, **nothing).exposed is None


def test_shutter_and_collimator_together(tmp_path):
    shapes = {
        "ShutterShape": ["CIRCULAR", "POLYGONAL"],
        "CenterOfCircularShutter": [16, 20],
        "RadiusOfCircularShutter": 15,
        "VerticesOfThePolygonalShutter": [2, 2, 2, 40, 28, 40],
        "CollimatorShape": "RECTANGULAR",
        "CollimatorLeftVerticalEdge": 1,
        "CollimatorRightVerticalEdge": 30,
        "CollimatorUpperHorizontalEdge": 1,
        "CollimatorLowerHorizontalEdge": 30,
    }
    exposed = frame(tmp_path, **shapes).exposed
    assert exposed is not None
    rows, columns = np.mgrid[1:31, 1:45]
    # pixels of 0.6 x 0.9 mm: a radius of 15 columns is 13.5 mm, 22.5 rows
    disc = ((rows - 16) * 0.6) ** 2 + ((columns - 20) * 0.9) ** 2 <= 13.5**2
    above = (columns - 2) / 38 - (rows - 2) / 26  # right of and above the line from (2, 2) to (28, 40)
    expected = disc & (above > 0) & (rows >= 2) & (columns <= 30)
    clear = np.abs(above) > 0.03  # the line itself belongs to either side
    assert np.array_equal(exposed.numpy()[clear], expected[clear])
    assert 20 < expected.sum() < 600


def test_a_round_field_and_padding(tmp_path):
    exposed = frame(tmp_path, FieldOfViewShape="ROUND", FieldOfViewDimensions=15.0).exposed
    assert exposed is not None
    rows, columns = (np.indices(SIZE) + 0.5 - np.array([15, 22])[:, None, None]) * np.array([0.6, 0.9])[:, None, None]
    assert np.array_equal(exposed.numpy(), np.hypot(rows, columns) <= 7.5)
    pixels = picture()
    pixels[4:9, 5:17] = 4000
    exposed = frame(tmp_path, pixels, PixelPaddingValue=4000).exposed
    assert exposed is not None
    assert np.array_equal(exposed.numpy(), pixels != 4000)


def test_jpeg_compressed_frames_are_the_same(tmp_path):
    pixels = np.stack([picture(70, 90), picture(70, 90)[::-1]])
    path = write_frame(tmp_path / "run.dcm", pixels, **XA)
    plain = dr.read_radiographs(path)
    dataset = dcmread(path)
    dataset.compress(JPEG2000Lossless)
    dataset.save_as(tmp_path / "packed.dcm")
    packed = dr.read_radiographs(tmp_path / "packed.dcm")
    assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(plain, packed, strict=True))


def test_a_folder_is_read_in_the_order_of_its_instances(tmp_path):
    for number in (2, 3, 1):
        write_frame(
            tmp_path / f"x{5 - number}.dcm",
            picture() // number,
            **{**XA, "PositionerPrimaryAngle": 10.0 * number},
            InstanceNumber=number,
            SeriesInstanceUID="1.2.3",
        )
    frames = dr.read_radiographs(tmp_path)
    assert [round(float(one.pixels.max()) * 6) for one in frames] == [6, 3, 2]
    assert same(frames[1].camera, c_arm((0.0, 0.0, 0.0), 20.0, -14.0, 1180.0, 760.0, (0.6, 0.9), SIZE))


def test_a_frame_without_geometry_says_what_is_missing_and_how_to_give_it(tmp_path):
    path = write_frame(tmp_path / "x.dcm", picture(), "DX", PixelSpacing=[1.0, 1.0], DistanceSourceToDetector=1000)
    with pytest.raises(DicomError) as told:
        dr.read_radiographs(path)
    for words in (
        "0018,1111",
        "0018,1164",
        "0018,1510",
        "0018,1511",
        "camera=",
        "--camera",
        ".camera.json",
        "0028,0030",
    ):
        assert words in str(told.value)
    assert "0018,1110" not in str(told.value)
    assert "Geheim" not in str(told.value)
    assert same(dr.read_radiographs(path, camera=GIVEN)[0].camera, GIVEN)


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"DistanceSourceToPatient": 1300.0}, r"1180 mm.*1300 mm.*exchanged"),
        ({"DistanceSourceToDetector": -5.0}, "is none"),
        ({"ImagerPixelSpacing": [0.0, 0.3]}, r"0018,1164.*above zero"),
        ({"FieldOfViewRotation": 45}, r"0018,7032.*45 degrees"),
    ],
)
def test_geometry_that_cannot_be(tmp_path, tags, words):
    with pytest.raises(GeometryError, match=words):
        frame(tmp_path, **tags)


def test_fewer_angles_than_frames(tmp_path):
    pixels = np.stack([picture()] * 3)
    tags = {**XA, "PositionerMotion": "DYNAMIC"}
    few = write_frame(tmp_path / "a.dcm", pixels, **tags, PositionerPrimaryAngleIncrement=[0.0, 2.0])
    with pytest.raises(DicomError, match=r"3 frames and 2 angles.*0018,1520.*fewer geometries than frames"):
        dr.read_radiographs(few)
    none = write_frame(tmp_path / "b.dcm", pixels, **tags)
    with pytest.raises(DicomError, match=r"DYNAMIC.*fewer geometries"):
        dr.read_radiographs(none)
    assert len(dr.read_radiographs(none, camera=[GIVEN] * 3)) == 3
    cameras = [c_arm((0.0, 0.0, 0.0), 9.0 * n, image_size=SIZE) for n in range(3)]
    (tmp_path / "b.camera.json").write_text(json.dumps([camera.to_dict() for camera in cameras]))
    beside = dr.read_radiographs(none)
    assert all(same(one.camera, camera) for one, camera in zip(beside, cameras, strict=True))
    with pytest.raises(GeometryError, match="2 geometries were given"):
        dr.read_radiographs(none, camera=[GIVEN] * 2)


def test_a_camera_that_contradicts_the_frames_sides_is_refused(tmp_path):
    path = write_frame(tmp_path / "x.dcm", picture(), "DX", PatientOrientation=["R", "F"])
    with pytest.raises(GeometryError, match=r"mirror image.*handedness"):
        dr.read_radiographs(path, camera=c_arm((0.0, 0.0, 0.0), 10.0, image_size=SIZE))
    with pytest.raises(GeometryError, match=r"mirror image.*handedness"):
        dr.read_radiographs(path, camera=c_arm((0.0, 0.0, 0.0), 10.0, image_size=SIZE).projection())


def test_constant_truncated_and_other_files(tmp_path):
    with pytest.raises(ImageError, match="constant"):
        frame(tmp_path, np.full(SIZE, 77, dtype=np.uint16))
    whole = write_frame(tmp_path / "t.dcm", picture(), **XA)
    whole.write_bytes(whole.read_bytes()[:-700])
    with pytest.raises(DicomError, match="truncated or damaged"):
        dr.read_radiographs(whole)
    with pytest.raises(DicomError, match="read_volume"):
        frame(tmp_path, modality="CT")


def test_real_samples(real_data):
    folder = real_data("dicom-xray-samples")
    geometry = {
        "format": 1,
        "geometry": "c-arm",
        "source_to_detector": 1020,
        "source_to_isocenter": 700,
        "pixel_size": 0.3,
        "horizontal_flip": False,
    }
    kinds = {"XA1_J2KR.dcm": "intensity", "CR_RSNA_torchxrayvision.dcm": "log-attenuation"}
    kinds["331_DDH_10.dcm"] = "log-attenuation"
    for name, kind in kinds.items():
        with pytest.raises(DicomError, match=r"0018,1110"):
            dr.read_radiographs(folder / name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Notice)
            (one,) = dr.read_radiographs(folder / name, camera=geometry)
        assert one.kind == kind
    # stored with the patient's right on the image's right: the marker R in it is mirrored too
    with pytest.raises(GeometryError, match="mirror image"):
        dr.read_radiographs(folder / "RG3_J2KR.dcm", camera=geometry)
    (leg,) = dr.read_radiographs(folder / "RG3_J2KR.dcm", camera={**geometry, "horizontal_flip": True})
    bone, air = leg.pixels[0, 880, 860:880].mean(), leg.pixels[0, 880, 480:500].mean()
    assert bone > air + 0.1  # MONOCHROME1, turned round
