"""DICOM in: real files written by pydicom on oblique lattices, read back and asked for the values at world points."""

import shutil
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from dicom_files import PATIENT, PATIENT_ID, lattice, save, write_enhanced, write_series
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder
from pydicom.uid import (
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    MediaStorageDirectoryStorage,
    RLELossless,
)
from worlds import largest_error, sampled

from diffrender.errors import DicomError, ImageError, InputError, MemoryNeedError, Notice, PathError, SettingError
from diffrender.io import list_series, read_volume

# Oblique in all three axes, oblong voxels, off centre, and no two sizes alike.
OBLIQUE = lattice((-31.5, 12.25, -87.0), (0.9, 0.3, -0.15), (-0.2, 0.8, 0.4), (0.9, 0.7, 2.5))
SHAPE = (6, 33, 37)
# Positions and spacings are written with 9 digits, so a point is off by 1e-7 mm, times 9 HU/mm; but where the formula
# lies just between two whole HU, rounding may then go the other way.
ONE_STEP = 1.0


@pytest.fixture
def values():
    return sampled(OBLIQUE, SHAPE)


@pytest.fixture
def folder(tmp_path, values):
    write_series(tmp_path / "ct", values, OBLIQUE)
    return tmp_path / "ct"


def refused(path, kind: type[Exception] = DicomError, **options) -> str:
    """What the error says; it names the path as typed and never the patient."""
    with pytest.raises(kind) as caught:
        read_volume(path, **options)
    words = str(caught.value)
    assert str(path) in words, words
    assert "\n" not in words
    assert not any(secret in words for secret in ("Geheim", "Name", PATIENT, PATIENT_ID)), words
    return words


def changed(folder, position, **attributes):
    """Rewrite the slice that lies at `position` in the order of k; None deletes an attribute. Returns its file."""
    k_axis = OBLIQUE[:3, 2]
    files = sorted(folder.glob("*.dcm"), key=lambda f: float(np.dot(dcmread(f).ImagePositionPatient, k_axis)))
    dataset = dcmread(files[position])
    for keyword, value in attributes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    dataset.save_as(files[position])
    return files[position]


def test_a_folder_is_read_where_it_lies(folder):
    volume = read_volume(folder)
    assert volume.shape == SHAPE
    assert volume.values.dtype == torch.int16
    assert volume.unit == "HU"
    assert volume.source == str(folder)
    assert largest_error(volume) <= ONE_STEP
    assert volume.spacing == pytest.approx((2.5, 0.7, 0.9), abs=1e-7)  # 9 digits were written


def test_left_is_left(tmp_path):
    # Supine, head first: LPS as the standard has it. A bright block at the patient's left, front and head.
    values = np.full((4, 5, 6), -1000)
    values[3, 0, 5] = 500
    write_series(tmp_path / "ct", values, lattice((-10, -20, 30), (1, 0, 0), (0, 1, 0), (4, 5, 6)))
    volume = read_volume(tmp_path / "ct")
    k, j, i = (volume.values == 500).nonzero()[0].tolist()
    bright = volume.world_from_voxel @ torch.tensor([i, j, k, 1.0], dtype=torch.float64)
    assert bright[:3].tolist() == pytest.approx([-10, 20, 48])  # R is negative: left; A positive: front


@pytest.mark.parametrize(
    "syntax",
    [
        ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless, JPEG2000Lossless,
        JPEGLSLossless, JPEGLosslessSV1,
    ],
    ids=lambda syntax: syntax.name,
)  # fmt: skip
@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
def test_transfer_syntaxes(tmp_path, values, syntax, signed):
    write_series(tmp_path / "ct", values, OBLIQUE, syntax=syntax, signed=signed, intercept=0 if signed else -1024)
    volume = read_volume(tmp_path / "ct")
    np.testing.assert_array_equal(volume.values.numpy(), values)
    assert dcmread(next((tmp_path / "ct").iterdir())).file_meta.TransferSyntaxUID == syntax


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, JPEGLosslessSV1], ids=lambda syntax: syntax.name)
def test_gdcm_alone_decodes_jpeg(tmp_path, values, syntax, monkeypatch):
    # pylibjpeg-libjpeg, whose licence is the GPL, is none of our dependencies, though it may be installed.
    decoder = get_decoder(syntax)
    write_series(tmp_path / "ct", values, OBLIQUE, syntax=syntax)
    monkeypatch.setattr(decoder, "_available", {"gdcm": decoder._available["gdcm"]})
    np.testing.assert_array_equal(read_volume(tmp_path / "ct").values.numpy(), values)
    monkeypatch.setattr(decoder, "_available", {})
    monkeypatch.setattr(decoder, "_unavailable", {"gdcm": ("gdcm>=3.0.10",)})
    words = refused(tmp_path / "ct")
    assert (
        "no decoder for that is installed here. python-gdcm decodes it: `pip install python-gdcm`, or export" in words
    )


