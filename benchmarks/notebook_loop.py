"""The training loop of a course assignment's notebook, rebuilt from its description: what vaelid's loop is timed against.

Everything is done the usual way: one picture at a time through PIL and a default ``DataLoader``, probabilities instead of logits,
clamped before the logarithm, an optimizer over separate weights. The model is the one of the recipe ``assignment`` with the prior
``factorized-mixture``: the log-sum-exp over components is taken per latent dimension.

Notation: B batch, D = 784 pixels, L latent dimensions, C components. All densities are natural logs (nats).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset, Subset

SMALLEST = 1e-5  # probabilities are clamped to [1e-5, 1 - 1e-5]
_LOG_2PI = math.log(2 * math.pi)


class BinarizedPictures(Dataset[tuple[Tensor, int]]):
    """Images as torchvision's ``MNIST`` hands them out: each access makes a PIL picture, scales it and draws its pixels."""

    def __init__(self, pixels: Tensor, labels: Tensor) -> None:
        self.pixels, self.labels = pixels, labels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """One binary picture, ``(D,)`` float32, and its label."""
        pixels, label = self.pixels[index], int(self.labels[index])
        picture = Image.fromarray(pixels.numpy())
        return torch.bernoulli(to_tensor(picture)).flatten(), label


def to_tensor(picture: Image.Image) -> Tensor:
    """Gray values in [0, 1], ``(1, height, width)`` float32: the steps of torchvision's ``ToTensor``."""
    pixels = torch.from_numpy(np.array(picture, dtype=np.uint8, copy=True))
    return pixels.view(picture.height, picture.width, 1).permute(2, 0, 1).contiguous().to(torch.float32).div(255)


class Encoder(nn.Module):
    """q(z|x): a diagonal Gaussian whose mean and log variance come from the network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance, ``(B, L)`` each."""
        mean, log_variance = torch.chunk(self.network(x), 2, dim=1)
        return mean, log_variance

    def sample(self, mean: Tensor, log_variance: Tensor) -> Tensor:
        """z = μ + σ ε, ``(B, L)``."""
        return mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)

    def log_prob(self, z: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
        """log q(z|x), ``(B,)``."""
        return log_normal(z, mean, log_variance).sum(dim=1)


class Decoder(nn.Module):
    """p(x|z): independent Bernoulli pixels."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Tensor) -> Tensor:
        """Pixel probabilities, ``(B, D)``."""
        return torch.sigmoid(self.network(z))

    def log_prob(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x|z), ``(B,)``, with clamped probabilities."""
        p = torch.clamp(self(z), SMALLEST, 1 - SMALLEST)
        return (x * torch.log(p) + (1 - x) * torch.log(1 - p)).sum(dim=1)


class MixturePrior(nn.Module):
    """p(z): in each dimension a mixture of C Gaussians, the weights shared by all dimensions."""

    def __init__(self, latent: int, components: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(components, 1, 1))
        self.mean = nn.Parameter(torch.randn(components, latent))
        self.log_variance = nn.Parameter(torch.randn(components, latent))

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z), ``(B,)``."""
        weights = torch.softmax(self.logits, dim=0)
        components = log_normal(z.unsqueeze(0), self.mean.unsqueeze(1), self.log_variance.unsqueeze(1))  # (C, B, L)
        return torch.logsumexp(components + torch.log(weights), dim=0).sum(dim=1)


class NotebookVAE(nn.Module):
    """The whole model; calling it gives the loss."""

    def __init__(self, pixels: int = 784, hidden: int = 512, latent: int = 20, components: int = 16) -> None:
        super().__init__()
        self.encoder = Encoder(mlp(pixels, hidden, 2 * latent))
        self.decoder = Decoder(mlp(latent, hidden, pixels))
        self.prior = MixturePrior(latent, components)

    def forward(self, x: Tensor) -> Tensor:
        """−ELBO of a batch ``(B, D)`` with one sample of z, averaged over it."""
        mean, log_variance = self.encoder(x)
        z = self.encoder.sample(mean, log_variance)
        rate = self.encoder.log_prob(z, mean, log_variance) - self.prior.log_prob(z)
        return -(self.decoder.log_prob(x, z) - rate).mean()


@dataclass
class Notebook:
    """Everything that the notebook's training works with."""

    model: NotebookVAE
    optimizer: Optimizer
    loader: DataLoader[tuple[Tensor, Tensor]]
    losses: list[float] = field(default_factory=list)


def prepare(pixels: Tensor, labels: Tensor, chosen: Sequence[int], batch_size: int = 32) -> Notebook:
    """A fresh model, torch's Adamax with learning rate 1e-3, and a ``DataLoader`` with default settings that shuffles.

    Args:
        pixels, labels: all images ``(N, H, W)`` uint8 and what they show ``(N,)``
        chosen: the training images among them, as ``random_split`` chooses
    """
    model = NotebookVAE(pixels=pixels[0].numel())
    optimizer = torch.optim.Adamax(model.parameters(), lr=1e-3)
    images = Subset(BinarizedPictures(pixels, labels), chosen)
    return Notebook(model, optimizer, DataLoader(images, batch_size, shuffle=True))


def train(notebook: Notebook, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """One optimizer step per batch: the notebook's epoch, where ``batches`` is the whole loader."""
    notebook.model.train()
    for x, _ in batches:
        loss = notebook.model(x)
        notebook.optimizer.zero_grad()
        loss.backward()
        notebook.optimizer.step()
        notebook.losses.append(loss.item())


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Three linear layers with LeakyReLU between them."""
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.LeakyReLU(), nn.Linear(hidden, hidden), nn.LeakyReLU(), nn.Linear(hidden, outputs)
    )


def log_normal(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """log N(x; mean, exp(log_variance)), elementwise."""
    return -0.5 * _LOG_2PI - 0.5 * log_variance - 0.5 * torch.exp(-log_variance) * (x - mean) ** 2
