"""A zoo of broken parts, each with a mistake that somebody really makes, and what an audit must say about it.

``expected`` lists the tests of which at least one must fail *and* name ``guilty``; ``subtle`` marks errors that no picture shows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent, Normal
from torch.nn import functional as F

from broken_priors import (
    BatchMean,
    Correlated,
    CountedOnce,
    DetachedScale,
    FactorizedAgainstJoint,
    LeakyBits,
    MissingConstant,
    MissingJacobian,
    NotebookMixture,
    OneOfTwenty,
    PerDimension,
    SamplerTooWide,
    SeparatedModes,
    StaleLogProb,
    StaleScale,
    Truncated,
    UnnormalizedWeights,
    VarianceAsScale,
    WeightOff,
    WrongAxis,
    WrongEntropy,
    WrongSign,
    WrongTails,
    WrongVariance,
)
from vaelid.auditing.findings import AuditReport
from vaelid.distributions import LevelCategorical
from vaelid.likelihoods import BernoulliLikelihood, CategoricalLikelihood, DiscretizedGaussianLikelihood, Likelihood
from vaelid.networks import MLP
from vaelid.posteriors import GaussianPosterior
from vaelid.priors import StandardNormalPrior
from vaelid.vae import VAE


class _OtherNormal(GaussianPosterior):
    """A Gaussian posterior whose normal distribution is one of these."""

    normal: type[Normal]

    def forward(self, x: Tensor) -> Independent[Normal]:
        base = super().forward(x).base_dist
        return Independent(self.normal(base.loc, base.scale, validate_args=False), 1, validate_args=False)


class _DetachedNormal(Normal):
    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.loc + self.scale.detach() * torch.randn(self._extended_shape(sample_shape))


class _NoGradient(Normal):
    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return super().rsample(sample_shape).detach()


class HalfDetached(_OtherNormal):
    """Says that it is reparameterized, but its scale is cut off from the samples."""

    normal = _DetachedNormal


class FullyDetached(_OtherNormal):
    """Its samples carry no gradient at all."""

    normal = _NoGradient


class ClampedBernoulli(BernoulliLikelihood):
    """Probabilities clamped to [1e-5, 1 − 1e-5], as in many tutorials."""

    def forward(self, z: Tensor) -> Independent:
        probs = torch.sigmoid(self.network(z)).clamp(1e-5, 1 - 1e-5).unflatten(-1, self.shape)
        return Independent(Bernoulli(probs, validate_args=False), len(self.shape), validate_args=False)


class ClampedCategorical(CategoricalLikelihood):
    """The same for gray levels, and not normalized again."""

    def forward(self, z: Tensor) -> LevelCategorical:
        logits = self.network(z).unflatten(-1, (*self.shape, self.levels))
        return _Clamped(logits, len(self.shape))


class _Clamped(LevelCategorical):
    def log_prob(self, value: Tensor) -> Tensor:
        level = (value * (self.levels - 1)).round().long()
        probs = torch.softmax(self.logits, -1).clamp(1e-5, 1 - 1e-5).expand(*level.shape, self.levels)
        return probs.log().gather(-1, level.unsqueeze(-1)).squeeze(-1).flatten(-len(self.event_shape)).sum(-1)


class OffByOne(CategoricalLikelihood):
    """The sampler counts levels from one."""

    def forward(self, z: Tensor) -> LevelCategorical:
        q = super().forward(z)
        return _FromOne(q.logits, len(self.shape))


class _FromOne(LevelCategorical):
    def sample(self, sample_shape: Any = ()) -> Tensor:
        return super().sample(sample_shape) + 1 / (self.levels - 1)


class ClosedBins(DiscretizedGaussianLikelihood):
    """The outer bins are as narrow as the others: the probabilities do not add up to one."""

    def forward(self, z: Tensor) -> Distribution:
        mean, scale = self.mean_and_scale(z)
        return _Closed(mean, scale, self.levels, len(self.shape))


class _Closed(Distribution):
    arg_constraints = {}  # noqa: RUF012

    def __init__(self, mean: Tensor, scale: Tensor, count: int, event_dims: int) -> None:
        self.normal, self.count = Normal(mean, scale), count
        split = mean.dim() - event_dims
        super().__init__(mean.shape[:split], mean.shape[split:], validate_args=False)

    def log_prob(self, x: Tensor) -> Tensor:
        half = 0.5 / (self.count - 1)
        mass = (self.normal.cdf(x + half) - self.normal.cdf(x - half)).clamp_min(1e-30)
        return mass.log().flatten(-len(self.event_shape)).sum(-1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        steps = self.count - 1
        return (self.normal.sample(sample_shape) * steps).round().clamp(0, steps) / steps


class SwappedPixels(BernoulliLikelihood):
    """Pixels are drawn in a grid that is turned over: each margin belongs to another pixel."""

    def forward(self, z: Tensor) -> Independent:
        return _Turned(super().forward(z).base_dist, len(self.shape), validate_args=False)


class _Turned(Independent):
    def sample(self, sample_shape: Any = ()) -> Tensor:
        return super().sample(sample_shape).transpose(-1, -2)


class BatchStatistics(nn.Module):
    """A network with batch normalization that keeps no running statistics: eval() does not help."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first, self.norm, self.last = (
            nn.Linear(inputs, 8),
            nn.BatchNorm1d(8, track_running_stats=False),
            nn.Linear(8, outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        return self.last(F.relu(self.norm(self.first(flat))))


class CenteredBatch(nn.Module):
    """A network that subtracts the batch's mean by hand: no module says so."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.last = nn.Linear(inputs, outputs)

    def forward(self, z: Tensor) -> Tensor:
        return self.last(z - z.mean(-2, keepdim=True))


def model(encoder: nn.Module | None = None, decoder: nn.Module | None = None) -> VAE:
    """A small VAE for binary 1×4×4 images."""
    posterior = GaussianPosterior(encoder or MLP((1, 4, 4), 6, (8,)), 3)
    likelihood = BernoulliLikelihood(decoder or MLP((3,), 16, (8,)), (1, 4, 4))
    return VAE(posterior, likelihood, StandardNormalPrior(3)).eval()


def _dropout() -> VAE:
    made = model(decoder=nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.2), nn.Linear(8, 16)))
    made.likelihood.network[1].train()
    return made


def _not_finite() -> VAE:
    made = model()
    with torch.no_grad():
        made.likelihood.network.layers[0].weight[0, 0] = math.nan
    return made


def _likelihood(kind: Callable[..., Likelihood], outputs: int, **settings: Any) -> Likelihood:
    made = kind(MLP((4,), outputs, (8,)), (1, 4, 4), **settings)
    with torch.no_grad():
        made.get_parameter(next(name for name, _ in made.named_parameters() if name.endswith("layers.2.bias"))).add_(
            torch.randn(outputs)
        )
    return made


@dataclass(frozen=True)
class Broken:
    """A broken part, the tests that must see it, and what they must name."""

    make: Callable[[], Any]
    expected: tuple[str, ...]
    guilty: str
    subtle: bool = False
    parameters: bool = True

    def is_caught(self, report: AuditReport) -> bool:
        """Whether an expected test failed and names the guilty: as the worst, or among the others that it lists."""
        failures = [f for f in report.failures if f.test in self.expected]
        also = re.compile(rf"so do [^)]*\b{re.escape(self.guilty)}")
        return any(self.guilty in f.guilty or also.search(f.meaning) for f in failures)


BROKEN: dict[str, Broken] = {
    "sampler 5 % too wide": Broken(SamplerTooWide, ("scores",), "log_scale", subtle=True),
    "one dimension of twenty 5 % too wide": Broken(OneOfTwenty, ("scores",), "log_scale[13]", subtle=True),
    "variance as scale": Broken(VarianceAsScale, ("scores",), "log_scale"),
    "stale scale in the sampler": Broken(StaleScale, ("scores",), "log_scale"),
    "stale log_prob": Broken(StaleLogProb, ("contract",), "log_prob"),
    "detached scale": Broken(DetachedScale, ("contract",), "log_scale"),
    "sum over the batch": Broken(WrongAxis, ("contract",), "WrongAxis"),
    "standardized by the batch": Broken(BatchMean, ("contract",), "log_prob"),
    "one value per dimension": Broken(PerDimension, ("scores",), "mean"),
    "log determinant with the wrong sign": Broken(WrongSign, ("scores",), "log_scale"),
    "log determinant counted once": Broken(CountedOnce, ("scores",), "log_scale"),
    "missing Jacobian": Broken(MissingJacobian, ("stein",), "dimension", parameters=False),
    "missing constant": Broken(MissingConstant, ("normalization",), "log_prob", subtle=True, parameters=False),
    "truncated sampler": Broken(Truncated, ("stein", "exchange"), "dimension", parameters=False),
    "correlation of 0.1": Broken(Correlated, ("stein",), "dimensions 2 and 5", subtle=True, parameters=False),
    "wrong tails": Broken(WrongTails, ("stein", "exchange"), "dimension", subtle=True, parameters=False),
    "separated modes, weight off by 0.05": Broken(SeparatedModes, ("exchange",), "", subtle=True, parameters=False),
    "weight off by 0.05": Broken(WeightOff, ("scores",), "logits", subtle=True),
    # Two mistakes at once: which parameter suffers most depends on the numbers, but this one is named.
    "the notebook's mixture": Broken(NotebookMixture, ("scores",), "log_variance"),
    "factorized density, joint sampler": Broken(FactorizedAgainstJoint, ("scores-2",), "", subtle=True),
    "unnormalized weights": Broken(UnnormalizedWeights, ("normalization",), "log_prob"),
    "wrong entropy": Broken(lambda: WrongEntropy(torch.zeros(3), torch.ones(3)), ("closed-forms",), "entropy", parameters=False),
    "wrong variance": Broken(
        lambda: WrongVariance(torch.zeros(3), torch.ones(3)), ("closed-forms",), "variance", parameters=False
    ),
    "leaky autoregression": Broken(LeakyBits, ("normalization",), "log_prob"),
    "scale detached from samples": Broken(
        lambda: HalfDetached(MLP((1, 4, 4), 8, (8,)), 4), ("reparameterization",), "network.layers"
    ),
    "samples detached": Broken(lambda: FullyDetached(MLP((1, 4, 4), 8, (8,)), 4), ("reparameterization",), "network.layers"),
    "clamped Bernoulli": Broken(lambda: _likelihood(ClampedBernoulli, 16), ("support",), "log_prob", subtle=True),
    "clamped categorical": Broken(lambda: _likelihood(ClampedCategorical, 80, levels=5), ("support",), "log_prob", subtle=True),
    "levels off by one": Broken(lambda: _likelihood(OffByOne, 80, levels=5), ("support",), "sample"),
    "closed outer bins": Broken(lambda: _likelihood(ClosedBins, 16, levels=5, sigma=0.4), ("normalization",), "log_prob"),
    "pixels turned over": Broken(lambda: _likelihood(SwappedPixels, 16), ("scores",), "network"),
    "batch statistics in the encoder": Broken(
        lambda: model(encoder=BatchStatistics(16, 6)), ("whole-model",), "posterior.network.norm"
    ),
    "batch mean in the decoder": Broken(lambda: model(decoder=CenteredBatch(3, 16)), ("whole-model",), "likelihood"),
    "dropout left on": Broken(_dropout, ("whole-model",), "likelihood.network.1"),
    "weights with NaN": Broken(_not_finite, ("whole-model",), "likelihood.network.layers.0.weight"),
}