def test_an_undecodable_syntax_names_what_would_help(folder):
    for file in folder.iterdir():
        dataset = dcmread(file)
        dataset.PixelData = encapsulate([dataset.PixelData])
        dataset["PixelData"].VR = "OB"
        dataset.file_meta.TransferSyntaxUID = MPEG2MPML
        dataset.save_as(file)
    assert "MPEG2" in refused(folder)
    assert "No package that is known here decodes it" in refused(folder)


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, RLELossless, JPEGLSLossless, JPEG2000Lossless, JPEGLosslessSV1]
)
@pytest.mark.parametrize("kept", [0.7, 0.97])
def test_truncated_multi_frame(tmp_path, values, syntax, kept):
    path = write_enhanced(tmp_path / "e.dcm", values, OBLIQUE, syntax=syntax)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(kept * len(raw))])
    assert "is truncated or damaged" in refused(path)


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless], ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("kept", [0.7, 0.99])
def test_truncated_compressed_slice(tmp_path, values, syntax, kept):
    file = write_series(tmp_path / "ct", values, OBLIQUE, syntax=syntax)[2]
    raw = file.read_bytes()
    file.write_bytes(raw[: int(kept * len(raw))])
    assert f"{file} is truncated or damaged" in refused(tmp_path / "ct")


def test_a_negative_slope_is_said(tmp_path, values):
    write_series(tmp_path / "ct", values, OBLIQUE, slope=-1, intercept=3000)
    with pytest.warns(Notice, match=r"negative RescaleSlope \(0028,1053\), -1: .*check that air"):
        volume = read_volume(tmp_path / "ct")
    np.testing.assert_array_equal(volume.values.numpy(), values)


def test_values_that_are_no_hounsfield_units_are_said(tmp_path, values):
    def inverted(dataset, k):  # 12 bits said to be 16, as mirrored numbers then are far above all HU
        dataset.PhotometricInterpretation = "MONOCHROME1"

    write_series(tmp_path / "ct", values, OBLIQUE, edit=inverted)
    with pytest.warns(Notice, match=r"holds values from 6\d{4} to 6\d{4}; these do not look like Hounsfield units"):
        read_volume(tmp_path / "ct")


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless, JPEGLosslessSV1])
def test_multi_frame_with_frames_out_of_order(tmp_path, values, syntax):
    path = write_enhanced(tmp_path / "enhanced.dcm", values, OBLIQUE, order=[2, 0, 5, 1, 4, 3], syntax=syntax)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.values.numpy(), values)
    assert largest_error(volume) <= ONE_STEP
    assert volume.unit == "HU"
    assert len(volume.header["SOPInstanceUIDs"]) == 1


def test_rescale_of_each_frame_and_of_each_slice(tmp_path, values):
    slopes = [0.25, 0.5, 0.125, 1.0, 0.25, 0.5]
    enhanced = read_volume(write_enhanced(tmp_path / "e.dcm", values, OBLIQUE, slopes=slopes))

    def rescale(dataset, k):
        stored = (values[k] + 1024) / slopes[k]
        dataset.RescaleSlope = slopes[k]
        dataset.PixelData = stored.astype("<u2").tobytes()

    write_series(tmp_path / "ct", values, OBLIQUE, edit=rescale)
    single = read_volume(tmp_path / "ct")
    for volume in (enhanced, single):
        assert volume.values.dtype == torch.float32
        # The slopes are powers of two and the values whole, so nothing is rounded.
        np.testing.assert_array_equal(volume.values.numpy(), values)


