"""Known numbers: every estimator against a closed form, every probability against the sum over all outcomes."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from vaelid.distributions import (
    DiscretizedGaussian,
    FactorizedGaussianMixture,
    GaussianMixture,
    LevelCategorical,
    closed_form_kl,
    diagonal_normal,
)
from vaelid.evaluation.likelihood import elbo_terms, importance_bound, log_weights
from vaelid.likelihoods import BernoulliLikelihood, GaussianLikelihood
from vaelid.networks import MLP
from vaelid.objectives import ELBO, IWAE
from vaelid.posteriors import GaussianPosterior
from vaelid.priors import StandardNormalPrior
from vaelid.vae import VAE

SIGMA = 0.5
WEIGHT = torch.tensor([[1.0, 1.0], [1.0, -1.0], [0.5, 0.0], [0.0, 0.5]], dtype=torch.float64)  # orthogonal columns
BIAS = torch.tensor([0.1, -0.2, 0.3, 0.0], dtype=torch.float64)
EVIDENCE = MultivariateNormal(BIAS, WEIGHT @ WEIGHT.T + SIGMA**2 * torch.eye(4, dtype=torch.float64))


@torch.no_grad()
def linear_gaussian(error: float = 0.0) -> VAE:
    """x = W z + b + σ ε with z ~ N(0, I), and its true posterior, which is diagonal; ``error`` is added to the posterior's mean.

    p(z|x) = N(S Wᵀ(x − b)/σ², S) with S = (I + WᵀW/σ²)⁻¹.
    """
    encoder, decoder = MLP((4,), 4, hidden=()).double(), MLP((2,), 4, hidden=()).double()
    decoder.layers[0].weight.copy_(WEIGHT)
    decoder.layers[0].bias.copy_(BIAS)
    variance = 1 / (1 + WEIGHT.square().sum(0) / SIGMA**2)
    to_mean = variance[:, None] * WEIGHT.T / SIGMA**2
    encoder.layers[0].weight.copy_(torch.cat([to_mean, torch.zeros(2, 4)]))
    encoder.layers[0].bias.copy_(torch.cat([error - to_mean @ BIAS, variance.log()]))
    likelihood = GaussianLikelihood(decoder, shape=(4,), scale="fixed", sigma=SIGMA)
    return VAE(GaussianPosterior(encoder, latent=2), likelihood, StandardNormalPrior(latent=2)).double()


def images(count: int = 6) -> Tensor:
    return EVIDENCE.sample((count,)) * 1.5


# The linear-Gaussian model ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", [ELBO(kl="sampled"), ELBO(kl="sampled", samples=5), IWAE(1), IWAE(7)], ids=str)
def test_with_the_true_posterior_every_bound_is_the_evidence(objective: ELBO | IWAE) -> None:
    x = images()
    bound = objective(linear_gaussian()(x, objective.samples))
    torch.testing.assert_close(bound, EVIDENCE.log_prob(x), atol=1e-5, rtol=0)


@pytest.mark.parametrize("chunk", [1, 17, 1000])
def test_with_the_true_posterior_the_nll_is_exact(chunk: int) -> None:
    x = images()
    weights = log_weights(linear_gaussian(), x, torch.arange(len(x)), samples=23, seed=0, chunk=chunk)
    for k in (1, 7, 23):
        torch.testing.assert_close(importance_bound(weights, k), EVIDENCE.log_prob(x), atol=1e-5, rtol=0)


def test_the_closed_form_kl_gives_the_evidence_on_average() -> None:
    """4 standard errors for 6 images: a correct program fails at one seed in 2600."""
    x, model, samples = images(), linear_gaussian(), 4000
    seen = model(x, samples)
    assert seen.rate_kind == "closed-form"
    standard_error = seen.log_likelihood.std(0) / math.sqrt(samples)
    assert ((ELBO(kl="closed-form")(seen) - EVIDENCE.log_prob(x)).abs() < 4 * standard_error).all()
    terms = elbo_terms(model, x, torch.arange(len(x)), samples, seed=0)
    assert ((terms.neg_elbo + EVIDENCE.log_prob(x)).abs() < 4 * standard_error).all()


def test_a_wrong_posterior_loses_exactly_its_kl() -> None:
    """E[ELBO] = log p(x) − KL(q ‖ p(z|x)); 5 standard errors for 6 images: one seed in 300 000."""
    x, samples = images(), 4000
    truth, model = linear_gaussian(), linear_gaussian(error=0.3)
    seen = model(x, samples)
    lost = kl_divergence(model.posterior(x), truth.posterior(x)).detach()
    assert float(lost.min()) > 0.3
    standard_error = seen.log_weight.std(0) / math.sqrt(samples)
    assert ((seen.log_weight.mean(0) - (EVIDENCE.log_prob(x) - lost)).abs() < 5 * standard_error).all()


def test_the_iwae_bound_rises_with_k_to_the_evidence() -> None:
    """L_1 < L_5 < L_50 < log p in expectation, by 5 standard errors each."""
    x, repeats = images(1).expand(2000, 4), 2000
    seen = linear_gaussian(error=0.3)(x, 50)
    bounds, evidence = [importance_bound(seen.log_weight, k) for k in (1, 5, 50)], EVIDENCE.log_prob(x[0])
    for lower, higher in pairwise(bounds):
        rise = higher - lower
        assert rise.mean() > 5 * rise.std() / math.sqrt(repeats)
    assert bounds[-1].mean() < evidence
    assert abs(bounds[-1].mean() - evidence) < 0.1
    # Unbiased before the logarithm: E[w] = p(x).
    w = (seen.log_weight - evidence).exp()
    assert abs(w.mean() - 1) < 5 * w.std() / math.sqrt(w.numel())


# Sums over all outcomes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1.0, 30.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bernoulli_probabilities_sum_to_one(size: float, dtype: torch.dtype) -> None:
    network = MLP((2,), 3, hidden=()).to(dtype)
    with torch.no_grad():
        network.output_bias.copy_(size * torch.tensor([1.0, -1.0, 0.3]))
    p = BernoulliLikelihood(network, shape=(3,))(torch.zeros(1, 1, 2, dtype=dtype))
    outcomes = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=dtype)] * 3)
    log_p = p.log_prob(outcomes.unsqueeze(1).unsqueeze(1))
    torch.testing.assert_close(log_p.exp().sum(0), torch.ones(1, 1, dtype=dtype), atol=1e-6, rtol=0)
    log_p.sum().backward()
    assert network.output_bias.grad.isfinite().all()


@pytest.mark.parametrize("size", [1.0, 30.0, 1e4])
@pytest.mark.parametrize("count", [2, 17, 256])
def test_categorical_probabilities_sum_to_one(size: float, count: int) -> None:
    logits = (size * torch.randn(5, 1, count)).requires_grad_()
    log_p = LevelCategorical(logits, event_dims=1).log_prob((torch.arange(count) / (count - 1)).reshape(-1, 1, 1))
    torch.testing.assert_close(log_p.exp().sum(0), torch.ones(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(log_p.T, torch.log_softmax(logits[:, 0], -1), atol=1e-5, rtol=1e-6)
    log_p.sum().backward()
    assert logits.grad.isfinite().all()


SCALES = [1e-6, 1e-3, 0.01, 0.1, 0.39, 1.0, 30.0, 1e3, 1e5]


@pytest.mark.parametrize("mean", [-1e4, -1.0, 0.0, 0.3, 0.5, 1.0, 1e4])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 1.2e-7), (torch.float64, 2.2e-16)])
def test_discretized_gaussian_sums_to_one(mean: float, scale: float, dtype: torch.dtype, rounding: float) -> None:
    for count in (2, 256):
        m = torch.full((count, 1), mean, dtype=dtype, requires_grad=True)
        s = torch.full((count, 1), scale, dtype=dtype, requires_grad=True)
        grid = (torch.arange(count, dtype=dtype) / (count - 1)).unsqueeze(-1)
        log_p = DiscretizedGaussian(m, s, count, event_dims=1).log_prob(grid)
        # An edge between two bins is rounded to the last digit of x and m; that part of the mass may go missing.
        tolerance = 100 * rounding + 2 * rounding * max(1, abs(mean)) / scale * (abs(mean) <= 1)
        assert abs(float(log_p.detach().double().exp().sum()) - 1) < tolerance
        log_p.sum().backward()
        assert m.grad.isfinite().all()
        assert s.grad.isfinite().all()


@pytest.mark.parametrize("scale", SCALES)
def test_discretized_gaussian_is_the_mass_of_the_bin(scale: float) -> None:
    """Against scipy in the middle of the Gaussian, where differences of its cdf keep their digits."""
    count, mean = 256, 0.4
    level = torch.arange(count, dtype=torch.float64)
    edges = [-math.inf, *((k + 0.5) / (count - 1) for k in range(count - 1)), math.inf]
    cdf = stats.norm.cdf([(e - mean) / scale for e in edges])
    expected = torch.as_tensor(cdf[1:] - cdf[:-1])
    for dtype, tolerance in ((torch.float32, 2e-4), (torch.float64, 1e-9)):
        m, s = torch.tensor([mean], dtype=dtype), torch.tensor([scale], dtype=dtype)
        p = DiscretizedGaussian(m, s, count, event_dims=1).log_prob((level.to(dtype) / (count - 1)).unsqueeze(-1)).exp().double()
        clear = (expected > 1e-7) & ((level / (count - 1) - mean).abs() < 3 * scale + 0.004)
        torch.testing.assert_close(p[clear], expected[clear], rtol=tolerance, atol=tolerance * float(expected.max()))


@pytest.mark.parametrize(("mean", "scale"), [(0.4, 0.1), (0.4, 0.02), (0.4, 0.002), (0.4, 0.001), (0.4, 10.0), (0.4, 1e3)])
def test_discretized_gaussian_has_the_right_gradient(mean: float, scale: float) -> None:
    """float32 against float64 from the middle to 600 σ, where autograd through torch's log_ndtr is off by percents."""
    gradients = []
    for dtype in (torch.float32, torch.float64):
        m = torch.full((256, 1), mean, dtype=torch.float32).to(dtype).requires_grad_()
        s = torch.full((256, 1), scale, dtype=torch.float32).to(dtype).requires_grad_()
        x = (torch.arange(256, dtype=torch.float32) / 255).to(dtype).unsqueeze(-1)
        DiscretizedGaussian(m, s, 256, event_dims=1).log_prob(x).sum().backward()
        gradients.append(torch.cat([m.grad, s.grad], -1).double() * scale)  # per σ, so that 0.1 is small
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=2e-4)


