"""Compiled loops: the bits of torch's operations, or not used. (That of the optimizer: ``test_optimizers``.)"""

from __future__ import annotations

import math
from types import ModuleType

import numpy as np
import pytest
import torch

from vaelid import kernels, randomness
from vaelid.data import binarization
from vaelid.randomness import key, normal, uniform


@pytest.fixture
def loop() -> kernels.Kernel:
    kernels.start()
    found = kernels.find("binarize")
    if found is None:
        pytest.skip("numba is not installed")
    return found


@pytest.mark.parametrize("shape", [(5, 1, 28, 28), (3, 7), (1, 3, 3, 3)])
def test_binarized_pixels_have_the_bits_of_torchs(shape: tuple[int, ...], loop: kernels.Kernel) -> None:
    torch.manual_seed(0)
    gray, keys = torch.randint(256, shape).to(torch.float32).div_(255), key("test", 3, torch.arange(shape[0]))
    expected = uniform(keys, gray[0].numel()).view(shape) < gray
    found = binarization._bernoulli(gray, keys)
    assert found.data_ptr() == gray.data_ptr(), "not compiled"
    assert torch.equal(found, expected.to(torch.float32))


def test_a_loop_that_draws_otherwise_is_not_used(loop: kernels.Kernel) -> None:
    def other(gray: np.ndarray, keys: np.ndarray) -> None:
        gray[:, 1] = 1.0
        loop(gray[:, 2:], keys)

    assert binarization._binarize_agrees(loop)
    assert not binarization._binarize_agrees(other)


@pytest.mark.parametrize("shape", [(), (1,), (9,), (2, 3)])
@pytest.mark.parametrize(("count", "first"), [(1, 0), (8, 0), (37, 5), (64, 2**31)])
def test_normal_numbers_have_the_bits_of_torchs(
    shape: tuple[int, ...], count: int, first: int, loop: kernels.Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = key("test", 4, torch.arange(math.prod(shape)).view(shape))
    calls, draw = [], randomness._compiled_polar
    monkeypatch.setattr(randomness, "_compiled_polar", lambda *given: calls.append(given) or draw(*given))
    found = normal(keys, count, first)
    assert calls, "not compiled"
    monkeypatch.setattr(kernels, "_loaded", [])
    expected = normal(keys, count, first)
    assert found.shape == expected.shape == (*shape, count)
    assert kernels.same_bits([found], [expected.contiguous()])


@pytest.mark.parametrize("shape", [(), (1,), (9,), (2, 3)])
def test_keys_have_the_bits_of_torchs(shape: tuple[int, ...], loop: kernels.Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    words = torch.arange(math.prod(shape)).view(shape) * 2**40 - 3
    calls, mix = [], kernels.find("mix")
    assert mix is not None

    def counted(array: np.ndarray) -> None:
        calls.append(array.size)
        mix(array)

    monkeypatch.setattr(kernels, "find", lambda name, *_: counted if name == "mix" else None)
    found = key("test", words, 7, words)
    assert calls[1:] == [math.prod(shape)] * 3, "three words, after the try"
    monkeypatch.undo()
    monkeypatch.setattr(kernels, "_loaded", [])
    assert torch.equal(found, key("test", words, 7, words))
    assert len(set(found.flatten().tolist())) == math.prod(shape)


def test_a_loop_that_mixes_otherwise_is_not_used(loop: kernels.Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    mix = kernels.find("mix")
    assert mix is not None

    def other(words: np.ndarray) -> None:
        mix(words)
        words[-1] ^= 1

    expected = key("test", torch.arange(9))
    monkeypatch.setattr(kernels, "find", lambda *_: other)
    assert torch.equal(key("test", torch.arange(9)), expected)
    assert randomness._mix_agrees(mix)
    assert not randomness._mix_agrees(other)


def test_a_loop_that_gives_other_angles_is_not_used(loop: kernels.Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    polar = kernels.find("polar")
    assert polar is not None

    def other(keys: np.ndarray, first: int, uniform: np.ndarray, angle: np.ndarray) -> None:
        polar(keys, first, uniform, angle)
        angle[0, 0] = np.nextafter(angle[0, 0], np.float32(7))

    keys = key("test", torch.arange(9))
    expected = normal(keys, 8)
    monkeypatch.setattr(kernels, "find", lambda name, *_: other if name == "polar" else None)
    assert torch.equal(normal(keys, 8), expected)
    assert randomness._polar_agrees(polar)
    assert not randomness._polar_agrees(other)


def unusable(name: str) -> ModuleType:
    raise RuntimeError("no locator available")


def test_a_loop_takes_only_what_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_loaded", [])
    assert kernels.find("binarize", torch.zeros(3)) is None
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "find_spec", lambda name: None)  # as where numba is not installed
        kernels.start()
        assert not kernels._loaded
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "import_module", unusable)
        with pytest.warns(RuntimeWarning, match=r"numba cannot be used, so this takes longer: no locator available"):
            kernels.start()
        assert not kernels._loaded
    module = ModuleType("loops")
    module.__dict__["LOOPS"] = {"binarize": print}
    monkeypatch.setattr(kernels, "_loaded", [module])
    kernels.start()
    assert kernels._loaded == [module], "started twice"
    assert kernels.find("binarize", torch.zeros(3)) is print
    assert kernels.find("binarize", torch.zeros(3), torch.zeros(2, 3).T) is None
    assert kernels.find("binarize", torch.zeros(3, device="meta")) is None
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert kernels.find("binarize", torch.zeros(3)) is None


def test_bits_are_compared_as_bits() -> None:
    nan, zero = torch.tensor([float("nan")]), torch.tensor([0.0])
    assert kernels.same_bits([nan, zero], [nan.clone(), zero.clone()])
    assert not kernels.same_bits([zero], [-zero])
    assert not kernels.same_bits([nan], [zero])
