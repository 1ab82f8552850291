"""Inception score, FID and KID: distances as a network trained on photographs sees them.

The formulas are ours, on features of any network; the usual network is torch-fidelity's InceptionV3, an optional extra
whose weights are downloaded. Without it, `realism` has distances that need no weights.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diffrender.errors import BackendError, ImageError
from diffrender.learning import drawn

Network = Callable[[Float[Tensor, "n 3 h w"]], tuple[Float[Tensor, "n feature"], Float[Tensor, "n kind"]]]

AT_ONCE = 16  # pictures
SPLITS = 10  # of the Inception score
SUBSETS, SUBSET = 100, 50  # of KID; smaller than the usual 1000, since a hospital's set is
BYTE = 255.0


def frechet_distance(a: Float[Tensor, "n feature"], b: Float[Tensor, "m feature"]) -> float:
    """FID: the Fréchet distance between two Gaussians with the sets' means and covariances.

    |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)); the trace of the root is that of the singular values of
    C_a^(1/2) C_b^(1/2), which are real. Few pictures make it too large; compare only sets of the same size.
    Raises: ImageError for fewer than two rows.
    Source: Heusel et al. (2017), arXiv:1706.08500, eq. 6.
    """
    a, b = (_several(part).double() for part in (a, b))
    roots = [_root(torch.cov(part.T).reshape(part.shape[1], -1)) for part in (a, b)]
    traces = sum(float(torch.linalg.svdvals(root).square().sum()) for root in roots)
    cross = float(torch.linalg.svdvals(roots[0] @ roots[1]).sum())
    return float((a.mean(0) - b.mean(0)).square().sum()) + traces - 2.0 * cross


def kernel_distance(
    a: Float[Tensor, "n feature"], b: Float[Tensor, "m feature"], seed: int = 0, subset: int = SUBSET
) -> tuple[float, float]:
    """KID: the squared maximum mean discrepancy with k(x, y) = (x.y / d + 1)^3, unbiased, so 0 on average for equal
    distributions however few the pictures. Returns: its mean and standard deviation over drawn subsets.

    Raises: ImageError for fewer than two rows.
    Source: Bińkowski et al. (2018), arXiv:1801.01401, section 4.
    """
    a, b = (_several(part).double() for part in (a, b))
    size = min(subset, len(a), len(b))
    draw = drawn(seed, "kid")
    found = []
    for _ in range(SUBSETS):
        x, y = (part[torch.randperm(len(part), generator=draw)[:size]] for part in (a, b))
        within = [(k.sum() - k.diagonal().sum()) / (size * (size - 1)) for k in (_kernel(x, x), _kernel(y, y))]
        found.append(within[0] + within[1] - 2.0 * _kernel(x, y).mean())
    each = torch.stack(found)
    return float(each.mean()), float(each.std(unbiased=False))


def inception_score(logits: Float[Tensor, "n kind"], splits: int = SPLITS) -> tuple[float, float]:
    """exp(E KL(p(kind | picture) || p(kind))): mean and standard deviation over parts of the set.

    1 where all pictures look alike to the network; of radiographs it says little, since it knows photographs.
    Raises: ImageError for fewer than two rows.
    Source: Salimans et al. (2016), arXiv:1606.03498.
    """
    logs = F.log_softmax(_several(logits).double(), dim=1)
    scores = []
    for part in logs.chunk(max(1, min(splits, len(logs) // 2))):
        whole = part.exp().mean(0, keepdim=True).clamp(min=1e-300).log()
        scores.append((part.exp() * (part - whole)).sum(1).mean().exp())
    each = torch.stack(scores)
    return float(each.mean()), float(each.std(unbiased=False))


def fidelity_distances(
    made: Float[Tensor, "n 1 h w"], real: Float[Tensor, "m 1 h w"], network: Network | None = None, seed: int = 0
) -> dict[str, float]:
    """Inception score of the made pictures, and their FID and KID to the real ones.

    Args:
        network: from greys three times, 0 to 255, to features and logits; by default torch-fidelity's InceptionV3.
    Returns: "is", "is_std", "fid", "kid", "kid_std".
    Raises: BackendError where torch-fidelity, or its weights, are not here; ImageError.
    """
    network = inception() if network is None else network
    (a, logits), (b, _) = (_seen(part, network) for part in (made, real))
    score, score_std = inception_score(logits)
    kid, kid_std = kernel_distance(a, b, seed)
    return {"is": score, "is_std": score_std, "fid": frechet_distance(a, b), "kid": kid, "kid_std": kid_std}


def inception() -> Network:
    """torch-fidelity's InceptionV3; its weights are downloaded once. Raises: BackendError."""
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import (  # pyright: ignore[reportMissingImports]
            FeatureExtractorInceptionV3,
        )
    except ImportError:
        raise BackendError(
            "IS, FID and KID need torch-fidelity and torchvision, which are not installed here (pip install "
            "torch-fidelity torchvision). `realism_distances` needs neither."
        ) from None
    try:
        made = FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"])
    except OSError as problem:
        raise BackendError(
            f"The weights of InceptionV3 could not be downloaded: {problem}. `realism_distances` needs none."
        ) from None

    def network(pictures: Float[Tensor, "n 3 h w"]) -> tuple[Tensor, Tensor]:
        features, logits = made(pictures.round().to(torch.uint8))
        return features, logits

    return network


def _seen(pictures: Float[Tensor, "n 1 h w"], network: Network) -> tuple[Tensor, Tensor]:
    greys = BYTE * pictures.detach().cpu().clamp(0.0, 1.0).expand(-1, 3, -1, -1)
    with torch.no_grad():
        parts = [network(part) for part in greys.split(AT_ONCE)]
    features, logits = (torch.cat(part) for part in zip(*parts, strict=True))
    return features, logits


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    near = x @ y.T / x.shape[1] + 1.0
    return near * near * near


def _root(covariance: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp(min=0.0).sqrt() @ vectors.T


def _several(rows: Tensor) -> Tensor:
    if rows.ndim != 2 or len(rows) < 2:
        raise ImageError(f"A set of features has two rows or more; this one has the shape {list(rows.shape)}.")
    return rows
