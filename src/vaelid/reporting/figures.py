"""The figures of a run, drawn from what stands in its folder: the model is not needed here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from vaelid.errors import MachineError
from vaelid.evaluation.precision import decoder_words
from vaelid.folder import EPOCH_FIGURE, RunFolder
from vaelid.reporting import plots
from vaelid.reporting.tables import counted

EVALUATION_FIGURES = (
    *("generated_images", "generated_draws", "reconstructions", "latent_map"),
    *("kl_per_dimension", "prior_components", "nll_histogram", "likeliest_and_unlikeliest"),
)


def figures_folder(folder: RunFolder, split: str) -> Path:
    """Where the figures of a split lie: those of the test split beside those of the training, others in a folder of their own."""
    return folder.figures if split == "test" else folder.figures / split


def training_figures(folder: RunFolder) -> list[Path]:
    """real_images, validation_curve, generated_epoch_<n> for the epochs that improved, progress.gif.

    Raises:
        MachineError: if the disk refuses.
    """
    written: list[Path] = []
    with _disk(folder):
        real = folder.read_arrays(folder.samples / "real.npz")
        if real:
            written += plots.save_figure(plots.image_grid(real["images"]), folder.figures, "real_images")
        curve = _validation_curve(folder.metrics())
        if curve is not None:
            written += plots.save_figure(curve, folder.figures, "validation_curve")
        progress = folder.read_arrays(folder.samples / "progress.npz")
        if progress:
            written += _progress(folder, progress["epochs"], progress["means"])
    return written


def evaluation_figures(folder: RunFolder, split: str, label_names: tuple[str, ...] = ()) -> list[Path]:
    """Those of ``EVALUATION_FIGURES`` for which the folder has the numbers.

    Raises:
        MachineError: if the disk refuses.
    """
    results = folder.read_json(folder.results_file)[split]
    values = folder.read_arrays(folder.results / f"{split}.npz")
    shown = folder.read_arrays(folder.samples / f"{split}.npz")
    about = about_bound(results)
    figures = {
        "generated_images": plots.image_grid(shown["means"]),
        "generated_draws": plots.image_grid(shown["draws"]),
    }
    if "reconstructions" in shown:
        figures["reconstructions"] = plots.paired_grid(shown["originals"], shown["reconstructions"])
    if len(values["nll"]) > 1:
        unit = "−log p(x) bound" if results["kind"] == "probability" else "−log density bound"
        nll = results["nll"]
        figures["nll_histogram"] = plots.nll_histogram(values["nll"], nll["value"], nll["se"], unit, heading=about)
    if "likeliest" in shown:
        figures["likeliest_and_unlikeliest"] = plots.likeliest_and_unlikeliest(
            shown["likeliest"], shown["likeliest_nll"], shown["unlikeliest"], shown["unlikeliest_nll"], heading=about
        )
    if "mean" in values and len(values["mean"]) > 2:
        points, explained = principal_plane(values["mean"])
        figures["latent_map"] = plots.latent_map(points, values.get("labels"), label_names, explained)
    if results["kl_per_dimension"] is not None:
        count, rate = counted(results["images"], results["data"]["split"]), results["neg_elbo"]["rate"]
        figures["kl_per_dimension"] = plots.kl_per_dimension(
            np.array(results["kl_per_dimension"]), heading=f"mean over {count}; rate {rate:.1f} nats{_unequal(results)}"
        )
    if "components" in shown:
        heading = "pixel means at the prior's component means, with their weights in the prior"
        figures["prior_components"] = plots.components_grid(shown["components"], shown["component_weights"], heading=heading)
    place = figures_folder(folder, split)
    with _disk(folder):
        for name in EVALUATION_FIGURES:
            if name not in figures:  # of an earlier evaluation, and not of this one
                for ending in ("png", "pdf"):
                    (place / f"{name}.{ending}").unlink(missing_ok=True)
        return [path for name, figure in figures.items() for path in plots.save_figure(figure, place, name)]


def about_bound(results: Mapping[str, Any]) -> str:
    """Of which images the values are, and what kind of bound, for the heading of a figure.

    >>> data = {"split": "test"}
    >>> about_bound({"kind": "probability", "images": 359, "data": data, "nll": {"samples": 1000}})
    '359 test images: −log p(x), bound with K = 1,000, errs upward'
    >>> short = {"samples": 1000, "decoder_precision": "bfloat16"}
    >>> about_bound({"kind": "probability", "images": 359, "data": data, "nll": short})
    '359 test images: −log p(x), bound with K = 1,000, bfloat16 decoder, errs upward'
    """
    quantity = "−log p(x)" if results["kind"] == "probability" else "−log density"
    count = counted(results["images"], results["data"]["split"])
    return f"{count}: {quantity}, bound with K = {results['nll']['samples']:,}{decoder_words(results['nll'])}, errs upward"


def _unequal(results: Mapping[str, Any]) -> str:
    """That the bars do not sum to the rate, where that is so."""
    return ", which is not their sum: the prior does not factorize" if results.get("prior_factorizes") is False else ""


def principal_plane(points: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """The two directions of largest variance of ``(N, L)``, and their shares of it; L ≤ 2 stays as it is, ``(N, 2)``."""
    if points.shape[1] == 1:
        return np.column_stack([points[:, 0], np.zeros(len(points))]), None
    if points.shape[1] == 2:
        return points, None
    centered = points - points.mean(0)
    _, strengths, directions = np.linalg.svd(centered, full_matrices=False)
    return centered @ directions[:2].T, strengths[:2] ** 2 / (strengths**2).sum()


def _validation_curve(history: Sequence[Mapping[str, Any]]) -> Figure | None:
    """−ELBO over the epochs, if any of them is a number."""
    epochs, values, training = (np.array([line[key] for line in history]) for key in ("epoch", "neg_elbo", "loss"))
    if not np.isfinite(values).any():
        return None
    best = int(epochs[np.where(np.isfinite(values), values, np.inf).argmin()])
    return plots.validation_curve(epochs, values, best, training=training)


def _progress(folder: RunFolder, epochs: np.ndarray, means: np.ndarray) -> list[Path]:
    written: list[Path] = []
    for epoch, images in zip(epochs, means, strict=True):
        name = f"{EPOCH_FIGURE}{epoch:04d}"
        if not (folder.figures / f"{name}.pdf").is_file():  # a resumed run draws only what is new
            written += plots.save_figure(plots.image_grid(images / 255.0, heading=f"epoch {epoch}"), folder.figures, name)
    frames = np.stack([plots.tile(images / 255.0, columns=4, scale=max(1, 96 // images.shape[-1])) for images in means])
    return [*written, plots.save_gif(frames, folder.figures / "progress.gif", milliseconds=150)]


@contextmanager
def _disk(folder: RunFolder) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MachineError(
            f"Figures of {folder.path} cannot be written: {error.strerror or error}.",
            "The numbers are safe. Make room, or see that the folder can be written to, and run the same command again.",
        ) from error
