"""The bench command: its table of benches and the page that it writes. The benches themselves are not run by tests."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks import report

BENCH = Path(report.__file__).with_name("run.py")


def bench(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(BENCH), *arguments], capture_output=True, text=True, check=False)


def test_each_bench_is_named_and_its_function_is_there():
    listed = bench("--list")
    assert listed.returncode == 0
    names = [line.split()[0] for line in listed.stdout.splitlines()]
    assert names[:2] == ["pose-256", "pose-512"]
    tree = ast.parse(BENCH.read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "Bench"]
    assert len(calls) == len(names)
    for module, function in ((call.args[0].value, call.args[1].value) for call in calls):
        source = ast.parse(BENCH.with_name(f"{module}.py").read_text(encoding="utf-8"))
        assert function in [node.name for node in source.body if isinstance(node, ast.FunctionDef)]


def test_an_unknown_bench_is_refused_by_name():
    refused = bench("pose-257")
    assert refused.returncode == 2
    assert "there is no bench pose-257; there are pose-256" in refused.stderr


def test_the_page_shows_every_row_and_its_verdict(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(report, "PAGE", tmp_path / "docs" / "benchmarks.md")
    rows = [report.at_least("speed", 5.43, 6), report.at_most("error", 0.1234, 0.2, " %"), report.Row("seen", "", "7")]
    path = report.store("second", report.Result(rows, {"a": 1.5}, ["How it was done."]), 12.34)
    report.store("first", report.Result([report.Row("x", "y", "z", True)]), 1)
    report.write_page(["first", "second", "third"])
    page = report.PAGE.read_text(encoding="utf-8")
    assert page.index("## first") < page.index("## second")
    assert "third" not in page
    assert "| speed | at least 6x | 5.43x | NO |" in page
    assert "| error | at most 0.2 % | 0.123 % | yes |" in page
    assert "| seen |  | 7 |  |" in page
    assert "How it was done." in page
    assert "torch 2." in page
    report.show("second", json.loads(path.read_text(encoding="utf-8")))
    assert "NO   speed: 5.43x  (at least 6x)" in capsys.readouterr().out


def test_the_committed_page_is_what_the_stored_results_say(tmp_path, monkeypatch):
    if not report.PAGE.exists():
        pytest.skip("docs/benchmarks.md has not been written yet: `python run.py bench`")
    written = report.PAGE.read_text(encoding="utf-8")
    order = [line.split()[0] for line in bench("--list").stdout.splitlines()]
    monkeypatch.setattr(report, "PAGE", tmp_path / "benchmarks.md")
    report.write_page(order)
    assert report.PAGE.read_text(encoding="utf-8") == written
