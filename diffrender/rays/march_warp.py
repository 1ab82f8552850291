"""The fused march at work: launched over tiles of rays on the CPU, at once on CUDA."""

from diffrender.rays.field import Field, MarchSettings


def why_not(field: Field, settings: MarchSettings) -> str | None:
    """Why the kernels cannot serve this field, as one sentence; None once they are compiled and loaded for it."""
    return "they are not written yet."
