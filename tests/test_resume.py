"""The same command again: after any kill, the final weights are bit for bit those of an uninterrupted run."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from resume_driver import KILLED, Trainer
from training_helpers import (
    RICH,
    Notes,
    assert_not_called,
    assert_same_run,
    flip,
    interrupt_at,
    metrics_of,
    newest,
    scripted,
    tear,
    tiny,
    tiny_of,
    train,
)
from vaelid.errors import Interrupted, RunError
from vaelid.folder import RunFolder
from vaelid.training import loop, start
from vaelid.training.checkpoint import load_checkpoint

INTERRUPTED = 130
MOST_STARTS = 200


@pytest.fixture(scope="module")
def trainer() -> Iterator[Trainer]:
    trainer = Trainer()
    yield trainer
    trainer.close()


@pytest.fixture(scope="module")
def reference(trainer: Trainer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run with everything in use, never interrupted and hardly ever saved."""
    folder = tmp_path_factory.mktemp("reference") / "run"
    assert trainer.run(folder, {}, seconds=1000.0) == 0
    return folder


def wait_for(pid: int, folder: RunFolder, grown: Callable[[], bool]) -> None:
    while not grown():
        try:
            os.kill(pid, 0)  # a child that ended early is an error here, not a hang
        except ProcessLookupError:
            said = folder.path.with_suffix(".said.txt")
            pytest.fail(f"The training ended before it was killed: {said.read_text() if said.is_file() else 'without a word'}")
        time.sleep(0.001)


def test_the_reference_uses_what_it_should(reference: Path) -> None:
    lines = metrics_of(reference)
    recipe = RunFolder(reference).recipe()
    assert len({line["lr"] for line in lines}) > 2  # the warm-up and the plateau have moved the learning rate
    assert min(line["grad_norm"] for line in lines) > recipe.training.clip_norm  # every epoch was clipped
    assert 8 <= len(lines) < recipe.training.epochs  # patience ended it
    assert load_checkpoint(RunFolder(reference), assert_not_called).facts["state"]["epochs_without_improvement"] == 5


KILLS: list[tuple[str, str, int]] = [
    # While the folder is made.
    ("half", "environment.json", 1),
    ("after", "environment.json", 1),
    ("before", "real.npz", 1),
    ("after", "metrics.jsonl", 1),
    ("half", "step-000000000000", 1),
    ("after", "step-000000000000", 1),
    ("before", "recipe.toml", 1),
    ("after", "recipe.toml", 1),
    # While it runs, and is saved after every step.
    ("step", "", 1),
    ("half", "step-", 4),
    ("before", "step-", 4),
    ("after", "step-", 4),
    ("unlink", "step-", 3),
    ("half", "model.safetensors", 1),
    ("before", "model.safetensors", 1),
    ("after", "model.safetensors", 1),
    ("half", "progress.npz", 1),
    ("after", "progress.npz", 1),
    ("step", "", 7),
    ("before", "step-", 7),
    ("half", "step-", 9),
]


