"""Members of a study that are trained together: each is the run that it would have been alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

import vaelid
from training_helpers import RICH, Notes, metrics_of, tiny_of, train
from vaelid.errors import MachineError, PartError, UserError
from vaelid.folder import RunFolder
from vaelid.pool import Ending
from vaelid.recipe import Recipe
from vaelid.together import Together
from vaelid.training import together as engine
from vaelid.training.together import Joint, Member, alike
from vaelid.worker import Order


def order(folder: Path, recipe: Recipe, seconds: float = 1e9, device: str = "cpu") -> Order:
    return Order(recipe.to_toml(), ".", str(folder), device, None, seconds, 1, (), "vectorized")


def train_together(
    path: Path, recipes: dict[str, Recipe], watch: Any = lambda names: (), seconds: float = 1e9, device: str = "cpu"
) -> dict[str, Ending]:
    orders, endings = iter([(name, order(path / name, r, seconds, device)) for name, r in recipes.items()]), {}
    Together(Notes()).run(lambda: next(orders, None), lambda _: None, lambda name, end: endings.update({name: end}), watch)
    return endings


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many members each joint step was made for."""
    made: list[int] = []
    call = Joint.__call__

    def spy(self: Joint, x: Sequence[torch.Tensor], objectives: Sequence[Any]) -> Any:
        made.append(len(self.members))
        return call(self, x, objectives)

    monkeypatch.setattr(Joint, "__call__", spy)
    return made


COMMON = {"data.binarization": "dynamic", "likelihood.name": "bernoulli", "training.epochs": 17}
MEMBERS: dict[str, dict[str, Any]] = {
    "a": {**COMMON},
    "other seed": {**COMMON, "training.seed": 3},
    "other lr": {**COMMON, "optimizer.lr": 1e-2},
    "other beta": {**COMMON, "objective.beta": 0.5},
}


@pytest.mark.usefixtures("always_together")
def test_each_member_is_the_run_it_would_have_been_alone(tmp_path: Path, rounds: list[int]) -> None:
    recipes = {name: tiny_of(changes) for name, changes in MEMBERS.items()}
    endings = train_together(tmp_path / "together", recipes)
    assert {end.status for end in endings.values()} == {"finished"}
    assert rounds.count(4) >= 102  # and one to try
    for name, recipe in recipes.items():
        train(tmp_path / name, recipe)
        ours, alone = metrics_of(tmp_path / "together" / name), metrics_of(tmp_path / name)
        assert ours[-1]["step"] == 102
        for quantity in ("loss", "neg_elbo", "rate", "grad_norm"):
            expected = pytest.approx([line[quantity] for line in alone], rel=1e-3)
            assert [line[quantity] for line in ours] == expected, (name, quantity)
        assert [line["lr"] for line in ours] == [line["lr"] for line in alone]
        about = RunFolder(tmp_path / "together" / name)
        assert about.read_json(about.environment_file)["engine"] == "vectorized"
        assert about.weights_file.is_file()


@pytest.mark.usefixtures("always_together")
def test_a_member_that_is_done_leaves_and_costs_nothing(tmp_path: Path, rounds: list[int]) -> None:
    recipes = {str(epochs): tiny_of({**COMMON, "training.epochs": epochs}) for epochs in (1, 2, 4)}
    train_together(tmp_path, recipes)
    counts = [rounds.count(m) for m in (3, 2, 1)]
    assert counts == [6 + 1, 6 + 1, 12 + 1]  # one more each, in which the engine was tried
    assert [len(metrics_of(tmp_path / name)) for name in recipes] == [1, 2, 4]


@pytest.mark.usefixtures("always_together")
def test_everything_that_has_a_state_stays_each_members_own(tmp_path: Path) -> None:
    """Patience, schedule, clipping, moving average, and a last batch that is smaller."""
    rich = {**RICH, "training.epochs": 5, "data.train_limit": 100, "data.binarization": "dynamic", "likelihood.name": "bernoulli"}
    recipes = {str(seed): tiny_of({**rich, "training.seed": seed}) for seed in (0, 1)}
    train_together(tmp_path / "together", recipes)
    for name, recipe in recipes.items():
        train(tmp_path / name, recipe)
        ours, alone = metrics_of(tmp_path / "together" / name), metrics_of(tmp_path / name)
        assert [line["neg_elbo"] for line in ours] == pytest.approx([line["neg_elbo"] for line in alone], rel=1e-3)


