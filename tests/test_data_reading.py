"""Images that stay on disk: the same batches as from memory, announced ahead of their use; errors arrive."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from data_fixtures import settings
from training_helpers import Notes, assert_not_called, assert_same_run, interrupt_at, tiny, train
from vaelid.data import Data, Images, split_data
from vaelid.data.arrays import read_array
from vaelid.data.reading import AHEAD, announce, file_map, require_whole
from vaelid.errors import DataError, Interrupted
from vaelid.supports import levels

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 17, (300, 8, 8), dtype=np.uint8)


def stored(path: Path, array: np.ndarray, **given: object) -> tuple[Images, Images]:
    """The images of a file, in memory and on disk."""
    np.save(path, array)
    with pytest.MonkeyPatch.context() as patch:
        memory = read_array(path, settings(str(path), **given))
        patch.setattr("vaelid.data.arrays.MMAP_THRESHOLD", 10)
        disk = read_array(path, settings(str(path), **given))
    assert isinstance(memory.pixels, torch.Tensor)
    assert isinstance(disk.pixels, np.memmap)
    return memory, disk


def data(images: Images) -> Data:
    return split_data(images, settings(levels=17))


# Batches ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "array",
    [
        IMAGES,
        IMAGES.reshape(300, 64),
        IMAGES.astype(np.int64),
        np.asfortranarray(IMAGES),
        RANDOM.integers(0, 256, (300, 5, 4, 3), dtype=np.uint8),  # channels last: rows on disk have another order than x
        RANDOM.standard_normal((300, 3, 5, 4)),
    ],
)
def test_the_same_batches_as_from_memory(tmp_path: Path, array: np.ndarray) -> None:
    order = torch.randperm(240).split(32)
    for first in (0, 3):
        memory, disk = (
            list(split_data(images, settings()).train.batches(order[first:])) for images in stored(tmp_path / "own.npy", array)
        )
        assert [len(x) for x in disk] == [32] * (7 - first) + [16]
        for ours, theirs in zip(disk, memory, strict=True):
            assert torch.equal(ours, theirs)


def test_noise_belongs_to_the_image_not_to_the_place_it_comes_from(tmp_path: Path) -> None:
    memory, disk = (
        split_data(images, settings(binarization="dynamic")) for images in stored(tmp_path / "own.npy", IMAGES, levels=17)
    )
    order = torch.randperm(240).split(50)
    expected = torch.cat([memory.train.batch(positions, 3, 7) for positions in order])
    assert torch.equal(torch.cat(list(disk.train.batches(order, 3, 7))), expected)
    assert not torch.equal(torch.cat(list(disk.train.batches(order, 4, 7))), expected)


# Ahead --------------------------------------------------------------------------------------------------------------------


def test_batches_are_announced_ahead_of_the_one_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, disk = stored(tmp_path / "own.npy", IMAGES)
    train_split, told = data(disk).train, []
    monkeypatch.setattr("vaelid.data.images.announce", lambda pixels, rows: told.append(rows.tolist()))
    order = torch.randperm(240).split(48)
    wanted = [train_split.indices[positions].tolist() for positions in order]
    seen = []
    for x in train_split.batches(order):
        seen.append(len(told))
        assert len(x) == 48
    assert told == wanted
    assert seen == [1 + AHEAD, 2 + AHEAD, 5, 5, 5]
    train_split.batch(order[1])
    assert told[5:] == wanted[1:2]


def test_images_in_memory_are_not_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vaelid.data.images.announce", assert_not_called)
    images = Images("own", torch.from_numpy(IMAGES), levels(17))
    assert sum(map(len, data(images).train.batches(torch.arange(240).split(50)))) == 240


def test_an_error_comes_where_its_batch_would_have_come(tmp_path: Path) -> None:
    _, disk = stored(tmp_path / "own.npy", IMAGES)
    batches = data(disk).train.batches(torch.arange(40).split(8))
    assert len(next(batches)) == 8
    os.truncate(tmp_path / "own.npy", 5000)
    with pytest.raises(DataError, match=r"has become shorter: 5,000 bytes, it had 19,328\..*\n.*original file"):
        next(batches)


# The file -----------------------------------------------------------------------------------------------------------------


class Told(mmap.mmap):
    """A map that keeps what the kernel is told."""

    def madvise(self, option: int, start: int = 0, length: int = 0) -> None:
        self.told = [*getattr(self, "told", []), (option, start, start + length)]
        super().madvise(option, start, length)


@pytest.mark.parametrize("view", [lambda a: a, lambda a: np.moveaxis(a, 3, 1)])
def test_the_kernel_is_told_which_rows_come(tmp_path: Path, view: Callable[[np.ndarray], np.ndarray]) -> None:
    offset, row = 128, 40 * 50 * 3
    (tmp_path / "rows").write_bytes(bytes(offset + 30 * row))
    with (tmp_path / "rows").open("rb") as file:
        mapped = Told(file.fileno(), 0, access=mmap.ACCESS_READ)
    array = view(np.ndarray((30, 40, 50, 3), np.uint8, buffer=mapped, offset=offset))
    assert file_map(array[3:, None]) is mapped
    announce(array[3:], np.array([26, 0, 5]))
    for number, (option, start, end) in zip((29, 3, 8), mapped.told, strict=True):
        first = offset + number * row
        assert (option, start, end) == (mmap.MADV_WILLNEED, first // mmap.PAGESIZE * mmap.PAGESIZE, first + row)


def test_nothing_is_told_of_arrays_in_memory_or_scattered_rows(tmp_path: Path) -> None:
    assert file_map(IMAGES[5:, None]) is None
    announce(IMAGES, np.array([1]))
    (tmp_path / "columns").write_bytes(bytes(12))
    with (tmp_path / "columns").open("rb") as file:
        mapped = Told(file.fileno(), 0, access=mmap.ACCESS_READ)
    announce(np.ndarray((3, 4), np.uint8, buffer=mapped, order="F"), np.array([1]))
    assert "told" not in vars(mapped)


def test_a_file_that_became_shorter_is_refused(tmp_path: Path) -> None:
    """Touching a page that is gone would end the process."""
    require_whole(IMAGES)
    _, disk = stored(tmp_path / "own.npy", IMAGES)
    assert isinstance(disk.pixels, np.ndarray)
    require_whole(disk.pixels)
    os.truncate(tmp_path / "own.npy", 19_327)
    with pytest.raises(DataError, match="19,327 bytes, it had 19,328"):
        require_whole(disk.pixels)


# Training -----------------------------------------------------------------------------------------------------------------


def recipe_of(path: Path) -> dict[str, object]:
    return {"data__name": str(path), "data__levels": 17, "data__train_limit": 192}


def test_training_is_the_same_from_memory_and_from_disk_and_resumes_within_an_epoch(tmp_path: Path) -> None:
    memory, disk = (data(images) for images in stored(tmp_path / "own.npy", IMAGES, levels=17))
    recipe = tiny(**recipe_of(tmp_path / "own.npy"))
    train(tmp_path / "memory", recipe, data=memory)
    for steps in (4, 7):  # 6 batches an epoch: both break off in the middle of one
        with pytest.raises(Interrupted, match="everything is saved"):
            train(tmp_path / "disk", recipe, interrupt_at(steps), data=disk)
    train(tmp_path / "disk", recipe, data=disk)
    assert_same_run(tmp_path / "disk", tmp_path / "memory")


def test_an_error_of_the_data_stops_the_training_as_itself(tmp_path: Path) -> None:
    _, disk = stored(tmp_path / "own.npy", IMAGES, levels=17)
    shorten = Notes(lambda steps: os.truncate(tmp_path / "own.npy", 5000) if steps == 3 else None)
    with pytest.raises(DataError, match="has become shorter"):
        train(tmp_path / "run", tiny(**recipe_of(tmp_path / "own.npy")), shorten, data=data(disk))
    assert shorten.steps == 3
