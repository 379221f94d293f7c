"""Posteriors for tests that want another q(z|x) than a network's Gaussian."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.distributions import Distribution, Independent

from vaelid.posteriors import Posterior


class ByFunction(Posterior):
    """q(z|x) as any function of images ``(B, *X)`` gives it; nothing to train."""

    def __init__(self, q: Callable[[Tensor], Distribution]) -> None:
        super().__init__()
        self.q = q

    @classmethod
    def network_outputs(cls, latent: int) -> int:
        return 0

    def forward(self, x: Tensor) -> Distribution:
        return self.q(x)


class Meanless(Independent):
    """A distribution whose mean nobody knows."""

    @property
    def mean(self) -> Tensor:
        raise NotImplementedError