def test_values_beyond_int16_become_float32_in_the_middle_of_a_series(tmp_path, values):
    values[3, 4, 5] = 40000
    write_series(tmp_path / "ct", values, OBLIQUE)
    volume = read_volume(tmp_path / "ct")
    assert volume.values.dtype == torch.float32
    np.testing.assert_array_equal(volume.values.numpy(), values)


def test_a_zip_and_folders_in_folders(tmp_path, folder, values):
    nested = tmp_path / "Schädel und Hals" / "a b"
    nested.mkdir(parents=True)
    for n, file in enumerate(sorted(folder.iterdir())):
        shutil.copy(file, nested.parent / f"{n}" if n % 2 else nested / f"{n}")  # no suffix, as from a medium
    (nested / "readme.txt").write_text("not an image")
    archive = tmp_path / "Süß.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in folder.iterdir():
            packed.write(file, f"study/{file.name}")
    for path in (nested.parent, archive):
        volume = read_volume(path)
        np.testing.assert_array_equal(volume.values.numpy(), values)
        assert volume.source == str(path)


def test_twelve_bits_in_sixteen(tmp_path, values):
    """Signed numbers of 12 bits without their sign above, and an overlay in the four bits that they leave."""

    def packed(dataset, k):
        stored = np.frombuffer(dataset.PixelData, "<i2")
        dataset.BitsStored, dataset.HighBit = 12, 11
        dataset.PixelData = (
            ((stored & 0x0FFF) | np.where(np.arange(stored.size) % 5, 0, 0x3000)).astype("<i2").tobytes()
        )

    write_series(tmp_path / "ct", values, OBLIQUE, signed=True, intercept=0, edit=packed)
    np.testing.assert_array_equal(read_volume(tmp_path / "ct").values.numpy(), values)


def test_what_macos_leaves_beside_files_is_none_of_the_series(folder, values):
    (folder / "._IM0001.dcm").write_bytes(b"\0\5\x16\7" + bytes(400))
    (folder / ".DS_Store").write_bytes(bytes(400))
    np.testing.assert_array_equal(read_volume(folder).values.numpy(), values)


