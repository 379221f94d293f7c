"""Processes of a study: how each one's end is read, how many run at a time, and that none outlives the study."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tiny_runs import TINY
from training_helpers import tiny_of
from vaelid import pool, worker
from vaelid.errors import Diverged, Interrupted, UserError, VaelidError
from vaelid.pool import Ending, Pool, Process, start
from vaelid.worker import Order, carry_out_order

LONG = "x" * 3000 + " the end"
KILL_ITSELF = "import os; os.kill(os.getpid(), {})"


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_PAUSE", 0.0)


def order(threads: int = 1, **changes: Any) -> Order:
    return Order(**{"recipe": "", "code_from": ".", "folder": ".", "device": "cpu", "init_from": None, **changes},
                 checkpoint_seconds=7.0, threads=threads)  # fmt: skip


def program(code: str, **how: Any) -> Process:
    """A process that runs ``code`` in the place of a training."""
    errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process's end
    return Process("one", 1, subprocess.Popen([sys.executable, "-I", "-c", code], stderr=errors, **how), errors)


# How one ended ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "ending"),
    [
        ("", Ending("finished")),
        (f"import sys; print('{LONG}', file=sys.stderr); sys.exit({Diverged.exit_code})", Ending("diverged", LONG[-2000:])),
        (f"import sys; sys.exit({Interrupted.exit_code})", Ending("interrupted")),
        (f"import sys; sys.exit('{LONG}')", Ending("failed", LONG[-2000:])),
        ("import sys; sys.exit(7)", Ending("failed", "exit code 7")),
        (KILL_ITSELF.format(int(signal.SIGKILL)), Ending("failed", "killed by signal 9 (memory may have run out)")),
        (KILL_ITSELF.format(int(signal.SIGTERM)), Ending("failed", "killed by signal 15")),
    ],
)
def test_an_end_in_words(code: str, ending: Ending) -> None:
    process = program(code)
    process.popen.wait()
    assert process.ending() == ending


def test_what_was_asked_to_stop_before_it_could_listen_is_interrupted_and_no_failure() -> None:
    process = program("input()", stdin=subprocess.PIPE)
    assert process.ending() is None, "it waits for a line"
    process.stop()
    process.popen.wait()
    assert process.popen.returncode == -signal.SIGTERM
    assert process.ending() == Ending("interrupted")


def test_a_training_gets_its_threads_its_order_and_a_session_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    told = "import os, sys; sys.exit(repr((sys.stdin.readline(), os.getsid(0) == os.getpid(), *map(os.environ.get, {}))))"
    names = ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PYTHONPATH"]
    made = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda _, **how: made([sys.executable, "-S", "-c", told.format(names)], **how))
    monkeypatch.setenv("PYTHONPATH", "mine")
    one = order(3, track=("tensorboard",))
    process = start("one", one)
    process.popen.wait()
    ending = process.ending()
    assert ending is not None
    paths = os.pathsep.join([str(Path(pool.__file__).parents[1]), "mine"])
    assert ending.message == repr((one.to_line().decode(), True, "3", "3", "3", paths))


# Several at a time --------------------------------------------------------------------------------------------------------


class Pretended:
    """Stands for a process: ends by itself after some looks at it, or at once when it is asked to stop."""

    def __init__(self, name: str, threads: int, looks: int) -> None:
        self.name, self.threads, self.looks, self.stopped = name, threads, looks, False

    def stop(self) -> None:
        self.stopped = True

    def ending(self) -> Ending | None:
        self.looks -= 1
        return Ending("interrupted") if self.stopped else Ending("finished") if self.looks < 0 else None


def carry_out(jobs: int, threads: Sequence[int], unwanted: Sequence[str] = ()) -> tuple[list[list[int]], dict[str, str]]:
    """Run a process for each number of threads, two looks each; the threads of those that ran together, and how each ended."""
    seen, ends = [], dict[str, str]()
    orders = iter([(str(number), order(count)) for number, count in enumerate(threads)])

    def watch(running: list[str]) -> Sequence[str]:
        seen.append([threads[int(name)] for name in running])
        return unwanted

    running = Pool(jobs, lambda name, one: Pretended(name, one.threads, 2))  # type: ignore[arg-type, return-value]
    running.run(lambda: next(orders, None), lambda _: None, lambda name, end: ends.update({name: end.status}), watch)
    return seen, ends


def test_no_more_run_than_jobs_and_threads_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "cores", lambda: 4)
    for jobs, threads, most, together in (
        (2, [1] * 5, 2, 2),  # as many as jobs
        (3, [3, 2, 1, 1, 2], 4, 3),  # no more threads than cores
        (2, [9, 1, 9], 9, 1),  # one that needs more than there is runs alone
        (6, [1] * 6, 6, 6),  # more jobs than cores, if that is asked for
    ):
        seen, ends = carry_out(jobs, threads)
        assert ends == {str(number): "finished" for number in range(len(threads))}
        assert (max(map(sum, seen)), max(map(len, seen))) == (most, together), threads


def test_one_that_is_not_wanted_is_stopped_and_the_others_go_on() -> None:
    assert carry_out(2, [1, 1, 1], ["1"])[1] == {"0": "finished", "1": "interrupted", "2": "finished"}


def test_a_study_that_is_stopped_asks_all_of_its_trainings_to_stop() -> None:
    orders, ends = iter([("a", order()), ("b", order()), ("c", order())]), dict[str, Ending]()

    def stopped(_: list[str]) -> list[str]:
        raise KeyboardInterrupt

    endless = Pool(2, lambda name, one: Pretended(name, one.threads, 10**9))  # type: ignore[arg-type, return-value]
    with pytest.raises(KeyboardInterrupt):
        endless.run(lambda: next(orders, None), lambda _: None, lambda name, end: ends.update({name: end}), stopped)
    assert ends == dict.fromkeys("ab", Ending("interrupted"))


def test_one_that_does_not_stop_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_PATIENCE", 0.0)
    deaf = program(
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); input()",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert deaf.popen.stdout is not None
    with deaf.popen.stdout as said:
        assert said.readline().strip() == b"deaf"
        orders, ends = iter([("one", order())]), dict[str, Ending]()

        def stopped(_: list[str]) -> list[str]:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            Pool(1, lambda *_: deaf).run(
                lambda: next(orders, None), lambda _: None, lambda name, end: ends.update({name: end}), stopped
            )
    try:
        assert deaf.popen.returncode == -signal.SIGKILL
        assert ends == {"one": Ending("interrupted")}
    finally:
        deaf.popen.kill()


# The worker ---------------------------------------------------------------------------------------------------------------


class Input:
    """Standard input that holds an order, and whose other end is closed."""

    def __init__(self, line: bytes) -> None:
        self.buffer = io.BytesIO(line)
        self.end, other = os.pipe()
        os.close(other)

    def fileno(self) -> int:
        return self.end


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (None, 0, ""),
        (Diverged("it became nan"), Diverged.exit_code, "it became nan"),
        (UserError("no such prior"), UserError.exit_code, "no such prior"),
        (VaelidError("so it goes"), 1, "so it goes"),
        (ZeroDivisionError("a bug"), 1, "ZeroDivisionError: a bug"),
    ],
)
def test_the_worker_ends_as_the_training_did_and_watches_for_the_studys_end(
    error: Exception | None, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given, watched = list[Order](), threading.Event()

    def carried_out(one: Order) -> None:
        given.append(one)
        if error is not None:
            raise error

    sent = order(2)
    monkeypatch.setattr(worker, "carry_out_order", carried_out)
    monkeypatch.setattr(worker, "_stop_when_alone", watched.set)
    monkeypatch.setattr(sys, "stdin", Input(sent.to_line()))
    assert worker.main() == code
    assert [one.to_line() for one in given] == [sent.to_line()]
    assert said in capsys.readouterr().err
    assert watched.wait(60)


def test_a_worker_whose_study_is_gone_asks_itself_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda *what: sent.append(what))
    monkeypatch.setattr(sys, "stdin", Input(b""))
    worker._stop_when_alone()
    assert sent == [(os.getpid(), signal.SIGTERM)]


def test_a_worker_trains_what_the_order_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads, trained = list[int](), list[Any]()
    monkeypatch.setattr("torch.set_num_threads", threads.append)
    monkeypatch.setattr(worker, "carry_out", lambda *what: trained.append(what))
    recipe = tiny_of(TINY)
    carry_out_order(
        order(3, recipe=recipe.to_toml(), folder=str(tmp_path / "run"), init_from=str(tmp_path / "other"), engine="eager")
    )
    [(asked, conditions, _)] = trained
    assert threads == [3]
    assert (asked.recipe.to_toml(), asked.folder.path) == (recipe.to_toml(), tmp_path / "run")
    assert (conditions.init_from, conditions.checkpoint_seconds) == (tmp_path / "other", 7.0)
    assert (conditions.device.type, conditions.overwrite, conditions.engine) == ("cpu", False, "eager")
