"""The fixed validation estimator against closed forms."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch.distributions import Laplace

from own_posteriors import ByFunction, Meanless
from training_helpers import data_of, metrics_of, ready, tiny, train
from vaelid.data import Data, DataSettings, Images, split_data
from vaelid.likelihoods import GaussianLikelihood
from vaelid.networks import MLP
from vaelid.posteriors import GaussianPosterior
from vaelid.priors import StandardNormalPrior
from vaelid.supports import REAL
from vaelid.training import validation
from vaelid.training.validation import posterior_mean, validate
from vaelid.vae import VAE

SIGMA = 0.7


def linear_gaussian(latent: int = 2) -> tuple[VAE, Data]:
    model = VAE(
        GaussianPosterior(MLP((4,), 2 * latent, hidden=()), latent),
        GaussianLikelihood(MLP((latent,), 4, hidden=()), (4,), scale="fixed", sigma=SIGMA),
        StandardNormalPrior(latent),
    )
    images = Images("own", torch.randn(200, 4), REAL)
    return model, split_data(images, DataSettings("own", validation_fraction=0.5))


def closed_form(model: VAE, x: torch.Tensor) -> tuple[float, float]:
    """Distortion and rate of a linear decoder: E‖x − Wz − b‖² = ‖x − Wμ − b‖² + Σ_d σ_d² ‖W_d‖²."""
    layer = model.likelihood.mean_and_scale.network.layers[0]
    mean, log_variance = model.posterior.network(x).detach().double().chunk(2, dim=-1)
    weight, bias = layer.weight.detach().double(), layer.bias.detach().double()
    squares = (x.double() - mean @ weight.T - bias).square().sum(1) + log_variance.exp() @ weight.square().sum(0)
    distortion = 0.5 * squares / SIGMA**2 + 4 * math.log(SIGMA) + 2 * math.log(2 * math.pi)
    rate = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
    return float(distortion.mean()), float(rate.mean())


def test_against_the_closed_form() -> None:
    model, data = linear_gaussian()
    seen = validate(model, data.validation, samples=4000, epoch=0, seed=0)
    distortion, rate = closed_form(model, data.validation.batch(torch.arange(100)))
    assert seen.rate == pytest.approx(rate, rel=1e-5)
    assert seen.rate_kind == "closed-form"
    few = [validate(model, data.validation, samples=1, epoch=0, seed=0).distortion]
    assert seen.distortion == pytest.approx(distortion, rel=0.005)
    assert few[0] == pytest.approx(distortion, rel=0.2)
    assert seen.neg_elbo == seen.distortion + seen.rate


def test_the_noise_is_fixed_and_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = linear_gaussian()
    before = torch.get_rng_state()
    first = validate(model, data.validation, 3, epoch=0, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert validate(model, data.validation, 3, epoch=7, seed=9) == first
    monkeypatch.setattr(validation, "_BATCH", 7)
    in_pieces = validate(model, data.validation, 3, epoch=0, seed=0)
    assert in_pieces.neg_elbo == pytest.approx(first.neg_elbo, rel=1e-6)
    monkeypatch.setattr(validation, "_NOISE_SEED", 1)
    assert validate(model, data.validation, 3, epoch=0, seed=0).distortion != in_pieces.distortion


def test_active_units_are_counted() -> None:
    model, data = linear_gaussian(latent=3)
    layer = model.posterior.network.layers[0]
    with torch.no_grad():
        layer.weight[0] = 1.0
        layer.weight[1] = 0.02  # variance 4 · 0.02² = 0.0016
        layer.weight[2] = 0.2  # variance 0.16
    seen = validate(model, data.validation, 1, 0, 0)
    assert (seen.active_units, seen.latent) == (2, 3)


def test_one_image_is_enough() -> None:
    model, _ = linear_gaussian()
    data = split_data(Images("own", torch.randn(3, 4), REAL), DataSettings("own"))
    assert len(data.validation) == 1
    assert validate(model, data.validation, 1, 0, 0).active_units == 0


def test_a_posterior_without_a_known_mean() -> None:
    model, data = linear_gaussian()
    model.posterior = ByFunction(lambda x: Meanless(Laplace(x[:, :2], torch.ones(len(x), 2)), 1))
    assert posterior_mean(model.posterior(torch.zeros(2, 4))) is None
    seen = validate(model, data.validation, 2, 0, 0)
    assert (seen.active_units, seen.latent) == (None, 0)
    assert math.isfinite(seen.neg_elbo)


def test_it_is_the_bound_whatever_the_objective(tmp_path: Path) -> None:
    """β = 1 in what is reported and selected by, though the objective weighs the rate with 50, or is another bound."""
    changes = {"prior__name": "standard-normal", "optimizer__name": "sgd", "optimizer__lr": 1e-12, "training__epochs": 1}
    lines = []
    for number, objective in enumerate(({"objective__beta": 50.0}, {"objective__name": "iwae", "objective__samples": 4}, {})):
        train(tmp_path / str(number), tiny(**changes, **objective))
        lines.append(metrics_of(tmp_path / str(number))[0])
    for key in ("neg_elbo", "rate", "distortion"):
        assert lines[0][key] == pytest.approx(lines[2][key], rel=1e-6)
        assert lines[1][key] == pytest.approx(lines[2][key], rel=1e-6)
    assert lines[0]["loss"] > lines[2]["loss"] + 2


def test_dropout_is_off(tmp_path: Path) -> None:
    model, data = linear_gaussian()
    model.likelihood.mean_and_scale.network.layers.append(torch.nn.Dropout(0.5))
    model.train()
    first = validate(model, data.validation, 2, 0, 0)
    assert validate(model.train(), data.validation, 2, 0, 0) == first


def test_redrawn_images_are_those_of_the_epoch(tmp_path: Path) -> None:
    recipe = tiny(data__binarization="resampled", likelihood__name="bernoulli")
    model = ready(tmp_path, recipe).model
    split = data_of(recipe).validation
    values = [validate(model, split, 1, epoch, 0).distortion for epoch in (0, 1, 0)]
    assert values[0] == values[2] != values[1]


def test_the_error_of_a_change_is_paired_by_image(tmp_path: Path) -> None:
    model, data = linear_gaussian()
    before = validate(model, data.validation, 3, 0, 0)
    assert before.values.mean().item() == pytest.approx(before.neg_elbo, abs=1e-12)
    with torch.no_grad():
        model.likelihood.mean_and_scale.network.layers[0].bias.add_(0.1)
    after = validate(model, data.validation, 3, 1, 0)
    differences = (after.values - before.values).numpy()
    expected = differences.std(ddof=1) / math.sqrt(len(differences))
    assert after.change_se(before.values) == pytest.approx(expected, rel=1e-12)
    assert after.change_se(before.values) < 0.5 * after.values.std().item() / math.sqrt(len(differences)), "pairing helps"
    assert before.change_se(torch.empty(0)) is None
    train(tmp_path, tiny())
    errors = [line["change_se"] for line in metrics_of(tmp_path)]
    assert errors[0] is None
    assert all(error > 0 for error in errors[1:])
