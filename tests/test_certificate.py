"""Diagnostics of importance weights against distributions whose tail and variance are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from vaelid.evaluation.certificate import WORST_SHAPE, certificate, last_doubling, pareto_shape, weight_diagnostics


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
    assert (summary["last_doubling"]["from"], summary["last_doubling"]["to"]) == (500, 1000)
    assert summary["last_doubling"]["gain"] == pytest.approx(values["gain"].mean())
    assert summary["monte_carlo_se"] == pytest.approx(math.sqrt(values["variance"].sum()) / 50)


def test_the_certificate_of_a_single_sample_claims_nothing() -> None:
    found = weight_diagnostics(torch.randn(1, 4, dtype=torch.float64))
    summary = certificate({name: value.numpy() for name, value in found.items()}, 1)
    assert summary["pareto_k"] == {"median": None, "share_above_0.7": None}
    assert summary["last_doubling"]["gain"] is None
    assert np.isfinite(summary["monte_carlo_se"])
