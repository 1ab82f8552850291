"""What the demo is about: a volume with its labels, and the radiographs that all sections share."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from diffrender.views import preset
from diffrender.volume import Volume
from diffrender.xray import Radiograph, RadiographSettings, Scene, radiograph, scene_of

SIZE = (384, 384)  # of the radiographs [px]
# What a view is about: it is centred on the labels whose names hold one of these words, along the patient's axis.
VIEWS = {"chest-pa": ("lung", "clavicula"), "chest-lateral": ("lung", "clavicula"), "pelvis-ap": ("hip", "femur")}
UNNAMED = ("frontal", "spine-lateral")  # the views where no label tells what part of the patient this is


@dataclass(frozen=True, eq=False)
class Case:
    """What the demo is about: a volume, what to call it, how long it took to get, and how long to train on it [s]."""

    volume: Volume
    subject: str
    seconds: float
    training: float = 30.0

    @cached_property
    def scene(self) -> Scene:
        return scene_of(self.volume, RadiographSettings())

    @cached_property
    def views(self) -> dict[str, Radiograph]:
        """A radiograph for each of VIEWS that the volume has labels for; without any, from the front and the side."""
        cameras = {name: preset(name, part, SIZE) for name, words in VIEWS.items() if (part := self.around(words))}
        if not cameras:
            cameras = {name: preset(name, self.volume, SIZE) for name in UNNAMED}
        return {name: radiograph(self.scene, camera) for name, camera in cameras.items()}

    def named(self, words: Sequence[str]) -> list[int]:
        return [n for n in self.volume.label_ids if any(word in self.volume.label_name(n).lower() for word in words)]

    def around(self, words: Sequence[str]) -> Volume | None:
        """The part of the volume, cut across the patient's long axis, that holds some labels; None without them."""
        ids = self.named(words)
        if not ids:
            return None
        axis = 2 - int(self.volume.world_from_voxel[2, :3].abs().argmax())  # of the array (k, j, i)
        across = tuple(n for n in range(3) if n != axis)
        held = torch.stack([self.volume.mask(label).any(dim=across) for label in ids]).any(dim=0).nonzero()
        first, last = int(held[0]), int(held[-1])
        lattice = self.volume.world_from_voxel.clone()
        lattice[:3, 3] += lattice[:3, 2 - axis] * first
        return Volume(self.volume.values.narrow(axis, first, last - first + 1), lattice)
