"""The renderers that are networks, each a configuration of the five slots. Imported when one is made."""

from diffrender.dvr.heads import Colours, Extinction, Part
from diffrender.dvr.renderer import Plain, Renderer, RendererSettings, accumulator
from diffrender.dvr.unet3d import SmallUNet


def build_unet_s(settings: RendererSettings) -> Renderer:
    """A small 3D U-Net whose four channels change the transfer function's colour and extinction at every voxel."""
    encoder = SmallUNet(settings)
    prior = encoder.intake.prior
    return Renderer(
        "unet-s",
        settings,
        encoder=encoder,
        colour=Colours(Part(0, 3), prior),
        opacity=Extinction([Part(3, 4)], prior),
        accumulate=accumulator(settings, 3),
        decoder=Plain(),
    )
