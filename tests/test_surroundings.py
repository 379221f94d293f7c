"""Training gives back what it borrows: random numbers, threads, the type of numbers, signals."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from training_helpers import Notes, assert_same_run, gray_data, poison, spoil_weight, tiny, train
from vaelid.errors import Diverged, Interrupted, SupportError
from vaelid.supports import REAL
from vaelid.training import surroundings


def surroundings_now() -> tuple[Any, ...]:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    return torch.get_rng_state().tolist(), torch.get_num_threads(), torch.get_default_dtype(), handlers, torch.is_grad_enabled()


def end_well(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(path, tiny(training__epochs=1))


def end_interrupted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Interrupted):
        train(path, tiny(), Notes(lambda steps: signal.raise_signal(signal.SIGTERM)))


def end_diverged(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Diverged):
        train(path, tiny(), poison(1, spoil_weight(math.nan), monkeypatch))


def end_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SupportError):
        train(path, tiny(likelihood__name="bernoulli"), data=gray_data(REAL, spoiled=0))


@pytest.mark.parametrize("ending", [end_well, end_interrupted, end_diverged, end_refused])
def test_the_process_is_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: Callable[[Path, pytest.MonkeyPatch], None]
) -> None:
    torch.manual_seed(123)
    signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        before = surroundings_now()
        ending(tmp_path, monkeypatch)
        assert surroundings_now() == before
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_the_callers_random_numbers_are_of_no_influence(tmp_path: Path) -> None:
    train(tmp_path / "one", tiny())
    torch.manual_seed(99)
    train(tmp_path / "two", tiny())
    assert_same_run(tmp_path / "one", tmp_path / "two")


def test_training_in_a_thread_leaves_signals_alone(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    seen: list[Any] = []
    notes = Notes(lambda steps: seen.append(signal.getsignal(signal.SIGINT)))
    outcomes: list[str] = []
    thread = threading.Thread(target=lambda: outcomes.append(train(tmp_path, tiny(training__epochs=1), notes)))
    thread.start()
    thread.join()
    assert outcomes == ["the one epoch done"]
    assert set(seen) == {before}


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a script's background job
    try:
        with surroundings.stop_on_signal() as asked:
            signal.raise_signal(signal.SIGINT)
            assert not asked()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_handler_from_outside_python_becomes_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    real = signal.signal
    try:
        with monkeypatch.context() as patch:
            patch.setattr(signal, "signal", lambda number, handler: real(number, handler) and None)
            with surroundings.stop_on_signal():
                pass
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, signal.default_int_handler)


def test_own_randomness_covers_the_accelerators_that_are_awake(monkeypatch: pytest.MonkeyPatch) -> None:
    seeded: list[tuple[str, int]] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: seeded.append(("cuda", seed)))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "manual_seed", lambda seed: seeded.append(("mps", seed)))
    with surroundings.own_randomness(3):
        inside = torch.rand(2)
    assert seeded == [("cuda", 3), ("mps", 3)]
    torch.manual_seed(3)
    assert torch.equal(inside, torch.rand(2))
