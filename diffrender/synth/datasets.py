"""Data sets: radiographs of CTs from many views, each with its labels, in one folder.

An image is a function of its CT, its view and the seed alone, whatever the order, the number of processes or the day.
So a data set that was stopped, or killed, goes on where it was and ends as the same bytes. While it is being made,
`.parts` holds a record for each image that is done; at the end they become `manifest.jsonl`.
"""

import hashlib
import json
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from diffrender.errors import PathError, SettingError, notify
from diffrender.jobs import Job, Progress
from diffrender.pool import in_pool
from diffrender.provenance import plain
from diffrender.synth.balance import Seen, chosen, views_looked_at
from diffrender.synth.cases import Case, Known, known
from diffrender.synth.coco import COCO, coco_of
from diffrender.synth.imaging import RECORDS, Imaging, Piece, made, shown_in_views
from diffrender.synth.manifest import MANIFEST, SPLITS, Entry, lines_of
from diffrender.synth.store import Store
from diffrender.volume import Volume

SETTINGS = "dataset.json"
LISTED = 8  # names in a message
PIECE = 8  # images in one hand: what is lost with a process, and done again

Work = Callable[[Callable[[Piece], list[str]], Sequence[Piece], int], Iterable[tuple[Piece, list[str]]]]


@dataclass(frozen=True)
class DatasetSettings:
    """What a data set is made of.

    Attributes:
        views: images of each CT.
        seed: of views, noise and splits.
        imaging: how an image is taken and written.
        splits: shares of patients for train, val and test.
        balance: {label's name: share of the images that show it}; `views` is then the mean of a CT.
    Raises: SettingError.
    """

    views: int = 10
    seed: int = 0
    imaging: Imaging = field(default_factory=Imaging)
    splits: tuple[float, float, float] = (0.8, 0.1, 0.1)
    balance: Mapping[str, float] | None = None

    def __post_init__(self):
        if self.views < 1:
            raise SettingError(f"views is 1 or more, for each CT; not {self.views}.")
        if len(self.splits) != 3 or any(not share >= 0 for share in self.splits) or abs(sum(self.splits) - 1) > 1e-6:
            raise SettingError(
                f"splits are three shares of the patients, for {', '.join(SPLITS)}, that add up to 1; "
                f"not {self.splits}."
            )
        wrong = {name: share for name, share in (self.balance or {}).items() if not 0 <= share <= 1}
        if wrong:
            raise SettingError(f"A label's share of the images lies between 0 and 1; not {wrong}.")


@dataclass(frozen=True)
class Dataset:
    """A data set that is complete: where it lies, and its entries in the manifest's order."""

    url: str
    entries: tuple[Entry, ...]

    def of(self, split: str) -> list[Entry]:
        return [entry for entry in self.entries if entry["split"] == split]


def dataset(
    cases: Sequence[Case | Volume | str | Path],
    folder: str | Path,
    settings: DatasetSettings | None = None,
    workers: int = 1,
    ray: str | None = None,
) -> Job[Dataset]:
    """Radiographs of CTs with their labels, as many as wanted.

    Args:
        cases: CTs with their labels: a `Case`, a volume, or the path of a CT without labels.
        folder: local, or `s3://...`, `gs://...` through fsspec. One that holds a part of the same data set is
            completed, and more views or CTs than it was begun with are added.
        workers: processes of this machine; 1 stays in this one.
        ray: address of a Ray cluster, "auto" or "host:port", which does the work instead; `folder` and the CTs then lie
            where all its nodes reach them.
    Returns: a job; its steps are images.
    Raises: SettingError; PathError for a folder with another data set; and, when it runs, OutputError where another
        writer is at work or the disk is full, and whatever reading a CT raises.
    """
    settings = DatasetSettings() if settings is None else settings
    if not cases:
        raise SettingError("A data set needs one CT or more.")
    if workers < 1:
        raise SettingError(f"workers is the number of processes, 1 or more; not {workers}.")
    all_cases = tuple(_case(one) for one in cases)
    if ray is not None:
        from diffrender.synth.cluster import in_cluster, reached

        reached(ray)
        return Job(_steps(all_cases, str(folder), settings, in_cluster(ray), workers))
    return Job(_steps(all_cases, str(folder), settings, _one_by_one if workers == 1 else in_pool, workers))


