"""Epochs told to a tracker: ``--track tensorboard``, ``wandb``, ``mlflow``.

    begin ─> the epochs that the tracker lacks, from metrics.jsonl ─> one line after every epoch ─> end

Tracking is no part of a run's identity, and cannot stop a training: the first error of a tracker is told in plain words, and that
tracker hears nothing more. Every epoch reaches it once, also when a training is resumed or tracking is asked for later.
"""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from vaelid.errors import MachineError
from vaelid.folder import RunFolder
from vaelid.progress import Reporter
from vaelid.settings import unknown

Line = Mapping[str, Any]
#: The number that every epoch has, by which a tracker knows what it was told.
_ALWAYS = "neg_elbo"


class Tracker(ABC):
    """One service that is told of one run; its package is imported when it is made.

    Raises:
        MachineError: on construction, if the package is not installed.
    """

    @abstractmethod
    def begin(self, folder: RunFolder, settings: Mapping[str, Any], epochs: int) -> int:
        """Open the run's record, or take it up; returns how many epochs it holds already.

        Args:
            settings: of the resolved recipe, by full name
            epochs: finished in the training; a record that holds more is of a training that was killed
        """

    @abstractmethod
    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """Tell the numbers of a finished epoch."""

    @abstractmethod
    def end(self) -> None:
        """Close the record."""


class TensorBoard(Tracker):
    """Event files in ``tracking/tensorboard``: ``tensorboard --logdir RUN``, or of a folder of runs."""

    def __init__(self) -> None:
        try:
            from tensorboard.backend.event_processing import event_accumulator
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise missing("tensorboard", error, "install it: pip install 'vaelid[tensorboard]'") from error
        self._open, self._read = SummaryWriter, event_accumulator.EventAccumulator

    def begin(self, folder: RunFolder, settings: Mapping[str, Any], epochs: int) -> int:
        path = folder.tracking / "tensorboard"
        held = self._held(path)
        # What a killed training told beyond its last checkpoint is struck out, and told again.
        self.writer = self._open(str(path), purge_step=epochs + 1 if held > epochs else None)
        if not held:
            self.writer.add_text("recipe", "\n".join(f"    {name} = {value}" for name, value in settings.items()))
        return min(held, epochs)

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, epoch)

    def end(self) -> None:
        self.writer.close()

    def _held(self, path: Path) -> int:
        """The last epoch in the event files."""
        if not path.is_dir():
            return 0
        events = self._read(str(path))
        events.Reload()
        return max((event.step for event in events.Scalars(_ALWAYS)), default=0) if _ALWAYS in events.Tags()["scalars"] else 0


class WeightsAndBiases(Tracker):
    """A run of wandb, whose id lies in ``tracking/wandb.json``; project, entity and mode by its environment variables."""

    def __init__(self) -> None:
        try:
            import wandb
        except ImportError as error:
            raise missing("wandb", error, "install it: pip install 'vaelid[wandb]'") from error
        self._wandb = wandb

    def begin(self, folder: RunFolder, settings: Mapping[str, Any], epochs: int) -> int:
        self.folder, self.name = folder, kept_name(folder, "wandb", lambda: uuid.uuid4().hex[:12])
        self.run = self._wandb.init(
            id=self.name, name=folder.path.name, dir=str(folder.tracking), config=dict(settings), resume="allow"
        )
        # Its steps only grow: epochs that it was told before a kill are not told again, and need not be, for they are the same.
        # They are kept here, since without a connection it does not know what it was told.
        return int(folder.read_json(self._kept).get("epoch", 0))

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        self.run.log({**values, "epoch": epoch}, step=epoch)
        self.folder.write_json(self._kept, {"run": self.name, "epoch": epoch})

    def end(self) -> None:
        self.run.finish()

    @property
    def _kept(self) -> Path:
        return self.folder.tracking / "wandb.json"


