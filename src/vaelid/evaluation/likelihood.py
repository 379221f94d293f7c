"""Bounds on log p(x) whose noise is a function of (seed, image, sample): batch sizes and chunks cannot change a number.

Notation: log w_k = log p(x|z_k) + log p(z_k) − log q(z_k|x), z_k ~ q(z|x), k = 1…K; all in nats per image.

    neg_elbo   −(1/S) Σ_s log p(x|z_s) + KL(q‖p)      an upper bound on −log p(x) in expectation
    nll        −log (1/K) Σ_k w_k                     an upper bound on −log p(x) in expectation, tighter with K
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution

from vaelid.distributions import normal_coordinates
from vaelid.evaluation.pixels import log_likelihood, plain_decoder
from vaelid.evaluation.precision import Precision, decode, require_long_density
from vaelid.likelihoods import Likelihood
from vaelid.randomness import key, normal
from vaelid.vae import VAE, Latent

#: Samples of a posterior without a known transport of noise come in blocks of this size, each with its own seed.
_BLOCK = 64
#: Latents are drawn and weighed for so many chunks of the decoder at once.
_CHUNKS = 8


class PosteriorDraws:
    """Draws from q(z|x) for a batch, addressed by sample number.

    For a diagonal Gaussian, z = μ + σ ⊙ ε with ε from the counter-based generator. Any other posterior is asked image by image,
    in blocks of samples, each under a seed of its own: slower, but just as independent of batches and chunks.

    Args:
        model: gives q(z|x)
        x: images ``(B, *X)``
        ids: what names each image, int64 ``(B,)``
        purpose, seed: name the stream of noise
    """

    def __init__(self, model: VAE, x: Tensor, ids: Tensor, purpose: str, seed: int) -> None:
        self.q = model.posterior(x)
        self.ids = ids.to(x.device)
        self.purpose, self.seed = purpose, seed
        self._normals = normal_coordinates(self.q)
        self._alone = [] if self._normals is not None else [model.posterior(x[i : i + 1]) for i in range(len(x))]
        self._blocks: dict[int, tuple[int, Tensor]] = {}  # the last one of each image: the next draw may begin in its middle

    def draw(self, first: int, count: int) -> Tensor:
        """Samples number ``first`` … ``first + count − 1`` of every image, ``(count, B, L)``."""
        if self._normals is None:
            with torch.random.fork_rng(devices=[self.ids.device] if self.ids.device.type == "cuda" else []):
                return torch.cat([self._draw_alone(i, first, count) for i in range(len(self._alone))], dim=1)
        mean, scale = self._normals.loc, self._normals.scale
        latent = mean.shape[-1]
        width = latent + latent % 2  # Box–Muller gives pairs; each sample starts at an even position
        keys = key(self.purpose, self.seed, self.ids, device=self.ids.device)
        noise = normal(keys, count * width, first * width).unflatten(-1, (count, width))[..., :latent]
        return mean + scale * noise.transpose(0, 1).to(mean.dtype)

    def _draw_alone(self, image: int, first: int, count: int) -> Tensor:
        blocks = [self._block(image, block) for block in range(first // _BLOCK, (first + count - 1) // _BLOCK + 1)]
        return torch.cat(blocks)[first % _BLOCK :][:count]

    def _block(self, image: int, number: int) -> Tensor:
        last = self._blocks.get(image)
        if last is None or last[0] != number:
            seed = int(key(self.purpose, self.seed, self.ids[image], number)) & (2**63 - 1)
            torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which records a traceback for a CUDA that sleeps
            if self.ids.device.type == "cuda":
                torch.cuda.manual_seed(seed)
            self._blocks[image] = last = (number, self._alone[image].sample((_BLOCK,)))
        return last[1]


@dataclass(frozen=True)
class ElboTerms:
    """The two terms of −ELBO per image, ``(B,)`` nats, how the rate was computed, and the Monte Carlo variance of −ELBO
    (NaN for one draw)."""

    distortion: Tensor
    rate: Tensor
    rate_kind: str
    q: Distribution
    variance: Tensor

    @property
    def neg_elbo(self) -> Tensor:
        """−ELBO per image at β = 1, ``(B,)`` nats."""
        return self.distortion + self.rate


@torch.no_grad()
def elbo_terms(model: VAE, x: Tensor, ids: Tensor, samples: int, seed: int, purpose: str = "evaluation") -> ElboTerms:
    """−E_q[log p(x|z)] and KL(q‖p) with ``samples`` draws per image, β = 1 whatever the objective was."""
    draws = PosteriorDraws(model, x, ids, purpose, seed)
    seen = model.look(x, draws.q, draws.draw(0, samples))
    drawn = seen.log_weight if seen.rate_kind == "sampled" else seen.log_likelihood
    variance = drawn.double().var(0) / samples if samples > 1 else torch.full_like(seen.rate, math.nan)
    return ElboTerms(seen.distortion, seen.rate, seen.rate_kind, draws.q, variance)


@torch.no_grad()
def log_weights(model: VAE, x: Tensor, ids: Tensor, samples: int, seed: int, chunk: int) -> Tensor:
    """log w for all K = ``samples`` draws of each image, ``(K, B)`` float64 nats.

    Args:
        chunk: how many decoder rows (samples × images) to hold at once
    """
    groups = [slice(start, start + chunk) for start in range(0, len(x), chunk)]
    return torch.cat([torch.cat(list(weight_blocks(model, x[g], ids[g], samples, seed, chunk))) for g in groups], dim=1)


@torch.no_grad()
def weight_blocks(
    model: VAE, x: Tensor, ids: Tensor, samples: int, seed: int, chunk: int, decoder: Precision = "float32"
) -> Iterator[Tensor]:
    """The same for at most ``chunk`` images, in blocks ``(k, B)`` of draws, decoded as many at a time as ``chunk`` rows allow.

    Args:
        decoder: in what p(x|z)'s network multiplies

    Raises:
        PartError: if the density would then be short, too.
    """
    draws = PosteriorDraws(model, x, ids, "importance", seed)
    together = max(1, chunk // len(x))
    log_p_of = _decoder(model.likelihood, x, draws.draw(0, 1), decoder, together)
    for first in range(0, samples, _CHUNKS * together):
        # Latents are small beside what is decoded from them: more at a time, and each operation on them costs less.
        latent = Latent(draws.draw(first, min(_CHUNKS * together, samples - first)), draws.q, model.prior())
        yield log_p_of(latent.z) + latent.log_prior - latent.log_posterior


def _decoder(likelihood: Likelihood, x: Tensor, z: Tensor, precision: Precision, together: int) -> Callable[[Tensor], Tensor]:
    """``z -> log p(x|z)`` in float64, decoded ``together`` latents of an image at a time; ``z`` are a few to try it on."""
    require_long_density(likelihood, z, precision)
    plain = plain_decoder(likelihood, x, z, together) if precision == "float32" else None

    def by_definition(z: Tensor) -> Tensor:
        return torch.cat([log_likelihood(decode(likelihood, part, precision), x).double() for part in z.split(together)])

    return plain or by_definition


def importance_bound(log_weight: Tensor, k: int) -> Tensor:
    """log (1/k) Σ w per image, ``(B,)`` nats: the mean over the ⌊K/k⌋ disjoint blocks of k in ``log_weight`` ``(K, B)``."""
    blocks = len(log_weight) // k
    grouped = log_weight[: blocks * k].unflatten(0, (blocks, k))
    return (torch.logsumexp(grouped, dim=1) - math.log(k)).mean(0)


def curve_points(samples: int) -> Sequence[int]:
    """K = 1, 10, 100, … below ``samples``, and ``samples`` itself."""
    powers = [10**i for i in range(len(str(samples))) if 10**i < samples]
    return [*powers, samples]
