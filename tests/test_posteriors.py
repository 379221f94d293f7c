"""The Gaussian posterior; what holds for every posterior is in test_contract.py."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vaelid.posteriors import GaussianPosterior


class Constant(nn.Module):
    """A network that says the same numbers for every image."""

    def __init__(self, *numbers: float) -> None:
        super().__init__()
        self.numbers = nn.Parameter(torch.tensor(numbers))

    def forward(self, x: Tensor) -> Tensor:
        return self.numbers.expand(len(x), -1)


def test_the_network_gives_means_then_log_variances() -> None:
    assert GaussianPosterior.network_outputs(2) == 4
    q = GaussianPosterior(Constant(1.0, -2.0, math.log(9.0), math.log(0.25)), latent=2)(torch.zeros(3, 1))
    torch.testing.assert_close(q.mean, torch.tensor([[1.0, -2.0]]).expand(3, 2))
    torch.testing.assert_close(q.stddev, torch.tensor([[3.0, 0.5]]).expand(3, 2))


def test_draws_are_reparameterized() -> None:
    """∂z/∂μ = 1 and ∂z/∂log σ² = ½ σ ε = ½ (z − μ)."""
    posterior = GaussianPosterior(Constant(1.0, math.log(9.0)), latent=1)
    z = posterior(torch.zeros(1, 1)).rsample()
    z.sum().backward()
    torch.testing.assert_close(posterior.network.numbers.grad, torch.tensor([1.0, 0.5 * (float(z.detach()) - 1)]))


def test_densities_have_the_precision_of_the_images() -> None:
    posterior = GaussianPosterior(nn.Linear(3, 4), latent=2)
    with torch.autocast("cpu", torch.bfloat16):
        q = posterior(torch.zeros(5, 3))
        assert posterior.network(torch.zeros(5, 3)).dtype == torch.bfloat16
        assert q.rsample((2,)).dtype == q.log_prob(q.mean).dtype == torch.float32
