"""Labels from every kind of file, against the formula that filled them, evaluated at world points."""

import csv
import zipfile

import numpy as np
import pytest
import torch
from label_files import (
    NAMES,
    centres,
    itk_image,
    label_at,
    lattice,
    write_image,
    write_rtstruct,
    write_seg,
    write_seg_nrrd,
)
from scipy.spatial import cKDTree

from diffrender.errors import GeometryError, LabelError, Notice, PathError
from diffrender.io.label_tables import read_label_table
from diffrender.io.labels import read_labels
from diffrender.io.segmentations import read_segment_colours
from diffrender.volume import Volume

SHAPE = (12, 14, 17)  # (k, j, i)
OBLIQUE = lattice((-24.0, -16.0, -19.0), (0.11, -0.2, 0.33), (2.7, 2.3, 3.1))
ELSEWHERE = {
    "oblique to it, finer": ((15, 23, 19), lattice((-20.0, -21.0, -14.0), (-0.3, 0.15, 0.05), (1.9, 2.1, 2.2))),
    "left-handed, coarser": ((9, 8, 10), lattice((19.0, -16.0, -21.0), (0.05, 0.1, -0.2), (4.1, 3.7, 5.2), (-1, 1, 1))),
    "parallel, other steps": (
        (10, 15, 20),
        OBLIQUE @ np.diag([0.77, 1.31, 1.13, 1.0]) @ lattice((1.3, -2.2, 0.4), (0, 0, 0), (1, 1, 1)),
    ),
    "within the volume": ((4, 5, 6), lattice((-9.0, -8.0, -6.0), (0.4, 0.1, 0), (2.4, 3.3, 2.9))),
}


def volume_on(world_from_voxel=OBLIQUE, shape=SHAPE, **more):
    return Volume(torch.zeros(shape, dtype=torch.int16), torch.from_numpy(world_from_voxel.copy()), **more)


def expected_on(volume, shape, world_from_label):
    """Nearest label voxel centre in mm, searched among all of them; 0 outside the box of the label voxels."""
    points = centres(volume.shape, volume.world_from_voxel.numpy()).reshape(-1, 3)
    own = centres(shape, world_from_label).reshape(-1, 3)
    _, nearest = cKDTree(own).query(points)
    index = np.linalg.inv(world_from_label) @ np.column_stack([points, np.ones(len(points))]).T
    inside = ((index[:3] > -0.5) & (index[:3] < np.array(shape[::-1])[:, None] - 0.5)).all(0)
    return np.where(inside, label_at(own)[nearest], 0).reshape(volume.shape)


def refused(kind, words, path, volume=None, names=None):
    with pytest.raises(kind, match=words) as caught:
        read_labels(path, volume or volume_on(), names)
    assert "\n" not in str(caught.value)
    return str(caught.value)


FIELD = label_at(centres(SHAPE, OBLIQUE))


def test_the_formula_has_all_labels_and_no_symmetry():
    assert {int(n) for n in np.unique(FIELD)} == {0, *NAMES}
    for turned in (FIELD[::-1], FIELD[:, ::-1], FIELD[:, :, ::-1]):
        assert (turned != FIELD).mean() > 0.1


@pytest.mark.parametrize("ending", ["nii", "nii.gz", "nrrd", "mha", "mhd"])
@pytest.mark.parametrize(
    ("stored", "kept"), [(np.uint8, torch.uint8), (np.float64, torch.uint8), (np.int32, torch.uint8)]
)
def test_a_label_map_on_the_volumes_lattice_comes_as_it_is(tmp_path, ending, stored, kept, recwarn):
    path = write_image(tmp_path / f"Ünder score.{ending}", FIELD.astype(stored), OBLIQUE)
    labels, names = read_labels(path, volume_on())
    assert labels.dtype == kept
    assert np.array_equal(labels.numpy(), FIELD)
    assert names == {}
    assert not [w for w in recwarn if issubclass(w.category, Notice)]


@pytest.mark.parametrize(("top", "kept"), [(255, torch.uint8), (256, torch.int16), (32768, torch.int32)])
def test_ids_come_in_the_smallest_type_that_holds_them(tmp_path, top, kept):
    field = np.where(FIELD == 7, top, FIELD).astype(np.int32)
    labels, _ = read_labels(write_image(tmp_path / "l.nrrd", field, OBLIQUE), volume_on())
    assert labels.dtype == kept
    assert np.array_equal(labels.numpy(), field)


@pytest.mark.parametrize("case", ELSEWHERE)
def test_labels_on_another_lattice_take_the_nearest_voxel_and_that_is_said(tmp_path, case):
    shape, own = ELSEWHERE[case]
    path = write_image(tmp_path / "l.nrrd", label_at(centres(shape, own)).astype(np.uint8), own)
    with pytest.warns(
        Notice, match=r"another lattice.*nearest voxel: the labels are .* voxels of .* mm.*the volume is"
    ) as said:
        labels, _ = read_labels(path, volume_on())
    assert len(said) == 1
    want = expected_on(volume_on(), shape, own)
    assert want.any()
    assert np.array_equal(labels.numpy(), want)


