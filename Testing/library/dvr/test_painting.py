"""Painting becomes targets: luminance and hue as promised, the rim exactly two pixels, labels painted in place."""

import colorsys
import dataclasses

import numpy as np
import pytest
import torch

import diffrender as dr
import phantoms
from diffrender.dvr.colour import LUMINANCE, display_of, linear_of, recoloured
from diffrender.dvr.painting import paint_from_labels, rim, targets_of
from diffrender.dvr.targets import Target
from diffrender.dvr.transfer import TransferFunction
from diffrender.dvr.view import Role, View, Views, render_views
from diffrender.errors import ImageError, LabelError, Notice, SettingError

SIZE = (40, 52)
CAMERA = dr.c_arm([3.0, -2.0, 7.0], image_size=SIZE)
BONE = TransferFunction(((100.0, 0.9, 0.6, 0.4), (900.0, 1.0, 0.95, 0.85)), ((150.0, 0.0), (500.0, 0.5)), name="bone")


def picture(seed: int = 5) -> torch.Tensor:
    """Premultiplied noise of every colour and alpha, with a part that is empty."""
    generator = torch.Generator().manual_seed(seed)
    alpha = torch.rand(SIZE, generator=generator)
    alpha[:5] = 0
    return torch.cat([torch.rand((3, *SIZE), generator=generator) * alpha, alpha[None]])


def painted(strokes: dict[int, tuple[slice, slice]], roles: dict[int, Role]) -> Views:
    """Three views, the second of them painted."""
    paint = torch.zeros(SIZE, dtype=torch.uint8)
    for number, where in strokes.items():
        paint[where] = number
    return Views((View(CAMERA, picture(1)), View(CAMERA, picture(), paint), View(CAMERA, picture(2))), roles=roles)


BLOCK = (slice(10, 25), slice(12, 40))
INNER = (slice(12, 23), slice(14, 38))


def luminance(display: torch.Tensor) -> torch.Tensor:
    """Y, worked out in double precision here and not asked of the library."""
    d = display.double()
    light = torch.where(d <= 0.04045, d / 12.92, ((d + 0.055) / 1.055) ** 2.4)
    return (torch.tensor(LUMINANCE).double()[:, None] * light.reshape(3, -1)).sum(0)


@pytest.mark.parametrize(
    "colour", [(1.0, 0.0, 0.0), (0.05, 0.2, 0.9), (0.2, 0.85, 0.1), (0.5, 0.5, 0.5), (0.0, 0.0, 0.0)]
)
@pytest.mark.parametrize("strength", [0.0, 0.35, 1.0])
def test_luminance_is_kept_whatever_the_paint(colour, strength):
    rgb = torch.rand((3, 500), generator=torch.Generator().manual_seed(3))
    rgb[:, 0], rgb[:, 1] = 0, 1
    new = recoloured(rgb, colour, strength)
    assert new.min() >= 0
    assert new.max() <= 1
    # of light in single precision, through a power of 2.4 and back
    assert (luminance(new) - luminance(rgb)).abs().max() < 2e-6
    if strength == 0:
        assert (new - rgb).abs().max() < 2e-6


def test_the_hue_is_the_paints_and_as_full_as_the_gamut_allows():
    paint = (0.9, 0.1, 0.1)
    greys = torch.linspace(0.02, 0.98, 40).expand(3, 40)
    new = recoloured(greys, paint)
    hues = [colorsys.rgb_to_hsv(*column)[0] for column in new.T.tolist()]
    assert hues == pytest.approx([0.0] * 40, abs=1e-3)  # red, at every brightness
    # Chromaticity is the paint's where that fits, else one channel is at its end: nothing is paler than it must be.
    light = linear_of(new)
    kept = (light[0] / light[1] - linear_of(torch.tensor(paint))[0] / linear_of(torch.tensor(paint))[1]).abs() < 1e-2
    assert (kept | (new.max(0).values > 0.999)).all()
    assert 5 < kept.sum() < 35


def test_grey_paint_takes_colour_away():
    new = recoloured(torch.tensor([[0.8], [0.3], [0.1]]), (0.4, 0.4, 0.4))
    assert new.std() < 1e-6


