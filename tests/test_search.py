"""Studies by search: the space, what is proposed, pruned and kept, how processes share a search, and how one goes on."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock, Timeout

import vaelid
from test_study import Done, common
from tiny_runs import TINY, TINY_OPTIONS, Program, no_figures
from vaelid import pool, studying
from vaelid.errors import Interrupted, MachineError, RunError, SettingError, UserError
from vaelid.folder import RunFolder
from vaelid.pool import Ending, Pool
from vaelid.progress import Silent
from vaelid.recipe import from_toml
from vaelid.searching import Search, plan_search
from vaelid.studying import Conclusion, Study, carry_out_search
from vaelid.sweeps.ledger import Ledger, Member, StudyFolder
from vaelid.sweeps.space import Choice, Span, corners, parse_space, space_of
from vaelid.sweeps.trials import PRUNERS, Trials
from vaelid.training.begin import note_outcome
from vaelid.worker import Order

pytestmark = pytest.mark.usefixtures(no_figures.__name__)
SPACE = {"lr": "log:1e-4:1e-1", "prior": "choice:mixture,standard-normal"}
QUIET = Conclusion(evaluate=False, device="cpu")


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_PAUSE", 0.0)
    monkeypatch.setattr(studying, "study_figures", lambda *_: [])


# The space ----------------------------------------------------------------------------------------------------------------


def test_a_space_in_words() -> None:
    space = space_of(parse_space(["optimizer.lr=log:1e-5:1e-1", "latent=int:8:64", "hidden=choice:300,300;500"]))
    assert space == {"lr": Span("log", 1e-5, 0.1), "latent": Span("int", 8, 64), "hidden": Choice(("300,300", "500"))}
    assert str(space["hidden"]) == "choice:300,300;500"
    assert space_of({"beta": "float:0:2"})["beta"].holds(1.5)
    assert [space["latent"].holds(value) for value in (8, 7, 8.5, "8", True)] == [True, False, False, False, False]
    assert len(corners(space)) == 1 + 1 + 1 + 1
    assert space["latent"].holds(64), "both ends are in it"
    assert str(Span("float", 0.00123456, 1234567)) == "float:0.00123456:1234567", "as it was asked for, digit by digit"


@pytest.mark.parametrize(
    ("search", "said"),
    [
        ({"lr": "log:0:1"}, "both above 0"),
        ({"lr": "log:1:1"}, "LOW < HIGH"),
        ({"latent": "int:1.5:3"}, "both whole"),
        ({"lr": "log:1e-3"}, "LOW:HIGH"),
        ({"lr": "lgo:1e-3:1"}, "'log'"),
        ({"prior": "choice:mixture"}, "two different values"),
        ({"prior": "choice:mixture,mixture,standard-normal"}, "two different values"),
        ({"seed": "int:0:9"}, "seed is nothing to search"),
        ({}, "needs a setting"),
    ],
)
def test_a_space_that_is_none(search: dict[str, str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        space_of(search)


@pytest.mark.parametrize("axes", [["lr"], ["=log:1:2"], ["lr="], ["lr=log:1:2", "optimizer.lr=log:1:3"]])
def test_axes_of_the_command_line(axes: list[str]) -> None:
    with pytest.raises(UserError, match="--search"):
        parse_space(axes)


# Trials -------------------------------------------------------------------------------------------------------------------


def asked(file: Path, count: int, ends: Callable[[int], float | None], seed: int = 0) -> list[dict[str, Any]]:
    """Values of so many trials, each told its end before the next; Optuna's journal is opened anew for every one."""
    found = []
    for _ in range(count):
        trials = Trials(file, space_of({"lr": "log:1e-4:1e-1"}), "none", seed, 10)
        number, values = trials.ask({"lr": 1e-3})
        trials.tell(number, ends(number))
        found.append(values)
    return found


def test_proposals_depend_on_seed_number_and_ends_alone(tmp_path: Path) -> None:
    ends = lambda number: None if number == 2 else float(number)  # noqa: E731
    first = asked(tmp_path / "a", 8, ends)
    assert first[0] == {"lr": 1e-3}, "the recipe's own value is the first"
    assert first == asked(tmp_path / "b", 8, ends)
    assert first[1:] != asked(tmp_path / "c", 8, ends, seed=1)[1:]
    assert first[:6] == asked(tmp_path / "d", 6, ends)
    assert len({values["lr"] for values in first}) == 8
    assert all(1e-4 <= values["lr"] <= 1e-1 for values in first)


def test_a_search_learns_from_what_ended(tmp_path: Path) -> None:
    """−ELBO falls toward lr = 1e-4: later proposals lie there."""
    trials, tried = Trials(tmp_path / "j", space_of({"lr": "log:1e-4:1e-1"}), "none", 0, 10), []
    for _ in range(30):
        number, values = trials.ask({})
        trials.tell(number, values["lr"] if values["lr"] < 0.05 else None)
        tried.append(values["lr"])
    assert sorted(tried[20:])[5] < 5e-4


