"""The instant preview: voxels grouped by what surrounds them, and a colour for each group from one solve.

The transfer function is looked up at every sample, as in the views that were painted on, and each voxel adds the colour
of its group. For a fixed extinction an image is linear in what is added (`march_weights`). So the change of colour that
each group needs is a ridge regression over the pixels of the painted views, drawn towards no change at all: what nobody
painted keeps the colours of the transfer function.
"""

import warnings
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from scipy.cluster.vq import kmeans2
from scipy.optimize import nnls
from torch import Tensor, nn

from diffrender.camera import Camera
from diffrender.dvr.features import NAMES, local_features
from diffrender.dvr.renderer import Changed, Grid, Plain, Renderer, RendererSettings, accumulator, field_of
from diffrender.dvr.targets import UNPAINTED, Target
from diffrender.dvr.transfer import TransferFunction
from diffrender.dvr.view import whole_table
from diffrender.errors import ImageError, SettingError
from diffrender.rays.field import Field, MarchSettings, Table, check_finite
from diffrender.rays.march import march as march_field
from diffrender.rays.march import march_weights
from diffrender.volume import Volume

IMPORTANCE = (1.0, 1.0, 1.0, 0.5, 0.5, 1.0, 1.0, 1.0)  # of each feature, once standardised; position told best at 1
VISIBLE = 1e-4  # extinction [1/mm] from which a voxel is grouped: 3 % over 300 mm
SAMPLE = 30_000  # voxels that the groups are made of; all others join the nearest
ROUNDS = 10  # of k-means: more of them change the held-out error by less than another seed does
ALIKE = 2.0  # distance of features at which groups still say something of each other
OWN = 0.1  # part of a group's change that is its own alone
LONGEST_SIDE = 100  # px of the images that are solved for
RIDGE = 0.3  # squared pixels: a group that is seen in less than about half a pixel keeps its colour
SEEN, NOTHING = 0.1, 0.02  # alpha from which something is there to hide, and below which it shall be hidden
FAINT = 1e-3  # times the extinction: so thin that nothing hides behind anything, and weights are optical depths
AT_ONCE = 65_536  # voxels
FAR = 1e6  # standard deviations: where groups that there was no voxel for lie


class Grouped(nn.Module):
    """The encoder slot: each voxel's number, and the group whose centre its features are nearest to.

    Before `fit_clusters` all voxels are of group 0.
    """

    centres: Tensor
    middle: Tensor
    scale: Tensor
    reach: Tensor

    def __init__(self, transfer: TransferFunction, count: int):
        super().__init__()
        self.transfer = transfer
        self.register_buffer("centres", torch.zeros(count, len(NAMES)))
        self.register_buffer("middle", torch.zeros(len(NAMES)))
        self.register_buffer("scale", torch.zeros(len(NAMES)))  # 0: not yet fitted
        self.register_buffer("reach", torch.tensor([-1024.0, 3071.0]))  # HU beyond which none is told from another
        self._last: tuple[weakref.ref[Volume], int, Tensor] | None = None

    def forward(self, volume: Volume) -> tuple[Grid, ...]:
        ids = self.groups(volume).to(self.centres.device)
        values = volume.values.to(ids.device, torch.float32)
        return (Grid(torch.stack([values, ids.float()]), volume.world_from_voxel),)

    def groups(self, volume: Volume) -> Int64[Tensor, "k j i"]:
        """The group of each voxel; those of the last volume are kept."""
        last = self._last
        if last is not None and last[0]() is volume and last[1] == self.centres._version:
            return last[2]
        where = visible(volume, self.transfer)
        if not self.scale.any() or not where.any():
            return torch.zeros(volume.shape, dtype=torch.int64)
        ids = self._nearest(local_features(volume, where, *self.reach.tolist()), where)
        self._last = (weakref.ref(volume), self.centres._version, ids)
        return ids

    def forget(self) -> None:
        """Let go of the last volume's groups."""
        self._last = None

    def fit(self, volume: Volume, generator: torch.Generator) -> None:
        """Make the groups of this volume's visible voxels: k-means over their standardised features."""
        where = visible(volume, self.transfer)
        if not where.any():
            raise ImageError(
                f"Nothing of {volume.source or 'the volume'} is visible with the transfer function "
                f"{self.transfer.name or 'given'}, so there is nothing to colour. Choose one that fits its values."
            )
        shown = volume.values.cpu()[where].float()
        some = shown[torch.randperm(len(shown), generator=generator)[:SAMPLE]]
        self.reach.copy_(torch.quantile(some, torch.tensor([0.01, 0.99])))
        features = local_features(volume, where, *self.reach.tolist())
        spread = features.std(0, correction=0)
        self.middle.copy_(features.mean(0))
        self.scale.copy_(torch.tensor(IMPORTANCE) / torch.where(spread > 0, spread, 1))
        chosen = features[torch.randperm(len(features), generator=generator)[:SAMPLE]]
        self.centres.copy_(_centres((chosen - self.middle.cpu()) * self.scale.cpu(), len(self.centres)))
        self._last = (weakref.ref(volume), self.centres._version, self._nearest(features, where))

    def _nearest(
        self, features: Float[Tensor, "voxel feature"], where: Bool[Tensor, "k j i"]
    ) -> Int64[Tensor, "k j i"]:
        centres = self.centres.cpu()
        lengths = (centres**2).sum(1)[None]
        standard = (features - self.middle.cpu()) * self.scale.cpu()
        found = [torch.addmm(lengths, some, centres.T, alpha=-2).argmin(1) for some in standard.split(AT_ONCE)]
        marked = torch.zeros(where.shape)
        marked[where] = torch.cat(found).float() + 1
        # A ray meets colours between voxels: what is transparent takes the group of something visible beside it.
        beside = F.max_pool3d(marked[None, None], 3, 1, 1)[0, 0]
        return (torch.where(marked > 0, marked, beside).long() - 1).clamp(min=0)


