"""The renderers that are networks, each a configuration of the five slots. Imported when one is made.

Which widths are the paper's, and which were chosen to meet its counts, is in docs/decisions/0004-networks.md.
"""

from torch import nn

from diffrender.dvr import rendernet
from diffrender.dvr.dvrnet import PerScale, ScalesEncoder
from diffrender.dvr.heads import Colours, Extinction, Features, FourColours, FourExtinction
from diffrender.dvr.layers import Points
from diffrender.dvr.renderer import Plain, Renderer, RendererSettings, accumulator
from diffrender.dvr.unet2d import PICTURE, Picture, PointPicture, UNet2d
from diffrender.dvr.unet3d import ChangedColours, ChangedExtinction, SmallUNet
from diffrender.dvr.vnet import LIGHT, VNet

FEATURES = 16  # of VNetLight, and hidden units of all networks of points; whatever the width


def build_vnet4_4(settings: RendererSettings) -> Renderer:
    """VNet, whose four channels are colour and extinction."""
    return _four("vnet4-4", VNet(settings, PICTURE + 1, four=True), settings)


def build_vnetl16_4(settings: RendererSettings) -> Renderer:
    """VNetLight with 16 features a voxel, of which one network of points reads colour, another one extinction."""
    encoder, prior = VNet(settings, FEATURES, LIGHT), _prior(settings)
    return Renderer(
        "vnetl16-4",
        settings,
        encoder=encoder,
        colour=Colours(Points(FEATURES, FEATURES, PICTURE, prior), prior),
        opacity=Extinction([Points(FEATURES, FEATURES, 1, prior)], prior),
        accumulate=accumulator(settings, PICTURE),
        decoder=Plain(),
    )


def build_vnetl16_17(settings: RendererSettings) -> Renderer:
    """VNetLight with 16 features a voxel that are composited, and coloured in the image by a network of points."""
    encoder, prior = VNet(settings, FEATURES, LIGHT), _prior(settings)
    return Renderer(
        "vnetl16-17",
        settings,
        encoder=encoder,
        colour=Features(prior),
        opacity=Extinction([Points(FEATURES, FEATURES, 1, prior)], prior),
        accumulate=accumulator(settings, FEATURES + PICTURE * prior),
        decoder=Picture(PointPicture(FEATURES, FEATURES, prior), prior),
    )


def build_dvrnet(settings: RendererSettings) -> Renderer:
    """VNet's way down, composited at every scale; the way up is a 2D U-Net's, in the image."""
    return _scales("dvrnet", ScalesEncoder(settings, whole=False), 3, 3, settings)


def build_vnet_unet(settings: RendererSettings) -> Renderer:
    """All of VNet, composited at every scale of its way up, and a 2D U-Net with VNet's 5 x 5 convolutions."""
    return _scales("vnet-unet", ScalesEncoder(settings, whole=True), 5, 2, settings)


def build_rendernet(settings: RendererSettings) -> Renderer:
    """The volume in the camera's frame, 3D convolutions, a projection unit, 2D blocks up to the image's size."""
    return Renderer(
        "rendernet",
        settings,
        encoder=rendernet.Numbers(settings),
        colour=rendernet.NumbersAndColours(),
        opacity=rendernet.PriorExtinction(),
        accumulate=rendernet.Projection(settings),
        decoder=rendernet.Shading(settings),
    )


def build_unet_s(settings: RendererSettings) -> Renderer:
    """A transfer function, and a small 3D U-Net that changes its colour and extinction at every voxel."""
    return Renderer(
        "unet-s",
        settings,
        encoder=SmallUNet(settings),
        colour=ChangedColours(settings),
        opacity=ChangedExtinction(settings),
        accumulate=accumulator(settings, PICTURE),
        decoder=Plain(),
    )


def _four(name: str, encoder: nn.Module, settings: RendererSettings) -> Renderer:
    """A renderer whose encoder gives three colours and an extinction."""
    return Renderer(
        name,
        settings,
        encoder=encoder,
        colour=FourColours(),
        opacity=FourExtinction(),
        accumulate=accumulator(settings, PICTURE),
        decoder=Plain(),
    )


def _scales(name: str, encoder: ScalesEncoder, kernel: int, count: int, settings: RendererSettings) -> Renderer:
    """A renderer that composites features of every scale and draws with a 2D U-Net."""
    prior, channels = _prior(settings), encoder.channels
    marched = (channels[0] + PICTURE * prior, *channels[1:])
    return Renderer(
        name,
        settings,
        encoder=encoder,
        colour=Features(prior),
        # alpha is the finest scale's: the others need not start as the transfer function's
        opacity=Extinction([Points(c, FEATURES, 1, prior and n == 0) for n, c in enumerate(channels)], prior),
        accumulate=PerScale(settings, marched),
        decoder=Picture(UNet2d(channels, kernel, count, prior, settings), prior),
    )


def _prior(settings: RendererSettings) -> bool:
    """Whether the renderer draws, untrained, what its transfer function draws."""
    return settings.start == "transfer"
