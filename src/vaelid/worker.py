"""One member of a study, trained in a process of its own: ``python -m vaelid.worker``, told what to do on standard input.

The first line of standard input is the order, in JSON. The rest stays open as long as the study lives: should its process die,
the input ends, and the training stops after the step under way instead of going on unwatched.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from vaelid.data import load_data
from vaelid.errors import VaelidError
from vaelid.folder import RunFolder
from vaelid.progress import Silent
from vaelid.recipe import from_toml
from vaelid.run import carry_out
from vaelid.training.request import Request
from vaelid.training.start import Conditions, choose_device
from vaelid.training.tracking import trackers_of


@dataclass(frozen=True)
class Order:
    """A training as plain values: ``recipe`` is the resolved one, as TOML."""

    recipe: str
    code_from: str
    folder: str
    device: str
    init_from: str | None
    checkpoint_seconds: float
    threads: int
    track: tuple[str, ...] = ()
    engine: str = "auto"

    def to_line(self) -> bytes:
        """One line of JSON."""
        return (json.dumps(asdict(self)) + "\n").encode()


def carry_out_order(order: Order) -> None:
    """Train what the order says, or go on with it.

    Raises:
        VaelidError: as ``vaelid.train`` does.
    """
    torch.set_num_threads(order.threads)
    recipe = from_toml(order.recipe)
    asked = Request(recipe, load_data(recipe.data), Path(order.code_from), RunFolder(order.folder))
    start_from = Path(order.init_from) if order.init_from is not None else None
    device, trackers = choose_device(order.device), trackers_of(order.track)
    conditions = Conditions(device, False, order.engine, start_from, order.checkpoint_seconds, trackers)
    carry_out(asked, conditions, Silent())


def main() -> int:
    """Carry out the order on standard input; returns the exit code, with the error's message on standard error."""
    order = Order(**json.loads(sys.stdin.buffer.readline()))
    threading.Thread(target=_stop_when_alone, daemon=True).start()
    try:
        carry_out_order(order)
    except VaelidError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - the border: the study shows the last line and keeps the rest
        traceback.print_exception(error)
        return 1
    return 0


def _stop_when_alone() -> None:
    os.read(sys.stdin.fileno(), 1)  # returns when the other end is closed; sys.stdin would be locked at this process's own end
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
