"""Objectives: what is maximized in training. Each is a small frozen callable, ``Pass -> bound`` per image, ``(B,)`` nats.

With log w = log p(x|z) + log p(z) − log q(z|x) and K samples per image:

    ELBO     E_q[log p(x|z)] − β KL(q(z|x) ‖ p(z))          ≤ log p(x) in expectation for β = 1
    IWAE     log (1/K) Σ_k w_k                              ≤ log p(x) in expectation, tighter with K
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from vaelid.errors import PartError
from vaelid.settings import Count, NonNegative
from vaelid.vae import Pass


class Objective(ABC):
    """Base of objectives; ``samples`` is the K that a pass for it needs, ``warmup`` the epochs during which it changes."""

    samples: int
    warmup: float = 0.0

    @abstractmethod
    def __call__(self, seen: Pass) -> Tensor:
        """The bound to be raised, ``(B,)`` nats."""

    @abstractmethod
    def at(self, epoch: float) -> Objective:
        """The objective as it stands after ``epoch`` epochs (a KL warm-up changes it)."""

    @abstractmethod
    def rate_kind(self, seen: Pass) -> str:
        """How this objective gets its KL: ``closed-form`` or ``sampled``; recorded with every run."""


@dataclass(frozen=True)
class ELBO(Objective):
    """Evidence lower bound E_q[log p(x|z)] − β KL(q(z|x) ‖ p(z)).

    Args:
        beta: weight of the KL (1 for the bound)
        warmup: epochs over which β rises linearly from 0
        kl: ``auto`` takes the closed form where one is known, else samples; the others force one way
        samples: K

    References:
        Kingma & Welling 2014, eq. 3 and 10; Higgins et al. 2017 (β); Bowman et al. 2016 and Sønderby et al. 2016 (warm-up).
    """

    beta: NonNegative = 1.0
    warmup: NonNegative = 0.0
    kl: Literal["auto", "closed-form", "sampled"] = "auto"
    samples: Count = 1

    def __call__(self, seen: Pass) -> Tensor:
        return seen.log_likelihood.mean(0) - self.beta * self._rate(seen)

    def at(self, epoch: float) -> ELBO:
        if not self.warmup:
            return self
        return replace(self, beta=self.beta * min(1.0, epoch / self.warmup), warmup=0.0)

    def rate_kind(self, seen: Pass) -> str:
        return "sampled" if self.kl == "sampled" else seen.rate_kind

    def _rate(self, seen: Pass) -> Tensor:
        if self.kl == "closed-form" and seen.rate_kind == "sampled":
            pairs = ", ".join(f"({type(v.posterior).__name__}, {type(v.prior).__name__})" for v in seen.latents)
            raise PartError(f"objective.kl = 'closed-form', but no formula is known for {pairs}.", "Choose kl = auto or sampled.")
        return seen.sampled_rate if self.kl == "sampled" else seen.rate


@dataclass(frozen=True)
class IWAE(Objective):
    """Importance-weighted bound log (1/K) Σ_k w_k; K = 1 is the ELBO with a sampled KL.

    Args:
        samples: K

    References:
        Burda, Grosse & Salakhutdinov 2016, Importance Weighted Autoencoders, eq. 8.
    """

    samples: Count = 5

    def __call__(self, seen: Pass) -> Tensor:
        return torch.logsumexp(seen.log_weight, dim=0) - math.log(len(seen.log_weight))

    def at(self, epoch: float) -> IWAE:
        return self

    def rate_kind(self, seen: Pass) -> str:
        return "sampled"


OBJECTIVES: dict[str, type[Objective]] = {"elbo": ELBO, "iwae": IWAE}
