"""A radiograph written, and read back by other hands: SimpleITK, pydicom, Pillow, tifffile, numpy."""

import json
import math
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
import tifffile
import torch
from PIL import Image

import diffrender as dr
from diffrender.camera import Camera, c_arm
from diffrender.errors import OutputError
from diffrender.io import images
from diffrender.io.dicom_out import DERIVATION, PRIVATE_CREATOR, PRIVATE_GROUP, c_arm_angles, view_position
from diffrender.io.images import write_labels_of, write_radiograph
from diffrender.io.whole import together, whole, write_whole
from diffrender.xray import Radiograph

REPOSITORY = Path(__file__).resolve().parents[3]
HEIGHT, WIDTH = 37, 52
HEADER = {
    "PatientName": "Müßtermann^Öz",
    "PatientID": "471147114711-geheim",
    "PatientBirthDate": "19450102",
    "PatientSex": "F",
    "PatientAge": "077Y",
    "PatientWeight": 71.5,
    "OtherPatientIDs": ("471147114711-a", "471147114711-b"),
    "StudyInstanceUID": "1.2.840.471147114711.1",
    "StudyDate": "20221208",
    "StudyTime": "113428",
    "StudyID": "S471147",
    "AccessionNumber": "A471147",
    "ReferringPhysicianName": "Arzt^Eine",
    "FrameOfReferenceUID": "1.2.840.471147114711.2",
    "SeriesInstanceUID": "1.2.840.471147114711.3",
    "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2",
    "SOPInstanceUIDs": ("1.2.840.471147114711.4.1", "1.2.840.471147114711.4.2"),
    "InstitutionName": "Klinik 471147114711",
}


def oblique_camera() -> Camera:
    """Off centre, oblong pixels, principal point away from the middle."""
    camera = c_arm((12.0, -30.0, 55.0), 25, -12, 1020, 700, (0.7, 1.1), (HEIGHT, WIDTH))
    return Camera(camera.world_from_camera, 1020.0, (0.7, 1.1), (HEIGHT, WIDTH), (11.25, 31.5))


def radiograph(kind: str = "log-attenuation", camera: Camera | None = None, labels: bool = False, **more) -> Radiograph:
    generator = torch.Generator().manual_seed(20)
    pixels = torch.rand(1, HEIGHT, WIDTH, generator=generator)
    pixels[0, 3, 5] = 2.0  # one pixel that a flipped or transposed copy puts elsewhere
    if labels:
        lengths = torch.rand(2, HEIGHT, WIDTH, generator=generator) * 200
        more = {"path_lengths": lengths, "masks": lengths > 90, "ids": (9, 3), "names": {9: "hip links ß"}, **more}
    return Radiograph(pixels * (3 if kind == "log-attenuation" else 0.5), kind, camera or oblique_camera(), **more)


def place_of(camera: Camera, row: int, column: int) -> np.ndarray:
    """Where the centre of a pixel lies, RAS [mm], from the camera's definition."""
    x = (column + 0.5 - camera.principal_point[1]) * camera.pixel_size[1]
    y = (row + 0.5 - camera.principal_point[0]) * camera.pixel_size[0]
    return (camera.world_from_camera @ torch.tensor([x, y, camera.source_to_detector, 1.0], dtype=torch.float64))[
        :3
    ].numpy()


def eye_camera() -> Camera:
    """Determinant +1: seen from the source; rolled by 37 degrees besides."""
    roll = math.radians(37)
    axes = np.array([[math.cos(roll), 0, math.sin(roll)], [math.sin(roll), 0, -math.cos(roll)], [0, 1, 0]]).T
    matrix = np.eye(4)
    matrix[:3, :3] = axes
    if np.linalg.det(axes) < 0:
        matrix[:3, 0] *= -1
    matrix[:3, 3] = (-20, -640, 31)
    return Camera(torch.from_numpy(matrix), 980.0, (0.7, 1.1), (HEIGHT, WIDTH), (20.0, 9.5))


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("camera", [oblique_camera(), eye_camera()], ids=["detector", "eye"])
def test_nifti_lies_in_the_image_plane(tmp_path, ending, camera):
    assert camera.mirrored == (camera.world_from_camera[:3, :3].det() < 0)
    source = radiograph(camera=camera)
    (path,) = write_radiograph(source, tmp_path / f"frame{ending}")
    image = sitk.ReadImage(str(path))
    assert image.GetSize() == (WIDTH, HEIGHT, 1)
    assert image.GetPixelID() == sitk.sitkFloat32
    assert np.array_equal(sitk.GetArrayFromImage(image)[0], source.pixels[0].numpy())
    for row, column in ((0, 0), (HEIGHT - 1, 4), (8, WIDTH - 1)):
        lps = np.array(image.TransformIndexToPhysicalPoint((column, row, 0)))
        # The header is float32: coordinates of some 600 mm are kept to 3e-5.
        assert np.abs(lps * (-1, -1, 1) - place_of(camera, row, column)).max() < 2e-4


