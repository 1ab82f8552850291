import numpy as np
import pytest
import torch

from diffrender.camera import c_arm
from diffrender.fit.parametric import HEAD, _changes, default_pelvis
from diffrender.mesh import Mesh
from diffrender.xray import radiograph_of_meshes

NAMES = ("FH", "GSN", "IOF", "MOF", "SPS", "IPS", "ASIS")


@pytest.fixture(scope="module")
def model():
    return default_pelvis()


def bone(model, part, coefficients=None) -> Mesh:
    here = model.range_of(part)
    inside = (model.faces[:, 0] >= here.start) & (model.faces[:, 0] < here.stop)
    return Mesh(model.points(coefficients)[here], model.faces[inside] - here.start)


def drawn_instances(model, n):
    random = torch.Generator().manual_seed(5)
    return [torch.randn(len(model.modes), generator=random) for _ in range(n)]


def test_bones_are_closed_and_outward_in_every_instance(model):
    assert [name for name, _ in model.parts] == ["left hip", "right hip", "sacrum"]
    assert 2000 < len(model.faces) < 8000
    for coefficients in [None, *drawn_instances(model, 6)]:
        for part, count in model.parts:
            mesh = bone(model, part, coefficients)
            assert len(mesh.vertices) == count
            directed = torch.cat([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]], mesh.faces[:, [2, 0]]])
            # Each edge is passed once in each direction: closed, manifold and wound alike.
            assert len(torch.unique(directed, dim=0)) == len(directed)
            assert torch.equal(torch.unique(directed, dim=0), torch.unique(directed.flip(1), dim=0))
            # A hip bone with its marrow is about 250 to 400 cm3, a sacrum 150 to 250; 3 deviations are 30 %.
            assert 100e3 < mesh.enclosed_volume < 450e3


def test_a_hip_bone_has_one_hole(model):
    for part in ("left hip", "right hip"):
        mesh = bone(model, part)
        # Euler: v - e + f = 2 - 2 holes; the one is the obturator foramen.
        assert len(mesh.vertices) - len(mesh.faces) // 2 == 0


def test_it_has_an_adults_size(model):
    low, high = model.mesh().bounds
    width, depth, height = (high - low).tolist()
    # Between the crests 260 to 300 mm, a hip bone's height 190 to 225 mm, sacrum to symphysis 160 to 200 mm.
    assert 255 < width < 300
    assert 185 < height < 230
    assert 155 < depth < 205


def test_landmarks_lie_where_anatomy_has_them(model):
    at = {name: place.numpy() for name, place in model.landmarks.items()}
    assert sorted(at) == sorted(f"{name}-{side}" for name in NAMES for side in "lr")
    for name in NAMES:
        assert np.allclose(at[f"{name}-l"] * [-1, 1, 1], at[f"{name}-r"], atol=1e-3)
        assert at[f"{name}-r"][0] > 0  # RAS: the right side has positive x
    assert np.allclose(at["FH-r"], HEAD, atol=0.01)
    assert np.allclose(at["FH-r"] + at["FH-l"], 0, atol=0.02)  # the origin is midway between the heads
    right = {name: at[f"{name}-r"] for name in NAMES}
    assert right["ASIS"][2] > right["GSN"][2] > right["SPS"][2] > right["IPS"][2] > right["IOF"][2]
    assert right["SPS"][1] > right["FH"][1] > right["GSN"][1]  # symphysis in front of the head, notch behind it
    assert right["IPS"][0] < 12 < right["MOF"][0] < right["IOF"][0] < right["GSN"][0] < right["FH"][0]
    assert 0.8 < np.linalg.norm(at["ASIS-r"] - at["ASIS-l"]) / 250 < 1.2  # the interspinous distance is about 250 mm


def test_the_acetabulum_is_a_hollow_about_the_head(model):
    for side, part in (("l", "left hip"), ("r", "right hip")):
        away = bone(model, part).vertices - model.landmarks[f"FH-{side}"]
        nearest = torch.linalg.norm(away, dim=1).sort().values
        # Cartilage about 2 mm on a head of 24 mm; triangles cut its round corners by up to 1.5 mm.
        assert nearest[0] > 24.0
        assert (nearest < 28.5).sum() > 20


def test_landmarks_move_with_every_instance(model):
    for coefficients in drawn_instances(model, 3):
        moved = model.landmarks_of(coefficients)
        for name, place in model.landmarks.items():
            field = torch.from_numpy(_changes(place[None].double().numpy())[:, 0])
            assert torch.linalg.norm(moved[name] - place) < 4 * field.norm() + 5  # and not somewhere else
        away = model.points(coefficients) - moved["FH-r"]
        assert 20 < torch.linalg.norm(away, dim=1).min() < 34


def test_modes_are_orthogonal_ordered_and_without_rigid_motion(model):
    modes = model.modes.double().reshape(len(model.modes), -1)
    assert 6 <= len(modes) <= 12
    gram = modes @ modes.T
    assert (gram - gram.diag().diag()).abs().max() < 1e-5 * gram.max()  # float32
    assert (gram.diag().diff() < 0).all()
    about = model.mean.double() - model.mean.double().mean(0)
    for mode in model.modes.double():
        # Compared with the mode itself: float32 leaves about 1e-7.
        assert mode.mean(0).norm() < 1e-5 * mode.norm()
        assert torch.linalg.cross(about, mode).sum(0).norm() < 1e-4 * about.norm() * mode.norm()
    deviation = (gram.trace() / len(model.mean)).sqrt()
    assert 3 < deviation < 9  # [mm] of a vertex in 3D; adults differ by about 7 after alignment


def test_the_sacrum_stays_clear_of_the_hips(model):
    sacrum = bone(model, "sacrum").vertices
    for part in ("left hip", "right hip"):
        gaps = torch.cdist(sacrum, bone(model, part).vertices).min(1).values
        assert 1 < gaps.min() < 8  # a joint: near, not through


def test_the_left_hip_is_seen_on_the_right_and_the_crest_on_top(model):
    camera = c_arm((0.0, -10.0, 20.0), image_size=(48, 60), pixel_size=8.0)
    bones = [(bone(model, part), 0.03) for part, _ in model.parts]
    seen = radiograph_of_meshes(bones, camera).path_lengths
    assert seen is not None
    columns = torch.arange(60.0) + 0.5
    left, right = ((seen[n].sum(0) * columns).sum() / seen[n].sum() for n in (0, 1))
    assert left > 36 > 24 > right
    rows = [torch.nonzero(seen[n].sum(1) > 0).flatten() for n in (0, 2)]
    assert rows[0][-1] > rows[1][-1]  # the sacrum ends above the ischium


def test_it_is_said_whose_it_is_and_drawn_alike_every_time(model):
    assert model.about["kind"] == "parametric"
    assert "not from patients" in model.about["description"]
    again = default_pelvis.__wrapped__()
    assert torch.equal(again.mean, model.mean)
    assert torch.equal(again.modes, model.modes)
    assert torch.equal(again.faces, model.faces)
    assert model.joint is not None
    assert model.joint.part == "sacrum"
