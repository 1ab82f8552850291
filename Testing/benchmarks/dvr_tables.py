"""The experiments behind Tables 2 and 3 and Fig. 8 of Weiss & Navab, on the CTs of the data folder.

    python Testing/benchmarks/dvr_tables.py --seconds 120 --size 200 --width 1 --experiments painted shaded

painted: some views painted from the labels, others tested (their BONSAI and PIG); shaded: lit pictures with shadows
(SHADED); kidney: coloured labels, trained on one CT and tested on another (KIDNEY); sampling: a transfer function
found again with s from 0.25 to 3, with jitter and without, and annealed, by lookup and mlp (Fig. 8). Scores are SSIM
and PSNR; LPIPS and FID need networks' weights that do not come with this package.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

import dvr_scenes as scenes  # noqa: E402
import torch  # noqa: E402
from report import Result, Row  # noqa: E402

from diffrender.dvr.cases import Case  # noqa: E402
from diffrender.dvr.losses import LossSettings  # noqa: E402
from diffrender.dvr.renderer import RendererSettings  # noqa: E402
from diffrender.dvr.renderers import RENDERERS  # noqa: E402
from diffrender.dvr.settings import TrainSettings  # noqa: E402
from diffrender.dvr.shading import shaded_targets  # noqa: E402
from diffrender.dvr.targets import Target, targets_from_labels, whole_target  # noqa: E402
from diffrender.dvr.training import train_on  # noqa: E402
from diffrender.dvr.transfer import TransferFunction, transfer_preset  # noqa: E402
from diffrender.dvr.view import render_views  # noqa: E402
from diffrender.errors import DiffRenderError  # noqa: E402
from diffrender.volume import Volume  # noqa: E402

NAME = "dvr-tables"
LARGE = ("vnet4-4", "vnetl16-4", "vnetl16-17", "dvrnet", "rendernet", "vnet-unet")
SAMPLING = (0.25, 0.5, 1.0, 2.0, 3.0)
ANNEALED = (0.1, 2.0)
TESTED = 3.0  # samples a voxel of the pictures of "sampling", as in the paper
RATES = {"lookup": 0.1, "mlp": 0.01}  # the paper has 0.3 and 0.05, of other parameters; ours diverge there
KIDNEY = {"kidney_left": (0.95, 0.85, 0.1), "kidney_right": (0.95, 0.85, 0.1), "aorta": (0.9, 0.1, 0.15)}
FAINT = 0.3  # what the rest keeps of TRANSLUCENT's extinction
# The paper's SSIM and time: painted beside BONSAI-H and PIG-H (Table 2), kidney and shaded (Table 3).
PAPER = {
    "painted": {
        "lookup": "BONSAI .530, PIG .637; 6 min",
        "rendernet": "BONSAI .268, PIG .430; 1 h 33",
        "vnet4-4": "BONSAI .828, PIG .872; 8 h 32",
        "vnetl16-4": "BONSAI .923, PIG .928; 9 h 45",
        "vnetl16-17": "BONSAI .921, PIG .932; 9 h 46",
        "dvrnet": "BONSAI .913, PIG .927; 2 h 25",
    },
    "kidney": {
        "lookup": ".706; 22 min",
        "rendernet": ".537; 3 h 52",
        "vnet4-4": ".699; 26 h 46",
        "vnetl16-4": ".694; 29 h 19",
        "vnetl16-17": ".690; 29 h 26",
        "dvrnet": ".699; 7 h 20",
    },
    "shaded": {
        "lookup": ".677; 22 min",
        "rendernet": ".622; 3 h 53",
        "vnet4-4": ".664; 26 h 52",
        "vnetl16-4": ".677; 29 h 27",
        "vnetl16-17": ".656; 29 h 32",
        "dvrnet": ".734; 7 h 23",
    },
}


@dataclass(frozen=True)
class Budget:
    """What the experiments may take.

    Attributes:
        seconds: of the processors' time, of each training: as many steps as a measured step says; of "sampling" a
            third of it. Not of the wall's, so that other work on the machine leaves the tables what they are.
        size: of the pictures, square [px].
        voxels: of a volume's longest side, at most; blocks are averaged.
        width: of the large networks (share of the paper's channels); the others have width 1.
        renderers, experiments: which ones.
    """

    seconds: float = 20.0
    size: int = 96
    voxels: int = 64
    width: float = 0.125
    renderers: tuple[str, ...] = tuple(RENDERERS)
    experiments: tuple[str, ...] = ("painted", "shaded", "sampling", "kidney")


@dataclass(frozen=True, eq=False)
class Experiment:
    """What is trained on and what is tested on, and the transfer function that renderers start from."""

    case: Case
    volume: Volume
    tested: tuple[Target, ...]
    transfer: TransferFunction
    what: str


def tables(budget: Budget | None = None, keep: Callable[[Result], object] | None = None) -> Result:
    """All experiments; `keep` is called with what there is after each, since all may take days."""
    budget = Budget() if budget is None else budget
    torch.set_num_threads(1)  # two wait for one another, and spend the processors' time on that
    rows, figures, notes = [], {"budget": asdict(budget)}, [_differences(budget)]
    for name in budget.experiments:
        if name == "sampling":
            done, said, found = _sampling(budget)
        else:
            done, said, found = _table(name, budget)
        rows += done
        notes.append(said)
        figures[name] = found
        if keep is not None:
            keep(Result(rows, figures, notes))
    return Result(rows, figures, notes)


def _table(name: str, budget: Budget) -> tuple[list[Row], str, dict]:
    experiment = _EXPERIMENTS[name](budget)
    rows, figures = [], {}
    for renderer in budget.renderers:
        width = budget.width if renderer in LARGE else 1.0
        asked = f"paper: {PAPER[name][renderer]}" if renderer in PAPER[name] else ""
        try:
            found = _trained(renderer, width, experiment, budget)
        except DiffRenderError as problem:
            print(f"{name}, {renderer}: {problem}", flush=True)
            rows.append(Row(f"{name}: {renderer}", asked, f"failed: {problem}"))
            continue
        figures[renderer] = found
        scaled = f" (width {width:g})" if width != 1 else ""
        rows.append(Row(f"{name}: {renderer}{scaled}", asked, _told(found)))
        print(f"{name}, {renderer}: {rows[-1].measured}", flush=True)
    return rows, f"{name}: {experiment.what}", figures


def _told(found: dict[str, float]) -> str:
    said = f"SSIM {found['ssim']:.3f}, {found['psnr']:.1f} dB"
    if "psnr_painted" in found:
        said += f" ({found['psnr_painted']:.1f} painted)"
    return said + f"; {found['steps']} steps in {found['cpu_s']:.0f} CPU s"


def _trained(name: str, width: float, experiment: Experiment, budget: Budget) -> dict[str, float]:
    drawing = RendererSettings(transfer=experiment.transfer, width=width)
    settings = TrainSettings(renderer=name, drawing=drawing, steps=2, held_out=-1, device="cpu")
    if name != "clusters":  # which is solved for at once
        settings = replace(settings, steps=_steps_in(budget.seconds, experiment.case, settings))
    made, spent = scenes.timed(lambda: train_on([experiment.case], settings).run())
    images = scenes.draw(made.renderer, experiment.volume, [target.camera for target in experiment.tested])
    return _scores(images, experiment.tested) | {"steps": made.steps, "seconds": spent.wall, "cpu_s": spent.cpu}


def _scores(images: Sequence[torch.Tensor], targets: Sequence[Target]) -> dict[str, float]:
    """SSIM and PSNR [dB] of the test views; that of painted pixels where some are painted and others are not."""
    scores = {"ssim": scenes.similarity(images, targets), "psnr": scenes.decibels(images, targets)}
    painted = [bool(target.painted.any()) for target in targets]
    if any(painted):
        scores["psnr_painted"] = scenes.decibels(images, targets, within_paint=True)
    return scores


def _painted(budget: Budget) -> Experiment:
    volume = _volume("abdomen", budget)
    trained, tested, _ = scenes.painted(volume, scenes.TRANSLUCENT, scenes.ORGANS, scenes.THRESHOLD, budget.size)
    what = (
        f"{volume.source or 'phantom'}, kidneys, aorta and hips painted from the labels on translucent views; "
        f"{len(trained)} to train on, {len(tested)} to test (paper: 32 hand-painted views of one CTA)."
    )
    return Experiment(Case(volume, tuple(trained)), volume, tuple(tested), scenes.TRANSLUCENT, what)


def _shaded(budget: Budget) -> Experiment:
    volume, transfer = _volume("chest 2", budget), transfer_preset("ct-bone")
    trained, tested = (
        tuple(shaded_targets(volume, transfer, scenes.eyes(volume, towards, budget.size)))
        for towards in (scenes.PAINTED_FROM, scenes.HELD_OUT_FROM)
    )
    what = (
        f"{volume.source or 'phantom'}, ct-bone lit from one side with shadows; {len(trained)} views to train on, "
        f"{len(tested)} others of the same CT to test (paper: 27 CTAs, tested on other patients)."
    )
    return Experiment(Case(volume, trained), volume, tested, transfer, what)


def _kidney(budget: Budget) -> Experiment:
    one, other = _volume("abdomen", budget), _volume("chest 1", budget)
    made = []
    for volume, towards in ((one, scenes.PAINTED_FROM), (other, scenes.HELD_OUT_FROM)):
        colours = {n: role.colour for n, role in scenes.roles(volume, KIDNEY).items() if role.colour is not None}
        cameras = scenes.eyes(volume, towards, budget.size)
        made.append(tuple(targets_from_labels(volume, colours, cameras, 0.5, scenes.TRANSLUCENT, FAINT)))
    what = (
        f"KIDNEY-like, not KIDNEY: kidneys and aorta coloured by label, {len(made[0])} views of "
        f"{one.source or 'phantom'} (no contrast) to train on, {len(made[1])} of {other.source or 'phantom'} "
        "(contrast) to test (paper: 27 CTAs, 15 / 6 / 6 patients). One patient does not tell what "
        "kidneys have in common."
    )
    return Experiment(Case(one, made[0]), other, made[1], scenes.TRANSLUCENT, what)


_EXPERIMENTS = {"painted": _painted, "shaded": _shaded, "kidney": _kidney}


def _sampling(budget: Budget) -> tuple[list[Row], str, dict]:
    """Fig. 8: one row a sampling rate, lookup with jitter and without, and mlp."""
    volume, transfer = _volume("chest 1", budget), transfer_preset("ct-soft-tissue")
    made = []
    for towards in (scenes.PAINTED_FROM, scenes.HELD_OUT_FROM):
        cameras = scenes.eyes(volume, towards, budget.size)
        made.append([whole_target(v.camera, v.image) for v in render_views(volume, transfer, cameras, TESTED).views])
    case, tested = Case(volume, tuple(made[0])), made[1]
    rows, figures = [], {}
    steps = _steps_of(case, budget)
    for label, sampling in _rates():
        said = []
        for name, jitter in (("lookup", True), ("lookup", False), ("mlp", True)):
            settings = _found_again(name, sampling, jitter, steps)
            trained, spent = scenes.timed(lambda settings=settings: train_on([case], settings).run())
            images = scenes.draw(trained.renderer, volume, [target.camera for target in tested])
            scores = _scores(images, tested)
            title = name if jitter else f"{name} without jitter"
            figures[f"{label}, {title}"] = scores | {"steps": steps, "seconds": spent.wall, "cpu_s": spent.cpu}
            said.append(f"{title} SSIM {scores['ssim']:.3f}, {scores['psnr']:.1f} dB in {spent.cpu:.1f} CPU s")
        rows.append(Row(f"sampling: {label}", "", "; ".join(said)))
        print(f"{label}: {rows[-1].measured}", flush=True)
    fixed, annealed = (figures[f"{label}, lookup"] for label in (f"s = {ANNEALED[1]:g}", "annealed"))
    saved, lost = 1 - annealed["cpu_s"] / fixed["cpu_s"], fixed["ssim"] - annealed["ssim"]
    told = f"{saved:.1%}, and SSIM is {lost:.3f} less"
    rows.append(Row("sampling: time saved by annealing, lookup", "paper: 33.4 % at equal SSIM", told))
    what = (
        f"ct-soft-tissue found again from {len(made[0])} views of {volume.source or 'phantom'}, {len(tested)} others "
        f"to test, both with s = {TESTED:g}; start = scratch, MSE of colours and alpha, {steps} steps of one view "
        f"each, rates {RATES['lookup']} and {RATES['mlp']}; annealed is s from {ANNEALED[0]:g} to {ANNEALED[1]:g} "
        "(paper: 256^3, 100 epochs of 25 views, Fig. 8: jitter helps at s of 0.5 and less alone, mlp takes 2 to 6 "
        "times the table's time and is worse)."
    )
    return rows, f"sampling: {what}", figures


def _rates() -> Iterator[tuple[str, tuple[float, float]]]:
    yield from ((f"s = {s:g}", (s, s)) for s in SAMPLING)
    yield "annealed", ANNEALED


def _found_again(name: str, sampling: tuple[float, float], jitter: bool, steps: int) -> TrainSettings:
    return TrainSettings(
        renderer=name,
        drawing=RendererSettings(start="scratch", sampling_rate=TESTED),
        steps=steps,
        batch=1,
        rate=RATES[name],
        sampling=sampling,
        jitter=jitter,
        held_out=-1,
        loss=LossSettings(ssim=0.0),
        device="cpu",
    )


def _steps_of(case: Case, budget: Budget) -> int:
    """As many steps as lookup makes with s = 1 in a third of the seconds, for all of "sampling"."""
    return _steps_in(budget.seconds / 3, case, _found_again("lookup", (1.0, 1.0), True, 2))


def _steps_in(seconds: float, case: Case, settings: TrainSettings) -> int:
    """As many steps as fit into so many seconds of the processors, by the later ones of three; at least two."""
    job = train_on([case], replace(settings, steps=3))
    next(job)  # compiles
    _, spent = scenes.timed(lambda: (next(job), next(job)))
    return max(2, round(2 * seconds / max(spent.cpu, 1e-3)))


def _volume(name: str, budget: Budget) -> Volume:
    found = scenes.labelled(name) if name in scenes.LABELLED else scenes.plain(name)
    if found is None:
        return scenes.phantom(budget.voxels)
    made = scenes.coarser(found, budget.voxels)
    source = Path(found.source).parent.name if found.source else None  # no path of this machine
    return Volume(made.values, made.world_from_voxel, made.labels, made.names, made.unit, source)


def _differences(budget: Budget) -> str:
    return (
        "What differs from the paper: the data (its CTAs are not published; the CTs named below instead, longest side "
        f"at most {budget.voxels} voxels), the hardware (this machine's processor, not a V100), the budget "
        f"({budget.seconds:g} CPU s a training, not minutes to a day), pictures ({budget.size} x {budget.size} px, "
        f"not 200 x 200), the large networks' width ({budget.width:g}), the start (the transfer function that drew the "
        "views, not scratch) and the loss (alpha counts). SSIM is of all pixels of the test views; LPIPS and "
        "FID are left out: the weights of their networks are not at hand. The paper's column is SSIM; time. With such "
        "a budget this shows that everything trains, not which renderer is best."
    )


def _arguments() -> Budget:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seconds", type=float, default=Budget.seconds, help="of the processors' time, of each training"
    )
    parser.add_argument("--size", type=int, default=Budget.size, help="of the pictures [px]")
    parser.add_argument("--voxels", type=int, default=Budget.voxels, help="of a volume's longest side, at most")
    parser.add_argument("--width", type=float, default=Budget.width, help="of the large networks; 1 is the paper's")
    parser.add_argument("--renderers", nargs="+", choices=list(RENDERERS), default=Budget.renderers)
    parser.add_argument("--experiments", nargs="+", choices=Budget.experiments, default=Budget.experiments)
    asked = vars(parser.parse_args())
    return Budget(**{name: tuple(value) if isinstance(value, list) else value for name, value in asked.items()})


def main() -> None:
    """Run with the budget that is asked for, and write results and page."""
    import json

    import report

    import run

    budget = _arguments()
    start = time.perf_counter()

    def keep(result: Result) -> None:
        report.store(NAME, result, time.perf_counter() - start)
        report.write_page(list(run.BENCHES))

    tables(budget, keep)
    report.show(NAME, json.loads((report.RESULTS / f"{NAME}.json").read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
