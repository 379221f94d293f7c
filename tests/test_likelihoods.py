"""Formulas and starts of the likelihoods; what holds for every likelihood is in test_contract.py."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vaelid.errors import PartError, SupportError
from vaelid.likelihoods import (
    LIKELIHOODS,
    BernoulliLikelihood,
    CategoricalLikelihood,
    DiscretizedGaussianLikelihood,
    GaussianLikelihood,
)
from vaelid.networks import MLP

SHAPE = (2, 3)
Z = torch.zeros(1, 1, 2)


def network(outputs: int) -> MLP:
    """A network that says 0 for z = 0 until its bias is set."""
    net = MLP((2,), outputs, hidden=())
    with torch.no_grad():
        net.output_bias.zero_()
    return net


def test_bernoulli_is_its_formula_and_mean_is_the_probability() -> None:
    net, x, z = network(6), torch.bernoulli(torch.full((5, *SHAPE), 0.5)), torch.randn(4, 5, 2)
    p, logits = BernoulliLikelihood(net, SHAPE)(z), net(z)
    expected = (x.flatten(1) * logits - F.softplus(logits)).sum(-1)
    torch.testing.assert_close(p.log_prob(x), expected)
    torch.testing.assert_close(p.mean, logits.sigmoid().unflatten(-1, SHAPE))


def test_bernoulli_refuses_gray_pixels_with_value_index_and_remedy() -> None:
    likelihood, x = BernoulliLikelihood(network(6), SHAPE), torch.zeros(3, *SHAPE)
    x[2, 1, 0] = 0.5
    with pytest.raises(SupportError, match=r"index \(2, 1, 0\) is 0.5 .*\n.*--binarization dynamic.*--likelihood categorical"):
        likelihood.support.check(x, likelihood.remedy)


@pytest.mark.parametrize("count", [2, 17, 256])
def test_categorical_is_a_cross_entropy_per_pixel(count: int) -> None:
    net, level, z = network(6 * count), torch.randint(count, (5, *SHAPE)), torch.randn(1, 5, 2)
    p = CategoricalLikelihood(net, SHAPE, levels=count)(z)
    logits = net(z)[0].reshape(5, *SHAPE, count)
    expected = -F.cross_entropy(logits.movedim(-1, 1), level, reduction="none").sum((1, 2))
    torch.testing.assert_close(p.log_prob(level / (count - 1))[0], expected)


def test_gaussian_is_the_normal_density_with_its_constant() -> None:
    x = torch.rand(5, *SHAPE)
    p = GaussianLikelihood(network(6), SHAPE, scale="fixed", sigma=0.25)(Z)
    expected = (-0.5 * (x / 0.25) ** 2 - math.log(0.25) - 0.5 * math.log(2 * math.pi)).sum((1, 2))
    torch.testing.assert_close(p.log_prob(x)[0], expected)


def scale_of(likelihood: GaussianLikelihood | DiscretizedGaussianLikelihood) -> Tensor:
    p = likelihood(Z)
    return (p.stddev if isinstance(likelihood, GaussianLikelihood) else p.scale).detach()


@pytest.mark.parametrize("kind", ["gaussian", "discretized-gaussian"])
@pytest.mark.parametrize("scale", ["learned", "fixed", "per-pixel"])
@pytest.mark.parametrize("sigma", [0.0011, 0.1, 7.0])
def test_scales_start_at_sigma(kind: str, scale: str, sigma: float) -> None:
    levels = {"levels": 5} if kind == "discretized-gaussian" else {}
    net = network(LIKELIHOODS[kind].network_outputs(SHAPE, scale))
    likelihood = LIKELIHOODS[kind](net, SHAPE, **levels, scale=scale, sigma=sigma)
    torch.testing.assert_close(scale_of(likelihood), torch.full((1, 1, *SHAPE), sigma))
    assert [n for n, p in likelihood.named_parameters() if "sigma" in n] == ["mean_and_scale.raw_sigma"] * (scale == "learned")


def test_scales_never_fall_below_the_floor() -> None:
    likelihood = GaussianLikelihood(network(12), SHAPE, scale="per-pixel", floor=0.01)
    with torch.no_grad():
        likelihood.mean_and_scale.network.output_bias[6:] = torch.tensor([-1e4, -50, -5, 0, 50, 1e4])
    scale = scale_of(likelihood).flatten()
    assert float(scale.min()) == pytest.approx(0.01)
    assert scale.isfinite().all()
    assert (scale.diff() >= 0).all()


@pytest.mark.parametrize("scale", ["learned", "per-pixel"])
def test_a_start_at_or_below_the_floor_is_refused(scale: str) -> None:
    with pytest.raises(PartError, match=r"sigma = 0.001 is not above floor = 0.001"):
        GaussianLikelihood(network(12), SHAPE, scale=scale, sigma=1e-3)
    assert float(scale_of(GaussianLikelihood(network(6), SHAPE, scale="fixed", sigma=1e-4)).max()) == pytest.approx(1e-4)


def test_discretized_gaussian_refines_the_gaussian() -> None:
    """With many levels, P(k) ≈ density × width of a level, away from the ends."""
    x = torch.full((1, *SHAPE), 128 / 255)
    options = {"scale": "fixed", "sigma": 0.5}
    mass = DiscretizedGaussianLikelihood(network(6), SHAPE, levels=256, **options)(Z).log_prob(x)
    density = GaussianLikelihood(network(6), SHAPE, **options)(Z).log_prob(x)
    torch.testing.assert_close(mass, density - 6 * math.log(255), rtol=1e-5, atol=1e-4)


# Starting from data -------------------------------------------------------------------------------------------------------


def test_bernoulli_starts_at_the_mean_image() -> None:
    """Counts with one pseudo-observation shared by 0 and 1: no pixel starts impossible."""
    x = torch.zeros(9, *SHAPE)
    x[:3, 0, 0], x[:, 1, 1] = 1, 1
    likelihood = BernoulliLikelihood(network(6), SHAPE, start="data")
    likelihood.initialize(x)
    mean = likelihood(Z).mean.detach()[0, 0]
    torch.testing.assert_close(mean, torch.tensor([[3.5, 0.5, 0.5], [0.5, 9.5, 0.5]]) / 10)


def test_categorical_starts_at_the_histogram_of_each_pixel() -> None:
    level = torch.zeros(9, *SHAPE, dtype=torch.long)
    level[:3, 0, 1] = 2
    likelihood = CategoricalLikelihood(network(18), SHAPE, levels=3, start="data")
    likelihood.initialize(level / 2)
    p = likelihood(Z).logits.detach().softmax(-1)[0, 0]
    third = 1 / 3
    torch.testing.assert_close(p[0, 1], torch.tensor([6 + third, third, 3 + third]) / 10)
    torch.testing.assert_close(p[1, 2], torch.tensor([9 + third, third, third]) / 10)


@pytest.mark.parametrize("scale", ["learned", "fixed", "per-pixel"])
@pytest.mark.parametrize("kind", ["gaussian", "discretized-gaussian"])
def test_gaussians_start_at_the_mean_image(kind: str, scale: str) -> None:
    x, levels = torch.rand(9, *SHAPE), {"levels": 5} if kind == "discretized-gaussian" else {}
    net = network(LIKELIHOODS[kind].network_outputs(SHAPE, scale))
    likelihood = LIKELIHOODS[kind](net, SHAPE, **levels, scale=scale, start="data")
    likelihood.initialize(x)
    torch.testing.assert_close(net(Z)[0, 0, :6].detach().unflatten(0, SHAPE), x.mean(0))
    torch.testing.assert_close(scale_of(likelihood), torch.full((1, 1, *SHAPE), 0.1))


@pytest.mark.parametrize("kind", LIKELIHOODS)
def test_a_start_from_the_network_leaves_it_alone(kind: str) -> None:
    levels = {"levels": 3} if kind in ("categorical", "discretized-gaussian") else {}
    net = network(18 if kind == "categorical" else 6)
    LIKELIHOODS[kind](net, SHAPE, **levels).initialize(torch.ones(4, *SHAPE))
    assert not net.output_bias.any()


def test_a_start_from_data_needs_a_network_with_an_output_bias() -> None:
    with pytest.raises(PartError, match="Linear does not say which it is"):
        BernoulliLikelihood(nn.Linear(2, 6), SHAPE, start="data").initialize(torch.ones(4, *SHAPE))


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_densities_have_the_precision_of_the_latents(name: str) -> None:
    levels = {"levels": 3} if name in ("categorical", "discretized-gaussian") else {}
    likelihood = LIKELIHOODS[name](network(18 if levels.get("levels") and name == "categorical" else 6), SHAPE, **levels)
    with torch.autocast("cpu", torch.bfloat16):
        p = likelihood(Z)
        assert p.log_prob(torch.zeros(1, *SHAPE)).dtype == p.sample().dtype == torch.float32
