"""Diagnostics of importance weights against distributions whose tail and variance are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from vaelid.evaluation import certificate as certificate_module
from vaelid.evaluation.certificate import RISING, WORST_SHAPE, RunningWeights, certificate, weight_diagnostics
from vaelid.evaluation.likelihood import curve_points, importance_bound


def pareto_shape(log_weight: torch.Tensor) -> torch.Tensor:
    return weight_diagnostics(log_weight)["pareto_k"]


def last_doubling(log_weight: torch.Tensor) -> torch.Tensor:
    return weight_diagnostics(log_weight)["gain"]


@pytest.mark.parametrize("samples", [1, 2, 3, 24, 25, 100, 237])
@pytest.mark.parametrize("piece", [1, 3, 10, 64, 1000])
def test_weights_can_come_in_pieces_of_any_size(samples: int, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificate_module, "_AT_ONCE", 7)
    log_weight = 2 * torch.randn(samples, 5, dtype=torch.float64) - 3000
    running = RunningWeights(samples, curve_points(samples))
    for part in log_weight.split(piece):
        running.add(part)
    expected = torch.stack([importance_bound(log_weight, k) for k in curve_points(samples)], dim=1)
    torch.testing.assert_close(running.curve, expected, rtol=0, atol=1e-9)
    whole = weight_diagnostics(log_weight)
    for name, value in running.diagnostics().items():
        torch.testing.assert_close(value, whole[name], rtol=1e-9, atol=1e-9, equal_nan=True)
    half = samples // 2
    if half:
        halves = [importance_bound(log_weight[:half], half), importance_bound(log_weight[half : 2 * half], half)]
        gain = importance_bound(log_weight[: 2 * half], 2 * half) - (halves[0] + halves[1]) / 2
        torch.testing.assert_close(whole["gain"], gain, rtol=0, atol=1e-9)


def test_few_weights_are_held_however_many_come() -> None:
    running = RunningWeights(10_000, curve_points(10_000))
    for _ in range(100):
        running.add(torch.randn(100, 2, dtype=torch.float64))
        held = [value for value in vars(running).values() if isinstance(value, torch.Tensor)]
        held += vars(running)["_waiting"]
        for blocks in (*running.points.values(), running.halves):
            held += [value for value in vars(blocks).values() if isinstance(value, torch.Tensor)]
        assert max(len(value) for value in held if value.dim() == 2) <= 301, "the largest 3√K and the threshold"
        assert sum(value.numel() for value in held) < 2 * (350 + 500)
    running.diagnostics()
    assert vars(running)["_largest"].shape == (301, 2)


@pytest.mark.parametrize("shape", [0.1, 0.3, 0.5, 0.7, 1.0])
def test_the_shape_of_a_pareto_tail_is_found(shape: float) -> None:
    log_weight = -shape * torch.rand(20_000, 200, dtype=torch.float64).log()  # w = u^-k is Pareto with shape k
    found = pareto_shape(log_weight)
    # Five standard errors of the mean, and 0.02 for the prior that pulls towards one half.
    assert abs(float(found.mean()) - shape) < 5 * float(found.std()) / math.sqrt(200) + 0.02


def test_shape_does_not_depend_on_the_scale_of_the_weights() -> None:
    log_weight = torch.randn(1000, 3, dtype=torch.float64)
    torch.testing.assert_close(pareto_shape(log_weight - 5000), pareto_shape(log_weight))


def test_too_few_weights_have_no_shape() -> None:
    assert pareto_shape(torch.randn(20, 2, dtype=torch.float64)).isnan().all()


def test_effective_samples_and_error_of_log_normal_weights() -> None:
    log_weight = torch.randn(5000, 1000, dtype=torch.float64)
    found = weight_diagnostics(log_weight)
    estimates = torch.logsumexp(log_weight, 0) - math.log(5000)
    assert float(found["ess"].mean()) == pytest.approx(5000 / math.e, rel=0.02)
    # The predicted error against the spread of 1000 estimates, whose own relative error is 1/√2000: five of those.
    assert float(found["variance"].mean().sqrt()) == pytest.approx(float(estimates.std()), rel=5 / math.sqrt(2000))


def test_equal_weights_are_perfect() -> None:
    found = weight_diagnostics(torch.full((64, 2), -3.0, dtype=torch.float64))
    torch.testing.assert_close(found["ess"], torch.full((2,), 64.0, dtype=torch.float64))
    torch.testing.assert_close(found["variance"], torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close(found["gain"], torch.zeros(2, dtype=torch.float64))


def test_the_last_doubling_by_hand() -> None:
    weights = torch.tensor([[1.0], [3.0], [2.0], [6.0]], dtype=torch.float64)
    by_hand = math.log(3) - 0.5 * (math.log(2) + math.log(4))
    assert float(last_doubling(weights.log())) == pytest.approx(by_hand)
    assert last_doubling(torch.zeros(1, 2, dtype=torch.float64)).isnan().all()


def test_the_certificate_says_how_much_is_luck() -> None:
    found = weight_diagnostics(torch.randn(1000, 50, dtype=torch.float64))
    values = {name: value.numpy() for name, value in found.items()}
    summary = certificate(values, 1000)
    assert summary["effective_samples"]["of"] == 1000
    assert summary["effective_samples"]["mean"] == pytest.approx(values["ess"].mean())
    assert summary["pareto_k"]["share_above_0.7"] == (values["pareto_k"] > WORST_SHAPE).mean()
    assert summary["pareto_k"]["threshold"] == pytest.approx(2 / 3)
    assert summary["pareto_k"]["share_above_threshold"] == (values["pareto_k"] > 2 / 3).mean()
    assert (summary["last_doubling"]["from"], summary["last_doubling"]["to"]) == (500, 1000)
    assert summary["last_doubling"]["gain"] == pytest.approx(values["gain"].mean())
    assert summary["last_doubling"]["still_rising"] == (values["gain"].mean() > RISING)
    assert summary["monte_carlo_se"] == pytest.approx(math.sqrt(values["variance"].sum()) / 50)


@pytest.mark.parametrize(("spread", "rising"), [(0.1, False), (3.0, True)])
def test_a_bound_that_still_rises_is_called_so(spread: float, rising: bool) -> None:
    found = weight_diagnostics(spread * torch.randn(500, 40, dtype=torch.float64))
    assert certificate({name: value.numpy() for name, value in found.items()}, 500)["last_doubling"]["still_rising"] is rising


def test_the_certificate_of_a_single_sample_claims_nothing() -> None:
    found = weight_diagnostics(torch.randn(1, 4, dtype=torch.float64))
    summary = certificate({name: value.numpy() for name, value in found.items()}, 1)
    assert set(summary["pareto_k"].values()) == {None}
    assert summary["last_doubling"]["gain"] is None
    assert summary["monte_carlo_se"] is None
    assert found["variance"].isnan().all(), "one weight has no spread"


def test_the_error_of_few_nearly_equal_weights_is_not_understated() -> None:
    """log (1/K) Σ w of K = 4 weights e^{0.2 ε} has variance (e^{0.04} − 1)/4, but for terms of order 0.04²."""
    log_weight = 0.2 * torch.randn(4, 100_000, dtype=torch.float64)
    said = float(weight_diagnostics(log_weight)["variance"].mean())
    spread = float((torch.logsumexp(log_weight, 0) - math.log(4)).var())
    # Without K/(K − 1) it would be a quarter too small; the spread is known to √(2/100 000) = 0.45 %, and 3 % is second order.
    assert said == pytest.approx(spread, rel=0.05)


def _published_shape(log_weight: np.ndarray) -> float:
    """k̂ of the appendix of Vehtari et al. as ArviZ's ``psislw`` computes it, one image at a time."""
    count = len(log_weight)
    ordered = np.sort(log_weight - log_weight.max())
    tail = math.ceil(min(0.2 * count, 3 * math.sqrt(count)))
    excess = np.exp(ordered[-tail:]) - np.exp(ordered[-tail - 1])
    grid = 30 + int(tail**0.5)
    b = 1 - np.sqrt(grid / (np.arange(1, grid + 1) - 0.5))
    b = b / (3 * excess[int(tail / 4 + 0.5) - 1]) + 1 / excess[-1]
    k = np.log1p(-b[:, None] * excess).mean(1)
    profile = tail * (np.log(-(b / k)) - k - 1)
    weight = 1 / np.exp(profile - profile[:, None]).sum(1)
    kept = weight >= 10 * np.finfo(float).eps
    mean_b = (b[kept] * weight[kept] / weight[kept].sum()).sum()
    return float((tail * np.log1p(-mean_b * excess).mean() + 10 * 0.5) / (tail + 10))


@pytest.mark.parametrize("spread", [0.3, 1.5, 4.0])
@pytest.mark.parametrize("samples", [100, 1000, 5000])
def test_the_shape_is_that_of_the_published_algorithm(spread: float, samples: int) -> None:
    log_weight = spread * torch.randn(samples, 5, dtype=torch.float64)
    expected = [_published_shape(column) for column in log_weight.T.numpy()]
    torch.testing.assert_close(pareto_shape(log_weight), torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9)
