"""Which pixels fit which support, and what a refusal says."""

from __future__ import annotations

import math

import pytest
import torch

from vaelid.errors import SupportError
from vaelid.supports import BINARY, BYTES, REAL, UNIT, Support, levels, parse_support

ALL = [BINARY, levels(3), levels(17), BYTES, UNIT, REAL]


@pytest.mark.parametrize("n", [2, 3, 17, 100, 255, 256])
def test_the_grid_is_inside_however_it_was_rounded(n: int) -> None:
    k = torch.arange(n)
    for x in (k.float() / (n - 1), k.double() / (n - 1), k.float() * (1 / (n - 1)), torch.linspace(0, 1, n)):
        assert not levels(n).outside(x).any()


@pytest.mark.parametrize("n", [2, 17, 256])
def test_values_off_the_grid_are_outside(n: int) -> None:
    x = torch.tensor([0.01 / (n - 1), 0.5 / (n - 1), 1 - 0.01 / (n - 1), -1e-3, 1.001, math.nan, math.inf, -math.inf])
    assert levels(n).outside(x).all()
    assert not levels(n).outside(torch.tensor([0.0, 1.0])).any()


def test_intervals() -> None:
    x = torch.tensor([0.0, 0.3, 1.0, -1e-6, 1.000001, 1e30, math.nan, math.inf])
    assert UNIT.outside(x).tolist() == [False, False, False, True, True, True, True, True]
    assert REAL.outside(x).tolist() == [False] * 6 + [True, True]


def test_bytes_that_were_not_scaled_are_outside() -> None:
    assert BYTES.outside(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [False, True]


@pytest.mark.parametrize("outer", ALL, ids=str)
@pytest.mark.parametrize("inner", ALL, ids=str)
def test_containment_is_what_values_say(outer: Support, inner: Support) -> None:
    """``contains`` agrees with a test of the inner one's own values (of those that tell intervals apart)."""
    own = torch.tensor([0.0, 1.0]) if inner.levels else torch.tensor([0.0, 1.0, 0.123456, *([-3.0] if inner == REAL else [])])
    if inner.levels:
        own = torch.arange(inner.levels) / (inner.levels - 1)
    assert outer.contains(inner) == (not outer.outside(own).any())


def test_a_refusal_names_value_index_share_and_remedy() -> None:
    x = torch.zeros(2, 1, 3, 2)
    x[1, 0, 2, 0] = 0.1
    with pytest.raises(SupportError, match=r"binary \(0 or 1\); the value at index \(1, 0, 2, 0\) is 0.1 \(8.3% of") as caught:
        BINARY.check(x, "Do this.")
    assert caught.value.remedy == "Do this."
    BYTES.check(torch.zeros(2))
    with pytest.raises(SupportError, match=r"in \[0, 1\]; the value at index \(0,\) is 1.0000001"):
        UNIT.check(torch.tensor([1.0000001]))
    with pytest.raises(SupportError, match=r"finite real numbers; .* is nan"):
        REAL.check(torch.tensor([math.nan]))


@pytest.mark.parametrize("support", ALL, ids=str)
def test_names_are_read_back(support: Support) -> None:
    assert parse_support(support.name) == support
    assert support.discrete == (support.levels is not None)


def test_words() -> None:
    assert str(levels(17)) == "one of 17 levels 0, 1/16, …, 1"
    assert (BINARY.name, BYTES.name, levels(3).name) == ("binary", "bytes", "levels(3)")
