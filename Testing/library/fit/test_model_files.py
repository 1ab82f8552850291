"""Models in files: what statismo reads, what comes back, and what is refused."""

import json

import h5py
import numpy as np
import pytest
import torch

from diffrender.errors import MeshError, Notice, PathError
from diffrender.fit.model_files import load_shape_model, save_shape_model
from diffrender.fit.parametric import default_pelvis


@pytest.fixture(scope="module")
def model():
    return default_pelvis()


@pytest.fixture
def file(model, tmp_path):
    return save_shape_model(model, tmp_path / "pelvis.h5")


def test_a_model_comes_back(model, file):
    again = load_shape_model(file)
    assert torch.equal(again.mean, model.mean)
    assert torch.equal(again.faces, model.faces)
    assert torch.allclose(again.modes, model.modes, rtol=1e-5, atol=1e-5)  # mm; divided and multiplied once in float32
    assert torch.equal(again.unexplained, model.unexplained)
    assert again.parts == model.parts
    assert again.about == json.loads(json.dumps(dict(model.about)))
    assert again.joint is not None
    assert (again.joint.part, again.joint.spread) == (model.joint.part, model.joint.spread)
    assert torch.equal(again.joint.centre, model.joint.centre.double())
    for name, landmark in model.landmarks_at.items():
        assert torch.equal(again.landmarks_at[name].vertices, landmark.vertices)
        assert torch.allclose(again.landmarks[name], model.landmarks[name], atol=1e-4)


def test_the_same_model_makes_the_same_bytes(model, file, tmp_path):
    again = save_shape_model(model, tmp_path / "again.h5")
    assert again.read_bytes() == file.read_bytes()


def test_statismo_draws_the_same_instance(model, file):
    with h5py.File(file, "r") as opened:  # as StatisticalModel.hxx of statismo 0.9 does
        assert (opened["version/majorVersion"][()], opened["version/minorVersion"][()]) == (0, 9)
        basis = opened["model/pcaBasis"][()].astype(np.float64) * np.sqrt(opened["model/pcaVariance"][()])
        drawn = opened["model/mean"][()] + basis[:, :4] @ np.array([0.5, -1.5, 2.0, -0.3])
        cells = opened["representer/cells"][()]
        assert opened["representer"].attrs["datasetType"] == "POLYGON_MESH"
        assert opened["representer/points"].shape == (3, len(model.mean))
        assert float(opened["model/noiseVariance"][()]) == pytest.approx(float(model.unexplained.square().mean()))
        assert opened["modelinfo/modelBuilder-0/builderName"].asstr()[()] == "diffrender"
    mesh = model.mesh(torch.tensor([0.5, -1.5, 2.0, -0.3]))
    assert np.abs(drawn.reshape(-1, 3) - mesh.vertices.numpy()).max() < 1e-3
    assert np.array_equal(cells.T, mesh.faces.numpy())


def test_a_model_of_statismo_is_read(model, file):
    with h5py.File(file, "a") as opened:
        del opened["diffrender"]
    again = load_shape_model(file)
    assert again.parts == (("body", len(model.mean)),)
    assert not again.landmarks_at
    assert again.joint is None
    assert float(again.unexplained[3]) == pytest.approx(float(model.unexplained.square().mean().sqrt()), rel=1e-4)


def test_the_older_layout_holds_standard_deviations_in_its_basis(model, file):
    with h5py.File(file, "a") as opened:
        scaled = opened["model/pcaBasis"][()] * np.sqrt(opened["model/pcaVariance"][()])
        opened["model/pcaBasis"][...] = scaled
        opened["version/minorVersion"][()] = 8
    assert torch.allclose(load_shape_model(file).modes, model.modes, atol=1e-4)
    with h5py.File(file, "a") as opened:
        opened["version/minorVersion"][()] = 9
    with pytest.raises(MeshError, match="have the length 1; these have"):
        load_shape_model(file)


def replaced(name, change):
    def spoil(opened):
        value = change(opened[name][()])
        del opened[name]
        opened[name] = value

    return spoil


