"""NIfTI, NRRD and MetaImage in, and every path that leads to no volume. SimpleITK writes, and is asked for points."""

import gzip
import os
import re
import struct
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from dicom_files import lattice, write_enhanced, write_series
from worlds import hu_at, largest_error, sampled

from diffrender.errors import (
    DicomError,
    GeometryError,
    ImageError,
    LabelError,
    MemoryNeedError,
    Notice,
    PathError,
    SettingError,
)
from diffrender.io import list_series, read_volume
from diffrender.io.files import available_memory, check_memory
from diffrender.io.filling import most_bytes

# The formula shows where a voxel lies, and most of these small lattices hold no air.
pytestmark = pytest.mark.filterwarnings("ignore:.*do not look like Hounsfield units")
SHAPE = (7, 9, 11)  # (k, j, i)
OBLIQUE = lattice((-31.5, 12.25, -87.0), (0.9, 0.3, -0.15), (-0.2, 0.8, 0.4), (0.9, 0.7, 2.5))
LEFT_HANDED = OBLIQUE @ np.diag([1.0, 1, -1, 1])
FLIPPED = np.diag([-0.9, 0.7, -2.5, 1.0]) + np.outer([30, -20, 40, 0], [0, 0, 0, 1])
FORMATS = ("nii", "nii.gz", "nrrd", "mha", "mhd", "nhdr", "hdr")
# NIfTI keeps its affine in single precision: 1e-5 mm over 100 mm, times 9 HU/mm; where the formula lies between two
# whole HU, rounding may then go the other way.
ONE_STEP = 1.0


def refused(path, kind: type[Exception] = PathError, **options) -> str:
    """What the error says; it names the path as typed, on one line."""
    with pytest.raises(kind) as caught:
        read_volume(path, **options)
    words = str(caught.value)
    assert str(path) in words, words
    assert "\n" not in words
    return words


def itk_image(lps_from_voxel, shape=SHAPE, dtype=np.int16):
    """Filled point by point where ITK says that they lie, so that only ITK's idea of the lattice counts."""
    image = sitk.GetImageFromArray(np.zeros(shape, dtype))
    spacing = np.linalg.norm(lps_from_voxel[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps_from_voxel[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps_from_voxel[:3, 3].tolist())
    for k, j, i in np.ndindex(shape):
        point = np.array(image.TransformIndexToPhysicalPoint((i, j, k)))
        image[i, j, k] = float(hu_at(point)) if np.dtype(dtype).kind == "f" else int(hu_at(point))
    return image


def write_nifti(
    path, values=None, *, sform=None, sform_code=0, qform_code=0, quaternion=(0, 0, 0), offset=(1, 2, 3), qfac=1,
    steps=(2, 3, 4), dim=None, order="<", dtype="i2", slope=1.0, intercept=0.0, units=2, second=False, keep=None,
):  # fmt: skip
    """A NIfTI file byte by byte, from the standard's table, so that any of its fields can be wrong."""
    values = sampled(FLIPPED, SHAPE) if values is None else values
    dim = (3, *reversed(values.shape), 1, 1, 1, 1) if dim is None else dim
    code = {"u1": 2, "i2": 4, "i4": 8, "f4": 16, "f8": 64, "u2": 512}[dtype]
    srow = (np.zeros((3, 4)) if sform is None else np.asarray(sform)[:3]).ravel()
    pixdim = (qfac, *steps, 0, 0, 0, 0)
    bits = 8 * np.dtype(dtype).itemsize
    if second:
        head = struct.pack(
            f"{order}i8s2h8q24x8dq2d48x80x24x2i6d12d4xi36x", 540, b"n+2\0\r\n\032\n", code, bits, *dim, *pixdim, 544,
            slope, intercept, qform_code, sform_code, *quaternion, *offset, *srow, units,
        )  # fmt: skip
    else:
        head = struct.pack(
            f"{order}i36x8h14x2h2x8f3f3xB128x2h6f12f16x4s",
            348, *dim, code, bits, *pixdim, 352, slope, intercept, units, qform_code, sform_code, *quaternion,
            *offset, *srow, b"n+1\0",
        )  # fmt: skip
    raw = head + bytes(4) + values.astype(np.dtype(order + dtype)).tobytes()
    raw = raw[:keep]
    Path(path).write_bytes(gzip.compress(raw, 1) if str(path).endswith(".gz") else raw)
    return path


RAS = np.diag([-1.0, -1, 1, 1]) @ FLIPPED  # what an sform holds


@pytest.mark.parametrize("matrix", [OBLIQUE, LEFT_HANDED, FLIPPED], ids=["oblique", "left-handed", "flipped"])
@pytest.mark.parametrize("ending", FORMATS)
def test_every_format_lies_where_it_was_written(tmp_path, ending, matrix):
    path = tmp_path / f"ct.{ending}"
    sitk.WriteImage(itk_image(matrix), str(path))
    volume = read_volume(path)
    assert volume.shape == SHAPE
    assert volume.values.dtype == torch.int16
    assert (volume.unit, volume.source) == ("HU", str(path))
    assert largest_error(volume) <= ONE_STEP
    assert volume.spacing == pytest.approx((2.5, 0.7, 0.9), abs=1e-6)  # single precision
    assert np.sign(volume.world_from_voxel[:3, :3].det().item()) == np.sign(np.linalg.det(matrix))


def test_dicom_and_itk_formats_say_the_same(tmp_path):
    sitk.WriteImage(itk_image(OBLIQUE), str(tmp_path / "ct.nrrd"))
    write_series(tmp_path / "ct", sampled(OBLIQUE, SHAPE), OBLIQUE)
    nrrd, dicom = read_volume(tmp_path / "ct.nrrd"), read_volume(tmp_path / "ct")
    # 9 digits of position and direction over 20 mm
    assert (nrrd.world_from_voxel - dicom.world_from_voxel).abs().max() < 1e-6
    np.testing.assert_array_equal(nrrd.values.numpy(), dicom.values.numpy())


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("ending", ["nii", "nii.gz", "nrrd", "mha", "mhd", "nhdr"])
@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (np.uint8, torch.int16),
        (np.uint16, torch.int16),
        (np.int32, torch.int16),
        (np.float32, torch.float32),
        (np.float64, torch.float32),
    ],
)
def test_number_types(tmp_path, ending, dtype, expected, compressed):
    image = itk_image(OBLIQUE)
    image = sitk.Cast(image + 1000, sitk.GetImageFromArray(np.zeros((2, 2, 2), dtype)).GetPixelID())
    sitk.WriteImage(image, str(tmp_path / f"ct.{ending}"), compressed)
    volume = read_volume(tmp_path / f"ct.{ending}")
    assert volume.values.dtype == expected
    np.testing.assert_array_equal(volume.values.numpy(), sitk.GetArrayFromImage(image).astype(np.float64))


