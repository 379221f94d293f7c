"""One tiny run on digits, made once per test session and copied for each test; and the program, called in this process."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vaelid
import vaelid.judging
import vaelid.run
from vaelid.cli import main
from vaelid.run import Run

#: Written out, so that a better built-in recipe changes no test.
TINY: dict[str, Any] = {
    "data.train_limit": 128,
    "data.held_out_limit": 30,
    "model.latent": 3,
    "prior.name": "mixture",
    "prior.components": 4,
    "prior.init": "normal",
    "encoder.hidden": (12,),
    "decoder.hidden": (12,),
    "optimizer.name": "adam",
    "optimizer.lr": 0.01,
    "training.batch_size": 32,
    "training.epochs": 2,
    "training.patience": 0,
    "training.seed": 0,
}
#: The same on the command line.
TINY_OPTIONS = [f"--set={name}={list(value) if isinstance(value, tuple) else value}" for name, value in TINY.items()]
SAMPLES = 20


@cache
def _scratch() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="vaelid-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def _trained() -> Path:
    return vaelid.train("digits", out=_scratch() / "run", device="cpu", settings=TINY).folder.path


@cache
def _evaluated() -> Path:
    path = _scratch() / "evaluated"
    shutil.copytree(_trained(), path)
    vaelid.open_run(path, device="cpu").evaluate(samples=SAMPLES, elbo_samples=3)
    return path


def trained(folder: Path, name: str = "run") -> Run:
    """A copy of the tiny run, trained and not evaluated."""
    return Run(shutil.copytree(_trained(), folder / name), "cpu")


def evaluated(folder: Path, name: str = "run") -> Run:
    """A copy of the tiny run, evaluated on the test split with K = ``SAMPLES`` and S = 3."""
    return Run(shutil.copytree(_evaluated(), folder / name), "cpu")


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take most of the time of a tiny evaluation: only tests of figures draw them."""
    _evaluated()  # with figures
    monkeypatch.setattr(vaelid.run.figures, "training_figures", lambda *_: [])
    monkeypatch.setattr(vaelid.judging.figures, "evaluation_figures", lambda *_: [])


@dataclass(frozen=True)
class Said:
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def message(self) -> str:
        """Standard error on one line, without the frames that the terminal library draws."""
        return " ".join(self.err.replace("│", " ").split())


class Program:
    """The command line, called in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *arguments: object) -> Said:
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        captured = self.capsys.readouterr()
        return Said(int(stopped.value.code or 0), captured.out, captured.err)

    def refuses(self, *arguments: object, code: int = 2) -> str:
        """The message of a command that must fail with this exit code, without a traceback."""
        said = self(*arguments)
        assert said.code == code, f"{arguments} gave {said.code}: {said.err}"
        assert "Traceback" not in said.err
        assert "internal error" not in said.err
        return said.message


def pixels(count: int = 40, channels: int = 1, side: int = 6) -> np.ndarray:
    """Bytes ``(N, C, H, W)``: a bright disc at a random place."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:side, :side]
    images = np.empty((count, channels, side, side), np.uint8)
    for image in images:
        row, column = random.integers(1, side - 1, 2)
        near = (rows - row) ** 2 + (columns - column) ** 2 <= 2
        image[...] = np.where(near, random.integers(180, 240, (channels, 1, 1)), random.integers(10, 60, (channels, 1, 1)))
    return images
