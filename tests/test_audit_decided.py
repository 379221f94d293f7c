"""An audit decides about every built-in part, and about the model of every built-in recipe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from correct_parts import CORRECT
from vaelid.auditing.audit import audit
from vaelid.build import build_model, likelihood_for
from vaelid.parts import KINDS
from vaelid.recipe import AUTO, Part, read_recipe, recipe_names
from vaelid.supports import BINARY, BYTES, REAL, Support, levels

_MNIST = (1, 28, 28)
#: Shape and pixels of what each recipe is for; of your own images, all kinds.
INPUTS = [
    ("assignment", _MNIST, BINARY),
    ("binarized-mnist", _MNIST, BINARY),
    ("digits", (1, 8, 8), levels(17)),
    ("images", _MNIST, REAL),
    ("images", _MNIST, BYTES),
    ("images", (3, 16, 16), levels(16)),
    ("mnist", _MNIST, BINARY),
    ("mnist-8bit", (1, 14, 14), BYTES),  # a quarter of the pixels: 256 numbers for each make this the slowest by far
    ("mnist-fast", _MNIST, BINARY),
]


def test_every_built_in_part_is_audited_among_the_correct_ones() -> None:
    audited = {made for make in CORRECT.values() if isinstance(made := make(), str)}
    assert audited == {f"{kind}:{name}" for kind in ("prior", "posterior", "likelihood") for name in KINDS[kind].table}


@pytest.mark.parametrize(("name", "shape", "support"), INPUTS, ids=[f"{name}, {support}" for name, _, support in INPUTS])
def test_every_recipe_is_decided(name: str, shape: tuple[int, ...], support: Support) -> None:
    """With few draws: more only make it easier. Narrow networks, which change what is computed and not what is asked."""
    recipe = read_recipe(name)
    if recipe.likelihood.name == AUTO:
        recipe = replace(recipe, likelihood=Part(likelihood_for(support), recipe.likelihood.options))
    narrow = {kind: replace(getattr(recipe, kind), options={"hidden": [8]}) for kind in ("encoder", "decoder")}
    torch.manual_seed(0)
    model = build_model(replace(recipe, **narrow).resolve(Path()), shape, support, Path()).eval()
    report = audit(model, quick=True, samples=2000)
    assert report.verdict == "pass", str(report)
    assert {"prior", "posterior", "likelihood", "model"} <= {f.part for f in report.findings}


def test_no_recipe_is_left_out() -> None:
    assert {name for name, _, _ in INPUTS} == set(recipe_names())
