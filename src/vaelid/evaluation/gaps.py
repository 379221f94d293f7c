"""Where the ELBO loses: the family of q, or the encoder that picks from it.

    log p(x) − ELBO[q]  =  (log p(x) − ELBO[q*])  +  (ELBO[q*] − ELBO[q])
      inference gap          approximation gap         amortization gap

q* is the best diagonal Gaussian for this one image, found by gradient ascent on its own mean and log variance from the encoder's
output. ``log p(x)`` is an estimate from elsewhere (AIS). All of it in nats per image.

The errors have signs: in expectation the estimate of log p(x) is too low, and q* is not quite the best. So amortization is
understated; approximation is overstated by what the ascent missed, and understated by what the estimate missed.

References:
    Cremer, Li & Duvenaud 2018, Inference Suboptimality in Variational Autoencoders.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from vaelid.data import Split
from vaelid.distributions import diagonal_normal, normal_coordinates
from vaelid.errors import DataError, PartError, SettingError
from vaelid.evaluation.collect import Arrays, Save, Tick, collect, mean_se, rows_at_once
from vaelid.evaluation.plans import identity_of, require_at_least
from vaelid.progress import Reporter
from vaelid.randomness import key, normal
from vaelid.vae import VAE


@dataclass(frozen=True)
class GapPlan:
    """How to look for q*, and how to judge it.

    Attributes:
        steps: of Adam; the step size falls linearly to 0
        lr: its step size at first, for μ/σ and log σ² alike
        samples: draws per image and step, in antithetic pairs
        evaluation_samples: fresh draws per image for both ELBOs, the same noise for both
        seed: names the noise
        images: at most so many at once; of no influence on the numbers but for rounding
    """

    steps: int = 300
    lr: float = 0.1
    samples: int = 16
    evaluation_samples: int = 1000
    seed: int = 0
    images: int = 100

    def __post_init__(self) -> None:
        require_at_least(self, steps=0, samples=2, evaluation_samples=4, images=1)
        for name in ("samples", "evaluation_samples"):
            if getattr(self, name) % 2:
                raise SettingError(f"{name} must be even, as draws come in pairs; it is {getattr(self, name)}.")

    def identity(self) -> dict[str, Any]:
        """What the per-image numbers depend on."""
        return identity_of(self)


def gap_images(
    model: VAE, split: Split, plan: GapPlan, reporter: Reporter, start: Arrays | None = None, save: Save | None = None
) -> Arrays:
    """ELBO of the encoder's q and of the best q* for every image of ``split``, in its order.

    Returns:
        ``elbo``, ``best_elbo`` (N,) nats; Monte Carlo variances ``elbo_variance``, ``best_elbo_variance``, and ``gain_variance``
        of their difference.

    Raises:
        PartError: if q(z|x) is no diagonal Gaussian; the search has no other family.
    """
    model.eval()

    def work(positions: Tensor, tick: Tick) -> dict[str, Tensor]:
        x = split.batch(positions).to(next(model.parameters()).dtype)
        return best_gaussian(model, x, split.indices[positions.to(split.device)], plan, tick)

    together = max(1, min(plan.images, rows_at_once(model) // plan.samples))
    return collect(len(split), together, plan.steps + 1, work, reporter, f"best q for {split.name}", start, save)


def best_gaussian(model: VAE, x: Tensor, ids: Tensor, plan: GapPlan, tick: Tick | None = None) -> dict[str, Tensor]:
    """The same for a batch ``(B, *X)``; also ``mean`` and ``scale`` ``(B, L)`` of q*."""
    with torch.no_grad():
        prior, q = model.prior(), model.posterior(x)
    normals = normal_coordinates(q)
    if normals is None:
        raise PartError(f"The gaps are split for a diagonal Gaussian q(z|x); this one is {type(q).__name__}.")
    first_mean, first_scale = normals.loc, normals.scale
    # In units of the encoder's own scale, one step size suits narrow and wide latents alike.
    shift, log_variance = torch.zeros_like(first_mean), torch.zeros_like(first_scale)
    parameters = [shift.requires_grad_(), log_variance.requires_grad_()]
    adam, pairs = torch.optim.Adam(parameters, lr=plan.lr), torch.arange(plan.samples // 2)
    for step in range(plan.steps):
        for group in adam.param_groups:
            group["lr"] = plan.lr * (1 - step / plan.steps)
        mean, scale = first_mean + first_scale * shift, first_scale * (0.5 * log_variance).exp()
        noise = _antithetic("gap ascent", plan.seed, step, pairs, ids, mean)
        loss = -_elbo_terms(model, prior, x, mean, scale, noise).mean(0).sum()
        shift.grad, log_variance.grad = torch.autograd.grad(loss, parameters)
        adam.step()
        if tick is not None:
            tick()
    with torch.no_grad():
        mean, scale = first_mean + first_scale * shift, first_scale * (0.5 * log_variance).exp()
        found = _judged(model, prior, x, ids, ((first_mean, first_scale), (mean, scale)), plan)
    if tick is not None:
        tick()
    return found | {"mean": mean, "scale": scale}


def summarize_gaps(values: Arrays, log_p: np.ndarray, plan: GapPlan) -> dict[str, Any]:
    """Mean gaps with standard errors over images.

    Args:
        log_p: estimates of log p(x) of the same images, e.g. ``-ais["nll"]``

    Raises:
        DataError: if the two are not of equally many images.
    """
    elbo, best = values["elbo"], values["best_elbo"]
    if log_p.shape != elbo.shape:
        raise DataError(f"The gaps need log p(x) of the same images: {len(elbo)} ELBOs and {len(log_p)} estimates came.")
    gain_error = float(values["gain_variance"].sum() ** 0.5 / len(elbo))
    return {
        "inference": mean_se(log_p - elbo),
        "approximation": mean_se(log_p - best),
        "amortization": {**mean_se(best - elbo), "monte_carlo_se": gain_error},
        "elbo": mean_se(elbo),
        "best_elbo": mean_se(best),
        "log_p": mean_se(log_p),
        "family": "diagonal Gaussian",
        "plan": plan.identity(),
        "images": len(elbo),
    }


def _elbo_terms(model: VAE, prior: Distribution, x: Tensor, mean: Tensor, scale: Tensor, noise: Tensor) -> Tensor:
    """log p(x, z) + entropy of q for z = μ + σ ε, ``(S, B)``: averages to the ELBO, whatever the prior."""
    z = mean + scale * noise
    entropy = diagonal_normal(mean, scale).entropy()
    return model.likelihood(z).log_prob(x) + prior.log_prob(z) + entropy


def _judged(
    model: VAE, prior: Distribution, x: Tensor, ids: Tensor, gaussians: tuple[tuple[Tensor, Tensor], ...], plan: GapPlan
) -> dict[str, Tensor]:
    """Means over fresh noise, common to q and q*; the mean of an antithetic pair is one observation."""
    half = plan.evaluation_samples // 2
    together = max(1, rows_at_once(model) // (2 * len(x)))
    pieces: list[list[Tensor]] = [[], []]
    for first in range(0, half, together):
        pairs = torch.arange(first, min(first + together, half))
        noise = _antithetic("gap evaluation", plan.seed, 0, pairs, ids, gaussians[0][0])
        for found, (mean, scale) in zip(pieces, gaussians, strict=True):
            terms = _elbo_terms(model, prior, x, mean, scale, noise).double()
            found.append(0.5 * (terms[: len(pairs)] + terms[len(pairs) :]))
    encoder, best = (torch.cat(found) for found in pieces)
    return {
        "elbo": encoder.mean(0),
        "best_elbo": best.mean(0),
        "elbo_variance": encoder.var(0) / half,
        "best_elbo_variance": best.var(0) / half,
        "gain_variance": (best - encoder).var(0) / half,
    }


def _antithetic(purpose: str, seed: int, step: int, pairs: Tensor, ids: Tensor, like: Tensor) -> Tensor:
    """Noise ε and then −ε for the draws numbered ``pairs`` ``(S/2,)`` of each image, ``(S, B, L)``; ``like`` is ``(B, L)``."""
    keys = key(purpose, seed, step, pairs.to(ids.device).unsqueeze(1), ids, device=ids.device)
    noise = normal(keys, like.shape[-1]).to(like.dtype)
    return torch.cat((noise, -noise))
