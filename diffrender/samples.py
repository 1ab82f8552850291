"""Sample data: a table of public files with their hashes, fetched when asked for, in a cache that can be emptied."""

import csv
import difflib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pooch
import requests
from pooch import file_hash

from diffrender.errors import DownloadError, OutputError, PathError, SettingError

TABLE = Path(__file__).with_name("data") / "samples.csv"
CACHE_VARIABLE = "DIFFRENDER_CACHE"
BLOCK = 1 << 16
# Seconds to connect, and between two pieces of a file: a line that is silent for longer is taken for dead.
TIMEOUT = (10, 60)


@dataclass(frozen=True)
class SampleFile:
    """One file of a sample. `path` is its place in the sample's folder; `bytes` is None where the size is unknown."""

    path: str
    url: str
    sha256: str
    bytes: int | None


@dataclass(frozen=True)
class Sample:
    """Public data to try things on; `files` are what is fetched, the rest what one must know before."""

    name: str
    files: tuple[SampleFile, ...]
    licence: str
    citation: str
    what: str

    @property
    def size(self) -> int | None:
        """All files together [bytes]; None where one of them is unknown."""
        sizes = [file.bytes for file in self.files]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    def __str__(self) -> str:
        return describe(self)


def list_samples(table: str | Path | None = None) -> list[Sample]:
    """All samples of the table, in its order; `table` is the CSV, by default the one that comes with DiffRender.

    Raises: PathError where the table cannot be read.
    """
    table = table or TABLE
    rows: dict[str, list[dict[str, str]]] = {}
    try:
        with Path(table).open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                rows.setdefault(row["sample"], []).append(row)
        return [_sample(name, entries) for name, entries in rows.items()]
    except (OSError, KeyError, ValueError, TypeError) as problem:
        raise PathError(
            f"{table} is no table of samples ({problem}). It needs the columns sample, url, sha256, bytes, licence, "
            "citation, what and, optionally, file; install DiffRender again if this is its own."
        ) from None


def describe(sample: Sample) -> str:
    """What to show before anything is fetched: what it is, licence, citation, size, and each file's URL and SHA256."""
    count = "1 file" if len(sample.files) == 1 else f"{len(sample.files)} files"
    lines = [
        f"{sample.name}: {sample.what}",
        f"licence:  {sample.licence}",
        f"citation: {sample.citation}",
        f"size:     {_size_in_words(sample.size)} in {count}",
    ]
    for file in sample.files:
        lines += [f"  {file.url}", f"    SHA256 {file.sha256}, {_size_in_words(file.bytes)}"]
    return "\n".join(lines)


def cache_folder() -> Path:
    """Where samples are kept: `DIFFRENDER_CACHE`, by default the platform's cache folder."""
    return Path(os.environ.get(CACHE_VARIABLE) or pooch.os_cache("diffrender")) / "samples"


def is_here(sample: Sample) -> bool:
    """Whether all files of the sample are in the cache; their hashes are checked by `get_sample`."""
    return all((cache_folder() / sample.name / file.path).is_file() for file in sample.files)


def get_sample(
    name: str, progress: Callable[[int, int | None], None] | None = None, table: str | Path | None = None
) -> Path:
    """The folder of a sample, fetched unless it is in the cache already; then no network is needed.

    Args:
        name: as in `list_samples()`. Show `describe(sample)` first: this fetches without asking.
        progress: called with the bytes done and all bytes, None where the size is unknown.
        table: another CSV of samples.
    Raises: SettingError for a name that is not in the table; DownloadError where a file did not arrive or arrived
        changed; OutputError where the cache cannot be written. Files that arrived whole stay, half ones never do.
    """
    sample = _named(name, table)
    folder = cache_folder() / sample.name
    store = pooch.create(
        folder,
        base_url="",
        registry={file.path: f"sha256:{file.sha256}" for file in sample.files},
        urls={file.path: file.url for file in sample.files},
    )
    pooch.get_logger().setLevel("WARNING")
    count = _Count(progress, sample.size)
    for file in sample.files:
        try:
            store.fetch(file.path, downloader=_downloader(file, count))  # pyright: ignore[reportArgumentType]
        except requests.RequestException as problem:
            raise DownloadError(_not_arrived(file, problem)) from None
        except OSError as problem:
            raise OutputError(
                f"{folder} cannot be written: {problem.strerror or problem}. Free some space, or name another folder "
                f"in {CACHE_VARIABLE}."
            ) from None
        count.file_is_here(file)
    return folder


