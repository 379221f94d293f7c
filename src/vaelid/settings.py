"""What a setting may be: its type and range stand in the type hint, and everything else reads them from there.

A part says ``components: Count = 16``. From that one hint come the check of recipes and ``--set`` options, the ranges that
``vaelid parts`` prints and the ones in the documentation.
"""

from __future__ import annotations

import difflib
import inspect
import math
import tomllib
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from vaelid.errors import SettingError, UserError

#: Larger whole numbers fit neither into a TOML file that others can read nor into a tensor.
LARGEST_INT = 2**63 - 1


class CommandText(str):
    """Text typed at a command line, where everything is text: it is read as the type that the option has.

    A string from Python or a TOML file is a string, and fits no other type.
    """

    __slots__ = ()


@dataclass(frozen=True)
class Unset:
    """What happens where an optional setting is not set, in words."""

    meaning: str


@dataclass(frozen=True)
class Range:
    """The interval of allowed finite numbers; ``open_low`` leaves out the lower end itself, ``open_high`` the upper."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below and math.isfinite(value)

    def __str__(self) -> str:
        lower = "" if self.low == -math.inf else f"{'>' if self.open_low else '≥'} {self.low:g}"
        upper = "" if self.high == math.inf else f"{'<' if self.open_high else '≤'} {self.high:g}"
        return " and ".join(filter(None, (lower, upper))) or "any number"


Count = Annotated[int, Range(1)]
NonNegativeInt = Annotated[int, Range(0)]
Positive = Annotated[float, Range(0, open_low=True)]
NonNegative = Annotated[float, Range(0)]
Fraction = Annotated[float, Range(0, 1, open_high=True)]  # zero allowed, one not


@dataclass(frozen=True)
class Option:
    """One setting as its hint declares it: name, type, allowed range or choices, default."""

    name: str
    type: Any
    range: Range | None
    default: Any
    unset: str = ""  # what happens where it is not set, if that is an option

    @property
    def required(self) -> bool:
        """Whether a value must be given: there is no default."""
        return self.default is inspect.Parameter.empty

    @property
    def choices(self) -> tuple[Any, ...]:
        """The allowed values where the hint is a ``Literal``, else nothing."""
        return get_args(self.type) if get_origin(self.type) is Literal else ()

    @property
    def allowed(self) -> str:
        """The allowed values in words, for help texts and messages."""
        if self.choices:
            return " | ".join(str(choice) for choice in self.choices)
        if get_origin(self.type) is tuple:
            kind, allowed = _split_hint(get_args(self.type)[0])
            return f"list of {kind.__name__}{f', each {allowed}' if allowed else ''}"
        kind = "any value" if self.type is Any else getattr(self.type, "__name__", str(self.type))
        return f"{kind} {self.range}" if self.range else str(kind)


def options_of(target: Callable[..., Any], leave_out: Iterable[str] = ()) -> dict[str, Option]:
    """The settings that a class or function takes, by name, without those in ``leave_out``.

    Raises:
        SettingError: for type hints that name something unknown.
    """
    try:
        hints = get_type_hints(target.__init__ if inspect.isclass(target) else target, include_extras=True)
    except NameError as error:
        raise SettingError(
            f"The type hints of {target.__name__} cannot be read: {error}.", "Import their names where the program runs, too."
        ) from error
    skip = {"self", *leave_out}
    options = {}
    for name, parameter in inspect.signature(target).parameters.items():
        if name in skip or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        hint, unset = _without_unset(hints.get(name, Any))
        options[name] = Option(name, *_split_hint(hint), parameter.default, unset)
    return options


def check(where: str, options: Mapping[str, Option], given: Mapping[str, Any]) -> dict[str, Any]:
    """``given`` with every value converted to its option's type and checked against its range.

    Raises:
        SettingError: for an unknown name (with the nearest known one), a wrong type, or a value out of range.
    """
    checked = {}
    for name, value in given.items():
        if name not in options:
            raise unknown(f"setting of {where}", name, options)
        checked[name] = convert(f"{where}.{name}", options[name], value)
    return checked


def convert(where: str, option: Option, value: Any) -> Any:
    """``value`` as the option's type; text from a command line is read as TOML first."""
    typed = isinstance(value, CommandText)
    if typed:
        value = str(value) if _inner(option.type) is str else _read_text(option.type, str(value))
    if any(isinstance(v, int) and abs(v) > LARGEST_INT for v in (value if isinstance(value, list | tuple) else [value])):
        raise SettingError(f"{where} must be at most 2^63 − 1, a whole number of 64 bits; it is {value!r}.")
    if _is_optional(option.type) and (value is None or (typed and value == "")):
        return None
    converted = _as_type(option.type, value)
    if converted is _UNFIT:
        remedy = "Give it without quotes." if isinstance(value, str) and not typed else ""
        raise SettingError(f"{where} must be {option.allowed}; it is {value!r}.", remedy)
    if option.range is not None and converted not in option.range:
        allowed = f"{option.range}" if math.isfinite(converted) else f"a finite number, {option.range}"
        raise SettingError(f"{where} must be {allowed}; it is {value!r}.")
    return converted


