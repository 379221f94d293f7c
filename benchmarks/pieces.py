"""Where the time of a program goes: its functions are wrapped by a watch, and what none of them took is "all else"."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from contest import spread

ELSE, TOGETHER = "all else", "together"


class Pieces:
    """Seconds by piece, turn by turn.

    A wrapped function that calls another one has the other's time in its own piece and not in the other's.
    """

    def __init__(self) -> None:
        self.spent: defaultdict[str, float] = defaultdict(float)
        self.turns: defaultdict[str, list[float]] = defaultdict(list)
        self._within = False

    def watched(self, function: Callable[..., Any], piece: str) -> Callable[..., Any]:
        """The function, whose time is booked under ``piece``."""

        def run(*args: Any, **kwargs: Any) -> Any:
            if self._within:
                return function(*args, **kwargs)
            self._within, begun = True, time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.spent[piece] += time.perf_counter() - begun
                self._within = False

        return run

    def watch(self, owner: Any, name: str, piece: str) -> None:
        """Wrap a function of a class, a module or an object, for the rest of the process."""
        setattr(owner, name, self.watched(getattr(owner, name), piece))

    def turn(self, work: Callable[[], object]) -> None:
        """Do the work once and note what it took."""
        self.spent.clear()
        begun = time.perf_counter()
        work()
        took = time.perf_counter() - begun
        self.spent[ELSE] = took - sum(self.spent.values())
        for piece, seconds in [*self.spent.items(), (TOGETHER, took)]:
            self.turns[piece].append(seconds)

    def forget(self) -> None:
        """The turns so far were to warm up."""
        self.turns.clear()

    def lines(self, unit: float) -> list[str]:
        """A line per piece in units of 1/``unit`` seconds, the largest first: median [smallest–largest] over the turns."""
        order = sorted(self.turns, key=lambda piece: (piece == TOGETHER, -sum(self.turns[piece])))
        return [f"{piece:40s} {spread(self.turns[piece], unit)}" for piece in order]
