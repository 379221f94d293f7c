"""Sampler against density through a second distribution: the bounded exchange identity.

    E_{x~p}[ h(x) q/(p+q) ] = E_{y~q}[ h(y) p/(p+q) ]      for every bounded h and every normalized q

Both sides are ∫ h p q/(p+q), whatever p and q are; the weights lie between 0 and 1, so there are no tails, moments or gradients
to worry about, and discrete parts are treated alike. q is fitted to some of the draws and compared with the others. At h = 1
the identity is Bennett's acceptance ratio: it holds only if p integrates to one. Further h: the shape of p against q,
coordinates, pairs of them, and the components of q, which see how mass is shared between modes.

References:
    Bennett 1976, Efficient estimation of free energy differences; Meng & Wong 1996, section 2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from vaelid.auditing.adapter import Evidence, Face
from vaelid.auditing.domain import Domain
from vaelid.auditing.findings import Finding, Verdict
from vaelid.auditing.proposals import Histograms, Proposal, Table, conditionals, fit_continuous, fit_discrete
from vaelid.auditing.statistics import Screen, compare, cut

_HYPOTHESIS = "E_p[h q/(p+q)] = E_q[h p/(p+q)]"
#: Each side must count for so many full draws, or the identity has not been tested.
_ENOUGH = 50.0
_MOST_NUMBERS = 8_000_000
_ROUNDED = 8.0  # units in the last place that a sum of many log probabilities is off by
_MOST_DROPPED = 1 / 3  # standard errors


@dataclass(frozen=True)
class Meeting:
    """Draws of p and of a q that was fitted to other draws of p, with both densities of both, in nats on the real line."""

    q: Proposal
    x: Tensor  # (n, D) draws of p
    y: Tensor  # (n, D) draws of q
    ratio_x: Tensor  # (n,) log p − log q at draws of p
    ratio_y: Tensor  # (n,) log p − log q at draws of q
    dropped: float  # share of the draws of p that had no finite place or density on the real line
    rounding: float  # nats that log p may be off by, because of its number type

    @property
    def weight_x(self) -> Tensor:
        """q/(p+q) at draws of p."""
        return torch.sigmoid(-self.ratio_x)

    @property
    def weight_y(self) -> Tensor:
        """p/(p+q) at draws of q."""
        return torch.sigmoid(self.ratio_y)

    @property
    def lopsided(self) -> bool:
        """Whether so many draws of p were dropped, and none of q, that the identity is off by a third of its standard error."""
        return self.dropped * math.sqrt(len(self.x)) > _MOST_DROPPED

    @property
    def overlap(self) -> float:
        """∫ 2pq/(p+q): 1 if p and q agree, 0 if they do not meet; the smaller of both estimates."""
        return 2 * float(torch.minimum(self.weight_x.mean(), self.weight_y.mean()))

    @property
    def counted(self) -> float:
        """Full draws that the side with more weight amounts to: with too few on both, nothing was tested."""
        sizes = [
            float(w.sum().square() / w.square().sum().clamp_min(1e-300)) * bool(w.sum() > 1)
            for w in (self.weight_x, self.weight_y)
        ]
        return max(sizes)


def meet(evidence: Evidence, condition: int = 0) -> Meeting:
    """The meeting under one condition, made once for all tests that need it."""
    if condition not in evidence.kept:
        evidence.kept[condition] = _meet(evidence, condition)
    return evidence.kept[condition]


def _meet(evidence: Evidence, condition: int) -> Meeting:
    """Fit q to some draws of one condition, and bring the others together with draws of q.

    Where events have far more numbers than there are draws, nothing that is fitted to draws meets p; what p says about single
    coordinates may.
    """
    target = evidence.target.at_condition(condition)
    if target.given is not None:
        most = max(1000, min(evidence.plan.samples, _MOST_NUMBERS // evidence.dims))
        torch.manual_seed(evidence.plan.key(target.name, "exchange", str(condition)))
        draws = target.face().draw(most)
    else:
        draws = evidence.x
    domain, face = evidence.domain, target.face()
    flat, log_p = _on_line(face, domain, draws)
    few = min(len(flat) // 2, max(2000, len(flat) // 4))
    fitted = flat[:few]
    dropped = 1 - len(flat) / len(draws)
    rounding = _ROUNDED * torch.finfo(evidence.log_prob.dtype).eps * float(log_p.abs().max()) if len(log_p) else 0.0

    def with_proposal(q: Proposal) -> Meeting:
        x, log_p_x = flat[few:], log_p[few:]
        y = q.sample(max(len(x), min(4 * len(x), _MOST_NUMBERS // 4 // evidence.dims)))  # these cost nothing but their density
        log_p_y = _density_of(face, domain, y, draws.shape)
        return Meeting(q, x, y, log_p_x - q.log_prob(x), log_p_y - q.log_prob(y), dropped, rounding)

    if domain.values is None:
        return with_proposal(fit_continuous(fitted))
    found = with_proposal(fit_discrete(fitted, domain.values, domain.complete))
    if found.counted >= _ENOUGH or not domain.complete:
        return found
    single = conditionals(lambda y: _density_of(face, domain, y, draws.shape), fitted[0], domain.values)
    return with_proposal(Histograms(single, domain.values, domain.complete))


def exchange(evidence: Evidence) -> list[Finding]:
    """The identity for h = shape, coordinates, pairs and components; h = 1 is the normalization test's."""
    count = 1 if evidence.conditions == 1 or evidence.plan.quick else 2
    return [_judge(evidence, meet(evidence, b), b) for b in range(count)]


