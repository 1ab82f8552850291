"""Frames as pictures, and the geometry that people give with them."""

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

import diffrender as dr
from diffrender.camera import Camera, c_arm
from diffrender.errors import GeometryError, ImageError, Notice, PathError, SettingError
from diffrender.io.calibration import read_calibration
from diffrender.io.images import write_radiograph
from diffrender.xray import Radiograph

SIZE = (33, 47)
GEOMETRY = {
    "format": 1,
    "geometry": "c-arm",
    "kind": "intensity",
    "primary_angle": 31.0,
    "secondary_angle": -12.0,
    "source_to_detector": 1100.0,
    "source_to_isocenter": 710.0,
    "pixel_size": [0.7, 1.1],
}
CAMERA = c_arm((0.0, 0.0, 0.0), 31.0, -12.0, 1100.0, 710.0, (0.7, 1.1), SIZE)
POINTS = torch.tensor([[31.0, -12, 55], [-44, 28, 13], [5, 61, -70], [0, 0, 0]], dtype=torch.float64)


def grey(top: int = 255) -> np.ndarray:
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    values = (rows * 5 + columns * 11 + rows * columns // 7) % 239 + 3
    return (values * (top / values.max())).astype(np.uint8 if top == 255 else np.uint16)


def picture(path: Path, top: int = 255) -> Path:
    Image.fromarray(grey(top)).save(path)
    return path


def written(path: Path, content) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def sees_alike(a: Camera, b: Camera) -> bool:
    """The same pixel for every point: whatever the image plane's distance, 1e-6 px of double precision."""
    return torch.allclose(a.project(POINTS), b.project(POINTS), atol=1e-6) and a.image_size == b.image_size


@pytest.mark.parametrize(("name", "top"), [("a.png", 255), ("a.png", 65535), ("a.tif", 255), ("a.TIFF", 65535)])
def test_pictures_of_8_and_16_bits_with_a_geometry_in_words(tmp_path, name, top):
    (one,) = dr.read_radiographs(picture(tmp_path / name, top), camera=GEOMETRY)
    assert one.kind == "intensity"
    assert np.allclose(one.pixels[0], grey(top) / top, atol=1e-6)
    assert torch.allclose(one.camera.world_from_camera, CAMERA.world_from_camera)
    assert one.camera.pixel_size == (0.7, 1.1)
    assert sees_alike(one.camera, CAMERA)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.nii", "a.nii.gz"])
def test_what_our_writers_made_is_read_with_labels_and_camera(tmp_path, name):
    pixels = torch.from_numpy(grey(65535).astype(np.float32) / 8000)[None]
    masks = torch.stack([pixels[0] > 4, pixels[0] < 2])
    lengths = torch.stack([pixels[0] * 9, pixels[0] * 2])
    drawn = Radiograph(pixels, "log-attenuation", CAMERA, lengths, masks, (7, 3), {7: "hip", 3: "sacrum"})
    write_radiograph(drawn, tmp_path / name)
    (one,) = dr.read_radiographs(tmp_path / name, kind="log-attenuation" if ".nii" in name else None)
    assert (one.pixels - pixels).abs().max() < 8.2 / 65535
    assert sees_alike(one.camera, CAMERA)
    assert one.kind == "log-attenuation"
    assert one.ids == (7, 3)
    assert one.label_name(3) == "sacrum"
    assert one.masks is not None
    assert torch.equal(one.masks, masks)
    assert one.exposed is None


def test_a_camera_beside_the_picture_is_found(tmp_path):
    path = picture(tmp_path / "knee 1.png")
    with pytest.raises(GeometryError, match=r"knee 1.camera.json beside the picture.*source_to_detector"):
        dr.read_radiographs(path)
    written(tmp_path / "knee 1.camera.json", CAMERA.to_dict())
    with pytest.warns(Notice, match="whether bone is bright or dark"):
        (one,) = dr.read_radiographs(path)
    assert sees_alike(one.camera, CAMERA)
    assert one.kind == "log-attenuation"
    assert dr.read_radiographs(path, kind="intensity")[0].kind == "intensity"
    written(tmp_path / "knee 1.camera.json", GEOMETRY)
    assert dr.read_radiographs(path)[0].kind == "intensity"
    with pytest.raises(SettingError, match="kind is one of"):
        dr.read_radiographs(path, kind="bright")


def test_folders_and_lists_of_frames(tmp_path):
    other = {**GEOMETRY, "primary_angle": -20.0}
    for name in ("b.png", "a.png"):
        picture(tmp_path / name)
    turned = c_arm((0.0, 0.0, 0.0), -20.0, -12.0, 1100.0, 710.0, (0.7, 1.1), SIZE)
    two = dr.read_radiographs(tmp_path, camera=[CAMERA, turned], kind="intensity")
    assert [Path(str(one.source)).name for one in two] == ["a.png", "b.png"]
    assert sees_alike(two[0].camera, CAMERA)
    assert sees_alike(two[1].camera, turned)
    written(tmp_path / "cameras.json", [GEOMETRY, other])
    assert sees_alike(dr.read_radiographs(tmp_path)[1].camera, turned)
    listed = written(
        tmp_path / "frames.json",
        {"format": 1, "frames": [{**other, "image": "a.png"}, {**GEOMETRY, "image": "b.png"}]},
    )
    two = dr.read_radiographs(listed)
    assert sees_alike(two[0].camera, turned)
    assert Path(str(two[1].source)).name == "b.png"
    two = dr.read_radiographs([tmp_path / "b.png", tmp_path / "a.png"], camera=[GEOMETRY, other])
    assert sees_alike(two[1].camera, turned)
    assert Path(str(two[1].source)).name == "a.png"
    for wrong in ([CAMERA] * 3, [GEOMETRY, other, GEOMETRY]):
        with pytest.raises(GeometryError, match=r"2 f.*3 geometries were given"):
            dr.read_radiographs(tmp_path, camera=wrong)
        with pytest.raises(GeometryError, match=r"2 f.*3 geometries were given"):
            dr.read_radiographs([tmp_path / "b.png", tmp_path / "a.png"], camera=wrong)
    with pytest.raises(PathError, match="does not name their pictures"):
        dr.read_radiographs(tmp_path / "cameras.json")


def test_projection_matrices_as_people_have_them(tmp_path):
    path = picture(tmp_path / "a.png")
    P = CAMERA.projection()
    # RAS and half-integer centres; then LPS, centres at integers, and z to the source
    swapped = torch.tensor([[1.0, 0, -0.5], [0, 1, -0.5], [0, 0, 1]], dtype=torch.float64) @ P
    swapped = -swapped @ torch.diag(torch.tensor([-1.0, -1, 1, 1], dtype=torch.float64)) * 0.037
    words = {
        "format": 1,
        "geometry": "projection",
        "matrix": swapped.tolist(),
        "world": "LPS",
        "pixel_centres": "integer",
        "depth": "to-source",
        "source_to_detector": 1100,
        "kind": "intensity",
    }
    np.savetxt(tmp_path / "P.txt", P.numpy())
    np.save(tmp_path / "P.npy", P.numpy())
    for given in (P, P.tolist(), P.numpy() * 3, words, tmp_path / "P.txt", str(tmp_path / "P.npy")):
        (one,) = dr.read_radiographs(path, camera=given, kind="intensity")
        assert sees_alike(one.camera, CAMERA)
        assert one.camera.mirrored
    (one,) = dr.read_radiographs(path, camera=written(tmp_path / "g.json", words))
    assert one.camera.pixel_size == pytest.approx((0.7, 1.1))
    assert torch.allclose(one.camera.world_from_camera, CAMERA.world_from_camera)


def test_matrices_that_cannot_be(tmp_path):
    path = picture(tmp_path / "a.png")
    P = CAMERA.projection()
    skewed = torch.tensor([[1.0, 0.05, 0], [0, 1, 0], [0, 0, 1]], dtype=torch.float64) @ P
    with pytest.raises(GeometryError, match="skew"):
        dr.read_radiographs(path, camera=skewed, kind="intensity")
    stated = {"format": 1, "geometry": "projection", "matrix": P.tolist(), "source_to_detector": 1100}
    sides = c_arm((0.0, 0.0, 0.0), 31.0, -12.0).orientation()
    good = {**stated, "orientation": [sides["right"], sides["bottom"]], "kind": "intensity"}
    dr.read_radiographs(path, camera=good)
    mirrored = torch.tensor([[-1.0, 0, SIZE[1]], [0, 1, 0], [0, 0, 1]], dtype=torch.float64) @ P
    with pytest.raises(GeometryError, match=r"mirror image.*left and right.*handedness"):
        dr.read_radiographs(path, camera={**good, "matrix": mirrored.tolist()})
    with pytest.warns(Notice, match="180 degrees"):
        dr.read_radiographs(path, camera={**good, "orientation": [sides["left"], sides["top"]]})
    with pytest.raises(GeometryError, match=r"2 x 4 numbers; a projection matrix is 3 x 4"):
        dr.read_radiographs(path, camera=written(tmp_path / "P.txt", "1 2 3 4\n5 6 7 8\n"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"source_to_detector": 600.0}, "would lie before the isocentre.*exchanged"),
        ({"pixel_size": 0}, "pixel spacing of 0 x 0 mm.*above zero"),
        ({"pixel_size": [0.3, -1]}, "above zero"),
        ({"format": 2}, '"format" is 1, not 2'),
        ({"geometry": "parallel"}, "c-arm"),
        ({"primary": 3}, "unknown primary.*primary_angle"),
        ({"rotation": 45}, '"rotation" is 0, 90'),
        ({"source_to_isocenter": "700"}, '"source_to_isocenter" is a number'),
        ({"kind": "bright"}, "bone bright"),
        ({"image_size": [33, 60]}, "33 x 60 pixels.*33 x 47"),
        ({"orientation": "LF"}, "orientation"),
    ],
)
def test_geometry_in_words_that_cannot_be(tmp_path, change, words):
    path, sidecar = picture(tmp_path / "a.png"), written(tmp_path / "g.json", {**GEOMETRY, **change})
    with pytest.raises(GeometryError, match=words) as told:
        dr.read_radiographs(path, camera=sidecar)
    assert "g.json" in str(told.value)


