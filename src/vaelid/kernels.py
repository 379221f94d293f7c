"""Compiled loops, where they are to be had: with numba (the extra ``fast``), if they give the very bits of torch's operations.

They change how long something takes and nothing else, so no run has to remember whether it had them. That they give the same
bits on this machine is not believed but tried, once in every process, by who uses them (:func:`same_bits`). One loop,
``bernoulli``, gives other last digits; no training uses it, only evaluation, where batches change last digits as well, and
there the rounding is what is tried (``evaluation.pixels``).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

#: A compiled loop runs on one thread; with more threads than this torch's operations should be ahead (not measured).
MOST_THREADS = 2

Kernel = Callable[..., None]

_loaded: list[ModuleType] = []


def start() -> None:
    """Load numba, if it is installed: a second that pays for a training or a long evaluation, and not for much less.

    One that is installed but cannot be used (it knows no such numpy, or has no place for what it compiles) is warned of, and
    torch's operations do the work.
    """
    if _loaded or find_spec("numba") is None:
        return
    try:
        _loaded.append(import_module("vaelid.loops"))
    except (ImportError, RuntimeError) as error:
        warnings.warn(f"numba cannot be used, so this takes longer: {error}", RuntimeWarning, stacklevel=2)


def find(name: str, *tensors: Tensor) -> Kernel | None:
    """The loop of that name in ``loops``, if it was started, can take these tensors, and has not too many threads against it."""
    plain = all(t.device.type == "cpu" and t.is_contiguous() for t in tensors)
    return _loaded[0].LOOPS[name] if _loaded and plain and torch.get_num_threads() <= MOST_THREADS else None


def same_bits(found: list[Tensor], expected: list[Tensor]) -> bool:
    """Whether float32 results agree bit by bit; NaN equals NaN."""
    return all(torch.equal(a.view(torch.int32), b.view(torch.int32)) for a, b in zip(found, expected, strict=True))


def single(*values: float) -> list[Any]:
    """Numbers as float32: with a float64 among them, a compiled loop would compute in float64."""
    return [np.float32(value) for value in values]
