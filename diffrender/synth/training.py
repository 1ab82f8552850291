"""Training a generator of learned radiographs: a job that can be stopped and resumed, and says when it goes wrong."""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffrender.errors import SettingError
from diffrender.io.lock import locked
from diffrender.jobs import Checkpoint, Job, Progress
from diffrender.provenance import plain
from diffrender.synth.contest import Contest
from diffrender.synth.generator import VRRGenerator
from diffrender.synth.vrr_settings import VRRSettings, vrr_preset
from diffrender.synth.watch import COLLAPSED
from diffrender.synth.xray_folder import XrayPictures, read_xrays
from diffrender.volume import Volume


@dataclass(frozen=True, eq=False)
class TrainedVRR:
    """What a training came to.

    Attributes:
        generator: the running average of the generator's weights; of one that collapsed, as it was an epoch before.
        steps, seconds: that it took, over all resumes.
        history: a line an epoch: {"epoch", "step", "seconds", "discriminator", "generator", "to_drr", "told", "alike",
            "flat", "unlike"}.
        outcome: "finished", "collapsed" or "diverged".
        sentence: the outcome in words, and what to try next.
        info: for `save_generator`: hashes of the CTs and of the radiographs, settings, outcome.
    """

    generator: VRRGenerator
    steps: int
    seconds: float
    history: Sequence[Mapping[str, float]]
    outcome: str
    sentence: str
    info: Mapping[str, Any] = field(default_factory=dict)


def train(
    volumes: Volume | Sequence[Volume],
    xrays: str | Path | XrayPictures,
    settings: VRRSettings | None = None,
    checkpoint: str | Path | None = None,
) -> Job[TrainedVRR]:
    """Train a generator so that its pictures of CTs look like real radiographs, which show other people.

    Args:
        volumes: CTs in HU.
        xrays: folder of radiographs (PNG, JPEG, TIFF or DICOM), or what `read_xrays` read of the settings' image size.
        settings: by default the small preset's of ten minutes.
        checkpoint: file to save to and to go on from. A killed run loses at most 60 s.
    Raises: SettingError without a CT, PathError, ImageError and DicomError as `read_xrays`. The job itself raises
        UnitError where a CT is not in HU, OutputError where another training writes to the same checkpoint, PathError
        where the checkpoint is another training's, MemoryNeedError where not even one view a step fits.
    """
    settings = vrr_preset("small") if settings is None else settings
    cts = [volumes] if isinstance(volumes, Volume) else list(volumes)
    if not cts:
        raise SettingError("Training takes at least one CT; none was given.")
    real = xrays if isinstance(xrays, XrayPictures) else read_xrays(xrays, settings.image_size)
    if tuple(real.pictures.shape[2:]) != settings.image_size:
        raise SettingError(
            f"The radiographs were read at {list(real.pictures.shape[2:])} px and the settings' image_size is "
            f"{list(settings.image_size)}. Read them at that size."
        )
    return Job(_run(cts, real, settings, checkpoint))


def _run(
    cts: Sequence[Volume], real: XrayPictures, settings: VRRSettings, path: str | Path | None
) -> Generator[Progress, None, TrainedVRR]:
    if path is None:
        return (yield from _training(cts, real, settings, Checkpoint(None)))
    with locked(path, "A training"):
        return (yield from _training(cts, real, settings, Checkpoint(path)))


def _training(
    cts: Sequence[Volume], real: XrayPictures, settings: VRRSettings, checkpoint: Checkpoint
) -> Generator[Progress, None, TrainedVRR]:
    contest = Contest(cts, real, settings)
    contest.begin(checkpoint)
    try:
        while not contest.outcome:
            yield contest.advance()
            if checkpoint.due():
                checkpoint.save(contest.state())
    except GeneratorExit:
        checkpoint.save(contest.state())
        raise
    checkpoint.save(contest.state())
    return _result(contest)


def _result(contest: Contest) -> TrainedVRR:
    generator, settings = contest.pair.average, contest.settings
    if contest.outcome == COLLAPSED and contest.kept:
        generator.load_state_dict(contest.kept)
    info = {
        "settings": plain(settings),
        "volumes": list(contest.hashes),
        "radiographs": len(contest.real),
        "steps": contest.done,
        "seconds": round(contest.seconds, 1),
        "outcome": contest.outcome,
    }
    return TrainedVRR(
        generator=generator.cpu().eval(),
        steps=contest.done,
        seconds=contest.seconds,
        history=tuple(contest.history),
        outcome=contest.outcome,
        sentence=contest.sentence(),
        info=info,
    )
