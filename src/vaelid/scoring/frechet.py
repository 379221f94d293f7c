"""Fréchet distance between Gaussians fitted to two sets of features, and its extrapolation to infinitely many images.

    FD = |μ₁ − μ₂|² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁ Σ₂)^½

tr (Σ₁ Σ₂)^½ is the sum of the singular values of Σ₁^½ Σ₂^½: exact, real and without a small constant on the diagonal even where
the covariances are singular (the eigenvalues of Σ₁ Σ₂ itself, or a general matrix square root, lose half of the digits there).

The distance of N images is too large, by about b/N with a b that depends on the *model*, so that two models may change places
with N. ``extrapolated`` fits FD(N) = FD∞ + b/N and gives FD∞.

References:
    Dowson & Landau 1982, eq. 4; Heusel et al. 2017, GANs trained by a two time-scale update rule, eq. 6 (the FID).
    Chong & Forsyth 2020, Effectively unbiased FID and Inception Score, section 3 (they shrink only the generated set; here the
    reference set shrinks with it, so that the bias from either is removed and two sets of one distribution extrapolate to 0).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vaelid.scoring.resampling import Score

#: The extrapolation looks at whole sets, halves, thirds and fourths.
_PARTS = 4


@dataclass(frozen=True)
class Moments:
    """Mean ``(F,)``, symmetric square root of the covariance ``(F, F)``, and its trace; float64."""

    mean: Tensor
    root: Tensor
    trace: Tensor


def moments(features: Tensor) -> Moments:
    """Mean and covariance (divided by N − 1) of features ``(N, F)``, N ≥ 2."""
    x = features.double()
    mean = x.mean(0)
    centered = x - mean
    covariance = centered.T @ centered / (len(x) - 1)
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    return Moments(mean, root, covariance.trace())


def frechet_between(a: Moments, b: Moments) -> Tensor:
    """The squared Fréchet distance of two Gaussians, a scalar; 0 up to rounding (about 1e-14 of the traces) where they agree."""
    overlap = torch.linalg.svdvals(a.root @ b.root).sum()
    return (a.mean - b.mean).square().sum() + a.trace + b.trace - 2 * overlap


def frechet_distance(x: Tensor, y: Tensor) -> Tensor:
    """The same for the Gaussians fitted to features ``(N, F)`` and ``(M, F)``."""
    return frechet_between(moments(x), moments(y))


def parts_of(features: Tensor) -> list[list[Moments]]:
    """Moments of the whole set, of its two halves, three thirds and four fourths."""
    return [[moments(part) for part in features.tensor_split(j)] for j in range(1, _PARTS + 1)]


def extrapolated(x: list[list[Moments]], y: list[list[Moments]]) -> Tensor:
    """FD∞, a scalar: the intercept of the least-squares line through the mean distances of j-th parts, at 1/N ∝ j.

    It is unbiased up to terms of order 1/N², which leaves room below 0 for two sets of the same distribution.
    """
    distance = torch.stack(
        [
            torch.stack([frechet_between(a, b) for a, b in zip(mine, yours, strict=True)]).mean()
            for mine, yours in zip(x, y, strict=True)
        ]
    )
    j = torch.arange(1, len(x) + 1, dtype=torch.float64)
    slope = ((j - j.mean()) * distance).sum() / (j - j.mean()).square().sum()
    return distance.mean() - slope * j.mean()


def frechet_scores(x: Tensor, reference: Tensor, chosen: Tensor) -> tuple[Score, Score]:
    """FD and FD∞ of generated features ``(N, F)`` against a reference ``(M, F)``, with halves ``(R, N)``."""
    theirs = parts_of(reference)

    def both(features: Tensor) -> Tensor:
        mine = parts_of(features)
        return torch.stack((frechet_between(mine[0][0], theirs[0][0]), extrapolated(mine, theirs)))

    found = both(x)
    on_halves = torch.stack([both(x[half]) for half in chosen])
    return Score(found[0], on_halves[:, 0]), Score(found[1], on_halves[:, 1])
