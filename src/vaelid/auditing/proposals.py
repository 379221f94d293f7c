"""Normalized distributions fitted to draws: second opinions that know nothing of the part but where its draws fell.

Continuous, on the real line: a Gaussian mixture of the whole vector, or a product of one-dimensional mixtures, in coordinates
that are straightened by arsinh where tails are heavy; whichever gives draws that it was not fitted to the higher density.
Discrete: independent histograms, or the table of whole events where few occur."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from vaelid.auditing.statistics import products

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
_ROUNDS = 12
_MOST_JOINT = 40  # dimensions up to which a full covariance is fitted
_MOST_ROWS = 4096  # events that the part is asked about at once
_RARE = 1e-9  # share of the uniform in what the part says about a coordinate
_HEAVY = 8.0  # quantile range 99.8 % over interquartile range: 4.6 for a normal, 9 for a Laplace, 470 for a Cauchy


class Proposal(ABC):
    """A normalized distribution over vectors ``(n, D)``.

    Attributes:
        covers: whether it gives every possible event a chance (without that, E_q[p/q] misses what q never draws)
    """

    covers: bool = True

    @abstractmethod
    def log_prob(self, y: Tensor) -> Tensor:
        """``(n, D) -> (n,)`` nats."""

    @abstractmethod
    def sample(self, n: int) -> Tensor:
        """``(n, D)``."""

    def features(self, y: Tensor) -> Tensor:
        """Bounded functions of ``y`` that belong to this proposal, ``(n, m)``; none by default."""
        return y[:, :0]


class Mixture(Proposal):
    """Gaussian mixture with full covariances, by expectation maximization from random centers."""

    def __init__(self, y: Tensor, components: int) -> None:
        dims = y.shape[1]
        self.mean = _spread_centers(y, components)
        base = torch.cov(y.T).reshape(dims, dims) + 1e-9 * torch.eye(dims, dtype=y.dtype)
        self.covariance = base.expand(components, dims, dims) / components ** (2 / dims)
        self.log_weight = torch.full((components,), -math.log(components), dtype=y.dtype)
        for _ in range(_ROUNDS if components > 1 else 1):
            share = torch.softmax(self._log_joint(y), dim=1)
            count = share.sum(0) + 1e-6
            self.log_weight = (count / count.sum()).log()
            self.mean = (share.T @ y) / count[:, None]
            away = y.unsqueeze(1) - self.mean
            scatter = torch.einsum("nk,nki,nkj->kij", share, away, away)
            # A few pseudo-draws of the whole cloud keep small components from collapsing.
            self.covariance = (scatter + (dims + 2) * base / components) / (count + dims + 2)[:, None, None]
        self._factor = torch.linalg.cholesky(self.covariance)

    def _log_joint(self, y: Tensor) -> Tensor:
        factor = torch.linalg.cholesky(self.covariance)
        away = (y.unsqueeze(0) - self.mean.unsqueeze(1)).transpose(1, 2)  # (K, D, n)
        white = torch.linalg.solve_triangular(factor, away, upper=False).square().sum(1)
        log_scale = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1) + y.shape[1] * _HALF_LOG_2PI
        return (self.log_weight[:, None] - 0.5 * white - log_scale[:, None]).T

    def log_prob(self, y: Tensor) -> Tensor:
        """log Σ_k π_k N(y; μ_k, Σ_k), ``(n, D) -> (n,)`` nats."""
        return torch.logsumexp(self._log_joint(y), dim=1)

    def sample(self, n: int) -> Tensor:
        """A component for each draw, then μ_k + L_k ε with L_k L_kᵀ = Σ_k, ``(n, D)``."""
        component = torch.multinomial(self.log_weight.exp(), n, replacement=True)
        noise = torch.randn(n, self.mean.shape[1], 1, dtype=self.mean.dtype)
        return self.mean[component] + (self._factor[component] @ noise).squeeze(-1)

    def features(self, y: Tensor) -> Tensor:
        """The shares that the components claim of each draw, ``(n, K)``; none for a single component."""
        return torch.softmax(self._log_joint(y), dim=1) if len(self.mean) > 1 else y[:, :0]


class Product(Proposal):
    """Independent coordinates, each a one-dimensional Gaussian mixture."""

    def __init__(self, y: Tensor, components: int) -> None:
        quantile = torch.linspace(0, 1, components + 2, dtype=y.dtype)[1:-1]
        self.mean = torch.quantile(y[:2000], quantile, dim=0)  # (K, D)
        base = y.var(0).clamp_min(1e-18)
        self.variance = (base / components**2).expand(components, -1)
        self.log_weight = torch.full_like(self.mean, -math.log(components))
        for _ in range(_ROUNDS if components > 1 else 1):
            share = torch.softmax(self._log_joint(y), dim=1)  # (n, K, D)
            count = share.sum(0) + 1e-6
            self.log_weight = (count / count.sum(0)).log()
            self.mean = (share * y.unsqueeze(1)).sum(0) / count
            scatter = (share * (y.unsqueeze(1) - self.mean).square()).sum(0)
            self.variance = (scatter + base / components**2) / (count + 1)

    def _log_joint(self, y: Tensor) -> Tensor:
        away = (y.unsqueeze(1) - self.mean).square() / self.variance
        return self.log_weight - 0.5 * away - 0.5 * self.variance.log() - _HALF_LOG_2PI

    def log_prob(self, y: Tensor) -> Tensor:
        """Σ_d log Σ_k π_kd N(y_d; μ_kd, σ²_kd), ``(n, D) -> (n,)`` nats."""
        return torch.logsumexp(self._log_joint(y), dim=1).sum(1)

    def sample(self, n: int) -> Tensor:
        """A component for each coordinate of each draw, then μ_kd + σ_kd ε, ``(n, D)``."""
        component = torch.multinomial(self.log_weight.T.exp(), n, replacement=True)  # (D, n)
        mean, scale = self.mean.T.gather(1, component), self.variance.sqrt().T.gather(1, component)
        return (mean + scale * torch.randn_like(mean)).T.contiguous()


class Straightened(Proposal):
    """Another proposal in the coordinates u = arsinh((y − median)/spread) where tails are heavy, u = (y − median)/spread
    elsewhere.
    """

    def __init__(self, y: Tensor, kind: type[Mixture] | type[Product], components: int) -> None:
        few = y[:4000]
        marks = torch.tensor([0.001, 0.25, 0.5, 0.75, 0.999], dtype=y.dtype)
        lowest, low, self.center, high, highest = torch.quantile(few, marks, dim=0)
        self.spread = ((high - low) / 1.349).clamp_min(1e-12)
        self.heavy = (highest - lowest) > _HEAVY * (high - low).clamp_min(1e-12)
        self.inner = kind(self._straighten(y)[0], components)

    def _straighten(self, y: Tensor) -> tuple[Tensor, Tensor]:
        u, log_slope = (y - self.center) / self.spread, -self.spread.log().sum()
        standard = u[:, self.heavy]
        u[:, self.heavy] = torch.asinh(standard)
        return u, log_slope - 0.5 * torch.log1p(standard.square()).sum(1)

    def log_prob(self, y: Tensor) -> Tensor:
        """Density in the coordinates of ``y``: that of u plus log |du/dy|, ``(n,)`` nats."""
        u, log_slope = self._straighten(y)
        return self.inner.log_prob(u) + log_slope

    def sample(self, n: int) -> Tensor:
        """Draws u of the inner proposal, taken back to the coordinates of ``y``, ``(n, D)``."""
        u = self.inner.sample(n)
        u[:, self.heavy] = torch.sinh(u[:, self.heavy])
        return self.center + self.spread * u

    def features(self, y: Tensor) -> Tensor:
        """tanh u, its squares, its products of two coordinates (for D ≤ 24), and the features of the inner proposal."""
        u, _ = self._straighten(y)
        waves = torch.tanh(u)
        columns = [waves, waves.square(), self.inner.features(u)]
        if 1 < u.shape[1] <= 24:
            columns.append(products(waves, waves))
        return torch.cat(columns, dim=1)


class Histograms(Proposal):
    """Independent discrete coordinates.

    Args:
        probability: of each value in each coordinate, ``(D, values)``; none is zero
        values: all values that occur, sorted
        covers: whether there are no others
    """

    def __init__(self, probability: Tensor, values: Tensor, covers: bool) -> None:
        self.probability, self.covers = probability, covers
        self.values = values.double()
        self.gap = float(self.values.diff().min()) if len(values) > 1 else 1.0

    def _place(self, y: Tensor) -> Tensor:
        return _nearest(y, self.values)

    def log_prob(self, y: Tensor) -> Tensor:
        """log probability of whole events, ``(n,)`` nats; −∞ for a value that is not on the grid."""
        place, dims = self._place(y), torch.arange(y.shape[1])
        known = ((y - self.values[place]).abs() <= 1e-3 * self.gap).all(1)
        return torch.where(known, self.probability.log()[dims, place].sum(1), -math.inf)

    def sample(self, n: int) -> Tensor:
        """A value for each coordinate by its probabilities, ``(n, D)`` float64."""
        return self.values[torch.multinomial(self.probability, n, replacement=True).T]

    def features(self, y: Tensor) -> Tensor:
        """The values themselves on the scale 0 … 1, ``(n, D)``."""
        spread = self.values[-1] - self.values[0] or 1.0
        return ((y - self.values[0]) / spread).double()


class Table(Proposal):
    """The frequencies of whole events, where few occur; each has a feature of its own."""

    covers = False

    def __init__(self, y: Tensor) -> None:
        self.events, counts = torch.unique(y, dim=0, return_counts=True)
        self.probability = counts.double() / len(y)

    def _match(self, y: Tensor) -> Tensor:
        return (y.unsqueeze(1) == self.events).all(-1)

    def log_prob(self, y: Tensor) -> Tensor:
        """log frequency of the event among the draws it was fitted to, ``(n,)`` nats; −∞ for an event that did not occur."""
        match = self._match(y)
        return torch.where(match.any(1), self.probability[match.double().argmax(1)].log(), -math.inf)

    def sample(self, n: int) -> Tensor:
        """Whole events by their frequencies, ``(n, D)``."""
        return self.events[torch.multinomial(self.probability, n, replacement=True)]

    def features(self, y: Tensor) -> Tensor:
        """One indicator for each event that occurred, ``(n, events)``."""
        return self._match(y).double()


def fit_continuous(y: Tensor) -> Proposal:
    """The best of a few mixtures for draws ``(n, D)`` float64 on the real line; more components while more are better."""
    fit, held_out = y[: 3 * len(y) // 4], y[3 * len(y) // 4 :]
    dims = y.shape[1]
    best: Proposal = Straightened(fit, Product, 8 if fit.numel() <= 300_000 else 1)
    reached, joint = float(best.log_prob(held_out).mean()), -math.inf
    for components in (1, 4, 16) if dims <= _MOST_JOINT else ():
        if len(fit) <= 20 * components * dims:
            break
        proposal = Straightened(fit, Mixture, components)
        before, joint = joint, float(proposal.log_prob(held_out).mean())
        if joint <= before:
            break
        if joint > reached:
            best, reached = proposal, joint
    return best


def fit_discrete(y: Tensor, values: Tensor, covers: bool) -> Proposal:
    """The table of events where each comes often, else independent histograms."""
    y = y + 0.0  # a negative zero is the same event
    if y.shape[1] <= 16 and len(torch.unique(y, dim=0)) <= min(200, len(y) // 30):
        return Table(y)
    fit, held_out = y[: 3 * len(y) // 4], y[3 * len(y) // 4 :]
    bells = (0.0, 0.5, 0.99) if len(values) > 2 else (0.0,)
    fitted = [Histograms(frequencies(fit, values, bell), values, covers) for bell in bells]
    best = max(range(len(bells)), key=lambda i: float(fitted[i].log_prob(held_out).mean()))
    return Histograms(frequencies(y, values, bells[best]), values, covers)


def frequencies(y: Tensor, values: Tensor, bell: float = 0.0) -> Tensor:
    """How often each value comes in each coordinate of ``y`` ``(n, D)``, a little of the uniform mixed in, ``(D, values)``.

    Args:
        bell: share of a Gaussian's bins in the frequencies, for many levels of which each is rare
    """
    place = _nearest(y, values.double())
    counts = torch.zeros(y.shape[1], len(values), dtype=torch.float64)
    counts.scatter_add_(1, place.T, torch.ones(place.T.shape, dtype=torch.float64))
    share = (counts + 0.5 / len(values)) / (len(y) + 0.5)
    return (1 - bell) * share + bell * _bell(counts, values.double()) if bell else share


def conditionals(log_prob: Callable[[Tensor], Tensor], at: Tensor, values: Tensor) -> Tensor:
    """p(x_d | all other coordinates as in ``at``) of each value, ``(D, values)``; no probability is quite zero.

    For independent coordinates this is p itself, whatever constant it lacks, and however few draws there are.

    Args:
        log_prob: nats of events ``(n, D)``
        at: one event, ``(D,)``
    """
    dims, count = len(at), len(values)
    rows = []
    for some in torch.arange(dims).split(max(1, _MOST_ROWS // count)):
        events = at.repeat(len(some), count, 1)  # (coordinates, values, D)
        events[torch.arange(len(some)), :, some] = values.double()
        rows.append(torch.softmax(log_prob(events.flatten(0, 1)).reshape(len(some), count), dim=1))
    return (1 - _RARE) * torch.cat(rows).nan_to_num(0.0) + _RARE / count


def _bell(counts: Tensor, values: Tensor) -> Tensor:
    """Each coordinate's Gaussian in bins, outer bins open, ``(D, values)``: a weighted line through the probits of the
    cumulative frequencies, (edge − center)/spread, which draws that pile up in the outer bins do not bend.
    """
    total = counts.sum(1, keepdim=True)
    share = (counts.cumsum(1)[:, :-1] / total).clamp(0.5 / total, 1 - 0.5 / total)
    probit = torch.special.ndtri(share)
    weight = torch.exp(-probit.square()) / (share * (1 - share)) * (share * total > 1) * ((1 - share) * total > 1) + 1e-12
    weight = weight / weight.sum(1, keepdim=True)
    edges = ((values[1:] + values[:-1]) / 2).expand_as(probit)
    middle, height = (weight * edges).sum(1, keepdim=True), (weight * probit).sum(1, keepdim=True)
    away = edges - middle
    slope = (weight * away * (probit - height)).sum(1, keepdim=True) / (weight * away.square()).sum(1, keepdim=True).clamp_min(
        1e-12
    )
    below = torch.special.ndtr(height + slope.clamp_min(1e-6) * away)
    return torch.diff(below, dim=1, prepend=torch.zeros_like(total), append=torch.ones_like(total))


def _nearest(y: Tensor, values: Tensor) -> Tensor:
    """The number of the value that each entry of ``y`` is nearest to."""
    return torch.bucketize(y.contiguous(), (values[1:] + values[:-1]) / 2)


def _spread_centers(y: Tensor, components: int) -> Tensor:
    """k-means++ seeding: each further center is drawn far from the ones before."""
    few = y[:2000]
    centers = few[:1] if components > 1 else few.mean(0, keepdim=True)
    while len(centers) < components:
        distance = torch.cdist(few, centers).min(1).values.square() + 1e-12
        centers = torch.cat([centers, few[torch.multinomial(distance, 1)]])
    return centers.clone()
