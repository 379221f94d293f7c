"""The data sets that are known by name."""

from __future__ import annotations

import gzip
import hashlib
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import random_split

from data_fixtures import needs_real_data, settings
from vaelid.data import DATASETS, Data, load_data, mnist, store
from vaelid.data.mnist import PACKED_PLACE, TEXT_FILES, read_idx
from vaelid.errors import DataError, MachineError
from vaelid.settings import options_of
from vaelid.supports import BINARY, BYTES, levels


def test_every_data_set_is_described_and_loads_settings() -> None:
    assert list(DATASETS) == ["digits", "mnist", "binarized-mnist"]
    for dataset in DATASETS.values():
        assert len(dataset.description) > 20
        assert list(options_of(dataset.load)) == ["settings"]


# Digits -------------------------------------------------------------------------------------------------------------------


def test_digits_are_those_of_scikit_learn() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    theirs = datasets.load_digits()
    data = load_data(settings("digits"))
    ours = data.train.images
    assert np.array_equal(np.asarray(ours.pixels)[:, 0], theirs.images)
    assert ours.labels is not None
    assert ours.labels.tolist() == theirs.target.tolist()
    assert (data.shape, data.support, ours.label_names) == ((1, 8, 8), levels(17), tuple("0123456789"))
    assert [len(split) for split in data.splits.values()] == [1437, 180, 180]
    data.support.check(data.train.batch(torch.arange(1437)))


def test_digits_without_scikit_learn_are_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MachineError, match="pip install scikit-learn"):
        load_data(settings("digits"))


