"""The section on DeepDVR: views, a painting made from the labels, instant preview, training, baking for VTK."""

import dataclasses
import time

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diffrender.demo.case import Case
from diffrender.demo.page import SMALL, Picture, Section, duration
from diffrender.display import annotated_colours
from diffrender.dvr.bake import bake
from diffrender.dvr.clusters import fit_clusters
from diffrender.dvr.losses import psnr
from diffrender.dvr.painting import paint_from_labels, targets_of
from diffrender.dvr.renderer import Renderer, RendererSettings
from diffrender.dvr.renderers import renderer
from diffrender.dvr.settings import TrainSettings
from diffrender.dvr.targets import Target
from diffrender.dvr.training import train
from diffrender.dvr.transfer import transfer_preset
from diffrender.dvr.view import Role, View, render_views
from diffrender.dvr.vtk_view import VtkSettings, draw_baked_in_vtk
from diffrender.errors import BackendError
from diffrender.views import eye
from diffrender.volume import Volume

# What is painted, by words in the labels' names. All of it is bone: what tells one from the other is where it lies and
# what it looks like, which no transfer function sees.
PAINTED = {
    "hip_left": (1.0, 0.75, 0.1),
    "hip_right": (0.2, 0.55, 1.0),
    "sacrum": (0.9, 0.2, 0.3),
    "vertebrae": (0.3, 0.8, 0.45),
    "femur": (0.75, 0.4, 0.95),
    "scapula": (0.2, 0.8, 0.85),
}
EYES = ((0.1, 1.0, 0.15), (1.0, 0.5, 0.1), (-1.0, 0.6, 0.2), (0.2, -1.0, 0.1))  # painted, RAS
HELD_OUT = (0.6, 0.9, 0.25)  # seen by nobody who learns
SIZE = (200, 200)  # px, as in the paper
PRESET = "ct-bone"
VOXELS = 400_000  # about as many as are drawn here


def painted_views(case: Case) -> Section:
    """From painted views to a renderer that has learned: the preview in seconds, the training, the held-out view."""
    title = "Paint a few views, and the volume learns to look like that"
    roles = _roles(case)
    if not roles:
        return Section(
            title,
            "This CT has no labels that the demo could paint with in your place (hips, sacrum, vertebrae, ...). "
            "Paint views by hand: <code>diffrender dvr views</code> renders them.",
        )
    transfer = transfer_preset(PRESET)
    volume = _coarse(case.volume)
    start = time.perf_counter()
    blank = render_views(volume, transfer, [eye(volume, at, SIZE) for at in (*EYES, HELD_OUT)])
    drawn = time.perf_counter() - start
    views = paint_from_labels(blank, volume, roles)
    asked = targets_of(views)
    learned = dataclasses.replace(views, views=(*views.views[:-1], dataclasses.replace(views.views[-1], paint=None)))
    start = time.perf_counter()
    preview = renderer("clusters", RendererSettings(transfer=transfer))
    fit_clusters(preview, volume, [t for t in asked[:-1] if t.counts])
    previewed = time.perf_counter() - start
    settings = TrainSettings(drawing=RendererSettings(transfer=transfer), seconds=case.training, held_out=-1)
    start = time.perf_counter()
    trained = train(learned, settings).run().renderer
    spent = time.perf_counter() - start
    held, last = asked[-1], views.views[-1]
    with torch.no_grad():
        shown = {
            "before: the transfer function": last.image,
            "instant preview (clusters)": preview(volume, held.camera),
            f"after {case.training:g} s of training (unet-s)": trained(volume, held.camera),
            "what the painter would have painted": held.image,
        }
    pictures = [_painting(view, roles, number) for number, view in enumerate(views.views[:-1], 1)]
    pictures += [_rendered(image, last, f"held-out view, {what}") for what, image in shown.items()]
    baked, engine = _baked(trained, volume, last)
    return Section(
        title,
        "Views of the CT are drawn with a transfer function; somebody paints the colours they want on some of them "
        "(here the labels do it). A renderer then learns to draw the volume so from everywhere: an instant preview, "
        "voxels grouped by what surrounds them and one linear solve for their colours; then "
        f"{case.training:g} s of training, which starts from the mean of four finer previews and has a small network "
        "change that voxel by voxel: most of what it gains here is the start's. The last view was painted too, but "
        "nobody learned from it: it tells whether learning worked. What was learned can be baked into colours and "
        "opacities that Slicer's own volume rendering (VTK) draws.",
        [*pictures, *baked],
        [
            ("volume", repr(volume)),
            ("painted", f"{len(roles)} labels: hips, sacrum, vertebrae, femurs, shoulder blades, if there"),
            (f"{len(blank.views)} views of {SIZE[1]} x {SIZE[0]} px", duration(drawn)),
            ("instant preview, fitted in", duration(previewed)),
            ("training took", duration(spent)),
            *((f"held-out view, painted pixels, {what}", _score(image, held)) for what, image in shown.items()),
            ("baked volume in VTK, against our picture of it", engine),
        ],
        {"preset": PRESET, "training": dataclasses.asdict(settings)},
    )


def _coarse(volume: Volume) -> Volume:
    """The volume in blocks of voxels averaged, so that a network makes many steps in half a minute."""
    n = max(1, min(round((volume.values.numel() / VOXELS) ** (1 / 3)), *volume.shape))
    values = F.avg_pool3d(volume.values.float()[None, None], n)[0, 0]
    k, j, i = (slice(n // 2, n * size, n) for size in values.shape)
    lattice = volume.world_from_voxel @ torch.diag(torch.tensor([n, n, n, 1.0], dtype=torch.float64))
    lattice[:3, 3] += volume.world_from_voxel[:3, :3].sum(1) * ((n - 1) / 2)
    labels = None if volume.labels is None else volume.labels[..., k, j, i]
    return Volume(values, lattice, labels, volume.names, volume.unit, volume.source)


def _roles(case: Case) -> dict[int, Role]:
    found: dict[int, Role] = {}
    for word, colour in PAINTED.items():
        for label in case.named([word]):
            if 0 < label < 256:
                found[label] = Role(case.volume.label_name(label), "recolour", colour, 1.0)
    return found


def _painting(view: View, roles: dict[int, Role], number: int) -> Picture:
    """The view as its painter left it: strokes over the render."""
    image = view.image.clone()
    assert view.paint is not None
    for label, role in roles.items():
        here = view.paint == label
        image[:3, here] = 0.4 * image[:3, here] + 0.6 * torch.tensor(role.colour)[:, None] * image[3, here]
    return _rendered(image, view, f"painted view {number}")


def _rendered(image: Float[Tensor, "4 h w"], view: View, caption: str) -> Picture:
    return Picture(annotated_colours(image, view.camera, SMALL), caption, f"Volume rendering, {caption}")


def _score(image: Float[Tensor, "4 h w"], target: Target) -> str:
    if bool((image == target.image).all()):
        return "the goal"
    return f"{psnr(image[:3], target.image[:3], target.painted):.1f} dB"


def _baked(trained: Renderer, volume: Volume, view: View) -> tuple[list[Picture], str]:
    """The baked volume as VTK draws it, and how close that is; where VTK cannot draw, why."""
    try:
        baked = bake(trained, volume)
        drawn = draw_baked_in_vtk(baked, view.camera, VtkSettings(1 / baked.finer))  # with our step
    except BackendError as problem:
        return [], str(problem)
    with torch.no_grad():
        ours = trained(volume, view.camera)
    return [_rendered(drawn, view, "baked, and drawn by VTK as Slicer does")], f"{psnr(drawn, ours):.1f} dB"
