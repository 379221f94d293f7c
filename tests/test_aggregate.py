"""The aggregate posterior, against known answers. Random numbers must lie within 5 standard errors (1 in 1.7 million)."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Laplace, Normal

from exact_models import as_split, linear_gaussian
from own_posteriors import ByFunction
from vaelid.errors import SettingError
from vaelid.evaluation import aggregate
from vaelid.evaluation.aggregate import AggregatePlan, aggregate_images, log_mixture, summarize_aggregate
from vaelid.posteriors import Posterior
from vaelid.priors import StandardNormalPrior
from vaelid.progress import Silent
from vaelid.vae import VAE


def code(spacing: float, scale: float, family: type[Distribution] = Normal) -> ByFunction:
    """q(z|x) = a distribution around ``spacing`` × the first pixel."""
    return ByFunction(lambda x: Independent(family(spacing * x[:, :1], torch.full_like(x[:, :1], scale)), 1))


def coded(posterior: Posterior) -> VAE:
    return VAE(posterior, linear_gaussian(latent=1).model.likelihood, StandardNormalPrior(1)).double()


def counted(count: int) -> Tensor:
    """Images whose first pixel is their number."""
    return torch.arange(count).double().unsqueeze(1).expand(-1, 4)


def summary(model: VAE, x: Tensor, plan: AggregatePlan) -> dict[str, dict[str, float]]:
    return summarize_aggregate(aggregate_images(model, as_split(x), plan, Silent()), plan)


def test_latents_that_ignore_the_image_carry_nothing() -> None:
    found = summary(coded(code(0.0, 0.5)), counted(20), AggregatePlan(samples=50))
    assert found["mutual_information"]["value"] == pytest.approx(0, abs=1e-9)
    assert found["mutual_information"]["monte_carlo_se"] == pytest.approx(0, abs=1e-9)
    rate = 0.5 * (0.25 - 1 - 2 * math.log(0.5))
    assert abs(found["marginal_kl"]["value"] - rate) < 5 * found["marginal_kl"]["monte_carlo_se"]
    assert found["marginal_kl"]["monte_carlo_se"] < 0.02
    assert not found["at_ceiling"]


def test_latents_that_name_the_image_carry_log_n() -> None:
    found = summary(coded(code(1.0, 0.01)), counted(20), AggregatePlan())
    assert found["mutual_information"]["value"] == pytest.approx(math.log(20), abs=1e-9)
    assert found["ceiling"] == math.log(20)
    assert found["at_ceiling"]


@pytest.mark.parametrize("family", [Normal, Laplace])
def test_two_images_by_quadrature(family: type[Distribution]) -> None:
    found = summary(coded(code(1.5, 0.8, family)), counted(2), AggregatePlan(samples=4000))
    z = torch.linspace(-25, 30, 200_001).double().unsqueeze(1)
    log_q = family(torch.tensor([0.0, 1.5]).double(), torch.tensor(0.8).double()).log_prob(z)  # (grid, 2)
    width = float(z[1] - z[0])
    aggregated = torch.logsumexp(log_q, 1) - math.log(2)
    information = float(((log_q - aggregated.unsqueeze(1)) * log_q.exp()).sum() / 2 * width)
    marginal = float(((aggregated - Normal(0, 1).log_prob(z).squeeze(1)) * aggregated.exp()).sum() * width)
    for name, expected in (("mutual_information", information), ("marginal_kl", marginal), ("rate", information + marginal)):
        assert found[name]["monte_carlo_se"] < 0.03
        assert abs(found[name]["value"] - expected) < 5 * found[name]["monte_carlo_se"]


def test_the_parts_sum_to_the_rate() -> None:
    exact = linear_gaussian(latent=3, pixels=5)
    x = exact.images(30)
    values = aggregate_images(exact.model, as_split(x), AggregatePlan(samples=200), Silent())
    assert values["information"].max() <= math.log(30) + 1e-9
    with torch.no_grad():
        rate = exact.model(x).rate.numpy()
    error = np.sqrt(values["rate_variance"])
    assert (np.abs(values["information"] + values["marginal_kl"] - rate) < 5 * error).all()
    assert error.max() < 0.3


def test_one_product_is_the_density(monkeypatch: pytest.MonkeyPatch) -> None:
    """Means far from 0 with small scales: the matrix product keeps its digits; and pieces do not matter."""
    mean, scale = torch.randn(7, 3).double() * 5, torch.rand(7, 3).double() * 0.02 + 0.01
    q = [Independent(Normal(mean[i : i + 4], scale[i : i + 4]), 1) for i in (0, 4)]
    z = torch.cat((mean + scale, mean + 0.5))
    monkeypatch.setattr(aggregate, "_ROWS", 3)
    expected = torch.logsumexp(Independent(Normal(mean, scale), 1).log_prob(z.unsqueeze(1)), 1) - math.log(7)
    assert torch.allclose(log_mixture(q)(z), expected, rtol=0, atol=1e-8)


def test_batches_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = linear_gaussian()
    split, plan = as_split(exact.images(9)), AggregatePlan(samples=3)
    together = aggregate_images(exact.model, split, plan, Silent())
    monkeypatch.setattr(aggregate, "_ENCODED", 4)
    alone = aggregate_images(exact.model, split, replace(plan, images=2), Silent())
    assert all(alone[name] == pytest.approx(values, rel=0, abs=1e-9) for name, values in together.items())
    assert plan.identity() == replace(plan, images=1).identity()


def test_one_draw_has_no_error() -> None:
    with pytest.raises(SettingError, match="samples must be at least 2"):
        AggregatePlan(samples=1)