class GroupColours(nn.Module):
    """The colour slot: the transfer function's colours, and at each voxel the offset of its group."""

    def __init__(self, settings: RendererSettings):
        super().__init__()
        self.transfer, self.grey = settings.drawn_by, settings.start == "scratch"
        self.offsets = nn.Parameter(torch.zeros(settings.clusters, 3))

    def forward(self, grids: tuple[Grid, ...]) -> tuple[Changed, ...]:
        table = whole_table(self.transfer)
        colours = table.entries[:, :3].to(self.offsets.device)
        colours = torch.full_like(colours, 0.5) if self.grey else colours
        change = self.offsets[grids[0].values[1].long()].movedim(-1, 0)
        return (Changed(Table(colours, table.ranges), change),)


class GroupExtinction(nn.Module):
    """The opacity slot: the transfer function's extinction [1/mm], and at each voxel the factor of its group."""

    def __init__(self, settings: RendererSettings):
        super().__init__()
        self.transfer = settings.drawn_by
        self.factors = nn.Parameter(torch.ones(settings.clusters))

    def forward(self, grids: tuple[Grid, ...]) -> tuple[Changed, ...]:
        table = whole_table(self.transfer)
        change = self.factors.clamp(min=0)[grids[0].values[1].long()][None]
        return (Changed(Table(table.entries[:, 3:].to(self.factors.device), table.ranges), change),)


def visible(volume: Volume, transfer: TransferFunction) -> Bool[Tensor, "k j i"]:
    """Which voxels a transfer function shows, on the CPU."""
    return transfer.at(volume.values)[..., 3].cpu() > VISIBLE


def build_clusters(settings: RendererSettings) -> Renderer:
    """Draws what the transfer function draws until `fit_clusters` has met a painting."""
    return Renderer(
        "clusters",
        settings,
        encoder=Grouped(settings.drawn_by, settings.clusters),
        colour=GroupColours(settings),
        opacity=GroupExtinction(settings),
        accumulate=accumulator(settings, 3),
        decoder=Plain(),
    )


