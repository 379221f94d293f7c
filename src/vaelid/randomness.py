"""Random numbers that are a pure function of what they are for.

The noise of image i, sample k must not depend on the batch size, the order of visits, or what was drawn before. So there is no
hidden state here: a *key* is folded from integers (seed, purpose, epoch, image …), and the words of a key are read at any
position.

The generator is SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators"): word j of key s is
``mix(s + (j+1)·γ)``. It passes BigCrush, needs only 64-bit integer operations, and gives the same bits on every device.
"""

from __future__ import annotations

import math
import zlib
from functools import cache

import torch
from torch import Tensor

from vaelid import kernels

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit number: 2^64 / golden ratio, made odd
_MULTIPLY_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MULTIPLY_2 = -7723592293110705685  # 0x94D049BB133111EB
_MASK = (1 << 64) - 1


def key(purpose: str, *words: int | Tensor, device: torch.device | str = "cpu") -> Tensor:
    """Fold a purpose and integers into keys; tensors broadcast against each other.

    Words that differ in one place only give keys that differ (mixing is one to one); others collide by chance, 2^−64 a pair. But
    a key *is* a word of the stream of the key before: ``key(p, a, b)`` is word b of the numbers that :func:`uniform` and
    :func:`normal` read from ``key(p, a)``. Draw from a key or fold it further, never both.

    >>> key("example", 0, torch.arange(3)).shape
    torch.Size([3])
    """
    folded: int | Tensor = zlib.crc32(purpose.encode())
    for word in words:
        if isinstance(word, int):
            step: int | Tensor = _signed((word + 1) * _GOLDEN)
        else:
            step = (word.to(device, torch.int64) + 1) * _GOLDEN
        if isinstance(folded, int) and isinstance(step, int):
            folded = _mix_int(folded + step)
        else:
            folded = _mix(torch.as_tensor(folded + step, dtype=torch.int64, device=device))
    return torch.as_tensor(folded, dtype=torch.int64, device=device)


def uniform(keys: Tensor, count: int) -> Tensor:
    """``count`` uniform numbers in [0, 1) per key, on the grid of 2^-24; shape ``(*keys, count)``, float32."""
    halves = _words(keys, 0, (count + 1) // 2).view(torch.int32)[..., :count]
    return (halves & 0xFFFFFF).to(torch.float32).mul_(2.0**-24)


def normal(keys: Tensor, count: int, first: int = 0) -> Tensor:
    """``count`` standard normal numbers per key from position ``first`` on; shape ``(*keys, count)``, float32.

    Box–Muller: √(−2 ln u₁) · (cos, sin)(2π u₂), with u₁ from 31 bits, so that |z| reaches 6.6.
    """
    skip = first % 2  # numbers come in pairs
    uniform, angle = _polar(keys, first // 2, (skip + count + 1) // 2)
    radius = uniform.log_().mul_(-2.0).sqrt_()
    pairs = radius.new_empty(*radius.shape, 2)
    torch.mul(radius, torch.cos(angle), out=pairs[..., 0])
    torch.mul(radius, torch.sin(angle), out=pairs[..., 1])
    return pairs.flatten(-2)[..., skip : skip + count]


def _polar(keys: Tensor, first: int, count: int) -> tuple[Tensor, Tensor]:
    """u₁ in (0, 1) and the angle 2π u₂ in [0, 2π) from words ``first`` … ``first + count − 1`` of each, ``(*keys, count)``."""
    kernel = kernels.find("polar", keys)
    if kernel and _polar_agrees(kernel):
        return _compiled_polar(kernel, keys, first, count)
    return _polar_step_by_step(keys, first, count)


def _polar_step_by_step(keys: Tensor, first: int, count: int) -> tuple[Tensor, Tensor]:
    words = _words(keys, first, count)
    low, high = words.view(torch.int32).unflatten(-1, (-1, 2)).unbind(-1)
    uniform = ((low & 0x7FFFFFFF).to(torch.float32) + 0.5).mul_(2.0**-31)
    return uniform, (high & 0xFFFFFF).to(torch.float32).mul_(2.0**-23 * math.pi)


def _compiled_polar(kernel: kernels.Kernel, keys: Tensor, first: int, count: int) -> tuple[Tensor, Tensor]:
    uniform, angle = torch.empty(2, keys.numel(), count)
    kernel(keys.view(-1).numpy(), first, uniform.numpy(), angle.numpy())
    return uniform.view(*keys.shape, count), angle.view(*keys.shape, count)


@cache
def _polar_agrees(kernel: kernels.Kernel) -> bool:
    keys = key("polar-check", torch.arange(64))
    return kernels.same_bits(list(_compiled_polar(kernel, keys, 5, 33)), list(_polar_step_by_step(keys, 5, 33)))


def permutation(count: int, *words: int) -> Tensor:
    """A uniformly random order of ``range(count)`` that depends only on ``words``; int64 ``(count,)`` on the CPU."""
    generator = torch.Generator().manual_seed(int(key("permutation", *words)) & (2**63 - 1))
    return torch.randperm(count, generator=generator)


def _words(keys: Tensor, first: int, count: int) -> Tensor:
    steps = _first_steps(count, keys.device) if first == 0 else _steps(first, count, keys.device)
    return _mix(keys.unsqueeze(-1) + steps)


def _steps(first: int, count: int, device: torch.device) -> Tensor:
    """(j + 1) · γ for ``count`` positions j from ``first`` on."""
    return torch.arange(first + 1, first + count + 1, dtype=torch.int64, device=device).mul_(_GOLDEN)


@cache
def _first_steps(count: int, device: torch.device) -> Tensor:
    """The same from 0 on, of which a process needs few lengths. Kept for good: a compiler for GPUs would fold γ into an index of
    32 bits, and what a CUDA graph reads must not move."""
    return _steps(0, count, device)


def _mix(z: Tensor) -> Tensor:
    """The finalizer of SplitMix64; overwrites ``z``."""
    kernel = kernels.find("mix", z)
    if kernel and _mix_agrees(kernel):
        kernel(z.view(-1).numpy())
        return z
    return _mix_step_by_step(z)


def _mix_step_by_step(z: Tensor) -> Tensor:
    # torch shifts int64 arithmetically; the masks make the shifts logical.
    z ^= (z >> 30).bitwise_and_(0x3FFFFFFFF)
    z *= _MULTIPLY_1
    z ^= (z >> 27).bitwise_and_(0x1FFFFFFFFF)
    z *= _MULTIPLY_2
    z ^= (z >> 31).bitwise_and_(0x1FFFFFFFF)
    return z


@cache
def _mix_agrees(kernel: kernels.Kernel) -> bool:
    words = _steps(0, 257, torch.device("cpu"))
    found = words.clone()
    kernel(found.numpy())
    return torch.equal(found, _mix_step_by_step(words))


def _mix_int(z: int) -> int:
    """The same for a Python number: the words of a key that all images share cost no tensor operation."""
    z &= _MASK
    z = ((z ^ (z >> 30)) * _MULTIPLY_1) & _MASK
    z = ((z ^ (z >> 27)) * _MULTIPLY_2) & _MASK
    return _signed(z ^ (z >> 31))


def _signed(z: int) -> int:
    """``z`` modulo 2^64, as a signed 64-bit number."""
    z &= _MASK
    return z - (1 << 64) if z >> 63 else z
