"""The report of an evaluation: summary tables beside the paper's numbers, distributions, causes, overlays."""

import csv
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffrender.fit import charts
from diffrender.fit.evaluation import PAPER, Evaluation
from diffrender.io.whole import write_whole
from diffrender.pages import encoded, figures, page, section, table

COLOURS = {"start": "var(--start)", "fit": "var(--found)", "floor of the model": "var(--floor)"}
KINDS = {"start": "before", "fit": "after", "floor of the model": "floor"}
WORST = 3  # shown of each preset
FEW = 8  # fits of a preset are all shown
CAUSES = ("depth", "in_plane", "rotation", "shape", "projected", "mtre")


def evaluation_report(evaluation: Evaluation, title: str = "Evaluation of pelvis registration") -> str:
    """Summary tables beside the paper's numbers, distributions, causes, and overlays from the best to the worst."""
    presets = [name for name in evaluation.settings.presets if evaluation.of(name)]
    rows = {name: evaluation.of(name) for name in presets}
    sections = [
        section("What was tried", _tried(evaluation)),
        section("Errors before, after, and the model's own floor, mm", table(_summary(rows))),
        section("What the error is made of", table(_causes(rows))),
        section("Are the stated deviations right?", table(_calibration(rows))),
        section("Distributions", _distributions(rows)),
    ]
    sections += [section(f"Fits: {name}", _shown_fits(some, evaluation.folder)) for name, some in rows.items()]
    return page(title, [*sections, section("Subjects", table(_subjects(rows)))])


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The numbers of one preset: means in mm, shares, seconds."""
    landmark = np.array([row["after"]["landmark"] for row in rows])
    before = np.array([row["before"]["landmark"] for row in rows])
    return {
        "fits": len(rows),
        **{
            f"{name}_{error}": float(np.mean([row[kind][error] for row in rows]))
            for name, kind in (("start", "before"), ("fit", "after"), ("floor", "floor"))
            for error in ("landmark", "hausdorff", "hausdorff_95", "surface")
        },
        "fit_landmark_90": float(np.percentile(landmark, 90)),
        "better": float(np.mean(landmark < before)),
        **{name: float(np.mean([row["after"][name] for row in rows])) for name in CAUSES},
        "within_1": float(np.mean([row["within_1"] for row in rows])),
        "within_2": float(np.mean([row["within_2"] for row in rows])),
        **{name: float(np.median([row[name] for row in rows])) for name in ("seconds", "cpu_seconds")},
    }


def write_csv(path: str | Path, evaluation: Evaluation) -> Path:
    """A row for each fit, errors in mm. Raises: OutputError."""
    text = io.StringIO()
    flat = [_flat(row) for row in evaluation.rows]
    writer = csv.DictWriter(text, list(flat[0]) if flat else ["preset"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return write_whole(Path(path), text.getvalue())


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            found |= {f"{key}_{name}": entry for name, entry in value.items()}
        elif not isinstance(value, list):
            found[key] = value
    return found


def _tried(evaluation: Evaluation) -> str:
    settings = evaluation.settings
    subjects = sorted({row["subject"] for row in evaluation.rows})
    seen = [row["in_view"] for row in evaluation.rows]
    return (
        f"<p>{len(evaluation.rows)} fits of {len(subjects)} subjects, each with a model built without that subject; "
        f"{settings.starts} starts for each within 10 mm and 5 degrees per axis of the truth, from the mean shape. "
        f"Frames are simulated and hold what the model does not: soft tissue, bowel gas, femurs, lumbar spine, 30 % "
        f"scatter and noise; {100 * min(seen):.0f} to {100 * max(seen):.0f} % of the pelvis lies in them. Unless said "
        "otherwise the box of the starts is used as a prior, of depth too.</p>"
        "<p>The paper's numbers are those of Shetty et al. (2021) on real frames of DeepFluoro, from another shape "
        "model: they say how hard the task is, not how the two compare.</p>"
    )


def _summary(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[list[str]]:
    head = ["", "fits", "start landmark / Hausdorff", "fit landmark / Hausdorff", "floor landmark / Hausdorff"]
    head += [
        "Hausdorff 95 %",
        "mean surface",
        "landmark, 90th percentile",
        "better than start",
        "seconds on the clock, of the processor (medians)",
    ]
    lines = [head]
    for name, some in rows.items():
        s = summary(some)
        pairs = [f"{s[f'{k}_landmark']:.1f} / {s[f'{k}_hausdorff']:.1f}" for k in ("start", "fit", "floor")]
        line = [name, f"{s['fits']:.0f}", *pairs, f"{s['fit_hausdorff_95']:.1f}", f"{s['fit_surface']:.2f}"]
        lines.append(
            [
                *line,
                f"{s['fit_landmark_90']:.1f}",
                f"{100 * s['better']:.0f} %",
                f"{s['seconds']:.1f}, {s['cpu_seconds']:.1f}",
            ]
        )
    paper = [f"{PAPER[k]['landmark']:.1f} / {PAPER[k]['hausdorff']:.1f}" for k in ("start", "after", "floor")]
    return [*lines, ["the paper", "", *paper, "", "", "", "", ""]]


def _causes(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[list[str]]:
    head = ["mean, mm", "depth", "in plane", "rotation, degrees", "shape", "projected", "corresponding points"]
    return [head, *([name, *(f"{summary(some)[cause]:.2f}" for cause in CAUSES)] for name, some in rows.items())]


def _calibration(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[list[str]]:
    head = ["true vertex errors per axis", "within 1 deviation", "within 2", "depth stated / made", "in plane"]
    lines = [head, ["normal and right", "68 %", "95 %", "", ""]]
    for name, some in rows.items():
        s = summary(some)
        depth, plane = (
            f"{np.mean([row['stated'][key] for row in some]):.1f} / "
            f"{np.sqrt(np.mean([row['after'][key] ** 2 for row in some])):.1f}"
            for key in ("depth", "in_plane")
        )
        lines.append([name, f"{100 * s['within_1']:.0f} %", f"{100 * s['within_2']:.0f} %", depth, plane])
    return lines


def _distributions(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    parts = []
    for error, title in (("landmark", "Landmark error"), ("hausdorff", "Hausdorff distance")):
        groups = {
            name: {kind: [row[key][error] for row in some] for kind, key in KINDS.items()}
            for name, some in rows.items()
        }
        parts.append(f"<p>{title}: boxes hold the middle half, whiskers 5 to 95 %.</p>")
        parts.append(f'<div class="wide">{charts.boxes(groups, COLOURS, "mm")}</div>')
    first, some = next(iter(rows.items()))
    before, after = ([row[key]["landmark"] for row in some] for key in ("before", "after"))
    parts.append(f"<p>Every fit of {html.escape(first)}; below the line it is better than its start.</p>")
    return "".join([*parts, charts.scatter(before, after, "landmark error of the start, mm", "of the fit, mm")])


def _shown_fits(rows: Sequence[Mapping[str, Any]], folder: Path | None) -> str:
    """The best, the middle and the worst fits, as pictures."""
    ranked = sorted(rows, key=lambda row: row["after"]["landmark"])
    pictures = []
    for number, what in _chosen(len(ranked)).items():
        row = ranked[number]
        file = None if folder is None or row["overlay"] is None else folder / row["overlay"]
        if file is not None and file.is_file():
            caption = (
                f"{what}: subject {row['subject']}, start {row['start']}: landmark {row['before']['landmark']:.1f} to "
                f"{row['after']['landmark']:.1f} mm (depth {row['after']['depth']:.1f}, projected "
                f"{row['after']['projected']:.1f}); {row['outcome']}"
            )
            pictures.append(encoded(file.read_bytes(), "jpeg", caption))
    kinds = ", ".join(sorted({f"{row['outcome']} {_count(rows, row['outcome'])}" for row in rows}))
    legend = f"<p>Orange: the start. Green: the truth. Blue: the fit. Outcomes: {html.escape(kinds)}.</p>"
    return legend + figures(pictures)


def _chosen(count: int) -> dict[int, str]:
    """Which of the fits, the best first, are shown, and what each is called."""
    if count <= FEW:
        names = {n: f"number {n + 1} of {count}" for n in range(count)}
    else:
        names = {count // 4: "first quartile", count // 2: "median", 3 * count // 4: "third quartile"}
        names |= {count - 1 - n: f"worst but {n}" for n in range(1, WORST)}
    names |= {count - 1: "worst", 0: "best"} if count > 1 else {}
    return dict(sorted(names.items()))


def _count(rows: Sequence[Mapping[str, Any]], outcome: str) -> int:
    return sum(row["outcome"] == outcome for row in rows)


def _subjects(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[list[str]]:
    lines = [["subject", *(f"{name}: landmark, Hausdorff, mm" for name in rows)]]
    for subject in sorted({row["subject"] for some in rows.values() for row in some}):
        cells = []
        for some in rows.values():
            own = [row for row in some if row["subject"] == subject]
            means = [np.mean([row["after"][key] for row in own]) for key in ("landmark", "hausdorff")] if own else []
            cells.append(" / ".join(f"{mean:.1f}" for mean in means))
        lines.append([str(subject), *cells])
    return lines