def test_a_multi_frame_file_in_a_zip(tmp_path, values):
    path = write_enhanced(tmp_path / "e.dcm", values, OBLIQUE, syntax=JPEG2000Lossless)
    with zipfile.ZipFile(tmp_path / "e.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.write(path, "e.dcm")
    np.testing.assert_array_equal(read_volume(tmp_path / "e.zip").values.numpy(), values)


def test_a_zip_with_a_password_or_without_images(tmp_path):
    with zipfile.ZipFile(tmp_path / "notes.zip", "w") as packed:
        packed.writestr("a/notes.txt", "nothing")
    assert "holds no DICOM image, but 1 other file (notes.txt)" in refused(tmp_path / "notes.zip", PathError)
    raw = bytearray((tmp_path / "notes.zip").read_bytes())
    raw[6] |= 1  # the bit that says a password is needed, in both of the places where it stands
    raw[raw.index(b"PK\1\2") + 8] |= 1
    (tmp_path / "locked.zip").write_bytes(raw)
    assert "zip with a password. Unpack it" in refused(tmp_path / "locked.zip", PathError)


def test_what_a_derived_image_carries_on(folder):
    volume = read_volume(folder)
    header = volume.header
    assert (header["PatientName"], header["PatientID"]) == (PATIENT, PATIENT_ID)
    assert (header["BodyPartExamined"], header["PatientPosition"], header["KVP"]) == ("PELVIS", "HFS", 120.0)
    in_order = sorted(folder.iterdir(), key=lambda f: float(np.dot(dcmread(f).ImagePositionPatient, OBLIQUE[:3, 2])))
    assert header["SOPInstanceUIDs"] == tuple(str(dcmread(file).SOPInstanceUID) for file in in_order)
    first = dcmread(in_order[0])
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        assert header[keyword] == str(first[keyword].value)
    assert PATIENT not in repr(volume)


def test_several_series_are_listed_and_one_is_chosen(tmp_path, values):
    both = tmp_path / "both"
    write_series(both, values, OBLIQUE, number=3, series_uid="1.2.826.0.1.111.25")
    for file in sorted(both.iterdir()):
        file.rename(file.with_name("a" + file.name))
    write_series(both, values + 7, OBLIQUE, number=4, series_uid="1.2.826.0.1.222.26")
    assert "no series that 6 could mean" in refused(both, SettingError, series=6)
    words = refused(both)
    assert "holds 2 series" in words
    assert "--series" in words
    assert '(1) number 3, "thin", CT, 6 slices of 37 x 33, UID ...6.0.1.111.25' in words
    assert '(2) number 4, "thin", CT' in words
    for series, offset in ((3, 0), ("4", 7), ("1.2.826.0.1.222.26", 7), (".111.25", 0)):
        np.testing.assert_array_equal(read_volume(both, series=series).values.numpy(), values + offset)
    assert "holds no series that 9 could mean" in refused(both, SettingError, series=9)
    assert [(one.number, len(one.frames)) for one in list_series(both)] == [(3, 6), (4, 6)]


def test_no_patient_name_even_where_it_stands_in_the_description(tmp_path, values):
    def name(dataset, k):
        dataset.SeriesDescription = "Abdomen geheim 4711-0815"

    both = tmp_path / "both"
    for number in (1, 2):
        for file in write_series(both / str(number), values, OBLIQUE, number=number, edit=name):
            assert PATIENT in file.read_bytes().decode("latin-1")
    words = refused(both)
    assert "geheim" not in words.lower()
    assert "number 1, CT" in words
    assert "geheim" not in " ".join(str(one) + repr(one) for one in list_series(both)).lower()


def test_missing_slice(folder):
    k = 3
    gone = changed(folder, k)
    before, after = changed(folder, k - 1), changed(folder, k + 1)
    gone.unlink()
    words = refused(folder)
    assert f"{before} and {after} lie 5.00 mm apart, the other slices of this series 2.50 mm" in words
    assert "A slice is probably missing" in words
    assert "Export the series again" in words


def test_uneven_spacing(folder):
    position = dcmread(changed(folder, 5)).ImagePositionPatient
    changed(folder, 5, ImagePositionPatient=list(np.array(position) + 0.2 * OBLIQUE[:3, 2]))
    assert "The slices are not evenly spaced" in refused(folder)


def test_positions_rounded_to_a_tenth_are_even(tmp_path, values):
    upright = lattice((-31.5, 12.25, -87.0), (1, 0, 0), (0, 1, 0), (0.9, 0.7, 0.625))

    def rounded(dataset, k):
        dataset.ImagePositionPatient = [-31.5, 12.25, round(-87.0 + 0.625 * k, 1)]

    write_series(tmp_path / "ct", values, upright, edit=rounded)
    assert read_volume(tmp_path / "ct").spacing[0] == pytest.approx(0.625, abs=0.02)  # 0.1 mm over five gaps


def test_duplicated_positions(folder):
    shutil.copy(changed(folder, 2), folder / "copy.dcm")
    words = refused(folder)
    assert "lie at the same position" in words
    assert "copy.dcm" in words
    assert "Keep one of each" in words
    for n, file in enumerate(sorted(folder.glob("IM*.dcm"))):
        shutil.copy(file, folder / f"again{n}.dcm")
    assert "and so do 6 more pairs" in refused(folder)


def test_mixed_orientations(folder):
    odd = changed(folder, 2, ImageOrientationPatient=[0, 1, 0, 0, 0, -1])
    words = refused(folder)
    assert "mixes slices of different orientation in one series: 5 of 6" in words
    assert str(odd) in words


def test_mixed_sizes_and_spacings(folder, tmp_path, values):
    def smaller(dataset, k):
        if k == 2:
            dataset.Rows = 8
            dataset.PixelData = dataset.PixelData[: 8 * 37 * 2]

    write_series(tmp_path / "sizes", values, OBLIQUE, edit=smaller)
    words = refused(tmp_path / "sizes")
    assert "mixes slices of different size" in words
    assert "5 of 6 have 37 x 33 pixels" in words
    changed(folder, 1, PixelSpacing=[0.7, 0.8])
    assert "mixes slices of different PixelSpacing" in refused(folder)


@pytest.mark.parametrize(
    ("keyword", "words"),
    [("PatientID", "They are not of one patient"), ("FrameOfReferenceUID", "Their positions do not compare")],
)
def test_two_patients_or_frames_of_reference_in_one_series(folder, keyword, words):
    odd = changed(folder, 4, **{keyword: "1.2.826.0.1.4712"})
    said = refused(folder)
    assert "holds mixed slices in one series" in said
    assert str(odd) in said
    assert said.count(".dcm") == 2
    assert words in said
    assert "4712" not in said
    changed(folder, 4, **{keyword: None})  # one that does not say is no other one
    assert read_volume(folder).shape == SHAPE


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesNumber"])
def test_series_without_a_uid_are_not_taken_for_one(folder, values, keyword):
    for k in range(len(values)):
        changed(folder, k, SeriesInstanceUID=None)
    np.testing.assert_array_equal(read_volume(folder).values.numpy(), values)
    odd = changed(folder, 2, **{keyword: "77"})
    said = refused(folder)
    assert "holds mixed slices" in said
    assert "no SeriesInstanceUID" in said
    assert str(odd) in said


@pytest.mark.parametrize("spacing", [[0.7], [0.7, 0.9, 1.1]])
def test_pixel_spacing_of_one_or_three_numbers(folder, spacing):
    victim = changed(folder, 2, PixelSpacing=spacing)
    assert f"{victim} has no PixelSpacing (0028,0030) of two numbers" in refused(folder)


def test_a_header_without_rows_and_an_empty_zip(folder, tmp_path):
    victim = changed(folder, 2, Rows=None)
    assert f"{victim} has no Rows (0028,0010), so the size of its image is not known" in refused(folder)
    zipfile.ZipFile(tmp_path / "empty.zip", "w").close()
    assert "is an empty zip" in refused(tmp_path / "empty.zip", PathError)


@pytest.mark.parametrize("keyword", ["RescaleSlope", "RescaleIntercept"])
def test_the_part_of_the_rescale_that_is_missing_is_named(folder, keyword):
    changed(folder, 2, **{keyword: None})
    with pytest.warns(Notice, match=rf"has no {keyword} \(0028,105\d\), so its numbers"):
        assert read_volume(folder).unit == "arbitrary"


def test_gantry_tilt(tmp_path, values):
    upright = lattice((0, 0, 0), (1, 0, 0), (0, 1, 0), (0.9, 0.7, 2.5))

    def tilted(dataset, k):
        dataset.ImagePositionPatient = [0, 2.5 * k * np.tan(np.radians(12)), 2.5 * k]
        dataset.GantryDetectorTilt = 12

    write_series(tmp_path / "ct", values, upright, edit=tilted)
    words = refused(tmp_path / "ct")
    assert "gantry tilt: its slices shift sideways by 12.0 degrees" in words
    assert "GantryDetectorTilt (0018,1120) says 12.0" in words
    assert "Resample" in words


def test_a_localizer_is_left_out_and_that_is_said(folder, values):
    first = dcmread(changed(folder, 0))
    first.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    first.FrameOfReferenceUID = "1.2.826.0.1.7"
    first.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    first.SOPInstanceUID = "1.2.826.0.1.9"
    save(first, folder / "scout.dcm", ExplicitVRLittleEndian)
    with pytest.warns(Notice, match=r"1 localizer \(overview images?\) left out: .*scout\.dcm"):
        volume = read_volume(folder)
    np.testing.assert_array_equal(volume.values.numpy(), values)
    only = folder.parent / "only"
    only.mkdir()
    (folder / "scout.dcm").rename(only / "scout.dcm")
    assert "holds only localizers" in refused(only)


def test_a_localizer_series_beside_the_scan_is_left_out_and_that_is_said(folder, values):
    scout = sampled(OBLIQUE, (2, 5, 5))

    def localizer(dataset, k):
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    write_series(folder / "scout", scout, OBLIQUE, number=1, edit=localizer)
    with pytest.warns(Notice, match="the volume is series number 3.*Left out: .*number 1, "):
        volume = read_volume(folder)
    np.testing.assert_array_equal(volume.values.numpy(), values)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless, JPEGLSLossless])
