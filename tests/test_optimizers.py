"""Optimizers step by step against torch's own, schedules at steps worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from vaelid import kernels, optimizers
from vaelid.optimizers import OPTIMIZERS, Constant, Cosine, LeanAdamax, Plateau, Staged, make_step

TORCHS = {"adamax": torch.optim.Adamax, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
MOMENTS = {"beta1": 0.7, "beta2": 0.95, "eps": 1e-3}
OPTIONS: dict[str, dict[str, Any]] = {**dict.fromkeys(TORCHS, MOMENTS), "sgd": {"momentum": 0.9}}


def path(optimizer: Optimizer, weight: nn.Parameter, steps: int = 20) -> list[torch.Tensor]:
    """Minimize a valley that is steep in one direction and flat in the other."""
    places = []
    for _ in range(steps):
        optimizer.zero_grad()
        (torch.tensor([1.0, 30.0]) * (weight - 1).square()).sum().backward()
        optimizer.step()
        places.append(weight.detach().clone())
    return places


def start() -> nn.Parameter:
    return nn.Parameter(torch.tensor([3.0, -2.0]))


def test_the_table_is_known_to_this_test() -> None:
    assert set(OPTIMIZERS) == set(TORCHS)


@pytest.mark.parametrize("name", TORCHS)
def test_with_its_defaults_each_is_torchs(name: str) -> None:
    ours, torchs = start(), start()
    expected = path(TORCHS[name]([torchs], lr=1e-3), torchs)
    for a, b in zip(path(OPTIMIZERS[name]([ours]), ours), expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", TORCHS)
def test_every_option_reaches_torchs(name: str) -> None:
    ours, torchs, options = start(), start(), OPTIONS[name]
    moments = {"betas": (options["beta1"], options["beta2"]), "eps": options["eps"]} if "beta1" in options else options
    expected = path(TORCHS[name]([torchs], lr=0.02, weight_decay=0.1, **moments), torchs)
    for a, b in zip(path(OPTIMIZERS[name]([ours], lr=0.02, weight_decay=0.1, **options), ours), expected, strict=True):
        torch.testing.assert_close(a, b)


def test_adamax_is_torchs_bit_for_bit() -> None:
    torch.manual_seed(0)
    ours, torchs = (nn.Parameter(torch.linspace(-1, 1, 1000)) for _ in range(2))
    one = OPTIMIZERS["adamax"]([ours], lr=0.1, weight_decay=0.01)
    other = torch.optim.Adamax([torchs], lr=0.1, weight_decay=0.01, foreach=False)
    for _ in range(30):
        gradient = torch.randn(1000) * torch.logspace(-12, 3, 1000)
        for parameter, optimizer in ((ours, one), (torchs, other)):
            parameter.grad = gradient.clone()
            optimizer.step()
        assert torch.equal(ours.grad, gradient), "the gradient is not ours to change"
    assert torch.equal(ours, torchs)
    assert one.step(lambda: 1.5) == 1.5
    assert one.state_dict()["state"][0].keys() == other.state_dict()["state"][0].keys()


@pytest.fixture
def compiled() -> kernels.Kernel:
    kernels.start()
    kernel = kernels.find("adamax")
    if kernel is None:
        pytest.skip("numba is not installed")
    return kernel


def vectors_of_all_sizes(count: int) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(count, generator=draw) * torch.logspace(-42, 20, count) for _ in range(4)]


@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_adamax_in_blocks_and_compiled_is_the_same(
    decay: float, monkeypatch: pytest.MonkeyPatch, compiled: kernels.Kernel
) -> None:
    """The whole vector at once, in blocks with a short last one, and the compiled loop, over numbers of all sizes."""
    start, numbers = vectors_of_all_sizes(5003), (0.1, 0.99, 1e-8, decay, -0.3)
    results = []
    for block, found in ((2**16, None), (1024, None), (1024, compiled)):
        monkeypatch.setattr(optimizers, "_BLOCK", block)
        monkeypatch.setattr(kernels, "find", lambda *_, found=found: found)
        results.append([v.clone() for v in start])
        for _ in range(3):
            optimizers.update_adamax(tuple(results[-1]), numbers)
    whole, blocks, loop = results
    assert kernels.same_bits(blocks, whole)
    assert kernels.same_bits(loop, whole)
    assert torch.equal(whole[1], start[1]), "the gradient is not ours to change"


def test_the_compiled_loop_is_used_only_if_its_bits_agree(compiled: kernels.Kernel) -> None:
    def other(theta: np.ndarray, *rest: Any) -> None:
        compiled(theta, *rest)
        theta[7] = np.nextafter(theta[7], np.float32(9))

    assert optimizers._adamax_agrees(compiled)
    assert not optimizers._adamax_agrees(other)


def test_no_moment_of_adamax_is_denormal_and_no_weight_notices() -> None:
    """torch's moments reach 1e-40 here and stay there; ours become 0, and the weights are bit for bit the same."""
    ours, torchs = (nn.Parameter(torch.tensor([0.1, -3.0, 1e-3])) for _ in range(2))
    one, other = OPTIMIZERS["adamax"]([ours], lr=0.1), torch.optim.Adamax([torchs], lr=0.1, foreach=False)
    for step in range(900):
        for parameter, optimizer in ((ours, one), (torchs, other)):
            parameter.grad = torch.tensor([1.0, 1e-3, 0.0]) if step == 0 else torch.zeros(3)
            optimizer.step()
    assert 0 < other.state[torchs]["exp_avg"][0] < 2.0**-126
    assert not one.state[ours]["exp_avg"].any()
    assert torch.equal(ours, torchs)


