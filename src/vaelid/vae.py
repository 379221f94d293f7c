"""The model: three modules that return distributions, and the *pass* that holds what they said about a batch.

    x ──> posterior(x) = q(z|x) ── K samples ──> z ──> likelihood(z) = p(x|z),   prior() = p(z)

Notation: B batch, K samples per image, L latent dimensions, *X image shape. All densities are natural logs (nats), summed over
event dimensions and nothing else. log w = log p(x|z) + log p(z) − log q(z|x); E_q[w] = p(x).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vaelid.distributions import closed_form_kl
from vaelid.errors import DataError
from vaelid.likelihoods import Likelihood
from vaelid.posteriors import Posterior
from vaelid.priors import Prior
from vaelid.settings import unknown

RateKind = Literal["closed-form", "sampled"]


@dataclass(frozen=True)
class Latent:
    """One latent variable in a pass: its samples, and the two distributions that judge them."""

    z: Tensor  # (K, B, L)
    posterior: Distribution
    prior: Distribution

    @cached_property
    def log_posterior(self) -> Tensor:
        """log q(z|x), ``(K, B)`` nats."""
        return self.posterior.log_prob(self.z)

    @cached_property
    def log_prior(self) -> Tensor:
        """log p(z), ``(K, B)`` nats."""
        return self.prior.log_prob(self.z)

    @cached_property
    def closed_form_rate(self) -> Tensor | None:
        """KL(q(z|x) ‖ p(z)) by its formula, ``(B,)`` nats; None where none is registered."""
        return closed_form_kl(self.posterior, self.prior)

    @cached_property
    def sampled_rate(self) -> Tensor:
        """KL(q(z|x) ‖ p(z)) as the mean of log q − log p over the K samples, ``(B,)`` nats."""
        return (self.log_posterior - self.log_prior).mean(0)

    @property
    def rate_kind(self) -> RateKind:
        """How :attr:`rate` is computed."""
        return "sampled" if self.closed_form_rate is None else "closed-form"

    @property
    def rate(self) -> Tensor:
        """KL(q(z|x) ‖ p(z)), ``(B,)`` nats: closed form where known, else sampled; ``rate_kind`` says which."""
        return self.sampled_rate if self.closed_form_rate is None else self.closed_form_rate


@dataclass(frozen=True)
class Pass:
    """All that one look at a batch produced. Everything is computed from its distributions when first asked for."""

    x: Tensor  # (B, *X)
    latents: tuple[Latent, ...]
    likelihood: Distribution  # batch (K, B), event *X

    @cached_property
    def log_likelihood(self) -> Tensor:
        """log p(x|z), ``(K, B)`` nats."""
        return self.likelihood.log_prob(self.x)

    @property
    def log_prior(self) -> Tensor:
        """log p(z), ``(K, B)`` nats."""
        return _total([latent.log_prior for latent in self.latents])

    @property
    def log_posterior(self) -> Tensor:
        """log q(z|x), ``(K, B)`` nats."""
        return _total([latent.log_posterior for latent in self.latents])

    @property
    def log_weight(self) -> Tensor:
        """log w = log p(x|z) + log p(z) − log q(z|x), ``(K, B)`` nats."""
        return self.log_likelihood + self.log_prior - self.log_posterior

    @property
    def distortion(self) -> Tensor:
        """−E_q[log p(x|z)] over the K samples, ``(B,)`` nats."""
        return -self.log_likelihood.mean(0)

    @property
    def rate(self) -> Tensor:
        """KL(q(z|x) ‖ p(z)), ``(B,)`` nats; see :attr:`rate_kind`."""
        return _total([latent.rate for latent in self.latents])

    @property
    def sampled_rate(self) -> Tensor:
        """The same, always from the samples, ``(B,)`` nats."""
        return _total([latent.sampled_rate for latent in self.latents])

    @property
    def rate_kind(self) -> RateKind:
        """``closed-form`` only if the formula is known for every latent."""
        closed = all(latent.rate_kind == "closed-form" for latent in self.latents)
        return "closed-form" if closed else "sampled"


@dataclass(frozen=True)
class Samples:
    """Images from the model: latents, the means of p(x|z), and draws from p(x|z)."""

    z: Tensor  # (n, L)
    means: Tensor  # (n, *X)
    draws: Tensor  # (n, *X)


class VAE(nn.Module):
    """A variational autoencoder: q(z|x), p(x|z) and p(z).

    >>> from vaelid import MLP, BernoulliLikelihood, GaussianPosterior, MixturePrior
    >>> model = VAE(
    ...     posterior=GaussianPosterior(MLP((1, 2, 2), 2 * 3, hidden=(8,)), latent=3),
    ...     likelihood=BernoulliLikelihood(MLP((3,), 4, hidden=(8,)), shape=(1, 2, 2)),
    ...     prior=MixturePrior(latent=3, components=2),
    ... )
    >>> x = torch.zeros(5, 1, 2, 2)
    >>> model(x, samples=7).log_weight.shape
    torch.Size([7, 5])
    >>> model.elbo(x).shape
    torch.Size([5])
    """

    def __init__(self, posterior: Posterior, likelihood: Likelihood, prior: Prior) -> None:
        super().__init__()
        self.posterior = posterior
        self.likelihood = likelihood
        self.prior = prior

    def forward(self, x: Tensor, samples: int = 1) -> Pass:
        """Look at a batch ``(B, *X)`` with K = ``samples`` reparameterized draws per image. Inputs are not checked here."""
        q = self.posterior(x)
        return self.look(x, q, q.rsample((samples,)))

    def look(self, x: Tensor, q: Distribution, z: Tensor) -> Pass:
        """The pass of given latents ``z`` ``(K, B, L)`` under ``q`` = posterior(x)."""
        return Pass(x, (Latent(z, q, self.prior()),), self.likelihood(z))

    def check(self, x: Tensor) -> None:
        """Refuse images of the wrong type or shape, or outside the likelihood's support.

        Raises:
            DataError: names the type or shape that came, or the offending value, its index, and the remedy.
        """
        if not x.is_floating_point():
            raise DataError(f"Images must be floating-point; a batch of {x.dtype} came.", "Scale bytes to [0, 1]: x / 255.")
        shape = tuple(self.likelihood.shape)
        if tuple(x.shape[1:]) != shape:
            raise DataError(f"The model takes images of shape {shape}; a batch of shape {tuple(x.shape)} came.")
        self.likelihood.support.check(x, self.likelihood.remedy)

    def encode(self, x: Tensor) -> Distribution:
        """q(z|x) for images ``(B, *X)``."""
        self.check(x)
        return self.posterior(x)

    def reconstruct(self, x: Tensor) -> Tensor:
        """Means of p(x|z) at the posterior mean of each image, ``(B, *X)``."""
        return self.likelihood(self.encode(x).mean.unsqueeze(0)).mean.squeeze(0)

    @torch.no_grad()
    def sample(self, n: int) -> Samples:
        """Draw ``n`` latents from the prior, and decode them into pixel means and pixel draws."""
        return self.decode(self.prior().sample((n,)))

    @torch.no_grad()
    def decode(self, z: Tensor) -> Samples:
        """Pixel means and draws of p(x|z) for latents ``(n, L)``."""
        pixels = self.likelihood(z.unsqueeze(0))
        return Samples(z, pixels.mean.squeeze(0), pixels.sample().squeeze(0))

    def elbo(self, x: Tensor, samples: int = 1) -> Tensor:
        """E_q[log p(x|z)] − KL(q‖p) per image, ``(B,)`` nats: a lower bound on log p(x) in expectation."""
        self.check(x)
        seen = self(x, samples)
        return -seen.distortion - seen.rate

    def neg_elbo(self, x: Tensor, reduction: Literal["mean", "sum", "none"] = "mean", samples: int = 1) -> Tensor:
        """−ELBO in nats, averaged, summed, or per image. It is an upper bound on the NLL in expectation, not the NLL.

        Raises:
            SettingError: for an unknown reduction.
        """
        if reduction not in REDUCTIONS:
            raise unknown("reduction", reduction, REDUCTIONS)
        return REDUCTIONS[reduction](-self.elbo(x, samples))

    def __repr__(self) -> str:
        """The composition, with the number of trained parameters of each part."""
        lines = [
            f"  {name}: {type(part).__name__}, {_parameters(part):,} parameters{_networks(part)}"
            for name, part in self.named_children()
        ]
        return "\n".join([f"VAE({_parameters(self):,} parameters", *lines, ")"])


REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {"mean": torch.mean, "sum": torch.sum, "none": torch.clone}


def _total(terms: list[Tensor]) -> Tensor:
    return terms[0] if len(terms) == 1 else torch.stack(terms).sum(0)


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _networks(part: nn.Module) -> str:
    nets = [m for name, m in part.named_modules() if name.rsplit(".", 1)[-1] == "network"]
    return "".join(f", {type(net).__name__}({net.extra_repr()})" for net in nets)
