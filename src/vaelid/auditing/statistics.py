"""From values whose mean is known to be zero under the hypothesis to one p-value, fine enough for a family of hundreds of tests.

Notation: n rows (independent samples), m columns (one hypothesis each). T = √n · mean / sd per column. A skewed column makes T
skewed the other way, which matters far out in the tails; Hall's cubic transformation takes the first-order part of it away:

    g(T) = T + γ T²/(3√n) + γ² T³/(27 n) + γ/(6√n),     γ: skewness of a row; used where it makes |T| smaller

The m columns are joined by Šidák: p = 1 − (1 − p_min)^m. Nothing here is simulated, so a p-value can be as small as 1e-300.
A NaN or an infinity in any column makes the p-value NaN: nothing was tested, which is no pass.

References:
    Hall 1992, On the removal of skewness by transformation; Šidák 1967; Holm 1979;
    Vehtari, Simpson, Gelman, Yao & Gabry 2024, Pareto smoothed importance sampling (k̂).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from vaelid.evaluation.certificate import fit_generalized_pareto, tail_of

#: Above this tail shape a t-statistic is not to be trusted: at ½ the variance is infinite, and k̂ is off by 0.1 now and then.
HEAVY = 0.4
#: To the variance of a column that hardly moves is added what this many unseen events of usual size would add: a pixel that is 1
#: once in a hundred thousand draws shows a constant score in most samples, and a constant has no standard error to be judged by.
#: Where no column moves there is no usual size, and the p-value is NaN.
_UNSEEN = 100.0
_FEW = 20.0  # rows that make up a column's variance; with fewer it is too uncertain for a t-statistic
_ROUNDING = 1e-6  # float32 values that should be equal differ by so much of themselves
_LARGEST = 1e4  # a statistic beyond this says no more


@dataclass(frozen=True)
class Screen:
    """The outcome of testing m columns at once."""

    z: Tensor  # (m,) float64, transformed statistics
    degrees: float

    @property
    def worst(self) -> int:
        """The column that deviates most; one that is no number before all others."""
        return int(self.z.abs().argmax())

    @property
    def statistic(self) -> float:
        """The largest |z|; NaN if one is NaN."""
        return float(self.z.abs().max())

    @property
    def p_value(self) -> float:
        """Of the hypothesis that all m means are zero; NaN if the values of a column are not finite."""
        return sidak(float(2 * stats.t.sf(self.statistic, self.degrees)), len(self.z))


def screen(values: Tensor, samples: int | None = None) -> Screen:
    """Test E[values] = 0 for every column of ``values`` ``(n, m)``.

    Args:
        samples: independent draws behind the rows, if each row is the mean over several
    """
    rows = values.detach().double()
    mean, variance, third, fourth = _moments(rows)
    floored = _with_floor(variance, fourth, len(rows), samples or len(rows))
    z = _transformed(mean, floored / len(rows), third / len(rows) ** 2)
    return Screen(z if bool((variance > 0).any()) else torch.where(mean == 0, z, math.nan), len(rows) - 1)


def compare(a: Tensor, b: Tensor) -> Screen:
    """Test E[a] = E[b] for every column of two independent samples ``(n, m)`` and ``(k, m)``."""
    mean_a, variance_a, third_a, fourth_a = _moments(a.detach().double())
    mean_b, variance_b, third_b, fourth_b = _moments(b.detach().double())
    floored_a, floored_b = _with_floor(variance_a, fourth_a, len(a), len(a)), _with_floor(variance_b, fourth_b, len(b), len(b))
    third = third_a / len(a) ** 2 - third_b / len(b) ** 2
    z = _transformed(mean_a - mean_b, floored_a / len(a) + floored_b / len(b), third)
    moves = bool(((variance_a > 0) | (variance_b > 0)).any())
    return Screen(z if moves else torch.where(mean_a == mean_b, z, math.nan), min(len(a), len(b)) - 1)


def batched(values: Tensor) -> Tensor:
    """Columns for conditional parts, ``(n, B, m) -> (n, m + B·m)``: pooled over the B conditions, and each condition by
    itself.
    """
    if values.shape[1] == 1:
        return values[:, 0]
    return torch.cat([values.mean(1), values.flatten(1)], dim=1)


def batched_name(index: int, names: Sequence[str], conditions: int) -> str:
    """What a column of :func:`batched` stands for."""
    if conditions == 1 or index < len(names):
        return names[index]
    condition, column = divmod(index - len(names), len(names))
    return f"{names[column]} at condition {condition}"


def sidak(p: float, tests: int) -> float:
    """The p-value of the smallest of ``tests`` independent p-values; NaN stays NaN."""
    return 1.0 if p >= 1 else float(-np.expm1(tests * np.log1p(-p)))


def holm(p_values: Sequence[float], level: float) -> list[bool]:
    """Which hypotheses are rejected with family-wise error at most ``level``, whatever the dependence between the tests.

    NaN is never rejected; it stands last, as a 1 would, and so can neither stop the procedure early nor shrink the family.
    """
    order = sorted(range(len(p_values)), key=lambda i: (math.isnan(p_values[i]), p_values[i]))
    rejected = [False] * len(p_values)
    for rank, i in enumerate(order):
        if not p_values[i] <= level / (len(p_values) - rank):
            break
        rejected[i] = True
    return rejected


def effective_size(log_weight: Tensor) -> float:
    """Share of samples that count, (Σw)²/(n Σw²), of log weights ``(n,)``."""
    twice = 2 * torch.logsumexp(log_weight, 0) - torch.logsumexp(2 * log_weight, 0)
    return float(twice.exp() / len(log_weight))


def pareto_shape(log_weight: Tensor) -> float:
    """k̂ of the largest weights: below 0.5 their variance is finite, above 0.7 their mean is not to be trusted."""
    ordered = torch.sort((log_weight - log_weight.max()).double().exp()).values
    tail = tail_of(len(ordered))
    excess = ordered[-tail:] - ordered[-tail - 1]
    excess = excess[excess > 0]
    if len(excess) < 5:
        return -math.inf if float(ordered[-1] - ordered[0]) < 1e-6 else math.inf
    return float(fit_generalized_pareto(excess.unsqueeze(1)))


def tail_shapes(values: Tensor) -> Tensor:
    """The larger k̂ of both tails of every column of ``values``, ``(n, m) -> (m,)``: moments of order 1/k and above do not exist.

    −∞ where a column is too short, or moves too rarely, to have a tail.
    """
    tail = tail_of(len(values))
    if not tail:
        return values.new_full((values.shape[1],), -math.inf)
    shapes = []
    for side in (values, -values):
        largest = torch.topk(side.double(), tail + 1, dim=0).values
        excess = (largest[:-1] - largest[-1]).flip(0)
        found = fit_generalized_pareto(excess / excess[-1].clamp_min(torch.finfo(torch.float64).tiny))
        moves = excess[len(excess) // 4] > 0  # else a few values, many times each: no tail
        shapes.append(torch.where(moves & torch.isfinite(found), found, -math.inf))
    return torch.maximum(*shapes)


def _moments(rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean, variance, third and fourth central moment per column; a column that is constant but for rounding has none."""
    mean = rows.mean(0)
    centered = rows - mean
    centered = torch.where(centered.abs().amax(0) <= _ROUNDING * mean.abs(), 0.0, centered)
    square = centered.square()
    return mean, square.sum(0) / max(len(rows) - 1, 1), (square * centered).mean(0), square.square().mean(0)


