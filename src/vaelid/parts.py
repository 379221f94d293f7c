"""All tables of parts under each other, and how a name becomes a class.

Adding a part is one class and one line in its own file's table; the command line, the documentation and the contract tests read
the tables from here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vaelid.errors import PartError
from vaelid.likelihoods import LIKELIHOODS, Likelihood
from vaelid.networks import NETWORKS, Network
from vaelid.objectives import OBJECTIVES, Objective
from vaelid.optimizers import OPTIMIZERS, SCHEDULES, Schedule
from vaelid.posteriors import POSTERIORS, Posterior
from vaelid.priors import PRIORS, Prior
from vaelid.settings import Option, options_of, unknown
from vaelid.usercode import is_code, load_class, split_name


@dataclass(frozen=True)
class Kind:
    """One kind of part: its table, the base class of users' own ones, and the arguments that the builder passes."""

    table: Mapping[str, Callable[..., Any]]
    base: type | None
    builder_passes: tuple[str, ...]


KINDS: dict[str, Kind] = {
    "posterior": Kind(POSTERIORS, Posterior, ("network", "latent")),
    "likelihood": Kind(LIKELIHOODS, Likelihood, ("network", "shape", "levels")),
    "prior": Kind(PRIORS, Prior, ("latent",)),
    "encoder": Kind(NETWORKS, Network, ("inputs", "outputs")),
    "decoder": Kind(NETWORKS, Network, ("inputs", "outputs")),
    "objective": Kind(OBJECTIVES, Objective, ()),
    "optimizer": Kind(OPTIMIZERS, None, ("parameters",)),
    "schedule": Kind(SCHEDULES, Schedule, ()),
}


def find(kind: str, name: str, code: Mapping[str, str], folder: Path) -> Callable[..., Any]:
    """The class (or function) with this name: from the table, or from the user's file ``folder/file.py``.

    Args:
        code: SHA-256 of each file of code that may run, by file name

    Raises:
        SettingError: for a name that is in no table (with the nearest known ones).
        PartError: for a file whose class breaks the contract of its kind.
    """
    known = KINDS[kind]
    if not is_code(name):
        if name not in known.table:
            raise unknown(kind, name, known.table)
        return known.table[name]
    if known.base is None:
        raise PartError(
            f"{name} cannot be the {kind}: that has to be a built-in one.", f"Known: {', '.join(sorted(known.table))}."
        )
    file, class_name = split_name(name)
    if file.name not in code:
        raise PartError(
            f"The recipe names {name} as its {kind}, but has no SHA-256 of {file.name} under [code].",
            "Restore the recipe.toml that training wrote: it has one.",
        )
    found = load_class(folder / file, class_name, code[file.name])
    if not issubclass(found, known.base):
        base = f"vaelid.{known.base.__name__}"
        raise PartError(
            f"{name} cannot be the {kind}: {class_name} is not a subclass of {base}.", f"Write class {class_name}({base})."
        )
    return found


def part_options(kind: str, part: Callable[..., Any]) -> dict[str, Option]:
    """The settings of a part: what its constructor takes besides what the builder passes."""
    return options_of(part, leave_out=KINDS[kind].builder_passes)
