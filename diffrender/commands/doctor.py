"""`diffrender doctor`: what this machine has, what is slow and why, what to type. Works without torch and the rest."""

import ctypes.util
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

import typer

from diffrender import __version__
from diffrender.commands.console import FAILED, Debug, Json, current, example
from diffrender.errors import Notice

EXAMPLE = example("diffrender doctor")
# What the library cannot work without; the first word is the module, the second the package.
NEEDED = (
    ("numpy", "numpy"),
    ("scipy", "scipy"),
    ("SimpleITK", "SimpleITK"),
    ("pydicom", "pydicom"),
    ("jaxtyping", "jaxtyping"),
)
FILES = (
    ("h5py", "h5py"),
    ("highdicom", "highdicom"),
    ("tifffile", "tifffile"),
    ("safetensors", "safetensors"),
    ("pooch", "pooch"),
)
CODECS = (
    ("JPEG baseline", "1.2.840.10008.1.2.4.50"),
    ("JPEG lossless", "1.2.840.10008.1.2.4.70"),
    ("JPEG-LS", "1.2.840.10008.1.2.4.80"),
    ("JPEG 2000", "1.2.840.10008.1.2.4.90"),
    ("RLE", "1.2.840.10008.1.2.5"),
)
DECODERS = "pylibjpeg pylibjpeg-openjpeg pylibjpeg-rle python-gdcm"
LITTLE_MEMORY, LITTLE_DISK = (
    4 * 2**30,
    2 * 2**30,
)  # a chest CT with labels and its prepared copy; kernels, samples, results
GOOD, SLOW, MISSING, BROKEN = "ok", "slow", "missing", "broken"
MARKS = {GOOD: "  ", SLOW: "~ ", MISSING: "- ", BROKEN: "! "}


@dataclass(frozen=True)
class Finding:
    """One line of the page: what was looked at and found, and, unless that is good, why it matters and what to do."""

    name: str
    found: str
    state: str = GOOD
    advice: str = ""


def doctor(json: Json = False, debug: Debug = False) -> None:
    """Say what this machine has, what is slow and why, and what to type.

    Ends with 0 even where something optional is missing, with 1 where the library cannot work.
    """
    console = current()
    findings = examine()
    works = all(finding.state != BROKEN for finding in findings)
    console.result({"works": works, "findings": [asdict(finding) for finding in findings]}, page(findings))
    if not works:
        raise typer.Exit(FAILED)


def examine() -> list[Finding]:
    """Look at everything, in the order of the page."""
    looks = (_python, _machine, _torch, _accelerator, _warp, _packages, _codecs, _vtk, _monai, _disk)
    return [finding for look in looks for finding in look()]


def page(findings: list[Finding]) -> str:
    """The findings as one page: a line each, then what to do about those that are not good."""
    width = max(len(finding.name) for finding in findings)
    lines = [f"{MARKS[finding.state]}{finding.name:{width}}  {finding.found}" for finding in findings]
    for state, heading in (
        (BROKEN, "! The library cannot work until this is put right:"),
        (SLOW, "~ Slower than it could be:"),
        (MISSING, "- Optional, and not here:"),
    ):
        told = [f"  {finding.name}: {finding.advice}" for finding in findings if finding.state == state]
        lines += ["", heading, *told] if told else []
    if all(finding.state == GOOD for finding in findings):
        lines += ["", "Nothing is missing."]
    return "\n".join(lines)


def _python() -> Iterator[Finding]:
    yield Finding("DiffRender", f"{__version__}, {Path(__file__).resolve().parent.parent}")
    version = platform.python_version()
    fits = (3, 10) <= sys.version_info[:2] <= (3, 12)
    advice = "DiffRender is tried with Python 3.10 to 3.12. Make an environment with one of them."
    yield Finding("Python", f"{version}, {sys.executable}", GOOD if fits else SLOW, "" if fits else advice)


