"""The user's own arrays."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from data_fixtures import settings
from vaelid.data import DataSettings, Images, load_data
from vaelid.data.arrays import ARRAY_READERS, read_array
from vaelid.errors import DataError
from vaelid.supports import BINARY, BYTES, REAL, UNIT, levels

RANDOM = np.random.default_rng(0)
BYTE_IMAGES = RANDOM.integers(0, 256, (6, 4, 5), dtype=np.uint8)
LABELS = np.array([3, 1, 4, 1, 5, 9])


def save_npy(path: Path, arrays: dict[str, np.ndarray]) -> None:
    np.save(path, next(iter(arrays.values())))


def save_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    np.savez(path, **arrays)


def save_torch(path: Path, arrays: dict[str, np.ndarray]) -> None:
    torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, path)


def save_safetensors(path: Path, arrays: dict[str, np.ndarray]) -> None:
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)


SAVERS: dict[str, Callable[[Path, dict[str, np.ndarray]], None]] = {
    ".npy": save_npy,
    ".npz": save_npz,
    ".pt": save_torch,
    ".safetensors": save_safetensors,
}


def read(tmp_path: Path, array: np.ndarray, **given: object) -> Images:
    path = tmp_path / "own.npy"
    np.save(path, array)
    return read_array(path, settings(str(path), **given))


def assert_refused(tmp_path: Path, array: np.ndarray, message: str, **given: object) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, array, **given)
    assert "own.npy" in str(caught.value)


def test_every_format_has_a_test() -> None:
    assert list(SAVERS) == list(ARRAY_READERS)


@pytest.mark.parametrize("suffix", list(SAVERS))
def test_bytes_come_back_exactly(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"own{suffix}"
    SAVERS[suffix](path, {"images": BYTE_IMAGES})
    images = read_array(path, settings(str(path)))
    assert isinstance(images.pixels, torch.Tensor)
    assert images.pixels.dtype == torch.uint8
    assert np.array_equal(images.pixels[:, 0].numpy(), BYTE_IMAGES)
    assert (images.shape, images.support, images.labels) == ((1, 4, 5), BYTES, None)


@pytest.mark.parametrize("suffix", [s for s in SAVERS if s != ".npy"])
@pytest.mark.parametrize("name", ["labels", "y"])
def test_labels_come_along(tmp_path: Path, suffix: str, name: str) -> None:
    path = tmp_path / f"own{suffix}"
    SAVERS[suffix](path, {"pictures": BYTE_IMAGES, name: LABELS})
    labels = read_array(path, settings()).labels
    assert labels is not None
    assert (labels.tolist(), labels.dtype) == (LABELS.tolist(), torch.int64)


@pytest.mark.parametrize(
    ("names", "wanted", "found"),
    [
        (["only"], "", "only"),
        (["other", "images"], "", "images"),
        (["x", "other"], "", "x"),
        (["a", "b"], "b", "b"),
        (["images", "x"], "x", "x"),
    ],
)
def test_the_array_is_found_by_name(tmp_path: Path, names: list[str], wanted: str, found: str) -> None:
    np.savez(tmp_path / "own.npz", **{name: np.full((2, 3), 10 + i, np.uint8) for i, name in enumerate(names)})
    images = read_array(tmp_path / "own.npz", settings(array=wanted))
    assert images.gather(torch.tensor([0])).unique().item() == 10 + names.index(found)


@pytest.mark.parametrize(
    ("names", "wanted", "message"),
    [
        (["a", "b"], "", r"unclear(.|\n)*one of: a, b"),
        (["images", "x"], "", "unclear"),
        (["labels"], "", "unclear"),
        (["a", "b"], "c", r"no array named 'c'(.|\n)*one of: a, b"),
        ([], "", r"unclear(.|\n)*no array"),
    ],
)
def test_unclear_names_are_refused(tmp_path: Path, names: list[str], wanted: str, message: str) -> None:
    np.savez(tmp_path / "own.npz", **dict.fromkeys(names, BYTE_IMAGES))
    with pytest.raises(DataError, match=message):
        read_array(tmp_path / "own.npz", settings(array=wanted))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((5, 7), (7,)),
        ((5, 4, 6), (1, 4, 6)),
        ((5, 1, 4, 6), (1, 4, 6)),
        ((5, 3, 4, 6), (3, 4, 6)),
        ((5, 4, 6, 1), (1, 4, 6)),
        ((5, 4, 6, 3), (3, 4, 6)),
        ((5, 3, 6, 3), (3, 6, 3)),
        ((5, 1, 6, 3), (1, 6, 3)),
    ],
)
def test_layouts(tmp_path: Path, given: tuple[int, ...], expected: tuple[int, ...]) -> None:
    array = np.arange(np.prod(given), dtype=np.uint8).reshape(given)
    images = read(tmp_path, array)
    assert images.shape == expected
    channels_last = len(given) == 4 and given[1] not in (1, 3)
    stored = np.moveaxis(array, 3, 1) if channels_last else array.reshape(5, *expected)
    assert np.array_equal(images.gather(torch.arange(5)).numpy(), stored)


@pytest.mark.parametrize("shape", [(7,), (5, 4, 6, 2), (5, 2, 4, 6), (2, 2, 2, 2, 2), ()])
def test_other_layouts_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    assert_refused(tmp_path, np.ones(shape), rf"must be \(N, D\).*its shape is {str(shape).replace('(', '.').replace(')', '.')}")


@pytest.mark.parametrize("shape", [(0, 4, 4), (5, 0), (0,)])
def test_empty_arrays_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    assert_refused(tmp_path, np.ones(shape), "is empty")


@pytest.mark.parametrize(
    ("array", "support"),
    [
        (np.array([[False, True]]), BINARY),
        (np.array([[0, 1]], dtype=np.int64), BINARY),
        (np.array([[0, 2]], dtype=np.int16), BYTES),
        (np.array([[0, 255]], dtype=np.uint64), BYTES),
        (np.array([[0.0, 1.0]]), BINARY),
        (np.array([[0.0, 0.5]], dtype=np.float16), UNIT),
        (np.array([[0.0, 1.0 + 1e-12]]), BINARY),
        (np.array([[0.5, 1.01]]), REAL),
        (np.array([[-0.01, 0.5]], dtype=np.float32), REAL),
        (np.array([[0.5, 1.0]], dtype=">f4"), UNIT),
    ],
)
def test_the_support_is_read_from_the_values(tmp_path: Path, array: np.ndarray, support: object) -> None:
    images = read(tmp_path, array)
    assert images.support == support
    stored = images.gather(torch.tensor([0]))
    assert stored.dtype == (torch.uint8 if images.support.discrete else torch.float32)
    assert stored[0].tolist() == array[0].astype(np.float32).tolist()


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.array([[0.0, 128.0, 255.0]]), r"float64 numbers that are all whole, from 0 to 255.*\n.*uint8.*\(images / 255\)"),
        (np.array([[0.0, 16.0]], dtype=np.float32), r"all whole, from 0 to 16.*\n.*\(images / 16\)"),
    ],
)
def test_gray_values_saved_as_floats_are_refused_with_the_range_found(tmp_path: Path, array: np.ndarray, said: str) -> None:
    with pytest.raises(DataError, match=f"(?s){said}"):
        read(tmp_path, array)
    assert read(tmp_path, array / array.max()).support == (UNIT if array.max() == 255 else BINARY)
    assert read(tmp_path, array.astype(np.uint8)).support == BYTES


@pytest.mark.parametrize("values", [[0.0, 0.5, 200.0], [-1.0, 0.0, 255.0], [0.0, 256.0]])
def test_other_real_numbers_are_no_gray_values(tmp_path: Path, values: list[float]) -> None:
    assert read(tmp_path, np.array([values])).support == REAL


def test_levels_may_be_given(tmp_path: Path) -> None:
    assert read(tmp_path, np.array([[0, 1, 16]]), levels=17).support == levels(17)
    assert read(tmp_path, np.array([[0, 1]]), levels=256).support == BYTES
    assert_refused(tmp_path, np.array([[0, 1], [3, 17]]), r"0 to 16; the value at index \(1, 1\).*is 17\.", levels=17)
    assert_refused(tmp_path, np.array([[0.0, 1.0]]), "data.levels = 4 counts", levels=4)


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        (np.nan, np.float32, "finite numbers; .* is nan"),
        (np.inf, np.float64, "finite numbers; .* is inf"),
        (1e300, np.float64, r"finite numbers; .* is 1e\+300"),
        (-1, np.int8, "0 to 255; .* is -1"),
        (256, np.int32, "0 to 255; .* is 256"),
    ],
)
def test_bad_values_are_named_with_their_index(
    tmp_path: Path, value: float, dtype: type, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vaelid.data.arrays.BLOCK_BYTES", 100)  # several blocks
    array = np.full((9, 2, 3), 7).astype(dtype)
    array[6, 1, 2] = value
    assert_refused(tmp_path, array, message)
    assert_refused(tmp_path, array, r"index \(6, 0, 1, 2\) \(image, \*X\)")


@pytest.mark.parametrize("array", [np.array([["a"]]), np.ones((2, 2), dtype=complex), np.zeros((2, 2), dtype="M8[s]")])
def test_other_types_are_refused(tmp_path: Path, array: np.ndarray) -> None:
    assert_refused(tmp_path, array, "must hold real numbers; its type is")


class Trap:
    """Would leave a trace if it were unpickled."""

    sprung = False

    def __reduce__(self) -> tuple[Callable[..., None], tuple[()]]:
        return spring, ()


def spring() -> None:
    Trap.sprung = True


def _object_array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([[Trap()]], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def _archive_of_objects() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, x=np.array([[Trap()]], dtype=object))
    return buffer.getvalue()


def _bytes_of_an_array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, BYTE_IMAGES)
    return buffer.getvalue()


def _torch_object() -> bytes:
    buffer = io.BytesIO()
    torch.save({"x": Trap()}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("objects.npy", _object_array()),
        ("objects.npz", _archive_of_objects()),
        ("pickle.npy", pickle.dumps(Trap())),
        ("pickle.pt", pickle.dumps(Trap(), protocol=2)),
        ("objects.pt", _torch_object()),
        ("empty.npy", b""),
        ("empty.npz", b""),
        ("empty.pt", b""),
        ("empty.safetensors", b""),
        ("text.npz", b"PK nothing of the kind"),
        ("text.safetensors", b"\x08\0\0\0\0\0\0\0nonsense"),
        ("text.npy", b"1 2 3\n"),
        ("array.npz", _bytes_of_an_array()),
    ],
)
def test_unreadable_files_are_refused_and_never_unpickled(tmp_path: Path, name: str, raw: bytes) -> None:
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(DataError, match=rf"{name} cannot be read"):
        read_array(tmp_path / name, settings())
    assert not Trap.sprung


@pytest.mark.parametrize("name", ["short.pt", "short.npz"])
def test_no_reader_advises_to_run_what_a_file_holds(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"abc")
    with pytest.raises(DataError) as refused:
        read_array(tmp_path / name, settings())
    said = str(refused.value)
    assert f"{name} cannot be read: it is damaged, or holds Python objects." in said
    assert "weights_only" not in said
    assert "pickle" not in said
    assert refused.value.__cause__ is not None, "--debug shows what the reader said"


def test_truncated_arrays_are_refused(tmp_path: Path) -> None:
    for suffix, save in SAVERS.items():
        path = tmp_path / f"own{suffix}"
        save(path, {"x": RANDOM.random((50, 40))})
        path.write_bytes(path.read_bytes()[:-9000])
        with pytest.raises(DataError, match="cannot be read"):
            read_array(path, settings())


@pytest.mark.parametrize("labels", [LABELS[:5], LABELS.astype(float), LABELS[:, None]])
def test_bad_labels_are_refused(tmp_path: Path, labels: np.ndarray) -> None:
    np.savez(tmp_path / "own.npz", images=BYTE_IMAGES, labels=labels)
    with pytest.raises(DataError, match=r"\['labels'\] must hold one whole number per image, shape \(6,\)"):
        read_array(tmp_path / "own.npz", settings())


def test_torch_tensors_of_every_kind(tmp_path: Path) -> None:
    path = tmp_path / "own.pt"
    torch.save(torch.tensor([[0.5, 2.0]], dtype=torch.bfloat16, requires_grad=True), path)
    assert read_array(path, settings()).gather(torch.tensor([0])).tolist() == [[0.5, 2.0]]
    torch.save({"x": torch.ones(2, 2), "epoch": 3, 5: "text"}, path)
    assert read_array(path, settings()).support == BINARY
    torch.save(torch.full((2, 2), 7), path, _use_new_zipfile_serialization=False)  # the format of torch < 1.6
    assert read_array(path, settings()).support == BYTES
    torch.save([torch.ones(2, 2)], path)
    with pytest.raises(DataError, match="holds a list, not a tensor"):
        read_array(path, settings())
    torch.save(torch.ones(2, 2).to_sparse(), path)
    with pytest.raises(DataError, match="cannot be read"):
        read_array(path, settings())


@pytest.mark.parametrize("array", [BYTE_IMAGES, BYTE_IMAGES.astype(np.int32), BYTE_IMAGES / 255, BYTE_IMAGES > 99])
def test_large_files_stay_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, array: np.ndarray) -> None:
    small = read(tmp_path, array)
    monkeypatch.setattr("vaelid.data.arrays.MMAP_THRESHOLD", 10)
    large = read(tmp_path, array)
    assert isinstance(large.pixels, np.memmap)
    assert isinstance(small.pixels, torch.Tensor)
    assert large.fingerprint == small.fingerprint
    positions = torch.tensor([5, 0, 5])
    assert torch.equal(large.gather(positions), small.gather(positions))
    data = load_data(DataSettings(str(tmp_path / "own.npy")))
    assert data.train.batch(torch.arange(3)).shape == (3, 1, 4, 5)
    assert data.to("cpu").fingerprint == data.fingerprint
