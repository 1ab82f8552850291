"""Names, folders, sequences; what nodes remember; and scenes saved, opened again and worked on."""

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from diffrender import mrml
from diffrender.camera import Camera, c_arm
from diffrender.errors import BackendError, PathError, SettingError
from diffrender.io import read_volume
from diffrender.mesh import Mesh
from diffrender.phantom import torso
from Testing.mrml.bodies import ids, numbers, rigid, volume


def test_outputs_are_named_after_their_input_and_no_name_twice(slicer_):
    ct = slicer_.add("ScalarVolume", "Thorax 3 mm")
    first = mrml.output_name(slicer_.scene, ct, "radiograph")
    assert first == "Thorax 3 mm radiograph"
    made = mrml.volume_to_node(slicer_.scene, volume(), first)
    second = mrml.volume_to_node(slicer_.scene, volume(), "Thorax 3 mm radiograph")
    assert (made.GetName(), second.GetName()) == ("Thorax 3 mm radiograph", "Thorax 3 mm radiograph 2")


def test_a_folder_is_made_once_and_holds_what_is_put_there(slicer_):
    hierarchy = slicer_.scene.GetSubjectHierarchyNode()
    folder = mrml.folder(slicer_.scene, "Thorax radiographs")
    inner = mrml.folder(slicer_.scene, "masks", folder)
    assert mrml.folder(slicer_.scene, "Thorax radiographs") == folder
    assert mrml.folder(slicer_.scene, "masks", folder) == inner != folder
    one, two = slicer_.add("Model"), slicer_.add("Model")
    mrml.put_in_folder(slicer_.scene, folder, one, two)
    mrml.put_in_folder(slicer_.scene, inner, two)
    parents = [hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) for node in (one, two)]
    assert parents == [folder, inner]
    assert hierarchy.GetItemParent(inner) == folder


def test_a_class_that_the_scene_does_not_know_is_said():
    import slicer

    with pytest.raises(BackendError, match="knows no vtkMRMLVolumePropertyNode"):
        mrml.new_node(slicer.vtkMRMLScene(), "vtkMRMLVolumePropertyNode", "x")


def test_a_frame_of_a_sequence_is_known_as_one(slicer_):
    sequence, browser = slicer_.add("Sequence"), slicer_.add("SequenceBrowser")
    plain = mrml.volume_to_node(slicer_.scene, volume(), "alone")
    sequence.SetDataNodeAtValue(plain, "0")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    proxy = browser.GetProxyNode(sequence) or browser.AddProxyNode(plain, sequence, False)
    assert mrml.browser_of(slicer_.scene, slicer_.add("ScalarVolume")) is None
    assert mrml.browser_of(slicer_.scene, proxy) is browser


def test_json_is_kept_whole(slicer_):
    node, value = slicer_.add("Model"), {"ü": [1 / 3, None, True, "a;b:c%20\"<&>'\n"], "deep": {"n": -(2**60)}}
    assert mrml.read_json(node, "roles", default=[]) == []
    mrml.write_json(node, "roles", value)
    assert mrml.read_json(node, "roles") == value
    assert node.GetAttribute("DiffRender.roles").isascii()
    mrml.write_json(node, "roles", None)
    assert node.GetAttribute("DiffRender.roles") is None
    node.SetAttribute("DiffRender.roles", "{")
    with pytest.raises(SettingError, match=r"remembers as DiffRender.roles is no JSON"):
        mrml.read_json(node, "roles")


def test_a_file_is_kept_by_path_and_hash(slicer_, tmp_path):
    node, path = slicer_.add("Model", "renderer"), tmp_path / "Modell mit Leerzeichen ü.pt"
    assert mrml.recall_file(node, "model") is None
    path.write_bytes(b"weights")
    mrml.remember_file(node, "model", path)
    assert mrml.recall_file(node, "model") == path
    (tmp_path / "moved").mkdir()
    moved = path.rename(tmp_path / "moved" / path.name)
    with pytest.raises(PathError, match=r"'renderer' was saved with .*, which is not there any more"):
        mrml.recall_file(node, "model")
    assert mrml.recall_file(node, "model", beside=tmp_path / "moved") == moved
    moved.write_bytes(b"other weights")
    with pytest.raises(PathError, match=r"has changed since 'renderer' was saved"):
        mrml.recall_file(node, "model", beside=tmp_path / "moved")


@dataclass(frozen=True)
class Settings:
    views: int = 4
    header: str = "PatientName"


