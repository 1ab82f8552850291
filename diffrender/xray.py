"""A radiograph: the picture that a camera takes of a volume, with what it shows of every label."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from diffrender.camera import Camera
from diffrender.errors import ImageError, SettingError, UnitError
from diffrender.physics.attenuation import HU_AIR, water_attenuation
from diffrender.rays.line import Prepared, PreparedLabels, integrate_with_labels, line_integrals, prepare, prepare_labels
from diffrender.volume import Volume

KINDS = ("log-attenuation", "intensity")
MASKS = ("hard", "soft")


@dataclass(frozen=True)
class RadiographSettings:
    """How a radiograph is made.

    Attributes:
        kind: "log-attenuation", p of Beer and Lambert's I = I0 exp(-p), bone bright; or "intensity", exp(-p), the share
            of the beam that reaches the detector, bone dark.
        energy: of the one energy [keV] at which HU become attenuation; 70 is the mean of a filtered 120 kVp beam.
        masks: "hard", path longer than `threshold`; or "soft", rising from 0 to 1 at twice the threshold.
        threshold: a label is seen where its path is longer than this [mm].
        labels: whether labels are projected at all.
        backend: "auto", "torch" or "warp".
    Raises: SettingError for a value that is not offered.
    """

    kind: Literal["log-attenuation", "intensity"] = "log-attenuation"
    energy: float = 70.0
    masks: Literal["hard", "soft"] = "hard"
    threshold: float = 1.0
    labels: bool = True
    backend: str = "auto"

    def __post_init__(self):
        for name, value, offered in (("kind", self.kind, KINDS), ("masks", self.masks, MASKS)):
            if value not in offered:
                raise SettingError(f"{name} is one of {', '.join(offered)}, not {value!r}.")
        if not self.threshold > 0:
            raise SettingError(f"threshold is the path [mm] beyond which a label is seen, above zero, not {self.threshold}.")


@dataclass(frozen=True, eq=False)
class Radiograph:
    """A radiograph and what it shows.

    Attributes:
        pixels: (1, h, w) float32; [no unit].
        kind: "log-attenuation" (bone bright) or "intensity" (bone dark).
        camera: what took it.
        path_lengths: (label, h, w) [mm], how far each ray runs inside each label; None without labels.
        masks: (label, h, w) bool, or float 0..1 when soft; None without labels.
        ids: the labels' ids, in the order of `path_lengths`.
        names: {id: name}.
        source: the file it was made of, as typed.
        header: DICOM attributes {keyword: value} of the CT that a derived image carries on; never printed.
    """

    pixels: Float[Tensor, "1 h w"]
    kind: str
    camera: Camera
    path_lengths: Float[Tensor, "label h w"] | None = None
    masks: Shaped[Tensor, "label h w"] | None = None
    ids: tuple[int, ...] = ()
    names: Mapping[int, str] | None = None
    source: str | None = None
    header: Mapping[str, Any] | None = None

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ImageError(f"A radiograph is of kind {' or '.join(KINDS)}, not {self.kind!r}.")
        if tuple(self.pixels.shape) != (1, *self.camera.image_size):
            raise ImageError(
                f"The pixels have shape {list(self.pixels.shape)} and the camera takes 1 x {self.camera.image_size[0]} x "
                f"{self.camera.image_size[1]}."
            )

    def label_name(self, label: int) -> str:
        """What label `label` is called; "label 7" without a table."""
        return (self.names or {}).get(label, f"label {label}")

    def __repr__(self) -> str:
        low, high = self.pixels.amin().item(), self.pixels.amax().item()
        labels = f", {len(self.ids)} labels" if self.ids else ""
        return f"Radiograph({self.kind} {low:.4g} to {high:.4g}{labels}, {self.camera})"
