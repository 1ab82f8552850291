"""What a training is worth by now: the view that is kept out, drawn and scored, and the best that there was."""

import copy
from typing import Any

from jaxtyping import Float
from torch import Tensor

from diffrender.dvr.losses import scores_of
from diffrender.dvr.renderer import Renderer
from diffrender.dvr.targets import Target


class Score:
    """The scores so far, and the weights of the best.

    Args:
        target: of the view that is kept out; None where none is, and the training loss is what the best is known by.

    Attributes:
        now: of the last picture.
        history: a line each time: {"step", "seconds", "loss", and the scores}.
        best: {"weights", "scores", "step", "merit"}; None before the first.
        preview: the last picture.
    """

    def __init__(self, target: Target | None):
        self._target = target
        self.now: dict[str, float] = {}
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Any] | None = None
        self.preview: Tensor | None = None

    def add(
        self, picture: Float[Tensor, "4 h w"], renderer: Renderer, step: int, seconds: float, losses: list[float]
    ) -> None:
        """Score a picture, and keep the weights that drew it where they are the best so far.

        Args:
            losses: of the last steps; the last is that of the step before this.
        """
        self.preview = picture.cpu()
        if self._target is not None:
            self.now = scores_of(picture, self._target)
        told = {"loss": losses[-1]} if losses else {}
        self.history.append({"step": step, "seconds": round(seconds, 2), **told, **self.now})
        merit = self.now.get("ssim", self.now.get("psnr"))
        if merit is None and losses:
            merit = -sum(losses) / len(losses)
        if merit is not None and (self.best is None or merit > self.best["merit"]):
            weights = {name: tensor.detach().cpu().clone() for name, tensor in renderer.state_dict().items()}
            self.best = {"weights": weights, "scores": dict(self.now), "step": step, "merit": merit}

    def best_of(self, last: Renderer, diverged: bool) -> Renderer:
        """The best by the view that is kept out; without one the last, or, where that diverged, the best before it."""
        if self.best is None or (self._target is None and not diverged):
            return last
        best = copy.deepcopy(last)
        best.load_state_dict(self.best["weights"])
        return best

    @property
    def best_scores(self) -> dict[str, float]:
        """Of the best; none without a view that is kept out."""
        return dict(self.best["scores"]) if self.best is not None and self._target is not None else {}

    def state(self) -> dict[str, Any]:
        """What a resume needs."""
        return {"now": self.now, "history": self.history, "best": self.best}

    def restore(self, state: dict[str, Any]) -> None:
        """Back from `state`."""
        self.now, self.history, self.best = dict(state["now"]), list(state["history"]), state["best"]