def at_least_one(value: int, name: str) -> int:
    """``value``, if it is one or more.

    Raises:
        UserError: names it.
    """
    if value < 1:
        raise UserError(f"{name} must be at least 1; it is {value}.")
    return value


def unknown(kind: str, name: str, known: Iterable[str], listing: str = "") -> SettingError:
    """The error for a name that is in no table, with the nearest known names.

    Args:
        listing: the command that lists all of them; it takes the place of the list where that is long
    """
    known = sorted(known)
    last = name.rpartition(".")[2]
    namesakes = [other for other in known if "." in other and other.rpartition(".")[2] == last]  # in another section
    close = [*namesakes, *(c for c in difflib.get_close_matches(name, known, n=3, cutoff=0.5) if c not in namesakes)][:3]
    hint = f"Did you mean {' or '.join(repr(c) for c in close)}? " if close else ""
    told = f"Known: {', '.join(known) or 'none'}."
    if listing and len(known) > _MOST_NAMED:
        told = f"`{listing}` lists all {len(known)}."
    return SettingError(f"There is no {kind} named {name!r}.", f"{hint}{told}")


_UNFIT = object()
#: More names than this are not told one by one, if a command lists them.
_MOST_NAMED = 12


def _without_unset(hint: Any) -> tuple[Any, str]:
    """``Annotated[Count | None, Unset("all")]`` -> ``(Count | None, "all")``; other hints stay."""
    notes = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    meaning = next((note.meaning for note in notes if isinstance(note, Unset)), "")
    return (get_args(hint)[0], meaning) if meaning else (hint, "")


def _split_hint(hint: Any) -> tuple[Any, Range | None]:
    """``Annotated[int, Range(1)]`` -> ``(int, Range(1))``; an optional one keeps its range."""
    if get_origin(hint) is Annotated:
        kind, *notes = get_args(hint)
        return kind, next((note for note in notes if isinstance(note, Range)), None)
    if _is_optional(hint):
        inner, allowed = _split_hint(_inner(hint))
        return inner | None, allowed
    return hint, None


def _is_optional(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType) and type(None) in get_args(kind)


def _inner(kind: Any) -> Any:
    """``int | None`` -> ``int``; other types stay."""
    return next(a for a in get_args(kind) if a is not type(None)) if _is_optional(kind) else kind


def _read_text(kind: Any, text: str) -> Any:
    if get_origin(kind) is tuple and not text.startswith("["):
        text = f"[{text}]"  # --hidden 512,512
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _as_type(kind: Any, value: Any) -> Any:
    if kind is Any:
        return value
    if _is_optional(kind):
        return _as_type(_inner(kind), value)
    if get_origin(kind) is Literal:
        return value if value in get_args(kind) else _UNFIT
    if get_origin(kind) is tuple:
        values = list(value) if isinstance(value, list | tuple) else [value]
        inner, allowed = _split_hint(get_args(kind)[0])
        items = [_as_type(inner, item) for item in values]
        fit = all(item is not _UNFIT and (allowed is None or item in allowed) for item in items)
        return tuple(items) if fit else _UNFIT
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) and kind is not bool:
        return _UNFIT
    try:
        return value if isinstance(value, kind) else _UNFIT
    except TypeError:  # a hint that Python cannot test, such as list[int]: the part's constructor has the word
        return value
