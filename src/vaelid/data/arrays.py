"""The user's own arrays: .npy, .npz, .pt and .safetensors files.

Layouts and what they become, with H rows, W columns and C = 1 or 3 channels:

    (N, D)        -> (D,)           (N, C, H, W) -> (C, H, W)
    (N, H, W)     -> (1, H, W)      (N, H, W, C) -> (C, H, W)   only if the second size is neither 1 nor 3

Nothing is ever unpickled. Files above ``MMAP_THRESHOLD`` stay on disk where their format allows it.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vaelid.data.images import BLOCK_BYTES, Images
from vaelid.data.settings import DataSettings
from vaelid.errors import DataError
from vaelid.supports import BINARY, REAL, UNIT, Support, levels

MMAP_THRESHOLD = 2**30  # bytes; larger arrays are memory-mapped and converted batch by batch
_UNREADABLE = (  # what the readers raise for damaged or foreign files
    *(OSError, EOFError, ValueError, TypeError, RuntimeError),
    *(pickle.UnpicklingError, LookupError, zipfile.BadZipFile, SafetensorError),
)
LABEL_NAMES = ("labels", "y")
IMAGE_NAMES = ("images", "x")

_BRIGHTEST, _FEW_LEVELS = 255, 16  # the largest byte; the largest value of 17 levels, as small scanned digits have

Choose = Callable[[Sequence[str]], Sequence[str]]  # the names in a file -> those to load, images first


def read_array(path: Path, settings: DataSettings, expected: Support | None = None) -> Images:
    """The images of one file.

    ``expected`` is the stored support of data they must go with: 0 and 1 alone do not tell binary images from others.

    Raises:
        DataError: an unreadable file, an unclear choice of array, or an array that holds no images; with index and value.
    """
    arrays = _load(path, settings)
    name, array = next(iter(arrays.items()))
    where = f"{path}[{name!r}]" if name else str(path)
    array = _arranged(where, array)
    support = _support(where, array, settings, expected)
    labels = next((_labels(f"{path}[{n!r}]", a, len(array)) for n, a in arrays.items() if n in LABEL_NAMES), None)
    if array.nbytes > MMAP_THRESHOLD:
        return Images(str(path), array, support, labels)
    stored = np.array(array, dtype=np.uint8 if support.discrete else np.float32, order="C")  # a copy: files may be read-only
    return Images(str(path), torch.from_numpy(stored), support, labels)


def _load(path: Path, settings: DataSettings) -> dict[str, np.ndarray]:
    """The array of images, then that of labels if there is one, by name."""

    def choose(names: Sequence[str]) -> Sequence[str]:
        chosen = _choose_array(path, names, settings.array)
        return [chosen, *[name for name in LABEL_NAMES if name in names and name != chosen][:1]]

    try:
        return ARRAY_READERS[path.suffix.lower()](path, choose)
    except _UNREADABLE as error:
        raise DataError(
            f"{path} cannot be read: {_in_short(error)}",
            "It must be an undamaged file of plain numbers (no Python objects: they could run code when loaded).",
        ) from error


def _in_short(error: Exception) -> str:
    """What the reader says; not where it goes on to advise loading Python objects, whatever the file holds."""
    advice = isinstance(error, ValueError) and "pickle" in str(error)
    if advice or isinstance(error, pickle.UnpicklingError | LookupError):
        return "it is damaged, or holds Python objects."
    return str(error)


def _choose_array(path: Path, names: Sequence[str], wanted: str) -> str:
    remedy = f"Set data.array to one of: {', '.join(sorted(names)) or '(the file holds no array)'}."
    if wanted:
        if wanted not in names:
            raise DataError(f"{path} has no array named {wanted!r}.", remedy)
        return wanted
    candidates = [name for name in names if name not in LABEL_NAMES]
    if len(candidates) > 1:
        candidates = [name for name in candidates if name in IMAGE_NAMES]
    if len(candidates) != 1:
        raise DataError(f"Which array of {path} holds the images is unclear.", remedy)
    return candidates[0]


def _read_npy(path: Path, choose: Choose) -> dict[str, np.ndarray]:
    if path.stat().st_size > MMAP_THRESHOLD:
        return {"": np.lib.format.open_memmap(path, mode="r")}
    with path.open("rb") as file:
        return {"": np.lib.format.read_array(file, allow_pickle=False)}


def _read_npz(path: Path, choose: Choose) -> dict[str, np.ndarray]:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as loaded:
        return {name: loaded[name] for name in choose(loaded.files)}


def _read_torch(path: Path, choose: Choose) -> dict[str, np.ndarray]:
    # Files in the format of torch < 1.6 are no zip archives and cannot be mapped.
    loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    if isinstance(loaded, Tensor):
        return {"": _to_numpy(loaded)}
    if not isinstance(loaded, dict):
        raise ValueError(f"it holds a {type(loaded).__name__}, not a tensor or a dict of tensors")
    tensors = {str(name): value for name, value in loaded.items() if isinstance(value, Tensor)}
    return {name: _to_numpy(tensors[name]) for name in choose(list(tensors))}


def _read_safetensors(path: Path, choose: Choose) -> dict[str, np.ndarray]:
    with safe_open(path, framework="pt") as loaded:
        return {name: _to_numpy(loaded.get_tensor(name)) for name in choose(list(loaded.keys()))}


ARRAY_READERS: dict[str, Callable[[Path, Choose], dict[str, np.ndarray]]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".pt": _read_torch,
    ".safetensors": _read_safetensors,
}


def _to_numpy(tensor: Tensor) -> np.ndarray:
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().numpy()


def _arranged(where: str, array: np.ndarray) -> np.ndarray:
    """The array as (N, D) or (N, C, H, W), a view."""
    if array.dtype.kind not in "buif":
        raise DataError(f"{where} must hold real numbers; its type is {array.dtype}.")
    if 0 in array.shape:
        raise DataError(f"{where} is empty: its shape is {array.shape}.")
    if array.ndim == 2:
        return array
    if array.ndim == 3:
        return array[:, None]
    if array.ndim == 4 and array.shape[1] in (1, 3):
        return array
    if array.ndim == 4 and array.shape[3] in (1, 3):
        return np.moveaxis(array, 3, 1)
    raise DataError(
        f"{where} must be (N, D), (N, H, W), (N, C, H, W) or (N, H, W, C) with C = 1 or 3; its shape is {array.shape}."
    )


def _labels(where: str, array: np.ndarray, count: int) -> Tensor:
    if array.dtype.kind not in "ui" or array.shape != (count,):
        raise DataError(
            f"{where} must hold one whole number per image, shape ({count},); it is {array.dtype} of shape {array.shape}.",
            "Correct the labels, or give them another name: only 'labels' and 'y' are read.",
        )
    return torch.from_numpy(array.astype(np.int64))


@dataclass(frozen=True)
class _Survey:
    """The range of all values, and whether they are all whole, and all 0 or 1."""

    low: float
    high: float
    whole: bool
    zero_one: bool


def _support(where: str, array: np.ndarray, settings: DataSettings, expected: Support | None) -> Support:
    """The support of the array, after a look at every value."""
    read = _support_of_floats if array.dtype.kind == "f" else _support_of_integers
    return read(where, array, settings, expected)


def _support_of_floats(where: str, array: np.ndarray, settings: DataSettings, expected: Support | None) -> Support:
    _refuse(where, array, lambda block: ~np.isfinite(block), "must hold finite numbers", "Remove NaN and infinity.")
    if settings.levels is not None:
        raise DataError(
            f"data.levels = {settings.levels} counts the gray levels of integers; {where} holds {array.dtype} numbers.",
            "Leave data.levels out, or save the level numbers as uint8.",
        )
    survey = _survey(array)
    fits = {BINARY: survey.zero_one, UNIT: survey.low >= 0 and survey.high <= 1, REAL: True}
    if expected is not None and fits.get(expected, False):
        return expected
    if survey.whole and survey.low >= 0 and 1 < survey.high <= _BRIGHTEST:
        raise DataError(
            f"{where} holds {array.dtype} numbers that are all whole, from {survey.low:g} to {survey.high:g}: gray values. A "
            "model of real numbers would give them densities and no probabilities, on a scale on which training may diverge.",
            "Save them as uint8 (images.astype(numpy.uint8); data.levels says how many gray levels there are, if not 256), or "
            f"scale them to [0, 1] (images / {_BRIGHTEST if survey.high > _FEW_LEVELS else survey.high:g}).",
        )
    return next(support for support, holds in fits.items() if holds)


def _support_of_integers(where: str, array: np.ndarray, settings: DataSettings, expected: Support | None) -> Support:
    known = settings.levels or (expected.levels if expected is not None else None)
    count = known or (2 if _survey(array).zero_one else 256)
    _refuse(
        where,
        array,
        lambda block: (block < 0) | (block > count - 1),
        f"must hold whole numbers 0 to {count - 1}",
        "Set data.levels to the number of gray levels (at most 256), or save gray values in [0, 1] as float32.",
    )
    return levels(count)


def _blocks(array: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Blocks of images with the position of their first; floats as float32, since that is what will be stored."""
    step = max(1, BLOCK_BYTES // (array[0].size * 8))
    for start in range(0, len(array), step):
        block = array[start : start + step]
        with np.errstate(over="ignore"):  # a float64 beyond the range of float32 becomes infinite and is refused as such
            yield start, np.asarray(block, dtype=np.float32 if array.dtype.kind == "f" else block.dtype)


def _survey(array: np.ndarray) -> _Survey:
    parts = [
        _Survey(
            float(block.min()),
            float(block.max()),
            bool((block == np.rint(block)).all()),
            bool(((block == 0) | (block == 1)).all()),
        )
        for _, block in _blocks(array)
    ]
    flags = all(p.whole for p in parts), all(p.zero_one for p in parts)
    return _Survey(min(p.low for p in parts), max(p.high for p in parts), *flags)


def _refuse(where: str, array: np.ndarray, wrong: Callable[[np.ndarray], np.ndarray], rule: str, remedy: str) -> None:
    """Raise a DataError that names the first value for which ``wrong`` is true."""
    for start, block in _blocks(array):
        mask = wrong(block)
        if mask.any():
            first = np.argwhere(mask)[0]
            index = (start + int(first[0]), *(int(i) for i in first[1:]))
            raise DataError(f"{where} {rule}; the value at index {index} (image, *X) is {array[index]}.", remedy)
