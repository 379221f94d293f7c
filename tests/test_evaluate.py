"""Evaluation of a split: the same numbers however it is cut up, interrupted, or short of memory."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from data_fixtures import settings
from exact_models import as_split, linear_gaussian
from test_evaluation import with_laplace
from tiny_runs import SAMPLES, evaluated, no_figures, trained
from vaelid.data import Images, Split
from vaelid.errors import MachineError
from vaelid.evaluation import collect, evaluate
from vaelid.evaluation.collect import Arrays
from vaelid.evaluation.evaluate import Plan, evaluate_images, provenance, rate_kind, summarize
from vaelid.evaluation.yardsticks import IndependentPixels
from vaelid.posteriors import Posterior
from vaelid.progress import Reporter, Silent
from vaelid.supports import BYTES
from vaelid.vae import VAE

pytestmark = pytest.mark.usefixtures(no_figures.__name__)

COUNT = 23
PLAN = Plan(samples=30, elbo_samples=4, seed=1, images=10)


class Stop(Silent):
    """Stops the work when so many images are done; remembers titles and steps."""

    def __init__(self, after: int = 10**9, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.after, self.error, self.done, self.log = after, error, 0, list[str]()

    def start(self, title: str, total: int, done: int = 0) -> None:
        self.done = done
        self.log.append(f"{title} {done}/{total}")

    def advance(self, units: int, text: str = "") -> None:
        self.done += units
        self.log.append(text)
        if self.done >= self.after:
            raise self.error("stopped")


def subject(name: str = "gaussian") -> tuple[VAE, Split]:
    exact = linear_gaussian(latent=3, shift=0.3)
    split = as_split(exact.images(COUNT))
    return (with_laplace(exact.model) if name == "laplace" else exact.model), split


def look(
    model: VAE,
    split: Split,
    plan: Plan = PLAN,
    start: Arrays | None = None,
    reporter: Reporter | None = None,
    save: Callable[[Arrays], None] | None = None,
) -> Arrays:
    return evaluate_images(model, split, IndependentPixels(split), plan, reporter or Silent(), start, save)


def assert_same(one: Arrays, other: Arrays) -> None:
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=0, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("name", ["gaussian", "laplace"])
@pytest.mark.parametrize("images", [1, 7, 1000])
def test_image_batches_do_not_matter(name: str, images: int) -> None:
    model, split = subject(name)
    assert_same(look(model, split, Plan(30, 4, 1, images)), look(model, split))


@pytest.mark.parametrize("name", ["gaussian", "laplace"])
@pytest.mark.parametrize("rows", [1, 3, 64])
def test_chunks_do_not_matter(name: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, split = subject(name)
    expected = look(model, split)
    monkeypatch.setattr(evaluate, "decoder_rows", lambda split: rows)
    assert_same(look(model, split), expected)


def test_values_in_float32_hold_to_its_tolerance(tmp_path: Path) -> None:
    run = trained(tmp_path)
    found = [look(run.model, run.split("test"), Plan(30, 4, 0, images)) for images in (1, 7, 1000)]
    for other in found[1:]:
        for name in other:
            np.testing.assert_allclose(other[name], found[0][name], rtol=1e-5, atol=1e-3, err_msg=name)


def test_arrays_have_a_row_for_each_image() -> None:
    model, split = subject()
    values = look(model, split)
    assert {name: array.shape for name, array in values.items()} == {
        "distortion": (COUNT,),
        "rate": (COUNT,),
        "neg_elbo": (COUNT,),
        "nll": (COUNT,),
        "curve": (COUNT, 3),  # K = 1, 10, 30
        "mean": (COUNT, 3),
        "kl": (COUNT, 3),
        "independent_pixels": (COUNT,),
        **dict.fromkeys(("elbo_variance", "ess", "pareto_k", "gain", "variance"), (COUNT,)),
    }
    assert all(array.dtype == np.float64 for array in values.values())
    np.testing.assert_array_equal(values["nll"], values["curve"][:, -1])
    np.testing.assert_allclose(values["neg_elbo"], values["distortion"] + values["rate"])
    assert values["curve"].mean(0).tolist() == sorted(values["curve"].mean(0), reverse=True), "more samples, a lower bound"


def test_a_posterior_that_is_no_gaussian_has_no_kl_per_dimension() -> None:
    values = look(*subject("laplace"))
    assert "kl" not in values
    results = summarize(values, PLAN, "sampled", discrete=False, dimensions=4)
    assert results["kl_per_dimension"] is None
    assert results["active_units"] == {"variance": 3, "kl": None}


def test_a_posterior_that_does_not_know_its_mean_is_judged_all_the_same() -> None:
    model, split = subject()

    class Secretive(torch.distributions.Independent):
        @property
        def mean(self) -> Any:
            raise NotImplementedError

    class Wrapped(Posterior):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        @classmethod
        def network_outputs(cls, latent: int) -> int:
            return latent

        def forward(self, x: torch.Tensor) -> Secretive:
            return Secretive(self.inner(x).base_dist, 1)

    values = look(VAE(Wrapped(model.posterior), model.likelihood, model.prior), split)
    assert "mean" not in values
    assert "kl" in values
    assert summarize(values, PLAN, "sampled", discrete=False, dimensions=4)["active_units"]["variance"] is None


def test_results_have_the_promised_shape(tmp_path: Path) -> None:
    results = json.loads(evaluated(tmp_path).folder.results_file.read_text())
    assert list(results) == ["test"]
    found = results["test"]
    assert {"value", "se", "distortion", "rate", "samples"} <= set(found["neg_elbo"])
    assert {"value", "se", "samples", "curve"} <= set(found["nll"])
    assert [point["samples"] for point in found["nll"]["curve"]] == [1, 10, SAMPLES]
    assert set(found["nll"]["curve"][0]) == {"samples", "value", "se"}
    assert found["neg_elbo"]["samples"] == 3
    assert found["nll"]["samples"] == SAMPLES
    assert set(found["bits_per_dim"]) == {"neg_elbo", "nll"}
    assert set(found["active_units"]) == {"variance", "kl"}
    assert len(found["kl_per_dimension"]) == 3
    assert found["images"] == 30
    assert found["kind"] == "probability"
    assert found["data"]["name"] == "digits"
    assert found["data"]["split"] == "test"
    assert found["data"]["protocol"] == "pixels as stored"
    assert len(found["data"]["fingerprint"]) == len(found["environment"]["weights"]) == 64
    assert found["environment"]["dtype"] == "float32"
    assert found["environment"]["device"] == "cpu"
    assert found["environment"]["torch"] == torch.__version__


def test_results_are_the_means_of_the_arrays(tmp_path: Path) -> None:
    folder = evaluated(tmp_path).folder
    found = folder.read_json(folder.results_file)["test"]
    values = folder.read_arrays(folder.results / "test.npz")
    for name in ("neg_elbo", "nll"):
        assert found[name]["value"] == pytest.approx(values[name].mean())
        assert found[name]["se"] == pytest.approx(values[name].std(ddof=1) / math.sqrt(30))
        assert found["bits_per_dim"][name] == pytest.approx(values[name].mean() / (64 * math.log(2)))
    assert found["neg_elbo"]["value"] == pytest.approx(found["neg_elbo"]["distortion"] + found["neg_elbo"]["rate"])
    assert found["nll"]["curve"][-1]["value"] == found["nll"]["value"]
    assert found["nll"]["curve"][0]["value"] == pytest.approx(values["curve"][:, 0].mean())
    assert found["kl_per_dimension"] == pytest.approx(values["kl"].mean(0).tolist())
    assert found["active_units"]["kl"] == (values["kl"].mean(0) > 0.01).sum()
    assert found["active_units"]["variance"] == (values["mean"].var(0) > 0.01).sum()
    yardstick, above = found["yardsticks"]["independent_pixels"], values["nll"] - values["independent_pixels"]
    assert yardstick["value"] == pytest.approx(values["independent_pixels"].mean())
    assert yardstick["nll_above"]["value"] == pytest.approx(above.mean())
    assert yardstick["nll_above"]["se"] == pytest.approx(above.std(ddof=1) / math.sqrt(len(above)))
    assert [block["images"] for block in (found, found["nll"], found["neg_elbo"], yardstick)] == [len(above)] * 4
    assert found["training"] == {"images": 128, "available": 1168}
    assert found["data"]["available"] == 359
    assert found["prior_factorizes"] is False
    assert values["labels"].shape == (30,)


def test_every_likelihood_carries_its_certificate(tmp_path: Path) -> None:
    folder = evaluated(tmp_path).folder
    found, values = folder.read_json(folder.results_file)["test"], folder.read_arrays(folder.results / "test.npz")
    for name in ("neg_elbo", "nll"):
        assert {"name", "direction", "samples", "value", "se", "monte_carlo_se"} <= set(found[name])
    nll = found["nll"]
    assert nll["effective_samples"] == {"mean": values["ess"].mean(), "median": np.median(values["ess"]), "of": SAMPLES}
    assert set(nll["pareto_k"].values()) == {None}, "20 samples have no tail to speak of"
    assert (nll["last_doubling"]["from"], nll["last_doubling"]["to"]) == (10, 20)
    assert nll["last_doubling"]["gain"] == pytest.approx(values["gain"].mean())
    assert nll["monte_carlo_se"] == pytest.approx(math.sqrt(values["variance"].sum()) / 30)
    assert 0 < nll["monte_carlo_se"] < nll["se"]
    assert found["neg_elbo"]["monte_carlo_se"] == pytest.approx(math.sqrt(values["elbo_variance"].sum()) / 30)


@pytest.mark.parametrize("name", ["gaussian", "laplace"])
def test_monte_carlo_errors_are_those_of_other_seeds(name: str) -> None:
    model, split = subject(name)
    found = [look(model, split, Plan(samples=40, elbo_samples=8, seed=seed)) for seed in range(40)]
    judged = [("neg_elbo", "elbo_variance"), ("nll", "variance")]
    for value, variance in (
        judged if name == "gaussian" else judged[:1]
    ):  # this Laplace is too narrow: k̂ > 0.7, and no error to trust
        spread = np.array([each[value].mean() for each in found]).std(ddof=1)
        said = np.mean([math.sqrt(each[variance].sum()) / COUNT for each in found])
        assert said == pytest.approx(spread, rel=4 / math.sqrt(2 * 39)), value  # four standard errors of a spread


def test_one_draw_has_no_monte_carlo_error() -> None:
    found = summarize(look(*subject(), Plan(samples=1, elbo_samples=1)), Plan(1, 1), "closed-form", discrete=True, dimensions=4)
    assert found["neg_elbo"]["monte_carlo_se"] is None
    assert found["nll"]["last_doubling"]["gain"] is None
    assert found["nll"]["monte_carlo_se"] is None


def test_a_density_says_so_and_has_no_bits() -> None:
    values = look(*subject())
    found = summarize(values, PLAN, "closed-form", discrete=False, dimensions=4)
    assert (found["kind"], found["bits_per_dim"]) == ("density", None)


def test_one_image_has_no_standard_error() -> None:
    model, split = subject()
    values = {name: array[:1] for name, array in look(model, split).items()}
    found = summarize(values, PLAN, "closed-form", discrete=True, dimensions=4)
    assert found["nll"]["se"] is None
    assert found["neg_elbo"]["se"] is None
    assert found["active_units"]["variance"] == 0


def test_rate_kind_is_that_of_the_model(tmp_path: Path) -> None:
    assert rate_kind(*subject()) == "closed-form"
    run = trained(tmp_path)
    assert rate_kind(run.model, run.split("test")) == "sampled"  # a mixture


def test_provenance(tmp_path: Path) -> None:
    run = trained(tmp_path)
    found = provenance(run.model, run.split("validation"), "digits", "abc")
    assert (found["data"]["name"], found["data"]["split"], found["data"]["support"]) == ("digits", "validation", "levels(17)")
    assert found["environment"]["weights"] == "abc"


@pytest.mark.parametrize(
    ("binarization", "name", "redrawn"),
    [("none", "train", False), ("dynamic", "train", True), ("dynamic", "test", False), ("resampled", "test", True)],
)
def test_provenance_says_what_is_redrawn(binarization: str, name: str, redrawn: bool, tmp_path: Path) -> None:
    gray = Images("gray", torch.zeros(3, 4, dtype=torch.uint8), BYTES)
    split = Split(name, gray, torch.arange(3), settings(binarization=binarization))
    assert provenance(linear_gaussian().model, split, "gray", "")["data"]["redrawn"] is redrawn


# Interrupted evaluations --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt, MachineError, RuntimeError])
def test_what_is_done_is_saved_however_the_work_breaks_off(error: type[BaseException]) -> None:
    model, split = subject()
    saved: list[Arrays] = []
    with pytest.raises(error):
        look(model, split, reporter=Stop(20, error), save=saved.append)
    (partial,) = saved
    assert len(partial["nll"]) == 20
    assert_same({name: array[:20] for name, array in look(model, split).items()}, partial)
    reporter = Stop()
    assert_same(look(model, split, start=partial, reporter=reporter), look(model, split))
    assert reporter.log == ["evaluating input 20/23", ""]


def test_a_complete_start_needs_no_work() -> None:
    model, split = subject()
    whole = look(model, split)
    reporter = Stop(1)
    assert_same(look(model, split, start=whole, reporter=reporter), whole)


def test_nothing_done_is_not_saved() -> None:
    model, split = subject()
    saved: list[Arrays] = []
    broken = VAE(model.posterior, nn.Identity(), model.prior)  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        look(broken, split, save=saved.append)
    assert not saved


@pytest.mark.parametrize(("seconds", "lengths"), [(31.0, [10, 20, 23]), (20.0, [20]), (1.0, [])])
def test_long_work_is_saved_as_it_goes(seconds: float, lengths: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(0.0, seconds)  # so much later every time one looks
    monkeypatch.setattr(collect.time, "monotonic", lambda: next(clock))
    saved: list[Arrays] = []
    whole = look(*subject(), save=saved.append)
    assert [len(each["nll"]) for each in saved] == lengths
    for each in saved:
        assert_same(each, {name: array[: len(each["nll"])] for name, array in whole.items()})


def test_a_run_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    run = trained(tmp_path)
    partial = run.folder.results / "test.partial.npz"
    with pytest.raises(KeyboardInterrupt):
        run.evaluate(samples=20, elbo_samples=3, images=10, reporter=Stop(10))
    assert len(run.folder.read_arrays(partial)["nll"]) == 10
    assert "test" not in run.results
    reporter = Stop()
    run.evaluate(samples=20, elbo_samples=3, images=10, reporter=reporter)
    assert reporter.log[0] == "evaluating test 10/30"
    assert not partial.exists()
    at_once = evaluated(tmp_path, "at_once")
    for name, array in at_once.folder.read_arrays(at_once.folder.results / "test.npz").items():
        np.testing.assert_allclose(run.folder.read_arrays(run.folder.results / "test.npz")[name], array, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("other", [{"samples": 21}, {"elbo_samples": 4}, {"seed": 1}, {"limit": 25}])
def test_what_was_saved_under_other_settings_is_left_out(other: dict[str, int], tmp_path: Path) -> None:
    run = trained(tmp_path)
    usual = {"samples": 20, "elbo_samples": 3, "images": 10}
    with pytest.raises(KeyboardInterrupt):
        run.evaluate(**usual, reporter=Stop(10))  # type: ignore[arg-type]
    reporter = Stop()
    results = run.evaluate(**{**usual, **other}, reporter=reporter)  # type: ignore[arg-type]
    assert reporter.log[0].startswith("evaluating test 0/")
    assert results["images"] == other.get("limit", 30)


def test_what_was_saved_of_other_weights_is_left_out(tmp_path: Path) -> None:
    run, other = trained(tmp_path), trained(tmp_path, "other")
    with pytest.raises(KeyboardInterrupt):
        run.evaluate(samples=5, images=10, reporter=Stop(10))
    weights = {name: tensor + 0.01 for name, tensor in run.folder.weights().items()}
    run.folder.write_weights(weights, {})
    other.folder.write_weights(weights, {})
    reporter = Stop()
    again = type(run)(run.folder.path, "cpu")
    assert again.evaluate(samples=5, reporter=reporter)["nll"] == other.evaluate(samples=5)["nll"]
    assert reporter.log[0] == "evaluating test 0/30"
