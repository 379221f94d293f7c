"""Bidirectional Monte Carlo: both bounds around the exact value, within 5 standard errors (1 seed in 1.7 million)."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from exact_models import linear_gaussian, log_p_by_quadrature, one_latent, sigmas
from vaelid.evaluation.ais import STARTS, AisPlan, AnnealingPath, Start, anneal, tune
from vaelid.evaluation.bdmc import bdmc_images, simulate, summarize_bdmc
from vaelid.progress import Silent


def test_simulated_images_are_of_the_model() -> None:
    exact = linear_gaussian()
    z, x = simulate(exact.model, torch.arange(600), seed=0)
    residual = x - z @ exact.weight.T - exact.bias
    assert abs(sigmas(z, 0.0)) < 5
    assert abs(sigmas(z.square(), 1.0)) < 5
    assert abs(sigmas(residual, 0.0)) < 5
    assert abs(sigmas(residual.square(), 0.25)) < 5
    assert abs(sigmas(residual[:, :2] * z, 0.0)) < 5  # independent
    before = torch.get_rng_state()
    again = simulate(exact.model, torch.tensor([7, 3]), seed=0)
    assert torch.equal(again[0], z[[7, 3]])
    assert torch.equal(again[1], x[[7, 3]])
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(simulate(exact.model, torch.tensor([7]), seed=1)[1], x[[7]])


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("mixture", [False, True], ids=["linear", "mixture"])
def test_the_way_back_averages_to_the_inverse_evidence(start: Start, mixture: bool) -> None:
    """E over z0 ~ p(z|x) of 1/ŵ is 1/p(x): with many simulated images, each with its exact posterior draw."""
    exact, model = linear_gaussian(shift=0.2, widen=1.2), one_latent("bernoulli", "mixture").eval()
    model = model if mixture else exact.model.eval()
    plan = AisPlan(steps=30 if start == "prior" else 12, chains=4, start=start, leapfrog=2, pilot=10)
    ids = torch.arange(400)
    z0, x = simulate(model, ids, seed=0)
    path = AnnealingPath(model, x, ids, start)
    log_inverse, acceptance = anneal(path, z0.expand(4, -1, -1), plan, tune(path, plan), "ais reverse", reverse=True)
    log_p = log_p_by_quadrature(model, x) if mixture else exact.log_p(x)
    ratio = (log_inverse + log_p).exp().mean(0)  # chains share z0: an image is one observation
    assert ratio.std() / math.sqrt(len(ratio)) < 0.1
    assert abs(sigmas(ratio, 1.0)) < 5
    assert acceptance.mean() == pytest.approx(0.65, abs=0.15)


@pytest.mark.parametrize("start", STARTS)
def test_bounds_meet_at_the_exact_value(start: Start) -> None:
    exact = linear_gaussian(shift=0.4, widen=0.8)
    gaps = []
    for steps in (1, 5, 40):
        plan = AisPlan(steps=steps, chains=2, start=start, leapfrog=3, pilot=10)
        found = bdmc_images(exact.model, 100, plan, Silent(), samples=4)
        _, x = simulate(exact.model, torch.arange(100), seed=0)
        log_p = exact.log_p(x)
        low, high = torch.from_numpy(found["lower"]) - log_p, torch.from_numpy(found["upper"]) - log_p
        assert sigmas(low, 0.0) < 5
        assert sigmas(high, 0.0) > -5
        gaps.append(summarize_bdmc(found, plan, 4)["gap"])
        if steps == 1:
            assert sigmas(low, 0.0) < -5  # and they do bound: neither is the exact value by construction
            assert sigmas(high, 0.0) > 5
    assert gaps[0]["value"] > gaps[1]["value"] > gaps[2]["value"]
    assert abs(gaps[2]["value"]) < 0.15 * gaps[0]["value"]
    assert all(gap["value"] > -5 * gap["se"] for gap in gaps)


def test_an_exact_encoder_leaves_no_gap() -> None:
    exact = linear_gaussian(latent=1)  # a posterior of one dimension is a diagonal Gaussian
    plan = AisPlan(steps=4, chains=3, leapfrog=2, pilot=5)
    found = bdmc_images(exact.model, 5, plan, Silent(), samples=3)
    _, x = simulate(exact.model, torch.arange(5), seed=0)
    for name in ("lower", "upper", "importance"):
        assert found[name] == pytest.approx(exact.log_p(x).numpy(), abs=1e-9)


def test_batches_do_not_matter_and_the_summary_is_paired() -> None:
    exact = linear_gaussian(shift=0.3)
    plan = AisPlan(steps=4, chains=3, leapfrog=2, pilot=5)
    found = bdmc_images(exact.model, 6, plan, Silent(), samples=10)
    alone = bdmc_images(exact.model, 6, replace(plan, images=4), Silent(), samples=10)
    assert all(alone[name] == pytest.approx(values, rel=0, abs=1e-9) for name, values in found.items())
    results = summarize_bdmc(found, plan, 10)
    gap = found["upper"] - found["lower"]
    assert results["gap"]["value"] == pytest.approx(gap.mean())
    assert results["gap"]["se"] == pytest.approx(gap.std(ddof=1) / math.sqrt(6))
    assert results["gap"]["largest"] == gap.max()
    assert results["importance"]["below_upper"]["value"] == pytest.approx((found["upper"] - found["importance"]).mean())
    assert results["importance"]["samples"] == 10
    assert "importance" not in summarize_bdmc(bdmc_images(exact.model, 2, plan, Silent()), plan)