def test_the_quaternion_of_nifti_says_the_same_as_its_matrix(tmp_path):
    """Readers that take the quaternion alone (qform) must not see another place."""
    for camera in (oblique_camera(), eye_camera()):
        (path,) = write_radiograph(radiograph(camera=camera), tmp_path / "q.nii")
        content = bytearray(path.read_bytes())
        content[254:256] = b"\0\0"  # sform_code 0: the matrix does not count
        path.write_bytes(content)
        image = sitk.ReadImage(str(path))
        lps = np.array(image.TransformIndexToPhysicalPoint((40, 7, 0)))
        assert np.abs(lps * (-1, -1, 1) - place_of(camera, 7, 40)).max() < 2e-4
        beyond = np.array(image.TransformIndexToPhysicalPoint((40, 7, 1))) - lps
        assert np.abs(beyond * (-1, -1, 1) - camera.direction.numpy()).max() < 1e-4  # 1 mm on along the beam


def test_png_reads_back_to_its_values(tmp_path):
    for kind in ("log-attenuation", "intensity"):
        source = radiograph(kind)
        source.pixels[0, 0, 0] = -0.01  # noise may go below nothing
        (path,) = write_radiograph(source, tmp_path / f"{kind}.PNG")
        with Image.open(path) as picture:
            grey = np.asarray(picture).astype(float)
            about = json.loads(picture.text["diffrender"])
            across, down = picture.info["dpi"]
            assert "not for clinical use" in picture.text["Disclaimer"]
        assert grey.shape == (HEIGHT, WIDTH)
        assert grey.max() == 65535
        # Half a grey, and the rounding of float32.
        error = np.abs(grey * about["slope"] + about["intercept"] - source.pixels[0].numpy()).max()
        assert error <= about["slope"] * 0.5 + 1e-6
        assert about["kind"] == kind
        assert Camera.from_dict(about["camera"]).to_dict() == source.camera.to_dict()
        # PNG keeps whole pixels per metre: 1429 and 909.
        assert (25.4 / down, 25.4 / across) == (pytest.approx(0.7, abs=4e-4), pytest.approx(1.1, abs=7e-4))


def test_a_picture_of_nothing_is_black(tmp_path):
    empty = Radiograph(torch.zeros(1, HEIGHT, WIDTH), "log-attenuation", oblique_camera())
    (path,) = write_radiograph(empty, tmp_path / "air.png")
    with Image.open(path) as picture:
        assert np.asarray(picture).max() == 0
        assert json.loads(picture.text["diffrender"])["slope"] > 0


def test_tiff_reads_back_to_its_values(tmp_path):
    source = radiograph("intensity")
    for name in ("a.tif", "b.tiff"):
        (path,) = write_radiograph(source, tmp_path / name)
        with tifffile.TiffFile(path) as file:
            page = file.pages[0]
            assert np.array_equal(page.asarray(), source.pixels[0].numpy())
            about = json.loads(page.description)
            x, y = page.tags["XResolution"].value, page.tags["YResolution"].value
            assert page.tags["ResolutionUnit"].value == 3  # centimetre
        assert (10 * y[1] / y[0], 10 * x[1] / x[0]) == (pytest.approx(0.7, rel=1e-6), pytest.approx(1.1, rel=1e-6))
        assert about["camera"] == source.camera.to_dict()