def test_the_tail_of_a_discretized_gaussian_follows_mills_ratio() -> None:
    """Far out, −log P ≈ a²/2 + log(a √2π) with a the nearer edge in σ: no −∞, no plateau."""
    for a in (75.0, 1.5e3, 1.5e5):
        p = DiscretizedGaussian(torch.tensor([-1.0]), torch.tensor([1.5 / a]), levels=2, event_dims=1)  # the edge is at 0.5
        log_p = float(p.log_prob(torch.tensor([1.0])))
        assert log_p == pytest.approx(-(a**2) / 2 - math.log(a * math.sqrt(2 * math.pi)), rel=1e-5)


# Mixtures -----------------------------------------------------------------------------------------------------------------

TWO_MODES = (torch.zeros(2), torch.tensor([[-5.0, -5.0], [5.0, 5.0]]), torch.full((2, 2), 0.5))


def test_a_joint_mixture_has_nothing_in_the_crossed_corners_and_a_factorized_one_half() -> None:
    """By samples (5 standard errors, and none at all) and by the density on a grid."""
    axis = torch.linspace(-10, 10, 401, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    for kind, share in ((GaussianMixture, 0.0), (FactorizedGaussianMixture, 0.5)):
        mixture, count = kind(*TWO_MODES), 40_000
        crossed = (mixture.sample((count,)).prod(-1) < 0).double().mean()
        assert abs(float(crossed) - share) <= 5 * math.sqrt(share * (1 - share) / count)
        density = kind(*(t.double() for t in TWO_MODES)).log_prob(grid).exp() * 0.05**2
        assert float(density.sum()) == pytest.approx(1, abs=1e-9)
        assert float(density[grid.prod(-1) < 0].sum()) == pytest.approx(share, abs=1e-9)


def test_closed_form_and_sampled_kl_agree() -> None:
    """½ Σ (μ² + σ² − 1 − log σ²); samples within 5 standard errors."""
    mean, scale = torch.randn(4, 3).double(), torch.rand(4, 3).double() + 0.2
    q, p = diagonal_normal(mean, scale), StandardNormalPrior(3).double()()
    formula = 0.5 * (mean**2 + scale**2 - 1 - 2 * scale.log()).sum(-1)
    torch.testing.assert_close(closed_form_kl(q, p), formula)
    z = q.sample((20_000,))
    terms = q.log_prob(z) - p.log_prob(z)
    assert ((terms.mean(0) - formula).abs() < 5 * terms.std(0) / math.sqrt(20_000)).all()


def test_a_mixture_of_one_is_a_gaussian() -> None:
    mean, scale, z = torch.randn(1, 3), torch.rand(1, 3) + 0.1, torch.randn(7, 3)
    expected = Normal(mean, scale).log_prob(z).sum(-1)
    for kind in (GaussianMixture, FactorizedGaussianMixture):
        torch.testing.assert_close(kind(torch.randn(1), mean, scale).log_prob(z), expected)
