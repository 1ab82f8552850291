"""DeepFluoro's HDF5 files: small ones, written here as the format documents, of a phantom whose projection is known."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import diffrender as dr
from diffrender.errors import GeometryError, Notice, PathError, SettingError
from diffrender.io.deepfluoro import deepfluoro_landmarks, deepfluoro_volume
from diffrender.xray import Radiograph

HEIGHT, WIDTH = 48, 60
SPACING = (4.6, 5.2)  # row, column [mm]
DISTANCE = 1020.0
LPS_FROM_RAS = np.diag([-1.0, -1, 1, 1])
LABELS = {1: b"left-hemipelvis", 2: b"right-hemipelvis"}
# In LPS [mm]: off every axis, and no two alike.
ORIGIN = np.array([-61.0, 14.0, -930.0])
SHAPE, STEP = (40, 26, 44), np.array([3.0, 2.5, 2.0])  # (k, j, i) and (x, y, z) mm
LANDMARKS = {"FH-l": (31.0, 35.0, -902.0), "FH-r": (-37.0, 41.0, -899.0), "ASIS-l": (55.0, 22.0, -862.0)}


def rotation(*degrees: float) -> np.ndarray:
    from scipy.spatial.transform import Rotation

    return Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()


def rigid(turn: np.ndarray, shift) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turn, shift
    return matrix


# The camera's world to its frame (x along columns, y along rows, z to the source), and the pose of the CT.
EXTRINSIC = rigid(rotation(4.0, -7.0, 11.0), [-15.0, 22.0, -610.0])
# columns grow to the patient's left (x of LPS), rows to the feet (-z), so z to the source is y x ... = posterior
CAMERA_FROM_CT = rigid(np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]) @ rotation(6.0, -9.0, 5.0), [0.0, 0, 0])


def camera_from_lps() -> np.ndarray:
    middle = np.array([*(ORIGIN + STEP * (np.array(SHAPE[::-1]) - 1) / 2), 1.0])
    matrix = CAMERA_FROM_CT.copy()
    matrix[:3, 3] = np.array([8.0, -13.0, -690.0]) - (CAMERA_FROM_CT @ middle)[:3]
    return matrix


def intrinsic() -> np.ndarray:
    return np.array([[-DISTANCE / SPACING[1], 0, 31.0], [0, -DISTANCE / SPACING[0], 22.5], [0, 0, 1]])


def pixel_of(point) -> np.ndarray:
    """(column, row), pixel centres at integers, of a point in LPS [mm]; by the documented formula."""
    seen = intrinsic() @ (camera_from_lps() @ np.array([*point, 1.0]))[:3]
    return seen[:2] / seen[2]


def phantom() -> tuple[np.ndarray, np.ndarray]:
    """HU and labels (k, j, i): an oblong body, a rod on the left and a ball on the right."""
    k, j, i = np.indices(SHAPE)
    x, y, z = np.stack([i, j, k]) * STEP[:, None, None, None] + ORIGIN[:, None, None, None]
    values = np.full(SHAPE, -1000.0, dtype=np.float32)
    values[(np.abs(x - 3) < 52) & (np.abs(y - 46) < 26)] = 20.0
    rod = (np.abs(x - 33) < 6) & (np.abs(y - 38) < 7) & (z < -870)
    ball = (x + 31) ** 2 + (y - 52) ** 2 + (z + 905) ** 2 < 15**2
    values[rod], values[ball] = 900.0, 700.0
    return values, (rod + 2 * ball).astype(np.uint8)


def image_group(parent: h5py.Group, name: str, pixels: np.ndarray, spacing, origin) -> None:
    group = parent.create_group(name)
    n = pixels.ndim
    group["pixels"], group["dir-mat"] = pixels, np.eye(n)
    group["spacing"], group["origin"] = np.array(spacing).reshape(n, 1), np.array(origin).reshape(n, 1)


def radiograph_of_phantom() -> Radiograph:
    """Our own kernel's picture through a camera worked out here, by hand, from the documented geometry."""
    values, labels = phantom()
    lattice = np.eye(4)
    lattice[:3, :3], lattice[:3, 3] = np.diag(STEP), ORIGIN
    volume = dr.Volume(values, LPS_FROM_RAS @ lattice, labels=labels.astype(np.int16))
    ct_from_camera = np.linalg.inv(camera_from_lps())
    axes = LPS_FROM_RAS[:3, :3] @ ct_from_camera[:3, :3]
    world_from_camera = rigid(axes * np.array([1.0, 1, -1]), LPS_FROM_RAS[:3, :3] @ ct_from_camera[:3, 3])
    camera = dr.Camera(torch.from_numpy(world_from_camera), DISTANCE, SPACING, (HEIGHT, WIDTH), (23.0, 31.5))
    return dr.radiograph(volume, camera, dr.RadiographSettings(kind="intensity", threshold=0.5))


