"""Correct parts of many kinds, which an audit must let pass: ours, torch's, zuko's; heavy tails, bounded and discrete spaces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, distributions as d, nn

from broken_parts import model
from broken_priors import Gaussian, LeakyBits, Mixture


class LearnedUniform(nn.Module):
    """The support moves with the parameters: their scores do not average to zero, and that is no mistake."""

    def __init__(self) -> None:
        super().__init__()
        self.low = nn.Parameter(-torch.ones(2))
        self.high = nn.Parameter(2 * torch.ones(2))

    def forward(self) -> d.Distribution:
        return d.Independent(d.Uniform(self.low, self.high), 1)


class LearnedGamma(nn.Module):
    """Positive values; shape and rate are learned."""

    def __init__(self) -> None:
        super().__init__()
        self.shape = nn.Parameter(torch.tensor([2.0, 3.0, 1.5]))
        self.rate = nn.Parameter(torch.ones(3))

    def forward(self) -> d.Distribution:
        return d.Independent(d.Gamma(self.shape, self.rate), 1)


class LearnedCauchy(nn.Module):
    """No moments at all."""

    def __init__(self) -> None:
        super().__init__()
        self.center = nn.Parameter(torch.zeros(3))
        self.scale = nn.Parameter(torch.ones(3))

    def log_prob(self, z: Tensor) -> Tensor:
        return d.Cauchy(self.center, self.scale).log_prob(z).sum(-1)

    def sample(self, n: int) -> Tensor:
        return d.Cauchy(self.center, self.scale).sample((n,))


class RareComponent(Mixture):
    """A mixture with a component that is drawn once in two thousand times."""

    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            self.logits[0] = -6.0


class Bits(LeakyBits):
    """The mask as it should be."""

    diagonal = -1


def _independent(kind: type[d.Distribution], *parameters: float, dims: int = 3) -> Callable[[], d.Distribution]:
    return lambda: d.Independent(kind(*(torch.full((dims,), value) for value in parameters)), 1)


CORRECT: dict[str, Callable[[], Any]] = {
    "standard-normal": lambda: "prior:standard-normal",
    "mixture": lambda: "prior:mixture",
    "factorized-mixture": lambda: "prior:factorized-mixture",
    "gaussian posterior": lambda: "posterior:gaussian",
    "bernoulli": lambda: "likelihood:bernoulli",
    "categorical": lambda: "likelihood:categorical",
    "gaussian likelihood": lambda: "likelihood:gaussian",
    "discretized-gaussian": lambda: "likelihood:discretized-gaussian",
    "plain Gaussian": Gaussian,
    "plain mixture": Mixture,
    "rare component": RareComponent,
    "autoregressive bits": Bits,
    "learned uniform": LearnedUniform,
    "learned gamma": LearnedGamma,
    "learned Cauchy": LearnedCauchy,
    "torch normal": _independent(d.Normal, 1.0, 2.0),
    "torch multivariate normal": lambda: d.MultivariateNormal(torch.ones(4), torch.eye(4) + 0.5),
    "torch Laplace": _independent(d.Laplace, 0.0, 1.0),
    "torch Student": _independent(d.StudentT, 3.0),
    "torch Cauchy": _independent(d.Cauchy, 0.0, 1.0),
    "torch half-Cauchy": lambda: d.HalfCauchy(torch.tensor(1.0)),
    "torch Gumbel": _independent(d.Gumbel, 0.0, 1.0),
    "torch log-normal": _independent(d.LogNormal, 0.0, 0.8),
    "torch gamma": _independent(d.Gamma, 2.0, 1.0),
    "torch beta": _independent(d.Beta, 2.0, 3.0),
    "torch Dirichlet": lambda: d.Dirichlet(torch.tensor([2.0, 3.0, 4.0])),
    "torch uniform": _independent(d.Uniform, -1.0, 2.0),
    "torch mixture": lambda: d.MixtureSameFamily(
        d.Categorical(torch.tensor([0.3, 0.7])), d.Independent(d.Normal(torch.tensor([[-4.0, 0.0], [4.0, 1.0]]), 1.0), 1)
    ),
    "torch Bernoulli": _independent(d.Bernoulli, 0.3, dims=8),
    "torch categorical": lambda: d.Categorical(torch.tensor([0.1, 0.2, 0.3, 0.4])),
    "torch one-hot": lambda: d.OneHotCategorical(torch.tensor([0.1, 0.2, 0.3, 0.4])),
    "torch Poisson": _independent(d.Poisson, 3.0),
    "torch geometric": _independent(d.Geometric, 0.4),
    "torch binomial": lambda: d.Binomial(5, torch.tensor(0.3)),
    "a whole model": model,
}

ZUKO: dict[str, Callable[[Any], Any]] = {
    "zuko MAF": lambda zuko: zuko.flows.MAF(3, transforms=2, hidden_features=(16,)),
    "zuko spline flow": lambda zuko: zuko.flows.NSF(2, transforms=1, hidden_features=(16,)),
    "zuko NICE": lambda zuko: zuko.flows.NICE(4, transforms=2, hidden_features=(16,)),
    "zuko mixture": lambda zuko: zuko.mixtures.GMM(3, components=4),
}