def remove_samples(name: str | None = None, table: str | Path | None = None) -> int:
    """Remove one sample from the cache, or all. Returns: the bytes freed.

    Only folders of samples in the table are touched: the cache's place may be one that holds other things.
    Raises: SettingError for a name that is not in the table, OutputError where a file cannot be removed.
    """
    samples = list_samples(table) if name is None else [_named(name, table)]
    freed = 0
    for folder in [cache_folder() / sample.name for sample in samples]:
        try:
            freed += sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file())
            shutil.rmtree(folder, ignore_errors=False) if folder.exists() else None
        except OSError as problem:
            raise OutputError(
                f"{folder} cannot be removed: {problem.strerror}. Close what uses it, and try again."
            ) from None
    return freed


class _Count:
    """Bytes over all files of a sample, so that a bar runs once from end to end."""

    def __init__(self, progress: Callable[[int, int | None], None] | None, total: int | None):
        self.progress, self.total, self.before, self.now = progress, total, 0, 0

    def arrived(self, size: int) -> None:
        self.now += size
        self._say()

    def file_is_here(self, file: SampleFile) -> None:
        """From the network or from the cache: a file counts once, with its full size."""
        self.before += self.now if file.bytes is None else file.bytes
        self.now = 0
        self._say()

    def _say(self) -> None:
        if self.progress is not None:
            self.progress(self.before + self.now, self.total)


def _downloader(file: SampleFile, count: _Count) -> Callable[[str, Any, Any], None]:
    """For pooch, which hands it a temporary file and moves that to its place only if nothing is raised here."""

    def download(url: str, output: Any, _: Any) -> None:
        with requests.get(url, stream=True, timeout=TIMEOUT) as answer, Path(output).open("wb") as part:
            answer.raise_for_status()
            for block in answer.iter_content(BLOCK):
                part.write(block)
                count.arrived(len(block))
        found, size = file_hash(str(output)), Path(output).stat().st_size
        if found != file.sha256:
            raise DownloadError(
                f"{url} arrived changed: expected SHA256 {file.sha256} ({_size_in_words(file.bytes)}), found {found} "
                f"({_size_in_words(size)}). It was cut short on the way or is another file now, so nothing of it was "
                "kept. Try again; if the hash found stays the same, its owner has changed it: do not use it."
            )

    return download


def _not_arrived(file: SampleFile, problem: requests.RequestException) -> str:
    answer = problem.response
    if answer is not None:
        found = f"the server answered {answer.status_code} {answer.reason}"
        advice = "It may have moved; look for a newer DiffRender, or try again later."
    elif isinstance(problem, requests.Timeout):
        found, advice = "the server did not answer in time", "Try again later."
    elif isinstance(problem, requests.exceptions.SSLError):
        found, advice = "its certificate is not trusted", "A proxy may stand between; ask who runs the network."
    elif isinstance(problem, requests.ConnectionError | requests.exceptions.ChunkedEncodingError):
        found = "no connection, or it broke off"
        advice = "Check the network and its proxy, and try again; what has arrived whole is kept."
    else:
        found, advice = type(problem).__name__, "Check the network and its proxy, and try again."
    return f"{file.url} could not be fetched: {found}. Nothing half-fetched was kept. {advice}"


def _named(name: str, table: str | Path | None) -> Sample:
    samples = {sample.name: sample for sample in list_samples(table)}
    if name not in samples:
        close = difflib.get_close_matches(name, samples, n=1, cutoff=0.5)
        raise SettingError(
            f"There is no sample {name!r}. There are {', '.join(samples)}."
            + (f" Did you mean {close[0]}?" if close else "")
        )
    return samples[name]


def _sample(name: str, rows: list[dict[str, str]]) -> Sample:
    files = tuple(
        SampleFile(
            _inside(row.get("file") or row["url"].rsplit("/", 1)[1]),
            row["url"],
            row["sha256"].lower(),
            int(row["bytes"]) if row["bytes"] else None,
        )
        for row in rows
    )
    if any(len(file.sha256) != 64 for file in files):
        raise ValueError(f"a file of {name} has no SHA256")
    once = {key: "; ".join(dict.fromkeys(row[key] for row in rows)) for key in ("licence", "citation", "what")}
    return Sample(_inside(name), files, **once)


def _inside(path: str) -> str:
    """`path`, refused where it would lead out of the sample's folder."""
    if (
        PurePosixPath(path).is_absolute()
        or ".." in PurePosixPath(path).parts
        or "\\" in path
        or ":" in path
        or not path
    ):
        raise ValueError(f"{path!r} is no place inside the sample's folder")
    return path


def _size_in_words(size: int | None) -> str:
    if size is None:
        return "size unknown"
    return f"{size} bytes" if size < 1000 else f"{size / 1000:.1f} kB" if size < 1e6 else f"{size / 1e6:.1f} MB"
