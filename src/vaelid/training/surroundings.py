"""What training borrows from the process around it and gives back: random numbers, threads, the type of numbers, signals."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from copy import copy
from types import FrameType
from typing import Any

import torch

from vaelid.errors import SettingError


@contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Seed torch for the length of the block, and give the caller's generators back as they were.

    Raises:
        SettingError: for a seed that torch does not take.
    """
    if not -(2**63) <= seed < 2**63:
        raise SettingError(f"A seed must be a whole number of 64 bits; it is {seed}.", "Choose a smaller one.")
    cuda = torch.cuda.is_initialized()  # seeding a CUDA that sleeps would show only when it wakes up, after the block
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if cuda else ()):
        torch.default_generator.manual_seed(seed)
        if cuda:
            torch.cuda.manual_seed_all(seed)
        if torch.backends.mps.is_available():
            torch.mps.manual_seed(seed)
        yield


class Generators:
    """torch's generators of random numbers as one of several trainings left them when it was last its turn.

    Args:
        device: where it trains; what it draws with are the generators of the processor and of this device, as they are now
    """

    def __init__(self, device: torch.device) -> None:
        self.cpu = torch.get_rng_state()
        self.device = torch.cuda.default_generators[device.index or 0] if device.type == "cuda" else None
        self.own = self.device.clone_state() if self.device is not None else None

    def copy(self) -> Generators:
        """The same state, for another time."""
        twin = copy(self)
        twin.own = self.own.clone_state() if self.own is not None else None
        return twin

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Let numbers drawn on the device in this block be this training's: on a GPU a quick form of :meth:`turn`."""
        if self.device is None or self.own is None:
            with self._turn_of_cpu():
                yield
            return
        before = self.device.graphsafe_get_state()
        self.device.graphsafe_set_state(self.own)
        try:
            yield
        finally:
            self.device.graphsafe_set_state(before)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Let all random numbers of this block be this training's."""
        with self._turn_of_cpu(), self.drawing() if self.device is not None else nullcontext():
            yield

    @contextmanager
    def _turn_of_cpu(self) -> Iterator[None]:
        before = torch.get_rng_state()
        torch.set_rng_state(self.cpu)
        try:
            yield
        finally:
            self.cpu = torch.get_rng_state()
            torch.set_rng_state(before)


@contextmanager
def fixed_numerics(threads: int, dtype: str) -> Iterator[None]:
    """The number of threads and the type of numbers that a run was begun with.

    Sums over several threads depend on their number in the last bit, so a resume uses the same.
    """
    before = torch.get_num_threads(), torch.get_default_dtype()
    torch.set_num_threads(threads)
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.set_default_dtype(before[1])


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Ctrl-C (and SIGTERM) ask for a stop after the step under way; a second one stops at once."""
    asked = threading.Event()

    def ask(_number: int, _frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set  # signals belong to the main thread; a caller's thread is stopped by its own means
        return
    previous: dict[int, Any] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) != signal.SIG_IGN:  # a background job of a script does not hear Ctrl-C
                previous[number] = signal.signal(number, ask)
        yield asked.is_set
    finally:
        for changed, handler in previous.items():
            # None: a handler that was not set from Python, which Python cannot set again.
            signal.signal(changed, signal.SIG_DFL if handler is None else handler)
