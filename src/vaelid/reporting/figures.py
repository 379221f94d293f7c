"""The figures of a run, drawn from what stands in its folder: the model is not needed here."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vaelid.folder import RunFolder
from vaelid.reporting import plots

_SHOWN = 10  # images in a row of pairs or extremes


def training_figures(folder: RunFolder) -> list[Path]:
    """real_images, validation_curve, generated_epoch_<n> for the epochs that improved, progress.gif."""
    written: list[Path] = []
    real = folder.read_arrays(folder.samples / "real.npz")
    if real:
        written += plots.save_figure(plots.image_grid(real["images"]), folder.figures, "real_images")
    history = folder.metrics()
    if history:
        epochs, values = (np.array([line[key] for line in history]) for key in ("epoch", "neg_elbo"))
        training = np.array([line["loss"] for line in history])
        best = int(epochs[int(np.argmin(values))])
        written += plots.save_figure(plots.validation_curve(epochs, values, best, training=training), folder.figures, "validation_curve")
    progress = folder.read_arrays(folder.samples / "progress.npz")
    if progress:
        written += _progress(folder, progress["epochs"], progress["means"])
    return written


def evaluation_figures(folder: RunFolder, split: str, label_names: tuple[str, ...] = ()) -> list[Path]:
    """generated_images, generated_draws, reconstructions, latent_map, kl_per_dimension, prior_components, nll_histogram."""
    results = folder.read_json(folder.results_file)[split]
    values = folder.read_arrays(folder.results / f"{split}.npz")
    shown = folder.read_arrays(folder.samples / f"{split}.npz")
    figures = {
        "generated_images": plots.image_grid(shown["means"]),
        "generated_draws": plots.image_grid(shown["draws"]),
        "reconstructions": plots.paired_grid(shown["originals"], shown["reconstructions"]),
    }
    if "nll" in values and len(values["nll"]) > 1:
        unit = "−log p(x) bound" if results["kind"] == "probability" else "−log density bound"
        figures["nll_histogram"] = plots.nll_histogram(values["nll"], results["nll"]["value"], results["nll"]["se"], unit)
    if "likeliest" in shown:
        figures["likeliest_and_unlikeliest"] = plots.likeliest_and_unlikeliest(
            shown["likeliest"], shown["likeliest_nll"], shown["unlikeliest"], shown["unlikeliest_nll"]
        )
    if "mean" in values and len(values["mean"]) > 2:
        points, explained = principal_plane(values["mean"])
        figures["latent_map"] = plots.latent_map(points, values.get("labels"), label_names, explained)
    if results["kl_per_dimension"] is not None:
        figures["kl_per_dimension"] = plots.kl_per_dimension(np.array(results["kl_per_dimension"]))
    if "components" in shown:
        figures["prior_components"] = plots.components_grid(shown["components"], shown["component_weights"])
    return [path for name, figure in figures.items() for path in plots.save_figure(figure, folder.figures, name)]


def principal_plane(points: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """The two directions of largest variance of ``(N, L)``, and their shares of it; L ≤ 2 stays as it is, ``(N, 2)``."""
    if points.shape[1] == 1:
        return np.column_stack([points[:, 0], np.zeros(len(points))]), None
    if points.shape[1] == 2:
        return points, None
    centered = points - points.mean(0)
    _, strengths, directions = np.linalg.svd(centered, full_matrices=False)
    return centered @ directions[:2].T, strengths[:2] ** 2 / (strengths**2).sum()


def extremes(nll: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the likeliest and of the unlikeliest images, equally many of both."""
    order = np.argsort(nll, kind="stable")
    count = min(_SHOWN, len(order) // 2)
    return order[:count], order[::-1][:count]


def _progress(folder: RunFolder, epochs: np.ndarray, means: np.ndarray) -> list[Path]:
    written: list[Path] = []
    for epoch, images in zip(epochs, means, strict=True):
        name = f"generated_epoch_{epoch:04d}"
        if not (folder.figures / f"{name}.pdf").is_file():  # a resumed run draws only what is new
            written += plots.save_figure(plots.image_grid(images / 255.0, heading=f"epoch {epoch}"), folder.figures, name)
    frames = np.stack([plots.tile(images / 255.0, columns=4, scale=max(1, 96 // images.shape[-1])) for images in means])
    return [*written, plots.save_gif(frames, folder.figures / "progress.gif", milliseconds=150)]
