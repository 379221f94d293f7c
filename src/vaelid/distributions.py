"""What ``torch.distributions`` lacks: two Gaussian mixtures, and two distributions over gray levels.

Notation: C components with weights w_c, means μ_c, scales σ_c; L latent dimensions; n gray levels k = 0 … n−1, shown as the
pixel value k/(n−1). Every class here is a ``Distribution`` whose ``log_prob`` and ``sample`` belong together; the contract tests
hold them to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Size, Tensor
from torch.distributions import Categorical, Distribution, Independent, Normal, kl_divergence
from torch.distributions.kl import _KL_REGISTRY
from torch.nn import functional as F

Shape = Size | list[int] | tuple[int, ...]

_SQRT_2 = math.sqrt(2)
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def diagonal_normal(mean: Tensor, scale: Tensor, event_dims: int = 1) -> Independent[Normal]:
    """A normal with independent coordinates; the last ``event_dims`` dimensions are one event."""
    return Independent(Normal(mean, scale, validate_args=False), event_dims, validate_args=False)


def coordinates(distribution: Distribution) -> Distribution | None:
    """What a vector with independent coordinates is made of, batch ``(B, L)``; None for all else.

    A wrapper with draws or a density of its own is something else; one that changes the mean, say, is still known.
    """
    if not isinstance(distribution, Independent) or distribution.reinterpreted_batch_ndims != 1:
        return None
    kind = type(distribution)
    own = any(getattr(kind, name) is not getattr(Independent, name) for name in ("sample", "rsample", "log_prob"))
    return None if own or distribution.base_dist.event_shape else distribution.base_dist


def normal_coordinates(distribution: Distribution) -> Normal | None:
    """The normals, ``(B, L)``, of a vector with independent coordinates; None for all else, also for a subclass of ``Normal``.

    A truncated normal, say, may well be one, and has draws, density and entropy of its own.
    """
    found = coordinates(distribution)
    return found if type(found) is Normal else None


class GaussianMixture(Distribution):
    """Joint mixture of C diagonal Gaussians: one component is drawn for the whole vector.

        p(z) = Σ_c w_c Π_d N(z_d; μ_cd, σ_cd²)

    Args:
        logits: unnormalized log weights, ``(C,)``
        mean: ``(C, L)``
        scale: standard deviations, ``(C, L)``
    """

    arg_constraints = {}  # noqa: RUF012 (the base class declares it so)
    has_rsample = False

    def __init__(self, logits: Tensor, mean: Tensor, scale: Tensor) -> None:
        self.log_weights = F.log_softmax(logits, dim=-1)
        self.component_mean = mean
        self.component_scale = scale
        self._log_scale = scale.log()
        super().__init__(Size(), mean.shape[-1:], validate_args=False)

    def _standardized(self, z: Tensor) -> Tensor:
        """(z_d − μ_cd)/σ_cd per component and dimension, ``(..., C, L)``."""
        # Not a division by σ: its gradient has σ² below, which underflows for a component that shrinks to a point (0 · ∞ = NaN).
        return (z.unsqueeze(-2) - self.component_mean) * torch.exp(-self._log_scale)

    def log_prob(self, value: Tensor) -> Tensor:
        """``(..., L) -> (...)`` nats: the logsumexp runs over components of *whole-vector* densities."""
        # What does not depend on z is added per component: each pass over (..., C, L) numbers costs as much as a small decoder.
        constants = self.log_weights - self._log_scale.sum(-1) - value.shape[-1] * _HALF_LOG_2PI
        return torch.logsumexp(constants - 0.5 * self._standardized(value).square().sum(-1), dim=-1)

    def marginal_log_prob(self, z: Tensor) -> Tensor:
        """log p(z_d) of each coordinate alone, ``(..., L) -> (..., L)`` nats; the sum is not ``log_prob``."""
        constants = self.log_weights[:, None] - self._log_scale - _HALF_LOG_2PI
        return torch.logsumexp(constants - 0.5 * self._standardized(z).square(), dim=-2)

    @torch.no_grad()
    def sample(self, sample_shape: Shape = ()) -> Tensor:
        """``(*sample_shape, L)``: a component for each vector, then a Gaussian from it."""
        component = Categorical(logits=self.log_weights, validate_args=False).sample(Size(sample_shape))
        mean, scale = self.component_mean[component], self.component_scale[component]
        return mean + scale * torch.randn_like(mean)

    def component(self, index: int) -> Independent[Normal]:
        """The Gaussian of one component."""
        return diagonal_normal(self.component_mean[index], self.component_scale[index])

    @property
    def mean(self) -> Tensor:
        """E[z] = Σ_c w_c μ_c, ``(L,)``."""
        return self.log_weights.exp() @ self.component_mean

    @property
    def variance(self) -> Tensor:
        """The mean variance of the components plus the variance of their means."""
        return self.log_weights.exp() @ (self.component_scale.square() + (self.component_mean - self.mean).square())


class FactorizedGaussianMixture(Distribution):
    """Each coordinate has its own mixture; the C weights are shared by all of them.

        p(z) = Π_d Σ_c w_c N(z_d; μ_cd, σ_cd²)

    A component is drawn for every coordinate afresh, so this is a different distribution from :class:`GaussianMixture`
    with the same parameters: with two modes it has mass on the crossed corners.

    Args:
        logits: unnormalized log weights, ``(C,)``
        mean: ``(C, L)``
        scale: standard deviations, ``(C, L)``
    """

    arg_constraints = {}  # noqa: RUF012
    has_rsample = False

    def __init__(self, logits: Tensor, mean: Tensor, scale: Tensor) -> None:
        self._joint = GaussianMixture(logits, mean, scale)
        self.log_weights = self._joint.log_weights
        super().__init__(Size(), mean.shape[-1:], validate_args=False)

    def marginal_log_prob(self, z: Tensor) -> Tensor:
        """log p(z_d), ``(..., L) -> (..., L)`` nats; here the sum *is* ``log_prob``."""
        return self._joint.marginal_log_prob(z)

    def log_prob(self, value: Tensor) -> Tensor:
        """``(..., L) -> (...)`` nats: the logsumexp runs per coordinate, the sum over coordinates after it."""
        return self.marginal_log_prob(value).sum(-1)

    @torch.no_grad()
    def sample(self, sample_shape: Shape = ()) -> Tensor:
        """``(*sample_shape, L)``: a component for each coordinate, then a Gaussian from it."""
        shape = Size(sample_shape) + self.event_shape
        component = Categorical(logits=self.log_weights, validate_args=False).sample(shape)
        coordinate = torch.arange(self.event_shape[0], device=component.device)
        mean = self._joint.component_mean[component, coordinate]
        scale = self._joint.component_scale[component, coordinate]
        return mean + scale * torch.randn_like(mean)

    @property
    def mean(self) -> Tensor:
        """E[z], ``(L,)``: that of the joint mixture, since each coordinate has the same marginal."""
        return self._joint.mean  # means and variances of coordinates do not see the dependence between them

    @property
    def variance(self) -> Tensor:
        """Var[z_d], ``(L,)``: that of the joint mixture; only the covariances differ, which are 0 here."""
        return self._joint.variance


class LevelCategorical(Distribution):
    """Independent pixels, each with its own probabilities of the n gray levels: P(k) = softmax(logits)_k.

    Args:
        logits: ``(*batch, *X, n)``
        event_dims: number of dimensions of X
    """

    arg_constraints = {}  # noqa: RUF012

    def __init__(self, logits: Tensor, event_dims: int) -> None:
        self.logits = logits
        self.levels = logits.shape[-1]
        pixels = logits.shape[:-1]
        split = len(pixels) - event_dims
        super().__init__(pixels[:split], pixels[split:], validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """``(*batch, *X) -> batch`` nats, for pixel values k/(n−1)."""
        level = (value * (self.levels - 1)).round().long()
        shape = torch.broadcast_shapes(level.shape, self.logits.shape[:-1])
        logits = self.logits.expand(*shape, self.levels)
        chosen = logits.gather(-1, level.expand(shape).unsqueeze(-1)).squeeze(-1)
        return _sum_last(chosen - torch.logsumexp(self.logits, dim=-1), len(self.event_shape))

    @torch.no_grad()
    def sample(self, sample_shape: Shape = ()) -> Tensor:
        """Pixel values k/(n−1), ``(*sample_shape, *batch, *X)``."""
        level = Categorical(logits=self.logits, validate_args=False).sample(Size(sample_shape))
        return level.to(self.logits.dtype) / (self.levels - 1)

    @property
    def mean(self) -> Tensor:
        """E[k]/(n−1) of each pixel, ``(*batch, *X)``."""
        grid = torch.linspace(0, 1, self.levels, dtype=self.logits.dtype, device=self.logits.device)
        return torch.softmax(self.logits, dim=-1) @ grid


class DiscretizedGaussian(Distribution):
    """The probability of the actual gray level: a Gaussian's mass between the bin edges, outer bins open.

        P(k) = Φ((k + ½ − m)/s) − Φ((k − ½ − m)/s)      in units of one level, with Φ(−∞) = 0 and Φ(∞) = 1 at the ends

    so that the n probabilities sum to 1. (Kingma et al. 2016, IAF, build the same from a logistic distribution.)

    Args:
        mean, scale: location and standard deviation on the [0, 1] scale, ``(*batch, *X)``
        levels: n
        event_dims: number of dimensions of X
    """

    arg_constraints = {}  # noqa: RUF012

    def __init__(self, mean: Tensor, scale: Tensor, levels: int, event_dims: int) -> None:
        self.location, self.scale = torch.broadcast_tensors(mean, scale)
        self.levels = levels
        split = self.location.dim() - event_dims
        super().__init__(self.location.shape[:split], self.location.shape[split:], validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """``(*batch, *X) -> batch`` nats, for pixel values k/(n−1)."""
        half = 0.5 / (self.levels - 1)
        center, width = (value - self.location) / self.scale, 2 * half / self.scale
        return _sum_last(_log_bin(center, width, value < half, value > 1 - half), len(self.event_shape))

    @torch.no_grad()
    def sample(self, sample_shape: Shape = ()) -> Tensor:
        """Pixel values k/(n−1), ``(*sample_shape, *batch, *X)``: a Gaussian draw moved to the nearest level, the ends clipped."""
        shape = Size(sample_shape) + self.location.shape
        draw = self.location + self.scale * torch.randn(shape, dtype=self.location.dtype, device=self.location.device)
        return (draw * (self.levels - 1)).round().clamp(0, self.levels - 1) / (self.levels - 1)

    @property
    def mean(self) -> Tensor:
        """E[k]/(n−1) = Σ_{k ≥ 1} P(level ≥ k) / (n−1)."""
        steps = self.levels - 1
        total = torch.zeros_like(self.location)
        for k in range(1, self.levels):  # a loop, so that n × pixels never stand in memory at once
            total += torch.special.ndtr((self.location - (k - 0.5) / steps) / self.scale)
        return total / steps


def closed_form_kl(q: Distribution, p: Distribution) -> Tensor | None:
    """KL(q‖p) per batch element in nats where a formula is registered with torch, else None.

    torch takes the formula of a class for its subclasses as well: not here, where a subclass has a density of its own.
    """
    try:
        value = kl_divergence(q, p)
    except NotImplementedError:
        return None
    return value if _formula_is_theirs(q, p) else None


def _formula_is_theirs(q: Distribution, p: Distribution) -> bool:
    """Whether a formula is registered for the densities that these two have."""
    of_q, of_p = type(q), type(p)
    if isinstance(q, Independent) and isinstance(p, Independent):
        same = of_q.log_prob is of_p.log_prob is Independent.log_prob
        return same and _formula_is_theirs(q.base_dist, p.base_dist)
    if (of_q, of_p) in _KL_REGISTRY:  # the usual case, at once
        return True
    known: Iterable[tuple[type[Distribution], type[Distribution]]] = _KL_REGISTRY
    return any(
        isinstance(q, one) and isinstance(p, other) and of_q.log_prob is one.log_prob and of_p.log_prob is other.log_prob
        for one, other in known
    )


def factorizes(distribution: Distribution) -> bool | None:
    """Whether the coordinates are independent, so that a KL to it is the sum of those per coordinate; None: not known."""
    if isinstance(distribution, GaussianMixture):
        return len(distribution.log_weights) == 1
    if isinstance(distribution, FactorizedGaussianMixture):
        return True
    return True if coordinates(distribution) is not None else None


def marginal_log_prob(distribution: Distribution) -> Callable[[Tensor], Tensor] | None:
    """log density of each coordinate alone, as a function ``(..., L) -> (..., L)``; None where it is not known."""
    if isinstance(distribution, GaussianMixture | FactorizedGaussianMixture):
        return distribution.marginal_log_prob
    found = coordinates(distribution)
    return None if found is None else found.log_prob


def _log_bin(center: Tensor, width: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """log P(c − w/2 < ε < c + w/2) for ε ~ N(0, 1); the ``first`` bin is open below, the ``last`` one above.

    Three forms, each where it keeps its digits, in the value and in the gradient. (The gradient of torch's ``log_ndtr`` does not:
    in float32 it is off by a few percent at −1000 and by far more beyond.)
    """
    edge, distance = first | last, center.abs()
    # By symmetry the bin is (−far, near), with Φ(near) most of its mass; at the edges far = ∞.
    near = 0.5 * width + torch.where(first, center, torch.where(last, -center, -distance))
    far = 0.5 * width + distance
    narrow = ~edge & (width < 0.1) & (width * distance < 0.1)
    wide = ~edge & ~narrow

    # 1. Below the mean: Φ(x) = ½ e^(−x²/2) erfcx(−x/√2), and (far² − near²)/2 = w|c|.
    below = near.clamp_max(0)
    rest = torch.where(wide, torch.exp(-width * distance) * torch.special.erfcx(far / _SQRT_2), 0.0)
    tail = torch.log(0.5 * (torch.special.erfcx(-below / _SQRT_2) - rest)) - 0.5 * below.square()
    # 2. Around the mean: one minus what lies outside.
    outside = torch.erfc(near.clamp_min(0) / _SQRT_2) + torch.where(wide, torch.erfc(far / _SQRT_2), 0.0)
    middle = torch.log1p(-0.5 * outside)
    # 3. Narrow bins, where the two ends are nearly equal: w φ(c) (1 + w² (c² − 1)/24 + w⁴ (c⁴ − 6c² + 3)/1920 + …).
    # Other bins get harmless arguments: an infinity in a form that is not chosen would turn into a NaN in the gradient.
    c2, w = torch.where(narrow, center, 0.0).square(), torch.where(narrow, width, 0.1)
    terms = w.square() * (c2 - 1) / 24 + w.pow(4) * (c2.square() - 6 * c2 + 3) / 1920
    point = w.log() - 0.5 * c2 - _HALF_LOG_2PI + torch.log1p(terms)
    return torch.where(narrow, point, torch.where(near > 0, middle, tail))


def _sum_last(x: Tensor, dims: int) -> Tensor:
    return x.flatten(x.dim() - dims).sum(-1) if dims else x
