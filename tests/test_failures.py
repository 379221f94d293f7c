"""What goes wrong on the way: numbers that are not finite, and disks that are full."""

from __future__ import annotations

import errno
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from training_helpers import (
    Notes,
    assert_not_called,
    assert_same_run,
    metrics_of,
    poison,
    ready,
    scripted,
    spoil_weight,
    tiny,
    train,
)
from vaelid.errors import Diverged, MachineError
from vaelid.folder import RunFolder
from vaelid.training import loop
from vaelid.training.checkpoint import load_checkpoint
from vaelid.training.state import Training


def test_a_nan_loss_stops_at_once_and_keeps_the_last_good_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = poison(8, spoil_weight(math.nan), monkeypatch)
    with pytest.raises(Diverged) as caught:
        train(tmp_path / "run", tiny(), notes, checkpoint_seconds=1000.0)
    assert caught.value.exit_code == 5
    assert "step 9 (epoch 2, lr 0.001): the loss became nan" in caught.value.problem
    assert caught.value.problem.endswith("Kept: the last good checkpoint and the best weights so far, those of epoch 1.")
    assert "learning rate" in caught.value.remedy
    assert notes.steps == 8
    assert RunFolder(tmp_path / "run").weights(), "the best weights so far were not written"
    folder = RunFolder(tmp_path / "run")
    assert folder.read_json(folder.environment_file)["outcome"] == f"diverged: {caught.value.problem}"
    # The same command again starts from the last good checkpoint; without the poison it ends well.
    monkeypatch.undo()
    train(tmp_path / "run", tiny())
    train(tmp_path / "whole", tiny())
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    assert folder.read_json(folder.environment_file)["outcome"] == "all 3 epochs done"


def test_a_failure_names_the_weights_that_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, [4.0, 5.0])
    recipe = tiny(training__keep="last")
    with pytest.raises(Diverged, match=r"Kept: the last good checkpoint and the last weights so far, those of epoch 2\."):
        train(tmp_path / "last", recipe, poison(14, spoil_weight(math.nan), monkeypatch), checkpoint_seconds=1000.0)
    assert RunFolder(tmp_path / "last").weights()


def test_an_infinite_gradient_is_named_and_no_step_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[Training] = []

    def spoil(training: Training) -> None:
        held.append(training)
        training.model.prior.mean.register_hook(lambda g: g * math.inf)

    with pytest.raises(Diverged, match=r"step 3 .*the gradient norm became (inf|nan)"):
        train(tmp_path, tiny(), poison(2, spoil, monkeypatch))
    assert torch.isfinite(held[0].weights.flat).all()


def test_the_first_step_has_another_likely_cause(tmp_path: Path) -> None:
    training = ready(tmp_path, tiny())
    training.weights.flat.data.fill_(math.nan)
    with pytest.raises(Diverged, match=r"step 1 .*loss became nan") as caught:
        loop.fit(training, Notes(), lambda: False, 1000.0)
    assert "first step" in caught.value.remedy
    assert "best weights" not in caught.value.problem


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(training: Training) -> None:
        training.weights.flat.data[0] = math.inf
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(Diverged, match="weights became inf"):
        train(tmp_path, tiny(), poison(2, spoil, monkeypatch))
    tensors = load_checkpoint(RunFolder(tmp_path), assert_not_called).group("model")
    assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())


def test_a_validation_that_is_not_finite_stops_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, [4.0, math.inf])
    with pytest.raises(Diverged, match="validation −ELBO became inf"):
        train(tmp_path, tiny())
    assert len(metrics_of(tmp_path)) == 1


def full_disk(monkeypatch: pytest.MonkeyPatch, name: str, count: int) -> None:
    """From the ``count``-th write to a file with this in its name, there is no room."""
    left, fsync = [count], os.fsync

    def refuse(descriptor: int) -> None:
        if name in os.readlink(f"/proc/self/fd/{descriptor}"):
            left[0] -= 1
            if left[0] <= 0:
                raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)


@pytest.mark.parametrize(
    ("name", "count", "named"),
    [
        ("step-", 3, "checkpoint"),
        ("model.safetensors", 1, "model.safetensors"),
        ("progress.npz", 1, "progress.npz"),
        ("metrics.jsonl", 4, "metrics.jsonl"),
    ],
)
def test_a_full_disk_is_said_plainly_and_what_was_saved_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, count: int, named: str
) -> None:
    with monkeypatch.context() as patch:
        full_disk(patch, name, count)
        with pytest.raises(MachineError, match=f"{named}.* cannot be written: No space left on device") as caught:
            train(tmp_path / "run", tiny(), checkpoint_seconds=0.0)
    assert "Make room" in caught.value.remedy
    assert not list((tmp_path / "run").rglob("*.tmp"))
    load_checkpoint(RunFolder(tmp_path / "run"), assert_not_called)  # the newest is whole
    train(tmp_path / "run", tiny())
    train(tmp_path / "whole", tiny())
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("name", ["metrics.jsonl", "log.txt"])
def test_a_disk_that_fills_up_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def refuse(file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
        if str(file).endswith(name) and mode == "a":
            raise OSError(errno.ENOSPC, "No space left on device")
        return open(file, mode, *rest, **options)

    monkeypatch.setattr("vaelid.folder.open", refuse, raising=False)
    with pytest.raises(MachineError, match=f"{name} cannot be written: No space"):
        train(tmp_path, tiny())
