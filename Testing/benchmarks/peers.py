"""The peers: DiffDRR and nanodrr in a virtual environment of their own, and our cases put to them in their own terms.

`.venv-peers` sees what the project's environment holds (the same torch for all) and adds the peers, installed without
what they depend on: their plots and data sets pull packages that have no build here. Of DiffDRR only
`diffdrr.renderers` is imported, of nanodrr only its renderer, which needs `torchio` and `roma`.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from cases import Case

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / ".venv-peers"
PEERS = ("diffdrr==0.6.1", "nanodrr==0.1.7")
# What an import of nanodrr's renderer really needs, beyond what the project's environment holds.
NEEDED = ("torchio==1.2.1", "roma==1.8.0", "platformdirs", "nibabel", "humanize", "deprecated", "wrapt", "einops")
SAMPLES = 500


def python() -> Path:
    """The interpreter of the peers' environment, made on first use."""
    interpreter = FOLDER / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not (FOLDER / "ready").exists():
        print(f"Installing {' and '.join(PEERS)} into {FOLDER.name}, once, about 30 MB of downloads.", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(FOLDER)], check=True)
        ask = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
        packages = subprocess.run([interpreter, "-c", ask], check=True, capture_output=True, text=True).stdout.strip()
        ours = [p for p in sys.path if Path(p).name in ("site-packages", "dist-packages")]
        Path(packages, "ours.pth").write_text("\n".join(ours) + "\n", encoding="utf-8")
        pip = [interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        if subprocess.run([*pip, *NEEDED, *PEERS], check=False).returncode:
            raise SystemExit(
                f"The peers did not install (pip's reason stands above), so nothing can be compared with them. With a "
                f"network, run this again; the benches without peers are named by --list. {FOLDER.name} can be removed."
            )
        (FOLDER / "ready").write_text("\n".join(PEERS) + "\n", encoding="utf-8")
    return interpreter


def diffdrr(case: "Case", samples: int = SAMPLES) -> "Callable[[torch.Tensor], torch.Tensor]":
    """DiffDRR's trilinear renderer on a case: a function of xi. Its own layout: volume (i, j, k), rays in voxels."""
    import torch
    from diffdrr.renderers import Trilinear

    from diffrender.pose import motion

    density = case.values.permute(2, 1, 0).contiguous()
    renderer = Trilinear(voxel_shift=0.5)
    source, directions = case.camera.rays()
    depth = directions @ case.camera.direction
    target = (source + directions * (case.camera.source_to_detector / depth)[..., None]).reshape(1, -1, 3)
    voxel_from_world = torch.linalg.inv(case.world_from_voxel)

    def image(xi: "torch.Tensor") -> "torch.Tensor":
        voxel_from_rays = voxel_from_world @ torch.linalg.inv(motion(xi, case.centre))
        ends = [
            (points @ voxel_from_rays[:3, :3].T + voxel_from_rays[:3, 3]).float()
            for points in (source.reshape(1, 1, 3), target)
        ]
        length = (target - source).norm(dim=-1).float()[:, None]
        return renderer(density, *ends, length, n_points=samples).reshape(case.camera.image_size)

    return image


def nanodrr(case: "Case", samples: int = SAMPLES, backend: str = "torch") -> "Callable[[torch.Tensor], torch.Tensor]":
    """nanodrr's renderer on a case: a function of xi. Its camera frame and pixel centres are ours."""
    import torch
    from nanodrr.camera import make_k_inv
    from nanodrr.data import Subject
    from nanodrr.drr import render

    from diffrender.pose import motion

    device, camera = case.values.device, case.camera
    image = case.values[None, None].contiguous()
    subject = Subject(
        image,
        torch.zeros(1, 1, 1, 1, 1),
        case.world_from_voxel.float(),
        torch.linalg.inv(case.world_from_voxel).float(),
        Subject._make_voxel_to_grid(image.shape),
        case.centre.float(),
        max_label=0,
        convert_to_mu=False,
    ).to(device)
    (height, width), (row_step, column_step) = camera.image_size, camera.pixel_size
    distance = camera.source_to_detector
    k_inv = make_k_inv(distance, column_step, row_step, 0.0, 0.0, height, width, torch.float32, device)
    sdd = torch.tensor([distance], dtype=torch.float32, device=device)

    def render_at(xi: "torch.Tensor") -> "torch.Tensor":
        world_from_rays = torch.linalg.inv(motion(xi, case.centre)) @ camera.world_from_camera
        pose = world_from_rays.float()[None].to(device)
        return render(subject, k_inv, pose, sdd, height, width, samples, backend=backend)[0, 0]

    return render_at
