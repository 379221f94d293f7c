"""Words and bars: on standard error, live on a terminal, plain elsewhere."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from vaelid import progress
from vaelid.evaluation.collect import collect
from vaelid.progress import LiveBar, NotebookBar, PlainLines, Silent, default_reporter


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_silence(capfd: pytest.CaptureFixture[str]) -> None:
    with Silent() as reporter, reporter.bar("training", 3):
        reporter.say("hello")
        reporter.advance(1, "text")
    assert capfd.readouterr() == ("", "")


def test_plain_lines_come_on_standard_error_and_not_too_often(capfd: pytest.CaptureFixture[str], clock: list[float]) -> None:
    with PlainLines(every=10.0) as reporter, reporter.bar("training", 4000, done=1000):
        reporter.say("hello")
        reporter.advance(1)
        clock[0] += 10.0
        reporter.advance(1, "loss 3")
        reporter.advance(1)
        clock[0] += 9.0
        reporter.advance(1)
        clock[0] += 1.0
        reporter.advance(1)
    out, err = capfd.readouterr()
    assert out == ""
    assert err.splitlines() == ["hello", "training: 1,002 of 4,000 loss 3", "training: 1,005 of 4,000"]


def test_words_put_off_the_next_progress_line(capfd: pytest.CaptureFixture[str], clock: list[float]) -> None:
    with PlainLines(every=10.0) as reporter, reporter.bar("training", 40):
        for epoch in range(1, 4):
            clock[0] += 9.0
            reporter.say(f"epoch {epoch}")
            clock[0] += 2.0
            reporter.advance(1, "epoch 1 loss 3")
    assert capfd.readouterr().err.splitlines() == ["epoch 1", "epoch 2", "epoch 3"]


@pytest.mark.parametrize(
    ("units", "lines"),
    [
        (0, ["evaluating: 2 of 4", "evaluating: 4 of 4"]),
        (
            2,
            [
                f"annealing: {done} of 8 image {images} of 4"
                for done, images in ((2, "1 to 2"), (4, "1 to 2"), (6, "3 to 4"), (8, "3 to 4"))
            ],
        ),
    ],
)
def test_a_bar_that_counts_images_says_their_numbers_once(
    units: int, lines: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    def work(positions: torch.Tensor, tick: Callable[[], None]) -> dict[str, torch.Tensor]:
        for _ in range(units):
            tick()
        return {"nll": positions}

    collect(4, 2, units, work, PlainLines(every=0.0), "annealing" if units else "evaluating")
    assert capfd.readouterr().err.splitlines() == lines


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=120)


def test_the_live_bar_counts_and_words_are_taken_literally(clock: list[float]) -> None:
    console = terminal()
    bar = LiveBar(console)
    bar.advance(1)  # before it is open: nothing to move
    with bar.bar("training", 10, done=2):
        assert bar.progress is not None
        task = bar.progress.tasks[0]
        assert (task.total, task.completed) == (10, 2)
        bar.advance(1, "loss 3")
        assert (task.completed, task.fields["text"]) == (3, "loss 3")
        bar.advance(1, "loss 4")
        assert task.completed == 3  # a tenth of a second has not passed
        clock[0] += 0.2
        bar.advance(1, "loss 5")
        assert (task.completed, task.fields["text"]) == (5, "loss 5")
        bar.say("[bold]not markup[/bold] −ELBO")
    assert bar.progress is None
    bar.stop()  # twice does no harm
    assert "[bold]not markup[/bold] −ELBO" in console.file.getvalue()


def test_the_bar_is_closed_on_an_error() -> None:
    bar = LiveBar(terminal())
    with pytest.raises(ZeroDivisionError), bar.bar("training", 3):
        raise ZeroDivisionError
    assert bar.progress is None
    bar.start("training", 3)
    with pytest.raises(ZeroDivisionError), bar:
        raise ZeroDivisionError
    assert bar.progress is None


def test_the_default_follows_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for is_terminal, kind in ((True, LiveBar), (False, PlainLines)):
        monkeypatch.setattr(progress, "Console", lambda stderr, t=is_terminal: Console(stderr=stderr, force_terminal=t))
        assert type(default_reporter()) is kind


class Cells:
    """What a notebook shows: the outputs by their ids, and how often each was drawn."""

    def __init__(self) -> None:
        self.number, self.outputs, self.draws = 1, dict[str, dict[str, str]](), 0

    def display(self, content: dict[str, str], raw: bool, display_id: str, update: bool) -> None:
        assert raw
        assert update == (display_id in self.outputs)
        self.outputs[display_id] = content
        self.draws += 1

    def texts(self) -> list[str]:
        return [content["text/plain"] for content in self.outputs.values()]


def test_a_notebook_shows_the_latest_words_in_one_place(clock: list[float]) -> None:
    cells = Cells()
    bar = NotebookBar(cells.display, lambda: cells.number, lines=2)
    bar.advance(1)  # before it is open: nothing to show
    assert not cells.outputs
    bar.say("device cpu")
    with bar.bar("training", 1000, done=100):
        for epoch in range(500):
            bar.advance(1, "loss <3>")
            bar.say(f"epoch {epoch}")
        assert cells.draws == 2  # the words before, and the opened bar: no time has passed
        clock[0] += 10.0
        bar.advance(1, "loss <3>")
        assert cells.texts() == ["training: 601 of 1,000, 8 s left loss <3>\nepoch 498\nepoch 499"]
        assert "<progress value='601' max='1000'>" in next(iter(cells.outputs.values()))["text/html"]
        assert "loss &lt;3&gt;" in next(iter(cells.outputs.values()))["text/html"]
    assert cells.texts() == ["epoch 499\ntraining: 601 of 1,000 in 10 s"]
    bar.stop()  # twice does no harm
    cells.number = 2
    bar.say("evaluated")
    assert cells.texts() == ["epoch 499\ntraining: 601 of 1,000 in 10 s", "evaluated"]


def test_the_default_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    def ipython(shell: Any) -> Any:
        return SimpleNamespace(get_ipython=lambda: shell, display=SimpleNamespace(display=None))

    monkeypatch.setitem(sys.modules, "IPython", ipython(SimpleNamespace(kernel=object(), execution_count=7)))
    reporter = default_reporter()
    assert isinstance(reporter, NotebookBar)
    assert reporter.cell() == 7
    for shell in (None, SimpleNamespace()):  # imported by a program, or IPython on a terminal
        monkeypatch.setitem(sys.modules, "IPython", ipython(shell))
        assert not isinstance(default_reporter(), NotebookBar)
