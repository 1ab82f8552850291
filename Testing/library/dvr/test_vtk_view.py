"""VTK's volume renderer against our march, where VTK can draw."""

import subprocess
import sys

import pytest
import torch

import phantoms
from diffrender.camera import Camera
from diffrender.dvr import vtk_view
from diffrender.dvr.bake import Baked, bake, finely
from diffrender.dvr.renderer import RendererSettings
from diffrender.dvr.renderers import renderer
from diffrender.dvr.transfer import TransferFunction
from diffrender.dvr.vtk_view import VtkSettings, draw_baked_in_vtk, draw_in_vtk
from diffrender.errors import BackendError, Notice, SettingError
from diffrender.rays.field import Field, MarchSettings
from diffrender.rays.march import march
from diffrender.volume import Volume

LOOK = TransferFunction(
    ((-1000.0, 0.1, 0.2, 0.6), (0.0, 0.9, 0.5, 0.3), (400.0, 1.0, 0.95, 0.8)),
    ((-700.0, 0.0), (-100.0, 0.02), (300.0, 0.4)),
    unit_distance=1.7,
)
SHAPE = (30, 26, 34)


@pytest.fixture(scope="module", autouse=True)
def _vtk_draws(request):
    if (problem := vtk_view.why_not()) is not None:
        pytest.skip(problem)


@pytest.fixture(scope="module")
def volume() -> Volume:
    lattice = phantoms.oblique_lattice(spacing=(2.1, 2.6, 3.2), left_handed=True)
    solid = phantoms.smooth(phantoms.point_at(lattice, SHAPE))
    density = phantoms.drawn(solid, lattice, SHAPE).values
    return Volume((density / density.max() * 1500 - 1000).to(torch.int16), torch.from_numpy(lattice))


def cameras(volume: Volume) -> list[Camera]:
    target = phantoms.point_at(volume.world_from_voxel.numpy(), SHAPE)
    return [phantoms.oblique_camera(target, mirrored=mirrored) for mirrored in (False, True)]


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(-10 * ((a - b) ** 2).mean().log10())


def within(volume: Volume, camera: Camera) -> torch.Tensor:
    """Pixels whose rays stay in the box of the voxel centres for a step or more, or miss it.

    VTK takes the first sample, a step behind the entry, even where the ray has left by then; we do not.
    """
    source, directions = camera.rays()
    index = torch.linalg.inv(volume.world_from_voxel)
    high = torch.tensor(volume.shape[::-1], dtype=torch.float64) - 1
    start, speed = index[:3, :3] @ source + index[:3, 3], directions @ index[:3, :3].T
    ends = torch.stack([-start / speed, (high - start) / speed])
    length = ends.amax(0).amin(-1) - ends.amin(0).amax(-1)
    return (length < 0) | (length > min(volume.spacing) * 1.01)


@pytest.mark.parametrize("rate", [1.0, 1.7])
def test_a_transfer_function_looks_as_we_draw_it(volume, rate):
    views = cameras(volume)
    theirs = draw_in_vtk(volume, finely(LOOK), views, VtkSettings(sampling_rate=rate))
    for camera, image in zip(views, theirs, strict=True):
        table = LOOK.table(1401, -1000.0, 400.0)
        ours = march(Field(volume.values, volume.world_from_voxel, table), camera, MarchSettings(sampling_rate=rate))
        here = within(volume, camera)
        assert here.float().mean() > 0.9
        assert ours[3].max() > 0.5
        # Both are the same sum; VTK writes 8 bits (58.9 dB) and stops at 255/256.
        assert psnr(image[:, here], ours[:, here]) > 53


def test_a_baked_volume_looks_as_we_draw_it(volume):
    colours = LOOK.at(volume.values.float())
    kappa_max = float(colours[..., 3].max())
    rgba = (colours * torch.tensor([255, 255, 255, 255 / kappa_max])).round().to(torch.uint8)
    baked = Baked(rgba, volume.world_from_voxel, kappa_max)
    for camera, image in zip(cameras(volume), draw_baked_in_vtk(baked, cameras(volume)), strict=True):
        ours = march(baked.field(), camera)
        here = within(volume, camera)
        # Without a GPU VTK's library interpolates textures of 8 bits in 8 bits.
        assert psnr(image[:, here], ours[:, here]) > 48


def test_sixteen_bits_are_closer(volume):
    """Of a volume whose colours and opacities use a part of the levels: VTK spans alpha by what there is."""
    mist = TransferFunction(LOOK.colours, ((-900.0, 0.001), (300.0, 0.05)))
    with pytest.warns(Notice, match="classifies what lies between voxels"):
        baked = bake(renderer("lookup", RendererSettings(transfer=mist)), volume, bits=16)
    for camera, image in zip(cameras(volume), draw_baked_in_vtk(baked, cameras(volume)), strict=True):
        here = within(volume, camera)
        # What is left are the picture's 8 bits (58.9 dB).
        assert psnr(image[:, here], march(baked.field(), camera)[:, here]) > 54
    with pytest.raises(SettingError, match="colours of 8 bits alone"):
        draw_baked_in_vtk(baked, cameras(volume), VtkSettings(mapper="cpu"))


def test_vtk_that_ends_its_process_is_an_error_with_a_way_out(volume, monkeypatch):
    monkeypatch.setattr(vtk_view, "WORKER", ("-c", "import sys; sys.exit('no libEGL')"))
    with pytest.raises(BackendError, match=r"cannot draw.*ended with 1 \(no libEGL\).*apt-get install libegl1"):
        draw_in_vtk(volume, LOOK, cameras(volume)[0])
    monkeypatch.setattr(vtk_view, "WORKER", ("-c", "import time; time.sleep(60)"))
    with pytest.raises(BackendError, match=r"not drawn after 0.2 s"):
        draw_in_vtk(volume, LOOK, cameras(volume)[0], VtkSettings(seconds=0.2))


def test_settings_are_checked():
    with pytest.raises(SettingError, match="mapper is one of gpu, cpu"):
        VtkSettings(mapper="opengl")
    with pytest.raises(SettingError, match="sampling_rate"):
        VtkSettings(sampling_rate=0.0)


def test_vtk_stays_out_of_the_process_that_asks():
    """A Render without a display can end the interpreter: only the worker may load what renders."""
    asking = (
        "import sys, diffrender as dr; from diffrender.dvr import transfer_preset; "
        "from diffrender.dvr.vtk_view import draw_in_vtk; volume = dr.torso((12, 10, 14)); "
        "draw_in_vtk(volume, transfer_preset('ct-bone'), dr.orbit(volume, 1, (8, 8))[0]); "
        "print([name for name in sys.modules if name.startswith('vtkmodules.vtkRenderingOpenGL2')])"
    )
    asked = subprocess.run([sys.executable, "-c", asking], capture_output=True, text=True, check=True)
    assert asked.stdout.strip() == "[]"
