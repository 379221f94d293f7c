"""What a validation curve says, in figures: how fast, how steady, and whether it had come to rest.

    v_t: validation −ELBO after epoch t, in nats per image, always from the same images and the same noise;
    d_t = v_t − v_{t−1}, with the standard error s_t of the paired per-image differences.

A rise d_t > 3 s_t is the model's, not the choice of validation images. A jump of the curve far above its usual changes is a
spike whatever s_t: where few images make it, s_t is about as large as d_t, and it happened all the same. Nothing here claims
anything about epochs that were not trained.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaelid.sweeps.intervals import quantile

Array = NDArray[np.float64]

#: "Close to its best": so many nats.
NEAR = 1.0
#: A rise is one of the model if it is more than so many standard errors.
CLEAR = 3.0
#: A spike is a rise of at least so many nats, and so many times the median change of the epochs around it.
SPIKE_NATS, SPIKE_TIMES = 1.0, 5.0
_AROUND = 10
#: A curve has come to rest if its slope over the last epochs lies within ± so many nats per epoch, interval and all.
AT_REST = 0.02
#: The slope is that of the second half of the curve, of so many epochs at least and at most.
SHORTEST, LONGEST = 8, 20

FINISHED, DIVERGED, PRUNED = "finished", "diverged", "pruned"  # how a training ended; anything else is not the end
VERDICTS = (
    "converged",
    "still falling",
    "rising",
    "stopped by patience",
    "diverged",
    "pruned",
    "not enough evidence",
    "not finished",
)


@dataclass(frozen=True)
class Curve:
    """A run's epochs: −ELBO, its ``change_se`` (nan where unknown) and training seconds in all so far, each ``(E,)``.

    Attributes:
        status: of the training, ``finished``, ``diverged`` and ``pruned`` being ends
        outcome: why it ended, as environment.json says
    """

    neg_elbo: Array
    change_se: Array
    seconds: Array
    status: str = FINISHED
    outcome: str = ""


@dataclass(frozen=True)
class Reached:
    """After how many epochs and seconds of training a value was first had; None if never."""

    level: float
    epochs: int | None
    seconds: float | None


@dataclass(frozen=True)
class Spike:
    """A rise far above the usual changes.

    Attributes:
        se: standard error of ``nats``; None if unknown
        back_after: after how many further epochs the curve was back where it came from; None if never
        left: nats that it stayed above that at least; 0 if it was back
    """

    epoch: int
    nats: float
    se: float | None
    back_after: int | None
    left: float

    @property
    def doubtful(self) -> bool:
        """Whether other validation images might not show it: it is known to lie within ``CLEAR`` standard errors."""
        return self.se is not None and self.nats <= CLEAR * self.se


@dataclass(frozen=True)
class Stability:
    """Rises of the curve.

    Attributes:
        judged: changes whose standard error is known; the others are no rises, but may be spikes
        rises: changes of more than ``CLEAR`` standard errors upward, the ``largest`` of them in nats
    """

    judged: int
    rises: int
    largest: float | None
    spikes: tuple[Spike, ...]


@dataclass(frozen=True)
class Slope:
    """Nats per epoch over the last ``epochs`` epochs, with the half width of its 95 % interval; below 0 the curve falls."""

    per_epoch: float
    half: float
    epochs: int


@dataclass(frozen=True)
class Facts:
    """Everything that is said about one member. ``verdict`` is one of ``VERDICTS``; ``best`` is None without a finite value."""

    epochs: int
    seconds: float
    best: float | None
    best_epoch: int
    last: float | None
    near_best: Reached | None
    levels: tuple[Reached, ...]
    stability: Stability
    slope: Slope | None
    verdict: str


def curve_of(history: Sequence[Mapping[str, Any]], status: str, outcome: str) -> Curve:
    """The curve of a run from its ``metrics.jsonl``."""

    def column(name: str) -> Array:
        return np.array([math.nan if line.get(name) is None else line[name] for line in history], dtype=float)

    return Curve(column("neg_elbo"), column("change_se"), np.nancumsum(column("train_seconds")), status, outcome)


def look(curve: Curve, levels: Sequence[float] = ()) -> Facts:
    """All figures of a curve.

    Args:
        levels: values of −ELBO whose first epoch is looked for
    """
    values = curve.neg_elbo
    finite = np.isfinite(values)
    slope = slope_of(values)
    seconds = float(curve.seconds[-1]) if len(values) else 0.0
    if not finite.any():
        nothing = Stability(0, 0, None, ())
        return Facts(len(values), seconds, None, 0, None, None, (), nothing, None, _verdict(curve, None))
    best_epoch = int(np.where(finite, values, np.inf).argmin()) + 1
    best = float(values[best_epoch - 1])
    return Facts(
        epochs=len(values),
        seconds=seconds,
        best=best,
        best_epoch=best_epoch,
        last=float(values[-1]) if finite[-1] else None,
        near_best=_reached(curve, best + NEAR),
        levels=tuple(_reached(curve, level) for level in levels),
        stability=_stability(values, curve.change_se),
        slope=slope,
        verdict=_verdict(curve, slope),
    )


def slope_of(values: Array) -> Slope | None:
    """The least-squares line through the last epochs of ``(E,)``; None for fewer than 2 · ``SHORTEST`` epochs, or gaps in them.

    Neighboring epochs resemble each other, which makes the textbook error too small: it is widened by √((1 + r)/(1 − r)), where
    r is the correlation of neighboring residuals, if that is positive.
    """
    count = min(LONGEST, len(values) // 2)
    if count < SHORTEST or not np.isfinite(values[-count:]).all():
        return None
    epochs = np.arange(count) - (count - 1) / 2
    tail = values[-count:]
    per_epoch = float(epochs @ tail / (epochs @ epochs))
    residuals = tail - tail.mean() - per_epoch * epochs
    variance = float(residuals @ residuals)
    seen = float(residuals[1:] @ residuals[:-1]) / variance if variance > 0 else -1.0
    r = min(max((count * seen + 2) / (count - 4), 0.0), 0.9)  # around a fitted line, r is seen smaller by about (2 + 4 r)/count
    se = math.sqrt(variance / (count - 2) / float(epochs @ epochs) * (1 + r) / (1 - r))
    return Slope(per_epoch, quantile(count - 2) * se, count)


def _verdict(curve: Curve, slope: Slope | None) -> str:
    values = curve.neg_elbo
    if curve.status == DIVERGED or (len(values) and not np.isfinite(values[-1])):
        return "diverged"
    if curve.status == PRUNED:
        return PRUNED
    if curve.status != FINISHED:
        return "not finished"
    if curve.outcome.startswith("no improvement"):
        return "stopped by patience"
    if slope is None:
        return "not enough evidence"
    low, high = slope.per_epoch - slope.half, slope.per_epoch + slope.half
    if low > -AT_REST and high < AT_REST:
        return "converged"
    if high < 0:
        return "still falling"
    return "rising" if low > 0 else "not enough evidence"


def _reached(curve: Curve, level: float) -> Reached:
    [there] = np.nonzero(curve.neg_elbo <= level)
    if not len(there):
        return Reached(level, None, None)
    return Reached(level, int(there[0]) + 1, float(curve.seconds[there[0]]))


def _stability(values: Array, errors: Array) -> Stability:
    changes = np.diff(values, prepend=np.nan)
    judged = np.isfinite(changes) & np.isfinite(errors)
    clear = judged & (changes > CLEAR * np.where(judged, errors, 0.0)) & (changes > 0)
    rises = changes[clear]
    up = np.nonzero(np.isfinite(changes) & (changes >= SPIKE_NATS))[0]
    spikes = tuple(spike for at in up if (spike := _spike(values, changes, errors, int(at))) is not None)
    return Stability(int(judged.sum()), len(rises), float(rises.max()) if len(rises) else None, spikes)


def _spike(values: Array, changes: Array, errors: Array, at: int) -> Spike | None:
    """The spike at index ``at`` of a curve that rises there by ``SPIKE_NATS`` or more, if it is one."""
    start = max(1, at - _AROUND)
    around = np.delete(changes[start : at + _AROUND + 1], at - start)
    usual = float(np.nanmedian(np.abs(around))) if np.isfinite(around).any() else math.inf
    if changes[at] < SPIKE_TIMES * usual:
        return None
    above = values[at:] - values[at - 1]
    [back] = np.nonzero(above <= 0)
    se = float(errors[at]) if np.isfinite(errors[at]) else None
    return Spike(at + 1, float(changes[at]), se, int(back[0]) if len(back) else None, max(0.0, float(np.nanmin(above))))