def test_a_flipped_and_turned_lattice_of_the_same_voxels_loses_nothing(tmp_path):
    own = OBLIQUE @ np.array([[0, 0, -1, 16], [-1, 0, 0, 13], [0, 1, 0, 0], [0, 0, 0, 1.0]])
    shape = (17, 12, 14)  # own i runs along -j of the volume, own j along k, own k along -i
    path = write_image(tmp_path / "l.nrrd", label_at(centres(shape, own)).astype(np.uint8), own)
    with pytest.warns(Notice, match="voxel centres coincide, so nothing within the volume changed"):
        labels, _ = read_labels(path, volume_on())
    assert np.array_equal(labels.numpy(), FIELD)


def test_a_lattice_rounded_by_its_header_counts_as_the_same(tmp_path, recwarn):
    near = OBLIQUE.copy()
    near[:3, 3] += 5e-4  # a fifth of a thousandth of a voxel
    labels, _ = read_labels(write_image(tmp_path / "l.nrrd", FIELD.astype(np.uint8), near), volume_on())
    assert np.array_equal(labels.numpy(), FIELD)
    assert not recwarn


def test_labels_of_another_place_are_refused(tmp_path):
    far = lattice((500.0, 0.0, 0.0), (0.1, 0.2, 0), (1, 2, 3))
    path = write_image(tmp_path / "l.nii.gz", FIELD.astype(np.uint8), far)
    words = refused(LabelError, "does not overlap the volume", path)
    assert str(path) in words
    assert "17 x 14 x 12 voxels of 2.7 x 2.3 x 3.1 mm" in words


def test_labels_that_are_all_background_are_said(tmp_path):
    path = write_image(tmp_path / "l.nrrd", np.zeros(SHAPE, np.uint8), OBLIQUE)
    with pytest.warns(Notice, match="no labelled voxel"):
        labels, _ = read_labels(path, volume_on())
    assert not labels.any()


# Slicer's .seg.nrrd


def test_a_cropped_seg_nrrd_has_its_own_origin_names_and_colours(tmp_path):
    crop = (slice(2, 11), slice(3, 13), slice(1, 15))
    own = OBLIQUE @ lattice((1, 3, 2), (0, 0, 0), (1, 1, 1))
    segments = [
        {"Name": "Hüfte links", "LabelValue": 1, "Layer": 0, "Color": "0.5 0.25 1"},
        {"Name": "sacrum", "LabelValue": 7, "Layer": 0, "Color": "1 0 0"},
        {"Name": "hip_right", "LabelValue": 2, "Layer": 0},
    ]
    path = write_seg_nrrd(tmp_path / "a b.seg.nrrd", FIELD[crop][None].astype(np.uint8), own, segments)
    labels, names = read_labels(path, volume_on())
    want = np.zeros_like(FIELD)
    want[crop] = FIELD[crop]
    assert np.array_equal(labels.numpy(), want)
    assert names == {1: "Hüfte links", 7: "sacrum", 2: "hip_right"}
    assert read_segment_colours(path) == {1: (0.5, 0.25, 1.0), 7: (1.0, 0.0, 0.0)}


@pytest.mark.parametrize("list_last", [False, True])
def test_overlapping_segments_of_a_seg_nrrd_come_as_layers(tmp_path, list_last):
    wide = np.isin(FIELD, [2, 7])
    layers = np.stack([FIELD, wide * 1]).astype(np.uint8)
    segments = [
        {"Name": "sacrum", "LabelValue": 7, "Layer": 0},
        {"Name": "wide", "LabelValue": 1, "Layer": 1},
        {"Name": "hip_left", "LabelValue": 1, "Layer": 0},
        {"Name": "hip_right", "LabelValue": 2, "Layer": 0},
        {"Name": "nothing", "LabelValue": 9, "Layer": 1},
    ]
    path = write_seg_nrrd(tmp_path / "l.seg.nrrd", layers, OBLIQUE, segments, list_last)
    labels, names = read_labels(path, volume_on())
    volume = volume_on(labels=labels, names=names)  # what `read_volume` does with them
    found = {volume.label_name(n): volume.mask(n).numpy() for n in volume.label_ids}
    want = {"sacrum": FIELD == 7, "wide": wide, "hip_left": FIELD == 1, "hip_right": FIELD == 2}
    assert found.keys() == want.keys()
    assert all(np.array_equal(found[name], want[name]) for name in want)


def test_layers_that_do_not_overlap_become_one_map(tmp_path):
    layers = np.stack([FIELD == 1, FIELD == 7]).astype(np.uint8)
    path = write_seg_nrrd(tmp_path / "l.seg.nrrd", layers, OBLIQUE, [{"Name": "a"}, {"Name": "b"}])  # before 4.11
    labels, names = read_labels(path, volume_on())
    assert np.array_equal(labels.numpy(), np.select([FIELD == 1, FIELD == 7], [1, 2], 0))
    assert names == {1: "a", 2: "b"}


