"""What a page shows of a run: charts in two widths with their words and numbers, and pictures with their captions."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from vaelid.evaluation.latents import ACTIVE
from vaelid.evaluation.precision import decoder_words
from vaelid.folder import write_atomic
from vaelid.reporting import plots
from vaelid.reporting.charts import Place
from vaelid.reporting.figures import principal_plane
from vaelid.reporting.page.facts import RunFacts
from vaelid.reporting.page.vector import address, png, svg

#: Inches of a chart on a wide page and on a phone; of a square one likewise.
WIDE, NARROW = (7.2, 3.9), (5.0, 4.2)
SQUARE, SMALL_SQUARE = (5.9, 5.6), (4.6, 4.5)
#: A table of more rows is given for download only.
_MOST_ROWS = 100
_DRAWN_POINTS = 2000
Row = Sequence[Any]


@dataclass(frozen=True)
class Panel:
    """A chart: the drawing in two widths, its content in words, and its numbers."""

    name: str
    wide: str
    narrow: str
    alt: str
    caption: str
    columns: tuple[str, ...]
    rows: list[Row]

    @property
    def csv(self) -> str:
        """The numbers as a table of comma-separated values."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows([[_exact(cell) for cell in row] for row in self.rows])
        return text.getvalue()

    @property
    def download(self) -> str:
        """The same as a data address."""
        return address(self.csv.encode(), "text/csv")

    @property
    def table(self) -> list[list[str]]:
        """The numbers as words, where they are few enough to be read."""
        return [[_shown(cell) for cell in row] for row in self.rows] if len(self.rows) <= _MOST_ROWS else []


@dataclass(frozen=True)
class Picture:
    """Images as one data address, with what they are in words."""

    source: str
    alt: str
    caption: str = ""


def panel(
    name: str,
    draw: Callable[[Place], Figure],
    sizes: tuple[Place, Place],
    words: tuple[str, str],
    columns: tuple[str, ...],
    rows: list[Row],
) -> Panel:
    """A chart drawn in both sizes.

    Args:
        words: its content for those who cannot see it, and its caption
    """
    return Panel(name, svg(draw(sizes[0]), f"{name}-w"), svg(draw(sizes[1]), f"{name}-n"), *words, columns, rows)


def write_numbers(panels: Iterable[tuple[Path, Panel]]) -> None:
    """The numbers behind each chart as a CSV file in its folder of figures.

    Raises:
        MachineError: if the disk refuses.
    """
    for folder, each in panels:
        write_atomic(folder / f"{each.name}.csv", each.csv.encode())


def training_panel(run: RunFacts) -> Panel | None:
    """−ELBO per epoch; None if no epoch has a finite one."""
    epochs, values, training = (
        np.array([line[key] for line in run.history], dtype=float) for key in ("epoch", "neg_elbo", "loss")
    )
    facts = run.curve
    if facts.best is None:
        return None
    best = int(epochs[facts.best_epoch - 1])
    alt = (
        f"Line chart of validation −ELBO over {len(epochs)} epochs: from {values[0]:.1f} nats in the first epoch to a best of "
        f"{facts.best:.2f} in epoch {best}, and {values[-1]:.2f} in the last."
    )
    steady = "the same images and the same noise, so that it shows the model and not the dice"
    drawn = "the same images, but with pixels that the protocol redraws every epoch, so that it shows the dice as well"
    caption = (
        f"Validation −ELBO by epoch, always from {drawn if run.redraws else steady}. "
        "The axis is zoomed to the later epochs; where that leaves some out, the inset has all. Gray: the training loss with its "
        "β and its moving weights, which is another quantity."
    )
    rows: list[Row] = [
        (int(e), v, t, line.get("change_se")) for e, v, t, line in zip(epochs, values, training, run.history, strict=True)
    ]
    return panel(
        "validation_curve",
        lambda size: plots.validation_curve(epochs, values, best, training=training, size=size),
        (WIDE, NARROW),
        (alt, caption),
        ("epoch", "validation_neg_elbo", "training_loss", "change_se"),
        rows,
    )


def latent_panel(run: RunFacts) -> Panel | None:
    """Posterior means in the plane of largest variance; None where they are not known."""
    means, labels = run.values.get("mean"), run.values.get("labels")
    if means is None or len(means) < 3 or not np.isfinite(means).all():
        return None
    points, explained = principal_plane(means)
    few = slice(0, _DRAWN_POINTS)
    shares = f" They hold {explained.sum():.0%} of the variance; the rest is not seen here." if explained is not None else ""
    classes = f", colored by {len(np.unique(labels))} classes, whose names stand at their medians" if labels is not None else ""
    alt = f"Scatter plot of {len(points[few]):,} test images in two latent directions{classes}.{shares}"
    caption = (
        f"Each dot is a test image at its posterior mean E[z|x], in the two directions of largest variance{classes}.{shares}"
    )
    rows: list[Row] = [(x, y) if labels is None else (x, y, int(labels[i])) for i, (x, y) in enumerate(points.tolist())]
    shown = None if labels is None else labels[few]
    return panel(
        "latent_map",
        lambda size: plots.latent_map(points[few], shown, (), explained, size=size),
        (SQUARE, SMALL_SQUARE),
        (alt, caption),
        ("first", "second") if labels is None else ("first", "second", "label"),
        rows,
    )


