"""Likelihoods p(x|z): what the decoder says about pixels.

The contract of a likelihood: the constructor takes ``network`` (an object: z -> numbers) and ``shape`` (*X), and ``levels`` (n)
if it models gray levels; the class method ``network_outputs`` takes those of the settings that it declares and says beforehand
how many numbers it needs; ``forward`` gives a distribution with batch ``(K, B)`` and event ``*X``; ``support`` says which pixel
values it gives probability to; ``initialize(x)`` may look at training images once. Pixels are on the [0, 1] scale (see
``supports``).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent, Normal
from torch.nn import functional as F

from vaelid.distributions import DiscretizedGaussian, LevelCategorical, diagonal_normal
from vaelid.errors import PartError
from vaelid.networks import Network
from vaelid.settings import Positive
from vaelid.supports import BINARY, REAL, Support, levels as levels_support

Start = Literal["network", "data"]


class Likelihood(nn.Module, ABC):
    """Base of likelihoods.

    Attributes:
        support: the pixel values that this likelihood gives probability (or density) to
        shape: *X
        remedy: what to do about a batch outside the support
    """

    support: Support
    shape: tuple[int, ...]
    remedy: str = "Choose a likelihood whose support fits the data: see `vaelid parts`."

    @abstractmethod
    def forward(self, z: Tensor) -> Distribution:
        """p(x|z) for latents ``(K, B, L)``: batch shape ``(K, B)``, event shape ``*X``."""

    def initialize(self, x: Tensor) -> None:
        """Start from training images ``(N, *X)``, once, before training."""


class BernoulliLikelihood(Likelihood):
    """Binary pixels: log p(x|z) = Σ_i x_i l_i − log(1 + e^{l_i}) with logits l from the network; exact, nothing is clamped.

    Args:
        network: z -> D logits
        shape: *X
        start: ``data`` sets the output bias to the logits of the mean training image, ``network`` leaves it as it is

    References:
        Kingma & Welling 2014, Auto-Encoding Variational Bayes, appendix C.1.
    """

    support = BINARY
    remedy = (
        "Gray pixels have no Bernoulli likelihood: choose a binarization (--binarization dynamic) "
        "or a likelihood for gray levels (--likelihood categorical or discretized-gaussian)."
    )

    def __init__(self, network: nn.Module, shape: tuple[int, ...], start: Start = "network") -> None:
        super().__init__()
        self.network, self.shape, self.start = network, shape, start

    @classmethod
    def network_outputs(cls, shape: tuple[int, ...]) -> int:
        """D: one logit per pixel."""
        return math.prod(shape)

    def forward(self, z: Tensor) -> Independent[Bernoulli]:
        """Independent pixels with mean sigmoid(l), ``(K, B)`` of ``*X``."""
        logits = self.network(z).to(z.dtype).unflatten(-1, self.shape)
        return Independent(Bernoulli(logits=logits, validate_args=False), len(self.shape), validate_args=False)

    def initialize(self, x: Tensor) -> None:
        if self.start == "data":
            _set_output_bias(self.network, torch.logit(_smoothed(x.sum(0), len(x), 2)).flatten())


class CategoricalLikelihood(Likelihood):
    """Gray levels as classes: P(k|z) = softmax(logits)_k for each pixel, exact.

    Args:
        network: z -> D · n logits, the levels of a pixel next to each other
        shape: *X
        levels: n
        start: ``data`` sets the output bias to the log histogram of each pixel, ``network`` leaves it as it is

    References:
        van den Oord et al. 2016, Pixel Recurrent Neural Networks, section 3.4 (softmax over pixel values).
    """

    def __init__(self, network: nn.Module, shape: tuple[int, ...], levels: int, start: Start = "network") -> None:
        super().__init__()
        self.network, self.shape, self.levels, self.start = network, shape, levels, start
        self.support = levels_support(levels)

    @classmethod
    def network_outputs(cls, shape: tuple[int, ...], levels: int) -> int:
        """D · n: one logit per pixel and level."""
        return math.prod(shape) * levels

    def forward(self, z: Tensor) -> LevelCategorical:
        """Independent pixels on the grid k/(n−1), ``(K, B)`` of ``*X``."""
        logits = self.network(z).to(z.dtype).unflatten(-1, (*self.shape, self.levels))
        return LevelCategorical(logits, event_dims=len(self.shape))

    def initialize(self, x: Tensor) -> None:
        if self.start == "data":
            level = (x.flatten(1) * (self.levels - 1)).round().long()
            counts = torch.zeros(level.shape[1], self.levels, dtype=x.dtype, device=x.device)
            counts.scatter_add_(1, level.T, torch.ones_like(level.T, dtype=x.dtype))
            _set_output_bias(self.network, _smoothed(counts, len(x), self.levels).log().flatten())


Scale = Literal["learned", "fixed", "per-pixel"]


class _MeanAndScale(nn.Module):
    """m(z) and s(z) from one network: s is fixed, one learned number, or a second output per pixel, never below the floor."""

    fixed_sigma: Tensor

    def __init__(self, network: nn.Module, shape: tuple[int, ...], scale: Scale, sigma: float, floor: float) -> None:
        super().__init__()
        if scale != "fixed" and sigma <= floor:
            raise PartError(f"sigma = {sigma:g} is not above floor = {floor:g}: s could not start there.", "Lower the floor.")
        self.network, self.shape, self.scale, self.floor = network, shape, scale, floor
        self.raw_start = _inverse_softplus(sigma - floor) if scale != "fixed" else 0.0
        self.register_buffer("fixed_sigma", torch.tensor(sigma), persistent=False)
        if scale == "learned":
            self.raw_sigma = nn.Parameter(torch.tensor(self.raw_start))

    @classmethod
    def network_outputs(cls, shape: tuple[int, ...], scale: Scale) -> int:
        return math.prod(shape) * (2 if scale == "per-pixel" else 1)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        numbers = self.network(z).to(z.dtype)
        if self.scale == "per-pixel":
            mean, raw = numbers.chunk(2, dim=-1)
            # The shift makes the start σ = sigma where the network says 0.
            sigma = self.floor + F.softplus(raw + self.raw_start)
            return mean.unflatten(-1, self.shape), sigma.unflatten(-1, self.shape)
        sigma = self.floor + F.softplus(self.raw_sigma) if self.scale == "learned" else self.fixed_sigma
        mean = numbers.unflatten(-1, self.shape)
        return mean, sigma.expand_as(mean)

    def start_at(self, x: Tensor) -> None:
        _set_output_bias(self.network, x.mean(0).flatten())


class GaussianLikelihood(Likelihood):
    """Real-valued pixels: log p(x|z) = −Σ_i [½((x_i − m_i)/s_i)² + log s_i + ½ log 2π], the density with its constant.

    This is a density, not a probability: it has no bits/dim, can exceed 1, and grows without limit as s → 0.

    Args:
        network: z -> D means (and D raw scales with ``per-pixel``)
        shape: *X
        scale: ``fixed`` s = sigma; ``learned`` one s for all pixels; ``per-pixel`` s(z)
        sigma: s at the start (or for good), on the [0, 1] scale
        floor: s never falls below it unless fixed
        start: ``data`` sets the output bias to the mean training image

    References:
        Kingma & Welling 2014, appendix C.2; Rybkin et al. 2021, Simple and Effective VAE Training with Calibrated Decoders.
    """

    support = REAL

    def __init__(
        self,
        network: nn.Module,
        shape: tuple[int, ...],
        scale: Scale = "learned",
        sigma: Positive = 0.1,
        floor: Positive = 1e-3,
        start: Start = "network",
    ) -> None:
        super().__init__()
        self.shape, self.start = shape, start
        self.mean_and_scale = _MeanAndScale(network, shape, scale, sigma, floor)

    @classmethod
    def network_outputs(cls, shape: tuple[int, ...], scale: Scale = "learned") -> int:
        """D means, and as many scales with ``per-pixel``."""
        return _MeanAndScale.network_outputs(shape, scale)

    def forward(self, z: Tensor) -> Independent[Normal]:
        """Independent normal pixels, ``(K, B)`` of ``*X``; ``log_prob`` is a log density."""
        mean, scale = self.mean_and_scale(z)
        return diagonal_normal(mean, scale, event_dims=len(self.shape))

    def initialize(self, x: Tensor) -> None:
        if self.start == "data":
            self.mean_and_scale.start_at(x)


class DiscretizedGaussianLikelihood(Likelihood):
    """Gray levels by a Gaussian's mass between bin edges, outer bins open: probabilities that sum to 1.

        P(k|z) = Φ((k + ½ − m)/s) − Φ((k − ½ − m)/s)   in units of one level; Φ(−∞) = 0, Φ(∞) = 1 at the ends

    Args:
        levels: n
        others: as for ``gaussian``

    References:
        Kingma et al. 2016, Improved Variational Inference with Inverse Autoregressive Flow (from a logistic);
        Ho et al. 2020, Denoising Diffusion Probabilistic Models, eq. 13.
    """

    def __init__(
        self,
        network: nn.Module,
        shape: tuple[int, ...],
        levels: int,
        scale: Scale = "learned",
        sigma: Positive = 0.1,
        floor: Positive = 1e-3,
        start: Start = "network",
    ) -> None:
        super().__init__()
        self.shape, self.levels, self.start = shape, levels, start
        self.support = levels_support(levels)
        self.mean_and_scale = _MeanAndScale(network, shape, scale, sigma, floor)

    @classmethod
    def network_outputs(cls, shape: tuple[int, ...], scale: Scale = "learned") -> int:
        """D means, and as many scales with ``per-pixel``."""
        return _MeanAndScale.network_outputs(shape, scale)

    def forward(self, z: Tensor) -> DiscretizedGaussian:
        """Independent pixels on the grid k/(n−1), ``(K, B)`` of ``*X``; ``log_prob`` is a log probability."""
        mean, scale = self.mean_and_scale(z)
        return DiscretizedGaussian(mean, scale, self.levels, event_dims=len(self.shape))

    def initialize(self, x: Tensor) -> None:
        if self.start == "data":
            self.mean_and_scale.start_at(x)


LIKELIHOODS: dict[str, type[Likelihood]] = {
    "bernoulli": BernoulliLikelihood,
    "categorical": CategoricalLikelihood,
    "gaussian": GaussianLikelihood,
    "discretized-gaussian": DiscretizedGaussianLikelihood,
}


def _smoothed(counts: Tensor, total: int, classes: int) -> Tensor:
    """Probabilities from counts with one pseudo-observation shared among the classes (so that none is zero)."""
    return (counts + 1 / classes) / (total + 1)


@torch.no_grad()
def _set_output_bias(network: nn.Module, bias: Tensor) -> None:
    """Set the first of the network's output biases to ``bias``."""
    if not isinstance(network, Network):
        raise PartError(
            f"likelihood.start = 'data' sets the decoder's output bias, but {type(network).__name__} does not say which it is.",
            "Make it a vaelid.Network with output_bias, or choose start = network.",
        )
    network.output_bias[: len(bias)] = bias


def _inverse_softplus(y: float) -> float:
    return y + math.log(-math.expm1(-y))
