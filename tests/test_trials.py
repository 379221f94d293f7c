"""What a search proposes on each kind of axis, and what it learns from a value that is no number."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from vaelid.sweeps.space import space_of
from vaelid.sweeps.trials import Trials

pytest.importorskip("optuna", reason="needs optuna (in the extra search)")


def proposed(file: Path, axis: str, count: int = 40) -> list[Any]:
    trials = Trials(file, space_of({"latent": axis}), "none", 0, 10)
    return [trials.ask({})[1]["latent"] for _ in range(count)]


def test_whole_numbers_are_whole_and_a_logarithmic_axis_prefers_small_ones(tmp_path: Path) -> None:
    evenly, by_ratio = proposed(tmp_path / "int", "int:1:1000"), proposed(tmp_path / "log-int", "log-int:1:1000")
    assert {type(value) for value in evenly + by_ratio} == {int}
    assert sum(value <= 31 for value in evenly) < 10, "3 % of an even axis"
    assert sum(value <= 31 for value in by_ratio) > 10, "half of a logarithmic one"


def test_a_value_that_is_no_number_is_bad_and_never_good(tmp_path: Path) -> None:
    trials = Trials(tmp_path / "j", space_of({"lr": "log:1e-4:1e-1"}), "none", 0, 10)
    for value in (math.nan, math.inf, -math.inf, 90.0):
        number, _ = trials.ask({})
        trials.tell(number, value)
    states = [trial.state.name for trial in trials._study.get_trials()]
    assert states == ["PRUNED"] * 3 + ["COMPLETE"]
    assert trials._study.best_value == 90.0
