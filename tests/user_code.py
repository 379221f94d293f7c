"""The text of a file of parts, one of each kind, as a user of the program would write it."""

from __future__ import annotations

SOURCE = '''
from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.distributions import Independent, Laplace

from vaelid import Likelihood, Network, Objective, Posterior, Prior
from vaelid.distributions import LevelCategorical
from vaelid.optimizers import Schedule
from vaelid.settings import Count, Positive


class MyPrior(Prior):
    """Laplace with a learned width."""

    def __init__(self, latent: int, width: Positive = 1.0) -> None:
        super().__init__()
        self.width = nn.Parameter(torch.full((latent,), width))

    def forward(self):
        return Independent(Laplace(torch.zeros_like(self.width), self.width), 1)


class MyPosterior(Posterior):
    """Laplace."""

    def __init__(self, network: nn.Module, latent: int) -> None:
        super().__init__()
        self.network = network

    @classmethod
    def network_outputs(cls, latent: int) -> int:
        return 2 * latent

    def forward(self, x):
        mean, log_scale = self.network(x).chunk(2, dim=-1)
        return Independent(Laplace(mean, log_scale.exp()), 1)


class MyLikelihood(Likelihood):
    """Softmax at a temperature."""

    def __init__(self, network: nn.Module, shape: tuple[int, ...], levels: int, temperature: Positive = 1.0) -> None:
        super().__init__()
        from vaelid.supports import levels as of

        self.network, self.shape, self.levels, self.temperature = network, shape, levels, temperature
        self.support = of(levels)

    @classmethod
    def network_outputs(cls, shape: tuple[int, ...], levels: int) -> int:
        return math.prod(shape) * levels

    def forward(self, z):
        logits = self.network(z).unflatten(-1, (*self.shape, self.levels))
        return LevelCategorical(logits / self.temperature, event_dims=len(self.shape))


class MyNetwork(Network):
    """One hidden layer."""

    def __init__(self, inputs: tuple[int, ...], outputs: int, width: Count = 6) -> None:
        super().__init__()
        self.dims = len(inputs)
        self.first, self.last = nn.Linear(math.prod(inputs), width), nn.Linear(width, outputs)

    def forward(self, x):
        return self.last(torch.tanh(self.first(x.flatten(-self.dims))))

    @property
    def output_bias(self):
        return self.last.bias


@dataclass(frozen=True)
class MyObjective(Objective):
    """An ELBO with a weight."""

    weight: Positive = 1.0
    samples: Count = 2

    def __call__(self, seen):
        return seen.log_likelihood.mean(0) - self.weight * seen.rate

    def at(self, epoch):
        return self

    def rate_kind(self, seen):
        return seen.rate_kind


class MySchedule(Schedule):
    """Halves."""

    def __init__(self, every: Count = 3) -> None:
        self.every = every

    def factor(self, step, total, epoch):
        return 0.5 ** (step // self.every)
'''
