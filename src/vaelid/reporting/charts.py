"""What all charts share: colors, one quiet axes, text, and labels that do not touch.

Only matplotlib's object interface is used: no pyplot, no global settings.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

Array = NDArray[Any]
Place = tuple[float, float]

FONT = "DejaVu Sans"  # comes with matplotlib: the same letters on every machine
INK, QUIET, RULE = "#222222", "#666666", "#E4E4E4"
SIZE: Place = (7.2, 4.2)  # inches, of a chart
BLUE, ORANGE, GRAY = "#0072B2", "#D55E00", "#B5B5B5"  # Okabe & Ito 2008, safe for color-blind readers


def chart(xlabel: str, ylabel: str, heading: str, size: Place = SIZE, right: float = 0.35) -> tuple[Figure, Axes]:
    """A figure of ``size`` inches with one quiet axes; the margins are fixed in inches, so that no layout need be solved."""
    figure = Figure(figsize=size, facecolor="white")
    left, bottom, top = 0.85, 0.68, 0.62 if heading else 0.3
    axes = figure.add_axes((left / size[0], bottom / size[1], 1 - (left + right) / size[0], 1 - (bottom + top) / size[1]))
    style(axes, 9)
    axes.set_xlabel(xlabel, color=QUIET, family=FONT, fontsize=10, labelpad=7, parse_math=False)
    axes.set_ylabel(ylabel, color=QUIET, family=FONT, fontsize=10, labelpad=7, parse_math=False)
    say(axes, heading, (0.0, 1.0), offset=(0, 12), va="bottom", size=12, weight="bold")
    return figure, axes


def style(axes: Axes, size: float) -> None:
    """Quiet axes: two spines, a horizontal grid, labels of ``size`` points."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRAY)
    axes.tick_params(which="both", length=0, labelsize=size, labelcolor=QUIET, labelfontfamily=FONT, pad=5)
    axes.grid(True, axis="y", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)


def say(axes: Axes, text: str, at: Place, coords: Any = "axes fraction", offset: Place = (0, 0), **look: Any) -> None:
    """Text at a place plus an ``offset`` in points, taken literally: a ``$`` in a name starts no formula."""
    look = {"color": INK, "size": 9.5, "family": FONT, "parse_math": False, "annotation_clip": False, **look}
    if text:
        axes.annotate(text, at, xycoords=coords, xytext=offset, textcoords="offset points", **look)


def spread(spots: Array, gap: Place) -> Array:
    """Move label positions ``(C, 2)`` apart until none lies in the ellipse of half axes ``gap`` around another."""
    spots = spots / gap + np.outer(np.arange(len(spots)), (0.0, 1e-6))  # equal ones part upward
    for _ in range(100):
        away = spots[:, None] - spots[None]
        distance = np.hypot(away[..., 0], away[..., 1]) + np.eye(len(spots))
        spots = spots + (away * (np.maximum(1 - distance, 0) / (2 * distance))[..., None]).sum(1)
    return spots * gap
