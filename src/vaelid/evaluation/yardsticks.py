"""A yardstick that knows nothing but each pixel's own distribution: what a model must beat to have learned anything.

−log p(x) = −Σ_i log p_i(x_i),   p_i estimated from the training images with one pseudo-observation shared among the levels
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vaelid.data import Split

_BATCH = 1000
#: More training images than this change a pixel's histogram by less than anyone can see.
_MOST_IMAGES = 60_000
#: A pixel that never changes would get an infinite density.
_LEAST_SCALE = 1e-3


class IndependentPixels:
    """Independent pixels: histograms for binary and gray-level data, a Gaussian per pixel (a density) for real values.

    For images binarized at random the probability of a 1 is the mean gray value, which needs no draw.
    """

    def __init__(self, train: Split) -> None:
        count = min(len(train), _MOST_IMAGES)
        batches = [torch.arange(start, min(start + _BATCH, count)) for start in range(0, count, _BATCH)]
        levels = train.support.levels
        self.levels = levels
        if levels is None:
            pixels = torch.cat([train.batch(b).flatten(1).double() for b in batches])
            self.mean, self.scale = pixels.mean(0), pixels.std(0, correction=0).clamp_min(_LEAST_SCALE)
            return
        drawn = train.settings.binarization in ("dynamic", "resampled")
        counts = torch.zeros(math.prod(train.shape), levels, dtype=torch.float64, device=train.device)
        for b in batches:
            counts += _histogram(train.gray(b) if drawn else train.batch(b), levels)
        self.log_probability = ((counts + 1 / levels) / (count + 1)).log()  # (D, n)

    def nll(self, x: Tensor) -> Tensor:
        """−log p(x) per image ``(B, *X) -> (B,)`` nats, float64."""
        flat = x.flatten(1).double()
        if self.levels is None:
            return -torch.distributions.Normal(self.mean, self.scale).log_prob(flat).sum(-1)
        level = (flat * (self.levels - 1)).round().long()
        pixel = torch.arange(level.shape[1], device=level.device)
        return -self.log_probability[pixel, level].sum(-1)


def _histogram(x: Tensor, levels: int) -> Tensor:
    """How often each level occurs at each pixel, ``(D, n)`` float64; a gray value between two levels counts for both."""
    flat = x.flatten(1).double() * (levels - 1)
    lower = flat.floor().clamp(0, levels - 2)
    above = flat - lower
    counts = torch.zeros(flat.shape[1], levels, dtype=torch.float64, device=x.device)
    counts.scatter_add_(1, lower.long().T, (1 - above).T)
    counts.scatter_add_(1, lower.long().T + 1, above.T)
    return counts