@pytest.mark.parametrize("kept", [0.97, 0.5])
def test_truncated_slice(tmp_path, values, syntax, kept):
    files = write_series(tmp_path / "ct", np.tile(values, (1, 3, 3)), OBLIQUE, syntax=syntax)
    raw = files[2].read_bytes()
    files[2].write_bytes(raw[: int(kept * len(raw))])
    words = refused(tmp_path / "ct")
    assert f"{files[2]} is truncated or damaged" in words
    assert "export or copy the series again" in words


def test_slice_truncated_in_its_header(tmp_path, values):
    files = write_series(tmp_path / "ct", values, OBLIQUE)
    raw = files[2].read_bytes()
    for kept in (140, 200, raw.index(b"\x28\x00\x10\x00")):
        files[2].write_bytes(raw[:kept])
        assert f"{files[2]} is truncated or damaged: its DICOM header breaks off" in refused(tmp_path / "ct")


def test_zero_length_slice_and_one_that_is_no_dicom(folder):
    victim = changed(folder, 4)
    raw = victim.read_bytes()
    victim.write_bytes(b"")
    assert f"{victim} is empty (0 bytes)" in refused(folder, PathError)
    victim.write_bytes(bytes(1000))
    assert f"{victim} is named as DICOM, but its bytes are not" in refused(folder)
    victim.write_bytes(raw)
    assert read_volume(folder).shape == SHAPE


