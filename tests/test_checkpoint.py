"""Checkpoint files: written whole, found by age, believed only with the right hash."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from training_helpers import assert_not_called, flip, newest, tear
from vaelid.errors import MachineError, RunError
from vaelid.folder import RunFolder
from vaelid.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint


def save(folder: RunFolder, step: int, epoch: int = 0, value: float = 0.0) -> None:
    save_checkpoint(folder, Checkpoint({"model.a": torch.full((50,), value)}, {"step": step, "epoch": epoch}), step, epoch)


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    shared = torch.arange(6.0).view(2, 3)
    tensors = {"model.a": shared, "model.b": shared[0], "optimizer.0.step": torch.tensor(3), "models": torch.ones(1)}
    save_checkpoint(folder, Checkpoint(tensors, {"best": float("inf"), "third": 1 / 3}), 5, 1)
    loaded = load_checkpoint(folder, assert_not_called)
    assert loaded.facts == {"best": float("inf"), "third": 1 / 3}
    assert {name: t.tolist() for name, t in loaded.group("model").items()} == {"a": shared.tolist(), "b": [0, 1, 2]}
    assert loaded.group("optimizer")["0.step"].dtype == torch.int64


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for step in (1, 20, 300):
        save(folder, step)
    assert sorted(file.name[:17] for file in folder.checkpoints.iterdir()) == ["step-000000000020", "step-000000000300"]
    assert load_checkpoint(folder, assert_not_called).facts["step"] == 300


def test_at_one_step_the_later_epoch_is_newer(tmp_path: Path) -> None:
    for attempt in range(8):  # the order must not hang on the hash
        folder = RunFolder(tmp_path / str(attempt))
        save(folder, 12, 1, value=attempt)
        save(folder, 12, 2, value=attempt)
        assert load_checkpoint(folder, assert_not_called).facts["epoch"] == 2


@pytest.mark.parametrize("damage", [tear, flip, lambda file: file.write_bytes(b"")])
def test_a_damaged_one_is_named_and_passed_over(tmp_path: Path, damage: object) -> None:
    folder, said = RunFolder(tmp_path), list[str]()
    save(folder, 1)
    save(folder, 2)
    file = newest(folder)
    damage(file)  # type: ignore[operator]
    assert load_checkpoint(folder, said.append).facts["step"] == 1
    assert said == [f"warning: the checkpoint {file} is damaged and left aside (its SHA-256 disagrees with its name)"]


@pytest.mark.parametrize("content", [b"", b"\x02\0\0\0\0\0\0\0{}", b"\xff" * 40])
def test_a_foreign_file_with_the_right_hash_is_passed_over(tmp_path: Path, content: bytes) -> None:
    folder, said = RunFolder(tmp_path), list[str]()
    save(folder, 1)
    digest = hashlib.sha256(content).hexdigest()[:16]
    (folder.checkpoints / f"step-000000000009-epoch-00000000-{digest}.safetensors").write_bytes(content)
    assert load_checkpoint(folder, said.append).facts["step"] == 1
    assert len(said) == 1


def test_one_that_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    folder, said = RunFolder(tmp_path), list[str]()
    save(folder, 1)
    (folder.checkpoints / "step-000000000009-epoch-00000000-0.safetensors").mkdir()
    assert load_checkpoint(folder, said.append).facts["step"] == 1
    assert "Is a directory" in said[0]


def test_none_at_all(tmp_path: Path) -> None:
    folder, said = RunFolder(tmp_path), list[str]()
    with pytest.raises(RunError, match=r"There is no checkpoint in .*, so training cannot go on"):
        load_checkpoint(folder, assert_not_called)
    save(folder, 1)
    tear(newest(folder))
    with pytest.raises(RunError, match=r"None of the 1 checkpoints in .* is whole"):
        load_checkpoint(folder, said.append)


def test_a_save_that_fails_leaves_the_earlier_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path)
    save(folder, 1)
    save(folder, 2)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(MachineError, match="No space left"):
            save(folder, 3)
    assert load_checkpoint(folder, assert_not_called).facts["step"] == 2
    assert len(list(folder.checkpoints.iterdir())) == 2


def test_a_damaged_checkpoint_does_not_count_among_the_last_two(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for step in (1, 2):
        save_checkpoint(folder, Checkpoint({"x": torch.full((1,), float(step))}, {"made": 1}), step, 0)
    newest_first = sorted(folder.checkpoints.glob("step-*.safetensors"), reverse=True)
    newest_first[0].write_bytes(b"torn")
    load_checkpoint(folder, lambda _: None)
    save_checkpoint(folder, Checkpoint({"x": torch.full((1,), 2.0)}, {"made": 2}), 2, 0)  # the step of the damaged one
    sorted(folder.checkpoints.glob("step-*.safetensors"), reverse=True)[0].write_bytes(b"torn, too")
    assert float(load_checkpoint(folder, lambda _: None).tensors["x"]) == 1.0