def test_an_empty_seg_nrrd_is_one_voxel_and_says_so(tmp_path):
    path = write_seg_nrrd(
        tmp_path / "l.seg.nrrd",
        np.ones((1, 1, 1, 1), np.uint8),
        lattice((900, 0, 0), (0, 0, 0), (1, 1, 1)),
        [{"Name": "a"}],
    )
    with pytest.warns(Notice, match="no labelled voxel"):
        labels, _ = read_labels(path, volume_on())
    assert not labels.any()


def _segmentation(tmp_path, *segments, layers=None):
    layers = FIELD[None].astype(np.uint8) if layers is None else layers
    return write_seg_nrrd(tmp_path / "l.seg.nrrd", layers, OBLIQUE, segments)


@pytest.mark.parametrize("layer", ["3", "-1"])
def test_a_segment_in_a_layer_that_is_not_there(tmp_path, layer):
    path = _segmentation(tmp_path, {"Name": "hip", "LabelValue": 1, "Layer": layer})
    words = refused(LabelError, rf"segment 'hip' lies in layer {layer} \(Segment0_Layer\), and the file holds 1", path)
    assert str(path) in words
    refused(LabelError, "Layer of a segment is 'x', no whole number", _segmentation(tmp_path, {"Layer": "x"}))


def test_segments_that_contradict_their_voxels(tmp_path):
    named = [{"Name": name, "LabelValue": value, "Layer": 0} for value, name in {1: "a", 2: "b", 9: "c"}.items()]
    words = refused(LabelError, "holds the values 7, which its header does not name", _segmentation(tmp_path, *named))
    assert "while no voxel holds those of c" in words
    assert "contradict each other" in words


def test_specks_and_empty_segments_of_a_seg_nrrd_are_said(tmp_path):
    field = np.ones((1, *SHAPE), np.uint8)
    field[0, :5] = 2
    field[0, 0, 0, 0] = 7  # 1 of 2856 labelled voxels
    named = [{"Name": name, "LabelValue": value, "Layer": 0} for value, name in {1: "a", 2: "b", 9: "c"}.items()]
    with pytest.warns(Notice) as said:
        labels, _ = read_labels(_segmentation(tmp_path, *named, layers=field), volume_on())
    words = " ".join(str(one.message) for one in said)
    assert "They are specks (1 of " in words
    assert "no voxel of c lies within the volume" in words
    assert np.array_equal(labels.numpy(), field[0])


@pytest.mark.parametrize("ending", ["seg.nrrd", "nrrd", "mha", "mhd"])
def test_what_itk_says_of_damaged_labels_stays_off_the_console(tmp_path, ending, capfd):
    path = tmp_path / f"l.{ending}"
    if ending == "seg.nrrd":
        write_seg_nrrd(path, FIELD[None].astype(np.uint8), OBLIQUE, [])
    else:
        write_image(path, FIELD.astype(np.uint8), OBLIQUE)
    numbers = max(tmp_path.iterdir(), key=lambda file: file.stat().st_size)
    numbers.write_bytes(numbers.read_bytes()[:-100])
    words = refused(LabelError, "it is truncated or damaged", path)
    assert not any(chatter in words for chatter in ("0x", "ITK", ".cxx", "MetaImage:"))
    assert capfd.readouterr().err == ""


def test_labels_with_a_wrong_ending(tmp_path):
    for ending, name in (("nrrd", "a.nii.gz"), ("nii.gz", "a.nrrd"), ("mha", "a.nii")):
        path = write_image(tmp_path / f"l.{ending}", FIELD.astype(np.uint8), OBLIQUE).rename(tmp_path / name)
        assert np.array_equal(read_labels(path, volume_on())[0].numpy(), FIELD)


def test_a_fractional_seg_nrrd_is_refused(tmp_path):
    fields = {"Segmentation_SourceRepresentation": "Fractional labelmap"}
    path = write_seg_nrrd(tmp_path / "l.seg.nrrd", FIELD[None].astype(np.uint8), OBLIQUE, [{"Name": "a"}], **fields)
    refused(LabelError, "fractional label map.*Binary labelmap", path)


# DICOM

SEPARATE = np.stack([n == FIELD for n in NAMES], -1).astype(np.uint8)


@pytest.mark.parametrize("shuffle", [None, 3])
def test_a_dicom_seg_with_frames_in_any_order(tmp_path, shuffle):
    path = write_seg(tmp_path / "seg", SEPARATE, OBLIQUE, ["links", "rechts", "Kreuzbein"], shuffle=shuffle)
    labels, names = read_labels(path, volume_on())
    assert np.array_equal(labels.numpy(), np.select([n == FIELD for n in NAMES], [1, 2, 3], 0))
    assert names == {1: "links", 2: "rechts", 3: "Kreuzbein"}