class MLflow(Tracker):
    """A run of MLflow, whose id lies in ``tracking/mlflow.json``; server and experiment by its environment variables."""

    def __init__(self) -> None:
        try:
            import mlflow
        except ImportError as error:
            raise missing("mlflow", error, "install it: pip install 'vaelid[mlflow]'") from error
        self._mlflow = mlflow

    def begin(self, folder: RunFolder, settings: Mapping[str, Any], epochs: int) -> int:
        self.client = self._mlflow.MlflowClient()
        self.run = kept_name(folder, "mlflow", lambda: self._create(folder.path.name, settings))
        self.client.update_run(self.run, status="RUNNING")
        return max((metric.step for metric in self.client.get_metric_history(self.run, _ALWAYS)), default=0)

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        now, metric = int(time.time() * 1000), self._mlflow.entities.Metric
        self.client.log_batch(self.run, metrics=[metric(name, value, now, epoch) for name, value in values.items()])

    def end(self) -> None:
        self.client.set_terminated(self.run)

    def _create(self, name: str, settings: Mapping[str, Any]) -> str:
        experiment = self._mlflow.set_experiment(self._mlflow.environment_variables.MLFLOW_EXPERIMENT_NAME.get() or "vaelid")
        run = self.client.create_run(experiment.experiment_id, run_name=name).info.run_id
        for setting, value in settings.items():
            self.client.log_param(run, setting, value)
        return str(run)


TRACKERS: dict[str, type[Tracker]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases, "mlflow": MLflow}


def trackers_of(names: Sequence[str]) -> dict[str, Tracker]:
    """The trackers of these names, none of them opened yet.

    Raises:
        SettingError: for a name that is none.
        MachineError: if a package is not installed.
    """
    for name in names:
        if name not in TRACKERS:
            raise unknown("tracker", name, TRACKERS)
    return {name: TRACKERS[name]() for name in names}


@contextmanager
def tracked(
    trackers: Mapping[str, Tracker], folder: RunFolder, settings: Mapping[str, Any], history: Sequence[Line], reporter: Reporter
) -> Iterator[Callable[[Line], None]]:
    """For the length of a training: what it is to call with the line of every finished epoch.

    Args:
        settings: of the resolved recipe, by full name
        history: the lines of the epochs that are finished already
    """
    at_work, held = dict(trackers), dict.fromkeys(trackers, 0)

    def attempt(name: str, act: Callable[[], Any]) -> Any:
        try:
            return act()
        except Exception as error:  # noqa: BLE001 - whatever a service does, training goes on
            del at_work[name]
            reason = (str(error).splitlines() or [""])[0]
            said = f"warning: {name} failed ({type(error).__name__}: {reason}); training goes on without it. "
            said += "metrics.jsonl has every epoch: the same command tells the missing ones when it is run again."
            folder.log(said)
            reporter.say(said)
            return 0

    def tell(line: Line) -> None:
        values = {name: value for name, value in line.items() if name != "epoch" and isinstance(value, int | float)}
        for name, tracker in list(at_work.items()):
            if line["epoch"] > held[name]:
                attempt(name, partial(tracker.log, line["epoch"], values))

    epochs = history[-1]["epoch"] if history else 0
    for name, tracker in trackers.items():
        held[name] = attempt(name, partial(tracker.begin, folder, settings, epochs))
    for line in history:
        tell(line)
    try:
        yield tell
    finally:
        for name, tracker in list(at_work.items()):
            attempt(name, tracker.end)


def kept_name(folder: RunFolder, service: str, make: Callable[[], str]) -> str:
    """What a service calls this run: as the folder has it, or made now and written there."""
    file = folder.tracking / f"{service}.json"
    known = folder.read_json(file)
    if "run" not in known:
        known = {"run": make()}
        folder.write_json(file, known)
    return str(known["run"])


def missing(package: str, error: ImportError, remedy: str) -> MachineError:
    """The error for a tracker whose package is not there."""
    return MachineError(
        f"--track {package} needs the package {package}, which cannot be imported: {error}.", f"To use it, {remedy}"
    )