def _machine() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS", "")
    held = limit.isdigit() and int(limit) < cores
    advice = (
        f"OMP_NUM_THREADS={limit} leaves cores idle. Type `unset OMP_NUM_THREADS` (Windows: `set OMP_NUM_THREADS=`)."
    )
    found = f"{platform.system()} {platform.release()}, {platform.machine()}, {cores} cores"
    yield Finding(
        "machine", found + (f", {limit} used" if held else ""), SLOW if held else GOOD, advice if held else ""
    )
    psutil = _import("psutil")
    if isinstance(psutil, Exception):
        yield Finding(
            "memory",
            "unknown",
            MISSING,
            "whether large volumes fit is not asked without psutil. Type `pip install psutil`.",
        )
        return
    memory = psutil.virtual_memory()
    little = memory.available < LITTLE_MEMORY
    advice = "Less than 4 GiB are free: large CTs will be refused, or swap. Close other programs."
    found = f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free"
    yield Finding("memory", found, SLOW if little else GOOD, advice if little else "")


def _torch() -> Iterator[Finding]:
    torch = _import("torch")
    if isinstance(torch, ModuleNotFoundError):
        yield Finding(
            "torch",
            "not installed",
            BROKEN,
            "All arithmetic runs on it. Type `pip install torch` (in Slicer: install the PyTorch extension).",
        )
    elif isinstance(torch, Exception):
        advice = f"Type `pip install --force-reinstall torch`. It said: {_sentence(torch)}"
        yield Finding("torch", f"{_version('torch')}, does not load", BROKEN, advice)
    else:
        yield Finding("torch", f"{torch.__version__}, {torch.get_num_threads()} threads")


def _accelerator() -> Iterator[Finding]:
    torch, gpu = _import("torch"), _nvidia()
    if isinstance(torch, Exception):
        yield Finding("GPU", gpu or "none found", SLOW if gpu else GOOD, "Unused without torch." if gpu else "")
    elif torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        name = torch.cuda.get_device_name()
        yield Finding(
            "GPU",
            f"{gpu or name}, CUDA {torch.version.cuda}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free",
        )
    elif torch.backends.mps.is_available():
        yield Finding("GPU", "Apple (MPS), through torch; warp runs on the CPU there")
    elif gpu and torch.version.cuda is None:
        advice = "This torch is built for the CPU, so the GPU is idle. Install a CUDA build, as torch's own page says."
        yield Finding("GPU", f"{gpu}, not used", SLOW, advice)
    elif gpu:
        advice = f"torch wants CUDA {torch.version.cuda}, which this driver lacks. Update it, or take an older torch."
        yield Finding("GPU", f"{gpu}, not used", SLOW, advice)
    else:
        yield Finding("GPU", "none found: everything runs on the CPU")


def _warp() -> Iterator[Finding]:
    slower = "The fused kernels are missing, and plain torch takes several times as long"
    torch = _import("torch")
    if isinstance(torch, Exception) or importlib.util.find_spec("warp") is None:
        here = importlib.util.find_spec("warp") is not None
        intel_mac = sys.platform == "darwin" and platform.machine() == "x86_64"
        advice = (
            "It works through torch."
            if here
            else "There is none for Intel Macs."
            if intel_mac
            else "Type `pip install warp-lang`."
        )
        yield Finding(
            "warp", f"{_version('warp-lang')}, unused" if here else "not installed", SLOW, f"{slower}. {advice}"
        )
        return
    from diffrender.rays import warp_runtime

    with warnings.catch_warnings(record=True) as said:  # that its cache cannot be written belongs on the page
        warnings.simplefilter("always", Notice)
        warp = warp_runtime.start()
    if warp is None:
        advice = f"{slower}: {warp_runtime.why_not(torch.empty(0))} Type `pip install --force-reinstall warp-lang`."
        yield Finding("warp", f"{_version('warp-lang')}, does not load", SLOW, advice)
        return
    yield Finding("warp", f"{warp.__version__}, on {', '.join(str(device) for device in warp.get_devices())}")
    place = Path(warp.config.kernel_cache_dir)
    compiled = any(place.glob("wp_diffrender_*"))
    noted = [str(one.message) for one in said if issubclass(one.category, Notice)]
    closed = noted[0] if noted else _not_kept(place)
    if closed and not compiled:
        yield Finding("kernels", f"cannot be kept: compiled anew in every run, {place}", SLOW, closed)
        return
    yield Finding(
        "kernels", f"{'compiled' if compiled else 'not yet compiled: the first picture takes longer'}, {place}"
    )