def _judge(evidence: Evidence, meeting: Meeting, condition: int) -> Finding:
    tested: Screen = compare(
        _columns(meeting.q, meeting.x, meeting.ratio_x, meeting.weight_x),
        _columns(meeting.q, meeting.y, meeting.ratio_y, meeting.weight_y),
        meeting.rounding,
    )
    where = _feature(meeting, _named(tested)) + (f" at condition {condition}" if evidence.conditions > 1 else "")
    verdict: Verdict = "pass"
    words = f"Sampler and density put different mass there: {where}"
    if meeting.counted < _ENOUGH:
        verdict = "undecided"
        words = f"No fitted proposal overlaps with the density (overlap {meeting.overlap:.1g}): the identity could not be tested"
    elif meeting.lopsided:
        verdict, words = "undecided", unplaced(meeting)
    detail = {"overlap": meeting.overlap, "dropped": meeting.dropped}
    return Finding("exchange", evidence.name, _HYPOTHESIS, verdict, words, where, tested.statistic, tested.p_value, detail=detail)


def _columns(q: Proposal, x: Tensor, ratio: Tensor, weight: Tensor) -> Iterator[Tensor]:
    """h of the draws times their weights, ``(n, m)`` piece by piece: the overall shape, then what belongs to the proposal."""
    pieces = [cut(each, q.features(x[:1]).shape[1]) for each in (x, ratio, weight)]
    for some_x, some_ratio, some_weight in zip(*pieces, strict=True):
        shape = torch.tanh(some_ratio).nan_to_num(0.0).unsqueeze(1)
        yield torch.cat([shape, q.features(some_x)], dim=1) * some_weight[:, None]


def unplaced(meeting: Meeting) -> str:
    """Why a meeting that lost draws on one side tells nothing."""
    return (
        f"{meeting.dropped:.2%} of the draws have no finite density or no finite place on the real line (rounded onto the edge "
        "of the support, say): the identity would miss them on one side only"
    )


def _named(tested: Screen) -> int:
    """The worst column; the overall shape (column 0) only where no single dimension or region is guilty beyond doubt."""
    others = tested.z[1:].abs()
    return int(others.argmax()) + 1 if len(others) and float(others.max()) > 6 else tested.worst


def _feature(meeting: Meeting, column: int) -> str:
    """What a column of the comparison stands for."""
    dims, column = meeting.x.shape[1], column - 1
    if column < 0:
        return "overall shape"
    if isinstance(meeting.q, Table):
        return f"the event {meeting.q.events[column].tolist()}"
    if isinstance(meeting.q, Histograms):
        return f"dimension {column}"
    if column < 2 * dims:
        return f"dimension {column % dims}"
    components = meeting.q.features(meeting.x[:1]).shape[1] - 2 * dims - (dims * (dims - 1) // 2 if 1 < dims <= 24 else 0)
    if column < 2 * dims + components:
        return f"the mass of region {column - 2 * dims} (one component of the fitted mixture)"
    i, j = torch.triu_indices(dims, dims, 1)[:, column - 2 * dims - components].tolist()
    return f"dimensions {i} and {j}"


def _on_line(face: Face, domain: Domain, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Draws of one condition as vectors on the real line ``(n, Y)`` and their log density there, float64; non-finite rows
    are left out.
    """
    with torch.no_grad():
        log_p = face.log_prob(draws)[:, 0].double()
        y, log_jacobian = (draws, None) if domain.discrete else domain.to_real(draws)
    flat = y[:, 0].reshape(len(y), -1).double()
    total = log_p if log_jacobian is None else log_p + log_jacobian[:, 0].double()
    kept = torch.isfinite(total) & torch.isfinite(flat).all(1)
    return flat[kept], total[kept]


def _density_of(face: Face, domain: Domain, y: Tensor, shape: torch.Size) -> Tensor:
    """log p of vectors ``(n, Y)`` on the real line; where the part refuses values, one by one, its probability there is zero."""
    like = torch.get_default_dtype()
    with torch.no_grad():
        if domain.discrete:
            x, log_jacobian = y.to(like).reshape(len(y), 1, *shape[2:]), torch.zeros(len(y), 1)
        else:
            inner = y.to(like).reshape(len(y), 1, *(shape[2:] if domain.transform.codomain.event_dim == 0 else y.shape[1:]))
            x, log_jacobian = domain.from_real(inner)
        try:
            log_p = face.log_prob(x)
        except ValueError:
            log_p = torch.cat([_one(face, row) for row in x.split(1)])
    total = (log_p + log_jacobian)[:, 0].double()
    return torch.where(torch.isnan(total), torch.full_like(total, -math.inf), total)


def _one(face: Face, row: Tensor) -> Tensor:
    try:
        return face.log_prob(row)
    except ValueError:
        return torch.full((1, 1), -math.inf)
