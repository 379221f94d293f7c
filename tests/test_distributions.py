"""The four distributions against other programs' formulas, and at the edges of floating-point numbers."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal, kl

from own_posteriors import Meanless
from vaelid import distributions
from vaelid.distributions import (
    DiscretizedGaussian,
    FactorizedGaussianMixture,
    GaussianMixture,
    LevelCategorical,
    closed_form_kl,
    diagonal_normal,
    factorizes,
    marginal_log_prob,
    normal_coordinates,
)

MIXTURES = [GaussianMixture, FactorizedGaussianMixture]


def parameters(components: int = 5, latent: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(components), torch.randn(components, latent), torch.rand(components, latent) + 0.2


def test_the_joint_mixture_is_torchs() -> None:
    logits, mean, scale = parameters()
    torchs = MixtureSameFamily(Categorical(logits=logits), Independent(Normal(mean, scale), 1))
    ours, z = GaussianMixture(logits, mean, scale), torch.randn(2, 7, 3)
    torch.testing.assert_close(ours.log_prob(z), torchs.log_prob(z))
    torch.testing.assert_close(ours.mean, torchs.mean)
    torch.testing.assert_close(ours.variance, torchs.variance)


def test_the_factorized_mixture_is_a_product_of_torchs() -> None:
    logits, mean, scale = parameters()
    one_per_coordinate = MixtureSameFamily(Categorical(logits=logits.expand(3, 5)), Normal(mean.T, scale.T))
    torchs = Independent(one_per_coordinate, 1)
    ours, z = FactorizedGaussianMixture(logits, mean, scale), torch.randn(2, 7, 3)
    torch.testing.assert_close(ours.log_prob(z), torchs.log_prob(z))
    torch.testing.assert_close(ours.marginal_log_prob(z), one_per_coordinate.log_prob(z))
    torch.testing.assert_close(ours.mean, torchs.mean)
    torch.testing.assert_close(ours.variance, torchs.variance)


def test_both_mixtures_have_the_same_marginals_but_not_the_same_density() -> None:
    given, z = parameters(), torch.randn(7, 3)
    joint, factorized = (kind(*given) for kind in MIXTURES)
    torch.testing.assert_close(joint.marginal_log_prob(z), factorized.marginal_log_prob(z))
    assert not torch.allclose(joint.log_prob(z), factorized.log_prob(z))


@pytest.mark.parametrize("kind", MIXTURES)
def test_samples_follow_the_marginals(kind: type[GaussianMixture]) -> None:
    """Kolmogorov–Smirnov per coordinate, p > 1e-6."""
    logits, mean, scale = parameters()
    samples, weights = kind(logits, mean, scale).sample((20_000,)), logits.softmax(0)
    for d in range(3):

        def cdf(z: object, d: int = d) -> object:
            return sum(float(weights[c]) * stats.norm.cdf(z, float(mean[c, d]), float(scale[c, d])) for c in range(5))

        assert stats.kstest(samples[:, d].numpy(), cdf).pvalue > 1e-6


def test_a_component_is_one_of_the_gaussians() -> None:
    logits, mean, scale = parameters()
    component, z = GaussianMixture(logits, mean, scale).component(2), torch.randn(4, 3)
    torch.testing.assert_close(component.log_prob(z), MultivariateNormal(mean[2], torch.diag(scale[2] ** 2)).log_prob(z))


@pytest.mark.parametrize("kind", MIXTURES)
@pytest.mark.parametrize("narrow", [1e-3, 1e-19, 1e-25, 1e-30])
def test_a_component_that_shrinks_to_a_point_leaves_the_gradient_finite(kind: type[GaussianMixture], narrow: float) -> None:
    log_variance = torch.tensor([[0.0, 0.0], [2 * math.log(narrow)] * 2], requires_grad=True)
    mean, logits = torch.tensor([[0.0, 0.0], [1.0, 1.0]], requires_grad=True), torch.zeros(2, requires_grad=True)
    log_p = kind(logits, mean, (0.5 * log_variance).exp()).log_prob(torch.tensor([[0.3, -0.2], [3.0, 0.1]]))
    log_p.sum().backward()
    assert log_p.isfinite().all()
    assert all(t.grad.isfinite().all() for t in (log_variance, mean, logits))


@pytest.mark.parametrize("kind", MIXTURES)
def test_wide_far_and_weightless_components_are_finite(kind: type[GaussianMixture]) -> None:
    logits = torch.tensor([0.0, -1e4, 1e4], requires_grad=True)
    mean = torch.tensor([[0.0], [1e4], [-1e4]], requires_grad=True)
    scale = torch.tensor([[1.0], [1e10], [1e-4]], requires_grad=True)
    log_p = kind(logits, mean, scale).log_prob(torch.tensor([[0.0], [-1e4], [1e4]]))
    log_p.sum().backward()
    assert log_p.isfinite().all()
    assert all(t.grad.isfinite().all() for t in (logits, mean, scale))


def test_variance_of_far_components_keeps_its_digits() -> None:
    mixture = GaussianMixture(torch.zeros(2), torch.tensor([[1e4], [1e4]]), torch.full((2, 1), 0.1))
    assert float(mixture.variance) == pytest.approx(0.01, rel=1e-4)


def test_the_sampler_of_a_categorical_follows_its_probabilities() -> None:
    """χ² over the joint of two pixels with 4 levels, p > 1e-6."""
    logits = torch.randn(2, 4, dtype=torch.float64)
    drawn = (LevelCategorical(logits, event_dims=1).sample((20_000,)) * 3).round().long()
    counts = torch.bincount(drawn[:, 0] * 4 + drawn[:, 1], minlength=16)
    probabilities = logits.softmax(-1)
    expected = torch.outer(probabilities[0], probabilities[1]).flatten()
    assert stats.chisquare(counts.double(), expected * 20_000).pvalue > 1e-6


def test_the_sampler_of_a_discretized_gaussian_follows_its_probabilities() -> None:
    """χ² over 9 levels, p > 1e-6; the mean lies outside, so that the open bin counts."""
    p = DiscretizedGaussian(torch.tensor([-0.05]), torch.tensor([0.3]), 9, event_dims=1)
    counts = torch.bincount((p.sample((20_000,)) * 8).round().long()[:, 0], minlength=9)
    expected = p.log_prob((torch.arange(9) / 8).unsqueeze(-1)).double().exp()
    assert stats.chisquare(counts.double(), expected / expected.sum() * 20_000).pvalue > 1e-6


def test_means_are_expectations_over_the_levels() -> None:
    grid = (torch.arange(7) / 6).unsqueeze(-1)
    for p in (
        LevelCategorical(torch.randn(1, 7), event_dims=1),
        DiscretizedGaussian(torch.tensor([0.8]), torch.tensor([0.4]), 7, event_dims=1),
    ):
        torch.testing.assert_close(p.mean, (p.log_prob(grid).exp() @ grid))


@pytest.mark.parametrize("event_dims", [0, 1, 2])
def test_batch_and_event_are_split_where_asked(event_dims: int) -> None:
    for p in (
        LevelCategorical(torch.randn(2, 3, 4, 5), event_dims),
        DiscretizedGaussian(torch.rand(2, 3, 4), torch.tensor(0.2), 5, event_dims),
    ):
        assert p.batch_shape == (2, 3, 4)[: 3 - event_dims]
        assert p.event_shape == (2, 3, 4)[3 - event_dims :]
        x = p.sample()
        assert p.log_prob(x).shape == p.batch_shape
        torch.testing.assert_close(p.log_prob(torch.stack([x, x]))[1], p.log_prob(x))


def test_no_formula_for_the_kl_to_a_mixture() -> None:
    q = diagonal_normal(torch.zeros(4, 3), torch.ones(4, 3))
    assert closed_form_kl(q, GaussianMixture(*parameters())) is None
    assert closed_form_kl(q, diagonal_normal(torch.zeros(3), torch.ones(3))).tolist() == [0, 0, 0, 0]


class Halved(Normal):
    """A subclass with a density of its own; what torch's formula says of it is wrong."""

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value / 2) - math.log(2)


