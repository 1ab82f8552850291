"""What a segmenter learns from, as it is typed: CTs, a data set, real radiographs with masks, and their mix."""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from diffrender.commands.console import Console
from diffrender.commands.synth.cases import cases_of
from diffrender.commands.synth.learning import reading
from diffrender.errors import LabelError, SettingError
from diffrender.jobs import Job, Progress

if TYPE_CHECKING:
    from diffrender.synth.ct_views import CtViews
    from diffrender.synth.layers import Layers
    from diffrender.synth.mask_rules import MaskRule
    from diffrender.synth.pairs import Masked, Source

SPLITS = ("test", "val")  # of a data set, on which it is scored: the first that there is


@dataclass(frozen=True)
class Pairs:
    """What was asked for.

    Attributes:
        cts, labels, names: labelled CTs, as `cases_of` takes them.
        data: a data set's folder, or its manifest.
        real, real_masks: folders of radiographs and of their masks.
        mix: generated pairs for each real one.
        lungs, learn: what is learned.
        presets, views: of the CTs: around what views are drawn, and how many of each CT.
        mask_names: a table of the ids in masks.
        seed: of the views.
    """

    cts: Sequence[str]
    labels: Sequence[str]
    names: Sequence[str]
    data: str | None
    real: str | None
    real_masks: str | None
    mix: str | None
    lungs: bool
    learn: Sequence[str]
    presets: Sequence[str]
    views: int
    mask_names: str | None
    seed: int

    @property
    def paths(self) -> list[str]:
        """All that is read, as typed."""
        single = (self.data, self.real, self.real_masks, self.mask_names)
        return [*self.cts, *self.labels, *self.names, *(path for path in single if path is not None)]

    def check(self) -> None:
        """Raises: SettingError for what does not go together."""
        if not (self.cts or self.data or self.real):
            raise SettingError(
                "Say what to learn from: --ct, --data, or --real with --real-masks; or give --model to use one."
            )
        if (self.real is None) != (self.real_masks is None):
            raise SettingError("--real and --real-masks go together: radiographs, and their masks of the same names.")
        if self.mix is not None and not (self.real and (self.cts or self.data)):
            raise SettingError("--mix is of generated and real pairs: give --real, and --ct or --data.")
        if not (self.lungs or self.learn or self.data):
            raise SettingError("Say what to learn: --lungs, or --learn NAME for each label.")
        ratio_of(self.mix)


def rules_of(pairs: Pairs) -> "tuple[MaskRule, ...]":
    """What is learned, in the order of the masks: the lungs, then each --learn; else all that the data set lists.

    Raises: SettingError, and PathError as `read_manifest`.
    """
    from diffrender.synth.mask_rules import LUNGS

    wishes = list(pairs.learn)
    if not (pairs.lungs or wishes) and pairs.data is not None:
        wishes = labels_listed(pairs.data)
    rules = [*(LUNGS if pairs.lungs else ()), *(_rule(wish) for wish in wishes)]
    names = [rule.joined or rule.names for rule in rules]
    if len(set(names)) < len(names):
        raise SettingError(f"Each label is learned once; {', '.join(names)} were asked for.")
    return tuple(rules)


def labels_listed(data: str) -> list[str]:
    """The labels that a data set's images list, by id. Raises: PathError; LabelError where there are none."""
    from diffrender.synth.manifest import read_manifest

    found = {str(one["name"]): one.get("id", 0) for entry in read_manifest(data) for one in entry.get("labels") or ()}
    if not found:
        raise LabelError(f"No image of {data} lists a label, so there is nothing to learn. Make it with --labels.")
    return sorted(found, key=lambda name: (found[name], name))


def mask_ids(names: Sequence[str], table: str | None) -> dict[int, str]:
    """{id: name} of masks that are pictures of ids: 1, 2, ... in the order of the names, or as a table says.

    Raises: LabelError where the table lacks a name.
    """
    if table is None:
        return dict(enumerate(names, 1))
    from diffrender.io.label_tables import read_label_table

    by_name = {name: label for label, name in read_label_table(table).items()}
    if missing := [name for name in names if name not in by_name]:
        raise LabelError(f"{table} names {', '.join(by_name) or 'nothing'}, and not {', '.join(missing)}.")
    return {by_name[name]: name for name in names}


def masked(images: str, masks: str, ids: Mapping[int, str]) -> "list[Masked]":
    """Radiographs with masks. Raises: as `masked_in_folder`; LabelError for a label that no mask has."""
    from diffrender.synth.pairs import masked_in_folder

    found = masked_in_folder(images, masks, ids)
    for n, (label, name) in enumerate(ids.items()):
        if not any(one.masks[n].any() for one in found):
            raise LabelError(
                f"None of the {len(found)} masks in {masks} has a pixel of {label}, which stands for {name}. Ids are "
                "1, 2, ... in the order in which labels are learned; a table says otherwise: --mask-names ids.csv."
            )
    return found