def test_the_median_rule_stops_a_bad_trial(tmp_path: Path) -> None:
    for pruner, stopped in (("median", True), ("none", False)):
        trials = Trials(tmp_path / pruner, space_of({"lr": "log:1e-4:1e-1"}), pruner, 0, 10)
        for _ in range(5):
            number, _ = trials.ask({})
            for epoch in (1, 2, 3):
                trials.report(number, epoch, 100.0 - epoch)
                assert not trials.unpromising(number)
            trials.tell(number, 97.0)
        number, _ = trials.ask({})
        trials.report(number, 1, 110.0)
        assert not trials.unpromising(number), "not in the first tenth of the epochs"
        trials.report(number, 2, 110.0)
        assert (trials.unpromising(number), trials.reported(number)) == (stopped, 2)
        assert list(trials.open_trials()) == [5]
        trials.tell(number, None)
        assert not trials.open_trials()


def test_a_damaged_journal_and_an_unknown_pruner_are_refused(tmp_path: Path) -> None:
    for pruner in PRUNERS:
        assert len(Trials(tmp_path / pruner, space_of(SPACE), pruner, 0, 10)) == 0
    (tmp_path / "j").write_text("no json\n{}\n")
    with pytest.raises(RunError, match="cannot be read as Optuna's journal"):
        Trials(tmp_path / "j", space_of(SPACE), "median", 0, 10)
    with pytest.raises(SettingError, match="hyperband"):
        plan_search(tmp_path / "study", common(), SPACE, 2, "hyperbnd", 1)


def test_optuna_is_named_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MachineError, match=r"pip install 'vaelid\[search\]'"):
        vaelid.study("digits", out=tmp_path / "study", search=SPACE, trials=2)
    assert not (tmp_path / "study").exists()


# Searching ----------------------------------------------------------------------------------------------------------------


class Pretended:
    """Trains nothing: writes the curve that ``curve`` gives for a trial's recipe, and ends as ``fate`` says."""

    def __init__(self, fate: dict[str, Any] | None = None, meanwhile: Callable[[str], None] | None = None) -> None:
        self.fate, self.meanwhile, self.begun = fate or {}, meanwhile, list[str]()

    def __call__(self, name: str, order: Order) -> Any:
        self.begun.append(name)
        doomed = self.fate.get(name)
        if isinstance(doomed, BaseException):
            raise doomed
        if doomed == "failed":
            return Done(name, 1, Ending("failed", "what went wrong"))
        recipe, run = from_toml(order.recipe), RunFolder(order.folder)
        run.path.mkdir(parents=True, exist_ok=True)
        run.recipe_file.write_text(order.recipe)
        run.write_json(run.environment_file, {"vaelid": "0", "outcome": ""})
        already = len(run.metrics())
        for epoch in range(already + 1, recipe.training.epochs + 1):
            value = 100 + 1000 * abs(recipe.to_dict()["optimizer"]["lr"] - 0.01) - epoch
            run.append_metrics({"epoch": epoch, "neg_elbo": value, "change_se": 0.01, "train_seconds": 1.0})
        note_outcome(run, f"all {recipe.training.epochs} epochs done")
        if self.meanwhile is not None:
            self.meanwhile(name)
        return Stoppable(name, 1, Ending("finished") if doomed is None else Ending(doomed, "what went wrong"))


class Stoppable(Done):
    """Runs for one look of the pool, so that it can still be stopped."""

    looks, stopped = 0, False

    def stop(self) -> None:
        self.stopped = True

    def ending(self) -> Ending | None:  # type: ignore[override]
        self.looks += 1
        if self.looks == 1:
            return None
        return Ending("interrupted") if self.stopped else self.how


def seek(
    out: Path, trials: int = 4, begin: Pretended | None = None, search: Any = None, overwrite: bool = False, **rest: Any
) -> tuple[Study, Pretended]:
    begin = begin or Pretended()
    how, pruner = rest.pop("how", QUIET), rest.pop("pruner", "none")
    planned = plan_search(out, common(**rest), search or SPACE, trials, pruner, 1)
    carry_out_search(out, planned, how, overwrite, Silent(), Pool(1, begin))
    return Study(out, "cpu"), begin


def statuses(study: Study) -> list[str]:
    return [member.status for member in study.ledger.members.values()]


