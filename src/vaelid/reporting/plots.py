"""Figures: a plot takes numbers and returns a ``matplotlib.figure.Figure``; nothing here reads a run or keeps state.

``N`` images of shape ``*X`` are floats in [0, 1] and come as ``(N, 1, H, W)``, ``(N, 3, H, W)``, ``(N, H, W)`` or ``(N, D)``;
``D`` numbers are shown as a square where D is a square number, else as a strip of one row.

Only matplotlib's object interface is used: no pyplot, no global settings, so that a figure neither depends on what ran
before nor changes what comes after. A grid of images is one array drawn once, since every further axes costs milliseconds.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba_array
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from numpy.typing import NDArray
from PIL import Image

from vaelid.reporting import charts

Array = NDArray[Any]
MaybeArray = Array | None
Bytes = NDArray[np.uint8]
Place = tuple[float, float]
Names = Sequence[str]
Curves = dict[str, tuple[Array, str, float]]  # name: values (E,), color, line width in points

DPI = 150  # of every PNG; grids are laid out so that one image pixel is a whole number of PNG pixels
# Petroff 2021, arXiv:2107.02270: ten colors optimized for color-blind readers.
_CLASSES = ["#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"]
_OUTLINE = [withStroke(linewidth=3, foreground="white")]  # keeps text readable on top of data
_MARGIN, _LINE = 0.18, 0.24  # inches: the white around a grid of images; the text above or under an image


def tile(images: Array, columns: int | None = None, gap: int | None = None, scale: int = 1) -> Bytes:
    """Images ``(N, *X)`` row by row on white: bytes ``(H, W)``, or ``(H, W, 3)`` for color images.

    Values are clipped to [0, 1]. ``gap`` is in image pixels (if None, 1/28 of the shorter side); ``scale`` magnifies every pixel.

    >>> tile(np.array([[0.0], [1.0], [0.5]]), columns=2, gap=0).tolist()
    [[0, 255], [128, 255]]
    """
    pictures = _pictures(images)
    gap = _gap(pictures) if gap is None else gap
    if scale < 1 or gap < 0:
        raise ValueError(f"scale must be at least 1 and gap at least 0; got scale={scale}, gap={gap}")
    return _arrange(pictures, _columns(len(pictures), columns), gap).repeat(scale, 0).repeat(scale, 1)


def image_grid(images: Array, columns: int | None = None, titles: Names | None = None, heading: str = "") -> Figure:
    """Images ``(N, *X)`` in a grid, with a title above each where ``titles`` are given."""
    return _grid(_pictures(images), columns, titles or (), heading, above=True)


def paired_grid(originals: Array, reconstructions: Array, columns: int | None = None, heading: str = "") -> Figure:
    """Each original ``(N, *X)`` above its reconstruction, up to ten pairs per row where ``columns`` is not given."""
    upper, lower = np.split(_pictures(originals, reconstructions), 2)
    pairs = np.concatenate((upper, _paper(upper, _gap(upper)), lower), 1)
    return _grid(pairs, columns or min(len(pairs), 10), (), heading, sides=("original", "reconstruction"), parts=2)


def components_grid(images: Array, weights: Array, columns: int | None = None, heading: str = "") -> Figure:
    """What each mixture component ``(C, *X)`` decodes to, with its weight ``(C,)`` under it, in the given order."""
    weights = _row("weights", weights, len(images))
    return _grid(_pictures(images), columns, [f"{weight:.1%}" for weight in weights], heading)


def likeliest_and_unlikeliest(
    images_low: Array, values_low: Array, images_high: Array, values_high: Array, heading: str = ""
) -> Figure:
    """Lowest negative log-likelihoods in the upper row, highest in the lower; ``(N, *X)`` images, ``(N,)`` nats under each."""
    values = [*_row("values_low", values_low, len(images_low)), *_row("values_high", values_high, len(images_high))]
    captions, rows = [f"{value:.1f} nats" for value in values], ("likeliest", "unlikeliest")
    return _grid(_pictures(images_low, images_high), len(images_low), captions, heading, sides=rows)


def interpolation_strip(images: Array, heading: str = "") -> Figure:
    """R paths between two images, S steps each, as rows; ``images`` is ``(R, S, *X)``."""
    images = np.asarray(images)
    if images.ndim < 3:
        raise ValueError(f"images must have shape (R, S, *X), R paths of S steps; got {images.shape}")
    return _grid(_pictures(images.reshape(-1, *images.shape[2:])), images.shape[1], (), heading)


def validation_curve(
    epochs: Array,
    neg_elbo: Array,
    best_epoch: int,
    std_errors: MaybeArray = None,
    training: MaybeArray = None,
    heading: str = "",
    size: Place = charts.SIZE,
) -> Figure:
    """−ELBO per epoch ``(E,)`` in nats per image, the best epoch marked, with ±1 s.e., and the training loss where given.

    That loss is the objective's, with β as it was: during a KL warm-up it is no −ELBO.

    The first epochs' huge values would flatten all that follows, so the axis is zoomed and a small inset shows the whole.
    """
    epochs = _row("epochs", epochs)
    name = "validation" if std_errors is None else "validation ± 1 s.e."
    curves: Curves = {name: (_row("neg_elbo", neg_elbo, len(epochs), holes=True), charts.BLUE, 1.8)}
    if training is not None:
        curves["training loss"] = (_row("training", training, len(epochs), holes=True), charts.QUIET, 0.9)
    at_best, validation = epochs == best_epoch, curves[name][0]
    if at_best.sum() != 1 or not np.isfinite(validation[at_best]):
        raise ValueError(f"best_epoch must be one of the epochs, with a finite −ELBO; got {best_epoch}")
    best = validation[at_best].item()
    said = f"best, epoch {best_epoch}\n{best:.2f}"
    figure, axes = charts.chart("epoch", "−ELBO (nats per image)", heading, size, right=1.6)
    _draw(axes, epochs, curves)
    if std_errors is not None:
        errors = _row("std_errors", std_errors, len(epochs), holes=True)
        axes.fill_between(epochs, validation - errors, validation + errors, color=charts.BLUE, alpha=0.2, linewidth=0)
        said += f" ± {errors[at_best].item():.2f}"
    if _zoom(axes, [values for values, _, _ in curves.values()]):
        inset = axes.inset_axes((0.62, 0.62, 0.38, 0.38))
        charts.style(inset, 7.5)
        _draw(inset, epochs, curves)
        charts.say(
            inset, "from the first epoch", (0.97, 0.97), path_effects=_OUTLINE, ha="right", va="top", size=8, color=charts.QUIET
        )
    axes.plot([best_epoch, axes.get_xlim()[1]], [best, best], color=charts.ORANGE, linewidth=0.9, linestyle=(0, (2, 3)))
    axes.plot([best_epoch], [best], "o", color=charts.ORANGE, markersize=7, markeredgecolor="white", zorder=5)
    ends = [(name, line[np.isfinite(line)][-1], color) for name, (line, color, _) in curves.items()] + [
        (said, best, charts.ORANGE)
    ]
    spots = charts.spread(axes.transLimits.transform([(best_epoch, value) for _, value, _ in ends]), (1.0, 0.1))
    for (name, _, color), (_, height) in zip(ends, spots, strict=True):
        charts.say(axes, name, (1.0, height), offset=(6, 0), va="center", color=color)
    return figure


def latent_map(
    points: Array,
    labels: MaybeArray = None,
    label_names: Names = (),
    explained: MaybeArray = None,
    heading: str = "",
    size: Place = (5.9, 5.8),
) -> Figure:
    """Latent points ``(N, 2)``, colored by class ``(N,)``, whose names stand at the medians of the classes.

    ``explained`` are the shares of variance of two principal components; without it the axes are the latents themselves.
    """
    points = np.asarray(points)
    if points.ndim != 2 or points.shape[1] != 2 or not len(points) or not np.isfinite(points).all():
        raise ValueError(f"points must be finite and have shape (N, 2), N ≥ 1; got {points.shape}")
    axis = ["z₁", "z₂"]
    if explained is not None:
        axis = [f"component {i} ({share:.0%} of variance)" for i, share in enumerate(_row("explained", explained, 2), 1)]
    figure, axes = charts.chart(axis[0], axis[1], heading, size)
    axes.set_aspect("equal", adjustable="datalim")
    axes.grid(True, axis="both", color=charts.RULE, linewidth=0.6)
    many = len(points) > 1000  # one picture in the PDF instead of as many circles
    style: dict[str, Any] = {"s": np.clip(20000 / len(points), 3, 24), "alpha": 0.6, "linewidths": 0, "rasterized": many}
    if labels is None:
        axes.scatter(points[:, 0], points[:, 1], color=charts.BLUE, **style)
        return figure
    classes, index = np.unique(_row("labels", labels, len(points)).astype(int), return_inverse=True)
    if label_names and not 0 <= classes[0] <= classes[-1] < len(label_names):
        raise ValueError(f"labels run from {classes[0]} to {classes[-1]}, but there are {len(label_names)} label_names")
    colors = to_rgba_array(_CLASSES) if len(classes) <= 10 else colormaps["viridis"](np.linspace(0, 0.95, len(classes)))
    axes.scatter(points[:, 0], points[:, 1], c=colors[index], **style)
    axes.apply_aspect()  # settles the limits, so that the positions below are those of the finished figure
    medians = np.array([np.median(points[index == number], axis=0) for number in range(len(classes))])
    names = [label_names[number] if label_names else str(number) for number in classes]
    spots = charts.spread(axes.transLimits.transform(medians), (0.05 + 0.012 * max(map(len, names)), 0.055))
    for name, (x, y), color in zip(names, spots, colors, strict=False):
        charts.say(
            axes, name, (x, y), ha="center", va="center", size=12, weight="bold", color=0.7 * color[:3], path_effects=_OUTLINE
        )
    return figure


def kl_per_dimension(kl: Array, threshold: float = 0.01, heading: str = "", size: Place = charts.SIZE) -> Figure:
    """Mean KL of each latent dimension ``(L,)`` in nats, largest first; a dimension above ``threshold`` counts as active.

    The axis is linear up to the threshold and logarithmic above, so that both the threshold and the largest bars can be read.
    """
    kl = np.sort(_row("kl", kl))[::-1]
    if not threshold > 0:
        raise ValueError(f"threshold must be above 0 nats; got {threshold}")
    figure, axes = charts.chart("latent dimension, sorted", "KL (nats per image)", heading, size, right=0.95)
    axes.bar(np.arange(1, len(kl) + 1), kl, color=np.where(kl > threshold, charts.BLUE, charts.GRAY), width=0.8)
    axes.set_yscale("symlog", linthresh=threshold, linscale=0.4)
    top = max(float(kl[0]), 10 * threshold) * 3
    axes.set_ylim(min(0.0, float(kl[-1])), top)
    axes.set_yticks([0.0, *10.0 ** np.arange(math.ceil(math.log10(threshold)), math.floor(math.log10(top)) + 1)])
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_xlim(0.4, len(kl) + 0.6)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
    axes.axhline(threshold, color=charts.ORANGE, linewidth=1.1, linestyle=(0, (4, 3)))
    charts.say(
        axes,
        f"threshold\n{threshold:g} nats",
        (1.0, threshold),
        ("axes fraction", "data"),
        (6, 0),
        va="center",
        color=charts.ORANGE,
    )
    said = f"{(kl > threshold).sum()} of {len(kl)} dimensions active, Σ KL_d = {kl.sum():.1f} nats"
    charts.say(axes, said, (1.0, 1.0), path_effects=_OUTLINE, ha="right", va="top", color=charts.BLUE)
    return figure


def nll_histogram(
    values: Array, mean: float, std_error: float, label: str, heading: str = "", size: Place = charts.SIZE
) -> Figure:
    """Histogram of one value per image ``(N,)`` in nats, with their mean and its standard error; ``label`` names the quantity."""
    values = _row("values", values)
    figure, axes = charts.chart(f"{label} (nats per image)", "images", heading, size)
    bins = int(np.clip(2 * len(values) ** (1 / 3), 8, 60))  # Rice's rule
    counts, _, _ = axes.hist(values, bins, color="#7FB8D8", edgecolor="white", linewidth=0.6)
    axes.set_ylim(0, 1.18 * float(np.max(counts)))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.axvspan(mean - std_error, mean + std_error, color=charts.ORANGE, alpha=0.25, linewidth=0, zorder=0.9)
    axes.axvline(mean, color=charts.ORANGE, linewidth=1.4)
    side = -1 if axes.transLimits.transform((mean, 0))[0] > 0.5 else 1
    said, spot = f"mean {mean:.2f} ± {std_error:.2f} s.e.", (mean + side * std_error, 1.0)
    charts.say(
        axes,
        said,
        spot,
        ("data", "axes fraction"),
        (7 * side, 0),
        ha="left" if side > 0 else "right",
        va="top",
        color=charts.ORANGE,
    )
    return figure


def save_figure(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write ``name.png`` and ``name.pdf`` into ``folder``, each whole or not at all; the same figure gives the same bytes."""
    if Path(name).name != name:
        raise ValueError(f"name must be a plain file name without its ending; got {name!r}")
    paths = []
    for ending in ("png", "pdf"):
        buffer, undated = io.BytesIO(), {"CreationDate": None}
        figure.savefig(buffer, format=ending, dpi=DPI, facecolor="white", transparent=False, metadata=undated)
        paths.append(_write_whole(Path(folder) / f"{name}.{ending}", buffer.getvalue()))
    return paths


