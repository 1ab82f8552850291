"""Similarities as sums of squares: their values by the textbook, their derivatives by finite differences."""

import pytest
import torch

import diffrender as dr
from diffrender.errors import ImageError, LabelError, SettingError
from diffrender.fit.frames import attenuation_like, frame_of, pyramid
from diffrender.fit.settings import SIMILARITIES, FitSettings
from diffrender.fit.similarity import residual, similarity

STEP = 1e-5


def radiograph(kind="log-attenuation", size=(30, 41)):
    """Blobs off centre, with a shutter on the left, on oblong pixels."""
    random = torch.Generator().manual_seed(3)
    camera = dr.c_arm((4.0, -7.0, 9.0), primary=11, image_size=size, pixel_size=(5.0, 3.5))
    image = torch.nn.functional.avg_pool2d(torch.rand(1, 1, *size, generator=random), 5, 1, 2)[0]
    pixels = image if kind == "log-attenuation" else torch.exp(-image)
    exposed = torch.arange(size[1]).expand(size) > 5
    masks = torch.rand(2, *size, generator=random) > 0.6
    return dr.Radiograph(
        pixels, kind, camera, masks=masks, path_lengths=masks.float(), ids=(1, 2), names={1: "a"}, exposed=exposed
    )


@pytest.fixture(scope="module")
def frame():
    return frame_of(radiograph(), 41, FitSettings(blur=25.0))


@pytest.mark.parametrize("kind", SIMILARITIES)
def test_a_residuals_derivative_is_that_of_finite_differences(kind, frame):
    random = torch.Generator().manual_seed(1)
    shape = (2, *frame.image.shape) if kind == "labels" else tuple(frame.image.shape)
    shown = 8 * torch.rand(shape, generator=random, dtype=torch.float64)
    rates = torch.randn(*shape, 3, generator=random, dtype=torch.float64)
    _, j = residual(kind, shown, frame, rates)
    for n in range(3):
        there, back = (residual(kind, shown + sign * STEP * rates[..., n], frame)[0] for sign in (1, -1))
        expected = (there - back) / (2 * STEP)
        # Central differences of step 1e-5 in float64 are right to 1e-8 or so.
        assert (j[:, n] - expected).abs().max() < 1e-6 * expected.abs().max()


@pytest.mark.parametrize("kind", ["correlation", "gradient-correlation", "gradient-difference"])
def test_scale_and_offset_do_not_matter_and_a_turned_sign_does(kind, frame):
    image = frame.image.double()
    assert similarity(kind, 3 * image + 7, frame) == pytest.approx(1, abs=1e-5)
    if kind != "gradient-difference":  # whose best multiple may be negative
        assert similarity(kind, -image, frame) == pytest.approx(-1, abs=1e-5)


def test_correlation_is_ncc_of_what_was_exposed():
    whole = frame_of(radiograph(), 41, FitSettings(blur=0.0))
    shown = torch.rand(whole.image.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    seen = whole.weights > 0
    a, b = shown[seen], whole.image.double()[seen]
    ncc = torch.corrcoef(torch.stack([a, b]))[0, 1]
    assert similarity("correlation", shown, whole) == pytest.approx(float(ncc), abs=1e-6)  # the frame is float32


def test_similarity_has_gradients(frame):
    shown = frame.image.double().roll(2, 1).requires_grad_()
    similarity("correlation", shown, frame).backward()
    step = 1e-3 * shown.grad
    assert similarity("correlation", shown.detach() + step, frame) > similarity("correlation", shown.detach(), frame)


def test_labels_need_masks(frame):
    bare = frame_of(dr.Radiograph(radiograph().pixels, "log-attenuation", radiograph().camera), 41, FitSettings())
    with pytest.raises(LabelError, match="mask of every part"):
        residual("labels", torch.ones(2, *frame.image.shape), bare)
    with pytest.raises(SettingError, match="similarity is one of"):
        residual("mutual-information", frame.image, frame)


def test_intensity_becomes_log_attenuation():
    a, b = (attenuation_like(radiograph(kind)) for kind in ("log-attenuation", "intensity"))
    seen = radiograph().exposed
    # equal up to the offset of the unknown open beam; the same few extremes are held in both
    assert (a - b)[seen].std() < 2e-3 * a[seen].std()


def test_what_was_not_exposed_has_no_weight_and_the_camera_shrinks_with_the_image():
    small = frame_of(radiograph(), 20, FitSettings())
    assert tuple(small.image.shape) == (15, 20)
    assert small.camera.pixel_size == pytest.approx((10.0, 3.5 * 41 / 20))
    assert small.weights[:, :4].max() == 0
    assert small.weights[:, 7:].min() == 1


def test_a_pyramid_ends_at_the_frames_own_size():
    assert [tuple(one.image.shape) for one in pyramid(radiograph(), FitSettings(sizes=(16, 32, 64)))] == [
        (12, 16),
        (23, 32),
        (30, 41),
    ]


def test_a_constant_frame_is_refused():
    camera = radiograph().camera
    flat = dr.Radiograph(torch.full((1, *camera.image_size), 0.7), "intensity", camera, source="dark.png")
    with pytest.raises(ImageError, match=r"dark\.png has one value, 0\.7"):
        frame_of(flat, 32, FitSettings())


def test_settings_are_checked():
    for wrong in ({"similarity": "mi"}, {"sizes": (64, 32)}, {"blur": -1.0}, {"depth": float("nan")}, {"steps": 0}):
        with pytest.raises(SettingError):
            FitSettings(**wrong)
