"""Studies: what is trained, how a study goes on, what is chosen, and when the test split is met."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import vaelid
from tiny_runs import TINY, TINY_OPTIONS, Program, no_figures
from vaelid import pool, studying
from vaelid.errors import Interrupted, RunError, UserError, VaelidError
from vaelid.planning import Common, plan
from vaelid.pool import Ending, Pool
from vaelid.progress import Silent
from vaelid.recipe import from_toml
from vaelid.settings import CommandText
from vaelid.studying import Conclusion, Study, carry_out_study
from vaelid.sweeps.curves import curve_of, look
from vaelid.sweeps.grid import combinations, parse_axes
from vaelid.sweeps.ledger import Ledger, Member, StudyFolder, require_same
from vaelid.sweeps.selection import choose
from vaelid.sweeps.summary import Seen
from vaelid.training.surroundings import own_randomness
from vaelid.worker import Order, carry_out_order

pytestmark = pytest.mark.usefixtures(no_figures.__name__)
QUIET = Conclusion(evaluate=False, device="cpu")
GRID: dict[str, list[Any]] = {"lr": [1e-3, 1e-2]}


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_PAUSE", 0.0)
    monkeypatch.setattr(studying, "study_figures", lambda *_: [])


@dataclass
class Done:
    """A training that has ended already."""

    name: str
    threads: int
    how: Ending

    def stop(self) -> None: ...

    def ending(self) -> Ending:
        return self.how


class InThisProcess:
    """Trains each order at once, or does to it what ``fate`` says: a status, or an error to raise."""

    def __init__(self, fate: dict[str, Any] | None = None) -> None:
        self.fate, self.trained = fate or {}, list[str]()

    def __call__(self, name: str, order: Order) -> Done:
        self.trained.append(name)
        doomed = self.fate.get(name)
        if isinstance(doomed, BaseException):
            raise doomed
        if doomed == "failed":
            return Done(name, 1, Ending(doomed, "what went wrong"))
        with own_randomness(0):
            carry_out_order(order)
        return Done(name, 1, Ending("finished") if doomed is None else Ending(doomed, "what went wrong"))


def common(**changes: Any) -> Common:
    return Common("digits", None, {**TINY, "training.epochs": 1, **changes}, "cpu")


def carry_out(
    out: Path, grid: dict[str, list[Any]], seeds: int = 1, overwrite: bool = False, how: Conclusion = QUIET, **rest: Any
) -> tuple[Study, InThisProcess]:
    begin = InThisProcess(rest.pop("fate", None))
    planned = plan(out, common(**rest), grid, seeds, jobs=1)
    carry_out_study(out, planned, 1, how, overwrite, Silent(), Pool(1, begin))
    return Study(out, "cpu"), begin


# The grid -----------------------------------------------------------------------------------------------------------------


def test_every_combination_of_the_values() -> None:
    grid = parse_axes(["lr=1e-3, 1e-2", "hidden=8,8;9"])
    assert grid == {"lr": ["1e-3", "1e-2"], "hidden": ["8,8", "9"]}
    assert len(combinations(grid)) == 4
    assert combinations({}) == [{}]


@pytest.mark.parametrize("axis", ["lr", "lr=", "=1", "lr=1,,2"])
def test_an_axis_needs_a_name_and_values(axis: str) -> None:
    with pytest.raises(UserError, match="For example: --grid lr=1e-4,1e-3"):
        parse_axes([axis])


def test_an_axis_is_given_once_by_whatever_name() -> None:
    with pytest.raises(UserError, match="lr was given twice"):
        parse_axes(["optimizer.lr=1", "lr=2"])


@pytest.mark.parametrize("name", ["seed", "training.seed"])
def test_the_seed_is_no_axis(name: str) -> None:
    with pytest.raises(UserError, match="--seeds 3"):
        combinations({name: [1]})


def test_members_are_named_by_their_checked_values(tmp_path: Path) -> None:
    planned = plan(
        tmp_path, common(seed=5), {"optimizer.lr": [CommandText("1e-3")], "prior": ["mixture", "standard-normal"]}, 2, 1
    )
    names = [f"lr=0.001,prior={prior},seed={seed}" for prior in ("mixture", "standard-normal") for seed in (5, 6)]
    assert list(planned.members) == names
    recipes = [from_toml(order.recipe) for order in planned.orders.values()]
    assert [r.training.seed for r in recipes] == [5, 6, 5, 6]
    assert [r.prior.name for r in recipes] == ["mixture"] * 2 + ["standard-normal"] * 2
    assert {m.kind for m in planned.members.values()} == {"probability"}


def test_what_cannot_be_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    for wrong, said in (
        (({"lr": [1e-3, 0.001]}, 1, 1), "holds lr=0.001 twice"),
        (({"lr": [1e-3, -1]}, 1, 1), "lr"),
        (({"lr": []}, 1, 1), "needs a list of values"),
        (({}, 0, 1), "seeds must be at least 1"),
        (({}, 1, 0), "jobs must be at least 1"),
        (({"no_such": [1]}, 1, 1), "no_such"),
    ):
        with pytest.raises(UserError, match=said):
            plan(tmp_path / "study", common(), *wrong)
    assert not (tmp_path / "study").exists()


def test_threads_are_divided_among_the_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "cores", lambda: 8)
    monkeypatch.setattr("torch.get_num_threads", lambda: 8)
    for jobs, threads in ((1, 8), (3, 2), (20, 1)):
        assert {o.threads for o in plan(tmp_path, common(), GRID, 1, jobs).orders.values()} == {threads}


# Training -----------------------------------------------------------------------------------------------------------------


def test_members_are_ordinary_runs_from_fresh_weights(tmp_path: Path) -> None:
    found, _ = carry_out(tmp_path / "study", GRID, seeds=2)
    assert [m.status for m in found.ledger.members.values()] == ["finished"] * 4
    alone = vaelid.train("digits", out=tmp_path / "alone", device="cpu", settings={**TINY, "training.epochs": 1, "seed": 1})
    member = found.runs["lr=0.01,seed=1"]
    assert member.folder.weights_file.read_bytes() == alone.folder.weights_file.read_bytes()
    assert repr(found) == f"Study('{tmp_path / 'study'}': 4 members)"


def test_one_that_fails_or_diverges_does_not_stop_the_others(tmp_path: Path) -> None:
    fate = {"lr=0.001,seed=0": "diverged", "lr=0.001,seed=1": "failed"}
    found, _ = carry_out(tmp_path, GRID, seeds=2, fate=fate)
    members = found.ledger.members
    assert [m.status for m in members.values()] == ["diverged", "failed", "finished", "finished"]
    assert members["lr=0.001,seed=1"].message == "what went wrong"
    assert found.ledger.selection["left_out"] == {"lr=0.001": "1 of 2 diverged, 1 of 2 failed"}
    assert found.ledger.selection["chosen"] == "lr=0.01"
    again, begun = carry_out(tmp_path, GRID, seeds=2)
    assert begun.trained == ["lr=0.001,seed=1"], "what has ended is kept; what failed is tried again"
    assert again.ledger.members["lr=0.001,seed=1"].message == ""


def test_a_stopped_study_goes_on_where_it_was(tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match="1 of 2 members are done") as stopped:
        carry_out(tmp_path, GRID, fate={"lr=0.01,seed=0": KeyboardInterrupt()})
    assert "same command" in stopped.value.remedy
    assert [m.status for m in Study(tmp_path).ledger.members.values()] == ["finished", "waiting"]
    found, begun = carry_out(tmp_path, GRID)
    assert begun.trained == ["lr=0.01,seed=0"]
    assert found.ledger.selection["chosen"] in ("lr=0.001", "lr=0.01")


def test_members_may_be_added_and_nothing_else_changed(tmp_path: Path) -> None:
    carry_out(tmp_path, {"lr": [1e-3]})
    found, begun = carry_out(tmp_path, GRID, seeds=2)
    assert begun.trained == ["lr=0.001,seed=1", "lr=0.01,seed=0", "lr=0.01,seed=1"]
    assert (found.ledger.grid, found.ledger.seeds) == ({"lr": ["0.001", "0.01"]}, [0, 1])
    with pytest.raises(RunError, match=r"model.latent is 3, asked 4"):
        carry_out(tmp_path, GRID, latent=4)
    with pytest.raises(RunError, match=r"model.latent is 3, asked 4"):
        carry_out(tmp_path, {"lr": [0.5]}, latent=4)
    carry_out(tmp_path, {"lr": [0.002]})


def test_epochs_may_be_raised_and_not_lowered(tmp_path: Path) -> None:
    carry_out(tmp_path, {"lr": [1e-3]}, epochs=2)
    with pytest.raises(RunError, match=r"training.epochs is 2, asked 1"):
        carry_out(tmp_path, {"lr": [1e-3]}, epochs=1)
    found, begun = carry_out(tmp_path, {"lr": [1e-3]}, epochs=3)
    assert begun.trained == ["lr=0.001,seed=0"]
    assert len(found.runs["lr=0.001,seed=0"].metrics) == 3


def test_overwrite_starts_afresh(tmp_path: Path) -> None:
    carry_out(tmp_path, GRID)
    found, begun = carry_out(tmp_path, {"lr": [1e-3]}, overwrite=True, latent=4)
    assert begun.trained == ["lr=0.001,seed=0"]
    assert list(found.ledger.members) == ["lr=0.001,seed=0"]
    assert found.runs["lr=0.001,seed=0"].recipe.model.latent == 4


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match=r"holds no study \(it has thesis.txt\)"):
        carry_out(tmp_path, GRID)
    with pytest.raises(RunError, match="no study"):
        Study(tmp_path)
    (tmp_path / "study.json").write_text("[1")
    with pytest.raises(RunError, match="is damaged"):
        Study(tmp_path)


# Selection and the test split ---------------------------------------------------------------------------------------------


def ledger_of(values: dict[str, list[float]], **changes: Any) -> tuple[Ledger, dict[str, float | None]]:
    members = {
        f"{name},seed={seed}": Member(f"{name},seed={seed}", name, seed, {}, {}, "f", "probability", "finished")
        for name, of_seeds in values.items()
        for seed in range(len(of_seeds))
    }
    for name, change in changes.items():
        setattr(next(iter(members.values())), name, change)
    return Ledger(members=members), {f"{n},seed={s}": v for n, vs in values.items() for s, v in enumerate(vs)}


def test_the_lowest_mean_over_seeds_is_chosen_with_a_paired_margin() -> None:
    found = choose(*ledger_of({"a": [90.0, 100.0, 95.0], "b": [89.0, 98.9, 94.1]}))
    assert (found["chosen"], found["reference"]) == ("b", "a")
    difference = found["runner_up"]["difference"]
    assert difference["mean"] == pytest.approx(-1.0)
    assert difference["half"] == pytest.approx(4.302653 * 0.1 / 3**0.5), "t with two degrees of freedom, paired by seed"
    assert [row["half"] is not None for row in found["ranking"]] == [True, True]


def test_one_seed_gives_no_interval() -> None:
    found = choose(*ledger_of({"a": [90.0], "b": [89.0]}))
    assert found["chosen"] == "b"
    assert (found["ranking"][0]["half"], found["runner_up"]["difference"]["half"]) == (None, None)


def test_values_without_a_common_scale_choose_nothing() -> None:
    for change, said in (({"images": "other"}, "different images"), ({"kind": "density"}, "some densities")):
        found = choose(*ledger_of({"a": [90.0], "b": [89.0]}, **change))
        assert found["chosen"] is None
        assert said in found["reason"]


def test_the_test_split_is_met_once_by_chosen_and_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    met: list[tuple[str, int]] = []

    def evaluate(run: Any, split: str, samples: int, **_: Any) -> dict[str, Any]:
        assert split == "test", "the members were chosen by validation"
        met.append((run.folder.path.name, samples))
        if samples == 6:
            raise VaelidError("no likelihood")
        return {"neg_elbo": {"value": 2.0}, "nll": {"name": "n", "value": 1.0, "se": 0.1, "direction": "d", "more": 0}}

    monkeypatch.setattr(vaelid.run.Run, "evaluate", evaluate)
    monkeypatch.setattr(studying, "choose", lambda *_: {"chosen": "lr=0.01", "reference": "lr=0.001"})
    grid = {"lr": [1e-3, 1e-1, 1e-2]}
    carry_out(tmp_path, grid)
    assert met == [], "not with --no-evaluate"
    for _ in range(2):
        found, _ = carry_out(tmp_path, grid, how=Conclusion(True, 5, "cpu"))
        assert met == [("lr=0.01,seed=0", 5), ("lr=0.001,seed=0", 5)]
    assert [look["role"] for look in found.ledger.test] == ["chosen", "reference"]
    found, _ = carry_out(tmp_path, grid, how=Conclusion(True, 6, "cpu"))
    assert [look.get("problem") for look in found.ledger.test] == [None, None, "no likelihood", "no likelihood"]


def test_a_reference_that_did_not_finish_does_not_meet_the_test_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    met: list[str] = []
    monkeypatch.setattr(vaelid.run.Run, "evaluate", lambda run, *_, **__: met.append(run.folder.path.name) or {})
    monkeypatch.setattr(studying, "_tested", lambda run, *_: run.evaluate("test"))
    carry_out(tmp_path, GRID, fate={"lr=0.001,seed=0": "diverged"}, how=Conclusion(True, 5, "cpu"))
    assert met == ["lr=0.01,seed=0"]
    [only] = Study(tmp_path).ledger.test
    assert only["weights"] == Study(tmp_path, "cpu").runs["lr=0.01,seed=0"].weights_digest


def test_what_was_pruned_is_never_chosen() -> None:
    found = choose(*ledger_of({"a": [80.0], "b": [90.0]}, status="pruned"))
    assert (found["chosen"], found["left_out"]) == ("b", {"a": "1 of 1 pruned"})


def test_the_choice_is_by_the_weights_that_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen_by: list[dict[str, float | None]] = []
    monkeypatch.setattr(studying, "choose", lambda _, values: chosen_by.append(dict(values)) or {"chosen": None})
    monkeypatch.setattr(studying, "Summary", Kept)
    studying._select(StudyFolder(tmp_path), Ledger())
    assert chosen_by == [{"a": 95.0}]


class Kept:
    """A study of one member that keeps its last weights, 5 nats above its best."""

    def __init__(self, _: Path) -> None:
        facts = look(curve_of([{"epoch": 1, "neg_elbo": 90.0}, {"epoch": 2, "neg_elbo": 95.0}], "finished", ""), [])
        self.members = {"a": Seen(Member("a", "a", 0, {}, {}, "f", "probability"), curve_of([], "", ""), facts, facts.last)}


# What is held to ----------------------------------------------------------------------------------------------------------


def test_what_is_taken_up_again(tmp_path: Path) -> None:
    """Patience may be raised, which trains what has finished again; what diverged stays; a run that is gone starts anew."""
    carry_out(tmp_path, GRID, fate={"lr=0.001,seed=0": "diverged"}, epochs=1, patience=2)
    with pytest.raises(RunError, match=r"training.patience is 2, asked 1"):
        carry_out(tmp_path, GRID, epochs=1, patience=1)
    assert carry_out(tmp_path, GRID, epochs=1, patience=3)[1].trained == ["lr=0.01,seed=0"]
    shutil.rmtree(tmp_path / "lr=0.01,seed=0")
    assert carry_out(tmp_path, GRID, epochs=1, patience=3)[1].trained == ["lr=0.01,seed=0"]


def test_a_setting_that_only_the_study_has_is_told() -> None:
    with pytest.raises(RunError, match="a is 1, asked 'not set'"):
        require_same({"a": 1, "b": 2}, {"b": 2}, Path("study"))


# The program --------------------------------------------------------------------------------------------------------------


def test_the_program_trains_in_processes_and_shows_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = Program(capsys), tmp_path / "study"
    monkeyed = [
        "study",
        "digits",
        *TINY_OPTIONS,
        "--device",
        "cpu",
        "--out",
        out,
        "--grid",
        "lr=1e-3,1e30",
        "--jobs",
        2,
        "--track",
        "tensorboard",
    ]
    listed = run(*monkeyed, "--dry-run")
    assert "lr=1e+30,seed=0" in listed.out
    assert not out.exists()
    said = run(*monkeyed, "--no-evaluate")
    assert said.code == 0, said.err
    assert "lr=0.001,seed=0 finished" in said.err
    members = json.loads((out / "study.json").read_text())["members"]
    assert [m["status"] for m in members.values()] == ["finished", "diverged"]
    assert "became" in members["lr=1e+30,seed=0"]["message"]
    assert list((out / "lr=0.001,seed=0" / "tracking" / "tensorboard").iterdir())
    shown = run("show", out).out
    assert shown in said.out
    assert "left out of the selection: lr=1e+30 (1 of 1 diverged)" in shown
    assert "chosen: lr=0.001" in shown
