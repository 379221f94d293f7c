"""Settings from type hints: conversion, ranges and hints."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union

import pytest
from hypothesis import given, settings, strategies as st

from vaelid.errors import SettingError
from vaelid.settings import (
    CommandText,
    Count,
    Fraction,
    NonNegative,
    Option,
    Positive,
    Range,
    Unset,
    check,
    convert,
    options_of,
    unknown,
)


class Part:
    """One option of every kind."""

    def __init__(
        self,
        network: object,
        count: Count,
        size: Positive = 1.0,
        share: Fraction = 0.5,
        word: Literal["a", "b"] = "a",
        text: str = "",
        flag: bool = False,
        widths: tuple[Count, ...] = (4, 5),
        maybe: Count | None = None,
        name: str | None = None,
        anything: Any = None,
        old: Union[int, None] = 3,  # noqa: UP007 - users write it so
        numbers: list[int] = [1],  # noqa: B006
        *rest: int,
        **more: int,
    ) -> None:
        self.given = network, count, size, share, word, text, flag, widths, maybe, name, anything, old, numbers, rest, more


OPTIONS = options_of(Part, leave_out=("network",))


def test_options_are_read_from_the_hints() -> None:
    assert list(OPTIONS) == [
        "count",
        "size",
        "share",
        "word",
        "text",
        "flag",
        "widths",
        "maybe",
        "name",
        "anything",
        "old",
        "numbers",
    ]
    assert OPTIONS["count"] == Option("count", int, Range(1), OPTIONS["count"].default)
    assert OPTIONS["count"].required
    assert not OPTIONS["size"].required
    assert OPTIONS["maybe"].range == Range(1)
    assert OPTIONS["word"].choices == ("a", "b")
    assert OPTIONS["text"].choices == ()
    allowed = {name: option.allowed for name, option in OPTIONS.items()}
    assert allowed["count"] == "int ≥ 1"
    assert allowed["size"] == "float > 0"
    assert allowed["share"] == "float ≥ 0 and < 1"
    assert allowed["word"] == "a | b"
    assert allowed["widths"] == "list of int, each ≥ 1"
    assert allowed["maybe"] == "int | None ≥ 1"
    assert allowed["anything"] == "any value"
    assert str(Range()) == "any number"


def test_functions_dataclasses_and_classes_without_options_are_read() -> None:
    @dataclass
    class Settings:
        beta: NonNegative = 1.0

    def function(lr: Positive, untyped=3) -> float:  # type: ignore[no-untyped-def]
        return lr * untyped

    class Plain:
        pass

    assert options_of(Settings)["beta"] == Option("beta", float, Range(0), 1.0)
    assert options_of(function)["lr"].range == Range(0, open_low=True)
    assert options_of(function)["untyped"].type is Any
    assert options_of(Plain) == {}


def test_unreadable_hints_are_reported() -> None:
    def function(x: NowhereDefined) -> None:  # noqa: F821
        pass

    with pytest.raises(SettingError, match=r"hints of function cannot be read: .*NowhereDefined"):
        options_of(function)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("count", 3, 3),
        ("count", 3.0, 3),
        ("count", CommandText("3"), 3),
        ("size", 2, 2.0),
        ("size", CommandText("1e-3"), 1e-3),
        ("word", CommandText("b"), "b"),
        ("text", CommandText("3"), "3"),
        ("flag", CommandText("true"), True),
        ("widths", CommandText("512,256"), (512, 256)),
        ("widths", CommandText("[512, 256]"), (512, 256)),
        ("widths", CommandText("512"), (512,)),
        ("widths", 512, (512,)),
        ("widths", [1, 2.0], (1, 2)),
        ("widths", [], ()),
        ("maybe", CommandText(""), None),
        ("maybe", None, None),
        ("maybe", CommandText("3"), 3),
        ("name", CommandText("3"), "3"),
        ("name", CommandText(""), None),
        ("anything", CommandText("3"), 3),
        ("anything", CommandText("word"), "word"),
        ("old", CommandText("4"), 4),
        ("numbers", [1, 2], [1, 2]),
    ],
)
def test_values_become_what_the_hint_says(name: str, value: object, expected: object) -> None:
    converted = convert(f"part.{name}", OPTIONS[name], value)
    assert converted == expected
    assert type(converted) is type(expected)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("count", 0, "part.count must be ≥ 1; it is 0"),
        ("count", 1.5, "part.count must be int ≥ 1; it is 1.5"),
        ("count", True, "part.count must be int ≥ 1; it is True"),
        ("count", CommandText("many"), "part.count must be int ≥ 1; it is 'many'"),
        ("count", None, "part.count must be int ≥ 1; it is None"),
        ("size", 0, "part.size must be > 0; it is 0"),
        ("size", math.nan, "part.size must be a finite number, > 0; it is nan"),
        ("size", math.inf, "part.size must be a finite number, > 0; it is inf"),
        ("size", 10**400, "part.size must be at most 2"),
        (
            "count",
            CommandText(2**63),
            r"part.count must be at most 2\^63 − 1, a whole number of 64 bits; it is 9223372036854775808\.",
        ),
        ("widths", [8, 10**400], "part.widths must be at most 2"),
        ("share", 1.0, "part.share must be ≥ 0 and < 1; it is 1.0"),
        ("word", "c", "part.word must be a | b; it is 'c'"),
        ("text", 3, "part.text must be str; it is 3"),
        ("flag", 1, "part.flag must be bool; it is 1"),
        ("widths", CommandText("512,0"), r"part.widths must be list of int, each ≥ 1; it is \[512, 0\]"),
        ("widths", CommandText("a,b"), "part.widths must be list of int, each ≥ 1; it is"),
        ("maybe", 0, "part.maybe must be ≥ 1; it is 0"),
    ],
)
def test_values_that_do_not_fit_are_refused(name: str, value: object, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        convert(f"part.{name}", OPTIONS[name], value)


@pytest.mark.parametrize("name", ["count", "size", "flag", "widths", "maybe", "old"])
def test_a_string_that_nobody_typed_is_no_number(name: str) -> None:
    with pytest.raises(SettingError, match=rf"part.{name} must be .*; it is '3'\.\nGive it without quotes\."):
        convert(f"part.{name}", OPTIONS[name], "3")
    assert convert("part.anything", OPTIONS["anything"], "3") == "3"


def test_unknown_names_get_the_nearest_known_one() -> None:
    with pytest.raises(SettingError, match=r"no setting of prior named 'cont'\.\nDid you mean 'count'\? Known: anything, count"):
        check("prior", OPTIONS, {"size": 1, "cont": 3})
    with pytest.raises(SettingError, match=r"named 'zzzzzzzz'\.\nKnown: none"):
        check("prior", {}, {"zzzzzzzz": 3})
    # A setting that another section has is meant more likely than one that is spelled alike; many are listed by a command.
    many = [f"training.option{i}" for i in range(20)] + ["optimizer.lr"]
    said = str(unknown("setting", "training.lr", many, listing="vaelid train --dry-run"))
    assert "Did you mean 'optimizer.lr'" in said
    assert said.endswith("`vaelid train --dry-run` lists all 21.")
    assert "option7," not in said
    assert check("prior", OPTIONS, {"size": 1, "count": CommandText("2")}) == {"size": 1.0, "count": 2}


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.floats(), st.floats(allow_nan=False), st.floats(allow_nan=False), st.booleans(), st.booleans())
def test_ranges_are_intervals_of_finite_numbers(x: float, low: float, high: float, open_low: bool, open_high: bool) -> None:
    inside = x in Range(low, high, open_low, open_high)
    assert inside == (math.isfinite(x) and low <= x <= high and not (open_low and x == low) and not (open_high and x == high))


def test_other_notes_and_hints_are_left_alone() -> None:
    def function(x: Annotated[int, "a note"] = 1, y: Callable[[int], int] | None = None) -> None:
        pass

    options = options_of(function)
    assert (options["x"].unset, options["y"].unset) == ("", "")
    assert options["x"] == Option("x", int, None, 1)
    assert convert("y", options["y"], abs) is abs


def test_what_an_unset_option_means_is_read_beside_its_range() -> None:
    def function(limit: Annotated[Count | None, Unset("all of them")] = None) -> None:
        pass

    assert options_of(function)["limit"] == Option("limit", int | None, Range(1), None, "all of them")