def test_any_number_of_kills(trainer: Trainer, reference: Path, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    for kill in KILLS:
        assert trainer.run(folder.path, {}, kill=kill) == KILLED, kill
        if folder.exists:
            torn = newest(folder).stat().st_size // 2
            (folder.checkpoints / f".{newest(folder).name}.1.tmp").write_bytes(b"x" * torn)
    for damage in (tear, flip, tear):  # kills from outside, at no particular place, and a disk that lied
        seen = newest(folder).name
        pid = trainer.start(folder.path, {}, pause=0.05)
        wait_for(pid, folder, lambda seen=seen: newest(folder).name > seen)
        os.kill(pid, signal.SIGKILL)
        assert trainer.wait() == KILLED
        damage(newest(folder))
        with open(folder.metrics_file, "a", encoding="utf-8") as file:
            file.write('{"epoch": 99, "st')
    assert trainer.run(folder.path, {}) == 0
    assert_same_run(folder.path, reference)
    assert [line["epoch"] for line in metrics_of(folder.path)] == list(range(1, len(metrics_of(folder.path)) + 1))
    assert not list(folder.path.rglob("*.tmp")), "what killed writers left half written was not removed"


def test_interrupts_from_outside(trainer: Trainer, reference: Path, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    pid = trainer.start(folder.path, {}, seconds=1000.0, pause=0.05)  # nothing but Ctrl-C saves
    wait_for(pid, folder, lambda: len(folder.metrics()) > 1 if folder.exists else False)
    os.kill(pid, signal.SIGINT)
    assert trainer.wait() == INTERRUPTED
    assert "Run the same command again" in folder.path.with_suffix(".said.txt").read_text()
    pid = trainer.start(folder.path, {}, seconds=1000.0, pause=0.05)
    lines = len(folder.metrics())
    wait_for(pid, folder, lambda: len(folder.metrics()) > lines)
    os.kill(pid, signal.SIGTERM)
    assert trainer.wait() == INTERRUPTED
    assert trainer.run(folder.path, {}, seconds=1000.0) == 0
    assert_same_run(folder.path, reference)


def assert_pieces_make_the_whole(tmp_path: Path, changes: dict[str, Any], every: int = 4) -> None:
    """One run in one piece, one stopped after every few steps, in the middle of epochs and at their ends."""
    recipe = tiny_of(changes)
    train(tmp_path / "whole", recipe)
    for _ in range(MOST_STARTS):
        torch.rand(3)  # what the caller draws in between is of no influence
        try:
            train(tmp_path / "pieces", recipe, interrupt_at(every))
            break
        except Interrupted:
            continue
    assert len(RunFolder(tmp_path / "pieces").metrics()) == recipe.training.epochs
    assert_same_run(tmp_path / "pieces", tmp_path / "whole")


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer.name": "sgd", "optimizer.momentum": 0.9, "optimizer.lr": 1e-4},
        {"optimizer.name": "sgd", "optimizer.lr": 1e-4, "prior.name": "standard-normal"},
        {"optimizer.name": "adamw", "schedule.name": "cosine", "schedule.warmup_steps": 3},
        {"optimizer.name": "adam", "objective.name": "iwae", "training.validation_samples": 3, "training.seed": 7},
        {"data.binarization": "dynamic", "likelihood.name": "bernoulli", "prior.name": "factorized-mixture"},
        {"data.binarization": "resampled", "likelihood.name": "bernoulli", "objective.warmup": 1.5},
        {"training.precision": "bfloat16", "likelihood.name": "discretized-gaussian"},
    ],
    ids=lambda changes: "-".join(str(value) for value in changes.values()),
)
def test_every_part_with_a_state_resumes_mid_epoch(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert_pieces_make_the_whole(tmp_path, changes)


def test_interrupt_after_the_last_batch_of_an_epoch(tmp_path: Path) -> None:
    assert_pieces_make_the_whole(tmp_path, {}, every=6)


def test_an_interrupt_saves_the_middle_of_an_epoch_and_says_how_to_go_on(tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match=r"step 8 \(batch 2 of epoch 2\).*\n.*same command again") as stopped:
        train(tmp_path, tiny(), interrupt_at(8))
    assert stopped.value.exit_code == INTERRUPTED
    facts = load_checkpoint(RunFolder(tmp_path), assert_not_called).facts["state"]
    assert (facts["epoch"], facts["batch"], facts["step"]) == (1, 2, 8)
    notes = Notes()
    train(tmp_path, tiny(), notes)
    assert notes.said[0] == f"resuming {tmp_path} after epoch 1 (step 8)"
    assert notes.steps == 3 * 6 - 8


def test_a_second_interrupt_stops_at_once(tmp_path: Path) -> None:
    def twice(steps: int) -> None:
        if steps == 8:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "pieces", tiny(), Notes(twice))
    train(tmp_path / "pieces", tiny())
    train(tmp_path / "whole", tiny())
    assert_same_run(tmp_path / "pieces", tmp_path / "whole")


