"""A model file draws what was saved, in any process, runs no code, and says what is wrong with it."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from trainings import STARTED, cameras, drawing, lump

from diffrender.dvr.model import load_model, save_model
from diffrender.dvr.renderers import renderer
from diffrender.errors import PathError, SettingError

DRAW = """
import sys, torch
sys.path.insert(0, {testing!r})
from trainings import lump, cameras
from diffrender.dvr.model import load_model
made, info = load_model(sys.argv[1])
volume = lump()
torch.set_num_threads(2)
with torch.no_grad():
    torch.save(made(volume, cameras(volume, 1)[0]), sys.argv[2])
"""


@pytest.fixture
def changed():
    """A renderer that has learned something."""
    made = renderer("unet-s", drawing())
    with torch.no_grad():
        for n, parameter in enumerate(made.parameters()):
            parameter += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(n))
    return made.eval()


def test_it_draws_the_same_in_a_fresh_process(tmp_path, changed):
    path = save_model(tmp_path / "Größe 1.safetensors", changed, {"scores": {"ssim": 0.9}})
    volume = lump()
    with torch.no_grad():
        here = changed(volume, cameras(volume, 1)[0])
    script = tmp_path / "draw.py"
    script.write_text(DRAW.format(testing=str(__import__("trainings").__file__.rpartition("trainings")[0])))
    subprocess.run([sys.executable, script, path, tmp_path / "there.pt"], check=True, timeout=120)
    there = torch.load(tmp_path / "there.pt")
    assert float((here - there).abs().max()) < 1e-6
    assert float(here[3].max()) > 0.1  # it drew something


def test_settings_and_info_come_back(tmp_path, changed):
    path = save_model(tmp_path / "m.safetensors", changed, {"volumes": ["ab12"], "scores": {"ssim": 0.9}})
    made, info = load_model(path)
    assert made.name == "unet-s"
    assert made.settings == changed.settings
    assert made.settings.transfer == STARTED
    assert info["volumes"] == ["ab12"]
    assert info["scores"] == {"ssim": 0.9}
    assert info["version"]
    for name, tensor in changed.state_dict().items():
        assert torch.equal(made.state_dict()[name], tensor), name


def test_a_pickle_is_not_opened(tmp_path):
    trap = tmp_path / "trap.safetensors"
    torch.save({"harmless": torch.zeros(1)}, trap)
    with pytest.raises(PathError, match=r"is a pickle \(\.pt, \.pth\), which can run code when opened; it was not"):
        load_model(trap)
    import pickle

    trap.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(PathError, match="is a pickle"):
        load_model(trap)


def record_of(path):
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return json.loads(header["__metadata__"]["diffrender"])


def rewritten(path, record=None, tensors=None):
    """The file again with another record or other tensors."""
    record, tensors = record or record_of(path), tensors or load_file(path)
    save_file(tensors, path, {"diffrender": json.dumps(record)})
    return path


def test_what_is_wrong_with_a_file_is_said(tmp_path):
    good = save_model(tmp_path / "m.safetensors", renderer("lookup", drawing()))
    content, record, tensors = good.read_bytes(), record_of(good), load_file(good)

    def refused(words):
        with pytest.raises(PathError, match=words):
            load_model(good)

    good.write_bytes(content[:-100])
    refused(r"is no \.safetensors file, or not all of one .* copy it again")
    good.write_bytes(content[:5])
    refused("or not all of one")
    good.write_bytes(b"")
    refused("or not all of one")
    good.write_bytes(content)
    rewritten(good, record={**record, "format": 2})
    refused("is a renderer .* of format 2, and DiffRender .* reads 1")
    rewritten(good, record={**record, "name": "vnet9"})
    refused("cannot|can make: 'vnet9' is no renderer")
    rewritten(good, record={**record, "settings": {**record["settings"], "colour": 3}})
    refused("does not describe a renderer .*colour")
    rewritten(good, record={**record, "settings": {**record["settings"], "bins": 17}})
    refused(r"has the shape \[16, \d\] and should have \[17, \d\]")
    first, *others = sorted(tensors)
    rewritten(good, record=record, tensors={name: tensors[name] for name in others})
    refused(f"lacks '{first}', so it is of another renderer")
    rewritten(good, record=record, tensors={**tensors, "evil": torch.zeros(1), "more": torch.zeros(1)})
    refused("also holds 'evil' and 1 more")
    save_file(tensors, good)
    refused("does not say that they are a renderer")
    good.unlink()
    refused("cannot be read: No such file")


def test_weights_that_are_no_numbers_are_refused(tmp_path, changed):
    path = save_model(tmp_path / "a.safetensors", changed)
    content = bytearray(path.read_bytes())
    content[-4:] = b"\x00\x00\xc0\x7f"  # NaN, little-endian float32: the last weight of the last tensor
    path.write_bytes(content)
    with pytest.raises(PathError, match="NaN or infinite"):
        load_model(path)


def test_another_ending_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(SettingError, match=r"a model is written as \.safetensors, which is safe to open"):
        save_model(tmp_path / "model.pt", renderer("lookup", drawing()))
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_leaves_the_model_before_whole(tmp_path, monkeypatch):
    path = save_model(tmp_path / "m.safetensors", renderer("lookup", drawing()))
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(Exception, match="the disk is full"):
        save_model(path, renderer("lookup", drawing(bins=32)))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