def _case(one: Case | Volume | str | Path) -> Case:
    if isinstance(one, Case):
        return one
    return Case(str(one)) if isinstance(one, str | Path) else Case(one)


def _steps(
    cases: Sequence[Case], url: str, settings: DatasetSettings, work: Work, workers: int
) -> Generator[Progress, None, Dataset]:
    store = Store(url)
    yield Progress(0, 0)
    looked_at = _distinct([known(case) for case in cases])
    with store.held("Another data set"):
        store.sweep()
        _begin(store, settings, looked_at)
        wanted = yield from _wanted(settings, looked_at)
        done = {name.removesuffix(".json") for name in store.names(RECORDS, ".json")}
        total = sum(len(views) for _, views in wanted)
        if _complete(store, settings, wanted):
            yield Progress(total, total)
            return Dataset(url, tuple(_entries(store)))
        pieces = _pieces(wanted, done, settings, url, workers)
        count, hidden = total - sum(len(piece.views) for piece in pieces), {}
        yield Progress(count, total)
        for piece, unseen in work(made, pieces, workers):
            count += len(piece.views)
            before = hidden.get(piece.case, unseen)
            hidden[piece.case] = [name for name in unseen if name in before]
            yield Progress(count, total)
        _say_hidden(hidden)
        return _finished(store, settings, wanted)


def _one_by_one(
    work: Callable[[Piece], list[str]], pieces: Sequence[Piece], workers: int
) -> Generator[tuple[Piece, list[str]], None, None]:
    """In this process, an image at a time, so that a cancel need not wait for more."""
    for piece in pieces:
        for view in piece.views:
            one = replace(piece, views=(view,))
            yield one, work(one)


def _distinct(cases: Sequence[Known]) -> tuple[Known, ...]:
    """In the order of their hashes, so that nobody's order of typing matters; one given twice counts once."""
    by_hash = {case.key: case for case in cases}
    if len(by_hash) < len(cases):
        notify(f"{len(cases) - len(by_hash)} of {len(cases)} CTs were given twice and count once.")
    prefixes = {case.name for case in by_hash.values()}
    assert len(prefixes) == len(by_hash), "two hashes begin alike"
    return tuple(by_hash[key] for key in sorted(by_hash))


def _begin(store: Store, settings: DatasetSettings, cases: Sequence[Known]) -> None:
    """Keep what the data set is made of, or see that it is what is there. Raises: PathError."""
    now = _description(settings, cases)
    if store.has(SETTINGS):
        try:
            before = json.loads(store.read(SETTINGS))
        except ValueError:
            before = None
        if not isinstance(before, dict):
            raise PathError(f"{store.place(SETTINGS)} is broken. Delete the folder, or give another.")
        _check_grows(store, before, now)
    elif store.has(MANIFEST):
        raise PathError(
            f"{store.url} holds a {MANIFEST} that was not made here, which would be overwritten. Choose another folder."
        )
    store.write(SETTINGS, (json.dumps(now, indent=1, sort_keys=True) + "\n").encode())


def _description(settings: DatasetSettings, cases: Sequence[Known]) -> dict[str, Any]:
    """What decides on the images; no path, no time, no number of workers."""
    return json.loads(json.dumps({"format": 1, **plain(settings), "cts": [case.key for case in cases]}))


