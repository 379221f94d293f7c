"""Several trainings at a time, each in a process of its own, with the machine's threads divided among them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from vaelid.errors import Diverged, Interrupted
from vaelid.worker import Order

_PAUSE = 0.2  # seconds between two looks at the processes
_PATIENCE = 60.0  # seconds that a training has to save itself after it was asked to stop
_SHOWN = 2000  # characters of an error


@dataclass(frozen=True)
class Ending:
    """How a process ended: a status of ``sweeps.ledger`` and, where it went wrong, its words."""

    status: str
    message: str = ""


@dataclass
class Process:
    """A training under way."""

    name: str
    threads: int
    popen: subprocess.Popen[bytes]
    errors: IO[bytes]
    asked_to_stop: bool = False

    def stop(self) -> None:
        """Ask it to stop after the step under way; everything is saved then."""
        if not self.asked_to_stop:
            self.asked_to_stop = True
            with suppress(ProcessLookupError):
                self.popen.send_signal(signal.SIGTERM)

    def ending(self) -> Ending | None:
        """How it ended; None while it runs."""
        code = self.popen.poll()
        if code is None:
            return None
        self.errors.seek(0)
        said = self.errors.read().decode(errors="replace").strip()
        self.errors.close()
        if self.popen.stdin is not None:
            with suppress(OSError):
                self.popen.stdin.close()
        if code == 0:
            return Ending("finished")
        if code == Diverged.exit_code:
            return Ending("diverged", said[-_SHOWN:])
        if code == Interrupted.exit_code or self.asked_to_stop:
            return Ending("interrupted")
        killed = f"killed by signal {-code}" + (" (memory may have run out)" if code == -signal.SIGKILL else "")
        return Ending("failed", said[-_SHOWN:] or (killed if code < 0 else f"exit code {code}"))


def start(name: str, order: Order) -> Process:
    """Start a training in a session of its own, so that Ctrl-C reaches it by way of the study alone."""
    errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process's end, which reads it
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    threads = {variable: str(order.threads) for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    environment = {**os.environ, **threads, "PYTHONPATH": os.pathsep.join(paths)}
    popen = subprocess.Popen(
        [sys.executable, "-m", "vaelid.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        env=environment,
        start_new_session=True,
    )
    assert popen.stdin is not None
    with suppress(BrokenPipeError):  # it died at once; its ending says of what
        popen.stdin.write(order.to_line())
        popen.stdin.flush()
    return Process(name, order.threads, popen, errors)


def cores() -> int:
    """How many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # no Linux
        return os.cpu_count() or 1


class Pool:
    """Runs orders, ``jobs`` at a time, and fewer where some need more threads than their share: no two ever fight for a core.

    Args:
        jobs: at most so many at a time
        begin: makes a process of an order
    """

    def __init__(self, jobs: int, begin: Callable[[str, Order], Process] = start) -> None:
        self.jobs, self.begin = jobs, begin
        self.capacity = max(cores(), jobs)

    def run(
        self,
        supply: Callable[[], tuple[str, Order] | None],
        started: Callable[[str], None],
        ended: Callable[[str, Ending], None],
        watch: Callable[[list[str]], Collection[str]],
    ) -> None:
        """Carry out orders until no process runs and there are no more of them; one that fails does not stop the others.

        Args:
            supply: asked for the next order whenever there is room for one; None: none now
            started, ended: told about every process
            watch: called every moment with the names of those that run; returns those to be stopped

        Raises:
            KeyboardInterrupt: after every process has been asked to stop and has saved itself.
        """
        running: list[Process] = []
        following: tuple[str, Order] | None = None
        with self._stopped_together(running, ended):
            while True:
                while len(running) < self.jobs and (following := following or supply()) and self._fits(following, running):
                    running.append(self.begin(*following))
                    started(following[0])
                    following = None
                if not running:
                    return
                _collect(running, ended)
                unwanted = watch([process.name for process in running])
                for process in running:
                    if process.name in unwanted:
                        process.stop()
                time.sleep(_PAUSE)

    def _fits(self, following: tuple[str, Order], running: list[Process]) -> bool:
        used = sum(process.threads for process in running)
        return not running or used + following[1].threads <= self.capacity

    @contextmanager
    def _stopped_together(self, running: list[Process], ended: Callable[[str, Ending], None]) -> Iterator[None]:
        """Whatever ends the block, no process goes on without it."""
        try:
            yield
        finally:
            for process in running:
                process.stop()
            until = time.monotonic() + _PATIENCE
            while running and time.monotonic() < until:
                _collect(running, ended)
                time.sleep(_PAUSE)
            for process in running:
                process.popen.kill()  # its last checkpoint is whole
                process.popen.wait()
            _collect(running, ended)


def _collect(running: list[Process], ended: Callable[[str, Ending], None]) -> None:
    for process in list(running):
        ending = process.ending()
        if ending is not None:
            running.remove(process)
            ended(process.name, ending)
