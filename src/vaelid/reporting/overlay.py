"""Validation curves of a study over each other: one color per combination, one line per seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter
from numpy.typing import NDArray

from vaelid.reporting import charts

Array = NDArray[np.float64]


def overlaid_curves(
    curves: Mapping[str, Sequence[Array]], logarithmic: bool = False, heading: str = "", size: charts.Place = charts.SIZE
) -> Figure:
    """−ELBO per epoch of every seed ``(E,)`` of every combination, each named at the end of its last line.

    A linear axis is zoomed to the later epochs and says so; both axes of a logarithmic one are, the lower end being how far each
    value lies above the best of all: −ELBO itself may be negative.
    """
    if not curves or not any(np.isfinite(line).any() for lines in curves.values() for line in lines):
        raise ValueError("there must be a curve with a finite value")
    colors = _colors(len(curves))
    values = np.concatenate([line[np.isfinite(line)] for lines in curves.values() for line in lines])
    best = float(values.min())
    ylabel = f"−ELBO above the best, {best:.2f} (nats)" if logarithmic else "validation −ELBO (nats per image)"
    figure, axes = charts.chart("epoch", ylabel, heading, size, right=min(0.5 + 0.085 * max(map(len, curves)), 0.45 * size[0]))
    for (lines, color), style in zip(zip(curves.values(), colors, strict=True), _styles(len(curves)), strict=True):
        for line in lines:
            shown = _above(line, best) if logarithmic else np.where(np.isfinite(line), line, np.nan)
            marker = "o" if len(line) == 1 else None
            axes.plot(np.arange(1, len(line) + 1), shown, color=color, linewidth=1.3, alpha=0.85, linestyle=style, marker=marker)
    _limits(axes, values, curves, logarithmic)
    _name(axes, curves, colors, best if logarithmic else None)
    return figure


def _above(line: Array, best: float) -> Array:
    """How far each value lies above ``best``; the best itself, which has no logarithm, and gaps are left out."""
    above = np.where(np.isfinite(line), line, np.nan) - best
    return np.where(above > 0, above, np.nan)


def _limits(axes: Axes, values: Array, curves: Mapping[str, Sequence[Array]], logarithmic: bool) -> None:
    longest = max(len(line) for lines in curves.values() for line in lines)
    if logarithmic:
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.set_xlim(0.95, longest * 1.05 + 0.1)
        return
    axes.set_xlim(1 - 0.02 * longest, longest * 1.02)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    # From the best of all to where the worst curve's better half begins: the first epochs would flatten all that follows.
    low = float(values.min())
    halves = [line[len(line) // 2 :] for lines in curves.values() for line in lines]
    tops = [_top(half[np.isfinite(half)]) for half in halves if np.isfinite(half).any()]
    high = min(max(tops), low + 20 * max(float(np.median(tops)) - low, 1.0))
    space = 0.06 * (high - low) or 0.5
    axes.set_ylim(low - space, high + space)
    if high < float(values.max()):
        charts.say(
            axes, f"up to {values.max():,.0f} nats not shown", (0.99, 0.99), ha="right", va="top", size=8, color=charts.QUIET
        )


def _top(values: Array) -> float:
    """The largest value but for spikes: of the medians over five epochs, of which a spike of two spoils none."""
    if len(values) < 5:
        return float(values.max())
    return float(np.median(np.lib.stride_tricks.sliding_window_view(values, 5), axis=-1).max())


def _name(axes: Axes, curves: Mapping[str, Sequence[Array]], colors: Array, best: float | None) -> None:
    """Names at the right, at the height of each combination's mean end, moved apart where they would touch."""
    ends = []
    for lines in curves.values():
        last = [_above(line, best) if best is not None else line for line in lines]
        finite = [line[np.isfinite(line)][-1] for line in last if np.isfinite(line).any()]
        ends.append(float(np.mean(finite)) if finite else axes.get_ylim()[0])
    at = axes.get_xlim()[1]
    heights = axes.transAxes.inverted().transform(axes.transData.transform([(at, end) for end in ends]))[:, 1].clip(0, 1)
    spots = charts.spread(np.column_stack([np.ones(len(ends)), heights]), (1.0, 0.07))
    for name, (_, height), color in zip(curves, spots, colors, strict=True):
        charts.say(axes, name, (1.0, height), offset=(6, 0), va="center", color=0.85 * color[:3])


def _colors(count: int) -> Array:
    """Colors apart in lightness, too, so that they stay apart for color-blind readers and on gray paper."""
    return np.asarray(colormaps["viridis"](np.linspace(0, 0.85, count)))


def _styles(count: int) -> list[str]:
    return [("solid", "dashed", "dashdot", "dotted")[i % 4] for i in range(count)]
