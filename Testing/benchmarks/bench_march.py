"""The fused march against grid_sample and cumprod in torch's autograd, and its drawing against VTK's CPU mapper."""

from collections.abc import Callable
from dataclasses import dataclass

import cases
import clock
import numpy as np
import torch
import torch.nn.functional as F
from memory_probe import Peak
from report import Result, Row, at_least, at_most

import phantoms
from diffrender.camera import Camera, looking_along
from diffrender.rays.field import Field, MarchSettings, Table
from diffrender.rays.march import march as march_field

FUSED = MarchSettings(backend="warp")
LOW, HIGH = -1000.0, 1000.0
SECONDS = {"RGBA volume": 40, "17 channels": 60, "lookup": 30}
FASTER = {"RGBA volume": 10, "17 channels": 20, "lookup": 15}


@dataclass(frozen=True, eq=False)
class Contest:
    """One image and its gradient in `leaf`, asked of either contender with a field."""

    field: Field
    leaf: torch.Tensor
    camera: Camera


def march() -> Result:
    torch.set_num_threads(1)
    rows, figures = [], {}
    case = cases.synthetic((128, 128, 128), (1.0, 1.0, 1.0), (200, 200), 149.0)
    for name, contest in _contests(case).items():
        plain = Plain(contest)
        contenders = {"fused": lambda c=contest: _fused(c), "torch": plain.both}
        away = _difference(contenders, contest)
        times = clock.take_turns(contenders, SECONDS[name], least=3)
        cpu = {who: t.cpu_ms for who, t in times.items()}
        rows.append(
            at_least(f"{name}: fused against grid_sample and cumprod", cpu["torch"] / cpu["fused"], FASTER[name])
        )
        rows.append(Row("CPU ms least, fused / torch", "", f"{cpu['fused']:.0f} / {cpu['torch']:.0f}"))
        memory = {who: _peak(run, contest) for who, run in contenders.items()}
        rows.append(at_most(f"{name}: memory of it, share of torch's", memory["fused"] / memory["torch"], 0.05))
        rows.append(Row("MB, fused / torch", "", f"{memory['fused']:.1f} / {memory['torch']:.0f}"))
        rows.append(Row("image / gradient, relative difference of the two", "", f"{away[0]:.1g} / {away[1]:.1g}"))
        figures[name] = {**{who: t.as_dict() for who, t in times.items()}, "MB": memory, "difference": away}
        del plain, contenders
    rows += _drawing(figures) + _gradients(figures) + _threads()
    notes = [
        f"{case.what}, one sample a voxel; forward and the gradient in the volume, for the lookup (256 entries) in its",
        "table; float32, one thread, the volume channels-last for the fused kernel. Memory beyond image and gradient.",
        "torch sets its rays up once, the fused kernel every time; both work out their samples' places every time.",
        "Drawing: 256^3 of int16 at 200 x 200, VTK's vtkFixedPointVolumeRayCastMapper, the same step and transfer",
        "function, both with their empty space known; less what VTK takes for an empty window.",
    ]
    return Result(rows, figures, notes)


def _contests(case: cases.Case) -> dict[str, Contest]:
    generator = torch.Generator().manual_seed(0)

    def channels(count: int) -> Contest:
        values = torch.rand((*case.values.shape, count), generator=generator)
        values[..., -1] = 2 * case.values
        leaf = values.movedim(-1, 0).requires_grad_()
        return Contest(Field(leaf, case.world_from_voxel), leaf, case.camera)

    entries = torch.rand((256, 4), generator=generator)
    entries[:, -1] *= 0.05
    numbers = 40000 * case.values + LOW
    leaf = entries.requires_grad_()
    lookup = Contest(Field(numbers, case.world_from_voxel, Table(leaf, ((LOW, HIGH),))), leaf, case.camera)
    return {"RGBA volume": channels(4), "17 channels": channels(17), "lookup": lookup}


def _fused(contest: Contest) -> tuple[torch.Tensor, torch.Tensor]:
    image = march_field(contest.field, contest.camera, FUSED)
    return image.detach(), torch.autograd.grad((image * image).sum(), contest.leaf)[0]