@pytest.mark.usefixtures("always_together")
def test_a_member_that_diverges_leaves_the_others_alone(tmp_path: Path) -> None:
    recipes = {"good": tiny_of(COMMON), "bad": tiny_of({**COMMON, "optimizer.lr": 1e30})}
    endings = train_together(tmp_path, recipes)
    assert endings["bad"].status == "diverged"
    assert "became" in endings["bad"].message
    outcomes = {name: (about := RunFolder(tmp_path / name)).read_json(about.environment_file)["outcome"] for name in recipes}
    assert outcomes["bad"].startswith("diverged: Training stopped at step ")
    assert outcomes["good"] == "all 17 epochs done"
    assert endings["good"].status == "finished"
    assert math.isfinite(metrics_of(tmp_path / "good")[-1]["neg_elbo"])
    assert len(metrics_of(tmp_path / "good")) == 17


@pytest.mark.usefixtures("always_together")
def test_a_member_whose_disk_refuses_leaves_the_others_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append = RunFolder.append_metrics

    def refuse(self: RunFolder, line: Any) -> None:
        if self.path.name == "bad" and line["epoch"] == 2:
            raise MachineError("The disk is full.")
        append(self, line)

    monkeypatch.setattr(RunFolder, "append_metrics", refuse)
    changes = {**COMMON, "training.epochs": 4}
    endings = train_together(tmp_path, {"good": tiny_of(changes), "bad": tiny_of({**changes, "training.seed": 1})})
    assert (endings["bad"].status, endings["bad"].message) == ("failed", "The disk is full.")
    assert endings["good"].status == "finished"
    assert len(metrics_of(tmp_path / "good")) == 4


@pytest.mark.usefixtures("always_together")
def test_what_is_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipes = {str(seed): tiny_of({**COMMON, "training.epochs": 4, "training.seed": seed}) for seed in (0, 1)}
    train_together(tmp_path / "whole", recipes)
    steps: list[int] = []
    original = engine.fit_together

    def broken_off(joint: Joint, stop_asked: Any, watch: Any) -> None:
        original(joint, lambda: len(steps) == 9, lambda: steps.append(1) or watch())

    monkeypatch.setattr("vaelid.together.fit_together", broken_off)
    endings = train_together(tmp_path / "broken", recipes)
    assert {end.status for end in endings.values()} == {"interrupted"}
    assert [len(metrics_of(tmp_path / "broken" / name)) for name in recipes] == [1, 1]
    monkeypatch.undo()
    monkeypatch.setattr(Joint, "pays", lambda _: True)
    train_together(tmp_path / "broken", recipes)
    for name in recipes:
        ours, whole = metrics_of(tmp_path / "broken" / name), metrics_of(tmp_path / "whole" / name)
        assert ours == whole, "the same engine over the same steps"


@pytest.mark.usefixtures("always_together")
def test_members_keep_the_threads_that_they_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipes = {str(seed): tiny_of({**COMMON, "training.epochs": 1, "training.seed": seed}) for seed in (0, 1)}
    train_together(tmp_path, recipes)
    for name in recipes:
        folder = RunFolder(tmp_path / name)
        about = folder.read_json(folder.environment_file)
        assert about["threads"] == torch.get_num_threads()
        folder.write_json(folder.environment_file, {**about, "threads": torch.get_num_threads() + 1})
    seen: list[int] = []
    call = Joint.__call__
    monkeypatch.setattr(Joint, "__call__", lambda *given: seen.append(torch.get_num_threads()) or call(*given))
    before = torch.get_num_threads()
    train_together(tmp_path, {name: recipe.override({"training.epochs": 2}) for name, recipe in recipes.items()})
    assert set(seen) == {before + 1}
    assert torch.get_num_threads() == before


def test_once_stopped_no_other_group_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[int] = []
    monkeypatch.setattr("vaelid.together.stop_on_signal", lambda: nullcontext(lambda: bool(trained)))
    monkeypatch.setattr(Together, "_train", lambda _self, group, *_: trained.append(len(group)))
    recipes = {str(size): tiny_of({**COMMON, "training.batch_size": size}) for size in (8, 16)}
    with pytest.raises(KeyboardInterrupt):
        train_together(tmp_path, recipes)
    assert trained == [1]


