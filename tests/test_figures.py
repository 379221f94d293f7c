"""The figures of a run: which there are, where they lie, and that nothing of an earlier evaluation is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

import vaelid
from tiny_runs import SAMPLES, evaluated, pixels, trained
from vaelid.cli import main
from vaelid.errors import MachineError
from vaelid.evaluation.evaluate import Arrays
from vaelid.folder import RunFolder
from vaelid.reporting import plots
from vaelid.reporting.figures import EVALUATION_FIGURES, evaluation_figures, figures_folder, principal_plane, training_figures
from vaelid.reporting.pictures import decoded_means, extremes, pictures
from vaelid.run import Run

BOTH = ("pdf", "png")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()}


def both(*stems: str) -> set[str]:
    return {f"{stem}.{ending}" for stem in stems for ending in BOTH}


def test_training_draws_real_images_the_curve_and_progress(tmp_path: Path) -> None:
    run = trained(tmp_path)
    improved = run.folder.read_arrays(run.folder.samples / "progress.npz")["epochs"]
    assert len(improved) == 2
    expected = both("real_images", "validation_curve", *(f"generated_epoch_{epoch:04d}" for epoch in improved)) | {"progress.gif"}
    assert names(run.folder.figures) == expected
    with Image.open(run.folder.figures / "progress.gif") as gif:
        assert gif.n_frames == 2


def test_a_resumed_training_draws_only_what_is_new(tmp_path: Path) -> None:
    run = trained(tmp_path)
    picture = run.folder.figures / "generated_epoch_0001.png"
    picture.write_bytes(b"drawn before")
    training_figures(run.folder)
    assert picture.read_bytes() == b"drawn before"
    assert (run.folder.figures / "generated_epoch_0002.png").read_bytes().startswith(b"\x89PNG")


def test_evaluation_draws_every_figure_of_the_test_split(tmp_path: Path) -> None:
    run = evaluated(tmp_path)
    assert both(*EVALUATION_FIGURES) <= names(run.folder.figures)
    for path in run.folder.figures.glob("*.png"):
        with Image.open(path) as picture:
            picture.load()
    assert all(path.read_bytes().startswith(b"%PDF") for path in run.folder.figures.glob("*.pdf"))


def test_another_split_has_a_folder_of_its_own(tmp_path: Path) -> None:
    run = evaluated(tmp_path)
    before = {path: path.read_bytes() for path in run.folder.figures.iterdir()}
    run.evaluate("validation", samples=5)
    np.save(tmp_path / "new.npy", (run.split("train").batch(torch.arange(1)) * 16).to(torch.uint8).numpy())
    run.evaluate_files([tmp_path / "new.npy"], samples=5)
    assert set(run.results) == {"test", "validation", "input"}
    assert names(run.folder.figures / "validation") == both(*EVALUATION_FIGURES)
    # One image has no distribution, no plane and nothing to be the likeliest of.
    few = set(EVALUATION_FIGURES) - {"nll_histogram", "latent_map", "likeliest_and_unlikeliest"}
    assert names(run.folder.figures / "input") == both(*few)
    assert {path: path.read_bytes() for path in before} == before
    assert figures_folder(run.folder, "test") == run.folder.figures


def test_nothing_of_an_earlier_evaluation_is_left(tmp_path: Path) -> None:
    run = evaluated(tmp_path)
    run.evaluate(samples=5, limit=1)
    assert "nll_histogram.png" not in names(run.folder.figures)
    assert {"generated_images.png", "validation_curve.png"} <= names(run.folder.figures)


def drawn(run: Run, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the plots are given when the figures of the test split are drawn again."""
    given: dict[str, Any] = {}
    drawing = ("image_grid", "paired_grid", "nll_histogram", "likeliest_and_unlikeliest", "latent_map", "components_grid")
    for name in (*drawing, "kl_per_dimension"):

        def noted(*arguments: Any, _name: str = name, heading: str = "") -> None:
            given.setdefault(_name, []).append(arguments)
            given.setdefault("headings", {})[_name] = heading

        monkeypatch.setattr(plots, name, noted)
    monkeypatch.setattr(plots, "save_figure", lambda *_: [])
    evaluation_figures(run.folder, "test", ("zero", "one"))
    return given