def test_overlapping_segments_of_a_dicom_seg(tmp_path):
    masks = np.stack([FIELD == 1, np.isin(FIELD, [1, 7])], -1).astype(np.uint8)
    labels, names = read_labels(write_seg(tmp_path / "seg.dcm", masks, OBLIQUE, ["in", "out"]), volume_on())
    assert labels.dtype == torch.bool
    assert np.array_equal(labels.numpy(), np.moveaxis(masks, -1, 0).astype(bool))
    assert names == {1: "in", 2: "out"}


def test_a_fractional_dicom_seg_is_cut_at_a_half_and_that_is_said(tmp_path):
    shares = np.where(FIELD == 7, 0.51, np.where(FIELD == 1, 0.49, 0.0))[..., None]
    path = write_seg(tmp_path / "seg.dcm", shares, OBLIQUE, ["part"], kind="FRACTIONAL")
    with pytest.warns(Notice, match="fractional segmentation.*at least 0.5"):
        labels, _ = read_labels(path, volume_on())
    assert np.array_equal(labels.numpy(), FIELD == 7)


def test_a_label_map_dicom_seg(tmp_path):
    field = np.select([n == FIELD for n in NAMES], [1, 2, 3], 0).astype(np.uint8)
    path = write_seg(tmp_path / "seg.dcm", field, OBLIQUE, ["a", "b", "c"], kind="LABELMAP")
    labels, names = read_labels(path, volume_on())
    assert np.array_equal(labels.numpy(), field)
    assert names == {1: "a", 2: "b", 3: "c"}


@pytest.mark.parametrize("kind", ["seg", "rtstruct"])
def test_another_frame_of_reference_is_said(tmp_path, kind):
    path = tmp_path / "x.dcm"
    if kind == "seg":
        write_seg(path, SEPARATE, OBLIQUE, ["a", "b", "c"], frame_uid="1.2.3.4")
    else:
        write_rtstruct(path, {"a": _rings(range(3, 9))}, frame_uid="1.2.3.4")
    with pytest.warns(Notice, match=r"another frame of reference \(1.2.3.4\)"):
        read_labels(path, volume_on(header={"FrameOfReferenceUID": "1.2.3.99"}))


def _rings(slices, radius=9.3, centre=(7.4, 6.3), corners=57, affine=OBLIQUE, squeeze=0.7):
    """Elliptic contours in planes of the lattice: voxel units (i, j), at slices k; RAS [mm]."""
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    outline = np.stack([centre[0] + radius * squeeze * np.cos(angle), centre[1] + 0.6 * radius * np.sin(angle)], 1)
    rings = [np.column_stack([outline, np.full(corners, float(k)), np.ones(corners)]) for k in slices]
    return [(ring @ affine.T)[:, :3] for ring in rings]


def _in_polygon(points, polygon):
    """Winding number by summed angles: another way than counting crossings."""
    a = polygon[None] - points[:, None]
    b = np.roll(polygon, -1, axis=0)[None] - points[:, None]
    turn = np.arctan2(a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0], (a * b).sum(-1)).sum(1)
    return np.abs(turn) > np.pi


def test_contours_fill_the_voxels_whose_centres_they_hold(tmp_path):
    outer, hole = _rings(range(2, 9)), _rings(range(4, 7), radius=3.2, centre=(6.8, 7.1), squeeze=1.1)
    path = write_rtstruct(tmp_path / "rt.dcm", {"Becken (rechts)": [*outer, *hole], "empty": []})
    labels, names = read_labels(path, volume_on())
    j, i = np.meshgrid(np.arange(SHAPE[1]), np.arange(SHAPE[2]), indexing="ij")
    pixels = np.stack([i.ravel(), j.ravel()], 1).astype(float)
    want = np.zeros(SHAPE, bool)
    for n, k in enumerate(range(2, 9)):
        for ring in [outer[n], *([hole[k - 4]] if 4 <= k < 7 else [])]:
            inside = np.column_stack([ring, np.ones(len(ring))]) @ np.linalg.inv(OBLIQUE).T
            want[k] ^= _in_polygon(pixels, inside[:, :2]).reshape(SHAPE[1:])
    assert want[5].sum() < want[3].sum()  # the hole is there
    assert np.array_equal(labels.numpy(), want)
    assert names == {1: "Becken (rechts)"}


def test_slices_between_contour_planes_take_the_nearest_within_half_their_distance(tmp_path):
    path = write_rtstruct(tmp_path / "rt.dcm", {"a": _rings([1.6, 3.6, 5.6, 9.6])})  # one plane skipped
    labels, _ = read_labels(path, volume_on())
    filled = labels.numpy().any((1, 2))
    assert np.flatnonzero(filled).tolist() == [1, 2, 3, 4, 5, 6, 9, 10]


def test_contours_along_another_axis_of_the_volume(tmp_path):
    turn = np.array(
        [[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]]
    )  # contour (a, b, slice) -> i=slice, j=a, k=b
    path = write_rtstruct(
        tmp_path / "rt.dcm", {"a": _rings(range(3, 8), affine=OBLIQUE @ turn, radius=8, centre=(6.2, 5.3))}
    )
    labels, _ = read_labels(path, volume_on())
    values = labels.numpy()
    assert np.flatnonzero(values.any((0, 1))).tolist() == [3, 4, 5, 6, 7]
    area = np.pi * 8 * 0.7 * 8 * 0.6  # voxels; 57 corners lose 0.2 %, voxels at the rim some percent
    assert values[:, :, 5].sum() == pytest.approx(area, rel=0.05)
    ks, js = np.nonzero(values[:, :, 5])
    assert (js.mean(), ks.mean()) == pytest.approx((6.2, 5.3), abs=0.1)