def test_display_values_and_light_are_inverses():
    values = torch.linspace(0, 1, 1001)
    assert (display_of(linear_of(values)) - values).abs().max() < 1e-6
    # the published pair of IEC 61966-2-1: half the display value is 21.4 % of the light
    assert linear_of(torch.tensor(0.5)) == pytest.approx(0.21404, abs=1e-5)


def test_recolouring_takes_luminance_of_the_straight_colour_and_keeps_alpha():
    views = painted({7: BLOCK}, {7: Role("kidney", "recolour", (0.1, 0.3, 0.9))})
    before, target = views.views[1].image, targets_of(views)[1]
    assert torch.equal(target.image[3], before[3])
    outside = torch.ones(SIZE, dtype=torch.bool)
    outside[BLOCK] = False
    assert torch.equal(target.image[:, outside], before[:, outside])
    seen = before[3] > 0.05
    seen[outside] = False
    new, old = (image[:3, seen] / image[3, seen] for image in (target.image, before))
    # premultiplied and divided again in single precision at alpha above 0.05
    assert (luminance(new) - luminance(old)).abs().max() < 1e-5
    assert (target.image[2, seen] > target.image[0, seen]).all()  # blue it is


def test_strength_blends():
    views = {s: painted({7: BLOCK}, {7: Role("kidney", "recolour", (0.1, 0.3, 0.9), s)}) for s in (0.0, 0.5, 1.0)}
    none, half, full = (targets_of(v)[1].image for v in views.values())
    assert (none - views[0.0].views[1].image).abs().max() < 1e-5
    assert ((half - none).abs().sum() - (half - full).abs().sum()).abs() < 0.4 * (none - full).abs().sum()
    assert (none - full).abs().max() > 0.3


WEIGHTS = {  # role: colour and alpha within the paint; colour and alpha two pixels outside it
    "recolour": (5.0, 1.0, 0.0, 1.0),
    "keep": (5.0, 5.0, 0.0, 1.0),
    "hide": (0.0, 5.0, 0.0, 0.0),
    "ignore": (0.0, 0.0, 0.0, 0.0),
}


@pytest.mark.parametrize("role", WEIGHTS)
def test_weights_of_each_role_and_a_rim_of_exactly_two_pixels(role):
    views = painted({7: BLOCK}, {7: Role("kidney", role, (0.9, 0.1, 0.1))})
    target = targets_of(views)[1]
    inner, inner_alpha, rim_outside, rim_alpha = WEIGHTS[role]
    assert (target.weight[INNER] == inner).all()
    assert (target.alpha_weight[INNER] == inner_alpha).all()
    for row, column, depth in ((10, 25, -1), (24, 25, 1), (17, 12, -2), (17, 39, 2)):  # the first pixels in the paint
        down, right = (np.sign(depth), 0) if abs(depth) == 1 else (0, np.sign(depth))
        along = [(row + n * down, column + n * right) for n in (-2, -1, 0, 1, 2, 3)]  # inside ... outside
        assert [target.weight[at].item() for at in along] == [inner, 0, 0, rim_outside, rim_outside, 1.0]
        in_rim = 0.0 if role in ("hide", "ignore") else inner_alpha
        assert [target.alpha_weight[at].item() for at in along] == [
            inner_alpha,
            in_rim,
            in_rim,
            rim_alpha,
            rim_alpha,
            1.0,
        ]
    assert (target.weight[30:] == 1).all()


def test_the_rim_lies_between_two_paints_too_and_not_along_the_picture():
    paint = torch.zeros((9, 20), dtype=torch.uint8)
    paint[:, :11] = 4
    paint[:, 11:] = 9
    near = rim(paint)
    assert near.any(0).nonzero().flatten().tolist() == [9, 10, 11, 12]
    assert near.all(0).nonzero().flatten().tolist() == [9, 10, 11, 12]
    assert not rim(torch.full((9, 20), 4, dtype=torch.uint8)).any()


def test_hiding_asks_for_no_alpha_and_says_nothing_of_colour():
    views = painted({7: BLOCK}, {7: Role("table", "hide")})
    target = targets_of(views)[1]
    assert not target.image[(slice(None), *BLOCK)].any()
    assert target.painted[INNER].all()
    assert target.painted.sum() == 11 * 24


