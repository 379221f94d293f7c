"""The model and the pass."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributions import Distribution

from small_parts import LATENT, SHAPE, build_vae, pixels, support_of
from vaelid.distributions import LevelCategorical, diagonal_normal
from vaelid.errors import DataError, SettingError, SupportError
from vaelid.likelihoods import LIKELIHOODS, BernoulliLikelihood
from vaelid.networks import MLP
from vaelid.posteriors import GaussianPosterior
from vaelid.priors import PRIORS, MixturePrior, StandardNormalPrior
from vaelid.recipe import Part
from vaelid.supports import BINARY
from vaelid.vae import VAE, Latent, Pass

each_likelihood = pytest.mark.parametrize("likelihood", LIKELIHOODS)
each_prior = pytest.mark.parametrize("prior", PRIORS)


@each_likelihood
@each_prior
def test_shapes(likelihood: str, prior: str) -> None:
    model, x = build_vae(likelihood=Part(likelihood), prior=Part(prior)), pixels(support_of(likelihood), 5)
    seen = model(x, samples=3)
    assert seen.latents[0].z.shape == (3, 5, LATENT)
    for densities in (seen.log_likelihood, seen.log_prior, seen.log_posterior, seen.log_weight):
        assert densities.shape == (3, 5)
        assert densities.dtype == torch.float64
    for per_image in (seen.distortion, seen.rate, seen.sampled_rate, model.elbo(x)):
        assert per_image.shape == (5,)
    assert model.encode(x).batch_shape == (5,)
    assert model.reconstruct(x).shape == (5, *SHAPE)
    samples = model.sample(7)
    assert samples.z.shape == (7, LATENT)
    assert samples.means.shape == samples.draws.shape == (7, *SHAPE)
    assert not samples.means.requires_grad
    assert not support_of(likelihood).outside(samples.draws).any()


@each_prior
def test_the_pass_adds_up(prior: str) -> None:
    model, x = build_vae(prior=Part(prior)), pixels(BINARY, 5)
    seen = model(x, samples=4)
    z = seen.latents[0].z
    torch.testing.assert_close(seen.log_likelihood, model.likelihood(z).log_prob(x))
    torch.testing.assert_close(seen.log_prior, model.prior().log_prob(z))
    torch.testing.assert_close(seen.log_posterior, model.posterior(x).log_prob(z))
    torch.testing.assert_close(seen.log_weight, seen.log_likelihood + seen.log_prior - seen.log_posterior)
    torch.testing.assert_close(seen.distortion, -seen.log_likelihood.mean(0))
    torch.testing.assert_close(seen.sampled_rate, (seen.log_posterior - seen.log_prior).mean(0))
    assert seen.rate_kind == ("closed-form" if prior == "standard-normal" else "sampled")
    assert torch.equal(seen.rate, seen.sampled_rate) == (seen.rate_kind == "sampled")


def test_rates_of_several_latents_add_up() -> None:
    """``closed-form`` only if it is so for each of them."""
    q, p = diagonal_normal(torch.ones(5, 2), torch.ones(5, 2)), StandardNormalPrior(2)()
    known, sampled = Latent(q.rsample((3,)), q, p), Latent(q.rsample((3,)), q, MixturePrior(2)())
    x, pixel = torch.zeros(5, 1), LevelCategorical(torch.zeros(3, 5, 1, 2), 1)
    both = Pass(x, (known, known), pixel)
    torch.testing.assert_close(both.rate, torch.full((5,), 2.0))  # ½ (1 + 1 − 1 − 0), two dimensions, two latents
    torch.testing.assert_close(both.log_prior, 2 * known.log_prior)
    assert both.rate_kind == "closed-form"
    mixed = Pass(x, (known, sampled), pixel)
    torch.testing.assert_close(mixed.rate, known.rate + sampled.sampled_rate)
    torch.testing.assert_close(mixed.log_posterior, known.log_posterior + sampled.log_posterior)
    assert mixed.rate_kind == "sampled"


def test_elbo_and_its_reductions() -> None:
    model, x = build_vae(), pixels(BINARY, 5)

    def seeded(reduction: str) -> torch.Tensor:
        torch.manual_seed(1)
        return model.neg_elbo(x, reduction, samples=2)

    torch.manual_seed(1)
    elbo = model.elbo(x, samples=2)
    torch.testing.assert_close(seeded("none"), -elbo)
    torch.testing.assert_close(seeded("sum"), -elbo.sum())
    torch.testing.assert_close(seeded("mean"), -elbo.mean())
    with pytest.raises(SettingError, match=r"no reduction named 'men'\.\nDid you mean 'mean'"):
        seeded("men")


def test_samples_come_from_the_prior_and_then_from_the_likelihood() -> None:
    """With p(z) far from the origin, the logits show where z was; 5 standard errors."""
    model = build_vae(prior=Part("mixture", {"components": 2}), decoder=Part("mlp", {"hidden": ()}))
    with torch.no_grad():
        model.prior.mean.copy_(torch.tensor([[-30.0, 0.0], [30.0, 0.0]]))
        model.likelihood.network.layers[0].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
        model.likelihood.network.output_bias.copy_(torch.tensor([0.0, 2.0]))
    samples = model.sample(4000)
    torch.testing.assert_close(samples.means, model.likelihood(samples.z[None]).mean[0].detach())
    assert torch.equal(samples.draws[:, 0, 0] == 1, samples.z[:, 0] > 0)
    assert abs(float(samples.draws[:, 0, 0].mean()) - 0.5) < 5 * 0.5 / 4000**0.5
    p = 1 / (1 + torch.tensor(-2.0).exp())
    assert abs(float(samples.draws[:, 0, 1].mean() - p)) < 5 * float((p * (1 - p) / 4000).sqrt())


def test_a_reconstruction_is_decoded_from_the_posterior_mean() -> None:
    model, x = build_vae(), pixels(BINARY, 5)
    torch.testing.assert_close(model.reconstruct(x), model.decode(model.encode(x).mean.detach()).means)


def test_draws_are_reparameterized() -> None:
    model = build_vae()
    model(pixels(BINARY, 5)).latents[0].z.sum().backward()
    assert all(p.grad is not None for p in model.posterior.parameters())


@pytest.mark.parametrize("method", ["encode", "reconstruct", "elbo", "neg_elbo"])
def test_wrong_images_are_refused(method: str) -> None:
    call = getattr(build_vae(), method)
    with pytest.raises(DataError, match=r"takes images of shape \(1, 2\); a batch of shape \(5, 2, 1\) came"):
        call(torch.zeros(5, 2, 1).double())
    with pytest.raises(DataError, match=r"must be floating-point; a batch of torch.uint8 came.\nScale bytes"):
        call(torch.zeros(5, *SHAPE, dtype=torch.uint8))
    with pytest.raises(SupportError, match=r"the value at index \(0, 0, 0\) is 0.5 .*\nGray pixels have no Bernoulli likelihood"):
        call(torch.full((5, *SHAPE), 0.5).double())


def test_repr_shows_the_composition_and_counts_parameters() -> None:
    model = VAE(
        posterior=GaussianPosterior(MLP((1, 2), 6, hidden=(8,)), latent=3),
        likelihood=BernoulliLikelihood(MLP((3,), 2, hidden=(8,)), shape=(1, 2)),
        prior=MixturePrior(latent=3, components=200),
    )
    assert repr(model) == (
        "VAE(1,528 parameters\n"
        "  posterior: GaussianPosterior, 78 parameters, MLP(2-8-6)\n"
        "  likelihood: BernoulliLikelihood, 50 parameters, MLP(3-8-2)\n"
        "  prior: MixturePrior, 1,400 parameters\n"
        ")"
    )


@each_likelihood
def test_float64_gives_the_numbers_of_float32_with_more_digits(likelihood: str) -> None:
    model, x = build_vae(likelihood=Part(likelihood)), pixels(support_of(likelihood), 5)
    q = model.posterior(x)
    z = q.sample((3,))
    double = model.look(x, q, z).log_weight.detach()
    single = model.float()
    seen = single.look(x.float(), single.posterior(x.float()), z.float()).log_weight.detach()
    assert seen.dtype == torch.float32
    torch.testing.assert_close(seen.double(), double, rtol=1e-4, atol=1e-4)


def test_any_posterior_that_can_be_differentiated_will_do() -> None:
    class Whole(GaussianPosterior):
        def forward(self, x: torch.Tensor) -> Distribution:
            mean = super().forward(x).mean
            return torch.distributions.MultivariateNormal(mean, torch.eye(LATENT, dtype=x.dtype))

    model = build_vae()
    model.posterior = Whole(model.posterior.network, LATENT)
    seen = model(pixels(BINARY, 5), samples=3)
    assert seen.rate_kind == "sampled"
    assert seen.log_weight.isfinite().all()
    assert isinstance(model.posterior, nn.Module)
