"""Does the density integrate to one?

Small discrete spaces are enumerated; one and two dimensions are integrated by quadrature; everything else by importance
sampling from a heavy-tailed proposal, E_q[p/q] = 1, trusted only where its own diagnostics allow it (k̂ < 0.4), and else by the
bounded exchange identity at h = 1, which needs overlap but no moments. Without overlap the answer is *undecided*, which is no
pass.

References:
    Bennett 1976 (h = 1); Vehtari et al. 2024 (k̂).
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from torch import Tensor
from torch.distributions.transforms import IndependentTransform, Transform

from vaelid.auditing.adapter import Evidence
from vaelid.auditing.domain import Domain
from vaelid.auditing.exchange import Meeting, meet, unplaced
from vaelid.auditing.findings import Finding, exact
from vaelid.auditing.statistics import HEAVY, compare, effective_size, pareto_shape, screen

_TEST = "normalization"
_MOST_EVENTS = 4096
_TOLERANCE = 2e-3
_ENOUGH = 50.0
#: Half width and nodes of both grids in u, by dimension. They end at different places, so that a tail that is cut off shows.
#: The second pair, four times the work, where the first does not find an integral of one.
_GRIDS = {
    1: [((12.0, 20_001), (10.0, 14_001))],
    2: [((8.0, 201), (6.0, 137)), ((8.0, 401), (6.0, 271))],
}
_AT_ONCE = 20_000  # nodes; a network's layers of all would not fit memory


def normalization(evidence: Evidence) -> list[Finding]:
    """One finding for each condition looked at."""
    count = 1 if evidence.conditions == 1 or evidence.plan.quick else 2
    return [_normalized(evidence, b) for b in range(count)]


def _normalized(evidence: Evidence, condition: int) -> Finding:
    domain = evidence.domain
    if domain.values is not None:
        if domain.complete and len(domain.values) ** evidence.dims <= _MOST_EVENTS:
            return _enumerated(evidence, domain.values, condition)
    elif evidence.dims <= 2 and _elementwise(domain.transform):
        found = _integrated(evidence, domain, condition)
        if found is not None:
            return found
    return _sampled(evidence, condition)


def _enumerated(evidence: Evidence, values: Tensor, condition: int) -> Finding:
    events = torch.tensor(list(itertools.product(values.tolist(), repeat=evidence.dims)), dtype=evidence.x.dtype)
    with torch.no_grad():
        log_p = evidence.target.at_condition(condition).face().log_prob(events.reshape(-1, 1, *evidence.x.shape[2:]))
    total = float(log_p.double().exp().sum())
    words = f"The probabilities of all {len(events)} values add up to {total:.6g}"
    return exact(_TEST, evidence.name, "Σ_x p(x) = 1", abs(total - 1), 1e-4, words, "log_prob")


def _elementwise(transform: Transform) -> bool:
    """Whether y has the shape of x: all maps but those onto a simplex, a matrix and the like."""
    return transform.codomain.event_dim == 0 or isinstance(transform, IndependentTransform)


def _integrated(evidence: Evidence, domain: Domain, condition: int) -> Finding | None:
    """Quadrature on y = center + spread · sinh(u): covers many orders of magnitude; None if two grids disagree."""
    with torch.no_grad():
        draws = domain.to_real(evidence.x[:, condition : condition + 1])[0].reshape(len(evidence.x), -1)
    marks = torch.quantile(draws[:4000].double(), torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64), dim=0)
    center, spread = marks[1], (marks[2] - marks[0]).clamp_min(1e-6)
    total = math.nan
    for pair in _GRIDS[draws.shape[1]]:
        try:
            total, other = (_integral(evidence, condition, center, spread, *grid) for grid in pair)
        except ValueError:
            return None
        if not abs(total - other) <= _TOLERANCE * max(1.0, total) / 2:
            total = math.nan
        if abs(total - 1) <= _TOLERANCE:
            break
    if math.isnan(total):
        return None
    words = f"The density integrates to {total:.6g} instead of 1"
    return exact(_TEST, evidence.name, "∫ p(x) dx = 1", abs(total - 1), _TOLERANCE, words, "log_prob")


def _integral(evidence: Evidence, condition: int, center: Tensor, spread: Tensor, end: float, nodes: int) -> float:
    """Of the density over u in ±end, the same number of nodes each way."""
    u = torch.linspace(-end, end, nodes, dtype=torch.float64)
    grid = torch.cartesian_prod(*[u] * len(center)).reshape(-1, len(center))
    log_volume = (spread.log() + torch.cosh(grid).log()).sum(1) + len(center) * math.log(float(u[1] - u[0]))
    log_p = _on_nodes(evidence, condition, center + spread * torch.sinh(grid))
    return float(torch.logsumexp(log_p + log_volume, 0).exp())


@torch.no_grad()
def _on_nodes(evidence: Evidence, condition: int, y: Tensor) -> Tensor:
    """log p of points ``(n, D)`` of the real line, float64; NaN counts as no density."""
    face, pieces = evidence.target.at_condition(condition).face(), []
    for some in y.to(evidence.x.dtype).reshape(len(y), 1, *evidence.x.shape[2:]).split(_AT_ONCE):
        x, log_jacobian = evidence.domain.from_real(some)
        pieces.append((face.log_prob(x) + log_jacobian)[:, 0].double())
    return torch.cat(pieces).nan_to_num(-math.inf, math.inf, -math.inf)


def _sampled(evidence: Evidence, condition: int) -> Finding:
    meeting = meet(evidence, condition)
    shape, effective = pareto_shape(meeting.ratio_y), effective_size(meeting.ratio_y)
    log_total, error = acceptance_ratio(meeting)
    detail = {"log_total": log_total, "standard_error": error, "k_hat": shape, "effective": effective, "overlap": meeting.overlap}
    if meeting.lopsided:
        return Finding(_TEST, evidence.name, "∫ p = 1", "undecided", unplaced(meeting), "log_prob", detail=detail)
    if meeting.counted < _ENOUGH:
        words = (
            f"No proposal overlaps with the density (overlap {meeting.overlap:.1g}, k̂ {shape:.2f}): whether it "
            "integrates to one is open"
        )
        return Finding(_TEST, evidence.name, "∫ p = 1", "undecided", words, "log_prob", detail=detail)
    words = f"The density integrates to e^{log_total:.3f} (± {error:.3f}) instead of 1, or its sampler puts mass elsewhere"
    if meeting.q.covers and shape < HEAVY and effective > 0.05:
        tested = screen((meeting.ratio_y.exp() - 1).unsqueeze(1), rounding=meeting.rounding)
        hypothesis = "E_q[p/q] = 1"
    else:
        tested = compare(meeting.weight_x.unsqueeze(1), meeting.weight_y.unsqueeze(1), meeting.rounding)
        hypothesis = "E_p[q/(p+q)] = E_q[p/(p+q)]"
    return Finding(_TEST, evidence.name, hypothesis, "pass", words, "log_prob", tested.statistic, tested.p_value, detail=detail)


def acceptance_ratio(meeting: Meeting) -> tuple[float, float]:
    """log ∫ p by Bennett's acceptance ratio and its standard error, assuming that the draws follow p/∫p."""
    a, b = meeting.ratio_x.numpy(), meeting.ratio_y.numpy()
    low, high = -100.0, 100.0
    for _ in range(60):  # the difference of both sides grows with the constant: bisection
        middle = (low + high) / 2
        low, high = (middle, high) if _logistic(b - middle).mean() > _logistic(middle - a).mean() else (low, middle)
    forward, backward = _logistic(middle - a), _logistic(b - middle)
    scale = max((forward * (1 - forward)).mean() + (backward * (1 - backward)).mean(), 1e-12)
    return middle, float(math.sqrt(forward.var() / len(a) + backward.var() / len(b)) / scale)


def _logistic(t: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(t, -500, 500)))