def _with_floor(variance: Tensor, fourth: Tensor, rows: int, samples: int) -> Tensor:
    """Variances of rows, those that rest on few rows raised by what unseen events would add.

    (Σc²)²/Σc⁴ rows make up the variance of a column with centered values c: a third of all for a normal one, k for an event that
    came k times. Only below :data:`_FEW` of them is anything added, so a column's power does not depend on the units of the
    others. The size of an event is taken from all columns: k c² = variance · excess kurtosis where events are rare.
    """
    counted = torch.where(variance > 0, rows * variance.square() / fourth, 0.0)
    finite = torch.isfinite(variance) & torch.isfinite(fourth)
    excess = torch.where(variance > 0, fourth / variance.square() - 3, 0.0).clamp_min(0)
    unseen = variance * (excess * min(1.0, _UNSEEN / rows) + min(1.0, _UNSEEN / samples))
    typical = torch.where(finite, unseen, math.nan).nanmean().nan_to_num(0.0)
    return variance + typical * (1 - counted / _FEW).clamp(0, 1).nan_to_num(0.0)


def _transformed(mean: Tensor, variance: Tensor, third: Tensor) -> Tensor:
    """g(T) from the mean's estimate, its variance and its third cumulant; exact zeros stay zero."""
    tiny = torch.finfo(torch.float64).tiny
    t = torch.where(mean == 0, torch.zeros_like(mean), mean / variance.clamp_min(tiny).sqrt())
    t = t.clamp(-_LARGEST, _LARGEST)
    # A variance that overflowed would make every mean look like zero.
    t = torch.where(torch.isfinite(mean) & torch.isfinite(variance), t, math.nan)
    skew = (third / variance.clamp_min(tiny).pow(1.5)).nan_to_num(0.0)
    corrected = t + skew * t.square() / 3 + skew.square() * t.pow(3) / 27 + skew / 6
    # Only ever towards zero: where the skewness is so large that the expansion does not hold, it would exaggerate the light side.
    return torch.where(corrected.abs() < t.abs(), corrected, t)