def test_contours_oblique_to_the_volume(tmp_path):
    other = lattice((-18.0, -14.0, -16.0), (0.5, 0.1, -0.3), (2.2, 2.4, 2.0))
    path = write_rtstruct(tmp_path / "rt.dcm", {"a": _rings(range(2, 14), affine=other)})
    with pytest.warns(Notice, match="oblique to the volume's voxel planes"):
        labels, _ = read_labels(path, volume_on())
    points = centres(SHAPE, OBLIQUE).reshape(-1, 3)
    u, v, w = ((points - other[:3, 3]) @ np.linalg.inv(other[:3, :3]).T).T
    ring = np.hypot((u - 7.4) / (9.3 * 0.7), (v - 6.3) / (9.3 * 0.6))
    inside = (ring < 1) & (w > 1.5) & (w < 13.5)
    # Voxels whose centre is within a quarter of the finest voxel (0.6 mm, 0.26 of a step) of the rim may go either way.
    sure = (np.abs(ring - 1) > 0.09) & (np.abs(w - 1.5) > 0.05) & (np.abs(w - 13.5) > 0.05)
    assert sure.mean() > 0.8
    assert inside[sure].any()
    assert np.array_equal(labels.numpy().ravel()[sure] > 0, inside[sure])


def test_structure_sets_that_cannot_be_used(tmp_path):
    far = [np.add(ring, [400, 0, 0]) for ring in _rings([3, 4])]
    refused(
        LabelError, "does not overlap the volume: its contours lie from", write_rtstruct(tmp_path / "a.dcm", {"a": far})
    )
    refused(LabelError, "no closed contours", write_rtstruct(tmp_path / "b.dcm", {"a": []}))
    bent = _rings([3, 4])
    bent[1][:20] += [0, 0, 9]
    refused(LabelError, "rises .* mm out of the plane", write_rtstruct(tmp_path / "c.dcm", {"a": bent}))
    some = write_rtstruct(tmp_path / "e.dcm", {"a": _rings([3, 4]), "b": []})
    with pytest.warns(Notice, match="e.dcm: b without any contour left out"):
        read_labels(some, volume_on())
    mixed = {"a": _rings([3, 4]), "seed": [np.zeros((1, 3))]}
    path = write_rtstruct(tmp_path / "d.dcm", mixed, kinds={"seed": "POINT"})
    with pytest.warns(Notice, match="1 contours of 'seed' are points or open lines"):
        read_labels(path, volume_on())