def test_labels_lie_beside_the_picture(tmp_path):
    source = radiograph(labels=True)
    picture, labels = write_radiograph(source, tmp_path / "hüfte 1.nii.gz")
    assert (picture.name, labels.name) == ("hüfte 1.nii.gz", "hüfte 1.labels.npz")
    with np.load(labels, allow_pickle=False) as stored:
        assert stored["masks"].dtype == bool
        assert np.array_equal(stored["masks"], source.masks.numpy())
        assert np.array_equal(stored["path_lengths"], source.path_lengths.numpy())
        assert stored["ids"].tolist() == [9, 3]
        assert stored["names"].tolist() == ["hip links ß", "label 3"]
        assert json.loads(str(stored["camera"])) == source.camera.to_dict()
    assert write_labels_of(source, tmp_path / "0000.npz") == tmp_path / "0000.npz"
    assert write_labels_of(source, tmp_path / "0001.png") == tmp_path / "0001.labels.npz"
    with pytest.raises(OutputError, match=r"b\.npz would be empty: this radiograph has no labels"):
        write_labels_of(radiograph(), tmp_path / "b.npz")


def test_soft_masks_stay_soft(tmp_path):
    soft = torch.rand(2, HEIGHT, WIDTH, dtype=torch.float64)
    path = write_labels_of(radiograph(labels=True, masks=soft), tmp_path / "soft.npz")
    with np.load(path) as stored:
        assert np.abs(stored["masks"] - soft.numpy()).max() < 1e-7  # float32


# PS3.3 2024e: what a Digital X-Ray image must say (type 1), and must have, empty if unknown (type 2), by module.
TYPE_1 = {
    "C.7.2.1 General Study": ["StudyInstanceUID"],
    "C.7.3.1 General Series": ["Modality", "SeriesInstanceUID"],
    "C.8.11.1 DX Series": ["Modality", "PresentationIntentType"],
    "C.7.4.1 Frame of Reference": ["FrameOfReferenceUID"],
    "C.7.6.3 Image Pixel": [
        "SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit",
        "PixelRepresentation", "PixelData",
    ],
    "C.8.11.2 DX Anatomy Imaged": ["ImageLaterality"],
    "C.8.11.3 DX Image": [
        "ImageType", "PixelIntensityRelationship", "PixelIntensityRelationshipSign", "RescaleIntercept",
        "RescaleSlope", "RescaleType", "PresentationLUTShape", "LossyImageCompression", "BurnedInAnnotation",
        "PatientOrientation",
    ],
    "C.8.11.4 DX Detector": ["ImagerPixelSpacing"],
    "C.12.1 SOP Common": ["SOPClassUID", "SOPInstanceUID", "SpecificCharacterSet"],
}  # fmt: skip
TYPE_2 = {
    "C.7.1.1 Patient": ["PatientName", "PatientID", "PatientBirthDate", "PatientSex"],
    "C.7.2.1 General Study": ["StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber"],
    "C.7.3.1 General Series": ["SeriesNumber"],
    "C.7.4.1 Frame of Reference": ["PositionReferenceIndicator"],
    "C.7.5.1 General Equipment": ["Manufacturer"],
    "C.7.6.1 General Image": ["InstanceNumber"],
    "C.8.11.2 DX Anatomy Imaged": ["AnatomicRegionSequence"],
    "C.8.11.4 DX Detector": ["DetectorType"],
    "C.8.11.5 DX Positioning": ["PositionerType"],
    "C.7.6.14 Acquisition Context": ["AcquisitionContextSequence"],
}


def read_dicom(path: Path) -> pydicom.Dataset:
    """Strictly: a value that breaks the rules of its kind is an error, not a warning."""
    with pydicom.config.strict_reading():
        dataset = pydicom.dcmread(path)
        for element in dataset.iterall():
            assert element.value is not None or element.VM == 0
    return dataset