def save_gif(frames: Bytes, path: Path, milliseconds: int) -> Path:
    """Write frames ``(T, H, W)`` or ``(T, H, W, 3)`` as an endless GIF, ``milliseconds`` per frame (20, 30, 40 …).

    Color frames share one palette of 256 colors, so that nothing flickers. Equal frames in a row are stored as one longer frame.
    """
    if frames.dtype != np.uint8 or frames.shape[3:] not in ((), (3,)) or frames.ndim < 3 or not frames.size:
        raise ValueError(f"frames must be uint8 with shape (T, H, W) or (T, H, W, 3), T ≥ 1; got {frames.dtype} {frames.shape}")
    if milliseconds < 20 or milliseconds % 10:
        raise ValueError(f"milliseconds must be a multiple of 10 and at least 20, as GIF players need it; got {milliseconds}")
    height, width = frames.shape[1:3]
    tall = Image.fromarray(np.ascontiguousarray(frames).reshape(-1, *frames.shape[2:]))  # all frames above each other
    if frames.ndim == 4:
        tall = tall.quantize(256, dither=Image.Dither.NONE)
    first, *others = [tall.crop((0, top, width, top + height)) for top in range(0, tall.height, height)]
    first.save(buffer := io.BytesIO(), "GIF", save_all=True, append_images=others, duration=milliseconds, loop=0)
    return _write_whole(path, buffer.getvalue())