def with_(value, *place):
    def change(array):
        array[place] = value
        return array

    return change


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (
            replaced("model/mean", lambda a: a[:-3]),
            MeshError,
            "vertices and the mesh points of the shape",
        ),
        (replaced("model/mean", lambda a: a[:-1]), MeshError, "which are no points of three"),
        (replaced("model/mean", with_(np.nan, 7)), MeshError, "1 of the numbers in /model/mean are NaN or infinite"),
        (replaced("model/pcaBasis", with_(np.inf, 7, 1)), MeshError, "/model/pcaBasis are NaN or infinite"),
        (replaced("model/pcaBasis", lambda a: a[:, :3]), MeshError, r"the modes have the shape \[\d+, 3\]"),
        (replaced("model/pcaVariance", lambda a: a[::-1]), MeshError, "must be positive and fall from the first"),
        (replaced("model/pcaVariance", lambda a: -a), MeshError, "must be positive and fall"),
        (replaced("representer/cells", with_(999999, 0, 0)), MeshError, "do not fit"),
        (replaced("representer/cells", lambda a: a[:2]), MeshError, "do not fit"),
        (replaced("model/mean", lambda a: np.array([b"a"] * 9)), PathError, "not numbers"),
        (replaced("diffrender/unexplained", lambda a: a[:5]), MeshError, "not one number from 0 for each of"),
        (replaced("diffrender/parts", lambda a: '[["left hip", 7]]'), MeshError, r"the parts have 7 \(left hip\)"),
        (replaced("diffrender/parts", lambda a: "["), PathError, "no shape model, or it is damaged"),
        (replaced("diffrender/landmarks/FH-l/vertices", lambda a: a + 10**6), MeshError, "FH-l is no weighted mean"),
        (replaced("diffrender/landmarks/FH-l/weights", lambda a: a * 2), MeshError, "add up to 2"),
        (
            replaced("diffrender/joint", lambda a: '{"part": "tail", "centre": [0, 0, 0], "spread": 1}'),
            MeshError,
            "joint",
        ),
        (lambda opened: opened["diffrender"].attrs.update({"format": 7}), PathError, "of format 7"),
        (lambda opened: opened.pop("model"), PathError, "holds no /model/mean, so it is no shape model"),
    ],
)
def test_bad_numbers_are_refused(file, spoil, error, words):
    with h5py.File(file, "a") as opened:
        spoil(opened)
    with pytest.raises(error, match=words) as caught:
        load_shape_model(file)
    assert "pelvis.h5" in str(caught.value)


def test_nothing_outside_the_file_is_read(file, tmp_path):
    with h5py.File(tmp_path / "secret.h5", "w") as other:
        other["mean"] = np.zeros(9)
    with h5py.File(file, "a") as opened:
        del opened["model/mean"]
        opened["model/mean"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "mean")
    with pytest.raises(PathError, match="leads to another file"):
        load_shape_model(file)
    (tmp_path / "raw").write_bytes(bytes(8 * 9))
    with h5py.File(file, "a") as opened:
        del opened["model/mean"]
        opened["model"].create_dataset("mean", (9,), "f8", external=[(str(tmp_path / "raw"), 0, 72)])
    with pytest.raises(PathError, match="lies in another file"):
        load_shape_model(file)


@pytest.mark.parametrize("length", [40, 4000, 100_000])
def test_a_cut_off_file_says_so(file, length):
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(PathError, match="no shape model, or it is damaged or cut off"):
        load_shape_model(file)


def test_other_files_are_no_models(tmp_path):
    (tmp_path / "text.h5").write_text("a model, honestly")
    with pytest.raises(PathError, match=r"text\.h5 is no shape model"):
        load_shape_model(tmp_path / "text.h5")
    with h5py.File(tmp_path / "frames.h5", "w") as other:
        other["proj-params/intrinsic"] = np.eye(3)
    with pytest.raises(PathError, match="holds no /model/mean, so it is no shape model of statismo's layout"):
        load_shape_model(tmp_path / "frames.h5")
    with pytest.raises(PathError, match="is a folder"):
        load_shape_model(tmp_path)
    with pytest.raises(PathError, match="does not exist"):
        load_shape_model(tmp_path / "none.h5")


def test_open_surfaces_are_noticed_and_metres_refused(file):
    with h5py.File(file, "a") as opened:
        cells = opened["representer/cells"][()][:, 3:]
        del opened["representer/cells"]
        opened["representer/cells"] = cells
    with pytest.warns(Notice, match="open edges"):
        load_shape_model(file)
    with h5py.File(file, "a") as opened:
        opened["model/mean"][...] *= 0.001
    with pytest.raises(MeshError, match=r"mm across: it seems to have been built in metres"):
        load_shape_model(file)
