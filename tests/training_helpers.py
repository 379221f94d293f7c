"""A training small enough for a test, and ways to watch, interrupt and damage it."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vaelid.build import settle
from vaelid.data import Data, DataSettings, Images, load_data, split_data
from vaelid.folder import RunFolder
from vaelid.progress import Reporter
from vaelid.recipe import Recipe, from_dict
from vaelid.supports import Support
from vaelid.training import loop, start
from vaelid.training.checkpoint import load_checkpoint
from vaelid.training.start import Conditions, prepare, train_in
from vaelid.training.state import Training
from vaelid.training.surroundings import own_randomness
from vaelid.training.validation import Validation

CPU = torch.device("cpu")
SECONDS = ("train_seconds", "validation_seconds")
#: Digits, 6 batches an epoch, 3 epochs; written out, so that a better built-in recipe changes no test.
TINY: dict[str, dict[str, Any]] = {
    "data": {"name": "digits", "train_limit": 192, "held_out_limit": 50},
    "model": {"latent": 3},
    "likelihood": {"name": "categorical", "start": "data"},
    "prior": {"name": "mixture", "components": 4, "init": "k-means"},
    "encoder": {"name": "mlp", "hidden": [12]},
    "decoder": {"name": "mlp", "hidden": [12]},
    "objective": {"name": "elbo"},
    "optimizer": {"name": "adam", "lr": 1e-3},
    "training": {"batch_size": 32, "epochs": 3, "patience": 0},
}
#: Everything that has a state, in use at once.
RICH = {
    "objective.warmup": 2.0,
    "optimizer.name": "adamax",
    "optimizer.lr": 0.02,
    "schedule.name": "plateau",
    "schedule.wait": 1,
    "schedule.shrink": 0.7,
    "schedule.warmup_steps": 5,
    "training.ema": 0.8,
    "training.clip_norm": 1.0,
    "training.patience": 4,
    "training.epochs": 60,
}


class Notes(Reporter):
    """Keeps every word, and calls ``at_step`` with the number of steps seen so far."""

    def __init__(self, at_step: Callable[[int], None] = lambda steps: None) -> None:
        self.said: list[str] = []
        self.steps, self.at_step = 0, at_step

    def say(self, text: str) -> None:
        self.said.append(text)

    def start(self, title: str, total: int, done: int = 0) -> None: ...

    def advance(self, units: int, text: str = "") -> None:
        self.steps += units
        self.at_step(self.steps)

    def stop(self) -> None: ...


def tiny(**changes: Any) -> Recipe:
    """The digits recipe, made tiny and resolved; keys with ``__`` for the dot."""
    return tiny_of({key.replace("__", "."): value for key, value in changes.items()})


def tiny_of(changes: dict[str, Any]) -> Recipe:
    recipe = from_dict(TINY).override(changes)
    return from_dict(settle(recipe, data_of(recipe), Path()).to_dict())


def data_of(recipe: Recipe) -> Data:
    return _loaded(json.dumps(recipe.to_dict()["data"]))


@cache
def _loaded(section: str) -> Data:
    return load_data(from_dict({"data": json.loads(section)}).data)


def train(path: Path, recipe: Recipe, reporter: Reporter | None = None, data: Data | None = None, **conditions: Any) -> str:
    return train_in(RunFolder(path), recipe, Path(), data or data_of(recipe), Conditions(CPU, **conditions), reporter or Notes())


def metrics_of(path: Path) -> list[dict[str, Any]]:
    """All that metrics.jsonl says, but for the seconds."""
    return [{k: v for k, v in line.items() if k not in SECONDS} for line in RunFolder(path).metrics()]


def assert_same_run(path: Path, reference: Path) -> None:
    """Bit for bit: best weights, last checkpoint, metrics, pictures, recipe."""
    ours, theirs = RunFolder(path), RunFolder(reference)
    assert metrics_of(path) == metrics_of(reference)
    assert ours.weights_file.read_bytes() == theirs.weights_file.read_bytes()
    assert ours.recipe_file.read_bytes() == theirs.recipe_file.read_bytes()
    mine, other = (load_checkpoint(folder, assert_not_called) for folder in (ours, theirs))
    assert mine.facts == other.facts
    assert mine.tensors.keys() == other.tensors.keys()
    for name, tensor in mine.tensors.items():
        assert torch.equal(tensor, other.tensors[name]), name
    for name, pictures in ours.read_arrays(ours.progress_file).items():
        np.testing.assert_array_equal(pictures, theirs.read_arrays(theirs.progress_file)[name])


def ready(path: Path, recipe: Recipe) -> Training:
    """A training that has not begun."""
    with own_randomness(recipe.training.seed):
        training = prepare(RunFolder(path), recipe, data_of(recipe), CPU, Path())
    path.mkdir(exist_ok=True)
    return training


def scripted(monkeypatch: pytest.MonkeyPatch, values: list[float]) -> None:
    """Validation tells these −ELBOs, one per epoch."""
    left = iter(values)
    monkeypatch.setattr(loop, "validate", lambda *_: Validation(next(left) - 1, 1.0, "sampled", 3, 3))


def gray_data(support: Support, *, spoiled: int | None = None) -> Data:
    pixels = torch.zeros(30, 1, 2, 2, dtype=torch.float32)
    if spoiled is not None:
        pixels[spoiled, 0, 1, 0] = 0.3
    return split_data(Images("own", pixels, support), DataSettings("own"))


def tear(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def newest(folder: RunFolder) -> Path:
    return max(folder.checkpoints.glob("step-*"))


def interrupt_at(step: int) -> Notes:
    return Notes(lambda steps: signal.raise_signal(signal.SIGINT) if steps == step else None)


def poison(training_at: int, spoil: Callable[[Training], None], monkeypatch: pytest.MonkeyPatch) -> Notes:
    """A reporter that spoils the training after so many steps."""
    held: list[Training] = []
    fit = loop.fit
    monkeypatch.setattr(start, "fit", lambda training, *rest: (held.append(training), fit(training, *rest)))
    return Notes(lambda steps: spoil(held[0]) if steps == training_at else None)


def spoil_weight(value: float) -> Callable[[Training], None]:
    def spoil(training: Training) -> None:
        training.weights.flat.data[0] = value

    return spoil


def assert_not_called(*arguments: object) -> None:
    """Stands where nothing is to be said or done."""
    raise AssertionError(f"called with {arguments}")
