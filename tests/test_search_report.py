"""The page of a search: its trials by what they tried, and no comparison that a search does not make."""

from __future__ import annotations

from pathlib import Path

import pytest

from report_helpers import small_study
from test_report_page import assert_well_formed, page
from vaelid.reporting.page import study_panels
from vaelid.reporting.page.study import read_study, study_headline
from vaelid.reporting.studies import MOST_TRIALS, drawn_curves
from vaelid.sweeps.effects import Effect, Level
from vaelid.sweeps.ledger import StudyFolder
from vaelid.sweeps.selection import choose
from vaelid.sweeps.summary import Summary

SEARCH = {
    "space": {"lr": "log:0.001:0.1"},
    "pruner": "median",
    "trials": 6,
    "settings": {},
    "ended": {"finished": 4, "diverged": 2},
}


def small_search(folder: Path) -> StudyFolder:
    """Six trials of a search of learning rates, of which two diverged; the best has lr = 0.01."""
    study = small_study(folder, m2="diverged")
    ledger = study.read()
    for name, member in ledger.members.items():
        member.combination = name
    ledger.grid, ledger.seeds, ledger.search, ledger.test = {}, [], SEARCH, []
    study.write(ledger)
    ledger.selection = choose(ledger, {name: seen.kept for name, seen in Summary(study.path).members.items()})
    study.write(ledger)
    return study


def test_a_search_is_told_as_one(tmp_path: Path) -> None:
    parsed = page(small_search(tmp_path).path)
    assert_well_formed(parsed)
    text = parsed.text
    assert "A search, of 6 trials: 4 finished, 2 diverged" in text
    assert "What is searched: lr: log:0.001:0.1; pruner: median." in text
    assert "seeds each" not in text
    assert "lr=0.01,seed=0 (lr=0.01) has the lowest validation −ELBO" in text
    assert "lr: the best trial has 0.01." in text
    assert "it matters" not in text, "trials differ in all settings at once"
    assert "Left out of the choice" not in text, "how many diverged stands on top"
    assert "of the best 6 trials" in text


def test_trials_are_ranked_with_what_they_tried_and_the_unfinished_come_last(tmp_path: Path) -> None:
    study = read_study(small_search(tmp_path).path)
    table = study_panels.ranking_table(study)
    assert table.columns == ("trial", "lr", "status", ">validation −ELBO")
    assert tuple(table.rows[0][:3]) == ("lr=0.01,seed=0 (chosen)", "0.01", "finished")
    assert [row[2] for row in table.rows] == ["finished"] * 4 + ["diverged"] * 2
    finished = [float(row[3]) for row in table.rows[:4]]
    assert finished == sorted(finished)
    [effect] = study.effects
    found = study_panels.effect_table(study, effect)
    assert [tuple(row[:2]) for row in found.rows] == [("0.001", "2 of 2"), ("0.01", "2 of 2"), ("0.1", "0 of 2")]
    assert "above" not in " ".join(found.columns)
    assert [row[2] for row in found.rows] == ["90.010", "80.010", "–"], "the best of each value"
    names = [words.partition(" (")[0] for words, _ in study_panels.words_of(study)]
    assert names == [row[0].removesuffix(" (chosen)") for row in table.rows]
    [tile] = [tile for tile in study_headline(study) if tile[0] == "trials finished"]
    assert tile[1:] == ("4 of 6", "2 diverged")


def test_the_value_of_the_best_trial_is_told_and_not_the_best_mean(tmp_path: Path) -> None:
    study = read_study(small_search(tmp_path).path)
    levels = (Level(0.1, (70.0, 200.0), 2), Level(0.2, (80.0, 81.0), 2))
    assert study_panels.effect_words(study, Effect("lr", levels)) == "lr: the best trial has 0.1."


def test_only_the_best_trials_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = Summary(small_search(tmp_path).path)
    assert len(drawn_curves(summary)) == 6 <= MOST_TRIALS
    monkeypatch.setattr("vaelid.reporting.studies.MOST_TRIALS", 2)
    assert list(drawn_curves(summary)) == ["lr=0.01,seed=0", "lr=0.01,seed=1"]


def test_the_test_figure_on_top_is_that_of_the_last_look_alone(tmp_path: Path) -> None:
    """Two looks with other K are two bounds of the same weights: they are listed, and never averaged."""
    folder = small_study(tmp_path)
    ledger = folder.read()
    [first] = ledger.test
    seeds = [member.name for member in ledger.combinations[first["combination"]]]
    for samples, values in ((20, (79.0, 81.0)), (50, (77.0, 78.0))):
        nlls = [{**first["nll"], "value": value} for value in values]
        ledger.test += [{**first, "member": name, "samples": samples, "nll": nll} for name, nll in zip(seeds, nlls, strict=True)]
    folder.write(ledger)
    study = read_study(folder.path)
    assert study_headline(study)[-1] == ("nll, test", "77.50", "mean over 2 seeds, K = 50")
    study.ledger.test.append({**first, "member": seeds[0], "samples": 90, "nll": {**first["nll"], "value": 70.0}})
    assert study_headline(study)[-1] == ("nll, test", "70.00", first["nll"]["name"]), "one member was seen with the last K"