@pytest.mark.parametrize("anonymous", [False, True])
@pytest.mark.parametrize("kind", ["log-attenuation", "intensity"])
def test_dicom_has_what_a_dx_image_needs(tmp_path, kind, anonymous):
    path = write_radiograph(radiograph(kind, header=HEADER), tmp_path / "x.dcm", anonymous)[0]
    dataset = read_dicom(path)
    for module, keywords in TYPE_1.items():
        for keyword in keywords:
            assert keyword in dataset, f"{module}: {keyword}"
            assert dataset[keyword].value not in (None, "", []), f"{module}: {keyword}"
    for module, keywords in TYPE_2.items():
        for keyword in keywords:
            assert keyword in dataset, f"{module}: {keyword}"
    assert dataset.SOPClassUID == "1.2.840.10008.5.1.4.1.1.1.1.1"  # PS3.4 B.5: Digital X-Ray, For Processing
    assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
    assert dataset.PresentationIntentType == "FOR PROCESSING"
    assert dataset.ImageType[:3] == ["DERIVED", "SECONDARY", ""]  # C.8.11.3.1.1: the third is there, and empty
    assert dataset.DerivationDescription == DERIVATION
    assert "not for clinical use" in DERIVATION
    assert (dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType) == (1, 0, "US")  # C.8.11.3, enumerated
    assert dataset.PixelRepresentation == 0
    assert dataset.BurnedInAnnotation == "NO"
    assert (dataset.PhotometricInterpretation, dataset.PresentationLUTShape) == ("MONOCHROME2", "IDENTITY")
    expected = {"log-attenuation": ("LOG", -1), "intensity": ("LIN", 1)}[kind]
    assert (dataset.PixelIntensityRelationship, dataset.PixelIntensityRelationshipSign) == expected
    assert "ImagePositionPatient" not in dataset  # the Image Plane module is no part of A.26
    assert "ImageOrientationPatient" not in dataset


def test_dicom_reads_back_to_its_values_and_its_camera(tmp_path):
    source = radiograph()
    dataset = read_dicom(write_radiograph(source, tmp_path / "x.dcm")[0])
    mapping = dataset.RealWorldValueMappingSequence[0]
    values = dataset.pixel_array * mapping.RealWorldValueSlope + mapping.RealWorldValueIntercept
    assert np.abs(values - source.pixels[0].numpy()).max() <= mapping.RealWorldValueSlope * 0.5 + 1e-6
    block = dataset.private_block(PRIVATE_GROUP, PRIVATE_CREATOR)
    assert Camera.from_dict(json.loads(block[0x01].value)).to_dict() == source.camera.to_dict()
    assert block[0x02].value == "log-attenuation"
    assert block[0x03].value == mapping.RealWorldValueSlope
    assert [float(n) for n in dataset.ImagerPixelSpacing] == [0.7, 1.1]  # row step first
    assert float(dataset.DistanceSourceToDetector) == 1020
    # The detector went 25 degrees to the left and 12 to the feet: the right of the image is left and posterior.
    assert list(dataset.PatientOrientation) == ["LP", "F"]
    assert float(dataset.PositionerPrimaryAngle) == pytest.approx(25, abs=1e-9)
    assert float(dataset.PositionerSecondaryAngle) == pytest.approx(-12, abs=1e-9)


def test_dicom_copies_patient_study_frame_and_source(tmp_path):
    source = radiograph(header=HEADER)
    first = read_dicom(write_radiograph(source, tmp_path / "1.dcm")[0])
    second = read_dicom(write_radiograph(source, tmp_path / "2.dcm")[0])
    of_the_series = {"SeriesInstanceUID", "SOPClassUID", "SOPInstanceUIDs", "InstitutionName"}
    for keyword in HEADER.keys() - of_the_series:
        assert type(HEADER[keyword])(first[keyword].value) == HEADER[keyword], keyword
    assert tuple(item.ReferencedSOPInstanceUID for item in first.SourceImageSequence) == HEADER["SOPInstanceUIDs"]
    assert first.ReferencedSeriesSequence[0].SeriesInstanceUID == HEADER["SeriesInstanceUID"]
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert first.SeriesInstanceUID not in (second.SeriesInstanceUID, HEADER["SeriesInstanceUID"])
    assert "InstitutionName" not in first  # nothing but what is listed