def test_adamax_takes_parameters_that_do_not_lie_in_one_piece() -> None:
    torch.manual_seed(0)
    ours, torchs = (nn.Parameter(torch.linspace(-1, 1, 12).view(3, 4).T) for _ in range(2))
    one, other = OPTIMIZERS["adamax"]([ours], lr=0.1), torch.optim.Adamax([torchs], lr=0.1, foreach=False)
    for _ in range(3):
        gradient = torch.randn(4, 3)
        for parameter, optimizer in ((ours, one), (torchs, other)):
            parameter.grad = gradient.clone()
            optimizer.step()
    assert torch.equal(ours, torchs)


@pytest.mark.parametrize("name", TORCHS)
def test_a_step_of_training_is_that_of_the_optimizer(name: str) -> None:
    ours, others = start(), start()
    mine, other = OPTIMIZERS[name]([ours]), OPTIMIZERS[name]([others])
    for _ in range(3):
        for weight, optimizer, step in ((ours, mine, make_step), (others, other, lambda optimizer: optimizer.step())):
            weight.grad = weight.detach() - 1
            step(optimizer)
        assert torch.equal(ours, others)
    assert not torch.equal(ours, start())


def test_an_optimizer_with_a_step_of_its_own_makes_that() -> None:
    class Lazy(LeanAdamax):
        def step(self, closure: Any = None) -> None:
            """None at all."""

    weight = start()
    weight.grad = torch.ones(2)
    make_step(Lazy([weight], {"lr": 1.0, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}))
    assert torch.equal(weight, start())


def test_constant_warms_up_and_stays() -> None:
    assert [Constant(4).factor(step, 10, 0) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert Constant().factor(0, 10, 0) == 1


def test_cosine_warms_up_and_falls_along_half_a_wave() -> None:
    schedule = Cosine(warmup_steps=4, final=0.2)
    assert [schedule.factor(step, 104, 0) for step in (0, 1, 3, 4)] == [0.25, 0.5, 1, 1]
    # A quarter, a half and three quarters of the way from step 4 to step 104.
    expected = [0.2 + 0.8 * (1 + math.cos(math.pi * done)) / 2 for done in (0.25, 0.5, 0.75)]
    assert [schedule.factor(step, 104, 0) for step in (29, 54, 79)] == pytest.approx(expected)
    assert schedule.factor(54, 104, 0) == pytest.approx(0.6)
    assert schedule.factor(104, 104, 0) == schedule.factor(200, 104, 0) == pytest.approx(0.2)
    assert schedule.factor(103, 104, 0) == pytest.approx(0.2, abs=1e-3)
    assert schedule.needs_total


def test_cosine_in_a_training_shorter_than_its_warm_up() -> None:
    assert [Cosine(warmup_steps=4).factor(step, 3, 0) for step in range(3)] == [0.25, 0.5, 0.75]


def test_plateau_shrinks_after_more_than_wait_epochs_in_a_row() -> None:
    schedule, factors = Plateau(shrink=0.5, wait=2, smallest=0.2), []
    for neg_elbo in [10, 9, 9, 9.5, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 7]:
        schedule.observe(neg_elbo)
        factors.append(schedule.factor(0, 1, 0))
    assert factors == [1] * 7 + [0.5] * 3 + [0.25] * 3 + [0.2] * 4
    assert schedule.state() == {"current": 0.2, "best": 7, "bad": 0}


def test_plateau_also_warms_up() -> None:
    schedule = Plateau(warmup_steps=2)
    schedule.load({"current": 0.5, "best": 1.0, "bad": 3})
    assert [schedule.factor(step, 9, 0) for step in range(3)] == [0.25, 0.5, 0.5]
    assert schedule.state() == {"current": 0.5, "best": 1.0, "bad": 3}


def test_a_nan_counts_as_no_improvement() -> None:
    schedule = Plateau(wait=1)
    for value in (1.0, math.nan, math.nan):
        schedule.observe(value)
    assert schedule.state() == {"current": 0.5, "best": 1.0, "bad": 0}


def test_staged_is_the_schedule_of_burda() -> None:
    """Stage i = 0 … 7 of 3^i passes at 10^(−i/7): it changes with the epoch numbers 1, 4, 13, …, and no step matters."""
    schedule = Staged()
    firsts = {0: 0, 1: 1, 4: 2, 13: 3, 40: 4, 121: 5, 364: 6, 1093: 7}  # first epoch (from 0) of each stage
    for epoch, stage in firsts.items():
        assert schedule.factor(123, 456, epoch) == pytest.approx(10 ** (-stage / 7), rel=1e-12)
        if epoch:
            assert schedule.factor(123, 456, epoch - 1) == pytest.approx(10 ** (-(stage - 1) / 7), rel=1e-12)
    assert schedule.ends[-1] == 3280
    assert schedule.factor(0, 1, 3279) == schedule.factor(0, 1, 3280) == schedule.factor(0, 1, 10**6) == 0.1
    assert not schedule.needs_total


def test_staged_with_other_stages() -> None:
    schedule = Staged(stages=3, growth=2, final=0.25)
    assert [schedule.factor(0, 1, epoch) for epoch in range(8)] == [1, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25, 0.25]
    assert [Staged(stages=2, growth=1, final=0.0).factor(0, 1, epoch) for epoch in range(3)] == [1, 0, 0]
    assert {Staged(stages=1).factor(0, 1, epoch) for epoch in range(3)} == {1}
    assert [Staged(warmup_steps=4).factor(step, 10, step // 2) for step in range(4)] == pytest.approx(
        [0.25, 0.5, 0.75 * 10 ** (-1 / 7), 10 ** (-1 / 7)]
    )
