"""Support: own draws lie inside, values outside are refused, and likelihoods do not clamp.

Outside the declared support the checked entry point (``log_prob`` of a distribution, ``support.check`` of a likelihood) gives
−inf or an error. A likelihood's network is replaced by extreme constants: a pixel whose logit is −60 has log p(1) = −60, and a
probability that was clamped to [ε, 1 − ε] shows there and nowhere else."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent
from torch.nn import functional as F

from vaelid.auditing.adapter import Evidence, Target
from vaelid.auditing.domain import Domain
from vaelid.auditing.findings import Finding, exact, rule, skipped
from vaelid.errors import SupportError
from vaelid.likelihoods import Likelihood
from vaelid.supports import Support

_TEST = "support"
_EXTREME = (-60.0, -20.0, 20.0, 60.0)
_MODERATE = (-2.0, 1.0)
_LARGE_LOGIT = 90.0


def support(evidence: Evidence) -> list[Finding]:
    """Inside, outside, and extreme network outputs."""
    findings = [inside(evidence.target, evidence.x, evidence.domain), *_refused(evidence)]
    if isinstance(evidence.target.source, Likelihood):
        findings += _extremes(evidence)
    return findings


def inside(target: Target, x: Tensor, domain: Domain) -> Finding:
    """Whether draws ``x`` ``(n, B, *E)`` lie where the part says they can."""
    outside = domain.outside(x)
    if outside is None:
        return skipped(_TEST, target.name, "draws lie in the declared support", "The part declares no support")
    share = float(outside.double().mean())
    index = outside.nonzero()[0].tolist() if share else [0, 0]
    example = x[index[0], index[1]].flatten()[:4].tolist()
    words = f"{share:.2%} of the draws lie outside the declared support ({domain.declared}), for example {example}"
    return exact(_TEST, target.name, "draws lie in the declared support", share, 0.0, words, "sample")


@torch.no_grad()
def _refused(evidence: Evidence) -> list[Finding]:
    """A draw with one value pushed out of the support must not get a density."""
    hypothesis = "outside the support: −inf or an error"
    for push in (0.37, 1e3, -1e3, math.nan):
        x = evidence.x[:1].to(evidence.log_prob.dtype, copy=True, memory_format=torch.contiguous_format)
        x.view(-1)[0] += push
        beyond = evidence.domain.outside(x)
        if beyond is None or math.isnan(push) or not bool(beyond.any()):
            continue
        if _unchecked(evidence.target.source):
            return [
                skipped(
                    _TEST,
                    evidence.name,
                    hypothesis,
                    "Checks of values are switched off in this distribution (validate_args=False)",
                )
            ]
        return [
            rule(
                _TEST,
                evidence.name,
                hypothesis,
                _refuses(evidence, x),
                f"A value outside ({x.view(-1)[0]:.4g}) gets a density",
                "log_prob",
            )
        ]
    return []


def _unchecked(part: object) -> bool:
    """Whether a torch distribution, or the one that it is made of, was told not to check values."""
    inner = part.base_dist if isinstance(part, Independent) else part
    return isinstance(inner, Distribution) and not inner._validate_args


def _refuses(evidence: Evidence, x: Tensor) -> bool:
    declared = evidence.target.declared
    try:
        if isinstance(declared, Support):
            declared.check(x)
            return False
        return bool((evidence.target.face().log_prob(x)[0] == -math.inf).any())
    except (ValueError, SupportError):
        return True


class _Constant(nn.Module):
    """Stands in for a network: the same outputs for every latent."""

    outputs: Tensor

    def __init__(self, outputs: Tensor) -> None:
        super().__init__()
        self.register_buffer("outputs", outputs)

    def forward(self, z: Tensor) -> Tensor:
        return self.outputs.expand(*z.shape[:-1], -1)


@torch.no_grad()
def _extremes(evidence: Evidence) -> list[Finding]:
    """Log probabilities at extreme network outputs against the exact formula (in float64), for the likelihoods whose
    outputs are logits.
    """
    part = copy.deepcopy(evidence.target.module)
    assert part is not None
    assert evidence.target.given is not None
    declared = evidence.target.declared
    found = next(((name, m) for name, m in part.named_modules() if name.rsplit(".", 1)[-1] == "network"), None)
    if found is None or not isinstance(declared, Support) or declared.levels is None:
        return []
    name, network = found
    z = evidence.target.given[:, :1]
    pixels, levels, outputs = evidence.dims, declared.levels, network(z).shape[-1]
    owner = part.get_submodule(name.rpartition(".")[0])
    logits = _Logits(pixels, levels)
    if outputs in logits.sizes and logits.gap(evidence, part, owner, z, outputs, _MODERATE)[0] < 1e-3:
        worst, at = logits.gap(evidence, part, owner, z, outputs, _EXTREME)
        words = f"At the logit {at:g} log p is not that of the exact formula: probabilities are clamped, rounded or smoothed"
        return [exact(_TEST, evidence.name, "log p at extreme logits is exact", worst, 1e-3, words, "log_prob")]
    return [_no_plateau(evidence, part, owner, z, outputs, levels)]


def _judge(evidence: Evidence, part: nn.Module, z: Tensor, x: Tensor) -> float:
    shaped = x.reshape(1, 1, *evidence.x.shape[2:]).to(z.dtype)
    face = replace(evidence.target, make=part, given=z).face()
    return float(face.log_prob(shaped)[0, 0])


class _Logits:
    """The exact formulas of likelihoods whose network gives logits: one per pixel, or one per pixel and level."""

    def __init__(self, pixels: int, levels: int) -> None:
        self.pixels, self.levels = pixels, levels
        self.sizes = {pixels * levels, pixels} if levels == 2 else {pixels * levels}

    def gap(
        self, evidence: Evidence, part: nn.Module, owner: nn.Module, z: Tensor, outputs: int, values: tuple[float, ...]
    ) -> tuple[float, float]:
        """Largest relative difference to the formula, and the logit where it is; every pixel but the first is certain."""
        worst, at = 0.0, 0.0
        for value in values:
            logits = self._logits(value, outputs).to(z.dtype)
            owner.network = _Constant(logits.flatten())
            for level in range(self.levels):
                x = torch.zeros(self.pixels, dtype=z.dtype)
                x[0] = level / (self.levels - 1)
                wanted = self._log_prob(logits.double(), x.double())
                gap = abs(_judge(evidence, part, z, x) - wanted) / (1 + abs(wanted))
                worst, at = (gap, value) if not gap <= worst else (worst, at)
        return worst, at

    def _logits(self, value: float, outputs: int) -> Tensor:
        logits = torch.full((self.pixels,), -_LARGE_LOGIT)
        if outputs != self.pixels:
            logits = F.one_hot(torch.zeros(self.pixels).long(), self.levels) * _LARGE_LOGIT
        logits.view(-1)[0] = value
        return logits

    def _log_prob(self, logits: Tensor, x: Tensor) -> float:
        if logits.dim() == 1:
            return float((x * logits - F.softplus(logits)).sum())
        chosen = (x * (self.levels - 1)).round().long()
        return float(torch.log_softmax(logits, -1).gather(1, chosen[:, None]).sum())


def _no_plateau(evidence: Evidence, part: nn.Module, owner: nn.Module, z: Tensor, outputs: int, levels: int) -> Finding:
    """Without a formula: the farther off the outputs, the less likely must a level be, and the levels' probabilities add up
    to 1 throughout.
    """
    pixels, floors = evidence.dims, []
    for size in (3.0, 6.0):
        means = torch.full((outputs,), 0.0, dtype=z.dtype)
        means[:pixels] = -size
        owner.network = _Constant(means)
        x = torch.zeros(pixels, dtype=z.dtype)
        base = _judge(evidence, part, z, x)
        x[0] = 1.0
        floors.append(_judge(evidence, part, z, x) - base)
    words = (
        f"The least likely level keeps its log probability ({floors[1]:.1f}) however far off the network's "
        "output is: it is clamped"
    )
    return rule(
        _TEST,
        evidence.name,
        "log p falls without a floor at extreme outputs",
        floors[1] < floors[0] - 0.5 or floors[1] == -math.inf,
        words,
        "log_prob",
    )