def test_trials_are_members_and_the_best_is_chosen_by_validation(tmp_path: Path) -> None:
    found, begun = seek(tmp_path, 6)
    assert begun.begun == list(found.ledger.members) == [f"trial-{number:03d}" for number in range(6)]
    first = found.ledger.members["trial-000"].settings
    assert (first["optimizer.lr"], first["prior.name"]) == (0.01, "mixture"), "the settings without a search come first"
    away = {name: abs(member.settings["optimizer.lr"] - 0.01) for name, member in found.ledger.members.items()}
    assert found.ledger.selection["chosen"] == min(away, key=lambda name: away[name]) == "trial-000"
    assert found.ledger.selection["reference"] == "trial-000"
    assert found.ledger.search["ended"] == {"finished": 6}
    more, begun = seek(tmp_path, 8)
    assert begun.begun == ["trial-006", "trial-007"], "finished trials are kept, and more may be asked for"
    assert seek(tmp_path, 3)[1].begun == []
    assert more.ledger.search["trials"] == 8


def test_bad_trials_are_pruned_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, _ = seek(tmp_path, 12, epochs=4, pruner="median")
    ended = Counter(statuses(found))
    assert ended["pruned"] >= 1
    assert set(statuses(found)[:5]) == {"finished"}, "the median of what, before there are five"
    assert found.ledger.search["ended"] == dict(ended)
    shown = Program(capsys)("show", tmp_path).out
    assert f"{ended['pruned']} pruned" in " ".join(shown.split())
    assert found.ledger.members[found.ledger.selection["chosen"]].status == "finished"
    assert "left out of the selection" not in shown
    verdicts = {seen.member.status: seen.facts.verdict for seen in found.summary.members.values()}
    assert verdicts["pruned"] == "pruned"


def test_a_trial_that_was_killed_goes_on_in_its_own_folder(tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match="of 5 trials: 2 finished, 1 running"):
        seek(tmp_path, 5, Pretended({"trial-002": KeyboardInterrupt()}))
    stood = Study(tmp_path).ledger.members["trial-002"]
    found, begun = seek(tmp_path, 5)
    assert begun.begun == ["trial-002", "trial-003", "trial-004"]
    assert found.ledger.members["trial-002"].settings == stood.settings
    straight, _ = seek(tmp_path / "straight", 5)
    assert [m.settings for m in straight.ledger.members.values()] == [m.settings for m in found.ledger.members.values()]


def test_one_that_fails_or_diverges_does_not_stop_the_others(tmp_path: Path) -> None:
    found, _ = seek(tmp_path, 4, Pretended({"trial-001": "failed", "trial-002": "diverged"}))
    assert statuses(found) == ["finished", "failed", "diverged", "finished"]
    assert found.ledger.selection["chosen"] is not None
    again, begun = seek(tmp_path, 4)
    assert begun.begun == ["trial-001"], "what has ended is kept; what failed is tried again"
    assert statuses(again) == ["finished", "finished", "diverged", "finished"]


def test_two_processes_share_a_search(tmp_path: Path) -> None:
    second = Pretended()
    notes: list[str] = []

    def join(name: str) -> None:
        if name == "trial-000":  # while the first process trains its first trial, another one does what is left
            other, _ = seek(tmp_path, 5, second)
            notes.append(str(other.ledger.selection))
            assert other.ledger.search["ended"] == {"running": 1, "finished": 4}

    found, first = seek(tmp_path, 5, Pretended(meanwhile=join))
    assert (first.begun, second.begun) == (["trial-000"], [f"trial-{number:03d}" for number in range(1, 5)])
    assert notes == ["{}"], "who is not the last selects nothing"
    assert found.ledger.selection["chosen"] is not None
    assert statuses(found) == ["finished"] * 5


def test_a_trial_that_a_worker_still_holds_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        seek(tmp_path, 2, Pretended({"trial-001": KeyboardInterrupt()}))
    with RunFolder(tmp_path / "trial-001").lock():
        assert seek(tmp_path, 2)[1].begun == []
    assert seek(tmp_path, 2)[1].begun == ["trial-001"]


def test_nothing_but_the_number_of_trials_may_change(tmp_path: Path) -> None:
    seek(tmp_path, 1)
    for change, said in (
        ({"latent": 4}, "model.latent is 3, asked 4"),
        ({"epochs": 2}, "training.epochs is 1, asked 2"),
        ({"pruner": "median"}, "pruner is 'none', asked 'median'"),
        ({"search": {**SPACE, "lr": "log:1e-4:1"}}, "lr is 'log:0.0001:0.1', asked 'log:0.0001:1'"),
    ):
        with pytest.raises(RunError, match=said) as refused:
            seek(tmp_path, 1, **change)
        assert "--trials may be raised" in refused.value.remedy
    found, begun = seek(tmp_path, 1, overwrite=True, latent=4)
    assert begun.begun == ["trial-000"]
    assert found.ledger.search["settings"]["model.latent"] == 4


def value_told(out: Path, curve: list[float], **settings: Any) -> float:
    """What Optuna is told of a finished trial with this curve."""
    searched = Search(StudyFolder(out), plan_search(out, common(**settings), SPACE, 1, "none", 1), Silent())
    return searched._value([{"epoch": epoch, "neg_elbo": value} for epoch, value in enumerate(curve, 1)])


