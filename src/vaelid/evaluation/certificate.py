"""What is needed to believe an importance-weighted bound: how far from converged it is, and how much of it is luck.

From the log weights of one image, log w_1 … log w_K:

    ESS      (Σ w)² / Σ w²               effective sample size, 1 … K
    k̂        of the largest 3√K weights  shape of a generalized Pareto; above 0.7 weights not yet seen rule the average
    gain     L_K − L_{K/2}               what the last doubling brought (L_{K/2}: mean of both halves); never negative, and about
                                         what is still missing where the variance is finite: the bias then falls like 1/K
    error    √((1/ESS − 1/K) K/(K − 1))  standard error of log (1/K) Σ w, first order; not known for K = 1

The error is the sample standard deviation of the weights over √K and their mean: the largest weights carry it, and have often
not been seen. With few effective samples (ESS below 10, say, or k̂ above its threshold) it is a *lower limit*.

References:
    Vehtari, Simpson, Gelman, Yao & Gabry 2024, Pareto smoothed importance sampling, sections 2 and 3;
    Zhang & Stephens 2009, A new and efficient estimation method for the generalized Pareto distribution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

#: Above this shape the estimate cannot be trusted at any practical number of samples (Vehtari et al. 2024, section 3); with few
#: samples the threshold is lower, see :func:`shape_threshold`.
WORST_SHAPE = 0.7
#: Where more images than this share are above the threshold, the Monte Carlo error of their mean is understated.
MANY_HEAVY = 0.05
#: A last doubling that brought more nats than this says: with more samples the bound would be visibly higher.
RISING = 0.01
_FEWEST_TAIL = 5
_AT_ONCE = 500  # weights per image that wait for being accounted for: small pieces would cost more than they hold


class RunningWeights:
    """Bounds and diagnostics of the log weights of B images, fed in pieces of any size; K × B of them are never held.

    Kept are the sums over blocks of each size that is asked for, Σ w², and the largest weights.

    Args:
        samples: K
        points: block sizes k of the curve L_k, each the mean over the ⌊K/k⌋ disjoint blocks
    """

    def __init__(self, samples: int, points: Sequence[int] = ()) -> None:
        self.samples = samples
        self.points = {k: _Blocks(k, samples // k) for k in points}
        self.halves = _Blocks(samples // 2, 2) if samples > 1 else None
        self._tail = tail_of(samples)
        self._waiting: list[Tensor] = []
        self._total: Tensor | None = None
        self._squares: Tensor | None = None
        self._largest: Tensor | None = None

    def add(self, log_weight: Tensor) -> None:
        """Take the next log weights of every image, ``(n, B)`` float64 nats."""
        self._waiting.append(log_weight)
        if sum(map(len, self._waiting)) >= _AT_ONCE:
            self._take()

    def _take(self) -> None:
        """Account for what waits."""
        if not self._waiting:
            return
        log_weight = torch.cat(self._waiting)
        self._waiting = []
        for blocks in (*self.points.values(), *([self.halves] if self.halves else [])):
            blocks.add(log_weight)
        self._total = _log_add(self._total, torch.logsumexp(log_weight, 0))
        self._squares = _log_add(self._squares, torch.logsumexp(2 * log_weight, 0))
        if self._tail:
            seen = log_weight if self._largest is None else torch.cat((self._largest, log_weight))
            self._largest = torch.topk(seen, min(self._tail + 1, len(seen)), dim=0).values

    @property
    def curve(self) -> Tensor:
        """L_k for each point, ``(B, points)`` nats: lower bounds on log p(x) in expectation."""
        self._take()
        return torch.stack([blocks.mean for blocks in self.points.values()], dim=1)

    def diagnostics(self) -> dict[str, Tensor]:
        """``ess``, ``pareto_k``, ``gain`` and ``variance`` (of log (1/K) Σ w), each ``(B,)``; NaN where K is too small."""
        self._take()
        assert self._total is not None
        assert self._squares is not None
        ess = (2 * self._total - self._squares).exp()
        unknown = torch.full_like(ess, math.nan)
        return {
            "ess": ess,
            "pareto_k": unknown if self._largest is None else _shape(self._largest),
            "gain": unknown if self.halves is None else self.halves.joined - self.halves.mean,
            "variance": unknown if self.halves is None else self._variance(ess),
        }

    def _variance(self, ess: Tensor) -> Tensor:
        """Var(w) / (K E[w]²), with the unbiased sample variance."""
        return (1 / ess - 1 / self.samples).clamp_min(0) * (self.samples / (self.samples - 1))


class _Blocks:
    """log (1/k) Σ w of disjoint blocks of k = ``size`` weights, over the first ``most`` blocks; a rest is left out."""

    def __init__(self, size: int, most: int) -> None:
        self.size, self.most = size, most
        self.done, self.filled = 0, 0
        self._open: Tensor | None = None  # log Σ w of the block under way, (B,)
        self._sum: Tensor | None = None  # of log Σ w over whole blocks
        self._joined: Tensor | None = None  # log Σ w over whole blocks

    def add(self, log_weight: Tensor) -> None:
        while len(log_weight) and self.done < self.most:
            if self.filled == 0 and len(log_weight) >= self.size:
                count = min(self.most - self.done, len(log_weight) // self.size)
                whole, log_weight = log_weight[: count * self.size], log_weight[count * self.size :]
                self._close(torch.logsumexp(whole.unflatten(0, (count, self.size)), dim=1))
                continue
            part, log_weight = log_weight[: self.size - self.filled], log_weight[self.size - self.filled :]
            self._open = _log_add(self._open, torch.logsumexp(part, 0))
            self.filled += len(part)
            if self.filled == self.size:
                self._close(self._open.unsqueeze(0))
                self._open, self.filled = None, 0

    def _close(self, sums: Tensor) -> None:
        self.done += len(sums)
        self._sum = sums.sum(0) if self._sum is None else self._sum + sums.sum(0)
        self._joined = _log_add(self._joined, torch.logsumexp(sums, 0))

    @property
    def mean(self) -> Tensor:
        """Mean over the blocks, ``(B,)`` nats."""
        assert self._sum is not None
        return self._sum / self.done - math.log(self.size)

    @property
    def joined(self) -> Tensor:
        """The same weights as one block, ``(B,)`` nats."""
        assert self._joined is not None
        return self._joined - math.log(self.done * self.size)


def weight_diagnostics(log_weight: Tensor) -> dict[str, Tensor]:
    """``ess``, ``pareto_k``, ``gain`` and ``variance`` (of log (1/K) Σ w) ``(B,)``, from log weights ``(K, B)`` at once."""
    running = RunningWeights(len(log_weight))
    running.add(log_weight)
    return running.diagnostics()


def tail_of(samples: int) -> int:
    """How many of the largest weights tell the shape: min(K/5, 3√K), or 0 where that is fewer than five."""
    tail = min(samples // 5, math.ceil(3 * math.sqrt(samples)))
    return tail if tail >= _FEWEST_TAIL else 0


def shape_threshold(samples: int) -> float:
    """The largest k̂ at which K = ``samples`` weights can be trusted, min(1 − 1/log10 K, 0.7) (Vehtari et al. 2024, eq. 13).

    >>> [round(shape_threshold(K), 2) for K in (50, 100, 1000, 5000)]
    [0.41, 0.5, 0.67, 0.7]
    """
    return min(1 - 1 / math.log10(samples), WORST_SHAPE) if samples > 1 else -math.inf


def _shape(largest: Tensor) -> Tensor:
    """k̂ of each image from its largest weights in falling order, ``(M + 1, B) -> (B,)``; the last is the threshold."""
    # Scale by the largest weight: the shape does not depend on it, and exp cannot overflow.
    weights = (largest - largest[0]).exp()
    excess = (weights[:-1] - weights[-1]).flip(0)  # above the threshold, ascending, (M, B)
    return fit_generalized_pareto(excess)


def _log_add(total: Tensor | None, more: Tensor) -> Tensor:
    return more if total is None else torch.logaddexp(total, more)


def certificate(values: dict[str, np.ndarray], samples: int) -> dict[str, Any]:
    """The diagnostics over images, for ``results.json``: nothing here changes the bound, all of it says how good it is."""
    images, threshold = len(values["ess"]), shape_threshold(samples)
    gain, known = values["gain"], np.isfinite(values["pareto_k"])
    return {
        "effective_samples": {"mean": float(values["ess"].mean()), "median": float(np.median(values["ess"])), "of": samples},
        "pareto_k": {
            "median": float(np.median(values["pareto_k"][known])) if known.any() else None,
            "share_above_0.7": float((values["pareto_k"][known] > WORST_SHAPE).mean()) if known.any() else None,
            "threshold": threshold if known.any() else None,
            "share_above_threshold": float((values["pareto_k"][known] > threshold).mean()) if known.any() else None,
        },
        "last_doubling": {
            "from": samples // 2,
            "to": 2 * (samples // 2),
            "gain": float(gain.mean()) if samples > 1 else None,
            "se": float(gain.std(ddof=1) / math.sqrt(images)) if samples > 1 and images > 1 else None,
            "still_rising": bool(gain.mean() > RISING) if samples > 1 else None,
        },
        "monte_carlo_se": monte_carlo_se(values["variance"]),
    }


def monte_carlo_se(variance: np.ndarray) -> float | None:
    """Standard error of the mean over images from the noise of each alone, ``(N,)``; None where it is not known for all."""
    return float(np.sqrt(variance.sum()) / len(variance)) if np.isfinite(variance).all() else None


def fit_generalized_pareto(excess: Tensor) -> Tensor:
    """Shape k of a generalized Pareto for ascending excesses ``(M, B)``: profile-likelihood average of Zhang & Stephens.

    With the weak prior of Vehtari et al. that pulls k̂ towards ½ by the weight of ten observations.
    """
    count = len(excess)
    grid = 30 + int(math.sqrt(count))
    excess = excess.clamp_min(torch.finfo(excess.dtype).tiny)
    quartile, largest = excess[int(count / 4 + 0.5) - 1], excess[-1]
    j = torch.arange(1, grid + 1, dtype=excess.dtype, device=excess.device)
    theta = 1 / largest + (1 - (grid / (j - 0.5)).sqrt()).unsqueeze(1) / (3 * quartile)  # (G, B)
    shape = torch.stack([torch.log1p(-t * excess).mean(0) for t in theta])  # (G, B), of the sign opposite to θ's
    likelihood = count * (torch.log(-theta / shape) - shape - 1)
    mean_theta = (torch.softmax(likelihood, dim=0) * theta).sum(0)
    k = torch.log1p(-mean_theta * excess).mean(0)
    return (k * count + 5) / (count + 10)
