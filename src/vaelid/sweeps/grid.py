"""A grid of settings: which combinations there are, and what they are called."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from vaelid.errors import UserError
from vaelid.recipe import SHORTCUTS, Recipe
from vaelid.settings import CommandText

#: The name of the one combination of a study that varies nothing but the seed.
BASE = "base"
SEED = ("seed", "training.seed")
_ALIASES = {keys[0]: name for name, keys in SHORTCUTS.items() if len(keys) == 1}


def parse_axes(axes: Sequence[str], option: str = "--grid", example: str = "lr=1e-4,1e-3") -> dict[str, list[str]]:
    """``["lr=1e-4,1e-3"]`` -> ``{"lr": ["1e-4", "1e-3"]}``; values that hold commas are parted by semicolons.

    >>> parse_axes(["hidden=300,300;500", "prior=mixture"])
    {'hidden': ['300,300', '500'], 'prior': ['mixture']}

    The values are still to be read as what the settings are.

    Raises:
        UserError: for an axis without a name or values, and for one given twice.
    """
    grid: dict[str, list[str]] = {}
    for axis in axes:
        name, equals, text = axis.partition("=")
        values: list[str] = [CommandText(value) for value in parted(text)]
        if not equals or not name.strip() or not all(values):
            raise UserError(f"{option} takes SETTING=VALUE,VALUE…; {axis!r} came.", f"For example: {option} {example}")
        if canonical(name.strip()) in grid:
            raise UserError(f"{option} {name.strip()} was given twice.", "Give all its values at once, parted by commas.")
        grid[canonical(name.strip())] = values
    return grid


def parted(text: str) -> list[str]:
    """Values parted by commas, or by semicolons where there are any."""
    return [value.strip() for value in text.split(";" if ";" in text else ",")]


def canonical(name: str) -> str:
    """The short name of a setting where it has one: ``optimizer.lr`` -> ``lr``."""
    return _ALIASES.get(name, name)


def combinations(grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination of the values, the last axis fastest; ``[{}]`` for an empty grid.

    Raises:
        UserError: for an axis without values, and for the seed, which has an option of its own.
    """
    for name, values in grid.items():
        if name in SEED:
            raise UserError("The seed is no axis of a grid.", "Say how many seeds: --seeds 3 (seeds=3).")
        if isinstance(values, str) or not values:
            raise UserError(f"The grid's {name} needs a list of values; it is {values!r}.", 'For example: {"lr": [1e-4, 1e-3]}')
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def label(axes: Sequence[str], recipe: Recipe) -> str:
    """The name of a combination, from what its resolved recipe says: ``lr=0.001,prior=mixture``; also a folder's name."""
    sections = recipe.to_dict()
    words = []
    for axis in axes:
        section, _, key = SHORTCUTS.get(axis, (axis,))[0].partition(".")
        words.append(f"{axis}={_text(sections[section].get(key))}")
    return re.sub(r"[^\w.,=+-]", "-", ",".join(words)) or BASE


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    if isinstance(value, list | tuple):
        return "x".join(map(_text, value))
    return str(value)