def test_dicomdir_only(tmp_path, folder):
    index = dcmread(changed(folder, 0))
    index.SOPClassUID = MediaStorageDirectoryStorage
    del index.Rows, index.PixelData
    medium = tmp_path / "medium"
    medium.mkdir()
    save(index, medium / "DICOMDIR", ExplicitVRLittleEndian)
    words = refused(medium)
    assert "holds a DICOMDIR only: that is the index of a medium" in words
    assert "Copy the whole medium" in words
    assert "is a DICOMDIR, the index of a medium, not an image. Give the folder" in refused(medium / "DICOMDIR")
    shutil.copytree(folder, medium / "IMAGES")
    assert read_volume(medium).shape == SHAPE


def test_mr_is_read_and_is_no_hu(tmp_path, values):
    write_series(tmp_path / "mr", values + 2000, OBLIQUE, slope=None, modality="MR")
    volume = read_volume(tmp_path / "mr")
    assert volume.unit == "arbitrary"
    np.testing.assert_array_equal(volume.values.numpy(), values + 2000)


def test_ct_without_rescale_or_of_another_unit_is_no_hu(tmp_path, values):
    write_series(tmp_path / "raw", values + 1024, OBLIQUE, slope=None)
    with pytest.warns(Notice, match=r'has no RescaleSlope .* and no RescaleIntercept .*unit "arbitrary"'):
        volume = read_volume(tmp_path / "raw")
    assert volume.unit == "arbitrary"
    np.testing.assert_array_equal(volume.values.numpy(), values + 1024)

    def iodine(dataset, k):
        dataset.RescaleType = "MGML"

    write_series(tmp_path / "iodine", values, OBLIQUE, edit=iodine)
    with pytest.warns(Notice, match="not Hounsfield units.*MGML"):
        assert read_volume(tmp_path / "iodine").unit == "arbitrary"


@pytest.mark.parametrize(
    ("attribute", "words"),
    [
        ("PixelSpacing", "has no PixelSpacing (0028,0030) of two numbers, so the size of its pixels is not known"),
        ("ImagePositionPatient", "does not say where in the patient it lies (ImagePositionPatient, 0020,0032"),
        ("ImageOrientationPatient", "does not say where in the patient it lies"),
    ],
)
def test_missing_geometry(folder, attribute, words):
    victim = changed(folder, 2, **{attribute: None})
    assert f"{victim} {words}" in refused(folder)