def test_anonymous_dicom_has_nothing_of_the_patient(tmp_path):
    path = write_radiograph(radiograph(header=HEADER), tmp_path / "x.dcm", anonymous=True)[0]
    dataset = read_dicom(path)
    content = path.read_bytes()
    for value in ("Müßtermann", "geheim", "471147114711", "19450102", "Arzt", "20221208"):
        assert value.encode() not in content, value
    assert str(dataset.PatientName) == dataset.PatientID == dataset.StudyDate == ""
    assert dataset.PatientIdentityRemoved == "YES"
    assert dataset.DeidentificationMethod
    assert dataset.FrameOfReferenceUID != HEADER["FrameOfReferenceUID"]
    assert "SourceImageSequence" not in dataset
    assert "ReferencedSeriesSequence" not in dataset
    for ending in (".png", ".tif", ".nii"):
        for file in write_radiograph(
            radiograph(header=HEADER, source="Müßtermann/ct.nii", labels=True), f"{path}{ending}"
        ):
            assert "Müßtermann".encode() not in file.read_bytes()
            assert b"471147114711" not in file.read_bytes()


def test_views_of_one_ct_stay_together_and_those_of_another_apart(tmp_path):
    """Their study and their frame of reference, also where the CT's own may not be used or it has none."""
    other = {**HEADER, "StudyInstanceUID": "1.2.9.1", "FrameOfReferenceUID": "1.2.9.2"}
    sources = [
        {"header": HEADER},
        {"header": HEADER},
        {"header": other},
        {"source": "a.nii"},
        {"source": "a.nii"},
        {},
        {},
    ]
    written = [
        read_dicom(write_radiograph(radiograph(**source), tmp_path / f"{n}.dcm", anonymous=True)[0])
        for n, source in enumerate(sources)
    ]
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID"):
        uids = [dataset[keyword].value for dataset in written]
        assert uids[0] == uids[1]
        assert uids[3] == uids[4]
        assert len(set(uids)) == 5
    assert written[0].StudyInstanceUID != written[0].FrameOfReferenceUID


