"""A study's tables and figures, on curves made for it: no training here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tiny_runs import Program
from vaelid.errors import MachineError
from vaelid.reporting.overlay import overlaid_curves
from vaelid.reporting.studies import LINEAR, LOGARITHMIC, study_figures
from vaelid.sweeps.ledger import Ledger, Member, StudyFolder
from vaelid.sweeps.selection import choose
from vaelid.sweeps.summary import Summary, kept_interval

PATIENCE = "no improvement for 21 epochs"


def made(folder: Path, curves: dict[str, list[list[float]]], **statuses: str) -> Summary:
    """A study whose members have these curves, 2 s an epoch; ``statuses`` by the first seed's combination."""
    ledger = Ledger()
    for combination, lines in curves.items():
        for seed, values in enumerate(lines):
            name = f"{combination},seed={seed}"
            status = statuses.get(combination, "finished") if seed == 0 else "finished"
            message = {"diverged": "the loss became nan.\nlower lr", "failed": "Traceback\n  line\nOSError: full"}.get(status, "")
            ledger.members[name] = Member(name, combination, seed, {}, {}, "f", "probability", status, message)
            if not values:
                continue
            run = StudyFolder(folder).member(name)
            run.path.mkdir(parents=True)
            run.recipe_file.write_text("")
            run.write_json(run.environment_file, {"outcome": PATIENCE})
            for epoch, value in enumerate(values, 1):
                error = None if epoch == 1 else 0.05
                run.append_metrics({"epoch": epoch, "neg_elbo": value, "change_se": error, "train_seconds": 2.0})
    study = StudyFolder(folder)
    study.write(ledger)
    ledger.selection = choose(ledger, {name: seen.kept for name, seen in Summary(folder).members.items()})
    study.write(ledger)
    return Summary(folder)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Program:
    return Program(capsys)


CURVES: dict[str, list[list[float]]] = {
    "slow": [[130.0, 120.0, 111.0], [132.0, 122.0, 113.0]],
    "quick": [[100.0, 91.5, 90.0], [101.0, 92.0, 91.0]],
}


def test_show_says_what_a_study_found(tmp_path: Path, run: Program) -> None:
    summary = made(tmp_path, CURVES)
    said = " ".join(run("show", tmp_path).out.split())
    assert "slow │ 2 │ 112.000 │ 12.706 │ 1.414" in said, "t with one degree of freedom is 12.706, times sd/√2 = 1"
    assert "quick,seed=0 │ finished │ 3 │ 90.000 │ 3 │ 3 (6 s) │ 1 (2 s) │ 2 (4 s) │ 3 (6 s)" in said
    assert "slow,seed=0 │ finished │ 3 │ 111.000 │ 3 │ 3 (6 s) │ – │ – │ –" in said
    assert "chosen: quick (lowest mean" in said
    assert "it is 21.500 ± 6.353 nats below slow, paired over 2 seeds" in said
    assert kept_interval(summary.combinations["quick"]).mean == 90.5


def test_show_names_what_went_wrong_and_what_is_left(tmp_path: Path, run: Program) -> None:
    made(tmp_path, {"a": [[90.0]], "b": [[80.0]], "c": [[70.0]], "d": [[]]}, b="diverged", c="failed", d="waiting")
    said = " ".join(run("show", tmp_path).out.split())
    assert "left out of the selection: b (1 of 1 diverged)" in said
    assert "b,seed=0 diverged: the loss became nan." in said
    assert "c,seed=0 failed: OSError: full" in said
    assert "2 of 4 members are not done: the same study command goes on" in said
    assert "chosen: a " in said


def test_one_seed_promises_nothing_about_others(tmp_path: Path, run: Program) -> None:
    made(tmp_path, {"a": [[90.0]], "b": [[80.0]]})
    assert "it is 10.000 nats below a with the one seed that both have" in run("show", tmp_path).out


def test_seeds_that_scatter_do_not_tell_two_apart(tmp_path: Path, run: Program) -> None:
    made(tmp_path, {"a": [[90.0], [80.0]], "b": [[80.0], [89.0]]})
    assert "these seeds cannot tell the two apart" in run("show", tmp_path).out


def test_before_the_end_nothing_is_selected(tmp_path: Path, run: Program) -> None:
    study = StudyFolder(tmp_path)
    study.write(Ledger(members={"a,seed=0": Member("a,seed=0", "a", 0, {}, {}, "f", "probability")}))
    assert "nothing is selected before all trainings have ended" in run("show", tmp_path).out


def test_every_look_at_the_test_split_is_shown(tmp_path: Path, run: Program) -> None:
    summary = made(tmp_path, CURVES)
    bound: dict[str, Any] = {"name": "IW bound", "value": 88.5, "se": 0.25, "direction": "above"}
    look = {"member": "quick,seed=0", "combination": "quick", "role": "chosen", "neg_elbo": {"value": 90.25}, "nll": bound}
    summary.ledger.test += [look, {"member": "slow,seed=0", "role": "reference", "problem": "no likelihood"}]
    summary.folder.write(summary.ledger)
    said = " ".join(run("show", tmp_path).out.split())
    assert "quick,seed=0 │ chosen │ 90.250 │ 88.500 │ 0.250 │ IW bound; above" in said
    assert "slow,seed=0 │ reference │ │ │ │ no likelihood" in said


def test_figures_of_a_study(tmp_path: Path) -> None:
    written = study_figures(made(tmp_path, CURVES))
    assert [path.name for path in written] == [f"{name}.{ending}" for name in (LINEAR, LOGARITHMIC) for ending in ("png", "pdf")]
    assert study_figures(made(tmp_path / "empty", {"a": [[]]}, a="waiting")) == []
    (tmp_path / "figures").rename(tmp_path / "moved")
    (tmp_path / "figures").write_text("in the way")
    with pytest.raises(MachineError, match="Figures of"):
        study_figures(Summary(tmp_path))


def test_spikes_do_not_flatten_the_curves_beside_them() -> None:
    epochs = np.arange(60.0)
    spiked = 105 + 20 * np.exp(-epochs)
    spiked[[40, 50, 51, 59]] = [450_000.6, 600.0, 700.0, 540.0]
    [axes] = overlaid_curves({"spiked": [spiked], "steady": [92 + 40 * np.exp(-epochs / 5)]}).axes
    assert axes.get_ylim()[0] < 92
    assert 105 < axes.get_ylim()[1] < 110
    assert "up to 450,001 nats not shown" in {text.get_text() for text in axes.texts}


def test_a_slow_fall_is_shown_from_where_its_second_half_begins() -> None:
    falling = np.linspace(200, 100, 40)
    [axes] = overlaid_curves({"falling": [falling], "short": [np.array([120.0, 118.0])]}).axes
    assert axes.get_ylim()[1] > 143  # the 23rd value: the median of the five that begin the half


def test_overlaid_curves_draw_every_seed_and_name_every_combination() -> None:
    curves = {"a": [np.array([9.0, 8.0, 7.0]), np.array([9.5, np.nan, 7.5])], "b": [np.array([-1.0])]}
    for logarithmic in (False, True):
        [axes] = overlaid_curves(curves, logarithmic).axes
        assert len(axes.lines) == 3
        assert {text.get_text() for text in axes.texts} >= {"a", "b"}
    drawn = np.asarray(axes.lines[0].get_ydata())
    np.testing.assert_array_equal(drawn, [10.0, 9.0, 8.0])
    assert np.isnan(np.asarray(axes.lines[2].get_ydata())).all(), "the best itself has no logarithm"
    with pytest.raises(ValueError, match="finite"):
        overlaid_curves({"a": [np.array([np.nan])]})
