"""What is needed to believe an importance-weighted bound: how far from converged it is, and how much of it is luck.

From the log weights of one image, log w_1 … log w_K:

    ESS      (Σ w)² / Σ w²               effective sample size, 1 … K
    k̂        of the largest 3√K weights  shape of a generalized Pareto; above 0.7 weights not yet seen rule the average
    gain     L_K − L_{K/2}               what the last doubling brought (L_{K/2}: mean of both halves); still rising if not small
    error    √(1/ESS − 1/K)              standard error of log (1/K) Σ w, first order

References:
    Vehtari, Simpson, Gelman, Yao & Gabry 2024, Pareto smoothed importance sampling, sections 2 and 3;
    Zhang & Stephens 2009, A new and efficient estimation method for the generalized Pareto distribution.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

#: Above this shape the estimate cannot be trusted at any practical number of samples (Vehtari et al. 2024, section 3).
WORST_SHAPE = 0.7
_FEWEST_TAIL = 5


def weight_diagnostics(log_weight: Tensor) -> dict[str, Tensor]:
    """``ess``, ``pareto_k``, ``gain`` and ``variance`` (of log (1/K) Σ w) ``(B,)``, from log weights ``(K, B)``."""
    count = len(log_weight)
    total = torch.logsumexp(log_weight, 0)
    ess = (2 * total - torch.logsumexp(2 * log_weight, 0)).exp()
    return {
        "ess": ess,
        "pareto_k": pareto_shape(log_weight),
        "gain": last_doubling(log_weight),
        "variance": (1 / ess - 1 / count).clamp_min(0),
    }


def last_doubling(log_weight: Tensor) -> Tensor:
    """L_K − L_{K/2} per image in nats, both from the same weights (an odd one is left out), ``(B,)``; NaN for K = 1."""
    half = len(log_weight) // 2
    if half == 0:
        return torch.full_like(log_weight[0], math.nan)
    halves = torch.logsumexp(log_weight[: 2 * half].unflatten(0, (2, half)), dim=1) - math.log(half)
    return torch.logaddexp(halves[0], halves[1]) - math.log(2) - halves.mean(0)


def pareto_shape(log_weight: Tensor) -> Tensor:
    """k̂ of the largest min(K/5, 3√K) weights of each image, ``(K, B) -> (B,)``; NaN where fewer than five are left."""
    count = len(log_weight)
    tail = min(count // 5, math.ceil(3 * math.sqrt(count)))
    if tail < _FEWEST_TAIL:
        return torch.full_like(log_weight[0], math.nan)
    largest = torch.topk(log_weight, tail + 1, dim=0).values
    # Scale by the largest weight: the shape does not depend on it, and exp cannot overflow.
    weights = (largest - largest[0]).exp()
    excess = (weights[:-1] - weights[-1]).flip(0)  # above the threshold, ascending, (M, B)
    return _fit_generalized_pareto(excess)


def certificate(values: dict[str, np.ndarray], samples: int) -> dict[str, Any]:
    """The diagnostics over images, for ``results.json``: nothing here changes the bound, all of it says how good it is."""
    images = len(values["ess"])
    gain, known = values["gain"], np.isfinite(values["pareto_k"])
    return {
        "effective_samples": {"mean": float(values["ess"].mean()), "median": float(np.median(values["ess"])), "of": samples},
        "pareto_k": {
            "median": float(np.median(values["pareto_k"][known])) if known.any() else None,
            "share_above_0.7": float((values["pareto_k"][known] > WORST_SHAPE).mean()) if known.any() else None,
        },
        "last_doubling": {
            "from": samples // 2,
            "to": 2 * (samples // 2),
            "gain": float(gain.mean()) if samples > 1 else None,
            "se": float(gain.std(ddof=1) / math.sqrt(images)) if samples > 1 and images > 1 else None,
        },
        "monte_carlo_se": float(np.sqrt(values["variance"].sum()) / images),
    }


def _fit_generalized_pareto(excess: Tensor) -> Tensor:
    """Shape k of a generalized Pareto for ascending excesses ``(M, B)``: profile-likelihood average of Zhang & Stephens.

    With the weak prior of Vehtari et al. that pulls k̂ towards ½ by the weight of ten observations.
    """
    count = len(excess)
    grid = 30 + int(math.sqrt(count))
    excess = excess.clamp_min(torch.finfo(excess.dtype).tiny)
    quartile, largest = excess[int(count / 4 + 0.5) - 1], excess[-1]
    j = torch.arange(1, grid + 1, dtype=excess.dtype, device=excess.device)
    theta = 1 / largest + (1 - (grid / (j - 0.5)).sqrt()).unsqueeze(1) / (3 * quartile)  # (G, B)
    shape = torch.stack([torch.log1p(-t * excess).mean(0) for t in theta])  # (G, B), of opposite sign to k for t < 0
    likelihood = count * (torch.log(-theta / shape) - shape - 1)
    mean_theta = (torch.softmax(likelihood, dim=0) * theta).sum(0)
    k = torch.log1p(-mean_theta * excess).mean(0)
    return (k * count + 5) / (count + 10)