def test_dicom_that_holds_no_labels_or_broke_off(tmp_path):
    from label_files import ct_slices

    ct_slices(SHAPE, OBLIQUE, "1.2")[0].save_as(tmp_path / "ct.dcm", enforce_file_format=True)
    words = refused(LabelError, r"DICOM file \(CT Image Storage\), not a segmentation", tmp_path / "ct.dcm")
    assert "Secret" not in words
    whole = write_seg(tmp_path / "seg.dcm", SEPARATE, OBLIQUE, ["a", "b", "c"]).read_bytes()
    (tmp_path / "cut.dcm").write_bytes(whole[: len(whole) // 2])
    refused(LabelError, "cannot be read as DICOM labels", tmp_path / "cut.dcm")


# Folders of masks


def _masks(folder, ids=NAMES, overlap=False):
    for label, name in ids.items():
        mask = label == FIELD
        if overlap and label == 2:
            mask = np.isin(FIELD, [2, 7])
        write_image(folder / f"{name}.nii.gz", mask.astype(np.float64), OBLIQUE)
    return folder


@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_or_zip_of_masks_numbers_them_by_sorted_name(tmp_path, packed):
    path = _masks(tmp_path / "Masken für Ä")
    if packed:
        with zipfile.ZipFile(tmp_path / "Masken für Ä.zip", "w") as archive:
            for file in path.iterdir():
                archive.write(file, f"Ordner/{file.name}")
        path = tmp_path / "Masken für Ä.zip"
    labels, names = read_labels(path, volume_on())
    assert names == {1: "hip_left", 2: "hip_right", 3: "sacrum"}
    assert np.array_equal(labels.numpy(), np.select([n == FIELD for n in NAMES], [1, 2, 3], 0))
    labels, names = read_labels(path, volume_on(), NAMES)
    assert np.array_equal(labels.numpy(), FIELD)
    assert names == NAMES


def test_masks_that_overlap_come_as_layers(tmp_path):
    labels, names = read_labels(_masks(tmp_path / "m", overlap=True), volume_on(), NAMES | {9: "not there"})
    volume = volume_on(labels=labels, names=names)
    assert list(volume.label_ids) == [1, 2, 7]
    assert np.array_equal(volume.mask(2).numpy(), np.isin(FIELD, [2, 7]))
    assert np.array_equal(volume.mask(7).numpy(), FIELD == 7)
    assert np.array_equal(volume.mask(1).numpy(), FIELD == 1)


def test_an_empty_mask_is_said(tmp_path):
    folder = _masks(tmp_path / "m")
    write_image(folder / "spleen.nii.gz", np.zeros(SHAPE, np.uint8), OBLIQUE)
    with pytest.warns(Notice, match=r"m: no voxel of spleen lies within the volume"):
        labels, _ = read_labels(folder, volume_on(), NAMES | {9: "spleen"})
    assert np.array_equal(labels.numpy(), FIELD)


def test_two_lattices_that_hardly_differ_are_told_apart(tmp_path):
    turned = lattice((-24.0, -16.0, -19.0), (0.11, -0.2, 0.331), (2.7, 2.3, 3.1))
    for own in (OBLIQUE @ lattice((0.01, 0, 0), (0, 0, 0), (1, 1, 1)), turned):
        path = write_image(tmp_path / "l.nrrd", label_at(centres(SHAPE, own)).astype(np.uint8), own)
        with pytest.warns(Notice, match="another lattice") as said:
            read_labels(path, volume_on())
        there, here = str(said[0].message).split("the labels are ")[1].split("; the volume is ")
        assert there != here.rstrip(".")
        assert here.count("(") == 4  # where the first voxel lies, and the ways of i, j and k


def test_masks_on_another_lattice_are_said_once(tmp_path):
    shape, own = ELSEWHERE["oblique to it, finer"]
    field = label_at(centres(shape, own))
    for label, name in NAMES.items():
        write_image(tmp_path / "m" / f"{name}.nii.gz", (field == label).astype(np.uint8), own)
    with pytest.warns(Notice, match="another lattice") as said:
        labels, _ = read_labels(tmp_path / "m", volume_on(), NAMES)
    assert len(said) == 1
    assert np.array_equal(labels.numpy(), expected_on(volume_on(), shape, own))


def test_one_mask_elsewhere_does_not_refuse_the_others(tmp_path):
    folder = _masks(tmp_path / "m")
    write_image(folder / "wrist.nrrd", np.ones((4, 5, 6), np.uint8), lattice((700, 0, 0), (0, 0, 0), (1, 1, 1)))
    with pytest.warns(Notice, match="another lattice"):
        labels, names = read_labels(folder, volume_on(), NAMES | {9: "wrist"})
    assert np.array_equal(labels.numpy(), FIELD)
    assert names[9] == "wrist"


def test_folders_that_are_no_masks(tmp_path):
    folder = _masks(tmp_path / "m")
    refused(LabelError, "masks that .* does not name: sacrum", folder, names={1: "hip_left", 2: "hip_right"})
    write_image(folder / "all.nii.gz", FIELD.astype(np.uint8), OBLIQUE)
    refused(LabelError, r"/m/all.nii.gz holds the values 1, 2, 7: in a folder of masks", folder)
    (folder / "all.nii.gz").unlink()
    write_image(folder / "hip_left.nrrd", (FIELD == 1).astype(np.uint8), OBLIQUE)
    refused(LabelError, "two masks called 'hip_left'", folder)
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "notes.txt").write_text("nothing")
    refused(PathError, "holds no labels", tmp_path / "none")
    (tmp_path / "broken.zip").write_bytes(b"PK\3\4 and then nothing")
    refused(PathError, "no whole zip file", tmp_path / "broken.zip")


def test_a_zip_with_one_label_map(tmp_path):
    write_image(tmp_path / "labels.nii.gz", FIELD.astype(np.uint8), OBLIQUE)
    with zipfile.ZipFile(tmp_path / "l.zip", "w") as archive:
        archive.write(tmp_path / "labels.nii.gz", "labels.nii.gz")
    labels, names = read_labels(tmp_path / "l.zip", volume_on(), NAMES)
    assert np.array_equal(labels.numpy(), FIELD)
    assert names == NAMES


# Values and files that are no labels


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.where(FIELD == 7, np.nan, FIELD), "NaN"),
        (FIELD * 0.25, "0.5 that are not whole numbers"),
        (FIELD * -1, "holds the value -7"),
        (FIELD * 1e9, "label ids go from 0"),
    ],
)
def test_values_that_are_no_labels(tmp_path, values, words):
    for ending in ("nii.gz", "nrrd"):
        refused(LabelError, words, write_image(tmp_path / f"l.{ending}", values.astype(np.float32), OBLIQUE))