def _check_grows(store: Store, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """More views or CTs are welcome: what is there stays as it is."""
    grows = {"views", "cts"} if not now["balance"] else set()
    other = [key for key in sorted({*before, *now} - grows) if before.get(key) != now.get(key)]
    if before.get("views", 0) > now["views"]:
        other.append("views (fewer)")
    if gone := set(before.get("cts", ())) - set(now["cts"]):
        other.append(f"cts ({len(gone)} that it holds are not among those given)")
    if other:
        raise PathError(
            f"{store.url} holds a data set made otherwise: {', '.join(other)} differ. Choose another folder, or give "
            f"what {SETTINGS} there says."
        )


def _wanted(
    settings: DatasetSettings, cases: Sequence[Known]
) -> Generator[Progress, None, list[tuple[Known, tuple[int, ...]]]]:
    """The views of each CT; where they are chosen by what they show, the steps are CTs looked at."""
    if not settings.balance:
        return [(case, tuple(range(settings.views))) for case in cases]
    names, count = list(settings.balance), settings.views * len(cases)
    seen = []
    for case in cases:
        looked_at = views_looked_at(count, len(cases))
        seen.append(Seen(case.key, shown_in_views(case, names, looked_at, settings.seed, settings.imaging)))
        yield Progress(0, 0)
    return list(zip(cases, chosen(seen, settings.balance, count), strict=True))


def _pieces(
    wanted: Sequence[tuple[Known, tuple[int, ...]]], done: set[str], settings: DatasetSettings, url: str, workers: int
) -> list[Piece]:
    pieces = []
    for case, views in wanted:
        left = [view for view in views if case.image(view) not in done]
        size = max(1, min(PIECE, -(-len(left) // workers)))
        for n in range(0, len(left), size):
            pieces.append(Piece(case, tuple(left[n : n + size]), settings.imaging, settings.seed, url))
    return pieces


def _complete(store: Store, settings: DatasetSettings, wanted: Sequence[tuple[Known, tuple[int, ...]]]) -> bool:
    """Whether the manifest already holds just these images, and nothing is left to be cleared."""
    if not store.has(MANIFEST) or store.names(RECORDS):
        return False
    names = {entry["name"] for entry in _entries(store)}
    return names == {case.image(view) for case, views in wanted for view in views}


def _entries(store: Store) -> list[Entry]:
    return [json.loads(line) for line in store.read(MANIFEST).decode("utf-8").splitlines()]


def _say_hidden(hidden: Mapping[Known, Sequence[str]]) -> None:
    for case, names in hidden.items():
        if names:
            more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
            notify(
                f"{case.case.title}: {', '.join(names[:LISTED])}{more} {'do' if len(names) > 1 else 'does'} not show "
                "in any of the views made now: out of the picture, or too thin. Their masks are empty."
            )


def _finished(store: Store, settings: DatasetSettings, wanted: Sequence[tuple[Known, tuple[int, ...]]]) -> Dataset:
    """Gather the records into the manifest. Stopped anywhere in between, the next run does the same again."""
    earlier = {entry["name"]: entry for entry in _entries(store)} if store.has(MANIFEST) else {}
    splits = split_of({case.key: case.patient for case, _ in wanted}, settings)
    entries, parts = [], []
    for case, views in wanted:
        for view in views:
            name = case.image(view)
            part = f"{RECORDS}/{name}.json"
            entry = earlier.get(name) or json.loads(store.read(part))
            entries.append({**entry, "split": splits[case.key]})
            parts.append(part)
    store.write(COCO, coco_of(entries))
    store.write(MANIFEST, lines_of(entries))
    store.remove(*parts)
    return Dataset(store.url, tuple(entries))


def split_of(patients: Mapping[str, str], settings: DatasetSettings) -> dict[str, str]:
    """The split of each CT: all CTs of a patient are in one, whatever order they come in.

    Patients are shuffled by the seed and shared out; each split that has a share gets one patient at least, as far as
    they reach, train first.
    """

    def place(patient: str) -> str:
        return hashlib.sha256(f"{settings.seed} {patient}".encode()).hexdigest()

    shuffled = sorted(set(patients.values()), key=place)
    counts = _shared_out(len(shuffled), settings.splits)
    names = [name for name, count in zip(SPLITS, counts, strict=True) for _ in range(count)]
    found = dict(zip(shuffled, names, strict=True))
    return {ct: found[patient] for ct, patient in patients.items()}


def _shared_out(count: int, shares: Sequence[float]) -> list[int]:
    """Whole numbers that add up to `count`, nearest to the shares (largest remainder), none 0 where it need not be."""
    exact = [share * count for share in shares]
    counts = [int(number) for number in exact]
    for n in sorted(range(len(shares)), key=lambda n: counts[n] - exact[n])[: count - sum(counts)]:
        counts[n] += 1
    for n, share in enumerate(shares):
        richest = max(range(len(shares)), key=lambda m: counts[m])
        if share > 0 and counts[n] == 0 and counts[richest] > 1:
            counts[n], counts[richest] = 1, counts[richest] - 1
    return counts
