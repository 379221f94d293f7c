"""What a search chooses from: ``lr=log:1e-5:1e-1``, ``latent=int:8:64``, ``prior=choice:mixture,standard-normal``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vaelid.errors import UserError
from vaelid.settings import unknown
from vaelid.sweeps.grid import SEED, canonical, parted

_EXAMPLE = "For example: --search lr=log:1e-5:1e-1 --search latent=int:8:64 --search prior=choice:mixture,standard-normal"


@dataclass(frozen=True)
class Span:
    """Numbers from ``low`` to ``high``, both included; whole ones, or evenly on a logarithmic scale, or both."""

    kind: str
    low: float
    high: float

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are meant."""
        return SPANS[self.kind][0]

    @property
    def logarithmic(self) -> bool:
        """Whether equal ratios are equally likely, instead of equal differences."""
        return SPANS[self.kind][1]

    @property
    def ends(self) -> tuple[Any, ...]:
        """The two ends."""
        return (int(self.low), int(self.high)) if self.whole else (self.low, self.high)

    def holds(self, value: Any) -> bool:
        """Whether ``value`` lies in it."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and self.low <= value <= self.high and (not self.whole or value == int(value))

    def __str__(self) -> str:
        return f"{self.kind}:{self.low:.15g}:{self.high:.15g}"


@dataclass(frozen=True)
class Choice:
    """One of a few values, as they are written on the command line."""

    values: tuple[str, ...]

    @property
    def ends(self) -> tuple[Any, ...]:
        """All values: each of them may be one that cannot be."""
        return self.values

    def holds(self, value: Any) -> bool:
        """Whether ``value`` is one of them."""
        return str(value) in self.values

    def __str__(self) -> str:
        return f"{CHOICE}:{(';' if any(',' in value for value in self.values) else ',').join(self.values)}"


Axis = Span | Choice
CHOICE = "choice"
#: Kinds of spans: whole numbers only, and on a logarithmic scale.
SPANS: dict[str, tuple[bool, bool]] = {
    "log": (False, True),
    "float": (False, False),
    "int": (True, False),
    "log-int": (True, True),
}


def parse_space(axes: Sequence[str]) -> dict[str, str]:
    """``["lr=log:1e-5:1e-1"]`` -> ``{"lr": "log:1e-5:1e-1"}``.

    Raises:
        UserError: for an axis without a name or a value, and for one given twice.
    """
    found: dict[str, str] = {}
    for axis in axes:
        name, equals, text = (part.strip() for part in axis.partition("="))
        if not (name and equals and text):
            raise UserError(f"--search takes SETTING=KIND:…; {axis!r} came.", _EXAMPLE)
        if canonical(name) in found:
            raise UserError(f"--search {name} was given twice.", "Give one range or list of values for each setting.")
        found[canonical(name)] = text
    return found


def space_of(search: Mapping[str, str | Sequence[Any]]) -> dict[str, Axis]:
    """The axes of a search by short name of the setting; a sequence of values is a choice.

    >>> {name: str(axis) for name, axis in space_of({"lr": "log:1e-5:0.1", "prior": ["mixture", "standard-normal"]}).items()}
    {'lr': 'log:1e-05:0.1', 'prior': 'choice:mixture,standard-normal'}

    Raises:
        UserError: for an empty space, a kind that is none, bounds that bound nothing, and the seed.
    """
    if not search:
        raise UserError("A search needs a setting to search.", _EXAMPLE)
    for name in search:
        if name in SEED:
            raise UserError("The seed is nothing to search: its best value says nothing.", "Leave it out of the search.")
    return {canonical(name): _axis(canonical(name), wanted) for name, wanted in search.items()}


def corners(space: Mapping[str, Axis]) -> list[dict[str, Any]]:
    """Combinations that hold every end of every axis at least once: what cannot be shows there, before anything is trained.

    >>> corners({"lr": Span("log", 1e-3, 1e-1), "latent": Span("int", 2, 8)})
    [{'lr': 0.001, 'latent': 2}, {'lr': 0.1, 'latent': 2}, {'lr': 0.001, 'latent': 8}]
    """
    first = {name: axis.ends[0] for name, axis in space.items()}
    return [first, *({**first, name: end} for name, axis in space.items() for end in axis.ends[1:])]


def _axis(name: str, wanted: str | Sequence[Any]) -> Axis:
    if not isinstance(wanted, str):
        return _choice(name, [str(value) for value in wanted])
    kind, _, rest = wanted.partition(":")
    if kind == CHOICE:
        return _choice(name, parted(rest))
    if kind not in SPANS:
        raise unknown("kind of search", kind, [CHOICE, *SPANS])
    try:
        low, high = (float(bound) for bound in rest.split(":"))
    except ValueError as error:
        raise UserError(f"The search of {name} takes {kind}:LOW:HIGH; {wanted!r} came.", _EXAMPLE) from error
    span = Span(kind, low, high)
    if not low < high or (span.logarithmic and low <= 0) or (span.whole and (low != int(low) or high != int(high))):
        needs = "LOW < HIGH" + (", both above 0" if span.logarithmic else "") + (", both whole" if span.whole else "")
        raise UserError(f"The search of {name} needs {needs}; {wanted!r} came.", _EXAMPLE)
    return span


def _choice(name: str, values: Sequence[str]) -> Choice:
    if len(set(values)) < 2 or len(set(values)) < len(values) or not all(values):
        raise UserError(f"The search of {name} needs at least two different values; {list(values)} came.", _EXAMPLE)
    return Choice(tuple(values))