@torch.no_grad()
def fit_clusters(
    renderer: Renderer,
    volume: Volume,
    targets: Sequence[Target],
    march: MarchSettings | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> None:
    """Group the voxels of `volume` and give each group the colour that the targets ask for. Nothing is iterated.

    Where a painting asks for no alpha at all, something is hidden: the groups that make up the optical
    depth there are thinned by nonnegative least squares, against all pixels whose alpha shall stay. All pixels count
    relative to their own depth, so that a bone does not outweigh the skin.

    Args:
        renderer: of `build_clusters`; changed in place.
        targets: those without any weight are left out.
        march: how the images are sampled; by default as the renderer draws. Always composited (alpha).
        progress: called with the parts done and all of them.
    Raises: SettingError for another renderer, ImageError where nothing is painted or nothing is visible.
    """
    encoder, colour, opacity = renderer.encoder, renderer.colour, renderer.opacity
    if not (isinstance(encoder, Grouped) and isinstance(colour, GroupColours) and isinstance(opacity, GroupExtinction)):
        raise SettingError(f"fit_clusters makes the renderer clusters, not {renderer.name}, which is to be trained.")
    used = [coarser_target(target) for target in targets if bool((target.weight + target.alpha_weight).any())]
    if not used:
        raise ImageError("Nothing is painted: none of the targets has a pixel of any weight.")
    check_finite(volume.values, volume.source or "The volume")
    settings = MarchSettings(renderer.settings.sampling_rate) if march is None else march
    settings = replace(settings, accumulate="alpha")
    steps = iter(range(1, len(used) + 3))

    def done() -> None:
        if progress is not None:
            progress(next(steps), len(used) + 2)

    encoder.fit(volume, torch.Generator().manual_seed(renderer.settings.seed))
    colour.offsets.zero_()
    opacity.factors.fill_(1)
    done()
    grids = encoder(volume)
    seen = _Seen(grids[0].values[1].long(), len(encoder.centres), settings)
    opacity.factors.copy_(_thinned(seen, field_of(grids[0], colour(grids)[0], opacity(grids)[0]), used))
    done()
    thinned = field_of(grids[0], colour(grids)[0], opacity(grids)[0])
    colour.offsets.copy_(_offsets(seen, thinned, used, _likeness(encoder.centres), done))


class _Seen:
    """What the groups of a volume weigh in an image."""

    def __init__(self, ids: Int64[Tensor, "k j i"], count: int, settings: MarchSettings):
        self.ids, self.count, self.settings = ids, count, settings

    def weights(self, field: Field, camera: Camera) -> Float[Tensor, "pixel group"]:
        found = march_weights(self.ids, field, self.count, None, camera, self.settings)
        return found.flatten(1).T.double()

    def drawn(self, field: Field, camera: Camera) -> Float[Tensor, "4 h w"]:
        return march_field(field, camera, self.settings).cpu()


def _offsets(
    seen: _Seen,
    field: Field,
    targets: Sequence[Target],
    likeness: Float[Tensor, "group group"],
    done: Callable[[], None],
) -> Float[Tensor, "group 3"]:
    """The change of each group's colour: ridge regression of what the targets differ from the unchanged colours.

    The penalty is that of a Gaussian process over the features (kriging): what no view shows changes as its like does.
    """
    normal = RIDGE * torch.linalg.inv(likeness)
    right = torch.zeros(seen.count, 3, dtype=torch.float64)
    for target in targets:
        weights = seen.weights(field, target.camera).cpu()
        missing = (target.image - seen.drawn(field, target.camera))[:3].flatten(1).T.double()
        counted = weights * target.weight.flatten()[:, None]
        normal += counted.T @ weights
        right += counted.T @ missing
        done()
    return torch.linalg.solve(normal, right)


def _likeness(centres: Float[Tensor, "group feature"]) -> Float[Tensor, "group group"]:
    """How alike groups are, from 0 to 1 and a little more for each with itself."""
    apart = torch.cdist(centres.cpu().double(), centres.cpu().double()) / ALIKE
    return torch.exp(-(apart**2) / 2) + OWN * torch.eye(len(centres), dtype=torch.float64)


def _thinned(seen: _Seen, field: Field, targets: Sequence[Target]) -> Float[Tensor, "group"]:
    """The factor of each group's extinction, 1 where nothing is hidden."""
    hidden = [_hidden(seen, field, target) for target in targets]
    if not any(bool(where.any()) for where in hidden):
        return torch.ones(seen.count)
    assert field.table is not None
    faint = replace(field, table=Table(field.table.entries * FAINT, field.table.ranges))
    normal = RIDGE * torch.eye(seen.count, dtype=torch.float64)
    right = normal.sum(1)
    for target, where in zip(targets, hidden, strict=True):
        depth = seen.weights(faint, target.camera).cpu() / FAINT
        share = depth / depth.sum(1).clamp(min=0.1)[:, None]
        counted = share * target.alpha_weight.flatten()[:, None]
        normal += counted.T @ share
        right += counted.T @ torch.where(where.flatten(), 0, share.sum(1))
    # The normal equations as a square least-squares problem: |L^T s - L^-1 r| is least where N s = r
    factor = torch.linalg.cholesky(normal)
    at = torch.linalg.solve_triangular(factor, right[:, None], upper=False)[:, 0]
    return torch.from_numpy(nnls(factor.T.numpy(), at.numpy())[0]).float().clamp(max=1)


def _hidden(seen: _Seen, field: Field, target: Target) -> Bool[Tensor, "h w"]:
    """The pixels where something is drawn that a painting takes away."""
    drawn = seen.drawn(field, target.camera)[3]
    return (target.image[3] < NOTHING) & (drawn > SEEN) & (target.alpha_weight > UNPAINTED)


def coarser_target(target: Target) -> Target:
    """A target of at most LONGEST_SIDE pixels a side; pixels without weight do not bleed into the others."""
    height, width = target.camera.image_size
    largest = max(height, width)
    if largest <= LONGEST_SIDE:
        return target
    size = (max(1, round(height * LONGEST_SIDE / largest)), max(1, round(width * LONGEST_SIDE / largest)))

    def pooled(values: Tensor) -> Tensor:
        return F.interpolate(values[None], size, mode="area")[0]

    weights = torch.stack([target.weight, target.alpha_weight])
    each = weights[[0, 0, 0, 1]]
    kept = pooled(each)
    image = torch.where(kept > 0, pooled(target.image * each) / kept.clamp(min=1e-9), pooled(target.image))
    weight, alpha_weight = pooled(weights)
    return Target(target.camera.resized(size), image, weight, alpha_weight)


def _centres(features: Float[Tensor, "voxel feature"], count: int) -> Float[Tensor, "count feature"]:
    """Centres of `count` groups; fewer voxels than that are a group each, and the rest lies far away."""
    if len(features) < count:
        return F.pad(features, (0, 0, 0, count - len(features)), value=FAR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a group that no voxel joins: it keeps its centre
        centres, _ = kmeans2(features.numpy(), features[:count].numpy().copy(), iter=ROUNDS, minit="matrix")
    return torch.from_numpy(np.nan_to_num(centres, nan=FAR)).float()
