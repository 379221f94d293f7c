"""From a recipe, data and a folder to a training under way: fresh, resumed, or already finished."""

from __future__ import annotations

import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from vaelid.build import build_model, build_objective, build_optimizer, build_schedule, describe_inputs
from vaelid.data import Data
from vaelid.environment import describe_machine
from vaelid.errors import DataError, MachineError, RunError
from vaelid.evaluation.likelihood import PosteriorDraws
from vaelid.folder import RunFolder, write_atomic
from vaelid.likelihoods import Likelihood
from vaelid.progress import Reporter
from vaelid.recipe import Recipe
from vaelid.training.checkpoint import load_checkpoint
from vaelid.training.flat import FlatParameters
from vaelid.training.loop import Training, average_of, fit
from vaelid.training.snapshots import Snapshots
from vaelid.vae import VAE

#: How many training images the parts may look at before training (output bias, k-means).
_FIRST_LOOK = 10_000
#: Training images kept in the folder to be shown.
REAL_IMAGES = 16


@dataclass(frozen=True)
class Conditions:
    """How to train, apart from what: none of this is part of a run's identity."""

    device: torch.device
    overwrite: bool = False
    init_from: Path | None = None
    checkpoint_seconds: float = 10.0


def train_in(
    folder: RunFolder, recipe: Recipe, code_from: Path, data: Data, conditions: Conditions, reporter: Reporter
) -> str:
    """Train the resolved ``recipe`` in ``folder``, from scratch or from where it stands; returns why it ended, in words.

    Args:
        code_from: where the recipe's files of user code lie; they are copied into the folder

    Raises:
        RunError: if the folder belongs to other settings or data, or is in use.
        DataError: if the images do not fit the likelihood.
        Diverged, Interrupted, MachineError: see ``loop.fit``.
    """
    with folder.lock():
        if conditions.overwrite:
            clear(folder)
        first = not folder.exists
        if first:
            begin(folder, recipe, code_from, data, conditions)
        else:
            require_same(folder, recipe, data, conditions)
            write_atomic(folder.recipe_file, recipe.to_toml().encode())  # epochs or patience may have been raised
        threads = int(folder.read_json(folder.environment_file)["threads"])
        with fixed_threads(threads), own_randomness(recipe.training.seed), stop_on_signal() as stop_asked:
            training = prepare(folder, recipe, data, conditions, reporter)
            if training.outcome:
                reporter.say(f"{folder.path} is finished: {training.outcome}. Raise --epochs or --patience to go on.")
            else:
                note_outcome(folder, "")
                with reporter.bar("training", recipe.training.epochs * training.batches, training.state.step):
                    fit(training, reporter, stop_asked, conditions.checkpoint_seconds)
            note_outcome(folder, training.outcome)
            return training.outcome


def prepare(folder: RunFolder, recipe: Recipe, data: Data, conditions: Conditions, reporter: Reporter) -> Training:
    """All objects of a training, in the state of the last checkpoint if there is one."""
    model = build_model(recipe, data.shape, data.support, folder.code).to(conditions.device)
    check_data(model.likelihood, data)
    weights = FlatParameters(model)
    training = Training(
        settings=recipe.training,
        folder=folder,
        data=data.to(conditions.device),
        model=model,
        average=average_of(model, recipe.training.ema),
        objective=build_objective(recipe, folder.code),
        weights=weights,
        optimizer=build_optimizer(recipe, [weights.flat], folder.code),
        schedule=build_schedule(recipe, folder.code),
        snapshots=Snapshots(folder, recipe.training.seed),
    )
    checkpoint = load_checkpoint(folder)
    if checkpoint is not None:
        training.restore(checkpoint)
        reporter.say(f"resuming {folder.path} after epoch {training.state.epoch} (step {training.state.step})")
        return training
    folder.keep_metrics(0)  # lines of epochs that no checkpoint knows of would be written twice
    if conditions.init_from is not None:
        model.load_state_dict(RunFolder(conditions.init_from).require().weights())
    else:
        first_look(model, training.data)
    training.average.load_state_dict(model.state_dict())
    return training


@torch.no_grad()
def first_look(model: VAE, data: Data) -> None:
    """Let the likelihood and the prior start from training images, where they ask for it."""
    positions = torch.arange(min(_FIRST_LOOK, len(data.train)))
    x = data.train.batch(positions)
    model.likelihood.initialize(x)
    if model.prior.wants_data:
        draws = PosteriorDraws(model, x, positions, "first look", 0)
        model.prior.initialize(draws.draw(0, 1)[0])