def test_figures_show_what_the_results_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = evaluated(tmp_path)
    results, values = run.results["test"], run.folder.read_arrays(run.folder.results / "test.npz")
    given = drawn(run, monkeypatch)
    means, draws = (arguments[0] for arguments in given["image_grid"])
    assert means.shape == draws.shape == (16, 1, 8, 8)
    assert set(np.unique(draws * 16 % 1)) == {0.0}, "draws are gray levels, means need not be"
    ((originals, reconstructions),) = given["paired_grid"]
    x = run.split("test").batch(torch.arange(10))
    np.testing.assert_array_equal(originals, x.numpy())
    np.testing.assert_allclose(reconstructions, run.reconstruct(x).numpy(), atol=1e-6)
    ((nll, mean, error, label),) = given["nll_histogram"]
    np.testing.assert_array_equal(nll, values["nll"])
    assert (mean, error, label) == (results["nll"]["value"], results["nll"]["se"], "−log p(x) bound")
    ((_, low, _, high),) = given["likeliest_and_unlikeliest"]
    ranked = np.sort(values["nll"])
    np.testing.assert_array_equal(low, ranked[:10])
    np.testing.assert_array_equal(high, ranked[::-1][:10])
    ((points, labels, label_names, explained),) = given["latent_map"]
    assert points.shape == (30, 2)
    assert 0 < explained.sum() <= 1
    np.testing.assert_array_equal(labels, values["labels"])
    assert label_names == ("zero", "one")
    ((kl,),) = given["kl_per_dimension"]
    np.testing.assert_array_equal(kl, results["kl_per_dimension"])
    ((components, weights),) = given["components_grid"]
    assert components.shape == (4, 1, 8, 8)
    assert weights.sum() == pytest.approx(1)
    assert list(weights) == sorted(weights, reverse=True)


def test_a_figure_alone_names_its_images_its_bound_and_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = evaluated(tmp_path)
    headings = drawn(run, monkeypatch)["headings"]
    bound = f"30 test images: −log p(x), bound with K = {SAMPLES}, errs upward"
    assert headings["nll_histogram"] == headings["likeliest_and_unlikeliest"] == bound
    rate = run.results["test"]["neg_elbo"]["rate"]
    unequal = "which is not their sum: the prior does not factorize"
    assert headings["kl_per_dimension"] == f"mean over 30 test images; rate {rate:.1f} nats, {unequal}"
    assert headings["components_grid"] == "pixel means at the prior's component means, with their weights in the prior"
    results = run.results
    results["test"] |= {"prior_factorizes": True, "kind": "density"}
    run.folder.write_json(run.folder.results_file, results)
    headings = drawn(run, monkeypatch)["headings"]
    assert headings["kl_per_dimension"] == f"mean over 30 test images; rate {rate:.1f} nats"
    assert "−log density, bound with" in headings["nll_histogram"]


def test_a_density_is_called_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = evaluated(tmp_path)
    results = run.results
    results["test"]["kind"] = "density"
    run.folder.write_json(run.folder.results_file, results)
    assert drawn(run, monkeypatch)["nll_histogram"][0][3] == "−log density bound"


def test_the_components_are_decoded_means_by_weight(tmp_path: Path) -> None:
    run = trained(tmp_path)
    prior = run.model.prior()
    shown = pictures(run.model, run.split("test"), np.zeros(30), run.sample(2), run.shades)
    heaviest = int(prior.log_weights.argmax())  # type: ignore[attr-defined]
    expected = decoded_means(run.model, prior.component_mean[heaviest : heaviest + 1])  # type: ignore[attr-defined]
    np.testing.assert_allclose(shown["components"][0], expected[0].numpy(), atol=1e-6)


def test_pictures_draw_no_random_numbers_of_the_callers(tmp_path: Path) -> None:
    run = trained(tmp_path)
    model, split, samples = run.model, run.split("test"), run.sample(2)
    before = torch.get_rng_state()
    pictures(model, split, np.zeros(30), samples, run.shades)
    assert torch.equal(torch.get_rng_state(), before)


