"""What the latents say about the images taken together: the aggregate posterior q(z) = (1/N) Σ_n q(z|x_n) over a whole split.

    mean rate  (1/N) Σ_n KL(q(z|x_n) ‖ p(z))  =  I(n; z)  +  KL(q(z) ‖ p(z))
    I(n; z)         E_n E_q(z|x_n) [log q(z|x_n) − log q(z)]      how well z tells which image it came from: 0 … log N
    KL(q(z) ‖ p(z)) E_n E_q(z|x_n) [log q(z) − log p(z)]          how far the prior is from what the encoder gives in all

All N images stand in the mixture, so there is no bias from a subset; draws of z are the only noise. But I(n; z) is about these N
images: it cannot exceed log N, the *ceiling*, and once it is near (as it is for most models of a few thousand images) it says
that images are told apart, not how much z knows about an image; the marginal KL is then too large by what is missing. Compare
only splits of equal size.

References:
    Hoffman & Johnson 2016, ELBO surgery: yet another way to carve up the variational evidence lower bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from vaelid.data import Split
from vaelid.distributions import normal_coordinates
from vaelid.evaluation.collect import Arrays, Save, Tick, collect, mean_se
from vaelid.evaluation.likelihood import PosteriorDraws
from vaelid.evaluation.plans import identity_of, require_at_least
from vaelid.progress import Reporter
from vaelid.vae import VAE

#: I(n; z) closer to log N than this (nats) is said to be at the ceiling.
_NEAR_CEILING = 0.5
_ENCODED, _ROWS = 500, 8192  # images encoded, and draws judged, at once


@dataclass(frozen=True)
class AggregatePlan:
    """``samples``: draws of z per image, two or more for a standard error; ``seed`` names the noise; ``images`` are looked at
    together (of no influence on the numbers but for rounding)."""

    samples: int = 2
    seed: int = 0
    images: int = 200

    def __post_init__(self) -> None:
        require_at_least(self, samples=2, images=1)

    def identity(self) -> dict[str, Any]:
        """What the per-image numbers depend on."""
        return identity_of(self)


def aggregate_images(
    model: VAE, split: Split, plan: AggregatePlan, reporter: Reporter, start: Arrays | None = None, save: Save | None = None
) -> Arrays:
    """Per-image contributions, means over the draws of z: ``information`` and ``marginal_kl`` (N,) nats.

    Their sum is the sampled rate of the image. Also the Monte Carlo variances ``information_variance``, ``marginal_kl_variance``,
    ``rate_variance`` of these means.
    """
    model.eval()
    dtype = next(model.parameters()).dtype
    with torch.no_grad():
        batches = [model.posterior(split.batch(at).to(dtype)) for at in torch.arange(len(split)).split(_ENCODED)]
    log_aggregate, prior = log_mixture(batches), model.prior()

    @torch.no_grad()
    def work(positions: Tensor, tick: Tick) -> dict[str, Tensor]:
        ids = split.indices[positions.to(split.device)]
        draws = PosteriorDraws(model, split.batch(positions).to(dtype), ids, "aggregate", plan.seed)
        z = draws.draw(0, plan.samples)
        own, prior_density = draws.q.log_prob(z).double(), prior.log_prob(z).double()
        aggregate = log_aggregate(z.flatten(0, 1)).view(plan.samples, -1)
        tick()
        terms = {"information": own - aggregate, "marginal_kl": aggregate - prior_density, "rate": own - prior_density}
        found = {name: value.mean(0) for name, value in terms.items() if name != "rate"}
        return found | {f"{name}_variance": value.var(0) / plan.samples for name, value in terms.items()}

    return collect(len(split), plan.images, 1, work, reporter, f"aggregate posterior of {split.name}", start, save)


def summarize_aggregate(values: Arrays, plan: AggregatePlan) -> dict[str, Any]:
    """The two parts of the mean rate with Monte Carlo standard errors (over draws of z; the images are all there are)."""
    information, marginal = values["information"], values["marginal_kl"]
    ceiling, count = math.log(len(information)), len(information)
    sizes = {"mutual_information": information, "marginal_kl": marginal, "rate": information + marginal}
    errors = {"mutual_information": "information_variance", "marginal_kl": "marginal_kl_variance", "rate": "rate_variance"}
    return {
        **{
            name: {"value": float(size.mean()), "monte_carlo_se": float(values[errors[name]].sum() ** 0.5 / count)}
            for name, size in sizes.items()
        },
        "ceiling": ceiling,
        "at_ceiling": bool(information.mean() > ceiling - _NEAR_CEILING),
        "rate_over_images": mean_se(information + marginal),
        "name": "mutual information of image and latent, and KL of the aggregate posterior, over the whole split",
        "plan": plan.identity(),
        "images": count,
    }


def log_mixture(batches: list[Distribution]) -> Callable[[Tensor], Tensor]:
    """log (1/N) Σ_n q_n(z) as a function ``(R, L) -> (R,)`` nats, float64, for N distributions that come in batches."""
    count = sum(q.batch_shape[0] for q in batches)
    log_components = [_gaussian_log_probs(q) or _any_log_probs(q) for q in batches]

    def log_density(z: Tensor) -> Tensor:
        pieces = [
            torch.logsumexp(torch.stack([torch.logsumexp(f(part), dim=1) for f in log_components]), dim=0)
            for part in z.split(_ROWS)
        ]
        return torch.cat(pieces) - math.log(count)

    return log_density


def _gaussian_log_probs(q: Distribution) -> Callable[[Tensor], Tensor] | None:
    """log q_n(z_r), ``(R, L) -> (R, B)``, as one matrix product; None if they are no diagonal Gaussians.

    In float64: −½ Σ (z/σ)² − … is a difference of large numbers where σ is small.
    """
    normals = normal_coordinates(q)
    if normals is None:
        return None
    mean, scale = normals.loc.double(), normals.scale.double()
    precision = scale.pow(-2)
    weights = torch.cat((-0.5 * precision, precision * mean), dim=1).T.contiguous()  # (2 L, B)
    constant = (-0.5 * precision * mean.square() - scale.log() - 0.5 * math.log(2 * math.pi)).sum(1)

    def log_probs(z: Tensor) -> Tensor:
        z = z.double()
        return torch.addmm(constant, torch.cat((z.square(), z), dim=1), weights)

    return log_probs


def _any_log_probs(q: Distribution) -> Callable[[Tensor], Tensor]:
    return lambda z: q.log_prob(z.unsqueeze(1)).double()  # (R, 1, L) against batch (B,)
