"""Trouble, said in plain words while it happens. Each check reads the epochs' figures and says nothing when all is well."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.distributions import Distribution

from vaelid.distributions import FactorizedGaussianMixture, GaussianMixture

Line = Mapping[str, Any]


def collapse(history: Sequence[Line]) -> str:
    """The latents carry next to nothing."""
    rate = history[-1]["rate"]
    if len(history) >= 3 and rate < 0.1:
        return f"rate is {rate:.3f} nats: the posterior ignores the image (collapse). Try objective.warmup or a smaller beta."
    return ""


def dead_latents(history: Sequence[Line]) -> str:
    """More than half of the latents are unused."""
    active, latent = history[-1]["active_units"], history[-1]["latent"]
    if len(history) >= 10 and active is not None and 2 * active < latent:
        return f"only {active} of {latent} latents are active: fewer would do (model.latent), or try objective.warmup."
    return ""


def dead_components(history: Sequence[Line]) -> str:
    """Mixture components that are practically never drawn."""
    dead = history[-1]["dead_components"]
    if len(history) >= 10 and dead:
        have = "has" if dead == 1 else "have"
        return f"{dead} of the prior's components {have} less than a hundredth of an equal share of the weight (dead)."
    return ""


def exploding(history: Sequence[Line]) -> str:
    """The gradient is far above its usual size."""
    norms = [line["grad_norm"] for line in history]
    usual = sorted(norms)[len(norms) // 2]
    if len(norms) >= 3 and norms[-1] > 20 * usual > 0:
        times = f"{norms[-1] / usual:.0f} times its median"
        return f"gradient norm {norms[-1]:.3g} is {times} (exploding): try a smaller lr or training.clip_norm."
    return ""


CHECKS: tuple[Callable[[Sequence[Line]], str], ...] = (collapse, dead_latents, dead_components, exploding)


def troubles(history: Sequence[Line]) -> list[str]:
    """What is wrong after the last of these epochs, one sentence each; the same trouble is not repeated every epoch."""
    now = [check(history) for check in CHECKS]
    before = [check(history[:-1]) if len(history) > 1 else "" for check in CHECKS]
    return [sentence for sentence, earlier in zip(now, before, strict=True) if sentence and not earlier]


def count_dead_components(prior: Distribution) -> int:
    """Components with less than 1 % of an equal share; 0 for a prior without learned weights."""
    if not isinstance(prior, GaussianMixture | FactorizedGaussianMixture):
        return 0
    weights = prior.log_weights
    return int((weights < math.log(0.01 / len(weights))).sum())
