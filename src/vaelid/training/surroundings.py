"""What training borrows from the process around it and gives back: random numbers, threads, the type of numbers, signals."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
