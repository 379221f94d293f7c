"""Broken priors: the first half of the zoo of ``broken_parts.py``, and the correct ones that they differ from in one line."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Laplace, Normal, StudentT

from vaelid.supports import BINARY


class Gaussian(nn.Module):
    """A correct diagonal Gaussian; the broken ones change one line of it."""

    def __init__(self, latent: int = 6) -> None:
        super().__init__()
        self.mean = nn.Parameter(0.3 * torch.randn(latent))
        self.log_scale = nn.Parameter(0.2 * torch.randn(latent))

    def log_prob(self, z: Tensor) -> Tensor:
        return Normal(self.mean, self.log_scale.exp()).log_prob(z).sum(-1)

    def sample(self, n: int) -> Tensor:
        return self.mean + self.log_scale.exp() * torch.randn(n, len(self.mean))


class SamplerTooWide(Gaussian):
    """σ of the sampler is 5 % too wide in all six dimensions."""

    factor = 1.05

    def sample(self, n: int) -> Tensor:
        return self.mean + self.factor * self.log_scale.exp() * torch.randn(n, len(self.mean))


class OneOfTwenty(Gaussian):
    """… and in one dimension of twenty only."""

    def __init__(self) -> None:
        super().__init__(20)

    def sample(self, n: int) -> Tensor:
        noise = torch.randn(n, 20)
        noise[:, 13] *= 1.05
        return self.mean + self.log_scale.exp() * noise


class VarianceAsScale(Gaussian):
    """The sampler takes exp(log σ²) for the standard deviation."""

    def log_prob(self, z: Tensor) -> Tensor:
        return Normal(self.mean, (0.5 * self.log_scale).exp()).log_prob(z).sum(-1)


class StaleScale(Gaussian):
    """The scale for the sampler was computed once, in the constructor."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = self.log_scale.detach().exp()

    def sample(self, n: int) -> Tensor:
        return self.mean + self.scale * torch.randn(n, len(self.mean))


class StaleLogProb(Gaussian):
    """The last density is kept and given again for any batch of the same size."""

    def log_prob(self, z: Tensor) -> Tensor:
        self.kept = vars(self).get("kept", {})
        if len(z) not in self.kept:
            self.kept = {**self.kept, len(z): super().log_prob(z).detach()}
        return self.kept[len(z)] + 0.0 * self.mean.sum() + 0.0 * self.log_scale.sum()


class DetachedScale(Gaussian):
    """No gradient reaches the scale."""

    def log_prob(self, z: Tensor) -> Tensor:
        return Normal(self.mean, self.log_scale.detach().exp()).log_prob(z).sum(-1)


class WrongAxis(Gaussian):
    """The sum runs over the batch."""

    def log_prob(self, z: Tensor) -> Tensor:
        return Normal(self.mean, self.log_scale.exp()).log_prob(z).sum(0)


class BatchMean(Gaussian):
    """Values are standardized by the batch's own mean first."""

    def log_prob(self, z: Tensor) -> Tensor:
        return Normal(self.mean, self.log_scale.exp()).log_prob(z - z.mean(0) + self.mean).sum(-1)


class PerDimension(Gaussian):
    """One value per dimension, and a sampler that forgot the mean."""

    def log_prob(self, z: Tensor) -> Tensor:
        return Normal(self.mean, self.log_scale.exp()).log_prob(z)

    def sample(self, n: int) -> Tensor:
        return self.log_scale.exp() * torch.randn(n, len(self.mean))


class WrongSign(Gaussian):
    """The log determinant of z = μ + σε comes with the wrong sign."""

    def log_prob(self, z: Tensor) -> Tensor:
        noise = (z - self.mean) * (-self.log_scale).exp()
        return (Normal(0.0, 1.0).log_prob(noise) + self.log_scale).sum(-1)


class CountedOnce(nn.Module):
    """One scale for six dimensions, and its log determinant counted once instead of six times."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(0.3))

    def log_prob(self, z: Tensor) -> Tensor:
        return Normal(0.0, 1.0).log_prob(z * (-self.log_scale).exp()).sum(-1) - self.log_scale

    def sample(self, n: int) -> Tensor:
        return self.log_scale.exp() * torch.randn(n, 6)


class MissingJacobian(nn.Module):
    """A log-normal whose density lacks 1/x; no parameters."""

    def log_prob(self, x: Tensor) -> Tensor:
        return Normal(0.0, 0.5).log_prob(x.log()).sum(-1)

    def sample(self, n: int) -> Tensor:
        return (0.5 * torch.randn(n, 3)).exp()


class MissingConstant(nn.Module):
    """A standard normal without ½ log 2π; no parameters, and no gradient that tells."""

    def log_prob(self, z: Tensor) -> Tensor:
        return -0.5 * z.square().sum(-1)

    def sample(self, n: int) -> Tensor:
        return torch.randn(n, 6)


class Truncated(nn.Module):
    """The truncation trick left on: the sampler clamps at two standard deviations; no parameters."""

    def log_prob(self, z: Tensor) -> Tensor:
        return Normal(0.0, 1.0).log_prob(z).sum(-1)

    def sample(self, n: int) -> Tensor:
        return torch.randn(n, 6).clamp(-2, 2)


class Correlated(nn.Module):
    """Margins are right, but dimensions 2 and 5 are correlated by 0.1; no parameters."""

    def log_prob(self, z: Tensor) -> Tensor:
        return Normal(0.0, 1.0).log_prob(z).sum(-1)

    def sample(self, n: int) -> Tensor:
        z = torch.randn(n, 8)
        z[:, 5] = 0.1 * z[:, 2] + math.sqrt(0.99) * z[:, 5]
        return z


class WrongTails(nn.Module):
    """Student's t with 3 degrees of freedom in the density, 5 in the sampler; no parameters."""

    def log_prob(self, z: Tensor) -> Tensor:
        return StudentT(3.0).log_prob(z).sum(-1)

    def sample(self, n: int) -> Tensor:
        return StudentT(5.0).sample((n, 4))


