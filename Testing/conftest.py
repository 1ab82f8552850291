"""What all tests share: real data where there is some, the `cuda` mark, and how many threads the arithmetic takes."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

# Before torch, numpy or OpenBLAS is first imported, here or in a child process: results and times
# should not depend on how many cores a machine happens to have.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "2")

REPOSITORY = Path(__file__).resolve().parent.parent


def data_folder() -> Path:
    """The folder of real data: `DIFFRENDER_DATA`, by default shared/data beside the repository."""
    return Path(os.environ.get("DIFFRENDER_DATA") or REPOSITORY.parent / "shared" / "data")


def real_data(*parts: str) -> Path:
    """A real file or folder, such as real_data("ct-chest-lidc0001", "ct.nii.gz"). Skips the test where it is absent."""
    path = data_folder().joinpath(*parts)
    if not path.exists():
        pytest.skip(f"no real data: {path} does not exist (DIFFRENDER_DATA names the folder that holds it)")
    return path


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real data; a test that asks for it is skipped where it is absent."""
    return real_data()


@pytest.fixture(scope="session", name="real_data")
def real_data_fixture() -> Callable[..., Path]:
    """`real_data(...)` for a test that takes it as an argument instead of importing it from conftest."""
    return real_data


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("cuda"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no NVIDIA GPU that torch can use")
