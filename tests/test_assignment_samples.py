"""The study of the assignment's sampler: the four ways draw what they say, from the same random numbers."""

from __future__ import annotations

import pytest
import torch
from studies.assignment_samples.compare import WAYS, DrawnPrior
from torch import Tensor

from vaelid.priors import FactorizedMixturePrior


def prior() -> FactorizedMixturePrior:
    """Two components, far apart, in two dimensions; weights 1/4 and 3/4."""
    made = FactorizedMixturePrior(2, 2)
    with torch.no_grad():
        made.logits.copy_(torch.tensor([0.25, 0.75]).log())
        made.mean.copy_(torch.tensor([[-10.0, -10.0], [10.0, 10.0]]))
        made.log_variance.copy_(torch.tensor([[0.25, 0.25], [0.25, 0.25]]).log())
    return made


def drawn(way: str, count: int = 20_000) -> Tensor:
    torch.manual_seed(0)
    return DrawnPrior(prior(), *WAYS[way])().sample((count,))


@pytest.mark.parametrize("way", list(WAYS))
def test_every_way_draws_what_it_says(way: str) -> None:
    joint, squared = WAYS[way]
    z = drawn(way)
    upper = z > 0
    assert upper.double().mean(0).tolist() == pytest.approx([0.75, 0.75], abs=0.01)
    crossed = float((upper[:, 0] != upper[:, 1]).double().mean())
    assert crossed == pytest.approx(0.0 if joint else 2 * 0.25 * 0.75, abs=0.01), "crossed corners: components drawn apart"
    assert float((z.abs() - 10).std()) == pytest.approx(0.25 if squared else 0.5, abs=0.01)


def test_the_right_way_is_the_density_that_was_trained() -> None:
    z, theirs = drawn("right"), prior()()
    assert z.mean(0).tolist() == pytest.approx(theirs.mean.tolist(), abs=0.2)
    assert z.var(0).tolist() == pytest.approx(theirs.variance.tolist(), rel=0.02)


def test_the_noise_is_shared() -> None:
    right, squared = drawn("right"), drawn("σ² for σ")
    center = torch.where(right > 0, 10.0, -10.0)
    assert torch.allclose((squared - center) * 2, right - center, atol=1e-4)