def test_negative_spacing(tmp_path, values):
    def negative(dataset, k):
        dataset.PixelSpacing = [0.7, -0.9]

    write_series(tmp_path / "ct", values, OBLIQUE, edit=negative)
    assert "zero or negative spacing, 0.7 x -0.9 mm (PixelSpacing" in refused(tmp_path / "ct")


def test_rows_and_columns_not_at_right_angles(tmp_path, values):
    def sheared(dataset, k):
        dataset.ImageOrientationPatient = [1, 0, 0, 0.2, 0.98, 0]

    write_series(tmp_path / "ct", values, OBLIQUE, edit=sheared)
    assert "rows and columns do not meet at a right angle" in refused(tmp_path / "ct")


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
def test_monochrome1_is_inverted_and_that_is_said(tmp_path, values, signed):
    def inverted(dataset, k):
        stored = np.frombuffer(dataset.PixelData, "<i2" if signed else "<u2")
        dataset.BitsStored, dataset.HighBit = 12, 11
        dataset.PixelData = ((-1 if signed else 4095) - stored).astype(stored.dtype).tobytes()
        dataset.PhotometricInterpretation = "MONOCHROME1"

    write_series(tmp_path / "ct", values, OBLIQUE, signed=signed, intercept=0 if signed else -1024, edit=inverted)
    with pytest.warns(Notice, match=r"stored inverted \(MONOCHROME1"):
        volume = read_volume(tmp_path / "ct")
    np.testing.assert_array_equal(volume.values.numpy(), values)


@pytest.mark.parametrize("limit", [None, 3], ids=["one value", "a range"])
def test_padding_becomes_air_and_that_is_said(tmp_path, values, limit):
    holes = np.zeros(SHAPE, bool)
    holes[:, 0, :3] = True
    holes[2] = True  # a slice with nothing else

    def pad(dataset, k):
        stored = np.frombuffer(dataset.PixelData, "<u2").reshape(SHAPE[1:]).copy()
        stored[holes[k]] = 0 if limit is None else np.arange(holes[k].sum()) % (limit + 1)
        dataset.PixelData = stored.tobytes()
        dataset.PixelPaddingValue = 0
        if limit is not None:
            dataset.PixelPaddingRangeLimit = limit

    write_series(tmp_path / "ct", values, OBLIQUE, edit=pad)
    with pytest.warns(Notice, match=rf"{holes.sum()} voxels .* are padding.*air, -1000 HU"):
        volume = read_volume(tmp_path / "ct")
    np.testing.assert_array_equal(volume.values.numpy(), np.where(holes, -1000, values))
    assert volume.values.dtype == torch.int16


def test_padding_of_signed_pixels_below_int16_after_rescale(tmp_path, values):
    # GE's way: signed pixels, -2000 outside the circle; the same written as if unsigned; and -32768, which with an
    # intercept of -1024 leaves int16.
    for padding, written in ((-2000, -2000), (-2000, 63536), (-32768, -32768)):

        def pad(dataset, k, padding=padding, written=written):
            stored = np.frombuffer(dataset.PixelData, "<i2").reshape(SHAPE[1:]).copy()
            stored[0, 0] = padding
            dataset.PixelData = stored.tobytes()
            dataset.add_new("PixelPaddingValue", "US" if written > 0 else "SS", written)

        folder = tmp_path / str(written)
        write_series(folder, values, OBLIQUE, signed=True, edit=pad)
        with pytest.warns(Notice, match="are padding"):
            volume = read_volume(folder)
        assert volume.values.dtype == torch.int16
        assert (volume.values[:, 0, 0] == -1000).all()
        np.testing.assert_array_equal(volume.values[:, 1:].numpy(), values[:, 1:])


def test_all_constant(tmp_path):
    write_series(tmp_path / "ct", np.full(SHAPE, -1000), OBLIQUE)
    assert "is constant: every voxel is -1000" in refused(tmp_path / "ct", ImageError)


def test_one_slice_only(folder, tmp_path):
    words = refused(changed(folder, 0))
    assert "one slice only, and a volume needs at least two" in words
    assert "Give the folder" in words


