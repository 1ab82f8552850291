"""Drawing one volume many times: its features are computed once, and every picture comes coarse first where wanted."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diffrender.camera import Camera
from diffrender.dvr.renderer import Renderer, device_of
from diffrender.rays.field import Field, MarchSettings
from diffrender.volume import Volume

COARSER = 4  # times fewer rows and columns in a preview: 1/16 of the rays


class Drawing:
    """A renderer and the volume it draws, without gradients.

    What does not depend on the camera is computed with the first picture and kept until `refresh`, which whoever
    changes the renderer's weights has to call, or `release`.

    Args:
        settings: of the march; None: the renderer's own.
    """

    def __init__(self, renderer: Renderer, volume: Volume, settings: MarchSettings | None = None):
        self.renderer, self.volume, self.settings = renderer, volume, settings
        self._fields: tuple[Field, ...] | None = None

    def image(self, camera: Camera) -> Float[Tensor, "4 h w"]:
        """The picture, on the CPU: premultiplied RGBA, sRGB display values, no background.

        Any size, whatever the pictures had that the renderer was trained with.
        """
        with _at_rest(self.renderer):
            return self.renderer.show(self.fields, camera, self.settings).float().cpu()

    def preview(self, camera: Camera) -> Float[Tensor, "4 h w"]:
        """The same from a quarter of the rows and columns, in full size."""
        height, width = camera.image_size
        small = self.image(camera.resized((max(1, height // COARSER), max(1, width // COARSER))))
        return F.interpolate(small[None], size=(height, width), mode="bilinear", align_corners=False)[0]

    def frames(self, camera: Camera) -> Iterator[Float[Tensor, "4 h w"]]:
        """What to show one after the other: the preview, then the picture."""
        yield self.preview(camera)
        yield self.image(camera)

    @property
    def fields(self) -> tuple[Field, ...]:
        """What the march goes through; `Renderer.encode` made it."""
        if self._fields is None:
            with _at_rest(self.renderer):
                values = self.volume.values.to(device_of(self.renderer))
                self._fields = self.renderer.encode(replace(self.volume, values=values, labels=None, names=None))
        return self._fields

    def refresh(self) -> None:
        """Compute the features anew for the next picture: the renderer has learned."""
        self._fields = None

    def release(self) -> None:
        """Give the memory of the features back; a picture drawn afterwards computes them again."""
        self._fields = None
        if device_of(self.renderer).type == "cuda":
            torch.cuda.empty_cache()


@contextmanager
def _at_rest(renderer: Renderer) -> Iterator[None]:
    """No gradient, no dropout; afterwards the renderer's parts are as they were."""
    modes = {module: module.training for module in renderer.modules()}
    renderer.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training
