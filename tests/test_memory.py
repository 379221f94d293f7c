"""How much is decoded at once: smaller and smaller chunks where memory is short, the same numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from exact_models import as_split, linear_gaussian
from test_evaluate import assert_same, look, subject
from vaelid.errors import MachineError
from vaelid.evaluation import evaluate
from vaelid.evaluation.ais import AisPlan, ais_images
from vaelid.evaluation.evaluate import Arrays, with_smaller_chunks
from vaelid.progress import Silent


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("Tried to allocate 20 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_chunks_halve_until_they_fit(error: RuntimeError) -> None:
    tried = []

    def work(rows: int) -> Arrays:
        tried.append(rows)
        if rows > 20:
            raise error
        return {"rows": np.array([rows])}

    found, fitted = with_smaller_chunks(work, 130)
    assert tried == [130, 65, 32, 16]
    assert (fitted, found["rows"].tolist()) == (16, [16])


def test_memory_that_is_never_enough_is_the_machines_fault() -> None:
    def work(rows: int) -> Arrays:
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(MachineError, match=r"one image and one sample at a time.*\n.*--device cpu"):
        with_smaller_chunks(work, 8)


def test_other_errors_pass() -> None:
    def work(rows: int) -> Arrays:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        with_smaller_chunks(work, 8)


def test_the_tensors_of_a_failed_attempt_are_let_go() -> None:
    """Else the memory that ran out would still be in use at the next attempt."""
    alive = []

    class Noticed:
        def __init__(self) -> None:
            alive.append(self)

        def __del__(self) -> None:
            gone.append(True)

    gone: list[bool] = []

    def work(rows: int) -> Arrays:
        if rows == 2:
            held = Noticed()
            alive.clear()
            raise torch.OutOfMemoryError(f"out of memory beside {held}")
        assert gone, "the frame of the failed attempt is still there"
        return {}

    assert with_smaller_chunks(work, 2) == ({}, 1)


def test_a_chunk_that_fitted_is_kept_for_the_next_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model, split = subject()
    expected = look(model, split)
    rows_seen = []
    forward = type(model.likelihood).forward

    def small_machine(self: Any, z: torch.Tensor) -> Any:
        rows = z.shape[0] * z.shape[1]
        rows_seen.append(rows)
        if rows > 16:
            raise torch.OutOfMemoryError("out of memory")
        return forward(self, z)

    monkeypatch.setattr(type(model.likelihood), "forward", small_machine)
    monkeypatch.setattr(evaluate, "decoder_rows", lambda split: 64)
    assert_same(look(model, split), expected)
    assert sum(rows > 16 for rows in rows_seen) == 2, "64 and 32 rows fail once each, not in every batch"


@pytest.mark.parametrize(("pixels", "rows"), [(1, 4096), (784, 1003), (10**6, 64)])
def test_decoder_rows_fit_a_cache(pixels: int, rows: int) -> None:
    assert evaluate.decoder_rows(as_split(torch.zeros(2, pixels))) == rows


def test_all_chains_of_all_images_of_a_batch_are_decoded_in_one_call() -> None:
    exact, seen = linear_gaussian(), list[torch.Size]()
    exact.model.likelihood.register_forward_hook(lambda module, given, _: seen.append(given[0].shape[:2]))
    plan = AisPlan(steps=6, chains=4, leapfrog=2, pilot=5)
    ais_images(exact.model, as_split(exact.images(5)), plan, Silent())
    assert set(seen) == {(4, 5)}
    updates = plan.pilot_updates + plan.steps - 1
    assert len(seen) == 2 + plan.leapfrog * updates, "one look at each start, then one for each gradient"