def test_parts_look_at_the_data_exactly_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    first_look = start.first_look
    monkeypatch.setattr(start, "first_look", lambda *given: (looks.append(1), first_look(*given)))
    recipe = tiny()
    assert (recipe.prior.options["init"], recipe.likelihood.options["start"]) == ("k-means", "data")
    with pytest.raises(Interrupted):
        train(tmp_path, recipe, interrupt_at(1))
    train(tmp_path, recipe)
    assert len(looks) == 1


def test_a_kill_before_the_first_epoch_does_not_look_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainer: Trainer
) -> None:
    assert trainer.run(tmp_path / "run", {}, kill=("step", "", 1), seconds=1000.0) == KILLED
    monkeypatch.setattr(start, "first_look", lambda *_: pytest.fail("looked again"))
    with pytest.raises(Interrupted):
        train(tmp_path / "run", tiny_of(RICH), interrupt_at(1))


def test_a_finished_run_says_so_and_changes_nothing(tmp_path: Path) -> None:
    said = Notes()
    assert train(tmp_path, tiny()) == "all 3 epochs done"
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert train(tmp_path, tiny(), said) == "all 3 epochs done"
    assert said.said == [f"{tmp_path} is finished: all 3 epochs done. Raise --epochs or --patience to go on."]
    assert said.steps == 0
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_a_finished_run_writes_lost_weights_again(tmp_path: Path) -> None:
    train(tmp_path, tiny())
    weights = RunFolder(tmp_path).weights_file
    before = weights.read_bytes()
    tear(weights)
    with pytest.raises(RunError, match="damaged"):
        RunFolder(tmp_path).weights()
    train(tmp_path, tiny())
    assert weights.read_bytes() == before


def test_raised_epochs_equal_a_longer_run(tmp_path: Path) -> None:
    for epochs in (1, 3, 5):
        train(tmp_path / "raised", tiny(training__epochs=epochs))
    train(tmp_path / "long", tiny(training__epochs=5))
    assert_same_run(tmp_path / "raised", tmp_path / "long")


def test_raised_stage_by_stage_equals_all_stages_at_once(tmp_path: Path) -> None:
    """Stages of 1, 2 and 4 epochs, stopped in the middle of the last one."""
    staged = {"schedule__name": "staged", "schedule__growth": 2, "schedule__stages": 3, "training__keep": "last"}
    for epochs in (1, 3, 6):
        train(tmp_path / "raised", tiny(**staged, training__epochs=epochs))
    train(tmp_path / "whole", tiny(**staged, training__epochs=6))
    assert_same_run(tmp_path / "raised", tmp_path / "whole")
    rates = [line["lr"] for line in metrics_of(tmp_path / "raised")]
    assert rates == pytest.approx([1e-3, *[1e-3 * 0.1**0.5] * 2, *[1e-4] * 3], rel=1e-12)


def test_raised_patience_equals_a_more_patient_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = [5.0, 6.0, 6.0, 6.0, 4.0, 6.0, 6.0, 3.0]
    scripted(monkeypatch, values)
    outcomes = [train(tmp_path / "raised", tiny(training__epochs=8, training__patience=p)) for p in (1, 2, 0)]
    assert outcomes == ["no improvement for 2 epochs", "no improvement for 3 epochs", "all 8 epochs done"]
    scripted(monkeypatch, values)
    train(tmp_path / "patient", tiny(training__epochs=8, training__patience=0))
    assert_same_run(tmp_path / "raised", tmp_path / "patient")


