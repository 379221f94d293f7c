"""The bounds themselves: known answers, and noise that knows nothing of batches and chunks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Laplace, Normal

from exact_models import linear_gaussian, log_p_by_quadrature, one_latent
from own_posteriors import ByFunction
from vaelid.evaluation.likelihood import PosteriorDraws, curve_points, elbo_terms, importance_bound, log_weights
from vaelid.posteriors import Posterior
from vaelid.priors import MixturePrior
from vaelid.vae import VAE

IDS = torch.tensor([5, 3, 900, 77, 12, 4, 8])


class LaplacePosterior(Posterior):
    """No Gaussian, so the slow path."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @classmethod
    def network_outputs(cls, latent: int) -> int:
        return 2 * latent

    def forward(self, x: Tensor) -> Independent[Laplace]:
        mean, log_scale = self.network(x).chunk(2, dim=-1)
        return Independent(Laplace(mean, log_scale.exp()), 1)


def with_laplace(model: VAE) -> VAE:
    return VAE(LaplacePosterior(model.posterior.network), model.likelihood, model.prior).double()


def models() -> dict[str, VAE]:
    gaussian = linear_gaussian(latent=3, shift=0.3, widen=1.2).model  # an odd latent: noise comes in pairs
    return {"gaussian": gaussian, "laplace": with_laplace(gaussian)}


class UpperNormal(Normal):
    """The half above the mean: draws and density of its own, loc and scale of its base."""

    def rsample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        return self.loc + (super().rsample(sample_shape) - self.loc).abs()

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        return self.rsample(sample_shape).detach()

    def log_prob(self, value: Tensor) -> Tensor:
        return torch.where(value < self.loc, -math.inf, super().log_prob(value) + math.log(2))


def test_a_subclass_of_normal_is_drawn_from_by_its_own_rules() -> None:
    model, x = linear_gaussian(latent=3).model, images()
    upper = VAE(ByFunction(lambda x: Independent(UpperNormal(x[:, :3], 0.5), 1)), model.likelihood, model.prior)
    z = PosteriorDraws(upper, x, IDS, "test", 0).draw(0, 70)
    assert (z >= x[:, :3]).all()
    assert log_weights(upper, x, IDS, 70, seed=0, chunk=20).isfinite().all()


def images(count: int = len(IDS)) -> Tensor:
    return torch.randn(count, 4).double()


