"""Baking: what 8 bits keep of a renderer, what is refused, and what the files say."""

import itertools
import json
import math

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from torch import nn

import phantoms
from diffrender.dvr.bake import (
    Baked,
    _ceilings,
    _levelled,
    _thresholds,
    bake,
    check_bakes,
    transfer_of,
)
from diffrender.dvr.baked_files import read_baked, write_baked
from diffrender.dvr.classify import classified_finely, finest, spread, voxels_of
from diffrender.dvr.renderer import Grid, Marched, Plain, Renderer, RendererSettings
from diffrender.dvr.renderers import RENDERERS, renderer
from diffrender.dvr.transfer import TransferFunction
from diffrender.errors import ImageError, Notice, OutputError, PathError, SettingError
from diffrender.rays.field import Field, MarchSettings, Table
from diffrender.rays.march import march
from diffrender.views import eye
from diffrender.volume import Volume

LATTICE = phantoms.oblique_lattice(spacing=(1.3, 1.9, 2.7), left_handed=True)
SHAPE = (20, 24, 28)
SOFT = TransferFunction(
    ((-1000.0, 0.2, 0.3, 0.5), (500.0, 1.0, 0.8, 0.6)), ((-600.0, 0.0), (-200.0, 0.02), (400.0, 0.3)), 1.0, "soft"
)


class Given(nn.Module):
    """A slot that says what it was made with."""

    def __init__(self, said):
        super().__init__()
        self.said = said

    def forward(self, grids):
        return (self.said,)


class Where(nn.Module):
    def forward(self, volume):
        return (Grid(volume.values[None], volume.world_from_voxel),)


def of_voxels(colour: torch.Tensor, kappa: torch.Tensor) -> Renderer:
    return Renderer(
        "unet-s",
        RendererSettings(),
        encoder=Where(),
        colour=Given(colour),
        opacity=Given(kappa[None]),
        accumulate=Marched(),
        decoder=Plain(),
    )


@pytest.fixture
def volume() -> Volume:
    drawn = phantoms.drawn(phantoms.ellipsoid(phantoms.point_at(LATTICE, SHAPE)), LATTICE, SHAPE)
    return Volume((drawn.values * 1300 - 1000).to(torch.int16), drawn.world_from_voxel)


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(-10 * ((a - b) ** 2).mean().log10())


# A level is 1/255 of kappa_max and is met on both sides: measured 59 dB. Of 16 bits, 1/65535: only where the extinction
# is cut off they differ (measured 75 dB).
@pytest.mark.parametrize(("bits", "highest", "least"), [(8, 255, 52), (16, 65535, 65)])
def test_voxels_keep_their_look(volume, bits, highest, least):
    look = SOFT.at(volume.values.float()).movedim(-1, 0)
    made = of_voxels(look[:3], look[3])
    baked = bake(made, volume, bits)
    camera = eye(volume, (0.3, 0.8, 0.2), (60, 60))
    assert baked.rgba.shape == (*SHAPE, 4)
    assert baked.bits == bits
    assert baked.rgba[..., 3].max() == baked.opacities[-1][0] == highest
    assert baked.rgba[..., 3].min() == 0
    assert psnr(march(baked.field(), camera), made(volume, camera)) > least
    alpha, opacity = np.array(baked.opacities).T
    assert opacity == pytest.approx(1 - np.exp(-baked.kappa_max * alpha / highest))
    with pytest.raises(SettingError, match="in 8 or 16 bits, not 12"):
        bake(made, volume, 12)


def test_haze_of_less_than_a_level_stays(volume):
    kappa = torch.full(SHAPE, 0.004)
    kappa[9:11, 11:13, 13:15] = 2.5  # a level is 0.01
    made = of_voxels(torch.full((3, *SHAPE), 0.5), kappa)
    baked = bake(made, volume)
    camera = eye(volume, (0.3, 0.8, 0.2), (60, 60))
    ours, theirs = made(volume, camera)[3], march(baked.field(), camera)[3]
    hazy = (ours > 0.02) & (ours < 0.5)
    assert hazy.sum() > 300
    # Rounded it would be all or nothing; the dither's mean over the picture is right.
    assert theirs[hazy].mean() == pytest.approx(float(ours[hazy].mean()), rel=0.06)


@pytest.mark.parametrize("share", [0.13, 0.5, 0.81])
def test_rounding_evens_out_among_neighbours(share):
    up = (_thresholds(torch.full((16, 20, 24), 0.0)) + share).floor()
    means = torch.nn.functional.avg_pool3d(up[None], 4)[0]
    # 64 voxels each, so steps of 0.016; measured 0.045, and rounded by chance 0.11 to 0.14.
    assert (means - share).abs().max() < 0.06


