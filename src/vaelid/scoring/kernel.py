"""Kernel distance (KID where the features are Inception's): the unbiased squared maximum mean discrepancy.

    MMD² = 1/(N(N−1)) Σ_{i≠j} k(x_i, x_j) + 1/(M(M−1)) Σ_{i≠j} k(y_i, y_j) − 2/(NM) Σ_ij k(x_i, y_j),   k(a, b) = (a·b/F + 1)³

Unbiased for every N, so it may be below 0. The published protocol averages over random subsets; all pairs of the whole sets have
the same expectation and less noise, and are what ``vaelid score`` reports.

References:
    Bińkowski, Sutherland, Arbel & Gretton 2018, Demystifying MMD GANs, section 4; Gretton et al. 2012, eq. 3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vaelid.scoring.resampling import Score

_ROWS = 1000


def kernel(x: Tensor, y: Tensor) -> Tensor:
    """k(x_i, y_j) ``(N, M)`` of features ``(N, F)`` and ``(M, F)``, float64."""
    return (x.double() @ y.double().T / x.shape[1] + 1) ** 3


def kernel_distance(x: Tensor, y: Tensor) -> Tensor:
    """Unbiased MMD² of two feature sets ``(N, F)`` and ``(M, F)``, a scalar."""
    everything = torch.ones(1, len(x), dtype=torch.bool)
    return _within(x, everything)[0] + _within(y, torch.ones(1, len(y), dtype=torch.bool))[0] - 2 * _across(x, y).mean()


def kernel_distance_of_subsets(x: Tensor, y: Tensor, subsets: int = 100, size: int = 1000, seed: int = 0) -> Tensor:
    """The published protocol: MMD² of ``subsets`` random pairs of subsets of ``size`` images, ``(subsets,)``."""
    generator = torch.Generator().manual_seed(seed)

    def some(features: Tensor) -> Tensor:
        return features[torch.randperm(len(features), generator=generator)[:size]]

    return torch.stack([kernel_distance(some(x), some(y)) for _ in range(subsets)])


def kernel_scores(x: Tensor, reference: Tensor, chosen: Tensor) -> Score:
    """MMD² of generated features ``(N, F)`` against a reference ``(M, F)``, with halves ``(R, N)``."""
    theirs = _within(reference, torch.ones(1, len(reference), dtype=torch.bool))[0]
    across = _across(x, reference)
    all_and_halves = torch.cat((torch.ones(1, len(x), dtype=torch.bool), chosen))
    weights = all_and_halves.double()
    found = _within(x, all_and_halves) + theirs - 2 * (weights @ across) / weights.sum(1)
    return Score(found[0], found[1:])


def _within(x: Tensor, chosen: Tensor) -> Tensor:
    """Mean kernel of different images within each choice ``(R, N)``, ``(R,)``."""
    weights = chosen.double()
    total = torch.zeros(len(chosen), dtype=torch.float64)
    for rows in torch.arange(len(x)).split(_ROWS):
        gram = kernel(x[rows], x)
        gram[torch.arange(len(rows)), rows] = 0  # an image with itself
        total += (weights[:, rows] * (weights @ gram.T)).sum(1)
    count = weights.sum(1)
    return total / (count * (count - 1))


def _across(x: Tensor, y: Tensor) -> Tensor:
    """(1/M) Σ_j k(x_i, y_j), ``(N,)``."""
    return torch.cat([kernel(part, y).mean(1) for part in x.split(_ROWS)])
