"""What a study's page says of settings, ranks and looks at the test split, on curves made for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from test_study_report import made
from vaelid.reporting.page.study import StudyFacts, _test_tile, shown_member
from vaelid.reporting.page.study_panels import combinations_table, effect_table, effect_words, ranking_table
from vaelid.sweeps.summary import Summary


def facts(folder: Path, curves: dict[str, list[list[float]]], settings: dict[str, dict[str, Any]] | None = None) -> StudyFacts:
    """A study with these curves, and these settings by combination."""
    study = made(folder, curves)
    ledger = study.ledger
    for member in ledger.members.values():
        member.settings = {**(settings or {}).get(member.combination, {}), "training.seed": member.seed}
    study.folder.write(ledger)
    return StudyFacts(Summary(folder), None)


RATES = {name: {"optimizer.lr": lr} for name, lr in (("small", 0.1), ("middle", 0.2), ("large", 0.3))}


def test_the_farthest_value_is_named_and_whether_that_is_more_than_scatter(tmp_path: Path) -> None:
    study = facts(tmp_path / "far", {"small": [[90.0], [91.0]], "middle": [[92.0], [93.1]], "large": [[98.0], [99.0]]}, RATES)
    [effect] = study.effects
    assert effect_words(study, effect) == "lr: best at 0.1; 0.3 lies 8.00 ± 0.00 nats above it; it matters."
    rows = {row[0]: row for row in effect_table(study, effect).rows}
    assert rows["0.1"][-2:] == ("best", "")
    assert rows["0.2"][-2:] == ("+2.050", "0.635"), "12.706 · sd/√2, of two pairs whose differences are 2 and 2.1"
    close = {"small": [[90.0], [91.0]], "middle": [[91.0], [90.5]], "large": [[90.0], [93.0]]}
    scattered = facts(tmp_path / "close", close, RATES)
    [effect] = scattered.effects
    assert effect_words(scattered, effect) == "lr: best at 0.1; 0.3 lies 1.00 ± 12.71 nats above it; within what seeds scatter."


def test_combinations_are_ranked_from_the_lowest(tmp_path: Path) -> None:
    study = facts(tmp_path, {"b": [[92.0]], "none": [[]], "a": [[90.0]], "c": [[95.0]]})
    assert [row[0].removesuffix(" (chosen)") for row in combinations_table(study).rows] == ["a", "b", "c", "none"]
    assert study.best == 90.0


def test_trials_are_ranked_from_the_lowest_those_without_an_end_last(tmp_path: Path) -> None:
    study = facts(tmp_path, {"b": [[92.0]], "none": [[]], "a": [[90.0]], "cut": [[80.0]], "nothing": [[]]})
    study.ledger.search["space"] = {}
    for name in ("cut", "nothing"):
        study.ledger.members[f"{name},seed=0"].status = "pruned"
    rows = [row[0].removesuffix(" (chosen)").removesuffix(",seed=0") for row in ranking_table(study).rows]
    assert rows == ["a", "b", "none", "cut", "nothing"]


def test_without_a_choice_the_member_with_the_lowest_bound_is_shown(tmp_path: Path) -> None:
    study = facts(tmp_path, {"b": [[92.0]], "a": [[90.0]], "c": [[95.0]]})
    study.ledger.selection.clear()
    study.summary.folder.write(study.ledger)
    assert shown_member(Summary(tmp_path)) == "a,seed=0"


def test_the_number_on_top_is_of_the_chosen_members_alone(tmp_path: Path) -> None:
    study = facts(tmp_path, {"b": [[92.0]], "a": [[90.0]]})

    def look(name: str, nll: float) -> dict[str, Any]:
        return {"member": f"{name},seed=0", "combination": name, "samples": 10, "nll": {"name": "IW bound", "value": nll}}

    study.ledger.test += [look("a", 88.0), look("b", 70.0)]
    assert study.chosen == "a"
    assert _test_tile(study) == [("nll, test", "88.00", "IW bound")]


@pytest.mark.parametrize("kept", [[[90.0]], [[]]])
def test_a_study_of_one_member_has_a_best_only_if_it_has_begun(kept: list[list[float]], tmp_path: Path) -> None:
    assert facts(tmp_path, {"a": kept}).best == (90.0 if kept[0] else None)