def test_a_key_that_is_missing_is_named(tmp_path):
    less = {key: value for key, value in GEOMETRY.items() if key != "source_to_isocenter"}
    with pytest.raises(GeometryError, match="lacks source_to_isocenter"):
        dr.read_radiographs(picture(tmp_path / "a.png"), camera=less)


def test_a_camera_whose_axes_are_no_unit_vectors_or_reflected(tmp_path):
    path = picture(tmp_path / "a.png")
    data = CAMERA.to_dict()
    long = [[2 * n for n in row[:3]] + row[3:] for row in data["world_from_camera"][:3]] + [[0, 0, 0, 1]]
    with pytest.raises(GeometryError, match=r"g.json.*axes are scaled"):
        dr.read_radiographs(path, camera=written(tmp_path / "g.json", {**data, "world_from_camera": long}))
    reflected = [[-row[0], *row[1:]] for row in data["world_from_camera"][:3]] + [[0, 0, 0, 1]]
    sides = CAMERA.orientation()
    stated = {**data, "world_from_camera": reflected, "orientation": [sides["right"], sides["bottom"]]}
    with pytest.raises(GeometryError, match="mirror image"):
        dr.read_radiographs(path, camera=written(tmp_path / "g.json", stated))


def test_a_reduced_copy_keeps_its_place(tmp_path):
    (one,) = dr.read_radiographs(picture(tmp_path / "a.png"), camera=GEOMETRY)
    large = c_arm((0.0, 0.0, 0.0), 31.0, -12.0, 1100.0, 710.0, (0.35, 0.55), (66, 94))
    with pytest.warns(Notice, match="copy at another size"):
        (copy,) = dr.read_radiographs(tmp_path / "a.png", camera=large, kind="intensity")
    assert sees_alike(copy.camera, one.camera)


