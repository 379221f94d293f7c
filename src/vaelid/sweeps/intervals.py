"""Means over seeds with Student's t-intervals; none with one seed, since one number says nothing about its own spread."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy

#: Of every interval in a study.
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """``mean ± half`` covers the mean over all seeds with probability ``LEVEL``, if seeds scatter normally."""

    mean: float
    seeds: int
    sd: float | None = None  # between seeds
    half: float | None = None

    def __str__(self) -> str:
        return f"{self.mean:.3f}" + (f" ± {self.half:.3f}" if self.half is not None else "")


def t_interval(values: Sequence[float]) -> Interval:
    """The mean of ``values`` and its t-interval; without one where there is one value.

    >>> str(t_interval([1.0, 2.0, 3.0])), str(t_interval([2.0]))
    ('2.000 ± 2.484', '2.000')
    """
    if len(values) < 2:
        return Interval(float(np.mean(values)), len(values))
    sd = float(np.std(values, ddof=1))
    return Interval(float(np.mean(values)), len(values), sd, quantile(len(values) - 1) * sd / math.sqrt(len(values)))


def quantile(degrees: int) -> float:
    """How many standard errors an interval reaches to each side, with so many degrees of freedom."""
    return float(scipy.stats.t.ppf(0.5 + LEVEL / 2, degrees))