class Renamed(Normal):
    """A subclass that changes nothing."""


class Shifted(Independent):
    """A wrapper that draws something else than what it wraps."""

    def rsample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        return super().rsample(sample_shape) + 5


class Reweighed(Independent):
    """A wrapper with a density of its own."""

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value) - value.square().sum(-1)


def test_a_formula_is_not_taken_for_a_subclass_with_another_density() -> None:
    zeros, ones = torch.zeros(4, 3), torch.ones(4, 3)
    plain, renamed, halved = (Independent(kind(zeros, ones), 1) for kind in (Normal, Renamed, Halved))
    assert closed_form_kl(plain, halved) is None
    assert closed_form_kl(halved, plain) is None
    assert closed_form_kl(Halved(zeros, ones), Normal(zeros, ones)) is None
    assert closed_form_kl(renamed, plain).tolist() == [0, 0, 0, 0]
    assert closed_form_kl(Reweighed(Normal(zeros, ones), 1), plain) is None
    assert closed_form_kl(plain, Reweighed(Normal(zeros, ones), 1)) is None


def test_a_formula_that_a_subclass_registers_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kl, "_KL_REGISTRY", dict(kl._KL_REGISTRY))
    monkeypatch.setattr(distributions, "_KL_REGISTRY", kl._KL_REGISTRY)
    monkeypatch.setattr(kl, "_KL_MEMOIZE", {})
    kl.register_kl(Halved, Normal)(lambda q, p: torch.full_like(q.loc, 7.0))
    q, p = (Independent(kind(torch.zeros(4, 3), torch.ones(4, 3)), 1) for kind in (Halved, Normal))
    assert closed_form_kl(q, p).tolist() == [21, 21, 21, 21]
    assert closed_form_kl(p, q) is None


