"""The compiled loops of evaluation by themselves: every float32 logit, the worst sums, and the bits of LeakyReLU."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vaelid import kernels
from vaelid.evaluation.pixels import ROUNDING


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> kernels.Kernel:
    return compiled("bernoulli", monkeypatch)


@pytest.fixture
def bend(monkeypatch: pytest.MonkeyPatch) -> kernels.Kernel:
    return compiled("bend", monkeypatch)


def compiled(name: str, monkeypatch: pytest.MonkeyPatch) -> kernels.Kernel:
    kernels.start()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    found = kernels.find(name)
    if found is None:
        pytest.skip("numba is not installed")
    return found


def loop_at(loop: kernels.Kernel, logits: Tensor, x: Tensor) -> Tensor:
    """What the loop itself says, ``(K, B)``."""
    log_p = torch.empty(logits.shape[:2], dtype=torch.float64)
    loop(logits.numpy(), torch.zeros(logits.shape[-1]).numpy(), x.numpy(), log_p.numpy())
    return log_p


def test_a_pixel_of_every_exponent_is_exact_to_rounding(loop: kernels.Kernel) -> None:
    """Every 65,537th float32 from 0 to the largest, on both sides and in both colors."""
    sizes = torch.arange(0, 0x7F800000, 65537, dtype=torch.int32).view(torch.float32)
    logits = torch.cat((sizes, -sizes)).view(-1, 1, 1)
    for color, sign in ((0.0, 1), (1.0, -1)):
        wrong = (sign * logits.double()).flatten()  # log p = −log(1 + e^wrong)
        exact = -wrong.clamp_min(0) - torch.log1p(torch.exp(-wrong.abs()))
        error = (loop_at(loop, logits, torch.full((1, 1), color)).flatten() - exact).abs()
        assert (error <= ROUNDING * (1 + wrong.abs())).all()


@pytest.mark.parametrize("width", [7, 31, 63, 112, 300])
def test_small_terms_beside_a_large_one_are_lost_within_the_worst_case(width: int, loop: kernels.Kernel) -> None:
    logits = torch.full((width, 1, width), 0.0624) + torch.diag(torch.full((width,), 2.0**20)).unsqueeze(1)
    exact = -torch.nn.functional.softplus(logits.double(), threshold=1000).sum(-1)  # of blank images
    error = (loop_at(loop, logits, torch.zeros(1, width)) - exact).abs()
    assert (error <= 2.0**-17 * (1 + logits.double().abs()).sum(-1)).all()


def test_gray_pixels_have_the_definition_of_gray_pixels(loop: kernels.Kernel) -> None:
    torch.manual_seed(0)
    logits, x = 4 * torch.randn(6, 3, 200), torch.rand(3, 200)
    exact = (x.double() * logits.double() - torch.nn.functional.softplus(logits.double(), threshold=1000)).sum(-1)
    assert ((loop_at(loop, logits, x) - exact).abs() <= ROUNDING * (1 + logits.double().abs()).sum(-1)).all()


@pytest.mark.parametrize("width", [7, 112, 300])
def test_a_large_term_that_is_certain_costs_the_others_nothing(width: int, loop: kernels.Kernel) -> None:
    large = torch.eye(width).unsqueeze(1)
    for position in range(width):  # log p of the large one is 0; the others are blank where ink was likely
        logits = torch.where(large[position] > 0, 1e30, torch.tensor(1.0)).unsqueeze(0)
        assert loop_at(loop, logits, large[position]).item() == pytest.approx(-(width - 1) * math.log1p(math.e), rel=1e-6)


def test_the_compiler_may_not_assume_that_all_is_finite() -> None:
    for loop in pytest.importorskip("vaelid.loops", reason="numba is not installed").LOOPS.values():
        assert loop.targetoptions["fastmath"] <= {"contract", "reassoc", "nsz"}


def test_terms_that_cancel_do_so_before_they_are_summed(loop: kernels.Kernel) -> None:
    x = (torch.arange(112) % 3 == 0).to(torch.float32).unsqueeze(0)
    logits = (3e38 * (2 * x - 1)).unsqueeze(0)  # the sums of either color alone are above the largest float32
    assert loop_at(loop, logits, x).item() == 0


@pytest.mark.parametrize("slope", [0.01, 0.0, 1.0, 1.5, -0.5])
def test_bent_rows_have_the_bits_of_torchs(slope: float, bend: kernels.Kernel) -> None:
    values = [0.0, -0.0, 1e-40, -1e-40, 3e38, -3e38, math.inf, -math.inf, math.nan, 1.0, -1.0]
    h = torch.cat((torch.tensor(values), torch.randn(60, generator=torch.Generator().manual_seed(0)))).repeat(5, 1)
    bias = torch.cat((torch.zeros(6), torch.randn(65, generator=torch.Generator().manual_seed(1))))
    bias[4], bias[5] = 3e38, -3e38  # sums beyond the largest float32
    expected = torch.nn.functional.leaky_relu(h + bias, slope)
    bend(h.numpy(), bias.numpy(), *kernels.single(slope))
    assert torch.equal(h.isnan(), expected.isnan())
    assert kernels.same_bits([h.nan_to_num(7.0)], [expected.nan_to_num(7.0)])
