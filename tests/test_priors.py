"""How priors start; what holds for every prior is in test_contract.py."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.cluster.vq import ClusterError

from vaelid.errors import PartError
from vaelid.priors import FactorizedMixturePrior, MixturePrior, StandardNormalPrior

MIXTURES = [MixturePrior, FactorizedMixturePrior]


def test_the_standard_normal_has_nothing_to_learn_or_save() -> None:
    prior = StandardNormalPrior(3)
    assert list(prior.parameters()) == []
    assert prior.state_dict() == {}
    assert prior.double()().mean.dtype == torch.float64  # it follows the model
    assert float(prior().log_prob(torch.zeros(3))) == pytest.approx(-1.5 * math.log(2 * math.pi))
    assert not prior.wants_data
    prior.initialize(torch.randn(5, 3))  # a hook that does nothing
    assert prior().mean.tolist() == [0, 0, 0]


@pytest.mark.parametrize("kind", MIXTURES)
def test_mixtures_start_with_equal_weights_and_standard_normal_numbers(kind: type[MixturePrior]) -> None:
    """Means and log variances within 5 standard errors of N(0, 1)."""
    prior = kind(latent=50, components=40)
    assert prior.logits.tolist() == [0] * 40
    for numbers in (prior.mean, prior.log_variance):
        assert abs(float(numbers.detach().mean())) < 5 / math.sqrt(2000)
        assert abs(float(numbers.detach().var()) - 1) < 5 * math.sqrt(2 / 2000)
    torch.testing.assert_close(prior.scale**2, prior.log_variance.exp())
    assert not prior.wants_data


@pytest.mark.parametrize("kind", MIXTURES)
def test_k_means_puts_a_component_on_each_cluster(kind: type[MixturePrior]) -> None:
    """Four clusters 20 apart with σ = 1 and 0.5 and shares 10 to 40 %; 5 standard errors."""
    centers, counts = torch.tensor([[0.0, 0], [20, 0], [0, 20], [20, 20]]), [400, 800, 1200, 1600]
    spread = torch.tensor([1.0, 0.5])
    z = torch.cat([c + spread * torch.randn(n, 2) for c, n in zip(centers, counts, strict=True)])
    prior = kind(latent=2, components=4, init="k-means")
    assert prior.wants_data
    prior.initialize(z[torch.randperm(len(z))])
    for center, count in zip(centers, counts, strict=True):
        [c] = ((prior.mean - center).norm(dim=-1) < 1).nonzero()[:, 0].tolist()
        assert ((prior.mean[c] - center).abs() < 5 * spread / math.sqrt(count)).all()
        assert ((prior.scale[c] / spread - 1).abs() < 5 / math.sqrt(2 * count)).all()
        assert float(prior.logits.detach().softmax(0)[c]) == pytest.approx(count / 4000)


def test_a_cluster_of_one_keeps_the_spread_of_everything() -> None:
    z = torch.cat([torch.randn(200, 2), torch.tensor([[1000.0, 1000.0]])])
    prior = MixturePrior(latent=2, components=2, init="k-means")
    prior.initialize(z)
    lone = int(prior.mean[:, 0].argmax())
    torch.testing.assert_close(prior.mean[lone], z[-1])
    torch.testing.assert_close(prior.scale[lone] ** 2, z.var(0))


def test_equal_images_start_with_a_small_but_finite_spread() -> None:
    prior = MixturePrior(latent=2, components=2, init="k-means")
    prior.initialize(torch.tensor([[0.0, 0.0]] * 5 + [[1.0, 1.0]] * 5))
    torch.testing.assert_close(prior.log_variance, torch.full((2, 2), math.log(1e-4)))


def test_the_seed_decides_the_clusters() -> None:
    z, starts = torch.randn(500, 2), []
    for _ in range(2):
        torch.manual_seed(3)
        prior = MixturePrior(latent=2, components=8, init="k-means")
        prior.initialize(z)
        starts.append(prior.mean.detach().clone())
    assert torch.equal(*starts)


def test_too_few_images_for_the_components_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def fails(*arguments: object, **options: object) -> None:
        tried.append(options["rng"])
        raise ClusterError("one of the clusters is empty")

    monkeypatch.setattr("scipy.cluster.vq.kmeans2", fails)
    with pytest.raises(PartError, match=r"9 encoded images could not be grouped into prior.components = 4 clusters"):
        MixturePrior(latent=2, components=4, init="k-means").initialize(torch.randn(9, 2))
    assert len(set(tried)) == 10  # each from other starting points


def test_fewer_images_than_components_are_an_error() -> None:
    with pytest.raises(PartError, match=r"3 encoded images could not be grouped into prior.components = 4"):
        MixturePrior(latent=2, components=4, init="k-means").initialize(torch.randn(3, 2))
    with pytest.raises(PartError, match=r"^1 encoded image could not be grouped"):
        MixturePrior(latent=2, components=4, init="k-means").initialize(torch.randn(1, 2))
