"""Sampler against density by parameter: the scores of the part's own draws.

    (1)  E_p[∇_θ log p_θ(x)] = 0                                         Bartlett's first identity
    (2)  E_p[p_{θ±hu}(x) / p_θ(x)] = 1                                   for any step hu that does not move the support

(2) is Bartlett's second identity with a finite step: the mean of the two ratios less one is ½h² (E[(u·s)²] + E[u·∇²log p·u]) +
O(h⁴). It sees what the mean score cannot, the products of scores of different dimensions: a sampler with the right margins and
the wrong dependence leaves (1) untouched. It needs no second derivative.

References:
    Bartlett 1953, Approximate confidence intervals, eq. 2 and 3.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import scipy
import torch
from torch import Tensor, nn

from vaelid.auditing.adapter import Evidence
from vaelid.auditing.findings import Finding, skipped
from vaelid.auditing.statistics import Screen, screen, sidak

#: Tensors with more entries are looked at through random projections, and only named as a whole.
MOST_ENTRIES = 4096
_PROJECTIONS = 8
_FEW = 200_000  # numbers that the size of a step is found with
_STEP = 0.2  # root mean square change of log p that a finite step shall make
_NEAR = 0.7  # share of it that one more, nearly linear, correction brings close enough
_SURPRISING, _AGAIN = 1e-4, (8, 64)  # p-values below the first are looked at again, on so many times the draws
_FIRST = "E_p[∇_θ log p_θ(x)] = 0"
_SECOND = "E_p[p_θ'(x) / p_θ(x)] = 1"


def scores(evidence: Evidence) -> list[Finding]:
    """(1) and (2) over all parameters whose change leaves the support where it is."""
    names = list(evidence.target.parameters)
    if not names:
        return [skipped("scores", evidence.name, _FIRST, "The part has no parameters")]
    steps = {name: steps_of(evidence, name) for name in names}
    moving = [name for name, columns in steps.items() if columns is None]
    fixed = {name: columns for name, columns in steps.items() if columns is not None}
    findings = [
        skipped("scores", evidence.name, _FIRST, f"The support moves with {name}: scores do not average to zero there")
        for name in moving
    ]
    if fixed:
        findings += [_first(evidence, list(fixed)), _second(evidence, fixed)]
    return findings


def _first(evidence: Evidence, names: list[str]) -> Finding:
    projections = projections_of([evidence.target.parameters[name] for name in names])
    count = min(evidence.plan.blocks, len(evidence.x) // 2)
    screens = _screened(evidence, names, projections, evidence.x.tensor_split(count), len(evidence.x))
    p_value, worst = joined(screens)
    for times in _AGAIN if evidence.domain.discrete else _AGAIN[:1]:  # rare values are an affair of discrete parts
        if p_value < _SURPRISING:
            screens = _looked_again(evidence, names, projections, screens, times)
            again, worst = joined(screens)
            p_value = max(p_value, again)
    where = f"{worst}{_entry(evidence.target.parameters[worst], screens[worst].worst)}"
    others = [name for name, s in screens.items() if name != worst and s.p_value < 1e-5]
    also = f" (so do {', '.join(others)})" if others else ""
    words = (
        f"The density's gradient for {where} does not vanish on the part's own draws: sampler and density use it "
        f"differently{also}"
    )
    return Finding("scores", evidence.name, _FIRST, "pass", words, where, screens[worst].statistic, p_value)


def _screened(
    evidence: Evidence, names: list[str], projections: list[Tensor | None], draws: Iterable[Tensor], samples: int
) -> dict[str, Screen]:
    blocks = block_gradients(evidence, names, projections, draws)
    return {name: screen(blocks[name], samples=samples) for name in names}


def _looked_again(
    evidence: Evidence, names: list[str], projections: list[Tensor | None], first: dict[str, Screen], times: int
) -> dict[str, Screen]:
    """What was surprising at first, on many more draws of its own; zeros for all else.

    A pixel that is nearly always white has a small constant score, which its rare other values make up for. Where these have not
    come among the draws, and another condition moves the same parameter a little, the constant looks significant.
    """
    torch.manual_seed(evidence.plan.key(evidence.name, f"look at {times} times"))
    size = times * len(evidence.x) // evidence.plan.blocks
    face = evidence.target.face()
    fresh = (face.draw(size) for _ in range(evidence.plan.blocks))
    second = _screened(evidence, names, projections, fresh, size * evidence.plan.blocks)
    columns = sum(len(s.z) for s in first.values())
    limit = float(scipy.stats.t.isf(_SURPRISING / 2 / columns, next(iter(first.values())).degrees))
    return {name: Screen(torch.where(first[name].z.abs() >= limit, second[name].z, 0.0), second[name].degrees) for name in names}


def _second(evidence: Evidence, columns: dict[str, Tensor]) -> Finding:
    screens = {name: screen(values) for name, values in columns.items()}
    p_value, worst = joined(screens)
    words = (
        f"A small step of {worst} changes the density of the draws by a factor whose mean is not one: scores "
        "vary more or less than the "
        "density says, as when only the dependence between dimensions is wrong, or the density is not "
        "normalized for every parameter"
    )
    return Finding("scores-2", evidence.name, _SECOND, "pass", words, worst, screens[worst].statistic, p_value)


def joined(screens: dict[str, Screen]) -> tuple[float, str]:
    """The p-value of all parameters together, and the parameter that decides it."""
    p_values = {name: s.p_value for name, s in screens.items()}
    # What is no number comes first; where two have run out of digits, the statistic still tells which is worse.
    worst = min(screens, key=lambda name: (not math.isnan(p_values[name]), p_values[name], -screens[name].statistic))
    return sidak(p_values[worst], len(screens)), worst


def steps_of(evidence: Evidence, name: str) -> Tensor | None:
    """Ratios less one for random directions of one parameter, ``(n, 2k)``, made once for all tests that need them.

    None where a small step of the parameter throws draws out of the support.
    """
    if name not in evidence.kept:
        torch.manual_seed(evidence.plan.key(evidence.name, "directions", name))
        evidence.kept[name] = _steps(evidence, name, directions=2 if evidence.plan.quick else 4)
    return evidence.kept[name]


def block_gradients(
    evidence: Evidence, names: list[str], projections: list[Tensor | None], draws: Iterable[Tensor]
) -> dict[str, Tensor]:
    """∇_θ of the mean log density of each block of ``draws``, ``(G, entries)`` (projections for large tensors), by parameter."""
    target = evidence.target
    parameters = [target.parameters[name] for name in names]
    rows: list[list[Tensor]] = []
    for x in draws:
        mean = target.face().log_prob(x).sum(1).mean()
        rows.append(projected(torch.autograd.grad(mean, parameters, allow_unused=True), parameters, projections))
    return {name: torch.stack([row[i] for row in rows]) for i, name in enumerate(names)}


def projections_of(parameters: list[nn.Parameter]) -> list[Tensor | None]:
    """Random directions ``(k, entries)`` for tensors that are too large to be looked at entry by entry."""
    return [torch.randn(_PROJECTIONS, p.numel()).to(p) if p.numel() > MOST_ENTRIES else None for p in parameters]


def projected(
    gradients: tuple[Tensor | None, ...] | list[Tensor | None], parameters: list[nn.Parameter], projections: list[Tensor | None]
) -> list[Tensor]:
    """Each gradient as a vector of entries or of projections; a missing one is zero."""
    flat = [torch.zeros_like(p).flatten() if g is None else g.flatten() for g, p in zip(gradients, parameters, strict=True)]
    return [(f if a is None else a @ f).detach().double() for f, a in zip(flat, projections, strict=True)]


def _entry(parameter: nn.Parameter, index: int) -> str:
    """``[3, 5]`` for an entry that was tested by itself."""
    if parameter.numel() > MOST_ENTRIES or parameter.dim() == 0:
        return ""
    return str([int(i) for i in torch.unravel_index(torch.tensor(index), parameter.shape)])


@torch.no_grad()
def _steps(evidence: Evidence, name: str, directions: int) -> Tensor | None:
    """Ratios less one for random directions of one parameter: sums and differences of both ways, ``(n, 2k)``.

    None where a step throws draws out of the support.
    """
    parameter = evidence.target.parameters[name]
    size, columns = 1e-2 * float(parameter.abs().mean() or 1.0), []
    for _ in range(directions):
        direction = torch.randn_like(parameter)
        for _ in range(3):  # the change is nearly linear in the step: a few corrections hit the wanted size
            ahead = _change(evidence, name, size * direction, few=True)
            if ahead is None or not bool(torch.isfinite(ahead).all()):
                return None
            spread = float(ahead.square().mean().sqrt())
            if not spread:
                break
            size *= min(100.0, _STEP / spread)
            if _NEAR < spread / _STEP < 1 / _NEAR:
                break
        ways = [_change(evidence, name, sign * size * direction) for sign in (1, -1)]
        if any(way is None or not bool(torch.isfinite(way).all()) for way in ways):
            return None
        up, down = (way.double().expm1().mean(1) for way in ways if way is not None)
        columns += [(up + down) / 2, (up - down) / 2]
    return torch.stack(columns, dim=1)


def _change(evidence: Evidence, name: str, step: Tensor, few: bool = False) -> Tensor | None:
    """log p_{θ+step}(x) − log p_θ(x), ``(n, B)``; None where draws fall out of the support of the changed part."""
    count = min(len(evidence.x), max(50, min(500, _FEW // (evidence.dims * evidence.conditions)))) if few else len(evidence.x)
    with evidence.target.moved({name: step}):
        try:
            changed = evidence.target.face().log_prob(evidence.x[:count])
        except (ValueError, RuntimeError):
            return None
        outside = replace(evidence.domain, declared=evidence.target.declared).outside(evidence.x[:count])
        if outside is not None and bool(outside.any()):
            return None
    return changed - evidence.log_prob[:count]
