"""Errors of scores, by looking at many random halves of the generated images.

A score θ of N images has, over R random halves drawn *without* replacement, a spread that estimates its standard error:

    se² = m / (N − m) · Var_r θ(half r),   m = ⌊N/2⌋     (the delete-d jackknife; equals s²/N for a mean)

Why not the usual bootstrap, with replacement: its samples hold duplicates, and at a duplicate the nearest neighbor is the image
itself, which ruins radii, recall, coverage and kernel distances. A half keeps the images different from each other.

The reference set stays as it is: the error says how much the score would vary between sets of N images of the same model against
*this* reference. The interval is centered on the score itself; a bias that depends on N (see ``frechet``) is no part of it.

References:
    Shao & Wu 1989, A general theory for jackknife variance estimation, eq. 2.1; Politis, Romano & Wolf 1999, Subsampling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vaelid.randomness import permutation

_NORMAL_95 = 1.959964


@dataclass(frozen=True)
class Score:
    """One score: its value on all N images (scalar), and on R random halves of them ``(R,)``; float64."""

    value: Tensor
    on_halves: Tensor

    def summary(self, count: int) -> dict[str, Any]:
        """``value``, standard error ``se``, and the 95 % ``interval``, for a score of ``count`` images."""
        half = count // 2
        value, se = float(self.value), float(self.on_halves.std(correction=1) * (half / (count - half)) ** 0.5)
        return {"value": value, "se": se, "interval": [value - _NORMAL_95 * se, value + _NORMAL_95 * se]}


def halves(count: int, replicates: int, seed: int) -> Tensor:
    """Which of ``count`` images each of R random halves holds, ``(R, N)`` bool; a pure function of its arguments."""
    chosen = torch.zeros(replicates, count, dtype=torch.bool)
    for r in range(replicates):
        chosen[r, permutation(count, seed, r)[: count // 2]] = True
    return chosen


def mean_score(values: Tensor, chosen: Tensor) -> Score:
    """The mean of one number per image ``(N,)``, with its means over the halves ``(R, N)``."""
    return Score(values.mean(), chosen.double() @ values.double() / chosen.sum(1))