def test_what_is_opaque_at_once_takes_no_levels(volume):
    kappa = torch.full(SHAPE, 0.05)
    kappa[4:9, 5:11, 6:13] = 400.0
    baked = bake(of_voxels(torch.rand(3, *SHAPE), kappa), volume)
    edge = float(np.linalg.norm(LATTICE[:3, :3], axis=0).min())
    assert 0.96 < 1 - np.exp(-baked.kappa_max * edge) < 0.99995
    thin = baked.rgba[..., 3][kappa < 1].double().mean() / 255 * baked.kappa_max
    assert float(thin) == pytest.approx(0.05, rel=0.05)


def test_of_what_alpha_may_stand_for_the_closest_is_taken(volume):
    kappa = torch.full(SHAPE, 0.03)  # soft tissue, and bone that hides what lies behind it
    kappa[4:9, 5:11, 6:13] = 400.0
    made = of_voxels(torch.rand((3, *SHAPE), generator=torch.Generator().manual_seed(2)), kappa)
    field = made.encode(volume)[0]
    edge = float(np.linalg.norm(LATTICE[:3, :3], axis=0).min())
    camera = eye(volume, (0.3, 0.8, 0.2), (60, 60))
    wanted = made(volume, camera)
    tried = [_levelled(field, top, "", 8) for top in _ceilings(field.values[3], edge)]
    found = [psnr(march(one.field(), camera), wanted) for one in tried]
    assert max(found) - min(found) > 1
    # Seen from elsewhere than bake tries, so another may be a little better.
    assert psnr(march(bake(made, volume).field(), camera), wanted) > max(found) - 0.5


def test_a_table_is_given_away_whole_and_baked_with_a_word(volume):
    learned = renderer("lookup", RendererSettings(transfer=SOFT))
    transfer = transfer_of(learned)
    table = learned.encode(volume)[0].table
    at = torch.linspace(-1000, 800, 333)
    again = transfer.at(at)
    low, high = table.ranges[0]
    place = (at - low) / (high - low) * (len(table.entries) - 1)
    below = place.floor().long()
    exact = torch.lerp(table.entries[below], table.entries[below + 1], (place - below)[:, None])
    assert (again[:, :3] - exact[:, :3].clamp(0, 1)).abs().max() < 1e-4
    # Opacity of 0.1 mm is linear in VTK, extinction in the march: second order in kappa * 0.1 mm.
    assert (again[:, 3] - exact[:, 3]).abs().max() < 2e-4
    assert transfer.opacities[1][0] - transfer.opacities[0][0] == 0.5  # so that VTK samples it finely
    with pytest.warns(Notice, match="classifies what lies between voxels"):
        baked = bake(learned, volume, finer=1)
    inside = volume.values > 290
    assert (baked.rgba[inside][:, :3].double() / 255 - SOFT.at(torch.tensor([300.0]))[0, :3]).abs().max() < 0.02


@pytest.mark.parametrize("name", ["clusters", "hybrid"])
def test_a_changed_table_is_baked_with_what_its_voxels_change(volume, name):
    made = renderer(name, RendererSettings(width=0.25))
    with torch.no_grad():
        if name == "clusters":
            made.colour.offsets[:] = torch.tensor([0.2, -0.3, 0.1])  # all voxels are of one group at first
            made.opacity.factors[:] = 0.5
        else:
            made.encoder.last.bias.copy_(torch.atanh(torch.tensor([0.2, -0.3, 0.1, math.log(0.5) / 4])))
        plain = voxels_of(renderer("lookup", made.settings).encode(volume)[0])
        # the lookup table has bins of 16 HU, clusters the whole function
        found = voxels_of(made.encode(volume)[0])
    if name == "hybrid":
        expected = torch.cat([plain[:3] + torch.tensor([0.2, -0.3, 0.1])[:, None, None, None], 0.5 * plain[3:]])
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    with pytest.warns(Notice, match="classifies what lies between voxels") as caught:
        baked = bake(made, volume, finer=1)
    assert not any("give that away" in str(one.message) for one in caught)
    shown = baked.rgba[..., 3] > 128
    assert bool(shown.any())
    colour = found[:3].clamp(0, 1).movedim(0, -1)[shown] * 255
    assert (baked.rgba[..., :3][shown].float() - colour).abs().max() <= 0.51  # a level


# Air from one voxel to the next becomes bone: what a table classifies between them is far from what lies between the
# classified two.
STEP = Table(
    torch.tensor([[0.9, 0.5, 0.2, 0.0], [0.9, 0.5, 0.2, 0.0], [0.3, 0.8, 0.9, 0.6], [0.3, 0.8, 0.9, 0.6]]),
    ((-20.0, 40.0),),
)


def stepped(volume: Volume, changed: bool) -> Field:
    change = torch.rand((4, *SHAPE), generator=torch.Generator().manual_seed(5)) * 0.3
    change[3] += 0.8
    return Field(volume.values, volume.world_from_voxel, STEP, change if changed else None)