@pytest.mark.usefixtures("always_together")
def test_a_disk_that_refuses_one_members_figures_leaves_the_others_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: RunFolder) -> None:
        if folder.path.name == "0":
            raise MachineError("figures cannot be written")

    monkeypatch.setattr("vaelid.together.training_figures", refuse)
    recipes = {str(seed): tiny_of({**COMMON, "training.epochs": 1, "training.seed": seed}) for seed in (0, 1)}
    endings = train_together(tmp_path, recipes)
    assert endings["0"] == Ending("failed", "figures cannot be written")
    assert endings["1"].status == "finished"


def test_a_batching_that_does_not_pay_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Joint, "pays", lambda _: False)
    monkeypatch.setattr("vaelid.together.fit_together", lambda *_: pytest.fail("trained together"))
    recipes = {name: tiny_of({**COMMON, "training.epochs": 2, "training.seed": seed}) for seed, name in enumerate("ab")}
    assert {end.status for end in train_together(tmp_path, recipes).values()} == {"finished"}
    for name, recipe in recipes.items():
        train(tmp_path / f"alone {name}", recipe)
        assert metrics_of(tmp_path / name) == metrics_of(tmp_path / f"alone {name}")


@pytest.mark.usefixtures("always_together")
def test_gradients_that_differ_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "TOLERANCE", -1.0)
    monkeypatch.setattr("vaelid.together.fit_together", lambda *_: pytest.fail("trained together"))
    recipes = {name: tiny_of({**COMMON, "training.epochs": 1, "training.seed": seed}) for seed, name in enumerate("ab")}
    assert {end.status for end in train_together(tmp_path, recipes).values()} == {"finished"}


@pytest.mark.parametrize(
    ("changes", "together"),
    [
        ({"training.seed": 5}, True),
        ({"optimizer.lr": 0.1, "optimizer.name": "sgd"}, True),
        ({"objective.beta": 0.1}, True),
        ({"training.batch_size": 16}, False),
        ({"prior.components": 3}, False),
        ({"encoder.hidden": [10]}, False),
        ({"data.train_limit": 64}, False),
        ({"objective.samples": 2}, False),
    ],
)
def test_who_is_alike(changes: dict[str, Any], together: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[Member]] = []
    monkeypatch.setattr("vaelid.together.groups", lambda members: seen.append(members) or [])
    base = {**COMMON, "training.epochs": 1}
    train_together(tmp_path, {"a": tiny_of(base), "b": tiny_of({**base, **changes})})
    assert alike(*seen[0]) is together


def test_a_member_that_cannot_be_recorded_trains_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise PartError("no recording")

    monkeypatch.setattr(engine, "capture", refuse)
    recipes = {name: tiny_of({**COMMON, "training.epochs": 1, "training.seed": seed}) for seed, name in enumerate("ab")}
    assert {end.status for end in train_together(tmp_path, recipes).values()} == {"finished"}


def test_constants_that_differ_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[Member]] = []
    monkeypatch.setattr("vaelid.together.groups", lambda members: seen.append(members) or [])
    base = {"likelihood.name": "gaussian", "likelihood.scale": "fixed", "training.epochs": 1}
    recipes = {str(s): tiny_of({**base, "likelihood.sigma": s, "training.seed": i}) for i, s in enumerate((0.1, 0.2))}
    train_together(tmp_path, recipes)
    assert not alike(*seen[0])
    assert alike(seen[0][0], seen[0][0])


@pytest.mark.usefixtures("always_together")
def test_a_study_is_trained_together(tmp_path: Path, rounds: list[int]) -> None:
    study = vaelid.study(
        "digits",
        out=tmp_path,
        grid={"lr": [1e-3, 1e-2]},
        seeds=2,
        engine="vectorized",
        evaluate=False,
        epochs=2,
        hidden=[8],
        settings={"data.train_limit": 64, "data.held_out_limit": 32},
    )
    assert 4 in rounds
    assert {member.status for member in study.folder.read().members.values()} == {"finished"}
    assert study.folder.read().selection["chosen"]


def test_a_search_is_not_vectorized(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    with pytest.raises(UserError, match="not trained together"):
        vaelid.study("digits", out=tmp_path, search={"lr": "log:1e-4:1e-2"}, trials=2, engine="vectorized")
