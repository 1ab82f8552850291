"""Where a data set lies: a folder, or what fsspec reaches; held by one writer at a time."""

import json
import time

import pytest

from diffrender.errors import BackendError, OutputError, PathError
from diffrender.synth import store as stores
from diffrender.synth.store import LOCK, Store, fetched, is_remote


@pytest.fixture(params=["folder", "memory"])
def store(request, tmp_path):
    if request.param == "folder":
        return Store(str(tmp_path / "Sätze 1"))
    fsspec = pytest.importorskip("fsspec")
    fsspec.filesystem("memory").store.clear()
    return Store("memory://bucket/sets")


def test_what_is_written_is_read_listed_and_removed(store):
    store.write("images/b.png", b"two")
    store.write("images/a.png", b"one")
    store.write("images/a.txt", b"other")
    store.write("top.json", b"{}")
    assert store.read("images/b.png") == b"two"
    assert store.names("images", ".png") == ["a.png", "b.png"]
    assert store.names("", ".json") == ["top.json"]
    assert store.has("top.json")
    assert not store.has("images")
    store.remove("images/a.png", "images/b.png", "images/a.txt", "images/never.png")
    assert store.names("images") == []
    assert store.names("nowhere") == []


def test_what_is_not_there_is_named(store):
    with pytest.raises(PathError, match=r"images/none\.png.*not there"):
        store.read("images/none.png")


def test_an_emptied_folder_goes_and_a_full_one_stays(tmp_path):
    store = Store(str(tmp_path))
    store.write(".parts/a.json", b"")
    store.write("images/a.png", b"")
    store.write("images/b.png", b"")
    store.remove(".parts/a.json", "images/a.png")
    assert not (tmp_path / ".parts").exists()
    assert (tmp_path / "images" / "b.png").exists()


def test_what_a_killed_writer_left_is_swept_away_and_nothing_else(tmp_path):
    store = Store(str(tmp_path))
    store.write("images/a.png", b"whole")
    (tmp_path / "images" / ".diffrender-0123456789ab.part").write_bytes(b"half")
    store.sweep()
    assert [file.name for file in (tmp_path / "images").iterdir()] == ["a.png"]


def test_two_writers_are_kept_apart(store):
    with store.held("A data set"), pytest.raises(OutputError, match="A data set is writing"), store.held("A data set"):
        pass
    with store.held("A data set"):  # and afterwards it is free
        pass


def test_a_far_writer_that_gives_no_more_signs_of_life_has_ended():
    pytest.importorskip("fsspec").filesystem("memory").store.clear()
    store = Store("memory://bucket/left")
    store.write(LOCK, json.dumps({"run": "x", "time": time.time() - stores.SILENT + 5}).encode())
    with pytest.raises(OutputError, match="killed"), store.held("A data set"):
        pass
    store.write(LOCK, json.dumps({"run": "x", "time": time.time() - stores.SILENT - 1}).encode())
    with store.held("A data set"):
        assert json.loads(store.read(LOCK))["run"] != "x"
    assert not store.has(LOCK)


def test_a_far_writer_gives_signs_of_life(monkeypatch):
    pytest.importorskip("fsspec").filesystem("memory").store.clear()
    monkeypatch.setattr(stores, "BEAT", 0.02)
    store = Store("memory://bucket/beating")
    with store.held("A data set"):
        first = json.loads(store.read(LOCK))["time"]
        for _ in range(100):
            time.sleep(0.02)
            if json.loads(store.read(LOCK))["time"] > first:
                break
        else:
            pytest.fail("no sign of life in two seconds")


def test_a_protocol_that_nobody_knows_is_refused():
    pytest.importorskip("fsspec")
    with pytest.raises((BackendError, PathError), match="nowhere://"):
        Store("nowhere://bucket").write("a", b"")


def test_inputs_behind_a_url_are_fetched(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pipe_file("/ct/head.nii.gz", b"voxels")
    with fetched("memory://ct/head.nii.gz") as path:
        assert path.endswith("head.nii.gz")
        with open(path, "rb") as file:
            assert file.read() == b"voxels"
    with fetched("memory://ct") as path, open(f"{path}/head.nii.gz", "rb") as file:
        assert file.read() == b"voxels"
    with pytest.raises(PathError, match="not there"), fetched("memory://ct/none.nii.gz"):
        pass
    with fetched(str(tmp_path)) as path:
        assert path == str(tmp_path)


def test_a_drive_of_windows_is_no_protocol():
    assert not is_remote(r"C:\Daten\ct")
    assert is_remote("s3://bucket/ct")