@pytest.mark.parametrize("changed", [False, True])
def test_finer_bakes_are_closer(volume, changed):
    field = stepped(volume, changed)
    camera = eye(volume, (0.3, 0.8, 0.2), (60, 60))
    wanted = march(field, camera)
    found = [psnr(march(classified_finely(field, n), camera, MarchSettings(1 / n)), wanted) for n in (1, 2, 3, 4)]
    # Measured 19.4, 25.5, 27.7 and 30.1, changed 18.6, 24.6, 26.6 and 28.7: the error of a step, which lies anywhere
    # between two voxels, falls with their distance.
    assert all(after > before + 1.5 for before, after in itertools.pairwise(found))
    assert found[3] > found[0] + 9


@pytest.mark.parametrize("changed", [False, True])
@pytest.mark.parametrize("finer", [1, 2, 3])
def test_the_finer_lattice_lies_where_the_ct_does(volume, changed, finer, monkeypatch):
    monkeypatch.setattr("diffrender.dvr.classify.SLAB", 9000)  # several slabs, the last of another thickness
    field = stepped(volume, changed)
    made = classified_finely(field, finer)
    assert made.shape == tuple(finer * (n - 1) + 1 for n in SHAPE)
    corners = torch.tensor([[0.0, 0, 0, 1], [27, 0, 0, 1], [0, 23, 0, 1], [0, 0, 19, 1], [27, 23, 19, 1]]).double().T
    again = torch.cat([corners[:3] * finer, corners[3:]])
    assert (made.world_from_voxel @ again - torch.from_numpy(LATTICE) @ corners).abs().max() < 1e-9  # float64, mm
    at_voxels = made.values[:, ::finer, ::finer, ::finer]
    shown = at_voxels[3] > 0
    assert 100 < int(shown.sum()) < shown.numel() - 100
    plain = voxels_of(field)
    torch.testing.assert_close(at_voxels[3], plain[3], atol=1e-5, rtol=0)  # float32 weights
    torch.testing.assert_close(at_voxels[:3, shown], plain[:3, shown].clamp(0, 1), atol=1e-5, rtol=0)


def test_between_voxels_numbers_are_interpolated_before_they_are_classified():
    numbers = torch.rand((3, 4, 5), generator=torch.Generator().manual_seed(3)) * 40 + 5
    change = torch.rand((4, 3, 4, 5), generator=torch.Generator().manual_seed(4))
    made = classified_finely(Field(numbers, torch.from_numpy(LATTICE), STEP, change), 3)
    k, j, i = 4, 5, 10  # steps of a third: (4/3, 5/3, 10/3)
    weights = torch.zeros(3, 4, 5)
    for a, b, c in itertools.product((0, 1), repeat=3):
        weights[1 + a, 1 + b, 3 + c] = (2 / 3, 1 / 3)[a] * (1 / 3, 2 / 3)[b] * (2 / 3, 1 / 3)[c]
    number, offsets = float((numbers * weights).sum()), (change * weights).sum((1, 2, 3))
    place = min(max((number + 20) / 20, 0.0), 3.0)
    entry = torch.lerp(STEP.entries[int(place)], STEP.entries[min(int(place) + 1, 3)], place - int(place))
    assert float(entry[3]) > 0
    torch.testing.assert_close(made.values[3, k, j, i], entry[3] * offsets[3], atol=1e-5, rtol=0)
    torch.testing.assert_close(made.values[:3, k, j, i], (entry[:3] + offsets[:3]).clamp(0, 1), atol=1e-5, rtol=0)


def test_how_fine_is_chosen_by_what_there_is_room_for(volume, monkeypatch):
    field = stepped(volume, False)
    assert finest(field) == 4
    monkeypatch.setattr("diffrender.dvr.classify.MOST_VOXELS", 58 * 70 * 82)  # three times finer to the voxel
    assert finest(field) == 3
    learned = renderer("lookup", RendererSettings(transfer=SOFT))
    with pytest.warns(Notice, match="here 3 times as many along each axis"):
        baked = bake(learned, volume)
    assert (baked.finer, baked.rgba.shape) == (3, (58, 70, 82, 4))
    monkeypatch.setattr("diffrender.dvr.classify.MOST_VOXELS", 58 * 70 * 82 - 1)
    assert finest(field) == 2
    monkeypatch.setattr("diffrender.dvr.classify.MOST_VOXELS", 100)
    assert finest(field) == 1
    assert finest(Field(torch.rand(4, 3, 4, 5), field.world_from_voxel)) == 1
    with pytest.warns(Notice, match="here the CT's own"):
        assert bake(learned, volume).rgba.shape == (*SHAPE, 4)