def test_a_wrapper_with_draws_or_density_of_its_own_is_not_known_by_what_it_wraps() -> None:
    normals = Normal(torch.zeros(4, 3), 1.0)
    assert normal_coordinates(Meanless(normals, 1)) is normals, "whose mean alone is its own"
    for wrapper in (Shifted, Reweighed):
        wrapped = wrapper(normals, 1)
        assert normal_coordinates(wrapped) is None
        assert marginal_log_prob(wrapped) is None
        assert factorizes(wrapped) is None
    assert normal_coordinates(Independent(Halved(torch.zeros(4, 3), 1.0), 1)) is None


def test_marginals_are_known_for_gaussians_and_mixtures_only() -> None:
    given, z = parameters(), torch.randn(7, 3)
    for mixture in (kind(*given) for kind in MIXTURES):
        torch.testing.assert_close(marginal_log_prob(mixture)(z), mixture.marginal_log_prob(z))
    normal = diagonal_normal(torch.ones(3), torch.full((3,), 2.0))
    torch.testing.assert_close(marginal_log_prob(normal)(z), Normal(1.0, 2.0).log_prob(z))
    assert marginal_log_prob(MultivariateNormal(torch.zeros(3), torch.eye(3))) is None
    assert marginal_log_prob(Independent(MultivariateNormal(torch.zeros(2, 3), torch.eye(3)), 1)) is None
    assert marginal_log_prob(diagonal_normal(torch.zeros(2, 3), torch.ones(2, 3), event_dims=2)) is None


def test_which_distributions_factorize() -> None:
    logits, mean, scale = torch.zeros(3), torch.randn(3, 2), torch.ones(3, 2)
    assert factorizes(diagonal_normal(mean[0], scale[0])) is True
    assert factorizes(FactorizedGaussianMixture(logits, mean, scale)) is True
    assert factorizes(GaussianMixture(logits, mean, scale)) is False
    assert factorizes(GaussianMixture(logits[:1], mean[:1], scale[:1])) is True, "one component is a diagonal Gaussian"
    full = MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, 0.9], [0.9, 1.0]]))
    assert factorizes(full) is None
    assert factorizes(Independent(MultivariateNormal(torch.zeros(4, 2), torch.eye(2)), 1)) is None