def check_data(likelihood: Likelihood, data: Data) -> None:
    """Refuse data outside the likelihood's support before any time is spent.

    Raises:
        DataError: with the split, the value, its index and the remedy.
    """
    if likelihood.support.contains(data.support):
        return
    for split in (data.train, data.validation):
        for start in range(0, len(split), 1000):
            x = split.batch(torch.arange(start, min(start + 1000, len(split))))
            try:
                likelihood.support.check(x, likelihood.remedy)
            except DataError as error:
                raise DataError(f"{split.name} images {start}…: {error.problem}", error.remedy) from error


def begin(folder: RunFolder, recipe: Recipe, code_from: Path, data: Data, conditions: Conditions) -> None:
    """Write what never changes again. The recipe comes last: with it the folder is a run."""
    for name in recipe.code:
        if (code_from / name) != (folder.code / name):
            write_atomic(folder.code / name, (code_from / name).read_bytes())
    about = {
        **describe_machine(conditions.device),
        "engine": "eager",
        "threads": torch.get_num_threads(),
        "data": {"name": data.name, "fingerprint": data.fingerprint, **describe_inputs(data)},
        "init_from": str(conditions.init_from) if conditions.init_from else None,
    }
    folder.write_json(folder.environment_file, about)
    real = data.train.batch(torch.arange(min(REAL_IMAGES, len(data.train)))).clamp(0, 1)
    folder.write_arrays(folder.samples / "real.npz", {"images": real.cpu().numpy()})
    write_atomic(folder.recipe_file, recipe.to_toml().encode())


def note_outcome(folder: RunFolder, outcome: str) -> None:
    """Write into environment.json why training ended; empty while it has not."""
    about = folder.read_json(folder.environment_file)
    if about.get("outcome") != outcome:
        folder.write_json(folder.environment_file, {**about, "outcome": outcome})


def require_same(folder: RunFolder, recipe: Recipe, data: Data, conditions: Conditions) -> None:
    """Refuse to continue a run with other settings or on other images.

    Raises:
        RunError: with every setting that differs, and its two values.
    """
    about = folder.read_json(folder.environment_file)
    stood, asked = dict(folder.recipe().identity()), dict(recipe.identity())
    stood["data (fingerprint)"], asked["data (fingerprint)"] = about["data"]["fingerprint"], data.fingerprint
    if conditions.init_from is not None:
        stood["--init-from"], asked["--init-from"] = about["init_from"], str(conditions.init_from)
    differing = [key for key in sorted({*stood, *asked}) if _comparable(stood.get(key)) != _comparable(asked.get(key))]
    if differing:
        lines = "; ".join(f"{key} is {stood.get(key, 'not set')!r}, asked {asked.get(key, 'not set')!r}" for key in differing)
        raise RunError(
            f"{folder.path} holds a run with other settings: {lines}.",
            "Give another --out, or --overwrite to start afresh. (--epochs and --patience may be changed.)",
        )


def _comparable(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value  # TOML has lists only


def clear(folder: RunFolder) -> None:
    """Remove everything of the run but the lock that we hold. A folder that is no run folder is left alone.

    Raises:
        RunError: if the folder has files in it but no run.
    """
    entries = [entry for entry in folder.path.iterdir() if entry.name != "lock"]
    if entries and not folder.exists:
        raise RunError(f"{folder.path} is not empty and holds no run, so --overwrite will not touch it.", "Give another --out.")
    folder.recipe_file.unlink(missing_ok=True)  # first: from here on it is no run, should we be killed
    for entry in entries:
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Ctrl-C (and SIGTERM) ask for a stop after the step under way; a second Ctrl-C stops at once."""
    asked = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set  # signals belong to the main thread; a caller's thread is stopped by its own means
        return
    previous: dict[int, Any] = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def fixed_threads(count: int) -> Iterator[None]:
    """Sums over several threads depend on their number in the last bit: a resume uses the same."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Seed torch for the length of the block, and give the caller's generator back as it was."""
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def choose_device(name: str) -> torch.device:
    """``auto`` is CUDA, else MPS, else CPU.

    Raises:
        MachineError: if the device asked for is not there.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, there in available.items() if there))
    if not available.get(name.split(":")[0], False):
        there = ", ".join(kind for kind, ok in available.items() if ok)
        raise MachineError(f"Device {name!r} was asked for; this machine has: {there}.", "Choose --device auto.")
    return torch.device(name)