def test_what_is_no_table_is_not_baked_finer(volume):
    made = of_voxels(torch.rand(3, *SHAPE), torch.rand(SHAPE))
    assert bake(made, volume, finer=1).rgba.shape == (*SHAPE, 4)
    with pytest.raises(SettingError, match="a volume that is finer would show the same"):
        bake(made, volume, finer=2)
    with pytest.raises(SettingError, match="times finer than the CT, not 0"):
        bake(made, volume, finer=0)


def test_transparent_voxels_take_the_colour_of_visible_neighbours():
    colour, visible = torch.zeros(3, 5, 6, 7), torch.zeros(5, 6, 7, dtype=torch.bool)
    visible[2, 3, 4] = visible[2, 3, 6] = True
    colour[0, 2, 3, 4] = colour[1, 2, 3, 6] = 1.0
    around = spread(colour, visible)
    assert around[:, 1, 2, 3].tolist() == pytest.approx([1, 0, 0])  # beside the red one
    assert around[:, 2, 3, 5].tolist() == pytest.approx([0.5, 0.5, 0])  # between both
    assert around[:, 2, 3, 4].tolist() == [1, 0, 0]
    assert around[:, 2, 3, 1].tolist() == [0, 0, 0]  # beside none


@pytest.mark.parametrize("name", [name for name, recipe in RENDERERS.items() if recipe.bakes is None])
def test_image_space_renderers_are_refused_by_name_with_a_way_out(volume, name):
    made = of_voxels(torch.rand(3, *SHAPE), torch.rand(SHAPE))
    made.name = name
    with pytest.raises(SettingError, match=rf"{name} cannot be baked: it .*train one of .*unet-s"):
        bake(made, volume)


def test_other_ways_to_put_samples_together_are_refused():
    made = of_voxels(torch.rand(3, *SHAPE), torch.rand(SHAPE))
    made.settings = RendererSettings(accumulate="mip")
    with pytest.raises(SettingError, match=r"by 'mip'.*accumulate='alpha'"):
        check_bakes(made)
    with pytest.raises(SettingError, match="more than a transfer function"):
        transfer_of(made)


@pytest.mark.parametrize(("kind", "highest"), [(torch.uint8, 255), (torch.int32, 65535)])
def test_files_hold_it_all_where_it_lies(tmp_path, kind, highest):
    rgba = torch.randint(0, highest + 1, (5, 6, 7, 4), dtype=kind, generator=torch.Generator().manual_seed(1))
    baked = Baked(rgba, torch.from_numpy(LATTICE), 0.83, "unet-s", 3)
    files = write_baked(tmp_path / "größe 1.nrrd", baked)
    assert [file.name for file in files] == ["größe 1.nrrd", "größe 1.vp.json", "größe 1.json"]
    again = read_baked(files[0])
    assert torch.equal(again.rgba, rgba)
    assert (again.kappa_max, again.name, again.finer) == (0.83, "unet-s", 3)
    assert np.abs(again.world_from_voxel.numpy() - LATTICE).max() < 1e-12
    # ITK reads LPS: the voxel (3, 2, 1) lies where the lattice says, with the first two axes turned
    image = sitk.ReadImage(str(files[0]))
    place = LATTICE @ [3, 2, 1, 1]
    assert image.TransformIndexToPhysicalPoint((3, 2, 1)) == pytest.approx([-place[0], -place[1], place[2]])
    assert image[3, 2, 1] == tuple(rgba[1, 2, 3].tolist())
    look = json.loads(files[1].read_text())["volumeProperties"][0]
    assert look["independentComponents"] is False
    points = look["components"][0]["scalarOpacity"]["points"]
    edge = (1.3 * 1.9 * 2.7) ** (1 / 3)  # Slicer measures in voxel edges
    assert points[-1]["x"] == highest
    assert json.loads(files[2].read_text())["levels"] == highest
    assert points[-1]["y"] == pytest.approx(1 - np.exp(-0.83 * edge))


def test_files_that_are_none_are_refused(tmp_path):
    baked = Baked(torch.zeros((2, 3, 4, 4), dtype=torch.uint8), torch.eye(4, dtype=torch.float64), 1.0)
    with pytest.raises(OutputError, match=r"NAME\.nrrd"):
        write_baked(tmp_path / "a.nii.gz", baked)
    with pytest.raises(PathError, match="does not exist"):
        read_baked(tmp_path / "nothing.nrrd")
    (tmp_path / "other.json").write_text('{"volume": 3}')
    with pytest.raises(PathError, match="no record of a baked volume"):
        read_baked(tmp_path / "other.json")
    volume, *_ = write_baked(tmp_path / "a.nrrd", baked)
    sitk.WriteImage(sitk.Image(3, 4, 5, sitk.sitkUInt8), str(volume))
    with pytest.raises(ImageError, match="no RGBA"):
        read_baked(volume)