def test_no_more_rows_are_decoded_at_once_than_a_chunk_has(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = models()["gaussian"].float(), images().float()
    rows, forward = [], type(model.likelihood).forward
    monkeypatch.setattr(type(model.likelihood), "forward", lambda self, z: rows.append(len(z) * z.shape[1]) or forward(self, z))
    weights = log_weights(model, x, IDS, 100, seed=2, chunk=3 * len(IDS) + 1)
    assert set(rows) == {3 * len(IDS), len(IDS)}, "three draws at a time, and the last one"
    assert sum(rows) == 100 * len(IDS)
    assert weights.dtype == torch.float64


@pytest.mark.parametrize("name", ["gaussian", "laplace"])
@pytest.mark.parametrize("chunk", [1, 3, 7, 20, 700, 10_000])
def test_chunks_do_not_matter(name: str, chunk: int) -> None:
    model, x = models()[name], images()
    whole = log_weights(model, x, IDS, 100, seed=2, chunk=len(x) * 100)
    assert torch.allclose(log_weights(model, x, IDS, 100, seed=2, chunk=chunk), whole, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["gaussian", "laplace"])
@pytest.mark.parametrize("batch", [1, 3, 1000])
def test_batches_and_their_order_do_not_matter(name: str, batch: int) -> None:
    model, x = models()[name], images()
    whole = log_weights(model, x, IDS, 70, seed=2, chunk=64)
    order = torch.tensor([4, 0, 6, 2, 1, 5, 3])
    pieces = [log_weights(model, x[part], IDS[part], 70, seed=2, chunk=64) for part in order.split(batch)]
    assert torch.allclose(torch.cat(pieces, dim=1), whole[:, order], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["gaussian", "laplace"])
def test_more_samples_begin_with_the_same_ones(name: str) -> None:
    model, x = models()[name], images()
    few, many = (log_weights(model, x, IDS, samples, seed=0, chunk=64) for samples in (30, 200))
    assert torch.allclose(many[:30], few, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["gaussian", "laplace"])
def test_noise_is_that_of_seed_image_sample_and_purpose(name: str) -> None:
    model, x = models()[name], images(1).expand(3, -1)
    draws = PosteriorDraws(model, x, torch.tensor([1, 2, 1]), "purpose", seed=0).draw(0, 200)
    assert torch.equal(draws[:, 0], draws[:, 2])
    others = [
        draws[:, 1],
        PosteriorDraws(model, x, torch.tensor([1, 2, 1]), "purpose", seed=1).draw(0, 200)[:, 0],
        PosteriorDraws(model, x, torch.tensor([1, 2, 1]), "another", seed=0).draw(0, 200)[:, 0],
    ]
    for other in others:
        assert not torch.isclose(draws[:, 0], other).any()
    flat = draws[:, 0].flatten()
    assert len(flat.unique()) == len(flat), "samples and dimensions must have noise of their own"


@pytest.mark.parametrize("name", ["gaussian", "laplace"])
def test_draws_follow_the_posterior(name: str) -> None:
    model, x = models()[name], images(2)
    draws = PosteriorDraws(model, x, torch.tensor([0, 1]), "importance", seed=0)
    z = draws.draw(0, 20_000)
    assert torch.allclose(z.mean(0), draws.q.mean, rtol=0, atol=5 * float(draws.q.stddev.detach().max()) / math.sqrt(20_000))
    assert torch.allclose(z.var(0), draws.q.variance, rtol=0.1)


def test_drawing_leaves_the_global_generator_alone() -> None:
    built, x = models().values(), images()
    before = torch.get_rng_state()
    for model in built:
        PosteriorDraws(model, x, IDS, "importance", seed=0).draw(0, 100)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_slow_path_bounds_the_evidence_too() -> None:
    exact = linear_gaussian(widen=1.5)
    x = exact.images(20)
    weights = log_weights(with_laplace(exact.model), x, torch.arange(20), 3000, seed=0, chunk=4096)
    assert torch.allclose(importance_bound(weights, 3000), exact.log_p(x), rtol=0, atol=0.1)


@pytest.mark.parametrize("likelihood", ["bernoulli", "categorical", "gaussian", "discretized-gaussian"])
@pytest.mark.parametrize("prior", ["standard-normal", "mixture", "factorized-mixture"])
def test_the_bound_reaches_the_evidence_for_every_pair_of_parts(likelihood: str, prior: str) -> None:
    model = one_latent(likelihood, prior)
    with torch.no_grad():  # a wide proposal, N(0, 3²)
        model.posterior.network.output_bias.copy_(torch.tensor([0.0, math.log(9)]))
        model.posterior.network.layers[-1].weight.zero_()
    x = (torch.rand(3, 5).double() * 2.999).floor() / 2
    if likelihood == "bernoulli":
        x = x.round()
    bound = importance_bound(log_weights(model, x, torch.arange(3), 20_000, seed=0, chunk=20_000), 20_000)
    assert torch.allclose(bound, log_p_by_quadrature(model, x), rtol=0, atol=0.05)


def test_elbo_terms_add_up_and_agree_with_the_first_weights() -> None:
    model, x = linear_gaussian(shift=0.5).model, images()
    terms = elbo_terms(model, x, IDS, 2000, seed=0, purpose="importance")
    weights = log_weights(model, x, IDS, 2000, seed=0, chunk=4096)
    assert terms.rate_kind == "closed-form"
    assert torch.equal(terms.neg_elbo, terms.distortion + terms.rate)
    assert torch.allclose(terms.neg_elbo, -weights.mean(0), rtol=0, atol=0.2)


@pytest.mark.parametrize("rate", ["closed-form", "sampled"])
def test_the_variance_of_the_elbo_is_that_of_what_was_drawn(rate: str) -> None:
    model, x = models()["gaussian"], images()
    if rate == "sampled":
        model = VAE(model.posterior, model.likelihood, MixturePrior(3, components=2)).double()
    terms = elbo_terms(model, x, IDS, 50, seed=0, purpose="importance")
    drawn = log_weights(model, x, IDS, 50, seed=0, chunk=4096)
    if rate == "closed-form":  # the rate has no noise
        drawn = model.likelihood(PosteriorDraws(model, x, IDS, "importance", seed=0).draw(0, 50)).log_prob(x).detach()
    assert terms.rate_kind == rate
    assert torch.allclose(terms.variance, drawn.var(0) / 50)


def test_weights_are_summed_in_float64_even_in_a_float32_model() -> None:
    model = linear_gaussian().model.float()
    weights = log_weights(model, images().float(), IDS, 10, seed=0, chunk=100)
    assert weights.dtype == torch.float64
    huge = torch.tensor([[-1e5], [-1e5 + math.log(3.0)]], dtype=torch.float64)
    assert float(importance_bound(huge, 2)) == pytest.approx(-1e5 + math.log(2.0), abs=1e-9)


def test_importance_bound_averages_over_disjoint_blocks() -> None:
    weights = torch.tensor([1.0, 3.0, 2.0, 6.0, 100.0]).double().log().unsqueeze(1)
    assert float(importance_bound(weights, 1)) == pytest.approx(math.log(1 * 3 * 2 * 6 * 100) / 5)
    assert float(importance_bound(weights, 2)) == pytest.approx((math.log(2) + math.log(4)) / 2)  # the fifth is left over
    assert float(importance_bound(weights, 5)) == pytest.approx(math.log(112 / 5))


@pytest.mark.parametrize(
    ("samples", "points"),
    [
        (1, [1]),
        (2, [1, 2]),
        (10, [1, 10]),
        (11, [1, 10, 11]),
        (5000, [1, 10, 100, 1000, 5000]),
        (10_000, [1, 10, 100, 1000, 10_000]),
    ],
)
def test_curve_points(samples: int, points: list[int]) -> None:
    assert list(curve_points(samples)) == points
