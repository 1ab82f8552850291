"""`diffrender info` with a file of every kind, and never a word about the patient."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

import diffrender as dr
from diffrender.commands.info import BY_ENDING, MESHES
from diffrender.io.images import write_radiograph


@pytest.fixture
def picture(patient):
    volume = dr.read_volume(patient.ct, labels=patient.labels, names=patient.names)
    camera = dr.c_arm(volume, 25, -10, image_size=(20, 30), pixel_size=(16.0, 12.0))
    return dr.radiograph(volume, camera, dr.RadiographSettings(backend="torch"))


def test_a_volume(typed, patient):
    ended = typed("info", patient.ct)
    assert ended.code == 0
    assert ended.out.splitlines()[0] == f"{patient.ct} is a volume"
    assert "26 x 22 x 18 voxels (i x j x k), 9 x 11 x 13 mm, LPS, -1000 to 900 HU, int16" in ended.out
    result = typed("info", patient.ct, "--json").lines[-1]
    assert (result["is"], result["file"]) == ("a volume", str(patient.ct))


def test_labels_and_their_table(typed, patient):
    ended = typed("info", patient.labels)
    assert "labels, it seems" in ended.out
    assert "ids: 3, 7" in ended.out
    table = typed("info", patient.names)
    assert "is a table of label names" in table.out
    assert "7  bone" in table.out
    Path("names.json").write_text('[{"id": 7, "name": "bone"}]', encoding="utf-8")
    assert typed("info", "names.json", "--json").lines[-1]["labels"] == {"7": "bone"}


def test_a_folder_of_masks(typed, patient):
    Path("masks").mkdir()
    for name in ("hip_left", "sacrum"):
        shutil.copy(patient.labels, f"masks/{name}.nrrd")
    ended = typed("info", "masks")
    assert "is a folder of 2 images" in ended.out
    assert "hip_left\n    sacrum" in ended.out


def test_a_segmentation_of_slicer(typed, patient):
    image = SimpleITK.ReadImage(str(patient.labels))
    for n, (label, name) in enumerate((("7", "left hip"), ("3", "sacrum"))):
        for key, value in (("LabelValue", label), ("Layer", "0"), ("Name", name)):
            image.SetMetaData(f"Segment{n}_{key}", value)
    SimpleITK.WriteImage(image, "s.seg.nrrd")
    ended = typed("info", "s.seg.nrrd")
    assert "is a segmentation of 3D Slicer" in ended.out
    assert "7  left hip" in ended.out


def test_cameras(typed, picture):
    Path("one.json").write_text(json.dumps(picture.camera.to_dict()), encoding="utf-8")
    Path("two.json").write_text(json.dumps([picture.camera.to_dict()] * 2), encoding="utf-8")
    one = typed("info", "one.json")
    assert "one.json is a camera\n" in one.out
    assert "20 x 30 px of 16 x 12 mm" in one.out
    assert "1020.0 mm to the detector" in one.out
    assert "is a list of 2 cameras" in typed("info", "two.json").out


@pytest.mark.parametrize("ending", [".png", ".tif", ".nii.gz", ".nii"])
def test_a_radiograph_of_ours(typed, picture, ending):
    write_radiograph(picture, f"a{ending}")
    ended = typed("info", f"a{ending}")
    assert ended.code == 0
    assert "is a radiograph of ours" in ended.out
    assert "20 x 30 pixels (height x width)" in ended.out
    assert ("16 x 12 mm" in ended.out) or ("20 x 30 px of 16 x 12 mm" in ended.out)
    labels = typed("info", "a.labels.npz")
    assert "is the labels of a radiograph" in labels.out
    assert "3  liver\n    7  bone" in labels.out


def test_a_dicom_xray_with_its_geometry_and_without_its_patient(typed, picture):
    from pydicom import dcmread

    write_radiograph(picture, "a.dcm")
    dataset = dcmread("a.dcm")
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = "Doe^Jane", "4711-X", "19500102"
    dataset.ReferringPhysicianName, dataset.InstitutionName = "House^Gregory", "Princeton"
    dataset.save_as("b.dcm")
    ended = typed("info", "b.dcm")
    assert ended.code == 0
    assert "is a DICOM X-ray (DX)" in ended.out
    assert "20 x 30 pixels" in ended.out
    assert "source to detector [mm]: 1020" in ended.out
    said = ended.out + ended.err + typed("info", "b.dcm", "--json", "--debug").out
    for secret in ("Doe", "Jane", "4711", "1950", "House", "Princeton"):
        assert secret not in said.replace(" ", "")


def test_a_mesh(typed):
    Path("m.ply").write_text(
        "ply\nformat ascii 1.0\ncomment SPACE=RAS\nelement vertex 4\nproperty float x\n"
        "property float y\nproperty float z\n"
        "element face 4\nproperty list uchar int vertex_indices\nend_header\n0 0 0\n30 0 0\n0 20 0\n0 0 10\n"
        "3 0 2 1\n3 0 1 3\n3 0 3 2\n3 1 2 3\n",
        encoding="utf-8",
    )
    ended = typed("info", "m.ply")
    assert ended.code == 0
    assert "m.ply is a mesh" in ended.out
    assert "4 vertices" in ended.out


def test_the_endings_of_meshes_are_those_that_are_read():
    from diffrender.io.meshes import READERS

    assert set(READERS) == set(MESHES)
    assert MESHES in [endings for endings, _ in BY_ENDING]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.nii", None, r"none.nii does not exist"),
        ("empty.nii", b"", r"empty.nii is empty \(0 bytes\)"),
        ("a.png", b"no picture", r"a.png is named as a picture and cannot be read as one"),
        ("a.json", b"{", r"a.json is no JSON file, or a damaged one"),
        ("a.json", b'{"world_from_camera": 1}', r"a.json: A camera is JSON with"),
        ("a.npz", b"PK\x03\x04", r"a.npz is no label file of a radiograph"),
        ("a.txt", b"Dear colleague,\nthank you for sending", r"a.txt is a text, and no table of label names"),
        ("a.bin", bytes(range(200)), r"a.bin is of an unknown kind"),
        ("a.stl", b"solid", r"a.stl"),
    ],
)
def test_what_it_cannot_know_it_refuses(typed, name, content, message):
    if content is not None:
        Path(name).write_bytes(content)
    ended = typed("info", name)
    assert ended.code == 2
    assert ended.out == ""
    assert re.search(f"Error: .*{message}", ended.err)


def test_a_picture_of_someone_else(typed):
    from PIL import Image

    Image.fromarray(np.zeros((5, 7), np.uint8)).save("x.png")
    ended = typed("info", "x.png")
    assert ended.code == 0
    assert "is a picture, not one that we wrote" in ended.out
    assert "5 x 7 pixels" in ended.out


def test_real_files_of_every_kind(typed, real_data):
    series = typed("info", real_data("ct-dicom-totalseg")).out
    assert "512 x 512 x 20 voxels" in series
    assert "20 slices of 512 x 512" in series
    xray = typed("info", real_data("dicom-xray-samples", "RG3_J2KR.dcm")).out
    assert "is a DICOM X-ray (CR)" in xray
    assert "JPEG 2000" in xray
    assert "geometry: incomplete" in xray


@pytest.mark.parametrize("kind", ["greys", "labels"])
def test_few_whole_numbers_are_labels_only_where_they_lie_in_pieces(typed, kind):
    """A small MR has a hundred greys above zero, and neighbours that differ."""
    random = np.random.default_rng(4)
    values = random.integers(0, 100, (9, 14, 17)).astype(np.int16)
    if kind == "labels":
        values[:] = 0
        values[2:6, 3:7, 4:9], values[4:8, 8:12, 10:13] = 40, 7
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(values), "a.nii.gz")
    line = typed("info", "a.nii.gz", "--json").lines[-1]
    if kind == "labels":
        assert line["is"] == "a volume of few whole numbers: labels, it seems"
        assert line["ids"] == [7, 40]
    else:
        assert (line["is"], "ids" in line) == ("a volume", False)


def test_an_empty_text_is_no_path(typed):
    ended = typed("info", "")
    assert ended.code == 2
    assert "FILE is an empty text, no path" in ended.err
