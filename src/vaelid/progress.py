"""Telling the user how it goes: a live bar on a terminal, plain lines elsewhere, silence for a library caller who wants none.

Everything goes to standard error, so that tables and numbers on standard output can be piped.
"""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress as RichProgress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Reporter(ABC):
    """Where words and progress go."""

    @abstractmethod
    def say(self, text: str) -> None:
        """One line of words."""

    @abstractmethod
    def start(self, title: str, total: int, done: int = 0) -> None:
        """Open the bar with ``total`` units of work, ``done`` of them behind us."""

    @abstractmethod
    def advance(self, units: int, text: str = "") -> None:
        """Move the bar on; ``text`` stands beside it."""

    @abstractmethod
    def stop(self) -> None:
        """Close the bar."""

    @contextmanager
    def bar(self, title: str, total: int, done: int = 0) -> Iterator[None]:
        """A bar for the length of a ``with`` block."""
        self.start(title, total, done)
        try:
            yield
        finally:
            self.stop()

    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


class Silent(Reporter):
    """Says nothing."""

    def say(self, text: str) -> None: ...

    def start(self, title: str, total: int, done: int = 0) -> None: ...

    def advance(self, units: int, text: str = "") -> None: ...

    def stop(self) -> None: ...


class PlainLines(Reporter):
    """Lines for logs and pipes: every word, and a progress line where nothing was said for ``every`` seconds."""

    def __init__(self, every: float = 10.0) -> None:
        self.every = every
        self.title, self.total, self.done, self.last = "", 0, 0, 0.0

    def say(self, text: str) -> None:
        self.last = time.monotonic()  # a training that tells of each epoch needs no line about the last one in between
        print(text, file=sys.stderr, flush=True)

    def start(self, title: str, total: int, done: int = 0) -> None:
        self.title, self.total, self.done, self.last = title, total, done, time.monotonic()

    def advance(self, units: int, text: str = "") -> None:
        self.done += units
        if time.monotonic() - self.last >= self.every:
            self.say(f"{self.title}: {self.done:,} of {self.total:,} {text}".rstrip())

    def stop(self) -> None: ...


class LiveBar(Reporter):
    """A bar that redraws itself on a terminal; words scroll above it."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.progress: RichProgress | None = None
        self.task = TaskID(0)
        self.pending, self.last = 0, 0.0

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False)

    def start(self, title: str, total: int, done: int = 0) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
        )
        self.progress = RichProgress(*columns, console=self.console, transient=True)
        self.task = self.progress.add_task(title, total=total, completed=done, text="")
        self.pending, self.last = 0, 0.0
        self.progress.start()

    def advance(self, units: int, text: str = "") -> None:
        self.pending += units
        # A redraw costs more than a training step of a small model: ten a second are enough.
        if self.progress is None or time.monotonic() - self.last < 0.1:
            return
        self.progress.update(self.task, advance=self.pending, text=text)
        self.pending, self.last = 0, time.monotonic()

    def stop(self) -> None:
        if self.progress is not None:
            self.progress.stop()
            self.progress = None


def default_reporter() -> Reporter:
    """A live bar on a terminal, plain lines elsewhere."""
    console = Console(stderr=True)
    return LiveBar(console) if console.is_terminal else PlainLines()
