"""What is to be trained: data, recipe and settings, checked and with every default written out, before anything is written."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vaelid.build import build_model, settle
from vaelid.data import DATASETS, Data, load_data
from vaelid.errors import PartError
from vaelid.folder import RunFolder
from vaelid.parts import KINDS
from vaelid.recipe import Recipe, expand, from_dict, read_recipe, recipe_names
from vaelid.training.surroundings import own_randomness
from vaelid.usercode import trust

DEFAULT_DATA = "digits"
OWN_DATA_RECIPE = "images"


@dataclass(frozen=True)
class Request:
    """A training that was asked for: resolved recipe, its data, where user code lies, and the folder."""

    recipe: Recipe
    data: Data
    code_from: Path
    folder: RunFolder


def request(data: str | Path | None, recipe: str | Recipe | None, out: Path | str | None, settings: Mapping[str, Any]) -> Request:
    """What ``train`` would do, without doing it: everything checked and every default written out."""
    base = base_recipe(data, recipe).override(expand({name: named(value) for name, value in settings.items()}))
    base, code_from = base.adopt_code()
    for digest in base.code.values():
        trust(digest)  # naming a file is asking to run it
    loaded = load_data(base.data)
    resolved = from_dict(settle(base, loaded, code_from).to_dict())
    with own_randomness(0):
        build_model(resolved, loaded.shape, loaded.support, code_from)  # and forget: what cannot be built makes no folder
    name = loaded.name if base.data.name in DATASETS else Path(base.data.name).stem
    path = Path(out) if out is not None else Path("runs") / f"{name}-{resolved.digest()}"
    return Request(resolved, loaded, code_from, RunFolder(path))


def base_recipe(data: str | Path | None, recipe: str | Recipe | None) -> Recipe:
    """The recipe to start from: the one asked for, else the one named like the data, else the one for one's own images."""
    source = None if data is None else _source(data)
    if isinstance(recipe, Recipe):
        base = recipe
    elif recipe is not None:
        base = read_recipe(recipe)
    else:
        name = source or DEFAULT_DATA
        base = read_recipe(name if name in recipe_names() else OWN_DATA_RECIPE)
    return base if source is None else base.override({"data.name": source})


def _source(data: str | Path) -> str:
    """A data set's name as it is; a path made absolute, so that the run finds its images from anywhere."""
    path = Path(data).expanduser()
    return str(path.resolve()) if str(data) not in DATASETS and path.exists() else str(data)


def named(value: Any) -> Any:
    """A class becomes its name: that of its table, or ``file.py:Class`` for a user's own."""
    if not inspect.isclass(value):
        return value
    for kind in KINDS.values():
        for name, part in kind.table.items():
            if part is value:
                return name
    try:
        return f"{inspect.getsourcefile(value)}:{value.__qualname__}"
    except (TypeError, OSError) as error:
        raise PartError(
            f"The source of the class {value.__qualname__} cannot be found.", "Put it into a file, which the run keeps a copy of."
        ) from error