def test_a_view_without_paint_says_nothing_unless_asked_to():
    views = painted({7: BLOCK}, {7: Role("kidney", "keep")})
    first, second, third = targets_of(views)
    assert not first.counts
    assert not third.counts
    assert second.counts
    assert torch.equal(first.image, views.views[0].image)
    assert (targets_of(views, unpainted=0.25)[0].weight == 0.25).all()


def test_what_cannot_be_learned_is_said():
    red = {7: Role("kidney", "recolour", (0.9, 0.1, 0.1))}
    with pytest.raises(ImageError, match="Nothing is painted on these views"):
        targets_of(painted({}, red))
    everywhere = (slice(None), slice(None))
    with pytest.raises(ImageError, match=r"Everything that .* painted as hidden"):
        targets_of(painted({1: everywhere}, {1: Role("all", "hide")}))
    with pytest.raises(ImageError, match="leaves nothing to learn"):
        targets_of(painted({1: everywhere}, {1: Role("all", "ignore")}))
    with pytest.raises(LabelError, match="painted with 2, and no role"):
        painted({2: BLOCK}, red)
    with pytest.warns(Notice, match="kidney is nowhere painted wider than 4 px"):
        targets_of(painted({7: (slice(10, 14), slice(5, 40))}, red))


def test_targets_that_do_not_fit_their_camera():
    flat = torch.ones(SIZE)
    with pytest.raises(ImageError, match="image has 39 x 52 pixels and its camera 40 x 52"):
        Target(CAMERA, picture()[:, 1:], flat, flat)
    with pytest.raises(ImageError, match="alpha_weight has 40 x 51"):
        Target(CAMERA, picture(), flat, flat[:, 1:])
    with pytest.raises(ImageError, match=r"weight holds .* NaN"):
        Target(CAMERA, picture(), flat * float("nan"), flat)


LATTICES = {
    "oblique left-handed": phantoms.oblique_lattice(spacing=(2.2, 2.0, 2.6), left_handed=True),
    "LPS": np.diag([-2.2, -2.0, 2.6, 1.0]),
    "LAS": np.diag([-2.2, 2.0, 2.6, 1.0]),
}
BALLS = {11: (-31.0, 8.0, 22.0), 4: (24.0, -9.0, -26.0)}  # label: mm right, before and above of the middle


@pytest.fixture(scope="module", params=LATTICES)
def balls(request) -> dr.Volume:
    """Two opaque balls of 15 mm, the first on the patient's left, above; the second on the right, below."""
    empty = dr.Volume(torch.full((40, 48, 48), -1000, dtype=torch.int16), LATTICES[request.param])
    k, j, i = torch.meshgrid(*[torch.arange(n).double() for n in empty.shape], indexing="ij")
    world = torch.stack([i, j, k], -1) @ empty.world_from_voxel[:3, :3].T + empty.world_from_voxel[:3, 3]
    labels = torch.zeros(empty.shape, dtype=torch.uint8)
    for label, away in BALLS.items():
        labels[(world - empty.centre - torch.tensor(away)).norm(dim=-1) < 15] = label
    return dataclasses.replace(empty, values=torch.where(labels > 0, 1500, -1000).short(), labels=labels)


def test_labels_are_painted_where_they_are_seen(balls):
    roles = {11: Role("left", "recolour", (0.2, 0.4, 1.0)), 4: Role("right", "keep")}
    camera = dr.preset("frontal", balls, (70, 90), pixel_size=2.6)
    views = render_views(balls, BONE, [camera, camera])
    made = paint_from_labels(views, balls, roles, painted=[1])
    assert made.views[0].paint is None
    assert made.roles == roles
    paint = made.views[1].paint
    assert paint is not None
    assert set(paint.unique().tolist()) == {0, *roles}
    for label, away in BALLS.items():
        found = (paint == label).nonzero().double().mean(0) + 0.5
        expected = camera.project(balls.centre + torch.tensor(away, dtype=torch.float64))
        assert (found - expected).abs().max() < 0.5  # px; voxels of up to 1.5 px make the balls
        area = 3.14159 * (15.0 * camera.source_to_detector / 700 / 2.6) ** 2  # px, 700 mm from the source
        assert (paint == label).sum() == pytest.approx(area, rel=0.12)  # an edge of half a pixel all around
    assert (views.views[1].image[3][paint > 0] > 0.05).all()  # nobody paints what is not seen


