"""How contestants are timed: each in a process of its own, in turns, and what the pages say of the result.

A process of its own, so that no setting of one reaches another and its peak memory can be told. In turns, so that whatever else
the machine does hits all of them, and a ratio is taken turn by turn.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Literal

import torch

from vaelid.environment import describe_machine

#: Does so many training steps. A contestant that has other things to do in a turn restarts and stops the watch itself.
Steps = Callable[[int], None]


class Watch:
    """Seconds on the wall and of processor time between the last start and the first stop after it."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Begin anew."""
        self.begun, self.ended = self._now(), None

    def stop(self) -> None:
        """The end, unless it has been reached already."""
        self.ended = self.ended or self._now()

    def read(self) -> tuple[float, float]:
        """Wall and processor time."""
        self.stop()
        return self.ended[0] - self.begun[0], self.ended[1] - self.begun[1]

    @staticmethod
    def _now() -> tuple[float, float]:
        return time.perf_counter(), time.process_time()


#: Makes a contestant in its process.
Build = Callable[[argparse.Namespace, Watch], Steps]


@dataclass
class Turns:
    """Seconds per step of one contestant, one number per turn, on the wall and of processor time; and its peak memory in MB."""

    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    memory: float = 0.0


def take_turns(contestants: Mapping[str, Build], options: argparse.Namespace) -> dict[str, Turns]:
    """Let the contestants run one after the other, ``options.repeats`` times, each in its own process."""
    context, timings, pipes, processes = get_context("spawn"), {}, {}, []
    for name, build in contestants.items():
        pipes[name], theirs = context.Pipe()
        processes.append(context.Process(target=serve, args=(build, options, theirs), daemon=True))
        processes[-1].start()
        theirs.close()  # so that a contestant that dies is an error here, and not a wait
        pipes[name].recv()  # it is ready
        timings[name] = Turns()
    for _ in range(options.repeats):
        for name, pipe in pipes.items():
            pipe.send(options.steps)
            wall, processor, timings[name].memory = pipe.recv()
            timings[name].wall.append(wall)
            timings[name].processor.append(processor)
    for pipe, process in zip(pipes.values(), processes, strict=True):
        pipe.send(0)
        process.join()
    return timings


def serve(build: Build, options: argparse.Namespace, pipe: Connection) -> None:
    """A contestant's process: so many steps whenever a number comes; answers with seconds per step and peak memory."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    watch = Watch()
    run = build(options, watch)
    run(options.warm_up)
    pipe.send("ready")
    while steps := pipe.recv():
        watch.start()
        run(steps)
        wall, processor = watch.read()
        pipe.send((wall / steps, processor / steps, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def ratios(timings: Mapping[str, Turns], slow: str, fast: str, clock: Literal["wall", "processor"] = "wall") -> list[float]:
    """How many times as long one contestant takes as the other, turn by turn."""
    pairs = zip(getattr(timings[slow], clock), getattr(timings[fast], clock), strict=True)
    return [s / f for s, f in pairs]


def spread(values: list[float], unit: float = 1.0) -> str:
    """Median, minimum and maximum, in units of 1/``unit``."""
    return "{:.2f} [{:.2f}–{:.2f}]".format(*(unit * f(values) for f in (statistics.median, min, max)))


def where(threads: int) -> list[str]:
    """Machine and software, as lines of a page."""
    machine = describe_machine(torch.device("cpu"))
    return [
        f"* Machine: {machine['processor']}, {threads} of {os.cpu_count()} cores used (threads of torch); "
        f"load average at the end {os.getloadavg()[0]:.1f}",
        f"* Software: commit {machine['commit']}, torch {machine['torch']}, Python {machine['python']}, "
        f"numba {'installed' if importlib.util.find_spec('numba') else 'not installed: `vaelid` is `vaelid without numba`'}",
    ]
