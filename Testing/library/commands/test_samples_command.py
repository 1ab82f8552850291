"""`diffrender samples` and `demo`, with a real server on this machine and a table of our own."""

import hashlib
import http.server
import io
import json
import re
import subprocess
import threading
import time
from pathlib import Path

import pytest

LEFT = b"left hip, subject 3\n" * 4000
TABLED = """
import sys
from pathlib import Path
import diffrender.samples
diffrender.samples.TABLE = Path(sys.argv.pop(1))
from diffrender.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", str(len(LEFT)))
        self.end_headers()
        try:
            for start in range(0, len(LEFT), len(LEFT) // 40):
                self.wfile.write(LEFT[start : start + len(LEFT) // 40])
                time.sleep(self.server.pause)
        except OSError:  # who asked has gone
            pass

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFRENDER_CACHE", str(tmp_path / "caché"))
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads, server.asked, server.pause = True, [], 0.0
    server.table = tmp_path / "samples.csv"
    url = f"http://127.0.0.1:{server.server_address[1]}/L3.vtk"
    row = f'atlas,{url},{hashlib.sha256(LEFT).hexdigest()},{len(LEFT)},CC BY 4.0,"Han et al., 2019",one hip,L3.vtk'
    server.table.write_text(f"sample,url,sha256,bytes,licence,citation,what,file\n{row}\n", encoding="utf-8")
    monkeypatch.setattr("diffrender.samples.TABLE", server.table)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_list_get_and_remove(typed, server, tmp_path):
    listed = typed("samples", "list")
    assert listed.code == 0
    for word in ("atlas", "0.1 MB", "one hip", "CC BY 4.0", "Han et al., 2019", str(tmp_path / "caché" / "samples")):
        assert word in listed.out
    assert typed("samples", "list", "--json").lines[-1]["samples"][0]["here"] is False
    assert server.asked == []  # to list is not to fetch

    got = typed("samples", "get", "atlas", "--yes")
    assert got.code == 0
    before, _, after = got.out.partition("It is here:\n")
    for word in ("http://127.0.0.1", "/L3.vtk", hashlib.sha256(LEFT).hexdigest(), "CC BY 4.0", "Han et al., 2019"):
        assert word in before
    assert Path(after.rstrip(), "L3.vtk").read_bytes() == LEFT
    assert typed("samples", "get", "atlas").code == 0  # it is here: nothing to ask, nothing to fetch
    assert server.asked == ["/L3.vtk"]

    removed = typed("samples", "remove", "atlas", "--json").lines[-1]
    assert removed["freed"] == len(LEFT)
    assert typed("samples", "list", "--json").lines[-1]["samples"][0]["here"] is False


def test_json_tells_before_it_fetches_and_does_not_ask(started, server):
    process = started(server.table, "samples", "get", "atlas", "--json", script=TABLED, stdin=subprocess.PIPE)
    lines = [json.loads(line) for line in process.stdout]
    assert process.wait(60) == 0
    process.stdin.close()
    assert lines[0]["type"] == "notice"
    assert "CC BY 4.0" in lines[0]["message"]
    assert {line["type"] for line in lines[1:-1]} == {"progress"}
    assert lines[-2]["done"] == lines[-2]["total"] == len(LEFT)
    assert lines[-1]["licence"] == "CC BY 4.0"
    assert Path(lines[-1]["folder"], "L3.vtk").read_bytes() == LEFT


def test_cancel_stops_a_download_and_keeps_nothing_half_fetched(started, server, tmp_path):
    server.pause = 0.5  # 20 s for the whole
    process = started(server.table, "samples", "get", "atlas", "--json", script=TABLED, stdin=subprocess.PIPE)
    while json.loads(process.stdout.readline())["type"] != "progress":
        pass
    process.stdin.write("cancel\n")
    process.stdin.flush()
    last = [json.loads(line) for line in process.stdout][-1]
    assert process.wait(60) == 130
    assert (last["type"], last["exit_code"]) == ("error", 130)
    assert "type the same command" in last["message"]
    assert [file for file in (tmp_path / "caché").rglob("*") if file.is_file()] == []


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["get", "atlas"], 2, "Fetch it.*add --yes"),  # no terminal, nobody to ask
        (["get", "atlus", "--yes"], 2, "There is no sample 'atlus'; there are atlas"),
        (["remove"], 2, "which sample to remove, or --all"),
        (["remove", "atlas", "--all"], 2, "one of the two"),
        (["remove", "atlus"], 2, "There is no sample 'atlus'"),
        (["remove", "--all"], 0, ""),
    ],
)
def test_what_is_asked_wrongly(typed, server, monkeypatch, words, code, message):
    monkeypatch.setattr("sys.stdin", io.StringIO())
    ended = typed("samples", *words)
    assert ended.code == code
    assert re.search(message, ended.err, re.DOTALL)
    assert server.asked == []


def test_no_network_ends_with_1_and_a_sentence(typed, server):
    text = server.table.read_text(encoding="utf-8").replace(f":{server.server_address[1]}/", ":9/")
    server.table.write_text(text, encoding="utf-8")  # port 9 discards; nobody listens there
    ended = typed("samples", "get", "atlas", "--yes")
    assert ended.code == 1
    assert "could not be fetched: no connection" in ended.err
    assert typed("samples", "get", "atlas", "--json").lines[-1]["kind"] in ("DownloadError", "Stopped")


def test_demo_refuses_what_is_not_there(typed, patient):
    assert "does not exist" in typed("demo", "--ct", "none.nii").err
    ended = typed("demo", "--labels", patient.labels)
    assert ended.code == 2
    assert "belongs to a CT" in ended.err
    Path("file").write_text("x", encoding="utf-8")
    assert "file/demo cannot be written to: file is a file, no folder" in typed("demo", "-o", "file/demo").err
    assert sorted(Path().iterdir()) == [Path("file")]


def test_demo_writes_over_nothing_that_it_reads_and_takes_no_empty_path(typed, patient):
    assert "--ct is an empty text, no path" in typed("demo", "--ct", "").err
    assert "--out is an empty text, no path" in typed("demo", "-o", "").err
    Path("index.html").write_text("mine", encoding="utf-8")
    ended = typed("demo", "--ct", ".", "-o", ".")
    assert ended.code == 2
    assert "index.html belongs to ., which is read" in ended.err
    assert [file.name for file in Path().iterdir()] == ["index.html"]
