"""One small training in a process of its own, to be killed and resumed: RENDERER STEPS CHECKPOINT.

Every step is saved. Prints the steps done, then the hash of the weights that the training ended with.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

import torch  # noqa: E402
from trainings import brief, case, drawing  # noqa: E402

from diffrender.dvr.course import weights_hash  # noqa: E402
from diffrender.dvr.settings import Augmentation, TrainSettings  # noqa: E402
from diffrender.dvr.training import train_on  # noqa: E402
from diffrender.jobs import Checkpoint, Job  # noqa: E402


def settings_of(name: str, steps: int) -> TrainSettings:
    """With all that is random: jitter, dropout and, of the network, augmentation."""
    augment = None if name == "lookup" else Augmentation(rotation=15.0, shift=20.0, noise=5.0)
    return brief(renderer=name, steps=steps, augment=augment, drawing=drawing(dropout=0.3))


def training(name: str, steps: int, checkpoint: str | None = None) -> Job:
    return train_on([case()], settings_of(name, steps), checkpoint)


def hash_of(name: str, steps: int) -> str:
    """Of what an uninterrupted training ends with."""
    return weights_hash(training(name, steps).run().last)


def main() -> None:
    name, steps, checkpoint = sys.argv[1:]
    torch.set_num_threads(1)
    Checkpoint.__init__.__defaults__ = (0.0,)  # every save is due
    job = training(name, int(steps), checkpoint)
    for progress in job:
        print(progress.done, flush=True)
    print(weights_hash(job.result.last), flush=True)


if __name__ == "__main__":
    main()
