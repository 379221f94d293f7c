"""Sampler against density without parameters: Stein's identity on ∇_x log p, for continuous parts.

    E_p[ ∂_i log p(x) f(x) + ∂_i f(x) ] = 0      for every dimension i and every smooth bounded f

Bounded supports are mapped to ℝ first, y = T⁻¹(x), with the Jacobian in log p(y); y is then centered and scaled by median and
spread of the draws. The functions f are (i) 1, tanh y_j, tanh y_j/4 and y_j exp(−y_j²/2) of each single coordinate j, which
name the dimension or the pair at fault, and (ii) inverse multiquadric kernels (1 + ‖y − v‖²/ℓ²)^(−1/2) at a few draws v, a
finite-set kernel Stein test. All are bounded, so heavy tails need no moments. The identity never sees a normalizing constant,
nor how mass is shared between modes with nothing between them.

References:
    Liu, Lee & Jordan 2016; Chwialkowski, Strathmann & Gretton 2016; Gorham & Mackey 2017 (kernel);
    Jitkrittum et al. 2017, A linear-time kernel goodness-of-fit test, section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vaelid.auditing.adapter import Evidence, Face
from vaelid.auditing.findings import Finding, skipped
from vaelid.auditing.statistics import batched, batched_name, cut, products, screen

_HYPOTHESIS = "E_p[∂_i log p · f + ∂_i f] = 0"
_MOST_PAIRED = 24  # dimensions up to which every pair is looked at
_SINGLE = 4  # functions of each single coordinate
_KERNELS = 5
_STANDARD_IQR = 1.349  # of a standard normal


def stein(evidence: Evidence) -> list[Finding]:
    """Stein's identity for coordinate functions and kernels."""
    if evidence.domain.discrete:
        return [skipped("stein", evidence.name, _HYPOTHESIS, "The part is discrete: there is no gradient in x")]
    y, gradient = standardized_scores(evidence)
    if gradient is None:
        return [skipped("stein", evidence.name, _HYPOTHESIS, "log_prob gives no gradient with respect to x")]
    if _jumps(evidence):
        return [
            skipped(
                "stein", evidence.name, _HYPOTHESIS, "The density jumps within its support: Stein's identity does not hold there"
            )
        ]
    findings = [_coordinates(evidence, y, gradient)]
    if y.shape[-1] <= 4 * _MOST_PAIRED:
        findings.append(_kernels(evidence, y, gradient))
    return findings


def standardized_scores(evidence: Evidence) -> tuple[Tensor, Tensor | None]:
    """Centered and scaled y and ∇_y log p(y), both ``(n, B, Y)`` float64; no gradient where log_prob has none."""
    with torch.no_grad():
        y = evidence.domain.to_real(evidence.x)[0]
    face = evidence.target.face()
    slopes = [_slope(evidence, face, some) for some in y.split(face.at_once)]
    known = [slope for slope in slopes if slope is not None]
    gradient = torch.cat(known) if len(known) == len(slopes) else None
    flat = y.double().flatten(2) if y.dim() > 2 else y.double().unsqueeze(-1)
    center, spread = _middle(flat)
    return (flat - center) / spread, None if gradient is None else gradient.double().reshape(flat.shape) * spread


def _slope(evidence: Evidence, face: Face, y: Tensor) -> Tensor | None:
    """∇_y log p(y), of the shape of ``y``; None where log_prob has no gradient."""
    y = y.detach().requires_grad_(True)
    x, log_jacobian = evidence.domain.from_real(y)
    log_prob = face.log_prob(x) + log_jacobian
    return torch.autograd.grad(log_prob.sum(), y, allow_unused=True)[0] if log_prob.requires_grad else None


def _middle(y: Tensor) -> tuple[Tensor, Tensor]:
    """Median and robust spread per condition and dimension; quantiles, because moments need not exist."""
    few = y[:2000]
    low, center, high = torch.quantile(few, torch.tensor([0.25, 0.5, 0.75], dtype=y.dtype), dim=0)
    return center, ((high - low) / _STANDARD_IQR).clamp_min(1e-12)


