"""Targets: what a renderer should draw, how much each pixel of it counts; from painted views, pictures or 3D labels."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from diffrender.camera import Camera
from diffrender.errors import ImageError

PAINTED = 5.0  # weight of a pixel that somebody painted
UNPAINTED = 1.0


@dataclass(frozen=True, eq=False)
class Target:
    """What one camera should see.

    Attributes:
        camera: where from.
        image: premultiplied RGBA, sRGB display values 0..1, no background.
        weight: of each pixel's colour; 0 is not looked at.
        alpha_weight: of each pixel's alpha.
    Raises: ImageError where the sizes differ or a number is none.
    """

    camera: Camera
    image: Float[Tensor, "4 h w"]
    weight: Float[Tensor, "h w"]
    alpha_weight: Float[Tensor, "h w"]

    def __post_init__(self):
        height, width = self.camera.image_size
        for name, values in (("image", self.image), ("weight", self.weight), ("alpha_weight", self.alpha_weight)):
            if tuple(values.shape[-2:]) != (height, width):
                raise ImageError(
                    f"A target's {name} has {values.shape[-2]} x {values.shape[-1]} pixels and its camera {height} x "
                    f"{width}; resize the picture, or give `camera.resized(...)`."
                )
            if not bool((values >= 0).all()):  # NaN compares as False
                raise ImageError(f"A target's {name} holds numbers that are NaN or below 0; it cannot be trained on.")

    @property
    def painted(self) -> Bool[Tensor, "h w"]:
        """The pixels that somebody painted, by colour or as hidden; those that scores of a painting are taken over."""
        return (self.weight >= PAINTED) | (self.alpha_weight >= PAINTED)

    @property
    def counts(self) -> bool:
        """Whether any pixel is looked at: a view that nobody painted says nothing."""
        return bool((self.weight > 0).any() or (self.alpha_weight > 0).any())
