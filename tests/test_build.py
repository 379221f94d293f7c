"""From recipes to objects."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from user_code import SOURCE
from vaelid.build import (
    build_model,
    build_objective,
    build_optimizer,
    build_schedule,
    describe_inputs,
    likelihood_for,
    read_inputs,
    settle,
)
from vaelid.data import Data, DataSettings, load_data
from vaelid.errors import MachineError, PartError
from vaelid.objectives import IWAE
from vaelid.optimizers import Cosine
from vaelid.priors import MixturePrior
from vaelid.recipe import ModelSettings, Part, Recipe, read_recipe, recipe_names
from vaelid.supports import BINARY, BYTES, REAL, UNIT, levels
from vaelid.usercode import sha256

DIGITS = levels(17)
RECIPE = Recipe(DataSettings("digits"), ModelSettings(3), likelihood=Part("categorical"), encoder=Part("mlp", {"hidden": (7,)}))


@pytest.fixture(scope="module")
def digits() -> Data:
    return load_data(DataSettings("digits"))


@pytest.mark.parametrize(
    ("support", "name"),
    [
        *[(BINARY, "bernoulli"), (DIGITS, "categorical"), (levels(32), "categorical")],
        *[(levels(33), "discretized-gaussian"), (BYTES, "discretized-gaussian"), (UNIT, "gaussian"), (REAL, "gaussian")],
    ],
)
def test_the_likelihood_follows_from_the_support(support: object, name: str) -> None:
    assert likelihood_for(support) == name
    model = build_model(replace(RECIPE, likelihood=Part(name)), (1, 2, 2), support, Path())
    assert model.likelihood.support.contains(support)


def test_auto_is_settled_and_starts_from_the_data(digits: Data) -> None:
    auto = replace(RECIPE, likelihood=Part("auto"))
    assert settle(auto, digits, Path()).likelihood == Part("categorical", {"start": "data"})
    kept = replace(RECIPE, likelihood=Part("auto", {"start": "network"}))
    assert settle(kept, digits, Path()).likelihood == Part("categorical", {"start": "network"})
    assert auto.resolve(Path()).likelihood == Part("auto")
    assert settle(RECIPE, digits, Path()).likelihood == Part("categorical", {"start": "network"})  # said, so not changed


def test_networks_have_the_sizes_that_the_parts_ask_for(digits: Data) -> None:
    model = build_model(settle(RECIPE, digits, Path()), digits.shape, digits.support, Path())
    assert model.posterior.network.extra_repr() == "64-7-6"
    assert model.likelihood.network.extra_repr() == f"3-512-512-{64 * 17}"
    assert model.prior().event_shape == (3,)
    per_pixel = replace(RECIPE, likelihood=Part("gaussian", {"scale": "per-pixel"}))
    assert build_model(per_pixel, (1, 2, 2), REAL, Path()).likelihood.mean_and_scale.network.extra_repr() == "3-512-512-8"


@pytest.mark.parametrize("name", recipe_names())
def test_built_in_recipes_build(name: str) -> None:
    recipe = read_recipe(name)
    support = {"bernoulli": BINARY, "gaussian": REAL, "auto": BINARY}.get(recipe.likelihood.name, DIGITS)
    if recipe.likelihood.name == "auto":
        recipe = replace(recipe, likelihood=Part(likelihood_for(support)))
    model = build_model(recipe, (1, 4, 4), support, Path())
    assert model.encode(torch.zeros(2, 1, 4, 4)).event_shape == (recipe.model.latent,)
    assert model.elbo(torch.zeros(2, 1, 4, 4)).isfinite().all()


def test_objective_optimizer_and_schedule() -> None:
    recipe = replace(
        RECIPE,
        objective=Part("iwae", {"samples": 7}),
        optimizer=Part("sgd", {"lr": 0.5, "momentum": 0.9}),
        schedule=Part("cosine", {"warmup_steps": 3}),
    )
    assert build_objective(recipe, Path()) == IWAE(7)
    optimizer = build_optimizer(recipe, [torch.nn.Parameter(torch.zeros(2))], Path())
    assert (optimizer.defaults["lr"], optimizer.defaults["momentum"]) == (0.5, 0.9)
    schedule = build_schedule(recipe, Path())
    assert isinstance(schedule, Cosine)
    assert schedule.warmup_steps == 3


def test_inputs_are_described_in_plain_values(digits: Data) -> None:
    described = describe_inputs(digits)
    assert described == {"shape": [1, 8, 8], "support": "levels(17)"}
    assert read_inputs(described) == ((1, 8, 8), DIGITS)


@pytest.mark.parametrize("name", ["categorical", "discretized-gaussian"])
def test_levels_need_integer_data(name: str) -> None:
    with pytest.raises(PartError, match=rf"The likelihood '{name}' models gray levels, but the pixels are in \[0, 1\]"):
        build_model(replace(RECIPE, likelihood=Part(name)), (1, 2, 2), UNIT, Path())


def test_parts_that_break_are_named_with_their_reason() -> None:
    with pytest.raises(PartError, match=r"The prior 'mixture' cannot be built with componentz, latent: TypeError: .*componentz"):
        build_model(replace(RECIPE, prior=Part("mixture", {"componentz": 3})), (1, 2, 2), DIGITS, Path())
    with pytest.raises(PartError, match=r"^sigma = 0.001 is not above floor"):
        build_model(replace(RECIPE, likelihood=Part("gaussian", {"sigma": 0.001})), (1, 2, 2), REAL, Path())


def test_a_model_larger_than_memory_is_the_machines_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def large(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 6399999936 bytes")

    monkeypatch.setattr(MixturePrior, "__init__", large)
    with pytest.raises(MachineError, match=r"not enough memory to build the prior 'mixture'\.\nMake the model smaller"):
        build_model(replace(RECIPE, prior=Part("mixture")), (1, 2, 2), DIGITS, Path())


# User code ----------------------------------------------------------------------------------------------------------------

BROKEN = """
class Broken(Prior):
    def __init__(self, latent: int) -> None:
        self.nowhere.item
    def forward(self):
        pass

