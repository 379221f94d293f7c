"""Small models in float64 whose log p(x) is known: linear-Gaussian in closed form, one latent dimension by quadrature."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from vaelid.data import DataSettings, Images, Split, whole
from vaelid.likelihoods import (
    BernoulliLikelihood,
    CategoricalLikelihood,
    DiscretizedGaussianLikelihood,
    GaussianLikelihood,
    Likelihood,
)
from vaelid.networks import MLP
from vaelid.posteriors import GaussianPosterior
from vaelid.priors import FactorizedMixturePrior, MixturePrior, Prior, StandardNormalPrior
from vaelid.supports import REAL
from vaelid.vae import VAE

SIGMA = 0.5


@dataclass(frozen=True)
class LinearGaussian:
    """x = W z + b + σ ε, z ~ N(0, I), with the q(z|x) that fits best within diagonal Gaussians, unless it is spoiled."""

    model: VAE
    weight: Tensor  # (D, L)
    bias: Tensor  # (D,)

    @property
    def precision(self) -> Tensor:
        """Of p(z|x), ``(L, L)``."""
        return torch.eye(self.weight.shape[1], dtype=torch.float64) + self.weight.T @ self.weight / SIGMA**2

    def log_p(self, x: Tensor) -> Tensor:
        covariance = self.weight @ self.weight.T + SIGMA**2 * torch.eye(len(self.bias), dtype=torch.float64)
        return MultivariateNormal(self.bias, covariance).log_prob(x)

    def posterior_mean(self, x: Tensor) -> Tensor:
        return (x - self.bias) @ self.weight @ self.precision.inverse() / SIGMA**2

    def images(self, count: int) -> Tensor:
        """Images that a float32 file can hold."""
        z, noise = torch.randn(count, self.weight.shape[1]).double(), torch.randn(count, len(self.bias)).double()
        return (z @ self.weight.T + self.bias + SIGMA * noise).float().double()


def linear_gaussian(latent: int = 2, pixels: int = 4, shift: float = 0.0, widen: float = 1.0) -> LinearGaussian:
    """The model; ``shift`` moves the encoder's means by so many prior standard deviations, ``widen`` multiplies its scales."""
    torch.manual_seed(1)
    weight, bias = torch.randn(pixels, latent).double(), torch.randn(pixels).double()
    decoder, encoder = MLP((latent,), pixels, hidden=()), MLP((pixels,), 2 * latent, hidden=())
    likelihood = GaussianLikelihood(decoder, (pixels,), scale="fixed", sigma=SIGMA)
    model = VAE(GaussianPosterior(encoder, latent), likelihood, StandardNormalPrior(latent)).double()
    found = LinearGaussian(model, weight, bias)
    gain = found.precision.inverse() @ weight.T / SIGMA**2
    log_variance = math.log(widen**2) - found.precision.diagonal().log()
    with torch.no_grad():
        decoder.layers[0].weight.copy_(weight)
        decoder.layers[0].bias.copy_(bias)
        encoder.layers[0].weight.copy_(torch.cat((gain, torch.zeros_like(gain))))
        encoder.layers[0].bias.copy_(torch.cat((shift - gain @ bias, log_variance)))
    return found


LIKELIHOODS = ("bernoulli", "categorical", "gaussian", "discretized-gaussian")
PRIORS = ("standard-normal", "mixture", "factorized-mixture")


def one_latent(likelihood: str, prior: str, pixels: int = 5) -> VAE:
    """A model with one latent dimension, a bent decoder, and an encoder that knows nothing."""
    torch.manual_seed(2)
    shape = (pixels,)
    outputs = pixels * (3 if likelihood == "categorical" else 1)
    decoder = MLP((1,), outputs, hidden=(8,), activation="tanh")
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(3)
    likelihoods: dict[str, Likelihood] = {
        "bernoulli": BernoulliLikelihood(decoder, shape),
        "categorical": CategoricalLikelihood(decoder, shape, 3),
        "gaussian": GaussianLikelihood(decoder, shape, scale="fixed", sigma=0.7),
        "discretized-gaussian": DiscretizedGaussianLikelihood(decoder, shape, 3, scale="fixed", sigma=0.7),
    }
    priors: dict[str, Prior] = {
        "standard-normal": StandardNormalPrior(1),
        "mixture": MixturePrior(1, components=3),
        "factorized-mixture": FactorizedMixturePrior(1, components=3),
    }
    return VAE(GaussianPosterior(MLP(shape, 2, hidden=(4,)), 1), likelihoods[likelihood], priors[prior]).double().eval()


@torch.no_grad()
def log_p_by_quadrature(model: VAE, x: Tensor) -> Tensor:
    """log ∫ p(z) p(x|z) dz for one latent dimension, ``(B,)`` nats: the trapezoid rule, as good as exact here."""
    grid = torch.linspace(-12, 12, 3001, dtype=torch.float64)
    z = grid.view(-1, 1, 1)
    log_joint = model.prior().log_prob(z) + model.likelihood(z).log_prob(x)  # (grid, B)
    return torch.logsumexp(log_joint, 0) + math.log(grid[1] - grid[0])


def as_split(x: Tensor) -> Split:
    """Real-valued images as a split."""
    return whole(Images("exact", x.float(), REAL), DataSettings("exact"))


def sigmas(values: Tensor, expected: float) -> float:
    """By how many standard errors the mean of independent values misses what it should be."""
    flat = values.flatten()
    return float((flat.mean() - expected) / (flat.std() / math.sqrt(len(flat))))
