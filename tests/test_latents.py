"""What the latents carry: KL per dimension against formulas and Monte Carlo, active units by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Laplace, MultivariateNormal, Normal, kl_divergence

from vaelid.distributions import FactorizedGaussianMixture, GaussianMixture, diagonal_normal
from vaelid.evaluation.latents import ACTIVE, active_by_variance, kl_of_dimensions, posterior_mean

DRAWS = 200_000


def posterior() -> Independent[Normal]:
    mean = torch.tensor([[0.0, 1.5, -2.0], [0.3, 0.0, 4.0]], dtype=torch.float64)
    return diagonal_normal(mean, torch.tensor([[1.0, 0.2, 0.7], [0.05, 1.4, 0.5]], dtype=torch.float64))


def mixture(kind: type[GaussianMixture] | type[FactorizedGaussianMixture]) -> Distribution:
    torch.manual_seed(4)
    return kind(torch.randn(4).double(), 2 * torch.randn(4, 3).double(), torch.rand(4, 3).double() + 0.3)


def marginal_by_hand(prior: GaussianMixture, z: Tensor) -> Tensor:
    """log Σ_c w_c N(z_d; μ_cd, σ_cd²) with a loop."""
    total = torch.zeros_like(z)
    for weight, mean, scale in zip(prior.log_weights.exp(), prior.component_mean, prior.component_scale, strict=True):
        total += weight * Normal(mean, scale).log_prob(z).exp()
    return total.log()


def known(kl: Tensor | None) -> Tensor:
    assert kl is not None
    return kl


def test_standard_normal_has_the_closed_form() -> None:
    q, prior = posterior(), diagonal_normal(torch.zeros(3).double(), torch.ones(3).double())
    kl = known(kl_of_dimensions(q, prior))
    assert torch.allclose(kl, kl_divergence(q.base_dist, Normal(0.0, 1.0)), rtol=0, atol=1e-10)
    assert torch.allclose(kl.sum(1), kl_divergence(q, prior), rtol=0, atol=1e-10)


def test_components_ten_times_narrower_than_the_posterior_are_resolved() -> None:
    """Against the trapezoidal rule with a step of 1/2500 of the posterior's width."""
    prior = GaussianMixture(
        torch.zeros(3).double(), torch.tensor([[-1.5], [0.2], [2.0]]).double(), torch.full((3, 1), 0.1).double()
    )
    for center in torch.linspace(-2, 2, 9).tolist():
        q = diagonal_normal(torch.tensor([[center]]).double(), torch.ones(1, 1).double())
        z = torch.linspace(center - 9, center + 9, 45_001).double()[:, None]
        log_q = q.base_dist.log_prob(z)[:, 0]
        exact = torch.trapezoid(log_q.exp() * (log_q - prior.log_prob(z)), z[:, 0])
        assert float(known(kl_of_dimensions(q, prior))) == pytest.approx(float(exact), abs=0.01)


@pytest.mark.parametrize("kind", [GaussianMixture, FactorizedGaussianMixture])
def test_mixtures_agree_with_monte_carlo(kind: type[GaussianMixture] | type[FactorizedGaussianMixture]) -> None:
    q, prior = posterior(), mixture(kind)
    z = q.sample((DRAWS,))
    parameters = prior if isinstance(prior, GaussianMixture) else mixture(GaussianMixture)
    assert isinstance(parameters, GaussianMixture)
    gap = q.base_dist.log_prob(z) - marginal_by_hand(parameters, z)
    error = gap.std(0) / math.sqrt(DRAWS)
    assert ((known(kl_of_dimensions(q, prior)) - gap.mean(0)).abs() < 5 * error + 1e-4).all()


def test_the_sum_is_the_rate_for_a_prior_that_factorizes() -> None:
    q, prior = posterior(), mixture(FactorizedGaussianMixture)
    z = q.sample((DRAWS,))
    gap = q.log_prob(z) - prior.log_prob(z)
    assert ((known(kl_of_dimensions(q, prior)).sum(1) - gap.mean(0)).abs() < 5 * gap.std(0) / math.sqrt(DRAWS) + 1e-4).all()


def test_what_is_not_known_is_none() -> None:
    q, standard = posterior(), diagonal_normal(torch.zeros(3).double(), torch.ones(3).double())
    tied = MultivariateNormal(torch.zeros(3).double(), torch.eye(3).double())
    laplace = Independent(Laplace(q.base_dist.loc, q.base_dist.scale), 1)
    assert kl_of_dimensions(q, tied) is None
    assert kl_of_dimensions(laplace, standard) is None


def test_a_prior_with_learned_parameters_gets_no_gradient() -> None:
    scale = torch.ones(3).double().requires_grad_()
    assert not known(kl_of_dimensions(posterior(), diagonal_normal(torch.zeros(3).double(), scale))).requires_grad


def test_active_units_by_variance() -> None:
    half = math.sqrt(ACTIVE)  # ±√0.01 has exactly the variance 0.01
    means = torch.tensor([[half * 1.01, half * 0.99, 5.0], [-half * 1.01, -half * 0.99, 5.0]])
    assert active_by_variance(means).tolist() == [True, False, False]
    assert active_by_variance(means[:1]).tolist() == [False] * 3


def test_posterior_mean() -> None:
    q = posterior()
    assert posterior_mean(q) is q.mean or torch.equal(known(posterior_mean(q)), q.base_dist.loc)
    assert posterior_mean(Distribution(validate_args=False)) is None