def _not_kept(cache: Path) -> str:
    """Why warp cannot keep its kernels there, with what to do; "" where it can."""
    place = next((one for one in (cache, *cache.parents) if os.path.exists(one)), cache)
    try:
        with tempfile.TemporaryFile(dir=place):
            return ""
    except OSError as problem:
        return (
            f"Warp's cache {cache} cannot be written ({problem.strerror}). Set WARP_CACHE_PATH to a folder that can be "
            "written; installing warp again would not help."
        )


def _packages() -> Iterator[Finding]:
    for module, package in NEEDED:
        found = _import(module)
        if isinstance(found, Exception):
            absent = isinstance(found, ModuleNotFoundError)
            advice = f"Type `pip install {'' if absent else '--force-reinstall '}{package}`." + (
                "" if absent else f" It said: {_sentence(found)}"
            )
            yield Finding(package, "not installed" if absent else f"{_version(package)}, does not load", BROKEN, advice)
        else:
            yield Finding(package, _version(package))
    missing = [package for module, package in FILES if importlib.util.find_spec(module) is None]
    here = ", ".join(f"{package} {_version(package)}" for _, package in FILES if package not in missing)
    advice = f"Some files cannot be read or written, or samples not fetched. Type `pip install {' '.join(missing)}`."
    yield Finding("files", here or "none", MISSING if missing else GOOD, advice if missing else "")


def _codecs() -> Iterator[Finding]:
    pixels = _import("pydicom.pixels")
    if isinstance(pixels, Exception):
        return
    missing = [name for name, uid in CODECS if not pixels.get_decoder(uid).is_available]
    here = ", ".join(name for name, _ in CODECS if name not in missing)
    advice = f"DICOM compressed as {', '.join(missing)} is refused. Type `pip install {DECODERS}`."
    yield Finding("DICOM pixels", here or "uncompressed only", MISSING if missing else GOOD, advice if missing else "")


def _vtk() -> Iterator[Finding]:
    vtk = _import("vtkmodules.vtkCommonCore")
    if isinstance(vtk, Exception):
        yield Finding(
            "vtk",
            "not installed" if isinstance(vtk, ModuleNotFoundError) else "does not load",
            MISSING,
            "Meshes cannot be read. Type `pip install vtk`.",
        )
        return
    libraries = ("EGL", "GL") if sys.platform.startswith("linux") else ()
    missing = [name for name in libraries if ctypes.util.find_library(name) is None]
    advice = (
        "Without these libraries VTK's rendering ends the interpreter. Type `apt-get install libegl1 libgl1` (as root)."
    )
    found = vtk.vtkVersion.GetVTKVersion() + (f", without lib{' and lib'.join(missing)}" if missing else "")
    yield Finding("vtk", found, MISSING if missing else GOOD, advice if missing else "")


def _monai() -> Iterator[Finding]:
    here = importlib.util.find_spec("monai") is not None
    advice = "Networks of it are not offered for training. Type `pip install monai`."
    yield Finding(
        "MONAI", _version("monai") if here else "not installed", GOOD if here else MISSING, "" if here else advice
    )


def _disk() -> Iterator[Finding]:
    try:
        free = shutil.disk_usage(Path.cwd()).free
    except OSError as problem:
        yield Finding("disk", f"the working directory is gone ({problem.strerror})", SLOW, "Change to another folder.")
        return
    little = free < LITTLE_DISK
    yield Finding(
        "disk",
        f"{free / 2**30:.1f} GiB free here",
        SLOW if little else GOOD,
        "Less than 2 GiB: results may not fit. Make room." if little else "",
    )


def _nvidia() -> str:
    """The GPU as its driver's own tool names it, "" where there is none."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ""
    query = [tool, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "an NVIDIA driver that does not answer"
    name, _, driver = answer.partition("\n")[0].rpartition(", ")
    return f"{name}, driver {driver}"


def _import(name: str) -> ModuleType | Exception:
    """A module, or why it cannot be had; a broken one must not end the page that should explain it."""
    try:
        return importlib.import_module(name)
    except Exception as problem:
        return problem


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


def _sentence(problem: BaseException) -> str:
    return f"{type(problem).__name__}: {problem}".splitlines()[0]