def test_a_trial_counts_by_the_weights_that_it_keeps(tmp_path: Path) -> None:
    assert value_told(tmp_path, [100.0, 90.0, 95.0]) == 90.0
    assert value_told(tmp_path, [100.0, 90.0, 95.0], **{"training.keep": "last"}) == 95.0


def test_what_is_shared_is_locked_and_the_seed_is_the_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = plan_search(tmp_path, common(seed=7), SPACE, 3, "none", 1)
    assert (planned.known, planned.settings["training.seed"]) == ({"lr": 0.01, "prior": "mixture"}, 7)
    assert planned.settings["data (fingerprint)"]
    search, other = Search(StudyFolder(tmp_path), planned, Silent()), FileLock(tmp_path / ".search.lock", timeout=0)
    search.begin(overwrite=False)
    with search.shared() as (_, trials):
        assert trials.seed == 7
        with pytest.raises(Timeout):
            other.acquire()
    reading = StudyFolder.read

    def locked_out(folder: StudyFolder) -> Ledger:
        with pytest.raises(Timeout):
            other.acquire()
        looked.append(folder)
        return reading(folder)

    looked: list[StudyFolder] = []
    monkeypatch.setattr(StudyFolder, "read", locked_out)
    search.begin(overwrite=False)
    assert looked, "who joins a search reads it under the lock, too"


def test_what_the_space_leaves_out_is_no_first_trial(tmp_path: Path) -> None:
    outside = {**SPACE, "lr": "log:1e-4:1e-3"}  # the recipe's is 0.01
    assert plan_search(tmp_path, common(), outside, 3, "none", 1).known == {}
    with pytest.raises(UserError, match="jobs must be at least 1"):
        plan_search(tmp_path, common(), SPACE, 3, "none", 0)


def test_how_a_trial_ended_is_told_to_optuna(tmp_path: Path) -> None:
    fate = {"trial-001": "diverged", "trial-002": "pruned"}
    seek(tmp_path, 3, Pretended(fate), epochs=2)
    trials = Trials(tmp_path / "search.journal", space_of(SPACE), "none", 0, 2)
    seen = [(trial.state.name, trial.value if number == 0 else None) for number, trial in enumerate(trials._study.get_trials())]
    assert seen == [("COMPLETE", 98.0), ("PRUNED", None), ("PRUNED", None)], "98 is the recipe's own curve after two epochs"
    assert [trials.reported(number) for number in range(3)] == [2, 2, 2]


def test_a_search_and_a_grid_do_not_mix(tmp_path: Path) -> None:
    seek(tmp_path / "search", 1)
    grid = StudyFolder(tmp_path / "grid")
    grid.path.mkdir()
    grid.write(Ledger(members={"a": Member("a", "a", 0, {}, {}, "f", "probability", "finished")}))
    with pytest.raises(RunError, match="holds a grid, not a search"):
        seek(grid.path, 1)
    with pytest.raises(RunError, match="holds a search, not a grid"):
        vaelid.study("digits", out=tmp_path / "search", grid={"lr": [1e-3]}, settings=TINY)
    for given, said in (
        ({"search": SPACE, "grid": {"lr": [1]}, "trials": 2}, "not both"),
        ({"search": SPACE, "seeds": 2, "trials": 2}, "same seed"),
        ({"search": SPACE}, "number of trials"),
        ({"trials": 3}, "both its ranges"),
        ({"search": SPACE, "trials": 0}, "trials must be at least 1"),
        ({"search": {"prior": ["mixture", "mxture"]}, "trials": 2}, "mxture"),
    ):
        with pytest.raises(UserError, match=said):
            vaelid.study("digits", out=tmp_path / "new", settings=TINY, **given)
    assert not (tmp_path / "new").exists()


def test_the_program_searches_in_processes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = Program(capsys), tmp_path / "study"
    command = ["study", "digits", *TINY_OPTIONS, "--device", "cpu", "--out", out, "--search", "lr=log:1e-3:1e-1", "--trials", 2]
    assert "log:0.001:0.1" in run(*command, "--dry-run").out
    assert not out.exists()
    said = run(*command, "--samples", 5)
    assert said.code == 0, said.err
    assert "trial-001 finished (of 2 trials: 2 finished)" in said.err
    assert "trial-001 (lr=" in said.out
    alone = vaelid.train("digits", out=tmp_path / "alone", device="cpu", settings=TINY)
    member = Study(out).runs["trial-000"]
    assert member.folder.weights_file.read_bytes() == alone.folder.weights_file.read_bytes(), "a trial is an ordinary run"
    assert {look["role"] for look in Study(out).ledger.test} <= {"chosen", "reference"}