def test_files_that_are_no_labels(tmp_path):
    refused(PathError, "does not exist", tmp_path / "gone.nii.gz")
    (tmp_path / "zero.nrrd").touch()
    refused(PathError, "is empty", tmp_path / "zero.nrrd")
    (tmp_path / "text.nrrd").write_text("not an image")
    refused(LabelError, "cannot be read as labels", tmp_path / "text.nrrd")
    colours = itk_image(np.zeros((*SHAPE, 3), np.uint8), OBLIQUE, vector=True)
    import SimpleITK

    SimpleITK.WriteImage(colours, str(tmp_path / "rgb.mha"))
    refused(LabelError, "3 numbers for each voxel", tmp_path / "rgb.mha")
    SimpleITK.WriteImage(
        SimpleITK.JoinSeries([itk_image(FIELD.astype(np.uint8), OBLIQUE)] * 3), str(tmp_path / "4d.mha")
    )
    refused(LabelError, "4 axes", tmp_path / "4d.mha")
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(FIELD[3].astype(np.uint8)), str(tmp_path / "2d.nrrd"))
    refused(LabelError, "2 axes", tmp_path / "2d.nrrd")


def test_a_sheared_label_lattice_is_refused(tmp_path):
    path = write_seg_nrrd(tmp_path / "l.seg.nrrd", FIELD[None].astype(np.uint8), OBLIQUE, [])
    head, body = path.read_bytes().split(b"\n\n", 1)
    lines = [
        line if not line.startswith(b"space directions") else b"space directions: (2,0,0) (1,2,0) (0,0,2)"
        for line in head.split(b"\n")
    ]
    path.write_bytes(b"\n".join(lines) + b"\n\n" + body)
    refused((GeometryError, LabelError), "sheared|orthogonal|orthonormal|direction", path)


@pytest.mark.parametrize("ending", ["nii", "nii.gz", "nrrd", "mha", "seg.nrrd"])
def test_files_that_broke_off(tmp_path, ending):
    path = tmp_path / f"l.{ending}"
    if ending == "seg.nrrd":
        write_seg_nrrd(path, FIELD[None].astype(np.uint8), OBLIQUE, [])
    else:
        write_image(path, FIELD.astype(np.uint8), OBLIQUE)
    path.write_bytes(path.read_bytes()[: -path.stat().st_size // 4])
    words = refused((LabelError, PathError), "cut off|truncated|damaged", path)
    assert str(path) in words


# Tables


def table_file(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path / name


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "id,name\n0,background\n1,hip_left\n2,hip_right\n7,sacrum\n"),
        ("t.csv", "\ufeffStructure;Group;ID\nhip_left;x;1\nhip_right;y;2\nsacrum;z;7.0\n"),
        ("t.csv", "# a comment\nlabel\tname\n1\thip_left\n2\thip_right\n7\tsacrum\n"),
        ("t.csv", 'id,label\n1,"hip_left"\n2,hip_right\n\n7,sacrum\n1,hip_left\n'),
        (
            "t.csv",
            "LabelValue,Name,Color_R,Color_G,Color_B,Color_A\n1,hip_left,1,2,3,255\n2,hip_right,1,2,3,255\n7,sacrum,1,2,3,255\n",
        ),
        ("t.json", '{"1": "hip_left", "2": "hip_right", "7": "sacrum"}'),
        ("t.json", '[{"id": 1, "name": "hip_left"}, {"id": 2, "name": "hip_right"}, {"id": 7, "name": "sacrum"}]'),
        ("t.json", '{"labels": {"background": 0, "hip_left": 1, "hip_right": 2, "sacrum": 7}}'),
        ("t.json", '{"id": [1, 2, 7], "structure": ["hip_left", "hip_right", "sacrum"]}'),
        (
            "t.ctbl",
            "# Color table\n0 Background 0 0 0 0\n1 hip_left 10 20 30 255\n2 hip_right 1 2 3 255\n7 sacrum 4 5 6 255\n",
        ),
        (
            "t.txt",
            '0 0 0 0 0 0 0 "Clear"\n1 9 0 0 1 1 1 "hip_left"\n2 0 9 0 1 1 1 "hip_right"\n7 0 0 9 1 1 1 "sacrum"\n',
        ),
    ],
)
def test_tables_of_every_form_say_the_same(tmp_path, name, text):
    assert read_label_table(table_file(tmp_path, name, text)) == NAMES


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("t.csv", "id,name\n1,hip_left\n1,hip_right\n", "lists id 1 twice, as 'hip_left' and as 'hip_right'"),
        ("t.csv", "id,name\n1,hip\n2,hip\n", "gives the name 'hip' to two ids, 1 and 2"),
        ("t.csv", "id,name\n1.5,hip\n", "'1.5' of 'hip' is not a whole number"),
        ("t.csv", "id,name\nL1,hip\n", "'L1' of 'hip' is not a whole number"),
        ("t.csv", "id,name\n-1,hip\n", "'-1' of 'hip' is not a whole number"),
        ("t.csv", "number,what\n1,hip\n", "has the columns number, what: .* needs a column id and a column name"),
        ("t.csv", "id,name\n1,\n", "no name for id 1"),
        ("t.csv", "group,id,name\nx,1\n", "fewer columns than the header"),
        ("t.csv", "id,name\n0,background\n", "names no label besides the background"),
        ("t.csv", " \n", "is empty"),
        ("t.json", "{1: hip", "is no JSON"),
        ("t.json", "[1, 2]", "holds no table of labels"),
        ("t.ctbl", "one two\n", "is none of a colour table"),
    ],
)
def test_tables_that_contradict_themselves(tmp_path, name, text, words):
    path = table_file(tmp_path, name, text)
    with pytest.raises(LabelError, match=words) as caught:
        read_label_table(path)
    assert str(path) in str(caught.value)


