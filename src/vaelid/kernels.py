"""Compiled loops, where they are to be had: with numba (the extra ``fast``), and if they give the very bits of torch's operations.

They change how long something takes and nothing else, so no run has to remember whether it had them. That they give the same
bits on this machine is not believed but tried, once in every process (:func:`same_bits`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

#: A compiled loop runs on one thread; with more threads than this, torch's operations on all of them are ahead (not measured).
MOST_THREADS = 2
#: For fewer numbers in all, starting numba costs more than it saves.
FEWEST_NUMBERS = 2**18

Kernel = Callable[..., None]


@cache
def load(name: str) -> Kernel | None:
    """The loop of that name in ``loops``; None without numba."""
    try:
        return getattr(import_module("vaelid.loops"), name)
    except ImportError:
        return None


def worthwhile(*tensors: Tensor) -> bool:
    """Whether a compiled loop can take these tensors, and torch has too few threads to be faster."""
    plain = all(t.device.type == "cpu" and t.is_contiguous() for t in tensors)
    return plain and torch.get_num_threads() <= MOST_THREADS


def same_bits(found: list[Tensor], expected: list[Tensor]) -> bool:
    """Whether two results agree bit by bit; NaN equals NaN."""
    return all(torch.equal(a.view(torch.int32), b.view(torch.int32)) for a, b in zip(found, expected, strict=True))


def single(*values: float) -> list[Any]:
    """Numbers as float32: with a float64 among them, a compiled loop would compute in float64."""
    return list(torch.tensor(values, dtype=torch.float32).numpy())
