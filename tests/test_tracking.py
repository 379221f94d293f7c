"""Trackers: tensorboard's own files read back, wandb and mlflow by stand-ins that keep what they are told."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import vaelid
from tiny_runs import TINY, Program, no_figures
from training_helpers import Notes
from vaelid.errors import Interrupted, MachineError, SettingError
from vaelid.folder import RunFolder
from vaelid.run import Run
from vaelid.training import start
from vaelid.training.tracking import TRACKERS, TensorBoard, Tracker, trackers_of

pytestmark = pytest.mark.usefixtures(no_figures.__name__)


def train(out: Path, *track: str, epochs: int = 3, **rest: Any) -> Run:
    settings = {**TINY, "training.epochs": epochs}
    return vaelid.train("digits", out=out, device="cpu", settings=settings, track=track, **rest)


def scalars(out: Path, name: str = "neg_elbo") -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out / "tracking" / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def curve(run: Run) -> list[tuple[int, float]]:
    return [(line["epoch"], pytest.approx(line["neg_elbo"])) for line in run.metrics]


# TensorBoard --------------------------------------------------------------------------------------------------------------


def test_tensorboard_holds_every_epoch_once(tmp_path: Path) -> None:
    run = train(tmp_path / "run", "tensorboard")
    assert scalars(run.folder.path) == curve(run)
    assert [value for _, value in scalars(run.folder.path, "lr")] == pytest.approx([0.01] * 3)
    run = train(tmp_path / "run", "tensorboard", epochs=5)
    assert scalars(run.folder.path) == curve(run)
    assert len(run.metrics) == 5


def test_epochs_from_before_tracking_are_told_later(tmp_path: Path) -> None:
    train(tmp_path / "run")
    run = train(tmp_path / "run", "tensorboard")
    assert scalars(run.folder.path) == curve(run), "also of a run that is finished"


def test_a_record_beyond_the_last_checkpoint_is_struck_out(tmp_path: Path) -> None:
    run = train(tmp_path / "run", "tensorboard")
    ahead = TensorBoard()
    assert ahead.begin(run.folder, {}, 3) == 3
    for epoch in (4, 5, 6):
        ahead.log(epoch, {"neg_elbo": -1.0})  # of a training that was killed before it saved them
    ahead.end()
    run = train(tmp_path / "run", "tensorboard", epochs=4)
    assert scalars(run.folder.path) == curve(run)
    assert len(run.metrics) == 4


def test_tracking_changes_nothing_of_the_run(tmp_path: Path) -> None:
    with_it, without = train(tmp_path / "a", "tensorboard"), train(tmp_path / "b")
    assert with_it.folder.weights_file.read_bytes() == without.folder.weights_file.read_bytes()
    assert with_it.folder.recipe_file.read_bytes() == without.folder.recipe_file.read_bytes()
    train(tmp_path / "a", epochs=4)
    assert len(scalars(tmp_path / "a")) == 3, "a run may go on without it"
    train(tmp_path / "a", overwrite=True)
    assert not (tmp_path / "a" / "tracking").exists()


# Stand-ins ----------------------------------------------------------------------------------------------------------------


class FakeWandb(ModuleType):
    """Keeps runs by id, and what each is told."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.runs: dict[str, dict[str, Any]] = {}

    def init(self, *, id: str, name: str, dir: str, config: Mapping[str, Any], resume: str) -> Any:
        assert resume == "allow"
        kept = self.runs.setdefault(id, {"name": name, "config": config, "logged": [], "finished": 0})

        def log(values: dict[str, float], step: int) -> None:
            kept["logged"].append((step, values))

        def finish() -> None:
            kept["finished"] += 1

        return SimpleNamespace(log=log, finish=finish)