def test_epochs_may_be_lowered_to_what_is_done_and_no_further(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train(tmp_path / "cut", tiny(training__epochs=9), interrupt_at(13))
    assert train(tmp_path / "cut", tiny(training__epochs=3)) == "all 3 epochs done"
    train(tmp_path / "short", tiny(training__epochs=3))
    assert_same_run(tmp_path / "cut", tmp_path / "short")
    with pytest.raises(RunError, match=r"training.epochs is 3, asked 2"):
        train(tmp_path / "cut", tiny(training__epochs=2))


def test_threads_and_type_of_the_first_start_are_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, folder = tiny(training__epochs=1), RunFolder(tmp_path)
    used = []
    fit = loop.fit
    monkeypatch.setattr(
        start, "fit", lambda *given: (used.append((torch.get_num_threads(), torch.get_default_dtype())), fit(*given))
    )
    torch.set_num_threads(2)
    try:
        with pytest.raises(Interrupted):
            train(tmp_path, recipe, interrupt_at(1))
        assert folder.read_json(folder.environment_file)["threads"] == 2
        torch.set_num_threads(1)
        torch.set_default_dtype(torch.float64)
        train(tmp_path, recipe)
        assert (torch.get_num_threads(), torch.get_default_dtype()) == (1, torch.float64)
    finally:
        torch.set_num_threads(1)
        torch.set_default_dtype(torch.float32)
    assert used == [(2, torch.float32)] * 2


def test_another_torch_is_announced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tmp_path, tiny(training__epochs=1))
    monkeypatch.setattr(torch, "__version__", "99.0")
    notes = Notes()
    train(tmp_path, tiny(training__epochs=2), notes)
    assert "99.0" in notes.said[0]
    assert "not bit for bit" in notes.said[0]


def test_a_torn_checkpoint_gives_way_to_the_one_before(tmp_path: Path) -> None:
    train(tmp_path / "whole", tiny())
    with pytest.raises(Interrupted):
        train(tmp_path / "torn", tiny(), interrupt_at(14), checkpoint_seconds=0.0)
    tear(newest(RunFolder(tmp_path / "torn")))
    notes = Notes()
    train(tmp_path / "torn", tiny(), notes)
    assert "is damaged and left aside" in notes.said[0]
    assert "(step 13)" in notes.said[1]
    assert_same_run(tmp_path / "torn", tmp_path / "whole")


@pytest.mark.parametrize("damage", [tear, flip, Path.unlink])
def test_without_any_whole_checkpoint_nothing_is_started_over(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    train(tmp_path, tiny())
    folder = RunFolder(tmp_path)
    weights, lines = folder.weights_file.read_bytes(), metrics_of(tmp_path)
    for file in folder.checkpoints.iterdir():
        damage(file)
    with pytest.raises(RunError, match="training cannot go on") as caught:
        train(tmp_path, tiny(training__epochs=4))
    assert "--overwrite" in caught.value.remedy
    assert (folder.weights_file.read_bytes(), metrics_of(tmp_path)) == (weights, lines)


def test_damaged_pictures_do_not_end_training(tmp_path: Path) -> None:
    train(tmp_path, tiny(training__epochs=1))
    tear(RunFolder(tmp_path).progress_file)
    notes = Notes()
    train(tmp_path, tiny(training__epochs=2), notes)
    assert "pictures of earlier epochs are lost" in notes.said[0]
    assert RunFolder(tmp_path).read_arrays(RunFolder(tmp_path).progress_file)["epochs"].tolist() == [2]


def test_a_second_process_is_refused_until_the_first_is_dead(trainer: Trainer, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    pid = trainer.start(folder.path, {"training.epochs": 100_000, "training.patience": 0}, seconds=1000.0)
    wait_for(pid, folder, lambda: folder.exists)
    with pytest.raises(RunError, match=rf"in use by another process \(pid {pid}\)"):
        train(folder.path, tiny())
    os.kill(pid, signal.SIGKILL)
    assert trainer.wait() == KILLED
    with folder.lock():
        assert (folder.path / "lock").read_text() == str(os.getpid())
