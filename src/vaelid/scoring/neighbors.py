"""Precision, recall, density, coverage: do generated images lie where real ones are, and are real ones reached by them.

B_k(a) is the open ball around a that reaches to the k-th nearest neighbor of a in its own set, not counting a itself.

    precision  (1/N) Σ_i 1[ x_i in some B_k(y_j) ]          recall    (1/M) Σ_j 1[ y_j in some B_k(x_i) ]
    density    (1/kN) Σ_i Σ_j 1[ x_i in B_k(y_j) ]          coverage  (1/M) Σ_j 1[ some x_i in B_k(y_j) ]

x generated ``(N, F)``, y real ``(M, F)``. Density may exceed 1. For N = M of one distribution density is 1 in expectation,
coverage about 1 − 2^−k; precision and recall are below 1 by an amount that only the real-data anchor tells.

References:
    Kynkäänniemi et al. 2019, Improved precision and recall metric, eq. 1 and 2.
    Naeem, Oh, Uh, Choi & Yoo 2020, Reliable fidelity and diversity metrics, eq. 3 to 6 (k = 5; strict < as in their code).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vaelid.scoring.resampling import Score, mean_score

#: Nearest neighbors that make up a radius, as published.
NEAREST = 5
#: Of this many nearest neighbors, enough lie in a random half: with k = 5, all but one in 10^12.
_LISTED = 64
_ROWS = 500


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """|x_i − y_j|² ``(N, M)`` of features ``(N, F)`` and ``(M, F)``; type as given."""
    return torch.addmm(y.square().sum(1), x, y.T, alpha=-2).add_(x.square().sum(1, keepdim=True)).clamp_min_(0)


@dataclass(frozen=True)
class Neighborhoods:
    """For each of N points its nearest others, nearest first: squared distances and positions ``(N, J)``."""

    squared: Tensor
    position: Tensor

    def squared_radius(self, chosen: Tensor, k: int) -> Tensor:
        """Squared distance to the k-th nearest of the ``chosen`` ``(N,)`` points, ``(N,)``; the last listed if fewer are."""
        nth = chosen[self.position].cumsum(1)
        reached = torch.where(nth[:, -1] >= k, (nth < k).sum(1), nth.shape[1] - 1)
        return self.squared.gather(1, reached.unsqueeze(1)).squeeze(1)


def neighborhoods(x: Tensor, listed: int = _LISTED) -> Neighborhoods:
    """The nearest others of every point of ``x`` ``(N, F)``."""
    found = []
    for rows in torch.arange(len(x)).split(_ROWS):
        squared = squared_distances(x[rows], x)
        squared[torch.arange(len(rows)), rows] = torch.inf  # no point is its own neighbor
        found.append(squared.topk(min(listed, len(x) - 1), dim=1, largest=False))
    return Neighborhoods(torch.cat([f.values for f in found]), torch.cat([f.indices for f in found]))


def neighbor_scores(x: Tensor, reference: Tensor, chosen: Tensor, k: int = NEAREST) -> dict[str, Score]:
    """The four scores of generated features ``(N, F)`` against a reference ``(M, F)``, with halves ``(R, N)``.

    The sets must have more than k points each.
    """
    center = reference.mean(0)  # distances do not change, and fewer digits cancel in them
    x, y = x - center, reference - center
    real = neighborhoods(y, k).squared[:, -1]
    subsets = torch.cat((torch.ones(1, len(x), dtype=torch.bool), chosen))
    own = neighborhoods(x)
    radii = torch.stack([own.squared_radius(subset, k).where(subset, -1.0) for subset in subsets])  # (1 + R, N); −1: no ball
    balls = torch.empty(len(x), dtype=torch.float64)
    reached = torch.zeros(len(subsets), len(y), dtype=torch.bool)
    covered = torch.zeros(len(subsets), len(y), dtype=torch.float32)
    widest = radii[1:].amax(0).float()
    for rows in torch.arange(len(x)).split(_ROWS):
        squared = squared_distances(x[rows], y)
        inside = squared < real
        balls[rows] = inside.sum(1).double()
        covered += subsets[:, rows].float() @ inside.float()
        reached[0] |= (squared < radii[0, rows].unsqueeze(1)).any(0)
        # Few points lie in the widest ball that any half gives a point: only those are looked at again for every half.
        own_row, of_reference = (squared.float() < widest[rows].unsqueeze(1)).nonzero(as_tuple=True)
        near = squared[own_row, of_reference].float()
        for half, radius in enumerate(radii[1:, rows].float(), start=1):
            reached[half, of_reference[near < radius[own_row]]] = True
    recall, coverage = reached.double().mean(1), (covered > 0).double().mean(1)
    return {
        "precision": mean_score((balls > 0).double(), chosen),
        "recall": Score(recall[0], recall[1:]),
        "density": mean_score(balls / k, chosen),
        "coverage": Score(coverage[0], coverage[1:]),
    }