def _pictures(*sets: Array) -> Bytes:
    """Sets of images ``(N, *X)`` of one shape, one set after the other, as bytes ``(N, H, W)`` or ``(N, H, W, 3)``."""
    if len({np.shape(images) for images in sets}) > 1:
        raise ValueError(f"both sets of images must have the same shape; got {' and '.join(str(np.shape(s)) for s in sets)}")
    images = np.concatenate(sets) if len(sets) > 1 else np.asarray(sets[0])
    if images.ndim == 4 and images.shape[1] in (1, 3):
        images = images[:, 0] if images.shape[1] == 1 else images.transpose(0, 2, 3, 1)
    elif images.ndim == 2:
        side = math.isqrt(images.shape[1])
        images = images.reshape(-1, side, side) if side**2 == images.shape[1] else images[:, None]
    elif images.ndim != 3:
        raise ValueError(f"images must have shape (N, 1, H, W), (N, 3, H, W), (N, H, W) or (N, D); got {images.shape}")
    if not images.size or not np.issubdtype(images.dtype, np.floating) or not np.isfinite(images).all():
        raise ValueError(f"images must be finite floats in [0, 1], one at least; got {images.dtype} of shape {images.shape}")
    return (images.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def _row(name: str, values: Array, count: int | None = None, holes: bool = False) -> Array:
    """Values as floats ``(count,)``; with ``holes``, some need not be finite (a diverged epoch) and leave a gap in the curve."""
    row = np.asarray(values, dtype=float)
    finite = np.isfinite(row)
    if row.ndim != 1 or count not in (None, len(row)) or not finite.any() or not (holes or finite.all()):
        raise ValueError(
            f"{name} must be {count or 'some'} finite numbers in a row; got {row.shape}, {np.sum(~finite)} of them not"
        )
    return np.where(finite, row, np.nan)


def _gap(pictures: Array) -> int:
    return max(1, round(min(pictures.shape[1:3]) / 28))


def _paper(pictures: Bytes, height: int) -> Bytes:
    return np.full((len(pictures), height, *pictures.shape[2:]), 255, np.uint8)


def _columns(count: int, asked: int | None) -> int:
    """The number of columns asked for, else one near a square that leaves no row ragged where there is one."""
    if asked is not None and asked < 1:
        raise ValueError(f"columns must be at least 1; got {asked}")
    square = math.ceil(math.sqrt(count))
    full = next(columns for columns in range(square, count + 1) if count % columns == 0)
    return min(count, asked or (full if full <= 2 * square else square))


def _arrange(pictures: Bytes, columns: int, gap: int) -> Bytes:
    """Bytes ``(N, H, W[, 3])`` side by side on white, ``gap`` pixels between them and none around."""
    count, height, width, *channels = pictures.shape
    rows = -(-count // columns)
    cells = np.full((rows * columns, height + gap, width + gap, *channels), 255, np.uint8)
    cells[:count, :height, :width] = pictures
    tiled = cells.reshape(rows, columns, *cells.shape[1:]).swapaxes(1, 2).reshape(rows * (height + gap), -1, *channels)
    return tiled[: rows * (height + gap) - gap, : columns * (width + gap) - gap]


def _grid(
    pictures: Bytes, columns: int | None, captions: Names, heading: str, above: bool = False, sides: Names = (), parts: int = 1
) -> Figure:
    """One figure, one axes, one image: the tiled pictures, a line of text ``above`` or under each where there are ``captions``.

    ``sides`` are the names left of the rows, in turn; a picture of several ``parts`` above each other takes one for each part.
    """
    columns, longest = _columns(len(pictures), columns), max(map(len, captions), default=0)
    if len(captions) not in (0, len(pictures)):
        raise ValueError(f"there must be one title per image, {len(pictures)}; got {len(captions)}")
    if pictures.shape[1] == 1:  # a strip of one row would be a hairline
        pictures = pictures.repeat(max(1, pictures.shape[2] // 8), 1)
    gap = _gap(pictures) * (1 if parts == 1 else 4)  # a pair must read as one
    height, width = pictures.shape[1:3]
    scale = max(1, round(max(min(8 / columns, max(1.0, math.sqrt(width / height))), min(0.08 * longest, 1.6)) * DPI / width))
    line = math.ceil(_LINE * DPI / scale) if captions else 0
    paper = _paper(pictures, line)
    tiled = _arrange(np.concatenate((paper, pictures) if above else (pictures, paper), 1), columns, gap)
    inches = np.array(tiled.shape[:2]) * scale / DPI
    left = _MARGIN + (0.08 * max(map(len, sides)) + 0.1 if sides else 0.0)
    whole = max(left + inches[1] + _MARGIN, 0.105 * len(heading) + left + _MARGIN), inches[0] + 2 * _MARGIN + 0.3 * bool(heading)
    figure = Figure(figsize=whole, facecolor="white")
    axes = figure.add_axes((left / whole[0], _MARGIN / whole[1], inches[1] / whole[0], inches[0] / whole[1]))
    axes.set_axis_off()
    axes.imshow(tiled, cmap="gray", vmin=0, vmax=255, interpolation="none", aspect="auto")
    step, rows = height + line + gap, -(-len(pictures) // columns)
    for index in range(rows * parts if sides else 0):
        middle = index // parts * step + (index % parts + 0.5) * height / parts - 0.5
        charts.say(axes, sides[index % len(sides)], (0, middle), "data", (-7, 0), ha="right", va="center", color=charts.QUIET)
    fits = min(8.5, 72 * width * scale / DPI / (0.64 * max(longest, 1)))  # points, so that neighbors never touch
    for index, caption in enumerate(captions):
        at = index % columns * (width + gap) + width / 2 - 0.5, index // columns * step + line / 2 + (0 if above else height)
        charts.say(axes, caption, at, "data", ha="center", va="center", size=fits)
    charts.say(axes, heading, (0.0, 1.0), offset=(0, 8), va="bottom", size=12, weight="bold")
    return figure


def _draw(axes: Axes, epochs: Array, curves: Curves) -> None:
    for values, color, width in reversed(curves.values()):
        axes.plot(epochs, values, color=color, linewidth=width, marker="o" if len(epochs) == 1 else None, markersize=4)
    axes.margins(x=0.02)
    axes.set_xlim(axes.get_xlim())  # what is drawn later leaves them alone
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))


def _zoom(axes: Axes, curves: list[Array]) -> bool:
    """Set y-limits that the later epochs fill; whether earlier ones are left out."""
    values = np.concatenate(curves)
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    top = low + 1.5 * (float(np.nanquantile(values, 0.8)) - low)
    late = np.fmax.reduce([low, *(np.fmax.reduce(curve[len(curve) // 2 :]) for curve in curves)])
    top = max(top, low + (late - low) / 0.55)  # nothing runs under the inset, which takes the upper right
    top = top if high > low + 1.5 * (top - low) else high
    space = 0.06 * (top - low) or 0.5
    axes.set_ylim(low - space, top + space)
    return top < high


def _write_whole(path: Path, content: bytes) -> Path:
    """Write a file so that a reader, or a crash, finds the old one or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
