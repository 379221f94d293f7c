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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import scipy
import torch
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
_IN_CACHE = 32_000  # numbers of a piece


#: Values ``(n, m)``: all at once, or their rows in pieces.
Rows = Tensor | Iterable[Tensor]


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
        return sidak(float(2 * scipy.stats.t.sf(self.statistic, self.degrees)), len(self.z))


def screen(values: Rows, samples: int | None = None, rounding: float = 0.0) -> Screen:
    """Test E[values] = 0 for every column of ``values`` ``(n, m)``.

    Args:
        values: all rows, or piece by piece
        samples: independent draws behind the rows, if each row is the mean over several
        rounding: what a mean may be off by, because numbers have few digits
    """
    rows = _moments(values)
    mean, floored = _beyond(rows.mean, rounding), _with_floor(rows, samples or rows.count)
    z = _transformed(mean, floored / rows.count, rows.third / rows.count**2)
    return Screen(z if bool((rows.variance > 0).any()) else torch.where(mean == 0, z, math.nan), rows.count - 1)


def compare(values_a: Rows, values_b: Rows, rounding: float = 0.0) -> Screen:
    """Test E[a] = E[b], but for ``rounding``, for every column of two independent samples ``(n, m)`` and ``(k, m)``."""
    a, b = _moments(values_a), _moments(values_b)
    difference = _beyond(a.mean - b.mean, rounding)
    variance = _with_floor(a, a.count) / a.count + _with_floor(b, b.count) / b.count
    z = _transformed(difference, variance, a.third / a.count**2 - b.third / b.count**2)
    moves = bool(((a.variance > 0) | (b.variance > 0)).any())
    return Screen(z if moves else torch.where(difference == 0, z, math.nan), min(a.count, b.count) - 1)


def cut(x: Tensor, width: int) -> tuple[Tensor, ...]:
    """Pieces of rows, of each of which ``width`` numbers will be made: as many as fit a processor's cache.

    Where millions of numbers go through a dozen steps, the time is that of the memory traffic.
    """
    return x.split(max(1, _IN_CACHE // max(1, width)))


def products(x: Tensor, y: Tensor) -> Tensor:
    """x_i y_j for every i < j of the last dimension, in the order of ``torch.triu_indices``."""
    return torch.cat([x[..., i : i + 1] * y[..., i + 1 :] for i in range(x.shape[-1] - 1)], dim=-1)


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


@dataclass(frozen=True)
class _Moments:
    """Of every column: mean, variance, third and fourth central moment, ``(m,)`` float64 each, over ``count`` rows."""

    count: int
    mean: Tensor
    variance: Tensor
    third: Tensor
    fourth: Tensor


def _moments(values: Rows) -> _Moments:
    """Over all rows, in one pass: powers of what is left after the first piece's mean is taken off.

    A column that is constant but for rounding has no variance and no higher moments.
    """
    pieces = iter(cut(values, values.shape[1]) if isinstance(values, Tensor) else values)
    first = next(pieces).detach().double()
    shift, count = first.mean(0), 0
    sums = torch.zeros(4, len(shift), dtype=shift.dtype, device=shift.device)
    farthest = torch.zeros_like(shift)
    for piece in chain([first], pieces):
        centered = piece.detach().double() - shift
        power = centered.clone()
        for total in sums[:-1]:
            total += power.sum(0)
            power *= centered
        sums[-1] += power.sum(0)
        farthest = torch.maximum(farthest, centered.abs_().amax(0))
        count += len(centered)
    off, second, third, fourth = sums / count
    mean = shift + off
    moves = (farthest > _ROUNDING * mean.abs()) | ~torch.isfinite(mean)
    variance = second - off.square()
    third, fourth = (
        third - 3 * off * second + 2 * off.pow(3),
        fourth - 4 * off * third + 6 * off.square() * second - 3 * off.pow(4),
    )
    variance, third, fourth = (torch.where(moves, moment, 0.0) for moment in (variance, third, fourth))
    return _Moments(count, mean, variance * (count / max(count - 1, 1)), third, fourth)


def _with_floor(rows: _Moments, samples: int) -> Tensor:
    """Variances of rows, those that rest on few rows raised by what unseen events would add.

    (Σc²)²/Σc⁴ rows make up the variance of a column with centered values c: a third of all for a normal one, k for an event that
    came k times. Only below :data:`_FEW` of them is anything added, so a column's power does not depend on the units of the
    others. The size of an event is taken from all columns: k c² = variance · excess kurtosis where events are rare.
    """
    variance, fourth = rows.variance, rows.fourth
    counted = torch.where(variance > 0, rows.count * variance.square() / fourth, 0.0)
    finite = torch.isfinite(variance) & torch.isfinite(fourth)
    excess = torch.where(variance > 0, fourth / variance.square() - 3, 0.0).clamp_min(0)
    unseen = variance * (excess * min(1.0, _UNSEEN / rows.count) + min(1.0, _UNSEEN / samples))
    typical = torch.where(finite, unseen, math.nan).nanmean().nan_to_num(0.0)
    return variance + typical * (1 - counted / _FEW).clamp(0, 1).nan_to_num(0.0)


def _beyond(mean: Tensor, rounding: float) -> Tensor:
    """What is left of a mean when all that rounding may have added is taken off."""
    return mean.sign() * (mean.abs() - rounding).clamp_min(0)


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