def test_real_values_are_stretched_alike_in_every_picture_and_only_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = (pixels(60).astype(np.float32) - 100) / 20
    np.save(tmp_path / "real.npy", values)
    small = {"encoder.hidden": (8,), "decoder.hidden": (8,), "model.latent": 2, "training.epochs": 1, "prior.components": 2}
    run = vaelid.train(tmp_path / "real.npy", out=tmp_path / "run", device="cpu", settings=small)
    run.evaluate(samples=5)
    train = run.split("train").batch(torch.arange(48)).numpy()
    low, high = float(train.min()), float(train.max())
    shown, real, progress = (run.folder.read_arrays(run.folder.samples / f"{name}.npz") for name in ("test", "real", "progress"))

    def assert_stretched(pictures: np.ndarray, x: np.ndarray) -> None:
        np.testing.assert_allclose(pictures, (x - low) / (high - low), atol=1e-5)

    assert_stretched(shown["originals"], run.split("test").batch(torch.arange(6)).numpy())
    assert_stretched(real["images"], train[:16])
    drawn = run.sample(16).means.numpy()
    assert_stretched(shown["means"], drawn)
    assert drawn.mean() < 0  # what is clipped to [0, 1] without a stretch is black
    first = run.sample(16, seed=run.recipe.training.seed).means.numpy()  # of the only epoch, with the noise of progress
    assert abs(progress["means"][0] / 255 - ((first - low) / (high - low)).clip(0, 1)).max() < 0.5 / 255 + 1e-5
    assert shown["likeliest_nll"].max() > 1

    exported: list[np.ndarray] = []
    monkeypatch.setattr(plots, "image_grid", lambda images: (exported.append(images), Figure())[1])
    with pytest.raises(SystemExit) as done:
        main(["sample", str(run.folder.path), "--out", str(tmp_path / "a.png")])
    assert not done.value.code
    assert_stretched(exported[0], drawn)


@pytest.mark.parametrize(("count", "shown"), [(0, 0), (1, 0), (5, 2), (100, 10)])
def test_extremes(count: int, shown: int) -> None:
    nll = np.random.default_rng(0).permutation(count).astype(float)
    low, high = extremes(nll)
    assert list(nll[low]) == list(range(shown))
    assert list(nll[high]) == list(range(count - 1, count - 1 - shown, -1))
    assert not set(low) & set(high)


def test_principal_plane() -> None:
    random = np.random.default_rng(0)
    flat = random.normal(size=(200, 2)) * (3, 1)
    turn = np.linalg.qr(random.normal(size=(4, 4)))[0]
    points, explained = principal_plane(np.column_stack([flat, np.zeros((200, 2))]) @ turn + 7)
    assert explained == pytest.approx(flat.var(0) / flat.var(0).sum(), rel=0.05)
    assert explained is not None
    assert explained.sum() == pytest.approx(1)
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), np.linalg.norm(flat - flat.mean(0), axis=1), atol=1e-9)


def test_few_latents_are_shown_as_they_are() -> None:
    two = np.random.default_rng(0).normal(size=(5, 2))
    assert principal_plane(two) == (pytest.approx(two), None)
    points, explained = principal_plane(two[:, :1])
    assert explained is None
    np.testing.assert_array_equal(points, np.column_stack([two[:, 0], np.zeros(5)]))


@pytest.mark.parametrize(
    ("values", "best"), [([9.0, 7.0, 8.0], 2), ([9.0, float("nan"), 8.0], 3), ([9.0, float("inf"), float("nan")], 1)]
)
def test_the_curve_marks_the_best_finite_epoch(
    values: list[float], best: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marked = []
    monkeypatch.setattr(plots, "validation_curve", lambda epochs, curve, best, training: marked.append(best))
    monkeypatch.setattr(plots, "save_figure", lambda *_: [])
    folder = RunFolder(tmp_path)
    for epoch, value in enumerate(values, 1):
        folder.append_metrics({"epoch": epoch, "neg_elbo": value, "loss": 5.0})
    training_figures(folder)
    assert marked == [best]


def test_a_training_without_a_finite_epoch_has_no_curve(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert training_figures(folder) == []
    folder.append_metrics({"epoch": 1, "neg_elbo": float("nan"), "loss": 5.0})
    assert training_figures(folder) == []


def test_a_disk_that_refuses_is_the_machines_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = evaluated(tmp_path)

    def full(*_: Any) -> Arrays:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(plots, "save_figure", full)
    for draw in (lambda: training_figures(run.folder), lambda: evaluation_figures(run.folder, "test")):
        with pytest.raises(MachineError, match="No space left on device"):
            draw()
