"""A process that imports torch once and forks a child for every training it is asked for; ``Trainer`` talks to it.

A child can be told to kill itself (SIGKILL) at an exact place: at its n-th step, or at the n-th time that a file whose name
contains some text is written: ``half`` way through, ``before`` or ``after`` the rename, or when an old one is to be removed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

KILLED = -signal.SIGKILL


class Trainer:
    """The test's side: starts trainings in processes of their own."""

    def __init__(self) -> None:
        here = Path(__file__).parent
        paths = [str(here), str(here.parent / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.running = False

    def start(self, folder: Path, changes: dict[str, Any], **request: Any) -> int:
        """The process id of a new training."""
        if self.running:
            self.wait()  # a test that failed left its training behind: the next one must not read its status
        pid = int(self._ask({"folder": str(folder), "changes": changes, **request}))
        self.running = True
        return pid

    def wait(self) -> int:
        """Its exit status; negative for a signal."""
        assert self.process.stdout is not None
        self.running = False
        return int(self.process.stdout.readline())

    def run(self, folder: Path, changes: dict[str, Any], **request: Any) -> int:
        self.start(folder, changes, **request)
        return self.wait()

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.process.stdout.close()

    def _ask(self, request: dict[str, Any]) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline()


def serve() -> None:
    """The driver's side: one request per line, one child at a time."""
    import training_helpers as helpers

    helpers.torch.set_num_threads(1)
    # Once, before any fork, what takes long; but no backward pass, whose threads a fork would lose.
    helpers.data_of(helpers.tiny())
    helpers.torch.optim.SGD([helpers.torch.zeros(1)])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C on the tests is for pytest
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os._exit(child(helpers, request))
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def child(helpers: Any, request: dict[str, Any]) -> int:
    """Train as asked; what is said goes to ``said.txt`` beside the run folder."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    said = Path(request["folder"]).with_suffix(".said.txt")
    notes = helpers.Notes(at_step=arm(request.get("kill"), request.get("pause", 0.0)))
    try:
        recipe = helpers.tiny_of({**helpers.RICH, **request["changes"]})
        helpers.train(Path(request["folder"]), recipe, notes, checkpoint_seconds=request.get("seconds", 0.0))
        status = 0
    except BaseException as error:  # noqa: BLE001 - the end of this process: every error becomes its exit status
        notes.say("".join(traceback.format_exception(error)))
        status = getattr(error, "exit_code", 99)
    said.write_text("\n".join(notes.said), encoding="utf-8")
    return status


def arm(kill: list[Any] | None, pause: float) -> Callable[[int], None]:
    """Set the trap; returns what to do at every step (a pause leaves time to be killed from outside)."""
    if kill is None:
        return lambda steps: time.sleep(pause)
    when, text, count = kill
    if when == "step":
        return lambda steps: die() if steps >= count else None
    left = [count]

    def reached(name: str) -> bool:
        left[0] -= text in name
        return text in name and left[0] == 0

    fsync, replace, unlink = os.fsync, os.replace, os.unlink

    def half(descriptor: int) -> None:
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        if name.endswith(".tmp") and reached(name):
            os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            die()
        fsync(descriptor)

    def before(old: Any, new: Any) -> None:
        if reached(str(new)):
            die()
        replace(old, new)

    def after(old: Any, new: Any) -> None:
        replace(old, new)
        if reached(str(new)):
            die()

    def removing(path: Any, **rest: Any) -> None:
        if reached(str(path)):
            die()
        unlink(path, **rest)

    patch = {"half": ("fsync", half), "before": ("replace", before), "after": ("replace", after), "unlink": ("unlink", removing)}
    setattr(os, *patch[when])
    return lambda steps: None


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    serve()