def source_of(pairs: Pairs, rules: "Sequence[MaskRule]", console: Console) -> "Source":
    """What pairs are drawn from. Raises: as reading and `Mixed` do."""
    from diffrender.synth.pairs import Films, Generated, Mixed, masked_in_manifest

    names = [rule.joined or rule.names for rule in rules]
    generated: Source | None = None
    if pairs.cts:
        job = Job(_layers(pairs, _ct_views(pairs, rules)))
        generated = Generated(console.run(job, "Looking at the CTs", "Nothing was learned yet."))
    if pairs.data is not None:
        reading(console, pairs.data)
        of_data = Films(masked_in_manifest(pairs.data, names), names)
        generated = of_data if generated is None else Mixed(generated, of_data, 1.0)
    if pairs.real is None or pairs.real_masks is None:
        assert generated is not None
        return generated
    reading(console, pairs.real)
    real = Films(masked(pairs.real, pairs.real_masks, mask_ids(names, pairs.mask_names)), names)
    return real if generated is None else Mixed(generated, real, ratio_of(pairs.mix))


def held_out_of(pairs: Pairs, names: Sequence[str], test: str | None, test_masks: str | None) -> "list[Masked]":
    """On what it is scored: the radiographs of --test, else those that a data set has kept apart.

    Raises: as reading does; SettingError where what is learned from is among them.
    """
    from diffrender.synth.manifest import of_split, read_manifest
    from diffrender.synth.pairs import masked_in_manifest

    if test is not None and test_masks is not None:
        if pairs.real is not None and (both := _files(pairs.real) & _files(test)):
            raise SettingError(
                f"{len(both)} of the radiographs in {test} are in {pairs.real} too ({min(both).name}): scores on what "
                "was learned from say nothing. Part them, by patients, into two folders."
            )
        return masked(test, test_masks, mask_ids(names, pairs.mask_names))
    if pairs.data is None:
        return []
    entries = read_manifest(pairs.data)
    split = next((split for split in SPLITS if of_split(entries, split)), None)
    return [] if split is None else masked_in_manifest(pairs.data, names, split)


def ratio_of(text: str | None) -> float:
    """Generated pairs for each real one, of "3", "3/1", "inf"; 1 where nothing is said. Raises: SettingError."""
    generated, _, real = (text or "1").partition("/")
    try:
        share = float(generated), float(real or 1)
    except ValueError:
        share = (-1.0, 1.0)
    if min(share) < 0 or max(share) == 0 or not all(n == n for n in share):
        raise SettingError(f"--mix is generated pairs for each real one, as 1, 3/1, 0 (real alone), inf; not {text!r}.")
    return share[0] / share[1] if share[1] else float("inf")


def _rule(wish: str) -> "MaskRule":
    """Of "hip_left", or of "ribs=rib_*", which joins labels. Raises: SettingError."""
    from dataclasses import replace

    from diffrender.synth.mask_rules import DEFAULT_RULES

    name, equals, pattern = (part.strip() for part in wish.partition("="))
    if not name or (equals and not pattern):
        raise SettingError(f'--learn is a label\'s name, as hip_left, or NAME=PATTERN, as "ribs=rib_*"; not {wish!r}.')
    lung = next((rule for rule in DEFAULT_RULES if rule.joined == name), None)
    if lung is not None and not equals:
        return lung
    like = next(rule for rule in DEFAULT_RULES if rule.joined is None and rule.fits(pattern or name))
    return replace(like, names=pattern or name, joined=name if equals else None)


def _ct_views(pairs: Pairs, rules: "Sequence[MaskRule]") -> "CtViews":
    from diffrender.synth.ct_views import CHEST, CtViews
    from diffrender.synth.views import spread_preset

    chest = CHEST if pairs.lungs else (spread_preset("frontal"),)
    spreads = tuple(spread_preset(name) for name in pairs.presets) or chest
    return CtViews(views=pairs.views, spreads=spreads, rules=tuple(rules))


def _layers(pairs: Pairs, settings: "CtViews") -> "Generator[Progress, None, list[Layers]]":
    from diffrender.synth.cases import volume_of
    from diffrender.synth.ct_views import layers_of_ct
    from diffrender.synth.reach import volume_hash

    cases = cases_of(pairs.cts, pairs.labels, pairs.names)
    total, found = settings.views * len(cases), []
    yield Progress(0, total)
    for case in cases:
        volume = volume_of(case)
        for layers in layers_of_ct(volume, settings, volume_hash(volume), pairs.seed):
            found.append(layers)
            yield Progress(len(found), total)
    return found


def _files(folder: str) -> set[Path]:
    from diffrender.synth.films import films_in

    return {file.resolve() for file in films_in(folder)}
