"""What a study's page says of settings, ranks and looks at the test split, on curves made for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from test_study_report import made
from vaelid.progress import Silent
from vaelid.reporting.page.study import StudyFacts, _test_tile, shown_member
from vaelid.reporting.page.study_panels import (
    combinations_table,
    curve_panels,
    effect_chart,
    effect_table,
    effect_words,
    ranking_table,
)
from vaelid.reporting.studies import MOST_TRIALS, _problems, drawn_curves, tried
from vaelid.studying import Watch
from vaelid.sweeps.ledger import Member
from vaelid.sweeps.summary import Summary, kept_interval


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


def test_a_chart_says_in_words_where_the_curves_end(tmp_path: Path) -> None:
    linear, _ = curve_panels(facts(tmp_path, {"a": [[100.0, 91.5, 90.0], [101.0, 92.0, 91.0]]}))
    assert "a ends at 90.5 nats" in linear.alt


@pytest.mark.parametrize(("values", "scale"), [((1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1, 2), "log"), ((1, 2, 3, 4, 5, 6, 7), "linear")])
def test_many_numbers_of_all_sizes_stand_on_a_logarithmic_axis(values: tuple[float, ...], scale: str, tmp_path: Path) -> None:
    names = [f"lr {value}" for value in values]
    study = facts(
        tmp_path, {name: [[90.0]] for name in names}, {n: {"optimizer.lr": v} for n, v in zip(names, values, strict=True)}
    )
    [axes] = effect_chart(study.effects[0]).axes
    assert axes.get_xscale() == scale


def test_of_a_search_the_trials_that_came_lowest_are_drawn(tmp_path: Path) -> None:
    study = facts(tmp_path, {f"t{i}": [[50.0 + i, 100.0 - i]] for i in range(MOST_TRIALS + 2)} | {"late": [[200.0, 10.0]]})
    study.ledger.search["space"] = {}
    study.summary.folder.write(study.ledger)
    assert list(drawn_curves(Summary(tmp_path))) == ["late", *(f"t{i}" for i in range(MOST_TRIALS - 1))]


def test_what_a_trial_tried_has_three_digits() -> None:
    own = {"optimizer.lr": 0.0012345, "model.latent": 16}
    assert tried(Member("a", "a", 0, own, {}, "", "")) == {"lr": "0.00123", "latent": "16"}


def test_the_weights_that_are_kept_decide_what_a_member_has(tmp_path: Path) -> None:
    study = made(tmp_path, {"a": [[92.0, 90.0, 91.0]], "b": [[92.0, 90.0, 91.0]]})
    study.ledger.members["b,seed=0"].recipe["training.keep"] = "last"
    study.folder.write(study.ledger)
    assert {name: seen.kept for name, seen in Summary(tmp_path).members.items()} == {"a,seed=0": 90.0, "b,seed=0": 91.0}


def test_seeds_that_did_not_finish_are_in_no_interval(tmp_path: Path) -> None:
    summary = made(tmp_path, {"a": [[80.0], [90.0], [92.0]]}, a="diverged")
    interval = kept_interval(summary.combinations["a"])
    assert interval is not None
    assert (interval.mean, interval.seeds) == (91.0, 2)


def test_how_many_members_are_left_is_told(tmp_path: Path) -> None:
    summary = made(tmp_path, {"a": [[90.0], [91.0]], "b": [[]]}, b="waiting")
    assert any("1 of 3 members are not done" in line for line in _problems(summary))


def test_the_bar_of_a_study_moves_by_what_is_new(tmp_path: Path) -> None:
    study = made(tmp_path, {"a": [[90.0, 89.0]], "b": [[95.0]]})
    moved: list[int] = []

    class Counted(Silent):
        def advance(self, count: int, words: str = "") -> None:
            moved.append(count)

    watch = Watch(study.folder, {"a,seed=0": 5, "b,seed=0": 5}, Counted())
    assert (watch.total, watch.done) == (10, 3)
    study.folder.member("a,seed=0").append_metrics({"epoch": 3, "neg_elbo": 88.0})
    watch.look(["a,seed=0"])
    watch.end("a,seed=0")
    watch.end("b,seed=0")
    assert moved == [1, 2, 4], "ten in all, three of them before"


@pytest.mark.parametrize("kept", [[[90.0]], [[]]])
def test_a_study_of_one_member_has_a_best_only_if_it_has_begun(kept: list[list[float]], tmp_path: Path) -> None:
    assert facts(tmp_path, {"a": kept}).best == (90.0 if kept[0] else None)
