"""Which values a pixel can take.

An image batch is always a floating tensor. Pixels of data with n gray levels lie on the grid 0, 1/(n−1), …, 1, so that
pictures, networks and every likelihood share one scale; the *support* says which of the values can occur.

    binary = levels(2) ⊂ levels(n) ⊂ unit = [0, 1] ⊂ real        bytes = levels(256)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vaelid.errors import SupportError


@dataclass(frozen=True)
class Support:
    """A set of allowed pixel values: a grid of ``levels`` values on [0, 1], the interval [0, 1], or all reals."""

    name: str
    levels: int | None = None

    @property
    def discrete(self) -> bool:
        """Whether a model on this support gives probabilities (else densities)."""
        return self.levels is not None

    def contains(self, other: Support) -> bool:
        """Whether every value of the other support is also one of this one."""
        if self.levels is None:
            return self.name == "real" or other.name != "real"
        # The grid of m levels lies on the grid of n levels when m − 1 divides n − 1.
        return other.levels is not None and (self.levels - 1) % (other.levels - 1) == 0

    def outside(self, x: Tensor) -> Tensor:
        """Mask of the values of ``x`` that are not in the support; same shape as ``x``."""
        if self.name == "real":
            return ~torch.isfinite(x)
        beyond = ~((x >= 0) & (x <= 1))  # also true for NaN
        if self.levels is None:
            return beyond
        scaled = x * (self.levels - 1)
        # A float32 grid value k/(n−1) comes back within 1e-4 of k for every n up to 256; most real gray values do not.
        return beyond | ((scaled - scaled.round()).abs() > 1e-3)

    def check(self, x: Tensor, remedy: str = "") -> None:
        """Refuse a batch with values outside the support.

        Raises:
            SupportError: names the first offending value, its index, and ``remedy``.
        """
        outside = self.outside(x)
        if not bool(outside.any()):
            return
        index = tuple(int(i) for i in outside.nonzero()[0])
        share = int(outside.sum()) / outside.numel()
        value = x[index].detach().cpu().float().numpy()  # shows as few digits as tell it from its neighbors: 0.1, 1.0000001
        raise SupportError(
            f"Pixels must be {self}; the value at index {index} is {value!s} ({share:.1%} of the values do not fit).", remedy
        )

    def __str__(self) -> str:
        if self.levels == 2:
            return "binary (0 or 1)"
        if self.levels is not None:
            return f"one of {self.levels} levels 0, 1/{self.levels - 1}, …, 1"
        return "in [0, 1]" if self.name == "unit" else "finite real numbers"


def levels(n: int) -> Support:
    """The support of pixels with ``n`` ≥ 2 gray levels on the grid k/(n−1)."""
    return Support({2: "binary", 256: "bytes"}.get(n, f"levels({n})"), n)


BINARY = levels(2)
BYTES = levels(256)
UNIT = Support("unit")
REAL = Support("real")


def parse_support(name: str) -> Support:
    """The support with this name, e.g. ``parse_support("levels(17)")``."""
    plain = {s.name: s for s in (BINARY, BYTES, UNIT, REAL)}
    return plain[name] if name in plain else levels(int(name.removeprefix("levels(").removesuffix(")")))