class SeparatedModes(nn.Module):
    """Two modes far apart; the sampler gives the first 0.55, the density 0.5; no parameters, and Stein's identity is blind
    to it.
    """

    share = 0.55

    def log_prob(self, z: Tensor) -> Tensor:
        modes = torch.stack([Normal(m, 1.0).log_prob(z).sum(-1) for m in (-10.0, 10.0)])
        return torch.logsumexp(modes, 0) - math.log(2)

    def sample(self, n: int) -> Tensor:
        sign = 1 - 2 * (torch.rand(n, 1) < self.share).double()
        return (10 * sign + torch.randn(n, 3)).float()


class Mixture(nn.Module):
    """A correct joint mixture; the broken ones change one line of it."""

    def __init__(self, components: int = 5, latent: int = 4) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(components))
        self.mean = nn.Parameter(2 * torch.randn(components, latent))
        self.log_variance = nn.Parameter(0.3 * torch.randn(components, latent))

    def weights(self) -> Tensor:
        return torch.softmax(self.logits, 0)

    def _components(self, z: Tensor) -> Tensor:
        return Normal(self.mean, (0.5 * self.log_variance).exp()).log_prob(z.unsqueeze(-2))

    def log_prob(self, z: Tensor) -> Tensor:
        return torch.logsumexp(self.weights().log() + self._components(z).sum(-1), -1)

    def sample(self, n: int) -> Tensor:
        c = Categorical(self.weights()).sample((n,))
        return self.mean[c] + (0.5 * self.log_variance[c]).exp() * torch.randn(n, self.mean.shape[1])


class NotebookMixture(Mixture):
    """The course notebook's prior: log-sum-exp per dimension, one component for all in the sampler, and exp(log σ²) as σ."""

    def log_prob(self, z: Tensor) -> Tensor:
        return torch.logsumexp(self.weights().log()[:, None] + self._components(z), -2)

    def sample(self, n: int) -> Tensor:
        c = Categorical(self.weights()).sample((n,))
        return self.mean[c] + self.log_variance[c].exp() * torch.randn(n, self.mean.shape[1])


class FactorizedAgainstJoint(Mixture):
    """Only the dependence between dimensions is wrong: every margin, and so every mean score, is right."""

    def log_prob(self, z: Tensor) -> Tensor:
        return torch.logsumexp(self.weights().log()[:, None] + self._components(z), -2).sum(-1)


class UnnormalizedWeights(Mixture):
    """The density takes the logits for log weights."""

    def log_prob(self, z: Tensor) -> Tensor:
        return torch.logsumexp(self.logits + self._components(z).sum(-1), -1)


class WeightOff(Mixture):
    """The sampler gives the first component 0.05 more than the density, the last as much less."""

    off = 0.05

    def sample(self, n: int) -> Tensor:
        w = self.weights().detach().clone()
        w[0] += self.off
        w[-1] -= self.off
        c = Categorical(w).sample((n,))
        return self.mean[c] + (0.5 * self.log_variance[c]).exp() * torch.randn(n, self.mean.shape[1])


class WrongEntropy(Laplace):
    """The entropy formula of another distribution."""

    def entropy(self) -> Tensor:
        return 0.5 + super().entropy()


class WrongVariance(Laplace):
    """b² for the variance of a Laplace, which is 2b²."""

    @property
    def variance(self) -> Tensor:
        return self.scale.square()


class LeakyBits(nn.Module):
    """Binary autoregression whose mask lets each bit see itself."""

    support = BINARY
    diagonal = 0

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 6))
        self.bias = nn.Parameter(torch.zeros(6))

    def log_prob(self, x: Tensor) -> Tensor:
        logits = x @ self.weight.tril(self.diagonal).T + self.bias
        return Bernoulli(logits=logits).log_prob(x).sum(-1)

    def sample(self, n: int) -> Tensor:
        x = torch.zeros(n, 6)
        for d in range(6):
            x[:, d] = torch.bernoulli(torch.sigmoid(x @ self.weight.tril(-1).T + self.bias)[:, d])
        return x
