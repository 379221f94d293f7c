"""Compiled loops: the bits of torch's operations, or not used. (That of the optimizer: ``test_optimizers``.)"""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch

from vaelid import kernels
from vaelid.data import binarization
from vaelid.randomness import key, uniform


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
