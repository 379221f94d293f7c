"""Contract: shapes, numbers, seeds, and a gradient for every parameter.

sample(n) -> (n, *batch, *event)     log_prob(x) -> (n, *batch), a function of x and the parameters and of nothing else
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vaelid.auditing.adapter import Evidence, Face, Plan, Target
from vaelid.auditing.findings import Finding, exact, rule, skipped
from vaelid.errors import PartError

_TEST = "contract"
#: Two ways to compute one log density may differ by rounding: this share of it, and as much of a nat.
_ROUNDING = 1e-4
_MANY = 64


def structure(target: Target, plan: Plan) -> list[Finding]:
    """What must hold before anything else can be tested: draws come, and ``log_prob`` takes them."""
    try:
        face = target.face()
        torch.manual_seed(plan.key("structure"))
        x = face.draw(7)
        raw = face.raw_log_prob(x)
        face.log_prob(x)
    except (PartError, ValueError, RuntimeError, TypeError, IndexError, AttributeError, NotImplementedError) as error:
        words = f"The part cannot be drawn from and judged: {type(error).__name__}: {error}"
        return [rule(_TEST, target.name, "draws come and log_prob takes them", False, words, type(target.source).__name__)]
    return [_one_value_per_draw(target, x, raw), _floating(target, x, raw)]


def contract(evidence: Evidence) -> list[Finding]:
    """Seeds, finite values, independence of the rest of the batch, gradients."""
    return [
        _seeded(evidence),
        _repeatable(evidence),
        _finite(evidence),
        _each_alone(evidence),
        *_gradients(evidence),
    ]


def _one_value_per_draw(target: Target, x: Tensor, raw: Tensor) -> Finding:
    # What remains behind the draws and the conditions should have been summed.
    wanted = (len(x), *_batch(target.face()))
    words = (
        f"log_prob of draws of shape {_shape(x)} came as {tuple(raw.shape)} instead of {wanted}: one value "
        "per dimension is no density of "
        f"the whole. Sum over the last dimension{'s' if raw.dim() - len(wanted) > 1 else ''}. The sum is tested further"
    )
    return rule(_TEST, target.name, "log_prob gives one value per draw", tuple(raw.shape) == wanted, words, "log_prob")


def _batch(face: Face) -> tuple[int, ...]:
    return tuple(getattr(face.inner, "batch_shape", ())[: face.batch_dims])


def _shape(x: Tensor) -> tuple[int, ...]:
    return (len(x), *x.shape[2:]) if x.shape[1] == 1 else tuple(x.shape)


def _floating(target: Target, x: Tensor, raw: Tensor) -> Finding:
    parameters = list(target.parameters.values())
    device, dtype = (parameters[0].device, parameters[0].dtype) if parameters else (x.device, raw.dtype)
    fits = raw.dtype.is_floating_point and raw.device == device == x.device and (not parameters or raw.dtype == dtype)
    words = f"Parameters are {dtype} on {device}; draws came on {x.device}, log_prob came as {raw.dtype} on {raw.device}"
    return rule(_TEST, target.name, "draws and log_prob keep the parameters' device and number type", fits, words, "log_prob")


def _seeded(evidence: Evidence) -> Finding:
    """The same seed twice, and another one; so many draws that an event that is rare among all draws differs."""
    target, plan = evidence.target, evidence.plan
    for count in (_MANY, len(evidence.x)):
        draws = []
        for seed in (plan.key("first"), plan.key("first"), plan.key("second")):
            torch.manual_seed(seed)
            draws.append(target.face().draw(count))
        same, other = torch.equal(draws[0], draws[1]), not torch.equal(draws[0], draws[2])
        if other or not same:
            break
    if not other and same and bool((draws[0] == draws[0][:1]).all()):
        words = f"All of {count} draws are the same value: what another seed would change does not show"
        return skipped(_TEST, target.name, "draws depend on torch's seed and on nothing else", words)
    words = (
        "The same seed of torch gives other draws: results cannot be repeated"
        if not same
        else "Another seed gives the same draws"
    )
    return rule(_TEST, target.name, "draws depend on torch's seed and on nothing else", same and other, words, "sample")


@torch.no_grad()
def _repeatable(evidence: Evidence) -> Finding:
    x = evidence.x[:_MANY]
    face = evidence.target.face()
    apart = _difference(face.log_prob(x), face.log_prob(x))
    words = "log_prob of the same values changes from call to call: it draws random numbers or keeps a state (dropout?)"
    return exact(_TEST, evidence.name, "log_prob is a function", apart, _ROUNDING, words, "log_prob")


def _finite(evidence: Evidence) -> Finding:
    bad = ~torch.isfinite(evidence.log_prob)
    bad |= ~torch.isfinite(evidence.x).flatten(2).all(-1) if evidence.x.dim() > 2 else ~torch.isfinite(evidence.x)
    share = float(bad.double().mean())
    words = (
        f"{share:.2%} of the part's own draws are not finite or have no finite log_prob: the density calls "
        "its own draws impossible"
    )
    return exact(_TEST, evidence.name, "own draws have finite log_prob", share, 0.0, words, "log_prob")


@torch.no_grad()
def _each_alone(evidence: Evidence) -> Finding:
    """log p(x_i) computed in a batch, alone, and in another order."""
    x = evidence.x[:_MANY]
    face = evidence.target.face()
    together = face.log_prob(x)
    try:
        alone = torch.cat([face.log_prob(x[i : i + 1]) for i in range(8)])
        turned = face.log_prob(x.flip(0)).flip(0)
        apart = max(_difference(together[:8], alone), _difference(together, turned))
    except (PartError, ValueError, RuntimeError, IndexError):
        apart = math.inf
    words = (
        "log p(x_i) depends on which other values stand in the batch (batch statistics, a stale cache, or a "
        "sum over the wrong axis)"
    )
    return exact(_TEST, evidence.name, "log p(x_i) does not depend on the rest of the batch", apart, _ROUNDING, words, "log_prob")


def _difference(a: Tensor, b: Tensor) -> float:
    """Largest difference relative to the size of the numbers, in nats for small ones."""
    gap = ((a - b).abs() / (1 + a.abs())).double()
    gap = torch.where((a == b) | (a.isnan() & b.isnan()), torch.zeros_like(gap), gap)
    return float(gap.nan_to_num(math.inf).max())


def _gradients(evidence: Evidence) -> list[Finding]:
    parameters = evidence.target.parameters
    if not parameters:
        return []
    x = evidence.x[: max(_MANY, 20_000 // evidence.dims)]
    log_prob = evidence.target.face().log_prob(x)
    hypothesis = "every parameter gets a finite gradient from log_prob"
    if not log_prob.requires_grad:
        words = (
            "log_prob carries no gradient at all: it is detached from the parameters, and training would leave them as they are"
        )
        return [rule(_TEST, evidence.name, hypothesis, False, words, ", ".join(parameters))]
    # Random weights: the plain sum of a score is zero for a parameter that only scales the total.
    weight = torch.rand(log_prob.shape, generator=torch.Generator().manual_seed(0)).to(log_prob)
    gradients = torch.autograd.grad((log_prob * weight).sum(), list(parameters.values()), allow_unused=True)
    missing = [name for name, g in zip(parameters, gradients, strict=True) if g is None or not bool((g != 0).any())]
    infinite = [
        name for name, g in zip(parameters, gradients, strict=True) if g is not None and not bool(torch.isfinite(g).all())
    ]
    words = f"No gradient reaches {', '.join(missing)}: log_prob does not depend on it, or is detached from it" if missing else ""
    words = words or f"The gradient of {', '.join(infinite)} is not finite"
    return [rule(_TEST, evidence.name, hypothesis, not missing and not infinite, words, ", ".join(missing or infinite))]
