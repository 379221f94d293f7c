"""Loops over single numbers, compiled by numba: one pass over memory where torch's operations make one pass each.

Imported by ``kernels`` only, and only where numba is installed. Each gives the bits of the torch operations that it stands for,
or (``bernoulli``) the same number to rounding; who uses one compares the two first. Everything is float32, the scalars too:
beside a float64 all would be computed in float64.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.polynomial import Chebyshev, Polynomial

# torch multiplies and adds in one rounding (FMA) where it can; "contract" lets the compiler do the same, and nothing else.
_compiled = njit(fastmath={"contract"}, error_model="numpy", nogil=True, cache=True)
# Sums and products in any order, so that several terms are taken at a time; the last bits depend on how many.
_compiled_in_any_order = njit(fastmath={"contract", "reassoc", "nsz"}, error_model="numpy", nogil=True, cache=True)

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLY_1 = np.uint64(0xBF58476D1CE4E5B9)
_MULTIPLY_2 = np.uint64(0x94D049BB133111EB)
_LOW_24, _LOW_31 = np.uint64(0xFFFFFF), np.uint64(0x7FFFFFFF)
_STEP, _STEP_31, _ANGLE = np.float32(2.0**-24), np.float32(2.0**-31), np.float32(2.0**-23 * math.pi)
_ZERO, _ONE = np.float32(0), np.float32(1)
_HALF, _LOG2_E = np.float32(0.5), np.float32(math.log2(math.e))
_LARGEST_DENORMAL = np.float32(2.0**-126 - 2.0**-149)
_EXPONENT, _BIAS = np.int32(23), np.int32(127)  # of a float32: position and value at 2⁰
_FAR = np.float32(87)  # e⁻⁸⁷ is the smallest power that still is a normal float32; 1 + e⁻⁸⁷ = 1
_TOGETHER = 96  # a product of so many factors up to 2 is below the largest float32; whole rounds of 4 vectors of 8 (or 4) numbers
# 2^f = Σ_j c_j f^j for |f| ≤ ½, to 1.6 parts in 10⁷
_C0, _C1, _C2, _C3, _C4, _C5 = Chebyshev.interpolate(np.exp2, 5, [-0.5, 0.5]).convert(kind=Polynomial).coef.astype(np.float32)


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


@njit(inline="always")
def _mixed(z: np.uint64) -> np.uint64:
    z = (z ^ (z >> np.uint64(30))) * _MULTIPLY_1
    z = (z ^ (z >> np.uint64(27))) * _MULTIPLY_2
    return z ^ (z >> np.uint64(31))


@njit(inline="always")
def _word(key: np.uint64, position: np.uint64) -> np.uint64:
    """That of ``randomness``: number ``position``, from 0, of the words of a key."""
    return _mixed(key + (position + np.uint64(1)) * _GOLDEN)


@_compiled
def mix(words: np.ndarray) -> None:
    """``randomness._mix`` of int64 ``(n,)``, in place."""
    for i in range(words.size):
        words[i] = np.int64(_mixed(np.uint64(words[i])))


@_compiled
def polar(keys: np.ndarray, first: int, uniform: np.ndarray, angle: np.ndarray) -> None:
    """``randomness._polar`` of keys int64 ``(B,)`` and their words from ``first`` on, into two float32 ``(B, n)``."""
    rows, count = uniform.shape
    for b in range(rows):
        for j in range(count):
            z = _word(np.uint64(keys[b]), np.uint64(first) + np.uint64(j))
            uniform[b, j] = (np.float32(np.int32(z & _LOW_31)) + _HALF) * _STEP_31
            angle[b, j] = np.float32(np.int32((z >> np.uint64(32)) & _LOW_24)) * _ANGLE


@_compiled
def binarize(gray: np.ndarray, keys: np.ndarray) -> None:
    """Overwrites gray values ``(B, D)`` by 1 where ``randomness.uniform`` of the row's key, int64 ``(B,)``, is below, else 0."""
    rows, count = gray.shape
    for b in range(rows):
        for j in range((count + 1) // 2):
            z = _word(np.uint64(keys[b]), np.uint64(j))
            low = np.float32(np.int32(z & _LOW_24)) * _STEP
            gray[b, 2 * j] = _ONE if low < gray[b, 2 * j] else _ZERO
            if 2 * j + 1 < count:
                high = np.float32(np.int32((z >> np.uint64(32)) & _LOW_24)) * _STEP
                gray[b, 2 * j + 1] = _ONE if high < gray[b, 2 * j + 1] else _ZERO


@_compiled_in_any_order
def bernoulli(logits: np.ndarray, bias: np.ndarray, x: np.ndarray, log_p: np.ndarray) -> None:
    """log p(x) = Σ_i x_i l_i − log(1 + e^{l_i}) of images ``(B, D)``, l = logits ``(K, B, D)`` + bias, into float64 ``(K, B)``.

    log(1 + e^l) = max(l, 0) + log(1 + e^−|l|), and of the second terms, all between 0 and log 2, many are one logarithm of a
    product. max(l, 0) − x l is written as max(l − x l, −x l): a maximum is no sum whose order a compiler may change, so that a
    large logit of the right sign leaves the sum of the others as it is. Groups of pixels are summed in float64. Logits are
    finite: an infinite one, or a NaN, gives −∞ or NaN, but not always which of the two torch gives.
    """
    draws, images, pixels = logits.shape
    for k in range(draws):
        for b in range(images):
            total = 0.0
            for first in range(0, pixels, _TOGETHER):
                group, shift = logits[k, b][first : first + _TOGETHER], bias[first : first + _TOGETHER]
                colors = x[b][first : first + _TOGETHER]
                linear, product = _ZERO, _ONE
                for i in range(group.size):
                    logit = group[i] + shift[i]
                    inked = colors[i] * logit
                    linear += max(logit - inked, -inked)
                    power = -_LOG2_E * min(abs(logit), _FAR)  # e^−|l| = 2^power = 2^whole · 2^f
                    whole = np.floor(power + _HALF)
                    f = power - whole
                    series = _C0 + f * (_C1 + f * (_C2 + f * (_C3 + f * (_C4 + f * _C5))))
                    bits = np.int32((np.int32(whole) + _BIAS) << _EXPONENT)
                    product *= _ONE + series * bits.view(np.float32)
                total -= float(linear) + math.log(product)
            log_p[k, b] = total


@_compiled
def bend(h: np.ndarray, bias: np.ndarray, slope: np.float32) -> None:
    """Overwrites ``(n, D)`` by ``leaky_relu(h + bias)``."""
    rows, width = h.shape
    for r in range(rows):
        row = h[r]
        for i in range(width):
            value = row[i] + bias[i]
            row[i] = value if value > _ZERO else slope * value


LOOPS = {"adamax": adamax, "mix": mix, "polar": polar, "binarize": binarize, "bernoulli": bernoulli, "bend": bend}
