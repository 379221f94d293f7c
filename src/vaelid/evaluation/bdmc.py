"""Bidirectional Monte Carlo (BDMC): the measured error of an evaluation, on images that the model itself has drawn.

    z0 ~ p(z),  x ~ p(x|z0)   makes z0 an exact draw from the posterior p(z|x): the one thing that real images lack.

    lower = log (1/M) Σ ŵ_m           AIS up the path                              E[lower] ≤ log p(x)
    upper = −log (1/M) Σ 1/ŵ_m        AIS down the path, all chains from z0        E[upper] ≥ log p(x)

So the mean of ``upper − lower`` bounds how far the AIS estimate, with these very settings, is below log p(x) on average, and
``upper − importance`` does the same for the importance-weighted bound. It holds for the model's own images; real ones that the
model fits badly can be harder.

References:
    Grosse, Ghahramani & Adams 2015, Sandwiching the marginal likelihood using bidirectional Monte Carlo;
    Wu, Burda, Salakhutdinov & Grosse 2017, On the Quantitative Analysis of Decoder-Based Generative Models.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from vaelid.evaluation.ais import STARTS, AisPlan, AnnealingPath, anneal, batch_of, forward_values, keyed_draws, tune
from vaelid.evaluation.collect import Arrays, Save, Tick, collect, mean_se, rows_at_once
from vaelid.evaluation.likelihood import importance_bound, log_weights
from vaelid.progress import Reporter
from vaelid.vae import VAE

#: Its entry in results.json, which is about the model and no split.
BDMC = "bdmc"


@torch.no_grad()
def simulate(model: VAE, ids: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Latents ``(B, L)`` from the prior and images ``(B, *X)`` from p(x|z); each depends on (seed, its id) alone."""
    prior = model.prior()

    def draw() -> tuple[Tensor, Tensor]:
        z = prior.sample((1,))
        return z, model.likelihood(z.unsqueeze(0)).sample()[0]

    latents, images = zip(*keyed_draws(draw, "simulated image", seed, ids), strict=True)
    return torch.cat(latents), torch.cat(images)


def bdmc_images(
    model: VAE,
    count: int,
    plan: AisPlan,
    reporter: Reporter,
    samples: int = 0,
    start: Arrays | None = None,
    save: Save | None = None,
) -> Arrays:
    """Both bounds on ``count`` simulated images.

    Args:
        plan: of the annealing that is to be judged
        samples: K of an importance-weighted bound to be judged beside; 0 for none
        start, save: as for :func:`vaelid.evaluation.ais.ais_images`

    Returns:
        ``lower`` and ``upper`` bounds on log p(x), ``importance`` (K > 0), and acceptances, each (count,).
    """
    model.eval()
    device, rows = next(model.parameters()).device, rows_at_once(model)

    def work(positions: Tensor, tick: Tick) -> dict[str, Tensor]:
        ids = positions.to(device)
        z0, x = simulate(model, ids, plan.seed)
        path = AnnealingPath(model, x, ids, plan.start)
        steps = tune(path, plan, tick)
        seen = forward_values(path, plan, steps, tick)
        log_inverse, _ = anneal(path, z0.expand(plan.chains, -1, -1), plan, steps, "ais reverse", reverse=True, tick=tick)
        found = {"lower": -seen["nll"], "upper": math.log(plan.chains) - torch.logsumexp(log_inverse, 0)}
        if samples:
            found["importance"] = importance_bound(log_weights(model, x, ids, samples, plan.seed, rows), samples)
        return found | {name: seen[name] for name in ("acceptance", "least_acceptance") if name in seen}

    ticks = plan.ticks + plan.steps
    return collect(count, batch_of(model, plan), ticks, work, reporter, "annealing both ways", start, save)


def summarize_bdmc(values: Arrays, plan: AisPlan, samples: int = 0) -> dict[str, Any]:
    """Means of both bounds and of their gap with paired standard errors over images, in nats."""
    lower, upper = values["lower"], values["upper"]
    results = {
        "lower": mean_se(lower),
        "upper": mean_se(upper),
        "gap": {**mean_se(upper - lower), "largest": float((upper - lower).max())},
        "name": f"bidirectional Monte Carlo from {STARTS[plan.start]}, {plan.steps} steps, {plan.chains} chains",
        "direction": "the gap bounds the mean error of AIS from above, in expectation, on the model's own images",
        "plan": plan.identity(),
        "images": len(lower),
    }
    if "importance" in values:
        results["importance"] = {
            "samples": samples,
            "bound": mean_se(values["importance"]),
            "below_lower": mean_se(lower - values["importance"]),
            "below_upper": mean_se(upper - values["importance"]),
        }
    return results
