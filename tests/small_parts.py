"""Every part of every table, small and in float64, for the tests of contracts: L = 2, images of 1 × 2 pixels, 3 gray levels."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from _pytest.mark import ParameterSet
from torch import Tensor, nn
from torch.distributions import Distribution

from vaelid.build import build_model
from vaelid.data import DataSettings
from vaelid.parts import KINDS, part_options
from vaelid.recipe import ModelSettings, Part, Recipe
from vaelid.supports import BINARY, REAL, Support, levels
from vaelid.vae import VAE

LATENT = 2
SHAPE = (1, 2)
NETWORK = Part("mlp", {"hidden": (4,), "activation": "tanh"})
SIGMA = 0.4  # wide enough for three levels to occur
SUPPORTS = {"bernoulli": BINARY, "gaussian": REAL}  # the others take any number of levels


def variants(kind: str) -> list[ParameterSet]:
    """Each name of a table with each combination of those of its options that are a choice among words."""
    found = []
    for name, part in KINDS[kind].table.items():
        options = part_options(kind, part)
        choices = {option.name: option.choices for option in options.values() if option.choices}
        fixed = {"sigma": SIGMA} if "sigma" in options else {}
        for chosen in product(*choices.values()):
            settings = {**fixed, **dict(zip(choices, chosen, strict=True))}
            found.append(pytest.param(kind, name, settings, id="-".join([name, *chosen])))
    return found


def support_of(likelihood: str) -> Support:
    return SUPPORTS.get(likelihood, levels(3))


def pixels(support: Support, count: int) -> Tensor:
    """Random images ``(count, *SHAPE)`` that fit the support."""
    x = torch.rand(count, *SHAPE, dtype=torch.float64)
    return x if support.levels is None else (x * support.levels).floor() / (support.levels - 1)


def build_vae(**parts: Part) -> VAE:
    """A small model with these parts, started as training would start it."""
    named = {"encoder": NETWORK, "decoder": NETWORK, "likelihood": Part("bernoulli"), **parts}
    recipe = Recipe(DataSettings("digits"), ModelSettings(LATENT), **named)
    support = support_of(recipe.likelihood.name)
    model = build_model(recipe, SHAPE, support, Path()).double()
    model.likelihood.initialize(pixels(support, 50))
    if model.prior.wants_data:
        model.prior.initialize(torch.randn(2000, LATENT, dtype=torch.float64))
    return model


def build_part(kind: str, name: str, options: dict[str, Any]) -> nn.Module:
    """One part on its own."""
    return getattr(build_vae(**{kind: Part(name, options)}), kind)


def inputs_of(kind: str, name: str, *batch: int) -> tuple[Tensor, ...]:
    """What ``forward`` of such a part takes, for a batch of this shape."""
    if kind == "prior":
        return ()
    if kind == "posterior":
        return (pixels(BINARY, batch[-1]),)
    return (torch.randn(*batch, LATENT, dtype=torch.float64),)


def points(distribution: Distribution, support: Support) -> tuple[Tensor, float]:
    """All values that the two event numbers can take, ``(n, 1 …, *event)``, and the volume that each stands for.

    A fine grid far beyond the samples where they are real: the trapezoidal rule is exact to many digits for smooth densities.
    """
    if support.levels is not None:
        axes = [torch.arange(support.levels, dtype=torch.float64) / (support.levels - 1)] * 2
        volume = 1.0
    else:
        seen = distribution.sample((1000,)).reshape(-1, 2)
        reach = seen.max(0).values - seen.min(0).values
        lows, highs = seen.mean(0) - 1.5 * reach, seen.mean(0) + 1.5 * reach
        axes = [torch.linspace(float(a), float(b), 400, dtype=torch.float64) for a, b in zip(lows, highs, strict=True)]
        volume = float((axes[0][1] - axes[0][0]) * (axes[1][1] - axes[1][0]))
    grid = torch.cartesian_prod(*axes)
    return grid.reshape(-1, *(1 for _ in distribution.batch_shape), *distribution.event_shape), volume
