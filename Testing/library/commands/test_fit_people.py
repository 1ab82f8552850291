"""`diffrender fit model --segmentations`: CTs with labels become a model."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import torch

import diffrender as dr
from diffrender.fit.model_files import load_shape_model


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> tuple[list[Path], list[Path], Path]:
    """Two torsos that differ by their voxels alone, with their labels, and the table of names."""
    folder = tmp_path_factory.mktemp("people") / "zwei Bäuche"
    folder.mkdir()
    cts, labels = [], []
    for n, stretch in enumerate((1.0, 1.06)):
        torso = dr.torso((100, 52, 80), (6.4, 5.4, 5.4), oblique=True)
        assert torso.labels is not None
        lattice = torch.diag(torch.tensor([-1.0, -1, 1, 1]).double()) @ torso.world_from_voxel
        spacing = lattice[:3, :3].norm(dim=0)
        for kind, values in (("ct", torso.values.numpy().astype(np.int16)), ("labels", torso.labels.numpy())):
            image = SimpleITK.GetImageFromArray(values)
            image.SetSpacing((stretch * spacing).tolist())
            image.SetDirection((lattice[:3, :3] / spacing).flatten().tolist())
            image.SetOrigin(lattice[:3, 3].tolist())
            file = folder / f"{kind}{n}.nii.gz"
            SimpleITK.WriteImage(image, str(file))
            (cts if kind == "ct" else labels).append(file)
    (folder / "names.json").write_text(json.dumps({str(k): v for k, v in torso.names.items()}))
    return cts, labels, folder / "names.json"


def test_two_people_become_a_model(typed, open_stdin, people):
    cts, labels, names = people
    each = [word for file in labels for word in ("--segmentations", file)]
    ended = typed("fit", "model", *cts, *each, "--names", names, "--plain", "--modes", 2, "--json", "-o", "p.h5")
    assert ended.code == 0, ended.err
    model = load_shape_model("p.h5")
    assert [name for name, _ in model.parts] == ["left hip", "right hip", "sacrum"]
    assert len(model.landmarks) == 14
    errors = ended.lines[-1]["about"]["correspondence error [mm]"]
    assert errors.keys() == {"left hip", "right hip", "sacrum"}
    assert max(errors.values()) < 3  # half a voxel
    record = json.loads(Path("p.provenance.json").read_text())
    assert [Path(one["path"]).name for one in record["inputs"]] == [file.name for file in (*cts, *labels)]
    # Six per cent larger, nothing else: the first mode is size, and the hips' distance shows it.
    widths = []
    for sign in (-1.0, 1.0):
        marks = model.landmarks_of(torch.tensor([sign, 0.0])[: len(model.modes)])
        widths.append(float((marks["FH-l"] - marks["FH-r"]).norm()))
    assert max(widths) / min(widths) == pytest.approx(1.06, abs=0.035)


def test_what_is_no_pair_is_refused(typed, people):
    cts, labels, names = people
    for words, found in (
        ((cts[0], cts[1], "--segmentations", labels[0]), "2 CTs and 1 segmentation were given"),
        ((cts[0], "--segmentations", labels[0], "--exclude", 1), "--exclude is of an atlas"),
        ((cts[0], "--names", names), "none are given"),
        ((cts[0], "--segmentations", labels[0], "--names", names), "one CT is given"),
        ((cts[0], cts[1], "--segmentations", cts[0], "--segmentations", labels[1]), "ct0.nii.gz"),
    ):
        ended = typed("fit", "model", *words, "-o", "no.h5")
        assert ended.code == 2, (words, ended.err)
        assert found in ended.err
        assert not Path("no.h5").exists()