class Unfinished(Prior):
    pass

class Sizeless(Likelihood):
    def forward(self, z):
        pass
"""


@pytest.fixture
def own(tmp_path: Path) -> Recipe:
    (tmp_path / "own.py").write_text(SOURCE + BROKEN)
    return replace(RECIPE, code={"own.py": sha256(tmp_path / "own.py")}, encoder=Part("mlp", {"hidden": (7,)}))


def test_users_parts_work_as_built_in_ones_do(own: Recipe, tmp_path: Path) -> None:
    parts = {
        kind: Part(f"own.py:My{name}")
        for kind, name in (("encoder", "Network"), ("decoder", "Network"), ("likelihood", "Likelihood"))
    }
    recipe = replace(own, **parts, prior=Part("own.py:MyPrior", {"width": 3.0})).resolve(tmp_path)
    model = build_model(recipe, (1, 2, 2), levels(5), tmp_path)
    assert model.prior().base_dist.scale.tolist() == [3, 3, 3]
    assert model(torch.zeros(4, 1, 2, 2), samples=2).log_weight.shape == (2, 4)
    assert repr(model).splitlines()[1] == "  posterior: GaussianPosterior, 72 parameters, MyNetwork()"


@pytest.mark.parametrize(
    ("kind", "name", "reason"),
    [
        ("prior", "Broken", r"The prior 'own.py:Broken' cannot be built with latent: AttributeError: .*nowhere"),
        ("prior", "Unfinished", r"TypeError: Can't instantiate abstract class Unfinished .*forward"),
        ("likelihood", "Sizeless", r"Sizeless has no class method network_outputs"),
    ],
)
def test_users_parts_that_break_are_reported(own: Recipe, tmp_path: Path, kind: str, name: str, reason: str) -> None:
    with pytest.raises(PartError, match=reason):
        build_model(replace(own, **{kind: Part(f"own.py:{name}")}), (1, 2, 2), levels(5), tmp_path)
