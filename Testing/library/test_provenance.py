"""Provenance: hashes worked out with hashlib on the spot, and what must not be in the file."""

import dataclasses
import hashlib
import json
import platform
from pathlib import Path

import numpy as np
import pytest
import torch

import diffrender
from diffrender.camera import c_arm
from diffrender.errors import OutputError, PathError
from diffrender.provenance import hash_of, write_provenance


@dataclasses.dataclass(frozen=True)
class Settings:
    kind: str = "intensity"
    energy: float = 62.5
    folder: Path = Path("out here")
    window: tuple[float, float] = (0.25, 4.0)
    weights: torch.Tensor = dataclasses.field(default_factory=lambda: torch.tensor([0.5, 2.0]))
    big: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((40, 30)))
    header: dict = dataclasses.field(default_factory=lambda: {"PatientName": "Muster^Max"})


def test_the_record_beside_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("ct größe.nii.gz").write_bytes(b"voxels" * 1000)
    camera = c_arm((3.0, -4.0, 5.0), primary=20, image_size=(12, 17))
    path = write_provenance(
        "pelvis.png",
        ["diffrender", "radiograph", "ct größe.nii.gz"],
        {"radiograph": Settings(), "camera": camera},
        ["ct größe.nii.gz"],
        seed=7,
    )
    assert path == Path("pelvis.provenance.json")
    text = path.read_text(encoding="utf-8")
    record = json.loads(text)
    assert record["inputs"] == [
        {"path": "ct größe.nii.gz", "sha256": hashlib.sha256(b"voxels" * 1000).hexdigest()},
    ]
    assert record["command"] == ["diffrender", "radiograph", "ct größe.nii.gz"]
    assert record["seed"] == 7
    settings = record["settings"]["radiograph"]
    assert settings["energy"] == 62.5
    assert settings["folder"] == "out here"
    assert settings["window"] == [0.25, 4.0]
    assert settings["weights"] == [0.5, 2.0]
    assert settings["big"] == "ndarray of shape [40, 30]"
    assert record["settings"]["camera"] == camera.to_dict()
    assert "Muster" not in text
    assert "header" not in settings
    assert record["versions"]["diffrender"] == diffrender.__version__
    assert record["versions"]["python"] == platform.python_version()
    assert record["versions"]["torch"] == torch.__version__
    assert record["versions"]["numpy"] == np.__version__
    assert record["time"].endswith("+00:00")


def test_a_folder_holds_its_own(tmp_path):
    assert write_provenance(tmp_path, "diffrender samples get", {}, []) == tmp_path / "provenance.json"


def test_the_hash_of_a_folder_is_that_of_its_listing(tmp_path):
    """As `sha256sum` would list it, sorted; worked out here by hand."""
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "z.dcm").write_bytes(b"one")
    (tmp_path / "b.dcm").write_bytes(b"two")
    (tmp_path / "A.dcm").write_bytes(b"three")
    lines = "".join(
        f"{hashlib.sha256(content).hexdigest()}  {name}\n"
        for name, content in (("A.dcm", b"three"), ("b.dcm", b"two"), ("b/z.dcm", b"one"))
    )
    assert hash_of(tmp_path) == hashlib.sha256(lines.encode()).hexdigest()
    before = hash_of(tmp_path)
    (tmp_path / "b.dcm").rename(tmp_path / "c.dcm")
    assert hash_of(tmp_path) != before


def test_a_large_file_is_read_in_pieces(tmp_path):
    content = bytes(range(251)) * 12345  # three blocks, the last one short
    (tmp_path / "large").write_bytes(content)
    assert hash_of(tmp_path / "large") == hashlib.sha256(content).hexdigest()


def test_an_input_that_is_gone_and_an_output_that_cannot_be(tmp_path):
    with pytest.raises(PathError, match=r"gone\.nii cannot be read: No such file"):
        write_provenance(tmp_path / "a.png", "x", {}, [tmp_path / "gone.nii"])
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="a file stands where a folder should be"):
        write_provenance(tmp_path / "file" / "a.png", "x", {}, [])


def test_an_input_in_the_home_folder_keeps_its_name_and_its_hash(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "a.dcm").write_bytes(b"one")
    listing = f"{hashlib.sha256(b'one').hexdigest()}  a.dcm\n"
    path = write_provenance(tmp_path / "x.NII.GZ", "x", {}, ["~/series", "~/series/a.dcm"])
    assert path.name == "x.provenance.json"  # as the labels of x.NII.GZ are x.labels.npz
    inputs = json.loads(path.read_text(encoding="utf-8"))["inputs"]
    assert inputs == [
        {"path": "~/series", "sha256": hashlib.sha256(listing.encode()).hexdigest()},
        {"path": "~/series/a.dcm", "sha256": hashlib.sha256(b"one").hexdigest()},
    ]


def test_names_that_are_no_unicode_stand_in_the_record(tmp_path):
    name = b"K\xf6rper.nii.gz".decode("utf-8", "surrogateescape")
    path = write_provenance(tmp_path / "x.png", ["diffrender", name], {"ct": name}, [])
    record = json.loads(path.read_text(encoding="utf-8"))
    assert (record["command"][1], record["settings"]["ct"]) == (name, name)