def kl_panel(run: RunFacts) -> Panel | None:
    """KL of each latent dimension; None where it is not known."""
    if not run.found or run.found["kl_per_dimension"] is None:
        return None
    kl = np.array(run.found["kl_per_dimension"])
    active = int((kl > ACTIVE).sum())
    alt = f"Bar chart: {active} of {len(kl)} latent dimensions have a KL above {ACTIVE} nats; the largest has {kl.max():.2f}."
    caption = (
        f"KL(q(z_d|x) ‖ p(z_d)) of each latent dimension, the mean over test images, largest first: {active} of {len(kl)} are "
        f"active. They sum to {kl.sum():.1f} nats; the rate is {run.found['neg_elbo']['rate']:.1f}. They are one only if "
        "the prior factorizes over dimensions."
    )
    rows: list[Row] = [(d, value) for d, value in enumerate(kl.tolist())]
    draw: Callable[[Place], Figure] = lambda size: plots.kl_per_dimension(kl, size=size)  # noqa: E731 - named for its type
    return panel("kl_per_dimension", draw, (WIDE, NARROW), (alt, caption), ("dimension", "kl_nats"), rows)


def histogram_panel(run: RunFacts) -> Panel | None:
    """How the values of the images are spread; None for fewer than two."""
    nll = run.values.get("nll", np.empty(0))
    if len(nll) < 2 or not np.isfinite(nll).all():
        return None
    bound = run.found["nll"]
    label = "−log p(x) bound" if run.discrete else "−log density bound"
    low, middle, high = np.quantile(nll, (0.05, 0.5, 0.95))
    alt = (
        f"Histogram of {len(nll):,} values: median {middle:.1f} nats, nine in ten between {low:.1f} and {high:.1f}, "
        f"the extremes {nll.min():.1f} and {nll.max():.1f}."
    )
    caption = (
        f"{label} of every test image, importance-weighted with K = {bound['samples']:,}{decoder_words(bound)}, which errs "
        "upward; the line is the mean, the band its standard error."
    )
    return panel(
        "nll_histogram",
        lambda size: plots.nll_histogram(nll, bound["value"], bound["se"], label, size=size),
        (WIDE, NARROW),
        (alt, caption),
        ("image", "nll_nats"),
        [(i, value) for i, value in enumerate(nll.tolist())],
    )


def grids(run: RunFacts) -> Iterator[tuple[str, Picture]]:
    """The grids of images by name: real, generated, draws, as far as the folder has them."""
    shown = {"real": run.real(16), "generated": run.generated(), "draws": run.shown.get("draws")}
    what = {
        "real": "real training images",
        "generated": "images generated by the model, as pixel means",
        "draws": "images generated by the model, pixels drawn from p(x|z)",
    }
    for name, images in shown.items():
        if images is not None:
            yield name, Picture(png(images), f"Grid of {len(images)} {what[name]}.", f"{len(images)} {what[name]}")


def pairs(run: RunFacts) -> list[tuple[Picture, Picture]]:
    """Test images beside what the model makes of them."""
    if "reconstructions" not in run.shown:
        return []
    both = zip(run.shown["originals"], run.shown["reconstructions"], strict=True)
    return [
        (Picture(png(x[None]), f"Test image {i}"), Picture(png(y[None]), f"Reconstruction of test image {i}"))
        for i, (x, y) in enumerate(both, 1)
    ]


def extremes(run: RunFacts, which: str) -> list[Picture]:
    """The ``likeliest`` or ``unlikeliest`` test images with their nats."""
    values = run.shown.get(f"{which}_nll", np.empty(0))
    return [
        Picture(png(x[None]), f"{which.capitalize()} test image, rank {i}: {value:.1f} nats", f"{value:.1f}")
        for i, (x, value) in enumerate(zip(run.shown.get(which, ()), values, strict=False), 1)
    ]


def components(run: RunFacts) -> list[Picture]:
    """What each component of a mixture prior decodes to, with its weight, heaviest first."""
    weights = run.shown.get("component_weights", ())
    return [
        Picture(png(x[None]), f"Prior component {i}, weight {weight:.1%}", f"{weight:.1%}")
        for i, (x, weight) in enumerate(zip(run.shown.get("components", ()), weights, strict=False), 1)
    ]


def _exact(cell: Any) -> Any:
    return "" if cell is None else repr(float(cell)) if isinstance(cell, float) else cell


def _shown(cell: Any) -> str:
    return "" if cell is None else f"{cell:.4g}" if isinstance(cell, float) else str(cell)
