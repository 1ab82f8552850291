"""`diffrender doctor`: it must work best where things are missing."""

import subprocess
import sys

import pytest

from diffrender.commands import doctor
from diffrender.commands.radiograph import Backend, Kind, Masks

# Packages that this interpreter then cannot import, as on a machine without them.
WITHOUT = """
import importlib.util, sys
missing = sys.argv.pop(1).split(",")
for name in missing:
    sys.modules[name] = None
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name.partition(".")[0] in missing else find(name, *more)
from diffrender.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_page_of_what_is_here(typed):
    ended = typed("doctor")
    assert ended.code == 0
    for word in (
        "Python",
        "torch",
        "GPU",
        "warp",
        "numpy",
        "SimpleITK",
        "pydicom",
        "MONAI",
        "vtk",
        "memory",
        "disk",
        "cores",
    ):
        assert word in ended.out
    assert len(ended.out.splitlines()) < 50  # one page
    result = typed("doctor", "--json").lines[-1]
    assert result["works"] is True
    assert all((finding["state"] == "ok") == (finding["advice"] == "") for finding in result["findings"])


def test_without_torch_it_says_what_to_type_and_ends_with_1(started, ended):
    end = ended(started("torch", "doctor", script=WITHOUT))
    assert end.code == 1
    assert "! torch" in end.out
    assert "torch: All arithmetic runs on it. Type `pip install torch`" in end.out
    assert end.err == ""


def test_without_all_that_is_optional_it_ends_with_0(started, ended):
    end = ended(started("warp,monai,vtkmodules,psutil,highdicom", "doctor", script=WITHOUT))
    assert end.code == 0
    assert "warp: The fused kernels are missing, and plain torch takes several times as long" in end.out
    assert "Type `pip install monai`" in end.out
    assert "Type `pip install vtk`" in end.out
    assert "Type `pip install highdicom`" in end.out
    assert "cannot work" not in end.out


def test_without_anything_it_still_speaks(started, ended):
    everything = (
        "torch,numpy,scipy,SimpleITK,pydicom,jaxtyping,warp,monai,vtkmodules,psutil,h5py,highdicom,tifffile,pooch"
    )
    end = ended(started(everything, "doctor", script=WITHOUT))
    assert end.code == 1
    for package in ("torch", "numpy", "scipy", "SimpleITK", "pydicom", "jaxtyping"):
        assert f"  {package}: " in end.out
    assert end.err == ""


def test_other_commands_without_torch_send_to_the_doctor(started, ended, patient):
    end = ended(started("torch", "info", patient.ct, script=WITHOUT))
    assert end.code == 1
    assert (
        "Error: The package torch is not installed, and it is needed. `diffrender doctor` says what to type." in end.err
    )


def test_a_package_that_does_not_load_is_told_apart_from_one_that_is_not_there(monkeypatch):
    real = doctor.importlib.import_module

    def load(name):
        if name == "torch":
            raise OSError("libcudnn.so.9: cannot open shared object file\nand more")
        return real(name)

    monkeypatch.setattr(doctor.importlib, "import_module", load)
    (torch,) = doctor._torch()
    assert torch.state == doctor.BROKEN
    assert "does not load" in torch.found
    assert torch.advice.endswith("It said: OSError: libcudnn.so.9: cannot open shared object file")


def test_a_gpu_that_lies_idle_is_told(monkeypatch):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this torch uses the GPU")
    monkeypatch.setattr(doctor, "_nvidia", lambda: "NVIDIA T4, driver 535.1")
    (gpu,) = doctor._accelerator()
    assert gpu.state == doctor.SLOW
    assert gpu.found == "NVIDIA T4, driver 535.1, not used"
    assert "CPU" in gpu.advice or "CUDA" in gpu.advice


def test_the_choices_in_help_are_those_of_the_settings():
    from diffrender.rays.warp_runtime import BACKENDS
    from diffrender.xray import KINDS, MASKS

    assert {one.value for one in Kind} == set(KINDS)
    assert {one.value for one in Masks} == set(MASKS)
    assert {one.value for one in Backend} == set(BACKENDS)


@pytest.mark.parametrize("cache", ["closed", "below a file"])
def test_a_cache_of_warp_that_cannot_be_written_is_no_reason_to_install_it_again(started, ended, tmp_path, cache):
    """Root may write everywhere, but not on a disk that is mounted to be read, nor below a file."""
    folder, mounted = tmp_path / "cache", False
    if cache == "closed":
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder)]
        if sys.platform == "win32" or subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("mounting a disk that cannot be written to needs root")
        mounted = True
    else:
        folder.write_text("a file")
    try:
        end = ended(started("doctor", env={"WARP_CACHE_PATH": str(folder / "kernels" if not mounted else folder)}))
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)
    if "warp" in end.out and "not installed" in end.out:
        pytest.skip("no warp here")
    assert end.code == 0
    assert "~ kernels" in end.out
    advice = next(line for line in end.out.splitlines() if line.startswith("  kernels: "))
    assert "cannot be written" in advice
    assert "Set WARP_CACHE_PATH to a folder that can be written" in advice
    assert "pip install" not in advice


def test_a_cache_of_warp_that_exists_and_is_closed(tmp_path):
    (tmp_path / "file").write_text("x")
    said = doctor._not_kept(tmp_path / "file")
    assert "installing warp again would not help" in said
    assert doctor._not_kept(tmp_path / "new" / "folder") == ""