def test_a_real_ct_is_named_as_the_source(tmp_path, real_data):
    """As far as its slices go: 20 DICOM files of one series."""
    folder = real_data("ct-dicom-totalseg")
    slices = [pydicom.dcmread(file, stop_before_pixels=True) for file in sorted(folder.glob("*.dcm"))]
    volume = dr.read_volume(folder)
    picture = dr.radiograph(volume, dr.c_arm(volume, 20, 5, pixel_size=8.0, image_size=(30, 40)))
    dataset = read_dicom(write_radiograph(picture, tmp_path / "x.dcm")[0])
    for keyword in ("FrameOfReferenceUID", "StudyInstanceUID", "PatientID", "PatientName", "StudyDate"):
        value = slices[0].get(keyword)  # this CT was anonymised: some of them are empty
        assert str(dataset[keyword].value) == str(value) or (keyword.endswith("UID") and not value)
    named = {item.ReferencedSOPInstanceUID for item in dataset.get("SourceImageSequence", ())}
    assert named == {one.SOPInstanceUID for one in slices if one.SOPInstanceUID}
    content = write_radiograph(picture, tmp_path / "y.dcm", anonymous=True)[0].read_bytes()
    for keyword in ("FrameOfReferenceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        value = str(slices[0][keyword].value)
        assert not value or value.encode() not in content


def test_a_header_that_breaks_the_rules_is_copied_without_a_word(tmp_path, recwarn):
    broken = {**HEADER, "PatientBirthDate": "2. Januar 1945", "PatientAge": "77"}
    path = write_radiograph(radiograph(header=broken), tmp_path / "x.dcm")[0]
    assert not [warning for warning in recwarn if "1945" in str(warning.message) or "77" in str(warning.message)]
    assert b"2. Januar 1945" in path.read_bytes()


def test_a_lossy_ct_makes_a_lossy_picture(tmp_path):
    header = {"LossyImageCompression": "01", "LossyImageCompressionRatio": 12.5}
    for anonymous in (False, True):
        dataset = read_dicom(write_radiograph(radiograph(header=header), tmp_path / "x.dcm", anonymous)[0])
        assert (dataset.LossyImageCompression, float(dataset.LossyImageCompressionRatio)) == ("01", 12.5)


@pytest.mark.parametrize(("primary", "secondary"), [(0, 0), (-30, 0), (135, 40), (-170, -60), (90, 0), (12.5, 89)])
def test_angles_are_those_of_the_c_arm(primary, secondary):
    camera = c_arm((1.0, 2.0, 3.0), primary, secondary)
    assert c_arm_angles(camera) == (pytest.approx(primary, abs=1e-9), pytest.approx(secondary, abs=1e-9))


def test_view_positions_as_radiographers_name_them():
    """PA: in at the back, detector in front. LL: the left side at the detector (PS3.3 C.8.11.5.1.1)."""
    views = [view_position(c_arm((0.0, 0, 0), primary, secondary)) for primary, secondary in
             ((0, 0), (180, 0), (90, 0), (-90, 0), (10, -8), (45, 0), (0, 40))]  # fmt: skip
    assert views == ["PA", "AP", "LL", "RL", "PA", None, None]


def test_an_unknown_ending_lists_the_known_ones(tmp_path):
    for name in ("a.jpg", "a", ".png"):
        with pytest.raises(OutputError, match=r"Known endings: \.png, \.nii\.gz, \.nii, \.tif, \.tiff, \.dcm"):
            write_radiograph(radiograph(), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", [".png", ".dcm"])
def test_sixteen_bits_refuse_nan_and_float_keeps_it(tmp_path, ending):
    source = radiograph(labels=True)
    source.pixels[0, 2, 2:5] = math.nan
    with pytest.raises(OutputError, match=rf"x\{ending} was not written: 3 of {HEIGHT * WIDTH} pixels are NaN"):
        write_radiograph(source, tmp_path / f"x{ending}")
    assert list(tmp_path.iterdir()) == []
    write_radiograph(source, tmp_path / "x.tif")
    assert np.isnan(tifffile.imread(tmp_path / "x.tif")).sum() == 3


def test_a_file_where_a_folder_should_be_and_a_folder_where_a_file_should_be(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"file/x\.png could not be written: a file stands where a folder should be"):
        write_radiograph(radiograph(), tmp_path / "file" / "x.png")
    (tmp_path / "x.png").mkdir()
    with pytest.raises(OutputError, match=r"x\.png could not be written: a folder of that name is already there"):
        write_radiograph(radiograph(), tmp_path / "x.png")
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["file", "x.png"]


def test_missing_folders_are_made(tmp_path):
    assert write_radiograph(radiograph(), tmp_path / "new" / "ört" / "x.png")[0].is_file()


def test_an_unwritable_folder(tmp_path):
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match=r"x\.png could not be written: the folder or the file may not be written to"):
        write_radiograph(radiograph(), tmp_path / "x.png")
    tmp_path.chmod(0o700)
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_folder_as_another_user():
    """Root may write everywhere, so a child gives its rights away first."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("only root can become another user; the test above does without")
    program = (
        "import os, sys; from diffrender.io.whole import write_whole; from diffrender.errors import OutputError\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "try: write_whole(sys.argv[1], b'x')\n"
        "except OutputError as problem: print(problem)"
    )
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to other users altogether
        Path(folder).chmod(0o755)
        command = [sys.executable, "-c", program, f"{folder}/x.png"]
        said = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        assert "x.png could not be written: the folder or the file may not be written to" in said.stdout, said.stderr
        assert list(Path(folder).iterdir()) == []


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no small disk to fill, mounting one needs root: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("ending", list(images.WRITERS))
def test_a_full_disk_leaves_nothing(small_disk, ending):
    camera = c_arm((0.0, 0, 0), image_size=(300, 410))
    noise = torch.rand(1, 300, 410, generator=torch.Generator().manual_seed(1))
    (small_disk / f"x{ending}").write_text("what stood there before")
    with pytest.raises(OutputError, match=rf"x\{ending} could not be written: the disk is full"):
        write_radiograph(Radiograph(noise, "intensity", camera), small_disk / f"x{ending}")
    assert [file.read_text() for file in small_disk.iterdir()] == ["what stood there before"]


def test_labels_that_find_the_disk_full_take_the_picture_with_them(small_disk):
    """The picture alone would fit."""
    lengths = torch.rand(40, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))
    source = radiograph(path_lengths=lengths, ids=tuple(range(1, 41)))
    with pytest.raises(OutputError, match="the disk is full"):
        write_radiograph(source, small_disk / "x.png")
    assert list(small_disk.iterdir()) == []


def test_what_is_interrupted_leaves_what_stood_there(tmp_path):
    write_whole(tmp_path / "a.txt", "before")

    def interrupted():
        with whole(tmp_path / "a.txt") as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [(f.name, f.read_text()) for f in tmp_path.iterdir()] == [("a.txt", "before")]


def test_files_of_one_job_take_their_names_together_or_not_at_all(tmp_path):
    for name in "abc":
        write_whole(tmp_path / name, f"older {name}")

    def job(end: str) -> None:
        with together():
            for name in "abcd":
                write_whole(tmp_path / name, f"newer {name}")
            write_whole(tmp_path / "new" / "folder" / "e", "newer e")
            assert (tmp_path / "a").read_text() == "older a"
            if end == "interrupted":
                raise KeyboardInterrupt
            if end == "in the way":  # a folder of that name, made meanwhile: three have their names by then
                (tmp_path / "d").mkdir()

    with pytest.raises(KeyboardInterrupt):
        job("interrupted")
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {name: f"older {name}" for name in "abc"}
    with pytest.raises(OutputError, match=r"d could not be written: a folder of that name is already there"):
        job("in the way")
    (tmp_path / "d").rmdir()
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {name: f"older {name}" for name in "abc"}
    job("well")
    assert (tmp_path / "new" / "folder" / "e").read_text() == "newer e"
    files = {file.name: file.read_text() for file in tmp_path.iterdir() if file.is_file()}
    assert files == {name: f"newer {name}" for name in "abcd"}


def test_two_runs_that_write_the_same_file_do_not_meet(tmp_path):
    """Nor does a file of the user's own that ends with .part come to harm."""
    (tmp_path / "a.part").write_text("mine")
    with whole(tmp_path / "a") as one, whole(tmp_path / "b"):
        one.write(b"first")
        write_whole(tmp_path / "b", b"")
    barrier = threading.Barrier(2)

    def run(content: bytes) -> None:
        with whole(tmp_path / "a") as file:
            barrier.wait()
            for _ in range(1000):
                file.write(content)
            barrier.wait()

    runs = [threading.Thread(target=run, args=(content,)) for content in (b"one", b"two")]
    for each in runs:
        each.start()
    for each in runs:
        each.join()
    assert (tmp_path / "a").read_bytes() in (b"one" * 1000, b"two" * 1000)
    assert (tmp_path / "a.part").read_text() == "mine"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "a.part", "b"]


