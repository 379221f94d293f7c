"""The compiled loop over binary pixels in tests: its calls are noted, and its self-test is known to have passed."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Independent

from vaelid import kernels
from vaelid.evaluation import pixels


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> kernels.Kernel:
    kernels.start()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    found = kernels.find("bernoulli")
    if found is None:
        pytest.skip("numba is not installed")
    return found


@pytest.fixture
def calls(loop: kernels.Kernel, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the logits that the loop was given."""
    assert pixels._agrees(loop)
    seen: list[tuple[int, ...]] = []

    def noted(logits: np.ndarray, *others: np.ndarray) -> None:
        seen.append(logits.shape)
        loop(logits, *others)

    module = ModuleType("loops")
    module.__dict__["LOOPS"] = {**kernels._loaded[0].LOOPS, "bernoulli": noted}
    monkeypatch.setattr(kernels, "_loaded", [module])
    monkeypatch.setattr(pixels, "_agrees", lambda kernel: True)
    return seen


def binary(logits: Tensor, dims: int = 1) -> Independent[Bernoulli]:
    return Independent(Bernoulli(logits=logits, validate_args=False), dims, validate_args=False)