def test_what_is_hidden_behind_is_not_painted():
    values, labels = torch.full((24, 30, 36), -1000, dtype=torch.int16), torch.zeros((24, 30, 36), dtype=torch.uint8)
    values[5:20, 4:8, 6:30], labels[5:20, 4:8, 6:30] = 1500, 1  # a wall towards the viewer, 3 mm of it opaque
    values[8:16, 20:26, 12:25], labels[8:16, 20:26, 12:25] = 1500, 2
    world = torch.diag(torch.tensor([3.0, -3.0, 3.0, 1.0], dtype=torch.float64))
    volume = dr.Volume(values, world, labels)
    views = render_views(
        volume, BONE, [dr.preset("chest-ap-bedside", volume, (60, 70)), dr.preset("chest-pa", volume, (60, 70))]
    )
    roles = {1: Role("wall", "keep"), 2: Role("behind", "keep")}
    before, behind = paint_from_labels(views, volume, roles).views
    assert set(before.paint.unique().tolist()) == {0, 1}
    assert set(behind.paint.unique().tolist()) == {0, 1, 2}


def test_specks_and_pinholes_are_no_strokes():
    values, labels = torch.full((20, 8, 24), -1000, dtype=torch.int16), torch.zeros((20, 8, 24), dtype=torch.uint8)
    values[4:15, 2:6, 3:14], labels[4:15, 2:6, 3:14] = 1500, 1
    labels[9, 2:6, 8] = 0  # a hole of one voxel
    values[10, 2:6, 20], labels[10, 2:6, 20] = 1500, 1  # a speck of one voxel
    volume = dr.Volume(values, torch.diag(torch.tensor([-4.0, -4.0, 4.0, 1.0], dtype=torch.float64)), labels)
    camera = dr.preset("chest-ap-bedside", volume, (26, 31))  # a voxel and its soft edge are 9 px or fewer
    (view,) = paint_from_labels(render_views(volume, BONE, [camera]), volume, {1: Role("slab", "keep")}).views
    rows, columns = (view.paint == 1).nonzero().T
    block = view.paint[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    assert (block == 1).float().mean() > 0.95  # one piece without a hole; its corners may be round
    assert view.image[3][:, columns.max() + 3 :].max() > 0.3 or view.image[3][:, : columns.min() - 2].max() > 0.3


def test_painting_that_cannot_be(balls):
    views = render_views(balls, BONE, dr.orbit(balls, 2, (12, 14)))
    role, label = Role("ball", "keep"), 4
    with pytest.raises(SettingError, match="no view 2; there are 2"):
        paint_from_labels(views, balls, {label: role}, painted=[2])
    with pytest.raises(SettingError, match="no label to paint"):
        paint_from_labels(views, balls, {})
    with pytest.raises(LabelError, match="Label 300"):
        paint_from_labels(views, balls, {300: role})
    with pytest.raises(LabelError, match="Label 250 does not occur"):
        paint_from_labels(views, balls, {250: role})
    with pytest.raises(SettingError, match="which transfer function"):
        paint_from_labels(dataclasses.replace(views, transfer=None), balls, {label: role})


def test_kidneys_aorta_and_hips_of_a_real_ct(real_data):
    folder = real_data("ct-abdomenpelvis-totalseg")
    names = {
        int(n): name for n, name in (("2", "kidney_right"), ("3", "kidney_left"), ("7", "aorta"), ("90", "hip_left"))
    }
    with pytest.warns(Notice):
        volume = dr.read_volume(
            folder / "ct.nii.gz", folder / "labels_totalsegv1_multilabel.nii.gz", folder / "labels.csv"
        )
    soft = TransferFunction(
        ((20.0, 0.8, 0.4, 0.3), (250.0, 1.0, 0.9, 0.8)), ((90.0, 0.0), (130.0, 0.05), (250.0, 0.4)), name="soft"
    )
    views = render_views(volume, soft, [dr.preset("frontal", volume, (110, 110))])
    roles = {n: Role(name, "recolour", (0.9, 0.2, 0.1)) for n, name in names.items()}
    painting = paint_from_labels(views, volume, roles, sampling_rate=0.5)
    hip = sum(int((view.paint == 90).sum()) for view in painting.views)
    assert hip > 400
    assert sum(target.painted.sum() for target in targets_of(painting)) > 150