class FakeMlflow(ModuleType):
    """Keeps what its client is told."""

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.calls: list[tuple[Any, ...]] = []
        self.steps: dict[str, list[int]] = {}
        self.entities = SimpleNamespace(Metric=lambda key, _value, _time, step: SimpleNamespace(key=key, step=step))
        setting = SimpleNamespace(get=lambda: None)
        self.environment_variables = SimpleNamespace(MLFLOW_EXPERIMENT_NAME=setting)
        for call in ("log_param", "set_terminated"):
            setattr(self, call, lambda *given, call=call: self.calls.append((call, *given)))

    def set_experiment(self, name: str) -> Any:
        return SimpleNamespace(experiment_id=f"experiment {name}")

    def MlflowClient(self) -> FakeMlflow:
        return self

    def create_run(self, experiment_id: str, run_name: str) -> Any:
        self.calls.append(("create_run", experiment_id, run_name))
        return SimpleNamespace(info=SimpleNamespace(run_id="r1"))

    def update_run(self, run_id: str, status: str) -> None:
        self.calls.append(("update_run", run_id, status))

    def log_batch(self, run_id: str, metrics: list[Any]) -> None:
        for metric in metrics:
            self.steps.setdefault(f"{run_id} {metric.key}", []).append(metric.step)

    def get_metric_history(self, run_id: str, name: str) -> list[Any]:
        return [SimpleNamespace(step=step) for step in self.steps.get(f"{run_id} {name}", [])]


def test_wandb_is_told_every_epoch_once_under_one_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", theirs)
    run = train(tmp_path / "run", "wandb")
    run = train(tmp_path / "run", "wandb", epochs=4)
    [kept] = theirs.runs.values()
    assert [(step, values["neg_elbo"]) for step, values in kept["logged"]] == curve(run)
    assert (kept["name"], kept["finished"], kept["config"]["model.latent"]) == ("run", 2, 3)
    assert [values["epoch"] for _, values in kept["logged"]] == [1, 2, 3, 4]


def test_mlflow_is_told_every_epoch_once_in_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = FakeMlflow()
    monkeypatch.setitem(sys.modules, "mlflow", theirs)
    train(tmp_path / "run", "mlflow")
    train(tmp_path / "run", "mlflow", epochs=4)
    assert theirs.steps["r1 neg_elbo"] == theirs.steps["r1 lr"] == [1, 2, 3, 4]
    assert theirs.calls.count(("create_run", "experiment vaelid", "run")) == 1
    assert ("log_param", "r1", "model.latent", 3) in theirs.calls
    assert theirs.calls.count(("set_terminated", "r1")) == 2


# Trouble ------------------------------------------------------------------------------------------------------------------


class Failing(Tracker):
    """Fails where it is told to."""

    where = ""

    def begin(self, folder: RunFolder, settings: Mapping[str, Any], epochs: int) -> int:
        return self._maybe("begin")

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        self._maybe("log")

    def end(self) -> None:
        self._maybe("end")

    def _maybe(self, where: str) -> int:
        if where == self.where:
            raise ConnectionError("no route to host\nand more")
        return 0


@pytest.mark.parametrize("where", ["begin", "log", "end"])
def test_a_failing_tracker_is_told_once_and_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    monkeypatch.setitem(TRACKERS, "failing", type("Broken", (Failing,), {"where": where}))
    notes = Notes()
    run = train(tmp_path / "run", "failing", "tensorboard", reporter=notes)
    assert len(run.metrics) == 3
    assert scalars(run.folder.path) == curve(run), "the other tracker goes on"
    [said] = [word for word in notes.said if "failing" in word]
    assert "ConnectionError: no route to host); training goes on without it" in said
    assert said in run.folder.log_file.read_text()


def test_the_record_is_closed_when_training_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any) -> None:
        raise Interrupted("stopped")

    closed: list[str] = []
    monkeypatch.setattr(TensorBoard, "end", lambda _self: closed.append("yes"))
    monkeypatch.setattr(start, "fit", stop)
    with pytest.raises(Interrupted):
        train(tmp_path / "run", "tensorboard")
    assert closed == ["yes"]


@pytest.mark.parametrize("name", list(TRACKERS))
def test_a_package_that_is_missing_is_named_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    for package in ("tensorboard.backend.event_processing", "wandb", "mlflow"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MachineError, match=rf"pip install 'vaelid\[{name}\]'"):
        train(tmp_path / "run", name)
    for verb in (["train", "digits"], ["study", "digits"]):
        said = Program(capsys)(*verb, "--out", tmp_path / "run", "--track", name)
        assert (said.code, f"'vaelid[{name}]'" in said.message) == (2, True)
    assert not (tmp_path / "run").exists()


def test_an_unknown_tracker_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SettingError, match="tensorboard"):
        trackers_of(["tensorbord"])
