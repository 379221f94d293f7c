"""The split of the inference gap, against closed forms. Random numbers must lie within 5 standard errors (1 in 1.7 million)."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Laplace

from exact_models import LinearGaussian, as_split, linear_gaussian, one_latent
from vaelid.errors import DataError, PartError, SettingError
from vaelid.evaluation.gaps import GapPlan, best_gaussian, gap_images, summarize_gaps
from vaelid.posteriors import GaussianPosterior
from vaelid.progress import Silent

PLAN = GapPlan(steps=200, lr=0.05, samples=32, evaluation_samples=400)


def approximation_gap(exact: LinearGaussian) -> float:
    """KL(q* ‖ p(z|x)) = ½ (Σ_d log Λ_dd − log det Λ) for the posterior's precision Λ."""
    return float(0.5 * (exact.precision.diagonal().log().sum() - exact.precision.logdet()))


def kl_to_posterior(exact: LinearGaussian, x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    precision, away = exact.precision, mean - exact.posterior_mean(x)
    trace = (precision.diagonal() * scale.square()).sum(-1)
    square = torch.einsum("bi,ij,bj->b", away, precision, away)
    return 0.5 * (trace + square - mean.shape[-1] - precision.logdet() - 2 * scale.log().sum(-1))


def test_closed_forms() -> None:
    exact = linear_gaussian(latent=3, pixels=5, shift=0.4, widen=1.4)
    x = exact.images(12)
    values = gap_images(exact.model, as_split(x), PLAN, Silent())
    log_p = exact.log_p(x).numpy()
    q = exact.model.posterior(x).base_dist
    inference = kl_to_posterior(exact, x, q.loc, q.scale).detach().numpy()
    for name, expected in (("elbo", log_p - inference), ("best_elbo", log_p - approximation_gap(exact))):
        error = np.sqrt(values[f"{name}_variance"])
        slack = 0.01 if name == "best_elbo" else 0.0  # what the ascent may miss
        assert (np.abs(values[name] - expected) < 5 * error + slack).all()
        assert error.max() < 0.25
    found = summarize_gaps(values, log_p, PLAN)
    assert found["approximation"]["value"] == pytest.approx(approximation_gap(exact), abs=0.1)
    assert found["amortization"]["value"] == pytest.approx(inference.mean() - approximation_gap(exact), abs=0.2)
    assert found["amortization"]["monte_carlo_se"] < 0.05
    assert found["inference"]["value"] == pytest.approx(found["approximation"]["value"] + found["amortization"]["value"])
    assert found["approximation"]["se"] == pytest.approx((log_p - values["best_elbo"]).std(ddof=1) / math.sqrt(12))


def test_the_best_gaussian_is_found() -> None:
    exact = linear_gaussian(latent=3, pixels=5, shift=0.4, widen=1.4)
    x = exact.images(6)
    found = best_gaussian(exact.model, x, torch.arange(6), PLAN)
    assert torch.allclose(found["mean"], exact.posterior_mean(x), atol=0.02)
    assert torch.allclose(found["scale"], exact.precision.diagonal().rsqrt().expand(6, -1), rtol=0.08)
    assert (kl_to_posterior(exact, x, found["mean"], found["scale"]) - approximation_gap(exact) < 0.01).all()


def test_no_ascent_no_amortization_gap() -> None:
    exact = linear_gaussian(shift=0.4)
    values = gap_images(exact.model, as_split(exact.images(3)), replace(PLAN, steps=0), Silent())
    assert (values["elbo"] == values["best_elbo"]).all()
    assert (values["gain_variance"] == 0).all()


def test_a_prior_without_a_closed_form_kl() -> None:
    """ELBO of both against quadrature over z, for a mixture prior and Bernoulli pixels."""
    model = one_latent("bernoulli", "mixture")
    x = (torch.arange(10).view(2, 5) % 3 == 0).double()
    found = best_gaussian(model, x, torch.arange(2), replace(PLAN, evaluation_samples=2000))
    q = model.posterior(x).base_dist
    for name, mean, scale in (("elbo", q.loc, q.scale), ("best_elbo", found["mean"], found["scale"])):
        z = mean + scale * torch.linspace(-8, 8, 4001).double().view(-1, 1, 1)
        with torch.no_grad():
            log_q = torch.distributions.Normal(mean, scale).log_prob(z).squeeze(-1)
            weight = log_q.exp() * scale.squeeze(-1) * (16 / 4000)
            terms = weight * (model.prior().log_prob(z) + model.likelihood(z).log_prob(x) - log_q)
        assert ((found[name] - terms.sum(0)).abs() < 5 * found[f"{name}_variance"].sqrt()).all()
    assert (found["best_elbo"] > found["elbo"]).all()


def test_batches_do_not_matter_and_parameters_get_no_gradient() -> None:
    exact = linear_gaussian(shift=0.4)
    split, plan = as_split(exact.images(5)), replace(PLAN, steps=20)
    together = gap_images(exact.model, split, plan, Silent())
    alone = gap_images(exact.model, split, replace(plan, images=2), Silent())
    assert all(alone[name] == pytest.approx(values, rel=0, abs=1e-9) for name, values in together.items())
    assert all(parameter.grad is None for parameter in exact.model.parameters())
    assert plan.identity() == replace(plan, images=1).identity()


class LaplacePosterior(GaussianPosterior):
    def forward(self, x: Tensor) -> Independent:  # type: ignore[override]
        q = super().forward(x).base_dist
        return Independent(Laplace(q.loc, q.scale), 1)


def test_what_cannot_be() -> None:
    exact = linear_gaussian()
    exact.model.posterior = LaplacePosterior(exact.model.posterior.network, 2)
    with pytest.raises(PartError, match="diagonal Gaussian"):
        gap_images(exact.model, as_split(exact.images(2)), PLAN, Silent())
    with pytest.raises(SettingError, match="samples must be even"):
        GapPlan(samples=3)
    with pytest.raises(SettingError, match="evaluation_samples must be at least 4"):
        GapPlan(evaluation_samples=2)
    values = {"elbo": np.zeros(3), "best_elbo": np.zeros(3), "gain_variance": np.zeros(3)}
    with pytest.raises(DataError, match="3 ELBOs and 2 estimates"):
        summarize_gaps(values, np.zeros(2), PLAN)