class Plain:
    """The same in torch: all samples of all rays at once, padded to the longest ray; autograd does the rest."""

    def __init__(self, contest: Contest):
        field, (source, directions) = contest.field, contest.camera.rays()
        voxel_from_world = torch.linalg.inv(field.world_from_voxel)
        o = voxel_from_world[:3, :3] @ source + voxel_from_world[:3, 3]
        d = directions.reshape(-1, 3) @ voxel_from_world[:3, :3].T
        last = torch.tensor(field.shape[::-1]).double() - 1
        one, other = -o / d, (last - o) / d
        enter, leave = torch.minimum(one, other).amax(1).clamp(min=0), torch.maximum(one, other).amin(1)
        self.step = field.voxel_size
        steps = ((leave - enter) / self.step + 1e-6).floor()
        n = torch.arange(1, int(steps.max()) + 1)[:, None]
        self.inside = n <= steps
        # places as grid_sample wants them, -1 to 1: first + n * step
        first, step = 2 * (o + enter[:, None] * d) / last - 1, 2 * self.step * d / last
        self.first, self.along, self.n = first.float(), step.float(), n.float()
        # torch's own layout for it
        self.leaf = contest.leaf.detach().clone(memory_format=torch.contiguous_format).requires_grad_()
        self.values = self.leaf if field.table is None else field.values[None]
        self.table, self.shape = field.table, contest.camera.image_size

    def image(self) -> torch.Tensor:
        values = self.values.reshape(1, -1, *self.values.shape[-3:])
        grid = torch.addcmul(self.first, self.n[..., None], self.along)[None, :, :, None]
        found = F.grid_sample(values, grid, align_corners=True, padding_mode="border")[0, ..., 0]
        if self.table is not None:
            at = ((found[0] - LOW) * (255 / (HIGH - LOW))).clamp(0, 255)
            low = at.floor().clamp(max=254).long()
            found = torch.lerp(self.leaf[low], self.leaf[low + 1], (at - low)[..., None]).movedim(-1, 0)
        alpha = 1 - torch.exp(-self.step * torch.where(self.inside, found[-1], 0))
        through = torch.cumprod(torch.cat([torch.ones_like(alpha[:1]), 1 - alpha[:-1]]), 0)
        share = through * alpha
        return torch.cat([(share * found[:-1]).sum(1), share.sum(0)[None]]).reshape(-1, *self.shape)

    def both(self) -> tuple[torch.Tensor, torch.Tensor]:
        image = self.image()
        return image.detach(), torch.autograd.grad((image * image).sum(), self.leaf)[0]


def _difference(contenders: dict[str, Callable], contest: Contest) -> tuple[float, float]:
    mine, other = contenders["fused"](), contenders["torch"]()
    image, gradient = (((a - b).abs().max() / b.abs().max()).item() for a, b in zip(mine, other, strict=True))
    return image, gradient


def _peak(run: Callable[[], tuple[torch.Tensor, torch.Tensor]], contest: Contest) -> float:
    """The most memory of a run [MB] beyond its results."""
    most = []
    for _ in range(3):
        with Peak() as peak:
            results = run()
        held = sum(r.numel() * r.element_size() for r in results)
        most.append((peak.most - peak.before - held) / 2**20)
        del results
    return max(0.1, min(most))  # a tenth of a MB is what the pages of the process allow to be seen


def _drawing(figures: dict) -> list[Row]:
    """Two pictures of one volume: solid, so that rays end early, and a haze in which every sample counts."""
    try:
        from bench_march_vtk import Mapper
    except ImportError:
        print("drawing: vtk is not installed; nothing to compare.")
        return []
    rows, numbers = [], _body()
    for name, opacity in (("solid", 0.35), ("haze", 0.004)):
        points = [(-1024.0, 0.0), (-200.0, 0.0), (100.0, opacity / 10), (700.0, opacity)]
        if name == "haze":
            points = [(-1024.0, opacity / 20), *points[2:]]
        colours = [(-200.0, 0.7, 0.3, 0.2), (200.0, 0.9, 0.6, 0.4), (700.0, 1.0, 1.0, 0.9)]
        hu = np.linspace(-1024, 1024, 2049)
        alpha = np.interp(hu, *zip(*points, strict=True))
        rgb = [np.interp(hu, [c[0] for c in colours], [c[n] for c in colours]) for n in (1, 2, 3)]
        entries = torch.from_numpy(np.stack([*rgb, -np.log1p(-alpha)], axis=1)).float()
        lattice = torch.eye(4, dtype=torch.float64)
        field = Field(torch.from_numpy(numbers), lattice, Table(entries, ((-1024.0, 1024.0),)))
        camera, place = _view()
        mapper = Mapper(numbers, points, colours, place, camera.image_size)
        mine = march_field(field, camera, FUSED)[:3].permute(1, 2, 0).clamp(0, 1).numpy()
        theirs = mapper.picture()
        error = np.sqrt(((mine - theirs) ** 2).mean())
        with torch.no_grad():
            contenders = {
                "fused": lambda f=field, c=camera: march_field(f, c, FUSED),
                "VTK": mapper.draw,
                "empty": mapper.empty,
            }
            times = clock.take_turns(contenders, 15, least=5)
        cpu = {who: t.cpu_ms for who, t in times.items()}
        vtk = cpu["VTK"] - cpu["empty"]
        rows.append(at_most(f"drawing, {name}: fused against VTK, CPU time", cpu["fused"] / vtk, 1.3, "x"))
        rows.append(
            Row(
                "CPU ms least, fused / VTK; difference of the pictures",
                "",
                f"{cpu['fused']:.1f} / {vtk:.1f}; {-20 * np.log10(error):.0f} dB",
            )
        )
        figures[f"drawing, {name}"] = {who: t.as_dict() for who, t in times.items()}
    return rows


