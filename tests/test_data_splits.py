"""Images, splits and binarization protocols."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from data_fixtures import ramp, settings
from vaelid.data import BINARIZATIONS, Data, Images, Split, split_data, whole
from vaelid.errors import DataError
from vaelid.supports import BINARY, BYTES, REAL, UNIT, levels

ALL = torch.arange(16)


def ramp_data(binarization: str = "none", **given: object) -> Data:
    return split_data(ramp(), settings(binarization=binarization, **given))


def test_every_image_is_in_exactly_one_split() -> None:
    data = split_data(ramp(50), settings(validation_fraction=0.2, test_fraction=0.3))
    assert [len(s) for s in data.splits.values()] == [25, 10, 15]
    assert list(data.splits) == ["train", "validation", "test"]
    everything = torch.cat([s.indices for s in data.splits.values()])
    assert torch.equal(everything.sort().values, torch.arange(50))
    assert not torch.equal(everything, torch.arange(50))


def test_validation_images_go_before_their_share() -> None:
    data = split_data(ramp(50), settings(validation_images=7, test_fraction=0.3))
    assert [len(s) for s in data.splits.values()] == [28, 7, 15]
    with pytest.raises(DataError, match=r"ramp has 50 images: 35 for validation and 15 for test leave none to train on"):
        split_data(ramp(50), settings(validation_images=35, test_fraction=0.3))


def test_the_split_depends_on_its_seed_alone() -> None:
    first, again, other = (ramp_data(split_seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.train.indices, again.train.indices)
    assert not torch.equal(first.train.indices, other.train.indices)


def test_small_held_out_shares_give_one_image() -> None:
    assert [len(s) for s in split_data(ramp(3), settings()).splits.values()] == [1, 1, 1]


@pytest.mark.parametrize(("count", "given"), [(2, {}), (1, {}), (10, {"validation_fraction": 0.5, "test_fraction": 0.5})])
def test_too_few_images_for_three_splits_are_refused(count: int, given: dict[str, float]) -> None:
    with pytest.raises(DataError, match=rf"ramp has {count} images?: .*none to train on"):
        split_data(ramp(count), settings(**given))


def test_limits_take_the_first_images_of_each_split() -> None:
    full, limited = ramp_data(), ramp_data(train_limit=3, held_out_limit=1)
    for name, count in {"train": 3, "validation": 1, "test": 1}.items():
        assert torch.equal(limited.splits[name].indices, full.splits[name].indices[:count])
        assert (len(limited.splits[name]), limited.splits[name].available) == (count, len(full.splits[name]))
        assert full.splits[name].available == len(full.splits[name])
    assert limited.fingerprint != full.fingerprint
    few = limited.train.first(2)
    assert (len(few), few.available) == (2, len(full.train)), "a limit upon a limit still knows of all"
    assert torch.equal(few.indices, full.train.indices[:2])


def test_batches_are_the_stored_levels_on_the_unit_scale() -> None:
    split = ramp_data().train
    positions = torch.tensor([3, 0, 3])
    expected = ramp().pixels[split.indices[positions]].double() / 255
    batch = split.batch(positions, epoch=5, seed=7)
    assert batch.dtype == torch.float32
    assert torch.equal(batch, expected.float())
    assert torch.equal(split.gray(positions), batch)
    assert split.support == BYTES
    assert split.labels is not None
    assert torch.equal(split.labels, split.indices % 3)


@pytest.mark.parametrize("n", [2, 17, 256])
def test_gray_levels_are_the_nearest_numbers_to_the_grid(n: int) -> None:
    split = whole(ramp(20, 4, n), settings())
    grid = torch.tensor([k / (n - 1) for k in range(n)], dtype=torch.float32)
    assert torch.isin(split.batch(ALL), grid).all()
    split.support.check(split.batch(ALL))


def test_stored_pixels_are_never_written() -> None:
    for pixels, support in ((ramp().pixels, BYTES), (ramp().pixels.float() / 255, UNIT)):
        before = pixels.clone()
        for name in ("none", "dynamic", "resampled", "threshold"):
            whole(Images("x", pixels, support), settings(binarization=name)).batch(ALL)
        assert torch.equal(pixels, before)


@pytest.mark.parametrize("name", [n for n in BINARIZATIONS if n != "none"])
def test_binarized_batches_are_binary(name: str) -> None:
    for split in ramp_data(name).splits.values():
        batch = split.batch(torch.arange(len(split)))
        assert split.support == BINARY
        assert batch.dtype == torch.float32
        assert set(batch.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize(("name", "part"), [("dynamic", "train"), ("resampled", "train"), ("resampled", "test")])
def test_the_mean_over_redraws_is_the_gray_value(name: str, part: str) -> None:
    split = ramp_data(name).splits[part]
    positions, draws = torch.arange(2), 4000
    total = sum(split.batch(positions, epoch=epoch).double() for epoch in range(draws))
    gray = split.gray(positions).double()
    deviation = ((total / draws - gray) / (gray * (1 - gray) / draws).sqrt().clamp_min(1e-9)).abs().max()
    # 32 pixels, two-sided normal tail beyond 5: this would fail by chance once in 54 000 seeds.
    assert deviation < 5


def test_the_mean_over_seeds_of_the_held_out_draw_is_the_gray_value() -> None:
    images, draws = ramp(), 4000
    total = sum(whole(images, settings(binarization="dynamic", binarization_seed=s)).batch(ALL[:2]) for s in range(draws))
    gray = whole(images, settings()).gray(ALL[:2])
    deviation = ((total / draws - gray) / (gray * (1 - gray) / draws).sqrt().clamp_min(1e-9)).abs().max()
    assert deviation < 5  # as above


def test_black_stays_black_and_white_stays_white() -> None:
    pixels = torch.tensor([0, 255], dtype=torch.uint8).repeat(50, 200)
    split = Split("train", Images("x", pixels, BYTES), torch.arange(50), settings(binarization="dynamic"))
    batch = torch.stack([split.batch(torch.arange(50), epoch) for epoch in range(20)])
    assert torch.equal(batch, (pixels / 255).expand(20, -1, -1))


def test_a_pixel_is_one_only_below_its_gray_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vaelid.data.binarization.kernels.find", lambda *_: None)  # the compiled loop draws for itself
    monkeypatch.setattr("vaelid.data.binarization.uniform", lambda keys, count: torch.zeros(len(keys), count))
    split = whole(Images("x", torch.tensor([[0, 1]], dtype=torch.uint8), BYTES), settings(binarization="dynamic"))
    assert split.batch(torch.tensor([0])).tolist() == [[0, 1]]  # u = 0 does occur, once in 2^24


def test_a_draw_does_not_depend_on_the_rest_of_the_batch() -> None:
    for split in ramp_data("dynamic").splits.values():
        last = len(split) - 1
        alone = split.batch(torch.tensor([last]), epoch=3, seed=5)[0]
        among = split.batch(torch.cat((torch.zeros(7, dtype=torch.long), torch.tensor([last, 0]))), epoch=3, seed=5)[7]
        assert torch.equal(alone, among)


def test_a_draw_belongs_to_the_source_image_not_to_its_position() -> None:
    train = ramp_data("dynamic").train
    reversed_train = replace(train, indices=train.indices.flip(0))
    assert torch.equal(train.batch(ALL, 1, 2), reversed_train.batch(ALL.flip(0) - 16 + len(train), 1, 2))


@pytest.mark.parametrize("change", [{"epoch": 1}, {"seed": 1}])
def test_training_images_are_redrawn(change: dict[str, int]) -> None:
    train = ramp_data("dynamic").train
    assert torch.equal(train.batch(ALL), train.batch(ALL, epoch=0, seed=0))
    assert not torch.equal(train.batch(ALL), train.batch(ALL, **change))


@pytest.mark.parametrize("name", ["validation", "test"])
def test_held_out_images_are_drawn_once(name: str) -> None:
    split, other = (ramp_data("dynamic", binarization_seed=seed).splits[name] for seed in (0, 1))
    positions = torch.arange(len(split))
    assert torch.equal(split.batch(positions), split.batch(positions, epoch=9, seed=9))
    assert not torch.equal(split.batch(positions), other.batch(positions))


@pytest.mark.parametrize("change", [{"epoch": 1}, {"seed": 1}])
def test_resampled_images_are_redrawn_everywhere(change: dict[str, int]) -> None:
    for split in ramp_data("resampled").splits.values():
        positions = torch.arange(len(split))
        assert not torch.equal(split.batch(positions), split.batch(positions, **change))
        assert torch.equal(split.batch(positions, **change), split.batch(positions, **change))


def test_training_draws_ignore_the_held_out_seed() -> None:
    first, other = (ramp_data("dynamic", binarization_seed=seed).train for seed in (0, 1))
    assert torch.equal(first.batch(ALL), other.batch(ALL))


def test_threshold_is_exclusive() -> None:
    pixels = torch.tensor([[0, 1, 2, 3, 4]], dtype=torch.uint8)
    split = whole(Images("x", pixels, levels(5)), settings(binarization="threshold", threshold=0.5))
    assert split.batch(torch.tensor([0])).tolist() == [[0, 0, 0, 1, 1]]


@pytest.mark.parametrize("name", [n for n in BINARIZATIONS if n != "none"])
def test_binary_images_are_not_binarized_again(name: str) -> None:
    with pytest.raises(DataError, match=r"already binary(.|\n)*data\.binarization to 'none'"):
        split_data(ramp(20, 4, 2), settings(binarization=name))


def test_real_images_are_not_binarized() -> None:
    images = Images("x", torch.tensor([[-1.5, 0.0], [0.5, 2.0], [0, 0]]), REAL)
    with pytest.raises(DataError, match=r"between -1\.5 and 2"):
        split_data(images, settings(binarization="dynamic"))
    assert split_data(images, settings()).support == REAL


def test_float_images_can_be_binarized() -> None:
    images = Images("x", torch.tensor([[0.25, 0.75]]), UNIT)
    assert whole(images, settings(binarization="threshold")).batch(torch.tensor([0])).tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("name", "train", "held_out"),
    [
        ("none", "as stored", "as stored"),
        ("dynamic", "redrawn in every epoch", "binarized once with seed 3, the same for every model"),
        ("resampled", "redrawn in every epoch", "redrawn at every access (access 0)"),
        ("threshold", "above 0.25", "above 0.25"),
    ],
)
def test_protocols_say_how_pixels_come_about(name: str, train: str, held_out: str) -> None:
    data = ramp_data(name, binarization_seed=3, threshold=0.25)
    for split in data.splits.values():
        assert (held_out if split.held_out else train) in split.protocol


def test_fingerprints_tell_what_changes_the_pixels() -> None:
    base = ramp_data("dynamic")
    assert base.fingerprint == ramp_data("dynamic").fingerprint
    assert len({base.fingerprint, base.train.fingerprint, base.test.fingerprint, base.train.images.fingerprint}) == 4
    reseeded = ramp_data("dynamic", binarization_seed=1)
    assert base.train.fingerprint == reseeded.train.fingerprint
    assert base.test.fingerprint != reseeded.test.fingerprint
    assert ramp_data(binarization_seed=1).fingerprint == ramp_data().fingerprint
    others = [ramp_data(name).fingerprint for name in BINARIZATIONS] + [
        ramp_data("threshold", threshold=0.25).fingerprint,
        ramp_data(split_seed=3).fingerprint,
    ]
    assert len(set(others)) == len(others)


def test_image_fingerprints_cover_bytes_shape_and_support() -> None:
    images = ramp()
    changed = ramp().pixels.clone()
    changed[-1, -1, -1, -1] ^= 1
    variants = [
        images,
        replace(images, pixels=changed),
        replace(images, pixels=images.pixels.view(20, 16)),
        replace(images, pixels=images.pixels.view(20, 1, 2, 8)),
        replace(images, pixels=images.pixels.float(), support=REAL),
        Images("levels", torch.ones(2, 2, dtype=torch.uint8), BINARY),
        Images("levels", torch.ones(2, 2, dtype=torch.uint8), BYTES),
    ]
    assert len({v.fingerprint for v in variants}) == len(variants)
    assert replace(images, name="other", labels=None).fingerprint == images.fingerprint


def test_fingerprints_do_not_depend_on_the_size_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole_at_once = ramp().fingerprint
    monkeypatch.setattr("vaelid.data.images.BLOCK_BYTES", 50)
    assert ramp().fingerprint == whole_at_once


def test_moving_data_moves_shared_pixels_once() -> None:
    data = ramp_data("dynamic")
    moved = data.to("meta")
    assert moved.train.device.type == "meta"
    assert moved.train.images is moved.validation.images is moved.test.images
    assert moved.train.images.labels is not None
    assert moved.train.images.labels.device.type == "meta"
    assert data.train.to("meta").images.pixels.device.type == "meta"  # type: ignore[union-attr]
    stayed = data.to("cpu")
    assert torch.equal(stayed.train.batch(ALL), data.train.batch(ALL))
    assert stayed.fingerprint == data.fingerprint


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", list(BINARIZATIONS))
def test_devices_give_the_same_bits(name: str) -> None:
    data = split_data(ramp(100), settings(binarization=name))
    moved = data.to("cuda")
    for part, split in data.splits.items():
        positions = torch.arange(len(split))
        assert torch.equal(moved.splits[part].batch(positions, 3, 4).cpu(), split.batch(positions, 3, 4))
        assert torch.equal(moved.splits[part].batch(positions.cuda(), 3, 4).cpu(), split.batch(positions, 3, 4))
    assert moved.fingerprint == data.fingerprint


def test_arrays_give_the_same_batches_as_tensors() -> None:
    images = ramp()
    on_disk = replace(images, pixels=images.pixels.numpy().astype(np.int64))
    positions = torch.tensor([7, 2, 2])
    assert torch.equal(on_disk.gather(positions), images.gather(positions))
    assert on_disk.gather(positions).dtype == torch.uint8
    assert on_disk.fingerprint == images.fingerprint
    assert on_disk.to("cpu").pixels is on_disk.pixels
    halves = Images("x", np.array([[0.5, -2.0]], dtype=np.float16), REAL)
    assert halves.gather(torch.tensor([0])).tolist() == [[0.5, -2.0]]
    assert halves.gather(torch.tensor([0])).dtype == torch.float32


def test_splits_without_images_are_refused() -> None:
    with pytest.raises(DataError, match="train split of ramp has no images"):
        Split("train", ramp(), torch.arange(0), settings())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pixels": torch.zeros(2, 2)}, "stored as torch.uint8; those of x are torch.float32"),
        ({"support": UNIT}, "stored as torch.float32; those of x are torch.uint8"),
        ({"pixels": torch.zeros(2, dtype=torch.uint8)}, r"\(N, \*X\); its shape is \(2,\)"),
        ({"pixels": torch.zeros(0, 2, dtype=torch.uint8)}, r"its shape is \(0, 2\)"),
        ({"labels": torch.zeros(3)}, "2 images but 3 labels"),
        ({"files": ("a",)}, "2 images but 1 file names"),
    ],
)
def test_inconsistent_images_are_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Images(**({"name": "x", "pixels": torch.zeros(2, 2, dtype=torch.uint8), "support": BYTES} | given))  # type: ignore[arg-type]


def test_splits_without_labels_have_none() -> None:
    assert whole(replace(ramp(), labels=None), settings()).labels is None


def test_noise_of_different_images_is_independent() -> None:
    pixels = torch.full((200, 1, 8, 8), 128, dtype=torch.uint8)
    split = Split("train", Images("x", pixels, BYTES), torch.arange(200), settings(binarization="dynamic"))
    flat = split.batch(torch.arange(200)).flatten(1) - 128 / 255
    products = flat @ flat.T / (0.25 * math.sqrt(64))
    beyond = (products[~torch.eye(200, dtype=torch.bool)].abs() > 5).double().mean()
    assert beyond < 1e-4  # two standard normal tails beyond 5 hold 6e-7