@pytest.mark.parametrize("ending", ["nii", "nrrd"])
@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_whole_numbers_beyond_int16_become_float32(tmp_path, ending, dtype):
    values = np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(dtype)
    values[4, 5, 6] = 40000
    sitk.WriteImage(sitk.GetImageFromArray(values), str(tmp_path / f"ct.{ending}"))
    volume = read_volume(tmp_path / f"ct.{ending}")
    assert volume.values.dtype == torch.float32
    np.testing.assert_array_equal(volume.values.numpy(), values)


def test_values_outlive_what_read_them(tmp_path):
    # ITK's own memory is handed on without a copy; it must not be freed while the tensor lives.
    sitk.WriteImage(itk_image(OBLIQUE), str(tmp_path / "ct.nrrd"))
    volumes = [read_volume(tmp_path / "ct.nrrd").values for _ in range(20)]
    for values in volumes:
        np.testing.assert_array_equal(values.numpy(), sampled(OBLIQUE, SHAPE))
    volumes[0][0, 0, 0] = 5
    assert volumes[1][0, 0, 0] != 5


@pytest.mark.parametrize("second", [False, True], ids=["NIfTI-1", "NIfTI-2"])
@pytest.mark.parametrize("order", ["<", ">"], ids=["little", "big"])
@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
def test_byte_order_scale_and_version(tmp_path, ending, order, second):
    values = sampled(FLIPPED, SHAPE)
    written = {"sform": RAS, "sform_code": 1, "order": order, "second": second, "steps": (0.9, 0.7, 2.5)}
    whole = read_volume(write_nifti(tmp_path / f"a.{ending}", (values + 1024) / 2, slope=2, intercept=-1024, **written))
    assert whole.values.dtype == torch.int16
    np.testing.assert_array_equal(whole.values.numpy(), 2 * ((values + 1024) // 2) - 1024)
    broken = read_volume(write_nifti(tmp_path / f"b.{ending}", values * 4, slope=0.25, intercept=0.5, **written))
    assert broken.values.dtype == torch.float32
    np.testing.assert_array_equal(broken.values.numpy(), values + 0.5)
    plain = read_volume(write_nifti(tmp_path / f"c.{ending}", values, slope=0, **written))
    assert largest_error(plain) <= ONE_STEP


def test_metres_and_micrometres_become_millimetres(tmp_path):
    metres = np.diag([1e-3, 1e-3, 1e-3, 1]) @ RAS
    volume = read_volume(
        write_nifti(tmp_path / "m.nii", sform=metres, sform_code=1, units=1, steps=(0.9e-3, 0.7e-3, 2.5e-3))
    )
    # single precision, of 40 mm
    np.testing.assert_allclose(volume.world_from_voxel.numpy(), RAS, atol=1e-5)
    volume = read_volume(write_nifti(tmp_path / "u.nii", qform_code=1, units=3, steps=(2000, 3000, 4000)))
    assert volume.spacing == (4, 3, 2)


@pytest.mark.parametrize(
    "fields",
    [
        {"qform_code": 1, "quaternion": (0.1, -0.3, 0.2), "qfac": -1},
        {"qform_code": 1, "quaternion": (0.1, -0.3, 0.2)},
        {"qform_code": 2, "quaternion": (0, 1, 0)},
        {"sform_code": 1, "sform": RAS, "steps": (0.9, 0.7, 2.5)},
        {"sform_code": 4, "sform": RAS, "steps": (0.9, 0.7, 2.5)},
        {"sform_code": 1, "sform": RAS, "qform_code": 1, "steps": (0.9, 0.7, 2.5)},
        {"sform_code": 2, "sform": RAS, "qform_code": 1},
        {"sform_code": 2, "sform": RAS, "qform_code": 2},
        {"sform_code": 1, "sform": RAS, "qform_code": 2, "steps": (0.9, 0.7, 2.5)},
    ],
)
def test_of_two_affines_the_one_that_slicer_takes(tmp_path, fields):
    path = write_nifti(tmp_path / "ct.nii", **fields)
    image = sitk.ReadImage(str(path))
    if fields.get("sform_code") and fields.get("qform_code"):
        with pytest.warns(Notice, match=r"two affines that lie \d+\.\d mm apart .* as Slicer does"):
            volume = read_volume(path)
    else:
        volume = read_volume(path)
    for index in ((0, 0, 0), (10, 0, 0), (3, 8, 6)):
        x, y, z = image.TransformIndexToPhysicalPoint(index)
        ours = volume.world_from_voxel @ torch.tensor([*index, 1.0], dtype=torch.float64)
        # single precision, of a quaternion whose first number is not stored
        assert ours[:3].tolist() == pytest.approx([-x, -y, z], abs=1e-4)


def test_two_spacings_are_said(tmp_path):
    path = write_nifti(tmp_path / "ct.nii", sform=RAS, sform_code=1, steps=(0.9, 0.7, 5))
    with pytest.warns(Notice, match=r"two spacings, 0.9 x 0.7 x 2.5 mm \(sform\) and 0.9 x 0.7 x 5 mm \(pixdim\)"):
        volume = read_volume(path)
    assert largest_error(volume) <= ONE_STEP


def test_without_any_orientation_that_is_said(tmp_path):
    path = write_nifti(tmp_path / "ct.nii")
    with pytest.warns(Notice, match="does not say how the patient lies"):
        volume = read_volume(path)
    assert volume.orientation == "RAS"
    assert volume.spacing == (4, 3, 2)


def test_sheared_and_singular_nifti(tmp_path):
    sheared, singular = RAS.copy(), RAS.copy()
    sheared[0, 1] = 0.2
    singular[2, 2] = 0
    words = refused(write_nifti(tmp_path / "a.nii", sform=sheared, sform_code=1), GeometryError)
    assert "its affine (sform) is sheared: two of its voxel axes meet at" in words
    # ITK would take the qform here, without a word.
    write_nifti(tmp_path / "b.nii", sform=sheared, sform_code=1, qform_code=1)
    with pytest.warns(Notice, match="two affines"):
        assert "is sheared" in refused(tmp_path / "b.nii", GeometryError)
    assert "its affine (sform) is singular" in refused(
        write_nifti(tmp_path / "c.nii", sform=singular, sform_code=1), GeometryError
    )
    assert "its affine (qform) is singular" in refused(
        write_nifti(tmp_path / "d.nii", qform_code=1, steps=(2, 0, 4)), GeometryError
    )


def test_sheared_and_singular_nrrd_and_mha(tmp_path):
    for ending, header in (("nrrd", _nrrd_header), ("mha", _mha_header)):
        for name, matrix, kind in (
            ("a", [[2, 0.5, 0], [0, 3, 0], [0, 0, 4]], "is sheared: two of its voxel axes meet at 80.54 degrees"),
            ("b", [[2, 0, 0], [0, 3, 0], [2, 0, 0]], "its affine is singular"),
            ("c", [[2, 0, 2], [0, 3, 0], [2, 0, 2]], "its affine is singular"),
        ):
            path = tmp_path / f"{name}.{ending}"
            path.write_bytes(header(np.array(matrix, float)) + sampled(FLIPPED, SHAPE).astype("<i2").tobytes())
            assert kind in refused(path, GeometryError)


def _nrrd_header(matrix, extra="", sizes="11 9 7", dimension=3):
    columns = " ".join("(" + ",".join(f"{x:g}" for x in column) + ")" for column in matrix.T)
    return (
        f"NRRD0004\ntype: short\ndimension: {dimension}\nspace: left-posterior-superior\nsizes: {sizes}\n"
        f"space directions: {columns}\nendian: little\nencoding: raw\nspace origin: (1,2,3)\n{extra}\n"
    ).encode()


def _mha_header(matrix, spacing=None):
    steps = np.linalg.norm(matrix, axis=0)
    axes = " ".join(f"{x:g}" for x in (matrix / np.maximum(steps, 1e-9)).T.ravel())
    steps = steps if spacing is None else spacing
    return (
        f"ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nTransformMatrix = {axes}\n"
        f"Offset = 1 2 3\nElementSpacing = {' '.join(f'{x:g}' for x in steps)}\nDimSize = 11 9 7\n"
        "ElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    ).encode()


def test_negative_spacing(tmp_path):
    words = refused(write_nifti(tmp_path / "a.nii", qform_code=1, steps=(2, -3, 4)), GeometryError)
    assert "negative spacing, 2 x -3 x 4 mm (pixdim)" in words
    path = tmp_path / "a.mha"
    path.write_bytes(_mha_header(np.diag([2.0, 3, 4]), (2, -3, 4)) + bytes(2 * 7 * 9 * 11))
    assert "has a negative, zero or missing spacing, 2 x -3 x 4 mm" in refused(path, GeometryError)
    path = tmp_path / "a.nrrd"
    path.write_bytes(_plain_nrrd("spacings: 1 -2 3\n"))
    assert "has a negative, zero or missing spacing, 1 x -2 x 3 mm" in refused(path, GeometryError)


def _plain_nrrd(lines):
    head = f"NRRD0004\ntype: short\ndimension: 3\nsizes: 11 9 7\nendian: little\nencoding: raw\n{lines}\n"
    return head.encode() + sampled(FLIPPED, SHAPE).astype("<i2").tobytes()


def test_missing_spacing_and_missing_directions(tmp_path):
    path = tmp_path / "a.nrrd"
    path.write_bytes(_plain_nrrd(""))
    assert "has no spacing for each of its three axes, so the size of its voxels is not known" in refused(
        path, GeometryError
    )
    path.write_bytes(_plain_nrrd("spacings: 1 2 3\n"))
    with pytest.warns(Notice, match="does not say how the patient lies"):
        volume = read_volume(path)
    assert (volume.spacing, volume.orientation) == ((3, 2, 1), "LPS")
    path = tmp_path / "a.mha"
    head = b"\n".join(line for line in _mha_header(np.diag([2.0, 3, 4])).split(b"\n") if b"ElementSpacing" not in line)
    path.write_bytes(head + sampled(FLIPPED, SHAPE).astype("<i2").tobytes())
    assert "has no spacing" in refused(path, GeometryError)


@pytest.mark.parametrize(
    "lines",
    [
        "space: LPS\nspace directions: none (0,10,0) (0,0,12)",
        "spacings: nan 10 12",
    ],
)
def test_an_axis_without_spacing_is_refused(tmp_path, lines):
    path = tmp_path / "a.nrrd"
    path.write_bytes(_plain_nrrd(lines + "\n"))
    assert "has no spacing for each of its three axes" in refused(path, GeometryError)


@pytest.mark.parametrize(("space", "letters"), [("RAS", "RAS"), ("left-anterior-superior", "LAS"), ("LPS", "LPS")])
def test_the_spaces_of_nrrd(tmp_path, space, letters, recwarn):
    path = tmp_path / "a.nrrd"
    path.write_bytes(_plain_nrrd(f"space: {space}\nspace directions: (9,0,0) (0,10,0) (0,0,12)\n"))
    assert read_volume(path).orientation == letters
    assert "how the patient lies" not in " ".join(str(notice.message) for notice in recwarn)


@pytest.mark.parametrize("line", ["space: scanner-xyz", "space dimension: 3"])
def test_a_space_that_says_nothing_of_the_patient_is_said(tmp_path, line):
    path = tmp_path / "a.nrrd"
    path.write_bytes(_plain_nrrd(f"{line}\nspace directions: (9,0,0) (0,10,0) (0,0,12)\n"))
    with pytest.warns(Notice, match=r'how the patient lies \(its "space" is (scanner-xyz|3), none of LPS, RAS and LAS'):
        assert read_volume(path).orientation == "LPS"


def test_2d_4d_and_one_slice(tmp_path):
    flat = sampled(FLIPPED, (1, 9, 11))
    for dim in ((2, 11, 9, 1, 1, 1, 1, 1), (3, 11, 9, 1, 1, 1, 1, 1)):
        words = refused(write_nifti(tmp_path / "flat.nii", flat, qform_code=1, dim=dim), ImageError)
        assert "is 2D or one slice only: 11 x 9" in words
    series = sampled(FLIPPED, (14, 9, 11))
    words = refused(write_nifti(tmp_path / "t.nii", series, qform_code=1, dim=(4, 11, 9, 7, 2, 1, 1, 1)), ImageError)
    assert "has 4 axes, 11 x 9 x 7 x 2: a series of volumes, or vectors" in words
    one = read_volume(write_nifti(tmp_path / "o.nii", qform_code=1, dim=(4, 11, 9, 7, 1, 1, 1, 1)))
    assert one.shape == SHAPE  # a fourth axis of length 1 is none
    for ending in ("nrrd", "mha"):
        sitk.WriteImage(sitk.GetImageFromArray(flat[0]), str(tmp_path / f"flat.{ending}"))
        assert "is 2D or one slice only: 11 x 9" in refused(tmp_path / f"flat.{ending}", ImageError)
        sitk.WriteImage(sitk.GetImageFromArray(flat), str(tmp_path / f"one.{ending}"))
        assert "is 2D or one slice only: 11 x 9 x 1" in refused(tmp_path / f"one.{ending}", ImageError)
        vectors = sitk.GetImageFromArray(np.zeros((*SHAPE, 3), np.int16), isVector=True)
        sitk.WriteImage(vectors, str(tmp_path / f"vectors.{ending}"))
        assert "holds 3 numbers a voxel" in refused(tmp_path / f"vectors.{ending}", ImageError)


@pytest.mark.parametrize("ending", ["nii", "nii.gz", "nrrd", "mha"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_inf(tmp_path, ending, bad):
    values = sampled(FLIPPED, SHAPE).astype(np.float32)
    values[2, 3, 4] = values[5, 0, 1] = bad
    sitk.WriteImage(sitk.GetImageFromArray(values), str(tmp_path / f"ct.{ending}"))
    words = refused(tmp_path / f"ct.{ending}", ImageError)
    assert "holds NaN or Inf in 2 of 693 voxels" in words
    assert "fill them with air" in words


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(0, 250, True), (-150, 900, True), (-1000, 62378, True), (-250, 900, False), (-1024, 31000, False)],
)
@pytest.mark.parametrize("ending", ["nii.gz", "nrrd", "mha"])
def test_what_does_not_look_like_hounsfield_units_is_said(tmp_path, ending, low, high, said, recwarn):
    image = itk_image(OBLIQUE)
    values = np.linspace(low, high, np.prod(SHAPE)).reshape(SHAPE).astype(np.int32)
    other = sitk.GetImageFromArray(values)
    other.CopyInformation(image)
    sitk.WriteImage(other, str(tmp_path / f"ct.{ending}"))
    read_volume(tmp_path / f"ct.{ending}")
    words = " ".join(str(notice.message) for notice in recwarn)
    assert (f"holds values from {low} to {high}; these do not look like Hounsfield units" in words) == said


@pytest.mark.parametrize("value", [1e30, -2e6])
def test_values_beyond_a_million_are_refused(tmp_path, value):
    values = sampled(FLIPPED, SHAPE).astype(np.float32)
    values[2, 3, 4] = value
    sitk.WriteImage(sitk.GetImageFromArray(values), str(tmp_path / "ct.nii"))
    assert "beyond a million no number is a Hounsfield unit" in refused(tmp_path / "ct.nii", ImageError)


@pytest.mark.parametrize("ending", ["nii.gz", "nrrd", "mha"])
def test_all_constant(tmp_path, ending):
    sitk.WriteImage(sitk.GetImageFromArray(np.full(SHAPE, -1000, np.int16)), str(tmp_path / f"ct.{ending}"))
    assert "is constant: every voxel is -1000" in refused(tmp_path / f"ct.{ending}", ImageError)


def test_big_endian_wide_numbers(tmp_path):
    values = sampled(FLIPPED, SHAPE)
    nrrd = _nrrd_header(np.diag([2.0, 3, 4])).replace(b"type: short", b"type: double").replace(b"little", b"big")
    mha = _mha_header(np.diag([2.0, 3, 4])).replace(b"MET_SHORT", b"MET_INT").replace(b"MSB = False", b"MSB = True")
    for name, head, dtype in (("a.nrrd", nrrd, ">f8"), ("a.mha", mha, ">i4")):
        (tmp_path / name).write_bytes(head + values.astype(dtype).tobytes())
        np.testing.assert_array_equal(read_volume(tmp_path / name).values.numpy(), values)


@pytest.mark.parametrize("ending", ["nii", "nii.gz", "nrrd", "mha"])
@pytest.mark.parametrize("kept", [0.3, 0.98])
@pytest.mark.parametrize("dtype", [np.int16, np.int32])
def test_truncated(tmp_path, ending, kept, dtype):
    path = tmp_path / f"ct.{ending}"
    noise = np.random.default_rng(3).integers(-1000, 1000, (20, 30, 40)).astype(dtype)
    for compressed in (False, True):
        sitk.WriteImage(sitk.GetImageFromArray(noise), str(path), compressed)
        raw = path.read_bytes()
        path.write_bytes(raw[: int(kept * len(raw))])
        assert re.search(r"is truncated or damaged|is truncated: it ends in slice \d+ of 20", refused(path))


@pytest.mark.parametrize("ending", ["mha", "mhd", "nrrd", "nhdr"])
def test_what_itk_says_of_a_damaged_file_stays_off_the_console(tmp_path, ending, capfd):
    sitk.WriteImage(itk_image(OBLIQUE), str(tmp_path / f"ct.{ending}"))
    numbers = max(tmp_path.iterdir(), key=lambda file: file.stat().st_size)
    numbers.write_bytes(numbers.read_bytes()[:-200])
    head = tmp_path / f"ct.{ending}"
    text = head.read_bytes().replace(b"BinaryData = True", b"BinaryData = False").replace(b": raw\n", b": ascii\n")
    for raw in (head.read_bytes(), text):  # numbers as text are left to ITK
        head.write_bytes(raw)
        with pytest.raises(PathError, match="truncated") as caught:
            read_volume(head)
        words = str(caught.value)
        assert words.startswith(str(numbers if raw is not text else head))
        assert not re.search("0x|ITK|MetaIm|[.]cxx", words)
    os.write(2, b"heard again")
    assert capfd.readouterr().err == "heard again"


def test_numbers_that_itk_reads(tmp_path):
    values = sampled(FLIPPED, SHAPE)
    text = " ".join(f"{number:g}" for number in values.ravel()).encode()
    nrrd = _nrrd_header(np.diag([2.0, 3, 4])).replace(b"encoding: raw", b"encoding: ascii")
    skipped = _nrrd_header(np.diag([2.0, 3, 4]), "byte skip: 5\n")
    raw = values.astype("<i2").tobytes()
    for name, content in (("a.nrrd", nrrd + text), ("b.nrrd", skipped + bytes(5) + raw)):
        (tmp_path / name).write_bytes(content)
        np.testing.assert_array_equal(read_volume(tmp_path / name).values.numpy(), values)


def test_a_wrong_ending_does_not_matter(tmp_path):
    for ending, name in (("nrrd", "a.nii.gz"), ("mha", "a.nrrd"), ("nii.gz", "b.nrrd"), ("nii", "a.mha")):
        sitk.WriteImage(itk_image(OBLIQUE), str(tmp_path / f"ct.{ending}"))
        volume = read_volume((tmp_path / f"ct.{ending}").rename(tmp_path / name))
        assert largest_error(volume) <= ONE_STEP


def test_truncated_within_the_header(tmp_path):
    write_nifti(tmp_path / "ct.nii", qform_code=1, keep=200)
    assert "named .nii" in refused(tmp_path / "ct.nii")
    path = write_nifti(tmp_path / "ct.nii.gz", qform_code=1)
    path.write_bytes(path.read_bytes()[:15])
    assert "is a gzip file that is truncated or damaged" in refused(path)


@pytest.mark.parametrize("name", ["ct.nii", "ct.nii.gz", "ct.nrrd", "ct.dcm", "ct.zip", "ct"])
def test_zero_length(tmp_path, name):
    (tmp_path / name).touch()
    assert "is empty (0 bytes)" in refused(tmp_path / name)


def test_what_is_no_volume(tmp_path):
    for name, raw, words in (
        ("notes.nii", b"HU of the aorta: 300\n", "is a text file, although it is named .nii"),
        ("notes.nii.gz", b"HU of the aorta: 300\n", "is a text file, although it is named .nii.gz"),
        ("ct.nii.gz", gzip.compress(b"a tar archive or so" * 99), "what is packed in it is no NIfTI"),
        ("notes.txt", b"HU of the aorta: 300\n", "is a text file. A CT is read from"),
        ("picture.png", b"\x89PNG\r\n\x1a\n" + bytes(99), "is a PNG picture, not a volume"),
        ("ct.zip", b"PK\3\4" + bytes(99), "is a zip that is truncated or damaged"),
        ("ct.mat", bytes(range(256)), "is of an unknown kind. A CT is read from NIfTI"),
        ("ct", bytes(range(256)), "is of an unknown kind. A CT is read from NIfTI"),
    ):
        (tmp_path / name).write_bytes(raw)
        assert words in refused(tmp_path / name)


def test_analyze_and_colours(tmp_path):
    path = write_nifti(tmp_path / "a.nii", qform_code=1)
    raw = bytearray(path.read_bytes())
    raw[344:348] = bytes(4)
    path.write_bytes(raw)
    assert "is an Analyze 7.5 file" in refused(path, ImageError)
    raw[344:348], raw[70:72] = b"n+1\0", struct.pack("<h", 128)
    path.write_bytes(raw)
    assert "holds colours (RGB)" in refused(path, ImageError)


def test_a_pair_without_its_other_half(tmp_path):
    for ending, other in (("hdr", "img"), ("mhd", "raw"), ("nhdr", "raw")):
        sitk.WriteImage(itk_image(FLIPPED), str(tmp_path / f"ct.{ending}"))
        (tmp_path / f"ct.{other}").unlink()
        with pytest.raises(
            PathError, match=rf"ct\.{other} does not exist|ct\.{ending} is a header, and ct\.{other}, which"
        ):
            read_volume(tmp_path / f"ct.{ending}")


def test_paths_that_lead_nowhere(tmp_path):
    words = refused(tmp_path / "no such" / "ct.nii")
    assert "does not exist" in words
    assert "Check the path" in words
    (tmp_path / "link.nii").symlink_to(tmp_path / "gone.nii")
    assert "is a link to" in refused(tmp_path / "link.nii")
    (tmp_path / "empty").mkdir()
    assert "is an empty folder" in refused(tmp_path / "empty")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "readme.txt").write_text("no image here")
    write_nifti(tmp_path / "texts" / "ct.nii", qform_code=1)
    words = refused(tmp_path / "texts")
    assert "holds no DICOM image, but 2 other files (ct.nii, readme.txt)" in words
    assert "give that file" in words
    with pytest.raises(PathError, match="~nobody-of-that-name"):
        read_volume("~nobody-of-that-name/ct.nii")


def test_home_spaces_and_umlauts(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    place = tmp_path / "Müller & Söhne" / "a b"
    place.mkdir(parents=True)
    for ending in FORMATS:
        sitk.WriteImage(itk_image(FLIPPED), str(place / f"Schädel CT.{ending}"))
        typed = f"~/Müller & Söhne/a b/Schädel CT.{ending}"
        volume = read_volume(typed)
        assert volume.source == typed
        assert largest_error(volume) <= ONE_STEP
    assert "~/Müller & Söhne/x.nii does not exist" in refused("~/Müller & Söhne/x.nii")


@pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "darwin", reason="needs another user to be")
def test_a_folder_and_a_file_without_permission(tmp_path):
    """Root may read everything, so the reading is done by a child that has become nobody."""
    (tmp_path / "closed").mkdir()
    write_nifti(tmp_path / "closed.nii", qform_code=1)
    for place in (tmp_path / "closed", tmp_path / "closed.nii"):
        place.chmod(0)
    script = f"""
import os
import re
from diffrender.errors import PathError
from diffrender.io import read_volume
import diffrender.io.volumes
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
for name in ("closed", "closed.nii"):
    try:
        read_volume({str(tmp_path)!r} + "/" + name)
    except PathError as problem:
        print(problem)
"""
    for parent in [tmp_path, *tmp_path.parents][:3]:
        parent.chmod(parent.stat().st_mode | 0o055)
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    (tmp_path / "closed").chmod(0o700)
    assert f"{tmp_path}/closed cannot be read: Permission denied. Check who may read it" in said
    assert f"{tmp_path}/closed.nii cannot be read: Permission denied" in said


def test_larger_than_memory_is_said_before_it_is_read(tmp_path):
    edge = 30000
    path = tmp_path / "huge.nii.gz"
    write_nifti(path, qform_code=1, dim=(3, edge, edge, edge, 1, 1, 1, 1))
    words = refused(path, MemoryNeedError)
    assert "needs 50.1 TiB of memory, and " in words
    assert "It was not read" in words
    (tmp_path / "huge.nrrd").write_bytes(_nrrd_header(np.eye(3), sizes=f"{edge} {edge} {edge}") + bytes(99))
    assert "needs 50.1 TiB" in refused(tmp_path / "huge.nrrd", MemoryNeedError)


def test_the_limit_of_memory():
    check_memory("ct.nii", 10e9, available=11e9)
    # int16 and float32 at once while the first number that does not fit changes the one into the other
    assert [most_bytes(np.dtype(kind)) for kind in ("u1", "i2", "u2", "i4", "f4", "f8")] == [2, 2, 6, 6, 4, 4]
    assert [most_bytes(np.dtype("i2"), *scale) for scale in ((2, -1024), (0.5, 0))] == [6, 4]
    with pytest.raises(MemoryNeedError, match=r"^ct.nii needs 9.31 GiB of memory, and 8.38 GiB are free"):
        check_memory("ct.nii", 10e9, available=9e9)
    assert 1e8 < available_memory() < 1e14


def test_names_without_labels_and_series_without_dicom(tmp_path):
    path = write_nifti(tmp_path / "ct.nii", qform_code=1)
    assert "without labels" in refused(path, LabelError, names="names.csv")
    assert "leave `series` (3) out" in refused(path, SettingError, series=3)
    with pytest.raises(DicomError, match="it has no series"):
        list_series(path)


def test_labels_come_along(tmp_path):
    sitk.WriteImage(itk_image(OBLIQUE), str(tmp_path / "ct.nrrd"))
    ids = np.zeros(SHAPE, np.uint8)
    ids[2:4, 3:6, 1:5] = 7
    labels = sitk.GetImageFromArray(ids)
    labels.CopyInformation(itk_image(OBLIQUE))
    sitk.WriteImage(labels, str(tmp_path / "labels.nii.gz"))
    volume = read_volume(tmp_path / "ct.nrrd", labels=tmp_path / "labels.nii.gz", names={7: "hip"})
    assert volume.label_ids == (7,)
    assert volume.label_name(7) == "hip"
    np.testing.assert_array_equal(volume.mask(7).numpy(), ids == 7)


def test_the_package_alone_imports_nothing_heavy():
    script = (
        "import sys, diffrender.io; print([m for m in ('torch', 'numpy', 'pydicom', 'SimpleITK') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


# What a process takes at its highest while it reads, beyond what one takes that reads a small file of the same kind.
MEASURE = r"""
import re, sys
from pathlib import Path
from diffrender.io import read_volume

def peak():  # [kB]; getrusage would begin with what the parent took
    return int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1])

read_volume(sys.argv[1])
before = peak()
volume = read_volume(sys.argv[2])
after = peak()
print((after - before) * 1024 / (volume.values.element_size() * volume.values.numel()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize(
    ("kind", "most"),
    [
        # Read slice by slice; 10 MB for the interpreter, headers and one slice (measured 1.02 to 1.23 at 42 MB).
        ("folder", 1.2),
        ("enhanced", 1.5),
        ("nii.gz", 1.5),
        ("float64.nii", 1.5),
        ("float64.nrrd", 1.5),
        ("nrrd", 1.5),
        ("mha", 1.5),
        ("float64.mha", 1.5),
        ("float64.mhd", 1.5),
        ("float64.nhdr", 1.5),
        # Held whole: in the zip uncompressed, and so as large as the volume.
        ("enhanced.zip", 2.2),
    ],
)
def test_peak_memory(tmp_path, kind, most):
    def write(name, shape):
        # 12 random bits: about as hard to compress as a CT.
        values = np.random.default_rng(1).integers(-1000, 3000, shape).astype(np.int16)
        path = tmp_path / f"{name}.{kind}"
        if kind == "folder":
            write_series(path, values, OBLIQUE)
        elif kind.startswith("enhanced"):
            write_enhanced(tmp_path / f"{name}.dcm", values, OBLIQUE)
            if kind == "enhanced":
                return tmp_path / f"{name}.dcm"
            with zipfile.ZipFile(path, "w") as packed:
                packed.write(tmp_path / f"{name}.dcm", "image")
        elif kind == "nii.gz":
            write_nifti(path, values, qform_code=1)
        elif kind == "float64.nii":
            write_nifti(path, values, qform_code=1, dtype="f8")
        else:
            values = values.astype(np.float64) if kind.startswith("float64") else values
            sitk.WriteImage(sitk.GetImageFromArray(values), str(path), True, compressionLevel=1)
        return path

    large = (200, 720, 720) if kind == "folder" else (100, 512, 512)  # 207 MB and 52 MB
    small, large = write("small", (3, 40, 40)), write("large", large)
    run = subprocess.run([sys.executable, "-c", MEASURE, small, large], capture_output=True, text=True, check=True)
    assert 0.9 < float(run.stdout) < most


def test_real_volumes_against_itk(real_data):
    for folder, name in (("ct-abdomenpelvis-totalseg", "ct.nii.gz"), ("ct-chest-cmbcrc", "ct_256.nii.gz")):
        path = real_data(folder, name)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            volume, image = read_volume(path), sitk.ReadImage(str(path))
        np.testing.assert_array_equal(volume.values.numpy(), sitk.GetArrayFromImage(image))
        for index in ((0, 0, 0), (90, 5, 70)):
            x, y, z = image.TransformIndexToPhysicalPoint(index)
            ours = volume.world_from_voxel @ torch.tensor([*index, 1.0], dtype=torch.float64)
            assert ours[:3].tolist() == pytest.approx([-x, -y, z], abs=1e-3)  # ITK squares the axes first
