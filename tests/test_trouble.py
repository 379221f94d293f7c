"""Trouble in plain words: said when it begins, not when all is well, and not every epoch again."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from vaelid.distributions import FactorizedGaussianMixture, GaussianMixture, diagonal_normal
from vaelid.training.trouble import count_dead_components, troubles

GOOD = {"rate": 10.0, "active_units": 8, "latent": 8, "dead_components": 0, "grad_norm": 3.0}


def history(count: int, **last: Any) -> list[dict[str, Any]]:
    """So many good epochs, the last of them with other figures."""
    return [GOOD] * (count - 1) + [{**GOOD, **last}]


def test_all_is_well() -> None:
    assert troubles([GOOD]) == []
    assert troubles([GOOD] * 30) == []


@pytest.mark.parametrize(
    ("count", "last", "words"),
    [
        (3, {"rate": 0.02}, ["rate is 0.020 nats", "collapse", "objective.warmup"]),
        (10, {"active_units": 3}, ["only 3 of 8 latents are active", "model.latent"]),
        (10, {"active_units": 0}, ["only 0 of 8 latents"]),
        (10, {"dead_components": 2}, ["2 of the prior's components have less than a hundredth"]),
        (10, {"dead_components": 1}, ["1 of the prior's components has less"]),
        (3, {"grad_norm": 90.0}, ["gradient norm 90 is 30 times its median", "clip_norm"]),
    ],
)
def test_trouble_is_said_with_its_numbers_and_a_remedy(count: int, last: dict[str, Any], words: list[str]) -> None:
    [sentence] = troubles(history(count, **last))
    assert all(word in sentence for word in words)


@pytest.mark.parametrize(
    ("count", "last"),
    [
        (2, {"rate": 0.02}),  # the first epochs may be odd
        (9, {"active_units": 0}),
        (9, {"dead_components": 3}),
        (2, {"grad_norm": 1e9}),
        (10, {"rate": 0.2}),
        (10, {"active_units": 4}),  # half of them is not more than half
        (10, {"active_units": None, "latent": 0}),  # not known
        (10, {"grad_norm": 50.0}),
    ],
)
def test_what_is_no_trouble(count: int, last: dict[str, Any]) -> None:
    assert troubles(history(count, **last)) == []


def test_the_same_trouble_is_said_once_until_it_comes_back() -> None:
    bad = {**GOOD, "rate": 0.05}
    lines = [GOOD] * 3
    said = []
    for line in (bad, {**bad, "rate": 0.01}, GOOD, bad):
        lines.append(line)
        said.append(len(troubles(lines)))
    assert said == [1, 0, 0, 1]


def test_several_troubles_at_once() -> None:
    assert len(troubles(history(10, rate=0.0, active_units=0, dead_components=1, grad_norm=1e6))) == 4


def test_gradients_that_were_zero_are_no_measure() -> None:
    still = {**GOOD, "grad_norm": 0.0}
    assert troubles([still, still, still, GOOD]) == []


@pytest.mark.parametrize("mixture", [GaussianMixture, FactorizedGaussianMixture])
def test_dead_components(mixture: type[GaussianMixture]) -> None:
    weights = torch.tensor([0.9, 0.0974, 0.0026, 1e-9])  # an equal share is 0.25, a hundredth of it 0.0025
    parameters = torch.zeros(4, 2), torch.ones(4, 2)
    assert count_dead_components(mixture(weights.log(), *parameters)) == 1
    assert count_dead_components(mixture(torch.zeros(4), *parameters)) == 0
    assert count_dead_components(mixture(torch.tensor([0.0, 0, 0, -math.inf]), *parameters)) == 1


def test_a_prior_without_components_has_none_dead() -> None:
    assert count_dead_components(diagonal_normal(torch.zeros(2), torch.ones(2))) == 0
