"""Approximate posteriors q(z|x).

The contract of a posterior: the constructor takes ``network`` (an object: x -> numbers) and ``latent`` (L), then its own
options; ``network_outputs`` says beforehand how many numbers it needs; ``forward`` gives a distribution with batch ``(B,)`` and
event ``(L,)`` that can be drawn from by reparameterization (``rsample``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from vaelid.distributions import diagonal_normal


class Posterior(nn.Module, ABC):
    """Base of posteriors."""

    @classmethod
    @abstractmethod
    def network_outputs(cls, latent: int) -> int:
        """How many numbers per image the network must give."""

    @abstractmethod
    def forward(self, x: Tensor) -> Distribution:
        """q(z|x) for a batch ``(B, *X)``: batch shape ``(B,)``, event shape ``(L,)``."""


class GaussianPosterior(Posterior):
    """Diagonal Gaussian q(z|x) = N(z; μ(x), diag σ²(x)), drawn as z = μ + σ ⊙ ε with ε ~ N(0, I).

    The network gives μ and log σ², in this order.

    References:
        Kingma & Welling 2014, Auto-Encoding Variational Bayes, eq. 9 and 10; Rezende, Mohamed & Wierstra 2014.
    """

    def __init__(self, network: nn.Module, latent: int) -> None:
        super().__init__()
        self.network = network
        self.latent = latent

    @classmethod
    def network_outputs(cls, latent: int) -> int:
        """2 L: μ, then log σ²."""
        return 2 * latent

    def forward(self, x: Tensor) -> Independent[Normal]:
        """N(μ(x), diag σ²(x)) for images ``(B, *X)``, with ``rsample``."""
        # Densities are always float32 or better: under bfloat16 autocast only the network's products are short.
        mean, log_variance = self.network(x).to(x.dtype).chunk(2, dim=-1)
        return diagonal_normal(mean, (0.5 * log_variance).exp())


POSTERIORS: dict[str, type[Posterior]] = {"gaussian": GaussianPosterior}