def _coordinates(evidence: Evidence, y: Tensor, gradient: Tensor) -> Finding:
    dims = y.shape[-1]
    names = [f"dimension {i}" for i in range(dims)] * _SINGLE
    if 1 < dims <= _MOST_PAIRED:
        names += [f"dimensions {i} and {j}" for i, j in torch.triu_indices(dims, dims, 1).T.tolist()] * 2
    pieces = zip(cut(y, len(names) * evidence.conditions), cut(gradient, len(names) * evidence.conditions), strict=True)
    tested = screen(batched(_coordinate_columns(*piece)) for piece in pieces)
    where = batched_name(tested.worst, names, evidence.conditions)
    words = (
        f"In {where} the draws do not follow the slope of log p: the sampler has another location, scale, "
        "shape or dependence there"
    )
    return Finding("stein", evidence.name, _HYPOTHESIS, "pass", words, where, tested.statistic, tested.p_value)


def _coordinate_columns(y: Tensor, gradient: Tensor) -> Tensor:
    """∂_i log p · f + ∂_i f of single coordinates, then of pairs, ``(n, B, m)``."""
    tanh, tail, square = torch.tanh(y), torch.tanh(y / 4), y.square()
    bell = torch.exp(-0.5 * square)
    columns = [
        gradient,
        gradient * tanh + (1 - tanh.square()),
        gradient * tail + (1 - tail.square()) / 4,
        gradient * y * bell + (1 - square) * bell,
    ]
    if 1 < y.shape[-1] <= _MOST_PAIRED:
        columns += [products(gradient, tanh), products(tanh, gradient)]
    return torch.cat(columns, dim=-1)


def _kernels(evidence: Evidence, y: Tensor, gradient: Tensor) -> Finding:
    """The kernel's anchors are draws that are not used in the means."""
    dims, anchors = y.shape[-1], y[:_KERNELS]
    y, gradient = y[_KERNELS:], gradient[_KERNELS:]
    names = [f"dimension {i}" for i in range(dims)] * _KERNELS
    pieces = zip(cut(y, len(names) * evidence.conditions), cut(gradient, len(names) * evidence.conditions), strict=True)
    tested = screen(batched(_kernel_columns(some, slope, anchors)) for some, slope in pieces)
    where = batched_name(tested.worst, names, evidence.conditions)
    words = f"Around some draws the density's slope in {where} is not that of the sampler: local shape or dependence differs"
    return Finding("stein-kernel", evidence.name, _HYPOTHESIS, "pass", words, where, tested.statistic, tested.p_value)


def _kernel_columns(y: Tensor, gradient: Tensor, anchors: Tensor) -> Tensor:
    """∂_i log p · f + ∂_i f of the kernels at the anchors, ``(n, B, m)``."""
    columns = []
    for anchor in anchors:
        away = y - anchor
        kernel = (1 + away.square().mean(-1, keepdim=True)).rsqrt()  # ℓ² = D: distances grow with √D
        columns.append(gradient * kernel - away * kernel.pow(3) / y.shape[-1])
    return torch.cat(columns, dim=-1)


@torch.no_grad()
def _bend(evidence: Evidence, y: Tensor) -> Tensor:
    x, log_jacobian = evidence.domain.from_real(y)
    return evidence.target.face().log_prob(x) + log_jacobian


def _jumps(evidence: Evidence, pairs: int = 48, nodes: int = 128) -> bool:
    """Whether log p jumps on lines between draws: ever finer steps then keep one change that does not shrink."""
    with torch.no_grad():
        y = evidence.domain.to_real(evidence.x[: 2 * pairs])[0]
    if len(y) < 2 * pairs:
        return False
    a, b = y[:pairs].unsqueeze(0), y[pairs:].unsqueeze(0)
    share = torch.linspace(0, 1, nodes + 1, dtype=y.dtype).reshape(-1, *[1] * y.dim())
    coarse = _bend(evidence, (a + share * (b - a)).flatten(0, 1)).unflatten(0, (nodes + 1, pairs)).double()
    step = coarse.diff(dim=0).abs()
    at = step.argmax(0)  # the steepest interval of each line, looked at again
    steepest = step.max(0).values
    low = at / nodes
    fine_share = (
        (low + share.flatten(1).to(low) * (1 / nodes))
        if low.dim() == 1
        else low.unsqueeze(0) + share.reshape(-1, 1, 1).to(low) / nodes
    )
    shape = (nodes + 1, pairs, *low.shape[1:], *[1] * (y.dim() - 2))
    fine_y = a + fine_share.reshape(shape).to(y) * (b - a)
    fine = _bend(evidence, fine_y.flatten(0, 1)).unflatten(0, (nodes + 1, pairs)).double().diff(dim=0).abs().max(0).values
    jump = (fine > 0.25 * steepest) & (steepest > 1e-2) & torch.isfinite(steepest)
    return bool(jump.double().mean() > 0.05)
