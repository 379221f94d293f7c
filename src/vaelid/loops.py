"""Loops over single numbers, compiled by numba: one pass over memory where torch's operations make one pass each.

Imported by ``kernels`` only, and only where numba is installed. Each gives the bits of the torch operations that it stands for;
who uses one compares the two first. Everything is float32, the scalars too: beside a float64 all would be computed in float64.
"""

from __future__ import annotations

import numpy as np
from numba import njit

# torch multiplies and adds in one rounding (FMA) where it can; "contract" lets the compiler do the same, and nothing else.
_compiled = njit(fastmath={"contract"}, error_model="numpy", nogil=True, cache=True)

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLY_1 = np.uint64(0xBF58476D1CE4E5B9)
_MULTIPLY_2 = np.uint64(0x94D049BB133111EB)
_LOW_24 = np.uint64(0xFFFFFF)
_STEP = np.float32(2.0**-24)
_ZERO, _ONE = np.float32(0), np.float32(1)
_LARGEST_DENORMAL = np.float32(2.0**-126 - 2.0**-149)


@_compiled
def adamax(
    theta: np.ndarray,
    grad: np.ndarray,
    average: np.ndarray,
    largest: np.ndarray,
    weight: np.float32,
    beta2: np.float32,
    eps: np.float32,
    decay: np.float32,
    step: np.float32,
) -> None:
    """``optimizers.update_adamax`` on vectors ``(n,)``; overwrites all but ``grad``."""
    for i in range(theta.size):
        g = grad[i]
        if decay != 0:
            g = g + decay * theta[i]
        m = average[i] + weight * (g - average[i])
        m = m if m > _LARGEST_DENORMAL or m < -_LARGEST_DENORMAL else _ZERO
        size, faded = abs(g) + eps, largest[i] * beta2
        u = size if size > faded or size != size else faded  # keeps a NaN, as torch's maximum does
        average[i], largest[i] = m, u
        theta[i] += step * m / u


@_compiled
def binarize(gray: np.ndarray, keys: np.ndarray) -> None:
    """Overwrites gray values ``(B, D)`` by 1 where ``randomness.uniform`` of the row's key, int64 ``(B,)``, is below, else 0."""
    rows, count = gray.shape
    for b in range(rows):
        for j in range((count + 1) // 2):
            z = np.uint64(keys[b]) + np.uint64(j + 1) * _GOLDEN
            z = (z ^ (z >> np.uint64(30))) * _MULTIPLY_1
            z = (z ^ (z >> np.uint64(27))) * _MULTIPLY_2
            z = z ^ (z >> np.uint64(31))
            low = np.float32(np.int32(z & _LOW_24)) * _STEP
            gray[b, 2 * j] = _ONE if low < gray[b, 2 * j] else _ZERO
            if 2 * j + 1 < count:
                high = np.float32(np.int32((z >> np.uint64(32)) & _LOW_24)) * _STEP
                gray[b, 2 * j + 1] = _ONE if high < gray[b, 2 * j + 1] else _ZERO


LOOPS = {"adamax": adamax, "binarize": binarize}