@pytest.fixture(scope="module")
def full(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("deepfluoro") / "full res.h5"
    values, labels = phantom()
    drawn = radiograph_of_phantom()
    pixels = drawn.pixels[0].numpy()
    segmentation = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    assert drawn.masks is not None
    for n, mask in enumerate(drawn.masks, 1):
        segmentation[mask.numpy()] = n
    with h5py.File(path, "w") as file:
        parameters = file.create_group("proj-params")
        parameters["extrinsic"], parameters["intrinsic"] = EXTRINSIC, intrinsic()
        parameters["num-rows"], parameters["num-cols"] = HEIGHT, WIDTH
        parameters["pixel-row-spacing"], parameters["pixel-col-spacing"] = SPACING
        specimen = file.create_group("17-1882")
        image_group(specimen, "vol", values, STEP, ORIGIN)
        image_group(specimen, "vol-seg/image", labels, STEP, ORIGIN)
        for number, name in LABELS.items():
            specimen[f"vol-seg/labels-def/{number}"] = name
        for name, place in LANDMARKS.items():
            specimen[f"vol-landmarks/{name}"] = np.array(place).reshape(3, 1)
        pose = np.linalg.inv(camera_from_lps()) @ EXTRINSIC  # P = K extrinsic pose^-1
        for n, turned in ((0, False), (1, True), (7, False)):
            frame = specimen.create_group(f"projections/{n:03d}")
            image_group(frame, "image", pixels * (1 + n), SPACING[::-1], (0, 0))
            image_group(frame, "gt-seg", segmentation, SPACING[::-1], (0, 0))
            if n < 7:
                frame["gt-poses/cam-to-pelvis-vol"] = pose
            frame["rot-180-for-up"] = int(turned)
            for name, place in LANDMARKS.items():
                frame[f"gt-landmarks/{name}"] = pixel_of(place).reshape(2, 1)
    return path


def projected(radiograph: Radiograph, name: str, path: Path) -> tuple[float, float]:
    row, column = radiograph.camera.project(deepfluoro_landmarks(path, "17-1882")[name][None])[0].tolist()
    return row, column


def test_the_frame_is_what_its_ct_shows_through_its_camera(full):
    (frame,) = dr.read_radiographs(f"{full}::17-1882/000")
    volume = deepfluoro_volume(full, "17-1882")
    ours = dr.radiograph(volume, frame.camera, dr.RadiographSettings(kind="intensity", threshold=0.5))
    assert frame.kind == "intensity"
    # the same kernel from the same numbers through two ways of working out the camera: single precision
    assert (ours.pixels - frame.pixels).abs().max() < 1e-4
    assert frame.masks is not None
    assert ours.masks is not None
    assert frame.ids == (1, 2)
    assert dict(frame.names or {}) == {1: "left-hemipelvis", 2: "right-hemipelvis"} == dict(volume.names or {})
    assert (ours.masks[1] == frame.masks[1]).float().mean() > 0.995
    # not by chance: half a pixel off, the picture is another
    row, column = frame.camera.principal_point
    off = dr.Camera(frame.camera.world_from_camera, DISTANCE, SPACING, (HEIGHT, WIDTH), (row + 0.5, column))
    away = dr.radiograph(volume, off, dr.RadiographSettings(kind="intensity", labels=False)).pixels - frame.pixels
    assert away.abs().max() > 0.02


def test_landmarks_lie_where_the_camera_sees_them(full):
    for frame in dr.read_radiographs(f"{full}::17-1882/0-1"):
        assert frame.landmarks is not None
        assert set(frame.landmarks) == set(LANDMARKS)
        for name, marked in frame.landmarks.items():
            assert projected(frame, name, full) == pytest.approx(marked, abs=1e-6)
    left, right = (dr.read_radiographs(f"{full}::17-1882/0")[0].landmarks[n] for n in ("FH-l", "FH-r"))
    assert left[1] > right[1] + 5  # the patient's left on the image's right
    places = deepfluoro_landmarks(full, "17-1882")
    assert places["FH-l"].tolist() == [-31.0, -35.0, -902.0]  # LPS to RAS


def test_a_frame_that_needs_it_is_turned_with_all_that_belongs_to_it(full):
    plain, turned = dr.read_radiographs(f"{full}::17-1882/000,001")
    assert torch.equal(turned.pixels, plain.pixels.flip((1, 2)) * 2)
    assert plain.masks is not None
    assert turned.masks is not None
    assert torch.equal(turned.masks, plain.masks.flip((1, 2)))
    volume = deepfluoro_volume(full, "17-1882")
    settings = dr.RadiographSettings(kind="intensity", labels=False)
    ours = dr.radiograph(volume, turned.camera, settings).pixels * 2
    assert (ours - turned.pixels).abs().max() < 2e-4
    assert plain.landmarks is not None
    assert turned.landmarks is not None
    row, column = plain.landmarks["FH-l"]
    assert turned.landmarks["FH-l"] == pytest.approx((HEIGHT - row, WIDTH - column))


def test_its_volume_is_the_ct_in_ras(full):
    volume = deepfluoro_volume(f"{full}::17-1882", "01")  # the paper's number of the same specimen
    values, labels = phantom()
    assert np.array_equal(volume.values.numpy(), values)
    assert volume.labels is not None
    assert np.array_equal(volume.labels.numpy(), labels)
    corner = volume.world_from_voxel @ torch.tensor([2.0, 3, 5, 1], dtype=torch.float64)
    assert corner[:3].tolist() == pytest.approx([-(ORIGIN[0] + 6), -(ORIGIN[1] + 7.5), ORIGIN[2] + 10])


def test_which_frames(full):
    assert len(dr.read_radiographs(f"{full}::17-1882/0-1")) == 2
    with pytest.warns(Notice, match="no ground-truth pose"):
        everything = dr.read_radiographs(full)  # one specimen: no need to name it
    assert [one.source[-3:] for one in everything] == ["000", "001", "007"]
    with pytest.raises(SettingError, match=r"no specimen '18-1109'; it has 17-1882"):
        dr.read_radiographs(f"{full}::18-1109")
    with pytest.raises(SettingError, match=r"3 frames .000 to 007., none 3"):
        dr.read_radiographs(f"{full}::17-1882/3")
    with pytest.raises(SettingError, match="is no frame"):
        dr.read_radiographs(f"{full}::17-1882/x")
    given = dr.c_arm((1.0, 2.0, 3.0), image_size=(HEIGHT, WIDTH))
    assert dr.read_radiographs(f"{full}::17-1882/0", camera=given)[0].camera is given


def broken(full: Path, tmp_path: Path, change) -> Path:
    path = tmp_path / "broken.h5"
    path.write_bytes(full.read_bytes())
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def test_matrices_that_are_no_motion_and_files_cut_short(full, tmp_path):
    def mirror(file):
        pose = file["17-1882/projections/000/gt-poses/cam-to-pelvis-vol"]
        pose[:3, 0] = -pose[:3, 0]

    def stretch(file):
        file["proj-params/extrinsic"][:3, :3] *= 1.1

    def flat(file):
        file["proj-params/pixel-row-spacing"][()] = 0.0

    def skew(file):
        file["proj-params/intrinsic"][0, 1] = 20.0

    for change, words in ((mirror, "reflected"), (stretch, "scaled"), (flat, "spacing of 0"), (skew, "skewed")):
        with pytest.raises(GeometryError, match=words):
            dr.read_radiographs(f"{broken(full, tmp_path, change)}::17-1882/000")

    def emptied(file):
        del file["17-1882/projections/000/image"]

    with pytest.raises(PathError, match="not laid out"):
        dr.read_radiographs(f"{broken(full, tmp_path, emptied)}::17-1882/000")
    cut = tmp_path / "cut.h5"
    cut.write_bytes(full.read_bytes()[:3000])
    with pytest.raises(PathError, match="truncated"):
        dr.read_radiographs(f"{cut}::17-1882")


def preprocessed(path: Path, size: int) -> Path:
    generator = np.random.default_rng(5)
    with h5py.File(path, "w") as file:
        names = file.create_group("land-names")
        names["num-lands"] = 2
        names["land-00"], names["land-01"] = b"FH-l", b"FH-r"
        specimen = file.create_group("03")
        specimen["projs"] = generator.random((3, size, size)).astype(np.float32)
        specimen["segs"] = generator.integers(0, 7, (3, size, size)).astype(np.uint8)
        lands = np.zeros((3, 2, 2))
        lands[:, 0], lands[:, 1] = (60.0, -4.0), (33.0, 20.0)  # columns and rows of both
        specimen["lands"] = lands
    return path


@pytest.mark.parametrize(("factor", "size"), [(8, 180), (16, 90)])
def test_the_reduced_files_have_the_c_arms_own_geometry(tmp_path, factor, size):
    path = preprocessed(tmp_path / "reduced.h5", size)
    with pytest.warns(Notice, match="no poses"):
        frames = dr.read_radiographs(f"{path}::18-0725/1-2")
    camera = frames[0].camera
    assert camera.pixel_size == pytest.approx((0.194 * factor, 0.194 * factor))
    # 718 full pixels from the cropped corner to the middle of 1536
    assert camera.principal_point == pytest.approx((718 / factor, 718 / factor))
    assert camera.source_to_detector == 1020
    assert frames[0].kind == "log-attenuation"
    assert frames[0].landmarks == {"FH-l": (33.5, 60.5)}  # the other lies outside
    assert frames[0].label_name(5) == "left-femur"
    with pytest.raises(GeometryError, match="geometry is not known"):
        dr.read_radiographs(f"{preprocessed(tmp_path / 'odd.h5', 100)}::03")
