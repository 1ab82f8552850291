"""The sections on how rays are cast: two engines with one answer, many cameras at once."""

import time

from torch import Tensor

from diffrender.demo.case import Case
from diffrender.demo.page import SMALL, Picture, Section, duration
from diffrender.display import annotated
from diffrender.errors import BackendError
from diffrender.rays.line import line_integrals
from diffrender.views import orbit
from diffrender.xray import Radiograph


def backends(case: Case) -> Section:
    camera = next(iter(case.views.values())).camera.resized((192, 192))
    results: dict[str, Tensor] = {}
    figures: list[tuple[str, str]] = []
    for backend in ("torch", "warp"):
        try:
            seconds = []
            for _ in range(3):
                start = time.perf_counter()
                results[backend] = line_integrals(
                    case.scene.attenuation, case.volume.world_from_voxel, camera, backend=backend
                )
                seconds.append(time.perf_counter() - start)
            figures.append((backend, f"{duration(min(seconds))} for 192 x 192 px, the best of three"))
        except BackendError as problem:
            figures.append((backend, str(problem)))
    if len(results) == 2:
        apart = float((results["torch"] - results["warp"]).norm() / results["torch"].norm())
        figures.append(("difference of the two pictures", f"{apart:.1e} (relative L2)"))
    return Section(
        "Two engines, one answer",
        "A plain torch version is the reference and runs everywhere; fused kernels (warp) do the same work faster "
        'where they run. <code>backend="auto"</code> takes what is there.',
        figures=figures,
    )  # fmt: skip


def batch(case: Case) -> Section:
    cameras = orbit(case.volume, n=8, image_size=(160, 160))
    start = time.perf_counter()
    p = line_integrals(case.scene.attenuation, case.volume.world_from_voxel, cameras)
    seconds = time.perf_counter() - start
    alone = line_integrals(case.scene.attenuation, case.volume.world_from_voxel, cameras[3])
    views = [Radiograph(image[None], "log-attenuation", camera) for image, camera in zip(p, cameras, strict=True)]
    return Section(
        "Many cameras at once",
        "Eyes spread evenly over the sphere, in one call: a batch is a sequence of cameras. A view comes out of a "
        "batch as it comes out alone.",
        [
            Picture(annotated(view, size=SMALL), f"eye {n}", f"Radiograph from eye {n} of the orbit")
            for n, view in enumerate(views)
        ],
        [
            ("8 views of 160 x 160 px", duration(seconds)),
            ("largest difference between a view alone and in the batch", f"{float((p[3] - alone).abs().max()):.1e}"),
        ],
    )