def test_turned_and_flipped_words(tmp_path):
    words = {**GEOMETRY, "pixel_size": [1.1, 0.7], "rotation": 90, "horizontal_flip": True, "image_size": [47, 33]}
    Image.fromarray(np.ascontiguousarray(np.rot90(grey(), -1)[:, ::-1])).save(tmp_path / "b.png")
    (one,) = dr.read_radiographs(tmp_path / "b.png", camera=words)
    row, column = CAMERA.project(POINTS).unbind(1)
    # a turn clockwise and a mirror: rows and columns exchanged
    assert torch.allclose(one.camera.project(POINTS), torch.stack([column, row], 1), atol=1e-6)
    assert np.allclose(one.pixels[0], grey().T / 255, atol=1e-6)


def test_a_border_without_beam_is_not_exposed(tmp_path):
    rows, columns = np.indices(SIZE)
    disc = np.hypot((rows - 14) * 1.2, columns - 25) < 17
    values = np.where(disc, grey() // 2 + 60, 0).astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "a.png")
    with pytest.warns(Notice, match="not exposed"):
        (one,) = dr.read_radiographs(tmp_path / "a.png", camera=GEOMETRY)
    assert one.exposed is not None
    assert np.array_equal(one.exposed.numpy(), disc)
    Image.fromarray(255 - values).save(tmp_path / "a.png")  # bare air at the edge is burnt out, and seen all the same
    assert dr.read_radiographs(tmp_path / "a.png", camera=GEOMETRY)[0].exposed is None


def test_pictures_that_cannot_be_frames(tmp_path):
    Image.fromarray(np.full(SIZE, 9, dtype=np.uint8)).save(tmp_path / "flat.png")
    with pytest.raises(ImageError, match=r"flat.png is constant"):
        dr.read_radiographs(tmp_path / "flat.png", camera=GEOMETRY)
    for name in ("cut.png", "cut.tif", "cut.nii", "cut.nii.gz"):
        if ".nii" in name:
            drawn = Radiograph(torch.from_numpy(grey().astype(np.float32))[None], "intensity", CAMERA)
            write_radiograph(drawn, tmp_path / name)
        else:
            picture(tmp_path / name)
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        with pytest.raises((ImageError, PathError), match="truncated"):
            dr.read_radiographs(tmp_path / name, camera=CAMERA)
    tifffile.imwrite(tmp_path / "nan.tif", np.where(grey() > 200, np.nan, 1.5).astype(np.float32))
    with pytest.raises(ImageError, match="NaN"):
        dr.read_radiographs(tmp_path / "nan.tif", camera=GEOMETRY)
    tifffile.imwrite(tmp_path / "many.tif", np.stack([grey()] * 3), photometric="minisblack")
    with pytest.raises(ImageError, match="3 pages"):
        dr.read_radiographs(tmp_path / "many.tif", camera=GEOMETRY)
    written(tmp_path / "notes.txt", "no frame")
    with pytest.raises(PathError, match="no frame of a kind"):
        dr.read_radiographs(tmp_path / "notes.txt", camera=GEOMETRY)
    with gzip.open(tmp_path / "notes.gz", "wb") as file:
        file.write(b"no frame either" * 40)
    with pytest.raises(PathError, match="no frame of a kind"):
        dr.read_radiographs(tmp_path / "notes.gz", camera=GEOMETRY)
    with pytest.raises(PathError, match="does not exist"):
        dr.read_radiographs(tmp_path / "none.png")


def calibration(turn: np.ndarray, shift, skew: float = 0.0) -> str:
    intrinsic = [[2400, skew, 20.25], [0, 2100, 15.5], [0, 0, 1]]
    rows = ["\n".join(",".join(f"{n:.12g}" for n in row) for row in matrix) for matrix in (intrinsic, turn)]
    shifts = "\n".join(f"{n:.12g}" for n in shift)
    return (
        f"image size\n{SIZE[1]},{SIZE[0]}\n\ncamera matrix\n{rows[0]}\n\nrotation\n{rows[1]}\n\ntranslation\n{shifts}\n"
    )


def turn() -> np.ndarray:
    c, s = math.cos(0.4), math.sin(0.4)
    a, b = math.cos(-0.9), math.sin(-0.9)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[a, 0, b], [0, 1, 0], [-b, 0, a]])


