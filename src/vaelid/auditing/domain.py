"""Where a distribution lives: which values are allowed, and how a bounded continuous space is laid onto the real line.

y = T⁻¹(x) real,   log p(y) = log p(x) + log |dx/dy|
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints
from torch.distributions.transforms import Transform, identity_transform

from vaelid.supports import Support

Declared = Support | constraints.Constraint | None
#: A sample with at most so many different values, and many more draws than values, is taken for discrete.
_MOST_VALUES = 300


@dataclass(frozen=True)
class Domain:
    """The space of one event.

    Attributes:
        declared: what the part says, None if it says nothing (then everything else is read off its samples)
        values: the values that occur, sorted, for a discrete space; else None
        transform: real line -> space, for a continuous one
        event_dims: dimensions of an event
    """

    declared: Declared
    values: Tensor | None
    transform: Transform
    event_dims: int

    @property
    def discrete(self) -> bool:
        """Whether events have probabilities, not densities: few values occur, or a grid is declared."""
        return self.values is not None

    @property
    def bounded(self) -> bool:
        """Whether this is less than all real vectors."""
        bijector = getattr(self.transform, "base_transform", self.transform)
        return self.discrete or bijector is not identity_transform

    @property
    def complete(self) -> bool:
        """Whether ``values`` are all there are: a declared grid, or declared bounds that the draws reach at both ends."""
        if self.values is None or self.declared is None:
            return False
        if isinstance(self.declared, Support) or self.declared is constraints.boolean:
            return True
        base = getattr(self.declared, "base_constraint", self.declared)
        low, high = getattr(base, "lower_bound", None), getattr(base, "upper_bound", None)
        if low is None or high is None or torch.as_tensor(high).numel() > 1:
            return base is constraints.boolean
        return float(self.values[0]) == float(low) and len(self.values) == float(high) - float(low) + 1

    def to_real(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """y and log |dx/dy| for ``x`` ``(..., *E)``: ``(..., *Y)`` and ``(...)``."""
        y = self.transform.inv(x)
        return y, self._jacobian(y, x)

    def from_real(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """x and log |dx/dy|."""
        x = self.transform(y)
        return x, self._jacobian(y, x)

    def outside(self, x: Tensor) -> Tensor | None:
        """Mask of the events ``(n, B, *E) -> (n, B)`` that are not in the declared support; None if nothing is declared."""
        if self.declared is None:
            return None
        bad = self.declared.outside(x) if isinstance(self.declared, Support) else ~self.declared.check(x)
        return bad.flatten(2).any(-1) if bad.dim() > 2 else bad

    def _jacobian(self, y: Tensor, x: Tensor) -> Tensor:
        log_jacobian = self.transform.log_abs_det_jacobian(y, x)
        extra = self.event_dims - self.transform.codomain.event_dim
        return log_jacobian.flatten(-extra).sum(-1) if extra > 0 else log_jacobian


def domain_of(x: Tensor, declared: Declared, event_dims: int) -> Domain:
    """The space of draws ``x`` ``(n, B, *E)``; where nothing is declared, the smallest usual space that holds them all."""
    if isinstance(declared, Support):
        if declared.levels is not None:
            values = torch.linspace(0, 1, declared.levels, dtype=x.dtype, device=x.device)
            return Domain(declared, values, identity_transform, event_dims)
        transform = identity_transform if declared.name == "real" else biject_to(constraints.unit_interval)
        return Domain(declared, None, transform, event_dims)
    if getattr(declared, "base_constraint", declared) is constraints.boolean:
        # Not those that were seen: a rare event may be missing among the draws, and the sum of probabilities needs it.
        return Domain(declared, torch.tensor([0.0, 1.0], dtype=x.dtype, device=x.device), identity_transform, event_dims)
    few = torch.unique(x) if x.numel() <= 10**6 else torch.unique(x.flatten()[: 10**6])
    looks_discrete = len(few) <= min(_MOST_VALUES, x.numel() // 20)
    if looks_discrete if declared is None else declared.is_discrete:
        return Domain(declared, few, identity_transform, event_dims)
    if declared is not None:
        try:
            return Domain(declared, None, biject_to(declared), event_dims)
        except NotImplementedError:  # a constraint that torch has no map for: read it off the samples
            pass
    return Domain(declared, None, _guess(x), event_dims)


def _guess(x: Tensor) -> Transform:
    low, high = float(x.min()), float(x.max())
    if low > 0 and high < 1:
        return biject_to(constraints.unit_interval)
    return biject_to(constraints.positive) if low > 0 else identity_transform
