"""`diffrender fit model` from files like the published ones to a model file."""

import hashlib
import http.server
import json
import threading
from functools import partial
from pathlib import Path

import atlases
import numpy as np
import pytest
import torch

from diffrender import samples
from diffrender.fit.model_files import load_shape_model


@pytest.fixture(scope="module")
def atlas(tmp_path_factory):
    """A folder with subjects 2, 3, 15, 25 and 40."""
    return atlases.write_folder(tmp_path_factory.mktemp("atlas"), atlases.pelves(5), [2, 3, 15, 25, 40])


def test_a_folder_becomes_a_model(typed, atlas, tmp_path):
    ended = typed("fit", "model", atlas, "--exclude", 15, 25, "--modes", 4, "-o", tmp_path / "out" / "p.h5")
    assert ended.code == 0, ended.err
    model = load_shape_model(tmp_path / "out" / "p.h5")
    assert len(model.modes) == 4
    assert [name for name, _ in model.parts] == ["left hip", "right hip", "sacrum"]
    assert len(model.landmarks) == 14
    assert model.about["ids"] == [2, 3, 40]
    assert model.about["excluded"] == [15, 25]
    assert "share of the variance" in ended.out
    assert "stray vertices" in ended.out
    record = json.loads((tmp_path / "out" / "p.provenance.json").read_text())
    assert record["settings"]["ids"] == [2, 3, 40]
    assert record["inputs"][0]["path"] == str(atlas)
    # In RAS: the left hip lies at negative x, the pubis in front of the sacrum.
    assert model.landmarks["FH-l"][0] < -60
    assert model.landmarks["SPS-r"][1] > model.mean[model.range_of("sacrum")][:, 1].max()


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def offered(atlas, tmp_path, monkeypatch):
    """The atlas as the sample of its name, on a server of this machine; the table of samples names it."""
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("DIFFRENDER_CACHE", str(tmp_path / "cache"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(atlas)))
    lines = ["sample,url,sha256,bytes,licence,citation,what,file"]
    for file in sorted(atlas.rglob("*.vtk")):
        name, content = file.relative_to(atlas).as_posix(), file.read_bytes()
        url, told = f"http://127.0.0.1:{server.server_address[1]}/{name}", "CC BY 4.0,Han et al.,an atlas"
        lines.append(f"pelvis-atlas,{url},{hashlib.sha256(content).hexdigest()},{len(content)},{told},{name}")
    (tmp_path / "samples.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    monkeypatch.setattr(samples, "TABLE", tmp_path / "samples.csv")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_published_atlas_is_fetched_once_and_built(typed, offered):
    words = ("fit", "model", "--sample", "pelvis-atlas", "--plain", "--modes", 2, "--exclude", "15,25", "-o")
    ended = typed(*words, "asked.h5")
    assert (ended.code, "add --yes" in ended.err, Path("asked.h5").exists()) == (2, True, False)
    ended = typed(*words, "p.h5", "--yes")
    assert ended.code == 0, ended.err
    assert "licence:  CC BY 4.0" in ended.out
    assert load_shape_model("p.h5").about["ids"] == [2, 3, 40]
    offered.shutdown()
    offered.server_close()
    assert typed(*words, "again.h5").code == 0  # it is here, so nobody asks and nothing is fetched
    samples.remove_samples("pelvis-atlas")
    ended = typed(*words, "no.h5", "--yes")
    assert (ended.code, Path("no.h5").exists()) == (1, False)
    assert "could not be fetched: no connection" in ended.err


@pytest.mark.parametrize("words", [["--exclude", 15, "--exclude", 25], ["--exclude", "15,25"]])
def test_subjects_are_left_out_in_several_ways_of_typing(typed, open_stdin, atlas, words):
    ended = typed("fit", "model", atlas, *words, "--plain", "--json", "-o", "p.h5", "--leave-one-out")
    assert ended.code == 0, ended.err
    result = ended.lines[-1]
    assert result["type"] == "result"
    assert result["about"]["ids"] == [2, 3, 40]
    assert [row["modes"] for row in result["left_out"]] == [5, 10, 15, 20, 30, 40, 60]
    assert all(0 < row["point"] < 30 for row in result["left_out"])
    shares = [result["compactness"][n] for n in sorted(result["compactness"], key=int)]
    assert shares == sorted(shares)


def test_arrays_give_the_same_model(typed, atlas, tmp_path):
    arrays = atlases.write_npz(tmp_path / "a.npz", atlases.pelves(5), [2, 3, 15, 25, 40])
    assert typed("fit", "model", atlas, "--plain", "-o", "a.h5").code == 0
    assert typed("fit", "model", arrays, "--plain", "-o", "b.h5").code == 0
    a, b = load_shape_model("a.h5"), load_shape_model("b.h5")
    assert torch.equal(a.mean, b.mean)
    assert np.array_equal(a.modes, b.modes)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([], "Say what to build from"),
        (["ATLAS", "--sample", "pelvis-atlas"], "Say what to build from"),
        (["--sample", "ct-abdomen"], "'ct-abdomen' is no sample to build a model from"),
        (["ATLAS", "--exclude", "two"], "takes numbers of subjects, as 15 or 15,25, not 'two'"),
        (["ATLAS", "--exclude", "11"], "has no subject 11 to leave out"),
        (["ATLAS", "--exclude", "2,3,15,25"], "1 subject was given"),
        (["ATLAS", "--exclude", "2,3,15,25,40"], "none was given"),
        (["ATLAS", "other.npz"], "are two atlases"),
        (["none.npz"], "does not exist"),
        (["ATLAS", "--modes", "0"], "modes=0 is not offered"),
        (["ATLAS", "-o", "model.vtk"], "no ending that can be written"),
    ],
)
def test_bad_input_ends_with_2(typed, atlas, words, found):
    ended = typed("fit", "model", *(atlas if word == "ATLAS" else word for word in words))
    assert ended.code == 2
    assert found in ended.err
