"""What a bench found: a row for every promise, stored as JSON, printed, and written into docs/benchmarks.md."""

import datetime as dt
import importlib.metadata
import json
import os
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).with_name("results")
PAGE = REPOSITORY / "docs" / "benchmarks.md"
VERSIONS = ("torch", "numpy", "warp-lang", "diffdrr", "nanodrr", "triton")


@dataclass(frozen=True)
class Row:
    """One promise: what was asked, what came out, and whether it holds (None: shown for information alone)."""

    what: str
    asked: str
    measured: str
    holds: bool | None = None


@dataclass
class Result:
    """What one bench found: `rows` for the page; `figures` are the raw numbers behind them; `notes` say how."""

    rows: list[Row]
    figures: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def at_least(what: str, ratio: float, asked: float, unit: str = "x") -> Row:
    return Row(what, f"at least {asked:g}{unit}", f"{ratio:.3g}{unit}", ratio >= asked)


def at_most(what: str, value: float, asked: float, unit: str = "") -> Row:
    return Row(what, f"at most {asked:g}{unit}", f"{value:.3g}{unit}", value <= asked)


def store(name: str, result: Result, seconds: float) -> Path:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    data = {
        "bench": name,
        "date": dt.datetime.now(dt.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "seconds": round(seconds, 1),
        "machine": machine(),
        "versions": versions(),
        "rows": [asdict(row) for row in result.rows],
        "notes": result.notes,
        "figures": result.figures,
    }
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def machine() -> dict[str, Any]:
    info: dict[str, Any] = {"system": platform.platform(terse=True), "cpu": _cpu(), "cores": os.cpu_count()}
    if hasattr(os, "getloadavg"):
        info["load in the last minute, its own included"] = round(os.getloadavg()[0], 1)
    import torch

    if torch.cuda.is_available():
        info["gpu"] = torch.cuda.get_device_name()
    return info


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in VERSIONS:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def show(name: str, data: dict[str, Any]) -> None:
    print(f"\n{name}  ({data['date']}, {data['seconds']:.0f} s)")
    for row in data["rows"]:
        print(
            f"  {_verdict(row['holds']):4} {row['what']}: {row['measured']}"
            + (f"  ({row['asked']})" if row["asked"] else "")
        )
    for note in data["notes"]:
        print(f"       {note}")


def write_page(order: list[str]) -> None:
    """docs/benchmarks.md from all stored results, in the order of the benches."""
    stored = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in RESULTS.glob("*.json")}
    lines = [
        "# Benchmarks",
        "",
        "Written by `python run.py bench`, not by hand; the figures behind it lie in `Testing/benchmarks/results`.",
        "Contenders take turns in one process on one thread; times are the least CPU time of the process. Other work",
        "on the machine takes caches and memory from all of them, though not by the same factor: ratios found under a",
        "load well above 1 are rough. `python run.py bench NAME` runs one bench and rewrites its part.",
        "",
    ]
    for name in [n for n in order if n in stored]:
        lines += _section(name, stored[name])
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _section(name: str, data: dict[str, Any]) -> list[str]:
    table = [
        f"| {row['what']} | {row['asked']} | {row['measured']} | {_verdict(row['holds'])} |" for row in data["rows"]
    ]
    info = ", ".join(f"{key} {value}" for key, value in data["versions"].items())
    where = ", ".join(f"{key}: {value}" for key, value in data["machine"].items())
    notes = [f"{note}  " for note in data["notes"]]
    head = ["| what | asked | measured | |", "| --- | --- | --- | --- |"]
    return [f"## {name}", "", *head, *table, "", *notes, f"{data['date']}; {where}; {info}.", ""]


def _verdict(holds: bool | None) -> str:
    return {True: "yes", False: "NO", None: ""}[holds]


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
