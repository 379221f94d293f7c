"""log p(x|z) of many z, where no gradient is wanted: binary pixels in one pass over their logits, not one per operation.

``distribution.log_prob(x)`` is the definition, and what everything else gets: other distributions, other devices, float64, and
all of them where numba is not to be had. The two differ in rounding only; the compiled loop is the more exact one.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent

from vaelid import kernels

#: How far the loop may be from the exact value, per 1 + |logit| summed over the pixels (float32 alone has 6e-8 per operation).
ROUNDING = 2.0**-22
#: From so many decodings on, loading numba takes less time than it saves.
PAYS = 10**6


@torch.no_grad()
def log_likelihood(distribution: Distribution, x: Tensor) -> Tensor:
    """log p(x|z) of images ``(B, *X)``, ``(K, B)`` nats: ``distribution.log_prob(x)`` to rounding, and maybe in float64."""
    logits = _logits(distribution)
    if logits is None or logits.dim() != x.dim() + 1 or logits.shape[1:] != x.shape or x.dtype != logits.dtype:
        return distribution.log_prob(x)
    kernel = kernels.find("bernoulli", logits, x) if logits.dtype == torch.float32 else None
    return _compiled(kernel, logits, x) if kernel and _agrees(kernel) else distribution.log_prob(x)


def _logits(distribution: Distribution) -> Tensor | None:
    """The logits ``(K, B, *X)`` of independent binary pixels; None for all else, also a subclass with a density of its own."""
    if type(distribution) is not Independent or type(distribution.base_dist) is not Bernoulli:
        return None
    logits: Tensor = distribution.base_dist.logits
    return logits if logits.dim() == distribution.reinterpreted_batch_ndims + 2 else None


def _compiled(kernel: kernels.Kernel, logits: Tensor, x: Tensor) -> Tensor:
    log_p = torch.empty(logits.shape[:2], dtype=torch.float64)
    kernel(logits.flatten(2).numpy(), x.flatten(1).numpy(), log_p.numpy())
    return log_p


@cache
def _agrees(kernel: kernels.Kernel) -> bool:
    """Whether the loop gives the exact value to ``ROUNDING``, for logits of every size, on both colors."""
    sizes = torch.tensor([0.0, 1e-30, 1e-3, 0.5, 1.0, 3.0, 10.0, 20.0, 88.0, 1e3, 1e5])
    ramp = torch.linspace(-25, 25, 401)  # more than three groups, the last one not full
    logits = torch.stack([torch.cat((sizes, -sizes, sign * ramp)) for sign in (1, -1)]).unsqueeze(1)  # (2, 1, D)
    x = (torch.arange(logits.shape[-1]) % 2).to(torch.float32).unsqueeze(0)
    exact = Independent(Bernoulli(logits=logits.double(), validate_args=False), 1, validate_args=False).log_prob(x.double())
    error = (_compiled(kernel, logits, x) - exact).abs()
    return bool((error <= ROUNDING * (1 + logits.double().abs()).sum(-1)).all())