def test_provenance_says_what_made_a_node(slicer_, tmp_path):
    ct, made = slicer_.add("ScalarVolume", "CT"), slicer_.add("ScalarVolume", "DRR")
    (tmp_path / "model.pt").write_bytes(b"weights")
    inputs = {"ct": ct, "model": tmp_path / "model.pt"}
    mrml.remember_provenance(made, "NeRPSynth: Save radiograph", Settings(), inputs, seed=3)
    found = mrml.recall_provenance(made)
    assert found["settings"] == {"views": 4}  # headers are left out
    assert found["inputs"]["ct"] == {"id": ct.GetID(), "name": "CT"}
    assert found["inputs"]["model"]["sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert (found["seed"], found["command"]) == (3, "NeRPSynth: Save radiograph")
    assert found["versions"]["torch"] == torch.__version__
    assert "PatientName" not in json.dumps(found)


def test_the_bridge_costs_nothing_until_it_is_used():
    """Panels keep settings, tables and folders before anything is installed."""
    modules = "attributes, nodes, tables"
    question = f"import sys; from diffrender.mrml import {modules}; print({{'torch', 'numpy'}} & set(sys.modules))"
    asked = subprocess.run([sys.executable, "-c", question], capture_output=True, text=True, check=True)
    assert asked.stdout.strip() == "set()"
    assert all(callable(getattr(mrml, name)) for name in mrml.__all__)


def test_a_scene_saved_and_opened_again_works_on(make_slicer, tmp_path):
    before, folder = make_slicer(), tmp_path / "Szene mit Ümlaut"
    folder.mkdir()
    (folder / "model.pt").write_bytes(b"weights")
    labelled = volume(True, values=numbers(np.float32))
    parent = mrml.transform_to_node(before.scene, rigid((1 / 3, 2 / 7, 33.0), (1e4 / 3, 0.1, 2.0)), "pose")
    ct = mrml.volume_to_node(before.scene, labelled, "CT ü")
    ct.SetAndObserveTransformNodeID(parent.GetID())
    under = mrml.volume_of(ct)
    segments = mrml.segmentation_to_node(before.scene, with_labels(under), "seg", reference=ct)
    cameras = [c_arm((1 / 3, 2 / 7, 3e5 / 7), 31, -17, image_size=(5, 4)), eye()]
    views = mrml.pictures_to_node(before.scene, torch.rand(2, 4, 5, 4), "views", [eye(), eye()])
    mrml.remember_cameras(views, cameras)
    mrml.remember_file(views, "model", folder / "model.pt")
    mrml.write_json(views, "roles", {"Segment_2": {"role": "hide", "colour": [1 / 3, 0, 1]}})
    item = mrml.folder(before.scene, "CT ü views")
    mrml.put_in_folder(before.scene, item, views, segments)
    mesh = mrml.mesh_to_node(before.scene, tetrahedron(), "bone")
    points = mrml.landmarks_to_node(before.scene, {"ASIS ü": (1 / 3, -2e3 / 7, 55.0)}, "points")
    assert before.scene.WriteToMRB(str(folder / "scene.mrb"))

    after = make_slicer()
    assert after.scene.ReadFromMRB(str(folder / "scene.mrb"))
    found = {name: after.scene.GetFirstNodeByName(name) for name in ("CT ü", "seg", "views", "bone", "points")}
    again = mrml.volume_of(found["CT ü"])
    # Slicer opens a left-handed volume turned round along k: other indices, the same voxels at the same places.
    assert torch.equal(again.values.flip(0), labelled.values)
    turned = np.diag([1.0, 1.0, -1.0, 1.0])
    turned[2, 3] = len(ids()) - 1
    np.testing.assert_allclose(
        again.world_from_voxel.numpy() @ turned, under.world_from_voxel, atol=1e-5
    )  # [mm], promised
    assert mrml.fingerprint(found["CT ü"]) == mrml.fingerprint(ct)
    np.testing.assert_array_equal(mrml.segments_of(found["seg"], found["CT ü"]).labels.numpy()[::-1], ids())
    assert mrml.segments_of(found["seg"], found["CT ü"]).names == {1: "a", 2: "b ü", 7: "c"}
    assert [one.to_dict() for one in mrml.recall_cameras(found["views"])] == [one.to_dict() for one in cameras]
    assert torch.equal(mrml.pictures_of(found["views"]), mrml.pictures_of(views))
    assert mrml.recall_file(found["views"], "model") == folder / "model.pt"
    assert mrml.read_json(found["views"], "roles")["Segment_2"]["colour"] == [1 / 3, 0, 1]
    hierarchy = after.scene.GetSubjectHierarchyNode()
    parents = [hierarchy.GetItemParent(hierarchy.GetItemByDataNode(found[name])) for name in ("views", "seg")]
    assert [hierarchy.GetItemName(parent) for parent in parents] == ["CT ü views"] * 2
    np.testing.assert_allclose(mrml.mesh_of(found["bone"]).vertices, mrml.mesh_of(mesh).vertices, atol=1e-5)
    opened, kept = mrml.landmarks_of(found["points"]), mrml.landmarks_of(points)
    np.testing.assert_allclose(opened["ASIS ü"], kept["ASIS ü"], atol=1e-5)


def with_labels(under):
    return type(under)(under.values, under.world_from_voxel, torch.from_numpy(ids()), {1: "a", 2: "b ü", 7: "c"})


def eye() -> Camera:
    matrix = torch.from_numpy(rigid((20.0, -35.0, 50.0), (-310.0, 95.0, -33.0)))
    return Camera(matrix, 613.0, (0.7, 0.7), (5, 4), (2.0, 3.0))


def tetrahedron() -> Mesh:
    vertices = torch.tensor([[0.1, 0, 0], [31, 2, 1], [4, 17, -3], [2, 5, 23]]) + torch.tensor([-61, 37, 83])
    return Mesh(vertices, torch.tensor([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]]))


def carried_over(slicer_, patient):
    """A CT with its labels, out into a scene and in again."""
    ct = mrml.volume_to_node(slicer_.scene, patient, "CT")
    return mrml.volume_of(ct, mrml.segmentation_to_node(slicer_.scene, patient, "labels", reference=ct))


def test_a_patient_there_and_back(slicer_):
    patient = torso(shape=(40, 46, 54), oblique=True, handed="left")
    back = carried_over(slicer_, patient)
    assert torch.equal(back.values, patient.values)
    assert torch.equal(back.labels, patient.labels.to(back.labels))
    assert {n: back.label_name(n) for n in back.label_ids} == {n: patient.label_name(n) for n in patient.label_ids}


def test_a_real_patient_there_and_back(slicer_, real_data):
    folder = real_data("ct-abdomenpelvis-totalseg")
    patient = read_volume(folder / "ct.nii.gz", labels=folder / "labels_totalsegv1_multilabel.nii.gz")
    back = carried_over(slicer_, patient)
    assert torch.equal(back.values, patient.values)
    assert torch.equal(back.labels, patient.labels.to(back.labels))
    assert len(back.label_ids) > 50