# MNIST --------------------------------------------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.mark.parametrize("shape", [(3,), (2, 4, 5)])
def test_idx_files_are_read(shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    assert np.array_equal(read_idx(idx(array), "x"), array)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "begins with nothing"),
        (b"\x1f\x8b\x08\x01", "x is no IDX file of bytes: it begins with 1f 8b 08 01"),
        (b"\0\0\x0d\x01\0\0\0\x01\0\0\0\0", "no IDX file of bytes"),
        (b"\0\0\x08\x03\0\0\0\x01", "no IDX file of bytes"),
        (idx(np.zeros((2, 3), np.uint8))[:-1], "promises 2 x 3 values; 5 came"),
        (idx(np.zeros((2, 3), np.uint8)) + b"?", "promises 2 x 3 values; 7 came"),
    ],
)
def test_other_idx_files_are_refused(raw: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_idx(raw, "x")


def small(monkeypatch: pytest.MonkeyPatch, folder: Path, packed: bool) -> np.ndarray:
    """MNIST in miniature in the user's folder: 5 + 2 + 3 images; returns their pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (10, 28, 28), dtype=np.uint8)
    parts = {"train-images": pixels[:7], "t10k-images": pixels[7:]}
    labels = {"train-labels": np.arange(7, dtype=np.uint8), "t10k-labels": np.arange(7, 10, dtype=np.uint8)}
    (folder / "mnist").mkdir(parents=True)

    def written(file: store.KnownFile, array: np.ndarray) -> store.KnownFile:
        raw = idx(array)
        name = file.place if packed else file.place.removesuffix(".gz")
        (folder / name).write_bytes(gzip.compress(raw) if packed else raw)
        return replace(file, checksum=f"sha256:{hashlib.sha256(raw).hexdigest()}")

    images = [written(file, array) for file, array in zip(mnist.IMAGE_FILES, parts.values(), strict=True)]
    monkeypatch.setattr(mnist, "IMAGE_FILES", images)
    monkeypatch.setattr(
        mnist, "LABEL_FILES", [written(file, array) for file, array in zip(mnist.LABEL_FILES, labels.values(), strict=True)]
    )
    monkeypatch.setattr(mnist, "SIZES", (5, 2, 3))
    monkeypatch.setattr(mnist, "_FIXED", torch.split(torch.arange(10), [5, 2, 3]))
    monkeypatch.setenv("VAELID_DATA", str(folder))
    return pixels


@pytest.mark.parametrize("packed", [True, False])
def test_mnist_in_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool) -> None:
    pixels = small(monkeypatch, tmp_path, packed)
    data = load_data(settings("mnist", split_seed=3))
    expected = random_split(range(7), [5, 2], generator=torch.Generator().manual_seed(3))  # type: ignore[arg-type]
    assert data.train.indices.tolist() == expected[0].indices
    assert data.validation.indices.tolist() == expected[1].indices
    assert data.test.indices.tolist() == [7, 8, 9]
    for split in data.splits.values():
        assert torch.equal(split.labels, split.indices)  # type: ignore[arg-type]
        assert np.array_equal(split.batch(torch.arange(len(split)))[:, 0] * 255, pixels[split.indices])


def test_mnist_with_another_number_of_validation_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch, tmp_path, packed=True)
    usual, other = load_data(settings("mnist")), load_data(settings("mnist", validation_images=1))
    assert torch.equal(other.train.indices, torch.cat((usual.train.indices, usual.validation.indices[:1])))
    assert torch.equal(other.validation.indices, usual.validation.indices[1:])
    assert other.test.fingerprint == usual.test.fingerprint
    assert load_data(settings("mnist", validation_images=2)).fingerprint == usual.fingerprint
    with pytest.raises(DataError, match=r"validation_images must be below 7; it is 7\."):
        load_data(settings("mnist", validation_images=7))


def test_the_static_binarization_keeps_its_own_split() -> None:
    with pytest.raises(DataError, match="comes with its own split"):
        load_data(settings("binarized-mnist", validation_images=400))


def test_missing_mnist_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAELID_DATA", str(tmp_path))
    nowhere = [replace(file, urls=()) for file in mnist.IMAGE_FILES]
    monkeypatch.setattr(mnist, "IMAGE_FILES", nowhere)
    with pytest.raises(MachineError, match=r"mnist/train-images-idx3-ubyte\.gz is missing"):
        load_data(settings("mnist"))


def test_every_known_file_has_mirrors() -> None:
    for file in (*mnist.IMAGE_FILES, *mnist.LABEL_FILES, *TEXT_FILES):
        assert len(file.urls) > 1
        assert all(url.endswith(file.place.split("/")[1]) for url in file.urls)


@pytest.fixture(scope="module")
def real_mnist() -> Data:
    return load_data(settings("mnist"))


@needs_real_data
def test_mnist_is_split_as_random_split_does(real_mnist: Data) -> None:
    generator = torch.Generator().manual_seed(14)
    train, validation = random_split(range(60000), [50000, 10000], generator=generator)  # type: ignore[arg-type]
    assert real_mnist.train.indices.tolist() == train.indices
    assert real_mnist.validation.indices.tolist() == validation.indices
    assert real_mnist.test.indices.tolist() == list(range(60000, 70000))


@needs_real_data
def test_mnist_is_mnist(real_mnist: Data) -> None:
    images = real_mnist.test.images
    assert isinstance(images.pixels, torch.Tensor)
    assert images.pixels.untyped_storage().nbytes() < 60e6
    assert (real_mnist.shape, real_mnist.support) == ((1, 28, 28), BYTES)
    raw = images.pixels[:60000].numpy().tobytes()
    assert hashlib.md5(gzip_content("train-images-idx3-ubyte.gz")[16:]).digest() == hashlib.md5(raw).digest()
    raw = images.pixels[60000:].numpy().tobytes()
    assert hashlib.md5(gzip_content("t10k-images-idx3-ubyte.gz")[16:]).digest() == hashlib.md5(raw).digest()
    assert images.labels is not None
    # The counts of the digits 0 to 9 in the test file, as its authors give them.
    assert images.labels[60000:].bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert float(real_mnist.train.gray(torch.arange(50000)).mean()) == pytest.approx(0.1307, abs=5e-4)


def gzip_content(name: str) -> bytes:
    folder = store.data_folder()
    assert folder is not None
    return gzip.decompress((folder / "mnist" / name).read_bytes())


# The static binarization --------------------------------------------------------------------------------------------------


def text_of(pixels: np.ndarray) -> bytes:
    text = np.full((len(pixels), 2 * 784), ord(" "), dtype=np.uint8)
    text[:, ::2] = pixels.reshape(-1, 784) + ord("0")
    text[:, -1] = ord("\n")
    return text.tobytes()


@needs_real_data
def test_the_static_binarization_is_the_published_one() -> None:
    data = load_data(settings("binarized-mnist"))
    assert (data.shape, data.support, data.train.labels) == ((1, 28, 28), BINARY, None)
    for split, file in zip(data.splits.values(), TEXT_FILES, strict=True):
        pixels = split.batch(torch.arange(len(split)), epoch=2, seed=2).to(torch.uint8).numpy()
        assert hashlib.md5(text_of(pixels)).hexdigest() == file.checksum.removeprefix("md5:")
    with pytest.raises(DataError, match="already binary"):
        load_data(settings("binarized-mnist", binarization="dynamic"))


def binary_parts(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    monkeypatch.setattr(mnist, "SIZES", (5, 2, 3))
    monkeypatch.setattr(mnist, "_FIXED", torch.split(torch.arange(10), [5, 2, 3]))
    pixels = np.random.default_rng(0).integers(0, 2, (10, 784), dtype=np.uint8)
    return [pixels[:5], pixels[5:7], pixels[7:]]


def assert_parts(data: Data, parts: list[np.ndarray]) -> None:
    for split, part in zip(data.splits.values(), parts, strict=True):
        assert np.array_equal(split.batch(torch.arange(len(split))).flatten(1), part)


def test_the_original_text_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAELID_DATA", str(tmp_path))
    parts = binary_parts(monkeypatch)
    (tmp_path / "binarized_mnist").mkdir()
    files = []
    for file, part in zip(TEXT_FILES, parts, strict=True):
        (tmp_path / file.place).write_bytes(text_of(part))
        files.append(replace(file, checksum=f"md5:{hashlib.md5(text_of(part)).hexdigest()}"))
    monkeypatch.setattr(mnist, "TEXT_FILES", files)
    assert_parts(load_data(settings("binarized-mnist")), parts)


def test_the_packed_file_is_read_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAELID_DATA", str(tmp_path))
    parts = dict(zip(("train", "valid", "test"), binary_parts(monkeypatch), strict=True))
    bits = {name: np.packbits(part, axis=1) for name, part in parts.items()}
    sums = {name: hashlib.sha256(part.tobytes()).hexdigest() for name, part in bits.items()}
    monkeypatch.setattr(mnist, "PACKED_SHA256", sums)
    (tmp_path / "binarized_mnist").mkdir()
    np.savez(tmp_path / PACKED_PLACE, **bits)
    assert_parts(load_data(settings("binarized-mnist")), list(parts.values()))
    np.savez(tmp_path / PACKED_PLACE, **(bits | {"valid": bits["valid"] ^ 1}))
    with pytest.raises(DataError, match="'valid' does not hold the published images"):
        load_data(settings("binarized-mnist"))
    np.savez(tmp_path / PACKED_PLACE, train=bits["train"], valid=bits["valid"])
    with pytest.raises(DataError, match="'test' does not hold"):
        load_data(settings("binarized-mnist"))
