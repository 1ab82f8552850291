"""Everything the library does, on one page: `python -m diffrender demo`. A new pipeline is one line in SECTIONS."""

import time
from collections.abc import Callable
from pathlib import Path

from diffrender.demo.case import Case
from diffrender.demo.dvr import painted_views
from diffrender.demo.engines import backends, batch
from diffrender.demo.fit import registered
from diffrender.demo.page import Section, page_of
from diffrender.demo.radiographs import c_arm_views, intensity, patient, pose, projected_labels, views_of
from diffrender.demo.synth import synthesised
from diffrender.io import read_volume
from diffrender.io.whole import write_whole
from diffrender.jobs import Progress
from diffrender.phantom import torso
from diffrender.provenance import write_provenance


def write_demo(
    folder: Path,
    ct: Path | None,
    labels: Path | None,
    progress: Callable[[Progress, str], None] | None = None,
    names: str | Path | None = None,
    training: float = 30.0,
) -> Path:
    """Run every pipeline and write `folder`/index.html: one file that needs no other.

    Args:
        ct: a CT of the user's, as `read_volume` takes it; None for the torso that the library draws.
        labels: its labels.
        progress: called before each section.
        names: the table of the labels' names, as `read_volume` takes it.
        training: how long the renderer of the painted views is trained [s].
    Returns: the page.
    Raises: what reading and casting raise; OutputError where the page cannot be written.
    """
    tell = progress or (lambda progress, what: None)
    total = len(SECTIONS) + 1
    tell(Progress(0, total), "Drawing the torso" if ct is None else f"Reading {ct}")
    start = time.perf_counter()
    volume = torso() if ct is None else read_volume(ct, labels, names)
    subject = "a torso that the library draws itself" if ct is None else Path(ct).name
    case = Case(volume, subject, time.perf_counter() - start, training)
    sections: dict[str, Section] = {}
    for number, (name, make) in enumerate(SECTIONS.items(), 1):
        tell(Progress(number, total), name.replace("-", " ").capitalize())
        sections[name] = make(case)
    page = write_whole(Path(folder) / "index.html", page_of(case.subject, sections, time.perf_counter() - start))
    settings = {"ct": None if ct is None else str(ct), "labels": None if labels is None else str(labels)}
    settings["names"] = None if names is None else str(names)
    write_provenance(
        folder, ["diffrender", "demo"], settings, [path for path in (ct, labels) if path is not None], seed=0
    )
    tell(Progress(total, total), "Writing the page")
    return page


# The page, from top to bottom: a name for links and progress, and what makes the section.
SECTIONS: dict[str, Callable[[Case], Section]] = {
    "patient": patient,
    "radiographs": views_of,
    "intensity": intensity,
    "labels": projected_labels,
    "c-arm": c_arm_views,
    "pose": pose,
    "backends": backends,
    "batch": batch,
    "synthesis": synthesised,
    "painting": painted_views,
    "registration": registered,
}