def test_a_table_that_is_not_there():
    with pytest.raises(PathError, match="totalsegmentator-v3 does not exist"):
        read_label_table("totalsegmentator-v3")


def test_a_table_that_lacks_ids_that_occur(tmp_path):
    path = write_image(tmp_path / "l.nrrd", FIELD.astype(np.uint8), OBLIQUE)
    refused(LabelError, r"l.nrrd holds the ids 7, which .* does not name. .* Add them", path, names={1: "a", 2: "b"})
    many = write_image(tmp_path / "many.nrrd", np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(np.uint8), OBLIQUE)
    refused(LabelError, "holds the ids 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 244 more", many, names={1: "a"})
    labels, names = read_labels(path, volume_on(), NAMES | {11: "not in this scan"})
    assert np.array_equal(labels.numpy(), FIELD)
    assert names == NAMES | {11: "not in this scan"}


def test_specks_that_a_table_leaves_out_are_said(tmp_path):
    field = np.where(FIELD == 0, 7, FIELD).astype(np.uint8)  # so that one voxel is less than a thousandth
    field[0, 0, 5] = 16
    path = write_image(tmp_path / "l.nrrd", field, OBLIQUE)
    with pytest.warns(Notice, match=r"ids 16, .* specks \(1 of 2856 labelled voxels\)"):
        _, names = read_labels(path, volume_on(), NAMES)
    assert names == NAMES


def test_a_table_goes_by_the_files_own_names_and_else_by_id_which_is_said(tmp_path):
    segments = [{"Name": n, "LabelValue": v} for n, v in (("sacrum", 1), ("hip_left", 2), ("hip_right", 7))]
    path = write_seg_nrrd(tmp_path / "l.seg.nrrd", FIELD[None].astype(np.uint8), OBLIQUE, segments)
    labels, names = read_labels(path, volume_on(), NAMES)  # all names known: the table's ids
    assert np.array_equal(labels.numpy(), np.select([FIELD == 1, FIELD == 2, FIELD == 7], [7, 1, 2], 0))
    assert names == NAMES
    with pytest.warns(Notice, match="names are taken by id .* 'sacrum' is 'bone'"):
        labels, names = read_labels(path, volume_on(), {1: "bone", 2: "hip_left", 7: "other"})
    assert np.array_equal(labels.numpy(), FIELD)
    assert names[1] == "bone"


# Real data


def _real_volume(path):
    from diffrender.io import read_volume

    return read_volume(path)


def test_real_masks_and_the_real_label_map_say_the_same(real_data):
    volume = _real_volume(real_data("ct-abdomenpelvis-totalseg", "ct.nii.gz"))
    whole = real_data("ct-abdomenpelvis-totalseg", "labels_totalsegv1_multilabel.nii.gz")
    ids, table = read_labels(whole, volume, "totalsegmentator-v1")
    masks, names = read_labels(real_data("ct-abdomenpelvis-totalseg", "masks_v1"), volume, "totalsegmentator-v1")
    assert len(table) == 104
    assert names == table
    # The folder lacks the masks of two labels of one and three voxels.
    assert {int(n) for n in ids[ids != masks].unique()} == {16, 44}
    with pytest.warns(Notice, match="ids 16, 44, .* specks"):
        again, by_csv = read_labels(whole, volume, real_data("ct-abdomenpelvis-totalseg", "labels.csv"))
    assert torch.equal(again, ids)
    assert by_csv.items() <= table.items()
    left, right = (torch.nonzero(ids == label).float().mean(0)[2] for label in (90, 91))
    assert table[90] == "hip_left"
    assert volume.orientation == "RAS"
    assert left < right


def test_the_real_chest_and_its_table(real_data):
    volume = _real_volume(real_data("ct-chest-lidc0001", "ct_256.nii.gz"))
    path, table = real_data("ct-chest-lidc0001", "labels_256.nii.gz"), real_data("ct-chest-lidc0001", "structures.csv")
    ids, names = read_labels(path, volume, table)
    with table.open() as file:
        assert names == {int(row["id"]): row["structure"] for row in csv.DictReader(file)}
    air = [n for n, name in names.items() if name == "lung_upper_lobe_left"]
    # PROVENANCE.txt gives -843 HU under this label at full resolution; averaging 2 x 2 pixels mixes in the lung's rim.
    assert volume.values[ids == air[0]].float().mean().item() == pytest.approx(-843, abs=5)
    ours = read_label_table("totalsegmentator-v2")
    assert len(ours) == 117
    assert {n: names[n] for n in range(1, 117)} == {n: ours[n] for n in range(1, 117)}
