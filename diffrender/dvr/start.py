"""What unet-s starts from: the mean of several instant previews, each with finer groups of its own.

One grouping is the instant preview. Where k-means draws the borders of its groups is chance, and so is a part of the
error: the mean of several, each solved for itself, is closer to what views that nobody painted would ask for (bagging:
Breiman, Mach. Learn. 24 (1996) 123, doi:10.1007/BF00058655).
"""

import weakref
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffrender.dvr.clusters import FAR, Grouped, build_clusters, fit_clusters, visible
from diffrender.dvr.renderer import RendererSettings
from diffrender.dvr.targets import Target
from diffrender.volume import Volume

PREVIEWS, GROUPS = 4, 800
VOXELS_A_GROUP = 8  # at the least: smaller groups say more of noise
MOST_VIEWS = 8  # that are solved for: a solve takes time for each of them, and more of them say little more


class Start(nn.Module):
    """What is added to the transfer function's colours at each voxel, and the factor of its extinction.

    Before `fit` nothing is added and the factor is 1. The previews are buffers: kept in models and saves, not learned.
    """

    offsets: Tensor
    factors: Tensor
    used: Tensor

    def __init__(self, settings: RendererSettings):
        super().__init__()
        self.settings = settings
        self.groupings = nn.ModuleList(Grouped(settings.drawn_by, GROUPS) for _ in range(PREVIEWS))
        self.register_buffer("offsets", torch.zeros(PREVIEWS, GROUPS, 3))
        self.register_buffer("factors", torch.ones(PREVIEWS, GROUPS))
        self.register_buffer("used", torch.zeros(PREVIEWS))  # 1 for each that has been fitted
        self._last: tuple[weakref.ref[Volume], int, Tensor] | None = None

    def forward(self, volume: Volume) -> Float[Tensor, "4 k j i"]:
        """Three offsets and a factor of each voxel; those of the last volume are kept."""
        if volume.values.is_meta:  # whoever counts memory asks for shapes alone
            return self.offsets.new_empty((4, *volume.shape))
        last = self._last
        if last is not None and last[0]() is volume and last[1] == self.used._version:
            return last[2].to(self.offsets.device)
        found = self._mean(volume)
        self._last = (weakref.ref(volume), self.used._version, found)
        return found

    def fit(self, volume: Volume, targets: Sequence[Target], enough: Callable[[], bool] = lambda: False) -> None:
        """Fit the previews to what the targets ask of this volume; of many targets, to some that are far apart.

        Args:
            enough: asked before each preview but the first; the rest is left out where it says so.
        Raises: ImageError where nothing is painted.
        """
        shown = visible(volume, self.settings.drawn_by)
        if not shown.any():
            return
        count = min(GROUPS, max(2, int(shown.sum()) // VOXELS_A_GROUP))
        some = _spread(targets)
        self.used.zero_()
        for number, grouping in enumerate(self.groupings):
            if number and enough():
                break
            preview = build_clusters(
                RendererSettings(
                    transfer=self.settings.transfer,
                    start=self.settings.start,
                    clusters=count,
                    sampling_rate=self.settings.sampling_rate,
                    seed=self.settings.seed + number,
                )
            ).to(self.offsets.device)
            fit_clusters(preview, volume, some)
            found = preview.state_dict()
            for name, tensor in grouping.state_dict().items():
                given = found[f"encoder.{name}"]
                tensor.copy_(_filled(given, GROUPS, FAR) if name == "centres" else given)
            self.offsets[number] = _filled(found["colour.offsets"], GROUPS, 0)
            self.factors[number] = _filled(found["opacity.factors"].clamp(min=0), GROUPS, 1)
            self.used[number] = 1

    def _mean(self, volume: Volume) -> Float[Tensor, "4 k j i"]:
        total = self.offsets.new_zeros((4, *volume.shape))
        fitted = [n for n, used in enumerate(self.used.tolist()) if used]
        for number in fitted:
            says = torch.cat([self.offsets[number], self.factors[number][:, None]], 1)
            grouping = self.groupings[number]
            assert isinstance(grouping, Grouped)
            total += says[grouping.groups(volume).to(says.device)].movedim(-1, 0)
            grouping.forget()
        if not fitted:
            total[3] = 1
            return total
        return total / len(fitted)


def _spread(targets: Sequence[Target]) -> list[Target]:
    """MOST_VIEWS of them, evenly from first to last."""
    counting = [target for target in targets if target.counts]
    if len(counting) <= MOST_VIEWS:
        return counting
    return [counting[round(n * (len(counting) - 1) / (MOST_VIEWS - 1))] for n in range(MOST_VIEWS)]


def _filled(values: Float[Tensor, "n *m"], count: int, value: float) -> Float[Tensor, "count *m"]:
    """As many rows as asked for; those that are added hold one value."""
    return torch.cat([values, values.new_full((count - len(values), *values.shape[1:]), value)])