def test_a_calibration_sees_points_where_its_formula_says(tmp_path):
    shift = np.array([12.0, -31.0, 905.0])
    path = written(tmp_path / "cam.txt", calibration(turn(), shift))
    camera = read_calibration(path)
    seen = POINTS.numpy() @ turn().T + shift  # x_camera = R x_world + t, as OpenCV
    column, row = 2400 * seen[:, 0] / seen[:, 2] + 20.25, 2100 * seen[:, 1] / seen[:, 2] + 15.5
    expected = torch.from_numpy(np.stack([row + 0.5, column + 0.5], 1))  # its pixel centres are integers
    assert torch.allclose(camera.project(POINTS), expected, atol=1e-6)
    assert camera.image_size == SIZE  # the file has the width first
    assert not camera.mirrored
    assert camera.source_to_detector == pytest.approx(1.5 * np.linalg.norm(shift))
    (one,) = dr.read_radiographs(picture(tmp_path / "a.png"), camera=path, kind="intensity")
    assert sees_alike(one.camera, camera)


def test_calibrations_that_cannot_be(tmp_path):
    def refused(text: str, words: str) -> None:
        with pytest.raises((GeometryError, PathError), match=words):
            read_calibration(written(tmp_path / "cam.txt", text))

    shift = (1.0, 2.0, 900.0)
    refused(calibration(turn() * [[-1], [1], [1]], shift), "reflection.*left and right")
    refused(calibration(turn() * 1.2, shift), "rotation is none")
    refused(calibration(turn(), shift, skew=40.0), "skew")
    refused(calibration(turn(), shift)[:-30], "translation.*cut short")
    refused("hello", "image size, camera matrix, rotation, translation are missing")


def test_real_calibrated_cameras_look_at_one_place(real_data):
    folder = real_data("fluoro-autoscoper")
    a, b = (read_calibration(folder / "Calibration" / f"xr_calib_wrist_cam0{n}.txt") for n in (1, 2))
    normal = torch.linalg.cross(a.direction, b.direction)
    # the optical axes of a biplane system cross over the table; with R or t misread they miss by decimetres
    assert abs(float((b.source - a.source) @ normal / normal.norm())) < 10
    with pytest.warns(Notice, match="not exposed"):
        (frame,) = dr.read_radiographs(
            folder / "XMA_UND" / "xr_data_wrist_cam01" / "xr_rad_uln_cam01_UND.0002.tif",
            camera=folder / "Calibration" / "xr_calib_wrist_cam01.txt",
            kind="intensity",
        )
    assert frame.exposed is not None
    assert 0.7 < float(frame.exposed.float().mean()) < 0.85
