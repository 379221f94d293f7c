"""Priors p(z).

The contract of a prior: the constructor takes ``latent`` (L), then its own options; ``forward()`` gives a distribution with batch
``()`` and event ``(L,)``; ``initialize(z)`` may look at encoded data once, before training.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal

import numpy as np
import scipy
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from vaelid.distributions import FactorizedGaussianMixture, GaussianMixture, diagonal_normal
from vaelid.errors import PartError
from vaelid.settings import Count

#: How often k-means may start anew.
_ATTEMPTS = 10


class Prior(nn.Module, ABC):
    """Base of priors."""

    #: Whether :meth:`initialize` wants encoded data (encoding the training images costs a pass).
    wants_data: bool = False

    @abstractmethod
    def forward(self) -> Distribution:
        """p(z): batch shape ``()``, event shape ``(L,)``."""

    def initialize(self, z: Tensor) -> None:
        """Start from posterior draws ``(N, L)`` of training images, once, before training."""


class StandardNormalPrior(Prior):
    """p(z) = N(z; 0, I). Its KL from a diagonal Gaussian is known: ½ Σ_d (μ_d² + σ_d² − 1 − log σ_d²).

    References:
        Kingma & Welling 2014, Auto-Encoding Variational Bayes, appendix B.
    """

    zero: Tensor
    one: Tensor

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.register_buffer("zero", torch.zeros(latent), persistent=False)  # buffers follow .to(device) and .double()
        self.register_buffer("one", torch.ones(latent), persistent=False)

    def forward(self) -> Independent[Normal]:
        return diagonal_normal(self.zero, self.one)


class _MixturePrior(Prior):
    """What both mixtures learn: logits ``(C,)``, means and log variances ``(C, L)``.

    Args:
        latent: L
        components: C
        init: ``normal`` starts means and log variances from N(0, 1) with equal weights; ``k-means`` from clusters of encoded data
    """

    def __init__(self, latent: int, components: Count = 16, init: Literal["normal", "k-means"] = "normal") -> None:
        super().__init__()
        self.wants_data = init == "k-means"
        self.logits = nn.Parameter(torch.zeros(components))
        self.mean = nn.Parameter(torch.randn(components, latent))
        self.log_variance = nn.Parameter(torch.randn(components, latent))

    @property
    def scale(self) -> Tensor:
        return (0.5 * self.log_variance).exp()

    @torch.no_grad()
    def initialize(self, z: Tensor) -> None:
        """One component per k-means cluster of ``z`` ``(N, L)``: its share, mean and variance.

        Raises:
            PartError: if ``z`` does not fall into that many clusters.
        """
        count = len(self.logits)
        member = torch.as_tensor(_clusters(z.cpu().double().numpy(), count), device=z.device)
        for c in range(count):
            inside = z[member == c]
            # A cluster of one keeps the spread of everything, or it would start as a spike.
            spread = inside if len(inside) > 1 else z
            self.mean[c] = inside.mean(0)
            self.log_variance[c] = spread.var(0).clamp_min(1e-4).log()
            self.logits[c] = math.log(len(inside) / len(z))


class MixturePrior(_MixturePrior):
    """Joint mixture p(z) = Σ_c w_c N(z; μ_c, diag σ_c²) with learned weights, means and scales.

    One component is drawn for the whole vector; the log-sum-exp over components comes after the sum over dimensions.

    References:
        Dilokthanakul et al. 2016, Deep Unsupervised Clustering with Gaussian Mixture Variational Autoencoders;
        Tomczak & Welling 2018, VAE with a VampPrior, section 3 (where it is a baseline).
    """

    def forward(self) -> GaussianMixture:
        return GaussianMixture(self.logits, self.mean, self.scale)


class FactorizedMixturePrior(_MixturePrior):
    """Per dimension a mixture: p(z) = Π_d Σ_c w_c N(z_d; μ_cd, σ_cd²), the C weights shared by all dimensions.

    A component is drawn for every dimension afresh. (A density that takes the log-sum-exp per dimension, as is often
    written for a joint mixture, is this prior; a sampler that picks one component for all dimensions is the other one.)
    """

    def forward(self) -> FactorizedGaussianMixture:
        return FactorizedGaussianMixture(self.logits, self.mean, self.scale)


def _clusters(z: np.ndarray, count: int) -> np.ndarray:
    """The number of the k-means cluster of each row; none is empty."""
    for _ in range(_ATTEMPTS if len(np.unique(z, axis=0)) >= count else 0):
        seed = int(torch.randint(2**31, ()))  # from torch's generator, so that the recipe's seed decides
        try:
            return scipy.cluster.vq.kmeans2(z, count, minit="++", rng=seed, missing="raise")[1]
        except scipy.cluster.vq.ClusterError:
            continue  # a cluster lost all its points; other starting points may do better
    raise PartError(
        f"{len(z)} encoded image{'' if len(z) == 1 else 's'} could not be grouped into prior.components = {count} clusters.",
        "Choose fewer components, or prior.init = normal.",
    )


PRIORS: dict[str, type[Prior]] = {
    "standard-normal": StandardNormalPrior,
    "mixture": MixturePrior,
    "factorized-mixture": FactorizedMixturePrior,
}
