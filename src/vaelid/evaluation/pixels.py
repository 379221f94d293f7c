"""log p(x|z) of many z, where no gradient is wanted: binary pixels in one pass over their logits, not one per operation.

``likelihood(z).log_prob(x)`` is the definition, and what everything else gets: other distributions, other devices, float64, and
all of them where numba is not to be had. The two differ in rounding only: what is not finite is asked of the definition. Over
hundreds of pixels the loop is the more exact one, in root mean square.

Where the logits come from a plain network, linear layers with LeakyReLU between them, biases are added in the same passes as
the activations and the pixels, and not before every product.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent

from vaelid import kernels
from vaelid.likelihoods import BernoulliLikelihood, Likelihood
from vaelid.networks import MLP

#: How far the loop may be from the exact value, per 1 + |logit| summed over the pixels, for logits of like size: with this it is
#: tried. In any case it is within 2⁻¹⁷: a float32 sum over a group of n ≤ 96 pixels is off by n 2⁻²⁴ Σ|term| at most (where one
#: logit is millions of times its neighbors' it absorbs them), and the logarithm of each pixel by less than 8 · 2⁻²⁴.
ROUNDING = 2.0**-22
#: From so many decodings on, loading numba takes less time than it saves.
PAYS = 10**6


class PlainDecoder:
    """``z -> log p(x|z)`` of images ``(B, *X)`` for latents ``(K, B, L)``, float64 ``(K, B)`` nats, without ``likelihood(z)``.

    What is decoded at once is larger than the cache, so every operation between two products begins by fetching its own code:
    there are as few as can be, all on memory that is there already.

    Args:
        likelihood: the definition, which is asked where a number is not finite
        linear, slopes: its layers, and the slopes between them
        bend, bernoulli: the compiled loops
        together: how many of the K to decode at once
    """

    def __init__(
        self,
        likelihood: BernoulliLikelihood,
        linear: list[nn.Linear],
        slopes: list[float],
        bend: kernels.Kernel,
        bernoulli: kernels.Kernel,
        x: Tensor,
        together: int,
    ) -> None:
        self.likelihood, self.bend, self.bernoulli, self.x, self.together = likelihood, bend, bernoulli, x, together
        self.weights = [layer.weight.detach().T for layer in linear]
        self.biases, self.images = [layer.bias.detach().numpy() for layer in linear], x.flatten(1).numpy()
        self.slopes = [*(kernels.single(slope) for slope in slopes), None]
        self._places = cache(self._places_of)

    @torch.no_grad()
    def __call__(self, z: Tensor) -> Tensor:
        """log p(x|z), float64 ``(K, B)`` nats, of latents ``(K, B, L)``; all by the definition where a number is not finite."""
        log_p = torch.empty(z.shape[:2], dtype=torch.float64)
        for part, place in zip(z.contiguous().split(self.together), log_p.split(self.together), strict=True):
            self._decode(part.flatten(0, 1), place)
        if bool(log_p.isfinite().all()):
            return log_p
        return torch.cat([self.likelihood(part).log_prob(self.x).double() for part in z.split(self.together)])

    def _decode(self, h: Tensor, log_p: Tensor) -> None:
        """Into ``log_p`` ``(k, B)``, from latents ``(k · B, L)``."""
        for weight, bias, slope, (output, numbers) in zip(
            self.weights, self.biases, self.slopes, self._places(len(h)), strict=True
        ):
            h = torch.mm(h, weight, out=output)
            if slope is not None:
                self.bend(numbers, bias, *slope)
        self.bernoulli(numbers.reshape(*log_p.shape, -1), bias, self.images, log_p.numpy())

    def _places_of(self, rows: int) -> list[tuple[Tensor, np.ndarray]]:
        """Where the layers write so many rows: there are two sizes, that of a chunk and that of the last one."""
        outputs = [torch.empty(rows, weight.shape[1]) for weight in self.weights]
        return [(output, output.numpy()) for output in outputs]


@torch.no_grad()
def plain_decoder(likelihood: Likelihood, x: Tensor, z: Tensor, together: int) -> PlainDecoder | None:
    """The same computed from the layers' weights, where the network is a plain one for binary pixels; else None.

    Args:
        x: images ``(B, *X)``
        z: a few latents ``(k, B, L)`` to try it on; None is the answer, too, where it says something else than the likelihood
        together: how many of the K latents of an image to decode at once
    """
    found = _layers(likelihood)
    if found is None or not isinstance(likelihood, BernoulliLikelihood):
        return None
    linear, slopes = found
    tensors = [x, *(t.detach() for layer in linear for t in (layer.weight, layer.bias))]
    bend, bernoulli = kernels.find("bend", *tensors), kernels.find("bernoulli", *tensors)
    if bend is None or bernoulli is None or any(t.dtype != torch.float32 for t in tensors) or not _agrees(bernoulli):
        return None
    decoder = PlainDecoder(likelihood, linear, slopes, bend, bernoulli, x, together)
    seen = likelihood(z)
    size = (1 + seen.base_dist.logits.double().abs()).flatten(2).sum(-1)
    return decoder if bool(((decoder(z) - seen.log_prob(x)).abs() <= ROUNDING * 16 * size).all()) else None


def _layers(likelihood: Likelihood) -> tuple[list[nn.Linear], list[float]] | None:
    """The linear layers of a plain network for binary pixels, and the slopes between them."""
    if type(likelihood) is not BernoulliLikelihood or type(likelihood.network) is not MLP or _altered(likelihood):
        return None
    layers = list(likelihood.network.layers)
    linear = [layer for layer in layers[::2] if type(layer) is nn.Linear and layer.bias is not None]
    slopes = [layer.negative_slope for layer in layers[1::2] if type(layer) is nn.LeakyReLU]
    return (linear, slopes) if len(linear) == len(slopes) + 1 == len(layers) - len(slopes) else None


def _altered(model: nn.Module) -> bool:
    """Whether something stands between its modules: what acts on few latents only would not show on those it is tried on."""
    hooks = (m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m) for m in model.modules())
    return nn.modules.module._has_any_global_hook() or any(map(bool, hooks))


@torch.no_grad()
def log_likelihood(distribution: Distribution, x: Tensor) -> Tensor:
    """log p(x|z) of images ``(B, *X)``, ``(K, B)`` nats: ``distribution.log_prob(x)`` to rounding, and maybe in float64.

    Raises:
        ValueError: torch's, for a pixel outside of {0, 1} where the distribution validates its arguments.
    """
    binary = _binary(distribution)
    if binary is None:
        return distribution.log_prob(x)
    logits: Tensor = binary.logits
    if logits.dim() != x.dim() + 1 or logits.shape[1:] != x.shape or x.dtype != logits.dtype:
        return distribution.log_prob(x)
    if binary._validate_args:
        binary._validate_sample(x)  # as log_prob does, where whoever made it left that on
    kernel = kernels.find("bernoulli", logits, x) if logits.dtype == torch.float32 else None
    if kernel and _agrees(kernel):
        log_p = _compiled(kernel, logits, x)
        if bool(log_p.isfinite().all()):
            return log_p
    return distribution.log_prob(x)


def _binary(distribution: Distribution) -> Bernoulli | None:
    """Independent binary pixels, ``(K, B, *X)``; None for all else, also a subclass with a density of its own."""
    if type(distribution) is not Independent or type(distribution.base_dist) is not Bernoulli:
        return None
    dims = len(distribution.base_dist.batch_shape)
    return distribution.base_dist if dims == distribution.reinterpreted_batch_ndims + 2 else None


def _compiled(kernel: kernels.Kernel, logits: Tensor, x: Tensor) -> Tensor:
    log_p, flat = torch.empty(logits.shape[:2], dtype=torch.float64), logits.flatten(2)
    kernel(flat.numpy(), flat.new_zeros(flat.shape[-1]).numpy(), x.flatten(1).numpy(), log_p.numpy())
    return log_p


@cache
def _agrees(kernel: kernels.Kernel) -> bool:
    """Whether the loop gives the exact value to ``ROUNDING``, for logits of every size, on both colors."""
    # Each size, sign and color is an image of its own: what a logit of 1e5 may be off by would hide all that is wrong with
    # smaller ones, and errors of opposite sign would cancel. The last images have both colors.
    sizes = torch.tensor([1e-30, 1e-3, 0.5, 1.0, 3.0, 10.0, 25.0, 88.0, 1e3, 1e5, 1e30], dtype=torch.float32)
    ramp = torch.linspace(0, 1, 401, dtype=torch.float32)  # more than three groups, the last one not full
    logits = (torch.cat((sizes, -sizes)).view(-1, 1, 1) * ramp).repeat(1, 3, 1)  # (signs and sizes, 3, D)
    x = torch.stack((torch.zeros(401), torch.ones(401), torch.arange(401) % 2)).to(torch.float32)
    exact = Independent(Bernoulli(logits=logits.double(), validate_args=False), 1, validate_args=False).log_prob(x.double())
    error = (_compiled(kernel, logits, x) - exact).abs()
    return bool((error <= ROUNDING * (1 + logits.double().abs()).sum(-1)).all())