def _body() -> np.ndarray:
    """256^3 of int16 HU: air, a noisy body that fills half of it, bones."""
    size, generator = (256, 256, 256), np.random.default_rng(0)
    k, j, i = np.meshgrid(*[np.linspace(-1, 1, n, dtype=np.float32) for n in size], indexing="ij", sparse=True)
    hu = np.full(size, -1000, np.float32)
    hu[(k / 0.95) ** 2 + (j / 0.7) ** 2 + (i / 0.85) ** 2 < 1] = 40
    for x in (-0.4, 0.05, 0.5):
        hu[(j - 0.2) ** 2 + (i - x) ** 2 + (k / 8) ** 2 < 0.02] = 650
    return (hu + 20 * generator.standard_normal(size, dtype=np.float32)).astype(np.int16)


def _view() -> tuple[Camera, dict]:
    middle, away = np.array([127.5] * 3), np.array([480.0, -330.0, 220.0])
    z = -away / np.linalg.norm(away)
    x = np.cross(z, [0.0, 0.0, 1.0])
    x /= np.linalg.norm(x)
    distance = float(np.linalg.norm(away))
    field = 330.0  # [mm] wide at the middle of the volume
    pixel = field / 200
    axes = [x.tolist(), np.cross(z, x).tolist(), z.tolist()]
    camera = looking_along(axes, torch.from_numpy(middle), distance, distance, (pixel, pixel), (200, 200))
    angle = 2 * np.degrees(np.arctan(field / 2 / distance))
    return camera, {"position": middle + away, "focal point": middle, "up": (0, 0, 1), "angle": float(angle)}


def _gradients(figures: dict) -> list[Row]:
    """The fused kernel in float32 against autograd of the twin in float64: 40^3 at 32^2, volume, tables and pose."""
    lattice = torch.from_numpy(phantoms.oblique_lattice((1.1, 0.9, 1.3), left_handed=True))
    size, generator = (40, 40, 40), torch.Generator().manual_seed(1)
    noise = torch.rand((4, *size), generator=generator, dtype=torch.float64)
    coarse = torch.rand((1, 2, 8, 8, 8), generator=generator, dtype=torch.float64)
    smooth = F.interpolate(coarse, size=size, mode="trilinear", align_corners=True)[0]
    noise[-1] *= 0.06
    camera = phantoms.oblique_camera(phantoms.point_at(lattice.numpy(), size), image_size=(32, 32), field=(44.0, 46.0))
    tables = [torch.rand((*bins, 4), generator=generator, dtype=torch.float64) for bins in ((64,), (32, 16))]
    rows = []
    for name, values, entries in (
        ("volume", noise, None),
        ("table", smooth[0], tables[0]),
        ("table of two numbers", smooth, tables[1]),
    ):
        found = []
        for real, backend in ((torch.float32, "warp"), (torch.float64, "torch")):
            at = values.to(real).requires_grad_()
            xi = torch.tensor([1.0, -2.0, 1.5, 0.05, 0.03, -0.04], dtype=torch.float64, requires_grad=True)
            of = None if entries is None else (entries * torch.tensor([1, 1, 1, 0.1])).to(real).requires_grad_()
            table = None if of is None else Table(of, tuple((0.0, 1.0) for _ in range(of.ndim - 1)))
            image = march_field(Field(at, lattice, table), camera, MarchSettings(backend=backend), xi)
            (image * image).sum().backward()
            found.append({"volume": at.grad, "table": None if of is None else of.grad, "pose": xi.grad})
        for what in ("volume", "table", "pose"):
            mine, other = (f[what] for f in found)
            if mine is None:
                continue
            off = ((mine.double() - other).abs().max() / other.abs().max()).item()
            asked = 2e-3 if entries is not None else 1e-4
            rows.append(at_most(f"gradient of a {name} in the {what}, against float64 autograd", off, asked))
            figures[f"gradient, {name}, {what}"] = off
    return rows


def _threads() -> list[Row]:
    case = cases.synthetic((128, 128, 128), (1.0, 1.0, 1.0), (200, 200), 149.0)
    same = True
    for contest in _contests(case).values():
        results = []
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            results.append(_fused(contest))
        same &= all(torch.equal(a, b) for r in results[1:] for a, b in zip(results[0], r, strict=True))
    torch.set_num_threads(1)
    return [Row("images and gradients with 1 thread, with 2, and again", "equal", "equal" if same else "differ", same)]
