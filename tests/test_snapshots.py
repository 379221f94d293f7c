"""Pictures of progress."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from training_helpers import assert_not_called, ready, tear, tiny
from vaelid.data import Shades
from vaelid.folder import RunFolder
from vaelid.training.snapshots import COUNT, Snapshots


def test_the_same_random_numbers_every_time_and_none_of_the_callers(tmp_path: Path) -> None:
    model = ready(tmp_path, tiny()).model
    snapshots = Snapshots(RunFolder(tmp_path), seed=4, shades=Shades())
    before = torch.get_rng_state()
    snapshots.take(model, 1)
    torch.rand(5)
    snapshots.take(model, 2)
    assert np.array_equal(snapshots.means[0], snapshots.means[1])
    torch.set_rng_state(before)
    snapshots.take(model, 3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    expected = (model.sample(COUNT).means * 255).round().to(torch.uint8).numpy()
    assert np.array_equal(snapshots.means[0], expected)
    other = Snapshots(RunFolder(tmp_path), seed=5, shades=Shades())
    other.take(model, 1)
    assert not np.array_equal(other.means[0], expected)


def test_they_are_cut_back_to_the_epochs_of_a_checkpoint(tmp_path: Path) -> None:
    model = ready(tmp_path, tiny()).model
    snapshots = Snapshots(RunFolder(tmp_path), seed=0, shades=Shades())
    for epoch in (1, 2, 5):
        snapshots.take(model, epoch)
    snapshots.save()
    again = Snapshots(RunFolder(tmp_path), seed=0, shades=Shades())
    again.load(4, assert_not_called)
    assert again.epochs == [1, 2]
    assert np.array_equal(again.means[1], snapshots.means[1])
    again.take(model, 5)
    again.save()
    assert again.folder.read_arrays(again.file)["epochs"].tolist() == [1, 2, 5]
    assert again.folder.read_arrays(again.file)["means"].shape == (3, COUNT, 1, 8, 8)


def test_nothing_new_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshots = Snapshots(RunFolder(tmp_path), seed=0, shades=Shades())
    snapshots.load(9, assert_not_called)
    snapshots.save()
    assert not snapshots.file.exists()
    snapshots.take(ready(tmp_path, tiny()).model, 1)
    snapshots.save()
    monkeypatch.setattr(RunFolder, "write_arrays", assert_not_called)
    snapshots.save()
    again = Snapshots(RunFolder(tmp_path), seed=0, shades=Shades())
    again.load(1, assert_not_called)
    again.save()


def test_a_damaged_file_is_said_and_left(tmp_path: Path) -> None:
    snapshots, said = Snapshots(RunFolder(tmp_path), seed=0, shades=Shades()), list[str]()
    snapshots.take(ready(tmp_path, tiny()).model, 1)
    snapshots.save()
    tear(snapshots.file)
    snapshots.load(1, said.append)
    assert snapshots.epochs == []
    assert "damaged" in said[0]
