"""Sample data from a real server on this machine, with small files and a table of our own."""

import hashlib
import http.server
import threading
from pathlib import Path

import pytest

from diffrender import samples
from diffrender.errors import DownloadError, OutputError, PathError, SettingError

LEFT = b"left hip, subject 3\n" * 400
RIGHT = b"right hip, subject 3\n" * 300
CT = bytes(range(256)) * 3000


class _Handler(http.server.BaseHTTPRequestHandler):
    """Files by name; `cut` ones end half way, as a broken line does."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.asked.append(self.path)
        content = self.server.files.get(self.path)
        self.close_connection = True
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if self.path in self.server.cut else content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFRENDER_CACHE", str(tmp_path / "caché of samples"))
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.asked, server.cut = [], set()
    server.files = {"/v1/surface/left/L3.vtk": LEFT, "/v1/surface/right/R3.vtk": RIGHT, "/SHA256/0f0f": CT}
    server.table = tmp_path / "samples.csv"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    lines = ["sample,url,sha256,bytes,licence,citation,what,file"]
    for sample, path, size, file in (
        ("atlas", "/v1/surface/left/L3.vtk", len(LEFT), "surface/left/L3.vtk"),
        ("atlas", "/v1/surface/right/R3.vtk", len(RIGHT), "surface/right/R3.vtk"),
        ("chest", "/SHA256/0f0f", "", "CT-chest.nrrd"),
    ):
        sha256 = hashlib.sha256(server.files[path]).hexdigest()
        lines.append(f'{sample},{address}{path},{sha256},{size},CC BY 4.0,"Han et al., 2019",{sample} of ours,{file}')
    server.table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def files_below(folder: Path) -> list[str]:
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())


def test_a_sample_arrives_in_its_own_folders_and_is_counted(server):
    told = []
    folder = samples.get_sample("atlas", lambda done, total: told.append((done, total)), server.table)
    assert folder == samples.cache_folder() / "atlas"
    assert files_below(folder) == ["surface/left/L3.vtk", "surface/right/R3.vtk"]
    assert (folder / "surface/left/L3.vtk").read_bytes() == LEFT
    assert (folder / "surface/right/R3.vtk").read_bytes() == RIGHT
    total = len(LEFT) + len(RIGHT)
    assert told[-1] == (total, total)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_what_is_in_the_cache_needs_no_network(server):
    samples.get_sample("atlas", table=server.table)
    asked = list(server.asked)
    server.shutdown()
    server.server_close()
    folder = samples.get_sample("atlas", table=server.table)
    assert (folder / "surface/right/R3.vtk").read_bytes() == RIGHT
    assert server.asked == asked
    assert samples.is_here(samples.list_samples(server.table)[0])
    with pytest.raises(DownloadError, match=r"127\.0\.0\.1.*0f0f could not be fetched: no connection") as caught:
        samples.get_sample("chest", table=server.table)
    assert str(caught.value).count("\n") == 0
    assert files_below(samples.cache_folder()) == ["atlas/surface/left/L3.vtk", "atlas/surface/right/R3.vtk"]


def test_changed_bytes_are_refused_by_both_hashes(server):
    server.files["/v1/surface/right/R3.vtk"] = RIGHT.replace(b"subject 3", b"subject 4")
    expected = hashlib.sha256(RIGHT).hexdigest()
    found = hashlib.sha256(RIGHT.replace(b"subject 3", b"subject 4")).hexdigest()
    with pytest.raises(DownloadError, match=rf"R3\.vtk arrived changed: expected SHA256 {expected}.*found {found}"):
        samples.get_sample("atlas", table=server.table)
    assert files_below(samples.cache_folder()) == ["atlas/surface/left/L3.vtk"]  # it arrived whole, and is kept


def test_a_line_that_breaks_off_leaves_nothing_half(server):
    server.cut.add("/SHA256/0f0f")
    with pytest.raises(DownloadError, match=r"could not be fetched: no connection, or it broke off|arrived changed"):
        samples.get_sample("chest", table=server.table)
    assert files_below(samples.cache_folder()) == []
    server.cut.clear()
    assert (samples.get_sample("chest", table=server.table) / "CT-chest.nrrd").read_bytes() == CT


def test_ctrl_c_leaves_nothing_half_and_the_next_call_goes_on(server):
    def stop(done, total):
        if done > len(LEFT) + 1000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        samples.get_sample("atlas", stop, server.table)
    assert files_below(samples.cache_folder()) == ["atlas/surface/left/L3.vtk"]
    told = []
    samples.get_sample("atlas", lambda done, total: told.append((done, total)), server.table)
    assert server.asked.count("/v1/surface/left/L3.vtk") == 1
    assert told[0] == (len(LEFT), len(LEFT) + len(RIGHT))  # what was here already counts too
    assert told[-1] == (len(LEFT) + len(RIGHT), len(LEFT) + len(RIGHT))


def test_a_damaged_copy_in_the_cache_is_fetched_again(server):
    file = samples.get_sample("chest", table=server.table) / "CT-chest.nrrd"
    file.write_bytes(CT[:-1])
    assert samples.get_sample("chest", table=server.table).joinpath("CT-chest.nrrd").read_bytes() == CT


def test_a_file_that_moved_is_said_with_the_servers_answer(server):
    del server.files["/SHA256/0f0f"]
    with pytest.raises(DownloadError, match=r"0f0f could not be fetched: the server answered 404 Not Found"):
        samples.get_sample("chest", table=server.table)


def test_everything_is_said_before_anything_is_fetched(server):
    atlas, chest = samples.list_samples(server.table)
    text = samples.describe(atlas)
    for file in atlas.files:
        assert file.url in text
        assert file.sha256 in text
    assert "CC BY 4.0" in text
    assert "Han et al., 2019" in text
    assert atlas.size == len(LEFT) + len(RIGHT)
    assert "14.3 kB in 2 files" in text
    assert chest.size is None
    assert "size unknown in 1 file" in samples.describe(chest)
    assert server.asked == []


def test_removing_frees_the_cache_and_nothing_else(server):
    samples.get_sample("atlas", table=server.table)
    samples.get_sample("chest", table=server.table)
    other = samples.cache_folder() / "mine" / "keep.txt"
    other.parent.mkdir()
    other.write_text("not from the table")
    assert samples.remove_samples("chest", server.table) == len(CT)
    assert samples.remove_samples(table=server.table) == len(LEFT) + len(RIGHT)
    assert files_below(samples.cache_folder()) == ["mine/keep.txt"]
    assert samples.remove_samples(table=server.table) == 0


def test_an_unknown_name_lists_the_known_ones(server):
    with pytest.raises(SettingError, match=r"no sample 'chets'. There are atlas, chest. Did you mean chest\?"):
        samples.get_sample("chets", table=server.table)
    with pytest.raises(SettingError, match="no sample 'x'"):
        samples.remove_samples("x", server.table)


def test_a_file_where_the_cache_should_be(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("DIFFRENDER_CACHE", str(tmp_path / "file"))
    with pytest.raises(OutputError, match=r"file/samples/atlas cannot be written: .*DIFFRENDER_CACHE"):
        samples.get_sample("atlas", table=server.table)


@pytest.mark.parametrize("place", ["../outside.txt", "/etc/outside", "a/../../b", "C:outside"])
def test_a_table_cannot_write_outside_the_cache(tmp_path, place):
    table = tmp_path / "t.csv"
    table.write_text(
        f"sample,url,sha256,bytes,licence,citation,what,file\nx,http://127.0.0.1/x,{'0' * 64},1,l,c,w,{place}\n"
    )
    with pytest.raises(PathError, match="is no place inside the sample's folder"):
        samples.list_samples(table)


def test_a_table_without_its_columns(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("name,address\nx,y\n")
    with pytest.raises(PathError, match=r"t\.csv is no table of samples .*columns sample, url, sha256"):
        samples.list_samples(table)


def test_our_own_table():
    found = {sample.name: sample for sample in samples.list_samples()}
    assert {"pelvis-atlas", "ct-abdomen", "ct-dicom", "CTChest", "CTACardio"} <= set(found)
    atlas = found["pelvis-atlas"]
    assert len(atlas.files) == 120  # 40 subjects, three bones
    for side in ("left", "right", "sacrum"):
        assert sum(file.path.startswith(f"surface/{side}/") for file in atlas.files) == 40
    places = [(sample.name, file.path) for sample in found.values() for file in sample.files]
    assert len(set(places)) == len(places)
    for sample in found.values():
        assert sample.licence
        assert sample.citation
        for file in sample.files:
            assert int(file.sha256, 16) > 0
            assert file.url.startswith("https://")
            if "/SHA256/" in file.url:  # Slicer's own sample data carry their hash in the address
                assert file.url.endswith(file.sha256)
