"""What a likeness has to beat: a bone where it is, and the same bone where it is not."""

import torch

import diffrender as dr
from diffrender.fit.chance import likeness_and_chance
from diffrender.fit.frames import frame_of
from diffrender.fit.settings import FitSettings


def scene(clutter: float):
    """A crooked bone among others, on a slope, in oblong pixels; and where it is."""
    camera = dr.c_arm((0, 0, 0), 12, -7, image_size=(84, 96), pixel_size=(2.9, 2.5))
    rows, columns = torch.meshgrid(torch.arange(84.0), torch.arange(96.0), indexing="ij")
    bone = torch.exp(-(((columns - 40 - 0.004 * (rows - 30) ** 2) / 5) ** 2)) * ((rows > 14) & (rows < 66))
    bone = bone + torch.exp(-((rows - 60) ** 2 + (columns - 47) ** 2) / 60)
    random = torch.Generator().manual_seed(4)
    others = torch.nn.functional.interpolate(torch.randn(1, 1, 14, 16, generator=random), (84, 96), mode="bicubic")
    image = bone + clutter * others[0, 0] + 0.01 * rows
    frame = frame_of(dr.Radiograph(image[None], "log-attenuation", camera), 96, FitSettings(blur=40.0))
    return bone, frame


def told(picture, frame):
    return likeness_and_chance(picture, frame, frame.near(picture > 0.05, 12.0))


def test_a_bone_at_its_place_is_more_alike_than_chance_even_where_much_else_is():
    for clutter in (0.1, 0.6):
        alike, chance = told(*scene(clutter))
        assert alike > 1.2 * chance
        assert 0.05 < chance < 0.6
    assert alike < 0.75  # the second frame's others are as strong as the bone


def test_a_bone_at_a_wrong_place_is_not():
    bone, frame = scene(0.6)
    for shift in ((-9, 31), (6, -24)):
        alike, chance = told(bone.roll(shift, (0, 1)), frame)
        assert alike < chance
