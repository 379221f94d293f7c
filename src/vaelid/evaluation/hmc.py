"""Hamiltonian Monte Carlo on many chains at once, on the densities of an annealing path.

    log f_β(z) = log q0(z) + β log w(z),   0 ≤ β ≤ 1            q0: normalized start, w: what turns it into the target

One update of z, with scales s (fixed, per image and coordinate) and step size ε: draw a momentum r ~ N(0, I), follow

    r += ½ ε s ∇log f_β(z);   [z += ε s r;   r += ε s ∇log f_β(z)] × leapfrog;   r −= ½ ε s ∇log f_β(z)

and accept the end with probability min(1, exp(−ΔH)), H = −log f_β(z) + ½|r|². This leaves f_β invariant and is reversible, for
any s and ε that do not depend on z. With one leapfrog step it is the Metropolis-adjusted Langevin algorithm (MALA).

Notation: M chains, B images, L latent dimensions.

References:
    Neal 2011, MCMC using Hamiltonian dynamics, sections 3 and 5.4 (random step sizes).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vaelid.randomness import key, normal, uniform

#: Step sizes are multiplied by a random factor in 1 ± this, or a trajectory could come back to where it began, again and again.
_JITTER = 0.2


@dataclass(frozen=True)
class Point:
    """States and everything known about them: one decoder gradient, good for every β."""

    z: Tensor  # (M, B, L)
    log_start: Tensor  # (M, B) float64 nats
    log_weight: Tensor
    start_gradient: Tensor  # (M, B, L)
    weight_gradient: Tensor

    def log_density(self, beta: float) -> Tensor:
        """log f_β(z), ``(M, B)`` nats, not normalized."""
        return self.log_start + beta * self.log_weight

    def gradient(self, beta: float) -> Tensor:
        """∇_z log f_β(z), ``(M, B, L)``."""
        return torch.add(self.start_gradient, self.weight_gradient, alpha=beta)

    def replaced(self, where: Tensor, other: Point) -> Point:
        """The states of ``other`` where the mask ``(M, B)`` says so."""
        wide = where.unsqueeze(-1)
        return Point(
            torch.where(wide, other.z, self.z),
            torch.where(where, other.log_start, self.log_start),
            torch.where(where, other.log_weight, self.log_weight),
            torch.where(wide, other.start_gradient, self.start_gradient),
            torch.where(wide, other.weight_gradient, self.weight_gradient),
        )


@dataclass(frozen=True)
class Noise:
    """The randomness of one update, a function of (purpose, seed, update, image, chain)."""

    momentum: Tensor  # (M, B, L) standard normal
    jitter: Tensor  # (M, B) factor of the step size
    threshold: Tensor  # (M, B) uniform in [0, 1)


def draw_noise(purpose: str, seed: int, update: int, ids: Tensor, chains: int, like: Tensor) -> Noise:
    """Noise for all chains of the images ``ids`` ``(B,)``; ``like`` ``(…, L)`` gives L and the type of the momenta."""
    chain = torch.arange(chains, device=ids.device).unsqueeze(1)
    momentum = normal(key(purpose + " momentum", seed, update, chain, ids, device=ids.device), like.shape[-1])
    jitter, threshold = uniform(key(purpose + " uniform", seed, update, chain, ids, device=ids.device), 2).unbind(-1)
    return Noise(momentum.to(like.dtype), 1 + _JITTER * (2 * jitter - 1), threshold)


@torch.no_grad()
def update(
    look: Callable[[Tensor], Point], point: Point, beta: float, step: Tensor, scale: Tensor, noise: Noise, leapfrog: int
) -> tuple[Point, Tensor]:
    """One update of all chains under f_β; gives the new states and the probabilities with which they were accepted, ``(M, B)``.

    Args:
        look: a new point at ``z`` ``(M, B, L)``
        step: ε per image, ``(B,)``
        scale: s, ``(B, L)``
    """
    size = (step * noise.jitter).unsqueeze(-1).to(scale.dtype) * scale  # ε s, (M, B, L)
    end, momentum = point, noise.momentum + 0.5 * size * point.gradient(beta)
    for left in reversed(range(leapfrog)):
        end = look(end.z + size * momentum)
        momentum = momentum + (size if left else 0.5 * size) * end.gradient(beta)
    kinetic = 0.5 * (momentum.double().square().sum(-1) - noise.momentum.double().square().sum(-1))
    gain = end.log_density(beta) - point.log_density(beta) - kinetic
    # A trajectory that ran away gives NaN or infinity: it is never accepted.
    acceptance = torch.where(gain.isfinite(), gain, -torch.inf).clamp_max(0).exp()
    return point.replaced(noise.threshold < acceptance, end), acceptance
