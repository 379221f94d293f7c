"""Telling the user how it goes: a live bar on a terminal, one place that is rewritten in a notebook, plain lines elsewhere,
silence for a library caller who wants none.

Outside of notebooks everything goes to standard error, so that tables and numbers on standard output can be piped.
"""

from __future__ import annotations

import html
import sys
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any
from uuid import uuid4

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


class NotebookBar(Reporter):
    """A bar and the latest words in the output of a notebook's cell, rewritten in place: a long training leaves a short output.

    Args:
        display: IPython's ``display``
        cell: names the cell that runs; another cell gets an output of its own
        lines: how many of the latest lines of words stay
        every: seconds between two redraws of a bar
    """

    def __init__(self, display: Callable[..., Any], cell: Callable[[], int], lines: int = 6, every: float = 0.25) -> None:
        self.display, self.cell, self.every = display, cell, every
        self.words: deque[str] = deque(maxlen=lines)
        self.place, self.place_of, self.shown = "", -1, False
        self.title, self.text, self.total, self.done, self.begun, self.last = "", "", 0, 0, (0, 0.0), 0.0

    def say(self, text: str) -> None:
        self._settle()
        self.words.append(text)
        if not self.title or self._due():  # without a bar nothing may come afterwards that would show it
            self._draw()

    def start(self, title: str, total: int, done: int = 0) -> None:
        self._settle()
        self.title, self.text, self.total, self.done = title, "", total, done
        self.begun = (done, time.monotonic())
        self._draw()

    def advance(self, units: int, text: str = "") -> None:
        self.done, self.text = self.done + units, text
        if self.title and self._due():
            self._draw()

    def stop(self) -> None:
        if self.title:
            self.words.append(f"{self.title}: {self.done:,} of {self.total:,} in {time.monotonic() - self.begun[1]:.0f} s")
            self.title = ""
            self._draw()

    def _settle(self) -> None:
        """A fresh output in a cell that has none yet."""
        if self.cell() != self.place_of:
            self.place, self.place_of, self.shown = uuid4().hex, self.cell(), False
            self.words.clear()

    def _due(self) -> bool:
        return time.monotonic() - self.last >= self.every

    def _draw(self) -> None:
        words, bar = html.escape("\n".join(self.words)), html.escape(self._status())
        drawn = f"<div><progress value='{self.done}' max='{self.total}'></progress> {bar}</div>" if bar else ""
        shown = f"<pre style='margin:0'>{words}</pre>" if words else ""
        content = {"text/plain": "\n".join(filter(None, (self._status(), *self.words))), "text/html": drawn + shown}
        self.display(content, raw=True, display_id=self.place, update=self.shown)
        self.shown, self.last = True, time.monotonic()

    def _status(self) -> str:
        """Title, share, time left, and what stands beside the bar; empty between two bars."""
        if not self.title:
            return ""
        before, since = self.begun
        pace = (time.monotonic() - since) / max(1, self.done - before)
        left = f", {pace * (self.total - self.done):.0f} s left" if self.done > before else ""
        return f"{self.title}: {self.done:,} of {self.total:,}{left} {self.text}".rstrip()


def default_reporter() -> Reporter:
    """A live bar on a terminal, one that is rewritten in place in a notebook, plain lines elsewhere."""
    ipython: Any = sys.modules.get("IPython")  # loaded wherever a notebook's kernel runs, and asked for nowhere else
    shell: Any = ipython.get_ipython() if ipython else None
    if getattr(shell, "kernel", None) is not None:
        return NotebookBar(ipython.display.display, lambda: shell.execution_count)
    console = Console(stderr=True)
    return LiveBar(console) if console.is_terminal else PlainLines()
