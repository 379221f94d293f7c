"""How the program ends: exit codes, one clear message, interruptions, and readers that go away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import vaelid
import vaelid.run
from tiny_runs import Program, evaluated, no_figures, trained
from vaelid import cli
from vaelid.errors import CheckFailed, Diverged, Interrupted, MachineError, UserError
from vaelid.progress import PlainLines

pytestmark = pytest.mark.usefixtures(no_figures.__name__)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Program:
    return Program(capsys)


def command(*arguments: object, **given: Any) -> subprocess.CompletedProcess[str]:
    """The program in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(Path(vaelid.__file__).parents[1]), **given.pop("env", {})}
    words = [sys.executable, "-m", "vaelid", *map(str, arguments)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **given}
    return subprocess.run(words, text=True, check=False, env=environment, **streams)


def failing(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(vaelid.run, "open_run", fail)


class OutOfMemoryError(RuntimeError):
    """By its name what torch raises."""


CODES: list[tuple[BaseException, int, str]] = [
    (UserError("what", "do"), 2, "vaelid: what\ndo\n"),
    (MachineError("what"), 2, "vaelid: what\n"),
    (CheckFailed("what"), 3, "vaelid: what\n"),
    (Diverged("what"), 5, "vaelid: what\n"),
    (Interrupted("what"), 130, "vaelid: what\n"),
    (KeyboardInterrupt(), 130, "vaelid: Interrupted.\nTraining and evaluation go on where they were"),
    (
        OSError(28, "No space left on device", "file"),
        2,
        "vaelid: The machine refused: OSError: [Errno 28] No space left on device: 'file'.",
    ),
    (MemoryError("all gone"), 2, "vaelid: Memory ran out: MemoryError: all gone\nTry"),
    (OutOfMemoryError("all gone"), 2, "vaelid: Memory ran out: OutOfMemoryError: all gone\nTry"),
    (RuntimeError("[enforce fail] can't allocate memory: 9"), 2, "vaelid: Memory ran out: RuntimeError: [enforce fail] can't"),
    (ZeroDivisionError("oh"), 1, "vaelid: internal error: ZeroDivisionError: oh\nThis is our fault; --debug shows where.\n"),
]


@pytest.mark.parametrize(("error", "code", "message"), CODES, ids=[type(error).__name__ for error, _, _ in CODES])
def test_exit_codes_and_messages(
    error: BaseException, code: int, message: str, monkeypatch: pytest.MonkeyPatch, run: Program
) -> None:
    failing(error, monkeypatch)
    said = run("show", "x")
    assert (said.code, said.out) == (code, "")
    assert said.err.startswith(message)
    assert "Traceback" not in said.err


@pytest.mark.parametrize("arguments", [["--debug", "show", "x"], ["show", "--debug", "x"], ["show", "x", "--debug"]])
@pytest.mark.parametrize(("error", "code"), [(UserError("what"), 2), (ZeroDivisionError("oh"), 1)])
def test_debug_shows_the_traceback_from_any_place(
    arguments: list[str], error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, run: Program
) -> None:
    failing(error, monkeypatch)
    said = run(*arguments)
    assert said.code == code
    assert "Traceback (most recent call last)" in said.err
    assert "in fail" in said.err
    assert said.err.splitlines()[-1].startswith("vaelid: ") or "our fault" in said.err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["frobnicate"], "No such command 'frobnicate'"),
        (["train", "--nonsense"], "No such option"),
        (["train", "digits", "--latent", "2.5"], "--latent"),
        (["train", "digits", "--lr", "fast"], "--lr"),
        (["train", "digits", "--epochs"], "--epochs"),
        (["evaluate"], "RUN"),
        (["sample", "x", "-n", "many"], "-n"),
        (["recipes", "show"], "NAME"),
    ],
)
def test_usage_errors_exit_2(arguments: list[str], reason: str, run: Program) -> None:
    assert reason in run.refuses(*arguments)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_evaluation_saves_what_is_done(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Program
) -> None:
    opened = trained(tmp_path)

    def interrupt(self: PlainLines, units: int, text: str = "") -> None:
        signal.raise_signal(number)

    with monkeypatch.context() as patched:
        patched.setattr(PlainLines, "advance", interrupt)
        said = run("evaluate", opened.folder.path, "--samples", 20, "--elbo-samples", 3, "--batch", 10)
    assert said.code == 130
    assert "run the same command again" in said.err
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert len(opened.folder.read_arrays(opened.folder.results / "test.partial.npz")["nll"]) == 10
    assert run("evaluate", opened.folder.path, "--samples", 20, "--elbo-samples", 3).code == 0
    whole = evaluated(tmp_path, "whole")
    for found, expected in zip(
        *(r.folder.read_arrays(r.folder.results / "test.npz")["nll"] for r in (opened, whole)), strict=True
    ):
        assert found == pytest.approx(expected, abs=1e-3)


def test_a_reader_that_goes_away_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as pipe:
        done = command("--version", stdout=pipe)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_terminal_without_greek_letters_is_no_error(tmp_path: Path) -> None:
    done = command("show", evaluated(tmp_path).folder.path, env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert "?ELBO" in done.stdout


def test_the_module_is_the_program() -> None:
    done = command("show", "nowhere")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("vaelid: nowhere is no run folder")


def test_main_reads_the_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["vaelid", "--version"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith("vaelid ")
