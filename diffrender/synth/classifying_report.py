"""What a classifier says of radiographs, as one page: AUC where the truth is known, each radiograph with its labels."""

import html
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from diffrender.pages import figure, figures, page, section, table
from diffrender.synth.classifier import Classifier
from diffrender.synth.classifying import Labelled, auc
from diffrender.synth.films import Film
from diffrender.synth.overlays import MOST_SHOWN, SIDES, file_of, outlined

NOTHING = np.zeros((0, 1, 1), dtype=bool)
FEW = 4  # labels named under a picture


def classification_page(
    classifier: Classifier,
    films: Sequence[Film],
    truth: Sequence[Labelled] | None = None,
    title: str = "Classification of radiographs",
) -> str:
    """Every radiograph with what it is said to show; where the truth is known, those first that are most wrong.

    Args:
        truth: of each of the films, in order.
    """
    names = classifier.settings.names
    sure = np.stack([classifier.probabilities(film) for film in films])
    sections = []
    wrong = np.zeros(len(films))
    if truth is not None:
        known = np.stack([one.shows for one in truth])
        rows = [["label", "shown by", "of", "AUC"]]
        for n, name in enumerate(names):
            value = auc(sure[:, n], known[:, n])
            rows.append([name, str(int(known[:, n].sum())), str(len(films)), "-" if value != value else f"{value:.3f}"])
        sections.append(section("Area under the ROC curve", table(rows)))
        wrong = np.abs(sure - known).max(1)
    order = np.argsort(-wrong, kind="stable")[:MOST_SHOWN]
    shown = [figure(outlined(films[n], NOTHING), f"{file_of(films[n])}: {_said(names, sure[n])}") for n in order]
    first = "The most wrong first. " if truth is not None else ""
    sections.append(section("The radiographs", f"<p>{html.escape(first + SIDES)}</p>" + figures(shown)))
    return page(title, sections)


def _said(names: Sequence[str], sure: Float[np.ndarray, "label"]) -> str:
    best = np.argsort(-sure)[:FEW]
    return ", ".join(f"{names[n]} {sure[n]:.2f}" for n in best)