def test_a_name_may_be_as_long_as_the_disk_allows(tmp_path):
    name = "x" * 240
    assert write_whole(tmp_path / f"{name}.preview.png", b"x").is_file()
    with pytest.raises(OutputError, match="the name is too long for this disk"):
        write_whole(tmp_path / f"{name}{name}", b"x")
    assert len(list(tmp_path.iterdir())) == 1


def test_what_is_written_may_be_read_by_those_whom_the_user_lets(tmp_path):
    """A temporary file is closed to others; what becomes of it must not be."""
    (tmp_path / "plain").write_text("x")
    write_whole(tmp_path / "whole", "x")
    assert (tmp_path / "whole").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_text_with_bytes_that_are_no_unicode_is_written(tmp_path):
    """A Latin-1 name on Linux comes as a lone surrogate; JSON has a way to write one."""
    name = os.fsdecode(b"K\xf6rper")
    text = json.dumps({"path": name, "other": "größe 漢"}, ensure_ascii=False)
    content = write_whole(tmp_path / "a.json", text).read_text(encoding="utf-8")
    assert json.loads(content) == {"path": name, "other": "größe 漢"}
    assert "größe 漢" in content


@pytest.mark.parametrize("ending", list(images.WRITERS))
def test_pixels_of_a_millionth_of_a_millimetre_are_written(tmp_path, ending):
    for size in (1e-9, 1e-30):
        camera = Camera(oblique_camera().world_from_camera, 1020.0, (size, 2 * size), (HEIGHT, WIDTH))
        (path,) = write_radiograph(radiograph(camera=camera), tmp_path / f"x{ending}")
        assert path.stat().st_size > 0
    if ending == ".png":
        with Image.open(path) as picture:
            assert "dpi" not in picture.info
            assert json.loads(picture.text["diffrender"])["camera"]["pixel_size"] == [1e-30, 2e-30]


def test_a_dicom_of_a_ct_whose_name_is_no_unicode(tmp_path):
    path = write_radiograph(radiograph(source=os.fsdecode(b"K\xf6rper.nii.gz")), tmp_path / "x.dcm")[0]
    assert read_dicom(path).StudyInstanceUID