def test_larger_than_memory_is_said_before_it_is_read(tmp_path, values):
    def huge(dataset, k):
        dataset.NumberOfFrames = 6
        dataset.Rows = dataset.Columns = 65535
        group = dataset.PerFrameFunctionalGroupsSequence
        for n in range(6, 3000):  # 26 TB
            group.append(group[0].__class__())
            group[n].PlanePositionSequence = [type(group[0])()]
            position = OBLIQUE[:3, 3] + n * OBLIQUE[:3, 2]
            group[n].PlanePositionSequence[0].ImagePositionPatient = [f"{x:.9g}" for x in position]
        dataset.NumberOfFrames = 3000

    path = write_enhanced(tmp_path / "huge.dcm", values, OBLIQUE, edit=huge)
    words = refused(path, MemoryNeedError)
    assert "needs 23.9 TiB of memory, and " in words
    assert "It was not read" in words


def test_segmentation_colour_and_reports_are_no_volume(tmp_path, values, folder):
    def colour(dataset, k):
        dataset.SamplesPerPixel, dataset.PlanarConfiguration = 3, 0
        dataset.PhotometricInterpretation = "RGB"
        dataset.BitsAllocated = dataset.BitsStored = 8
        dataset.HighBit = 7
        dataset.PixelData = bytes(3 * 33 * 37 + 1)

    write_series(tmp_path / "colour", values, OBLIQUE, edit=colour)
    assert "holds colour images" in refused(tmp_path / "colour")
    write_series(tmp_path / "seg", values, OBLIQUE, modality="SEG")
    assert "is a segmentation (DICOM SEG), not a volume. Give it as labels" in refused(tmp_path / "seg")
    report = dcmread(changed(folder, 0))
    report.SOPClassUID, report.Modality = "1.2.840.10008.5.1.4.1.1.88.67", "SR"
    del report.Rows, report.Columns, report.PixelData
    (tmp_path / "sr").mkdir()
    save(report, tmp_path / "sr" / "dose.dcm", ExplicitVRLittleEndian)
    assert "holds DICOM files, but no image (modality SR)" in refused(tmp_path / "sr")
    save(report, folder / "dose.dcm", ExplicitVRLittleEndian)
    assert read_volume(folder).shape == SHAPE  # a report beside the slices is none of them


def test_old_files_without_preamble(folder, values):
    for file in folder.iterdir():
        raw = file.read_bytes()
        dataset = dcmread(file)
        dataset.file_meta.clear()
        assert raw[128:132] == b"DICM"
        dataset.save_as(file, implicit_vr=True, little_endian=True, enforce_file_format=False)
        bare = file.read_bytes()
        file.write_bytes(bare[bare.index(b"\x08\0\x05\0") :])
    np.testing.assert_array_equal(read_volume(folder).values.numpy(), values)


def test_a_damaged_value_does_not_carry_the_name_into_a_warning(folder):
    changed(folder, 1, PatientComments="Geheim")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        read_volume(folder)
    assert not [str(one.message) for one in said]


def test_real_series(real_data):
    import SimpleITK as sitk  # noqa: N813

    folder = real_data("ct-dicom-totalseg")
    volume = read_volume(folder)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    np.testing.assert_array_equal(volume.values.numpy(), sitk.GetArrayFromImage(image))
    for index in ((0, 0, 0), (511, 0, 7), (100, 400, 19)):
        x, y, z = image.TransformIndexToPhysicalPoint(index)
        ours = volume.world_from_voxel @ torch.tensor([*index, 1.0], dtype=torch.float64)
        assert ours[:3].tolist() == pytest.approx([-x, -y, z], abs=1e-6)
    assert volume.unit == "HU"


def test_real_radiographs_are_no_volumes(real_data):
    folder = real_data("dicom-xray-samples")
    for name, modality in (("XA1_J2KR.dcm", "XA"), ("RG3_J2KR.dcm", "CR"), ("331_DDH_1.dcm", "DX")):
        words = refused(folder / name, InputError)
        assert f"is an X-ray image (modality {modality}), not a volume" in words
    assert "none of them a volume" in refused(Path(folder))
