"""AIS against exact evidences.

Every test is seeded. Random numbers must lie within 5 standard errors (1 seed in 1.7 million would not).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Laplace

from exact_models import LIKELIHOODS, PRIORS, as_split, linear_gaussian, log_p_by_quadrature, one_latent, sigmas
from vaelid.errors import SettingError
from vaelid.evaluation import ais
from vaelid.evaluation.ais import (
    STARTS,
    AisPlan,
    AnnealingPath,
    ais_images,
    anneal,
    forward_values,
    schedule,
    summarize_ais,
    tune,
)
from vaelid.evaluation.bdmc import simulate
from vaelid.evaluation.hmc import Noise, Point, draw_noise, update
from vaelid.evaluation.likelihood import PosteriorDraws
from vaelid.posteriors import Posterior
from vaelid.progress import Silent
from vaelid.vae import VAE


def path_of(model: VAE, x: Tensor, plan: AisPlan) -> AnnealingPath:
    return AnnealingPath(model.eval(), x, torch.arange(len(x)), plan.start)


def annealed(model: VAE, x: Tensor, plan: AisPlan) -> dict[str, Tensor]:
    path = path_of(model, x, plan)
    return forward_values(path, plan, tune(path, plan))


# The estimate -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shift", "widen"), [(0.0, 1.0), (0.3, 0.7)], ids=["good q", "bad q"])
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("leapfrog", [1, 4])
def test_weights_average_to_the_evidence(shift: float, widen: float, start: ais.Start, leapfrog: int) -> None:
    exact = linear_gaussian(shift=shift, widen=widen)
    x = exact.images(4)
    plan = AisPlan(steps=20, chains=1000, start=start, leapfrog=leapfrog, pilot=20)
    found = annealed(exact.model, x, plan)
    ratio = (found["log_weight"] - exact.log_p(x).unsqueeze(1)).exp()
    error = ratio.std() / math.sqrt(ratio.numel())
    assert error < 0.05
    assert abs(sigmas(ratio, 1.0)) < 5
    assert found["nll"] == pytest.approx(-exact.log_p(x), abs=0.25)
    # Annealing is what makes it so: the same start without it is far off, by bound and by effective chains.
    alone = annealed(exact.model, x, replace(plan, steps=1))
    assert (found["ess"] > alone["ess"]).all()


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize(
    ("likelihood", "prior"), [*((name, "mixture") for name in LIKELIHOODS), *(("bernoulli", p) for p in PRIORS)]
)
def test_parts_by_quadrature(likelihood: str, prior: str, start: ais.Start) -> None:
    model = one_latent(likelihood, prior)
    _, x = simulate(model, torch.arange(4), seed=0)
    found = annealed(model, x, AisPlan(steps=12, chains=500, start=start, leapfrog=2, pilot=10))
    ratio = (found["log_weight"] - log_p_by_quadrature(model, x).unsqueeze(1)).exp()
    assert ratio.std() / math.sqrt(ratio.numel()) < 0.05
    assert abs(sigmas(ratio, 1.0)) < 5


def test_few_chains_bound_from_below() -> None:
    exact = linear_gaussian(shift=0.3, widen=0.7)
    x = exact.images(1).expand(2000, -1)
    found = annealed(exact.model, x, AisPlan(steps=3, chains=2, leapfrog=2, pilot=5))
    miss = exact.log_p(x) + found["nll"]
    assert sigmas(miss, 0.0) > 5  # with two chains and three steps the bound is visibly loose, in the stated direction


@pytest.mark.parametrize("start", STARTS)
def test_one_step_is_importance_sampling(start: ais.Start) -> None:
    exact = linear_gaussian(shift=0.3)
    x, plan = exact.images(3), AisPlan(steps=1, chains=7, start=start, seed=4)
    path = path_of(exact.model, x, plan)
    z = path.draw(7, 4, "ais")
    with torch.no_grad():
        seen = exact.model.look(x, exact.model.posterior(x), z)
        expected = seen.log_weight if start == "encoder" else seen.log_likelihood
    found = forward_values(path, plan, tune(path, plan))
    assert torch.equal(found["log_weight"], expected.T) or torch.allclose(found["log_weight"], expected.T, rtol=0, atol=1e-12)
    assert found["nll"] == pytest.approx(math.log(7) - torch.logsumexp(expected, 0), abs=1e-12)
    assert "acceptance" not in found
    if start == "encoder":
        with torch.no_grad():
            assert torch.equal(z, PosteriorDraws(exact.model, x, path.ids, "ais", 4).draw(0, 7))


def test_prior_draws_are_of_the_prior() -> None:
    model = one_latent("bernoulli", "mixture")
    z = path_of(model, torch.zeros(20, 5).double(), AisPlan(start="prior")).draw(200, 0, "ais")
    prior = model.requires_grad_(False).prior()
    assert abs(sigmas(z, float(prior.mean))) < 5
    assert abs(sigmas((z - prior.mean).square(), float(prior.variance))) < 5


class LaplacePosterior(Posterior):
    """A posterior without a transport of noise that vaelid knows."""

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((latent,), 0.5))

    @classmethod
    def network_outputs(cls, latent: int) -> int:
        return 0

    def forward(self, x: Tensor) -> Independent:
        return Independent(Laplace(torch.zeros(len(x), 1).double(), self.scale), 1)


def test_a_start_that_is_no_gaussian() -> None:
    model = one_latent("bernoulli", "standard-normal")
    model.posterior = LaplacePosterior(1)
    _, x = simulate(model, torch.arange(3), seed=0)
    found = annealed(model, x, AisPlan(steps=12, chains=500, leapfrog=2, pilot=10))
    assert abs(sigmas((found["log_weight"] - log_p_by_quadrature(model, x).unsqueeze(1)).exp(), 1.0)) < 5


def test_parameters_get_no_gradient() -> None:
    exact = linear_gaussian()
    annealed(exact.model, exact.images(2), AisPlan(steps=3, chains=2, pilot=2))
    assert all(parameter.grad is None for parameter in exact.model.parameters())


# The schedule and the updates ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 7, 100])
def test_schedule(steps: int) -> None:
    betas = schedule(steps)
    assert len(betas) == steps + 1
    assert (betas[0], betas[-1]) == (0.0, 1.0)
    assert all(low < high for low, high in pairwise(betas))
    assert [1 - beta for beta in reversed(betas)] == pytest.approx(betas)
    assert steps < 7 or betas[1] < 0.3 / steps  # dense at the ends


def quartic(z: Tensor) -> Point:
    """log q0 = −z²/2, log w = −z⁴/4 + z, summed over two coordinates."""
    return Point(z, (-z.square() / 2).sum(-1), (-z.pow(4) / 4 + z).sum(-1), -z, -z.pow(3) + 1)


def test_detailed_balance() -> None:
    """π(z) φ(r) a(z, r → z', r') = π(z') φ(r') a(z', −r' → z, −r) for each trajectory, against an implementation of its own."""
    torch.manual_seed(0)
    beta, leapfrog, chains = 0.6, 3, 200
    z, r = torch.randn(chains, 1, 2).double(), torch.randn(chains, 1, 2).double()
    step, scale = torch.tensor([0.6]).double(), torch.tensor([[1.0, 0.5]]).double()
    ones, never = torch.ones(chains, 1), torch.zeros(chains, 1)

    def gradient(z: Tensor) -> Tensor:
        return -z + beta * (1 - z**3)

    size, end, momentum = step * scale, z, r
    for _ in range(leapfrog):
        momentum = momentum + size / 2 * gradient(end)
        end = end + size * momentum
        momentum = momentum + size / 2 * gradient(end)

    def log_joint(z: Tensor, r: Tensor) -> Tensor:
        return (-(z**2) / 2 + beta * (z - z**4 / 4) - r**2 / 2).sum(-1)

    moved, there = update(quartic, quartic(z), beta, step, scale, Noise(r, ones, never), leapfrog)
    assert torch.allclose(moved.z, end)  # threshold 0: all are accepted
    back, again = update(quartic, quartic(end), beta, step, scale, Noise(-momentum, ones, never), leapfrog)
    assert torch.allclose(back.z, z)
    assert torch.allclose(log_joint(z, r) + there.log(), log_joint(end, momentum) + again.log())
    assert (torch.maximum(there, again) == 1).all()
    assert there.min() < 0.7  # there is something to accept or reject
    kept, _ = update(quartic, quartic(z), beta, step, scale, Noise(r, ones, there.float() + 1e-6), leapfrog)
    assert torch.equal(kept.z, z)  # a threshold above the probability: all are rejected
    assert torch.equal(kept.weight_gradient, quartic(z).weight_gradient)
    assert torch.equal(kept.log_weight, quartic(z).log_weight)


@pytest.mark.parametrize("leapfrog", [1, 5])
def test_updates_leave_the_density_invariant(leapfrog: int) -> None:
    """Exact draws from a mixture stay draws from it: mean, second and fourth moment."""
    model, plan = one_latent("bernoulli", "mixture"), AisPlan(start="prior")
    path = path_of(model, torch.zeros(10, 5).double(), plan)
    point = path.look(path.draw(1000, 0, "ais"))
    step = torch.full((10,), 1.2).double()
    acceptances = []
    for number in range(6):
        noise = draw_noise("test", 0, number, path.ids, 1000, path.scale)
        point, acceptance = update(path.look, point, 0.0, step, path.scale, noise, leapfrog)
        acceptances.append(acceptance)
    assert 0.2 < torch.stack(acceptances).mean() < 0.95  # without the test for acceptance the moments would drift
    exact = model.prior().sample((400_000,)).double()
    for power in (1, 2, 4):
        values = point.z.pow(power)
        error = math.hypot(values.std() / math.sqrt(values.numel()), exact.pow(power).std() / math.sqrt(len(exact)))
        assert abs(values.mean() - exact.pow(power).mean()) < 5 * error


def test_updates_move() -> None:
    """After some updates at β = 1 the chains have forgotten a wrong start: the posterior's moments."""
    exact = linear_gaussian(shift=2.0)
    x, plan = exact.images(3), AisPlan(start="encoder")
    path = path_of(exact.model, x, plan)
    point = path.look(path.draw(2000, 0, "ais"))
    for number in range(15):
        noise = draw_noise("test", 0, number, path.ids, 2000, path.scale)
        point, _ = update(path.look, point, 1.0, torch.full((3,), 0.35).double(), path.scale, noise, 5)
    centered = point.z - exact.posterior_mean(x)
    covariance = exact.precision.inverse()
    for d in range(2):
        assert abs(sigmas(centered[..., d], 0.0)) < 5
        assert abs(sigmas(centered[..., d] ** 2, float(covariance[d, d]))) < 5
    assert abs(sigmas(centered[..., 0] * centered[..., 1], float(covariance[0, 1]))) < 5


def test_runaway_trajectories_are_rejected() -> None:
    z = torch.randn(5, 2, 2).double()
    noise = Noise(torch.randn(5, 2, 2).double(), torch.ones(5, 2), torch.zeros(5, 2))
    step = torch.tensor([1e200, 0.1]).double()
    point, acceptance = update(quartic, quartic(z), 1.0, step, torch.ones(2, 2).double(), noise, 4)
    assert (acceptance[:, 0] == 0).all()
    assert torch.equal(point.z[:, 0], z[:, 0])
    assert (point.z[:, 1] != z[:, 1]).all()


def test_noise_is_its_own_for_every_address() -> None:
    like = torch.zeros(1, 3)
    ids = torch.tensor([5, 9])
    base = draw_noise("p", 0, 0, ids, 4, like)
    assert base.momentum.shape == (4, 2, 3)
    numbers = [base.momentum, *(draw_noise(*a, ids, 4, like).momentum for a in (("q", 0, 0), ("p", 1, 0), ("p", 0, 1)))]
    assert len(torch.stack(numbers).unique()) == 4 * 4 * 2 * 3
    assert torch.equal(draw_noise("p", 0, 0, ids[1:], 2, like).momentum, base.momentum[:2, 1:])
    assert (base.jitter - 1).abs().max() <= 0.2
    many = draw_noise("p", 0, 0, torch.arange(100), 100, like)
    assert abs(sigmas(many.threshold, 0.5)) < 5
    assert abs(float(torch.corrcoef(torch.stack((many.threshold.flatten(), many.jitter.flatten())))[0, 1])) < 0.05


# The pilot run ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", STARTS)
def test_acceptance_is_what_was_asked_for(start: ais.Start) -> None:
    exact = linear_gaussian(latent=6, pixels=8, widen=0.8)
    plan = AisPlan(steps=60, chains=50, start=start, leapfrog=3)
    found = annealed(exact.model, exact.images(6), plan)
    assert found["acceptance"].numpy() == pytest.approx(np.full(6, 0.65), abs=0.08)
    assert found["least_acceptance"].min() > 0.3
    easy = annealed(exact.model, exact.images(6), replace(plan, acceptance=0.9))
    assert easy["acceptance"].numpy() == pytest.approx(np.full(6, 0.9), abs=0.1)


Call = tuple[float, Tensor, Noise]


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """Every update made from now on: its β, step sizes and noise."""
    calls: list[Call] = []

    def record(
        look: Callable[[Tensor], Point], point: Point, beta: float, step: Tensor, scale: Tensor, noise: Noise, leapfrog: int
    ) -> tuple[Point, Tensor]:
        calls.append((beta, step.clone(), noise))
        return update(look, point, beta, step, scale, noise, leapfrog)

    monkeypatch.setattr(ais, "update", record)
    return calls


def test_steps_are_frozen_and_the_pilot_noise_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = recorded(monkeypatch)
    exact = linear_gaussian()
    x, plan = exact.images(3), AisPlan(steps=9, chains=5, leapfrog=2, pilot=4)
    path = path_of(exact.model, x, plan)
    steps = tune(path, plan)
    assert steps.shape == (8, 3)
    assert len(calls) == plan.pilot_updates
    assert len({float(step[0]) for _, step, _ in calls}) > 10  # it adapts
    assert steps.std(1).min() > 0  # per image
    pilot = torch.cat([noise.momentum.flatten() for _, _, noise in calls])
    calls.clear()
    forward_values(path, plan, steps)
    assert [beta for beta, _, _ in calls] == schedule(9)[1:-1]
    assert torch.equal(torch.stack([step for _, step, _ in calls]), steps)
    counted = torch.cat([noise.momentum.flatten() for _, _, noise in calls])
    assert len(torch.cat((pilot, counted)).unique()) == len(pilot) + len(counted)


def test_the_way_back_makes_the_same_updates_in_opposite_order(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = recorded(monkeypatch)
    exact = linear_gaussian()
    x, plan = exact.images(3), AisPlan(steps=6, chains=5, leapfrog=2)
    path = path_of(exact.model, x, plan)
    steps = torch.rand(5, 3).double() + 0.5
    z = torch.randn(5, 3, 2).double()
    anneal(path, z, plan, steps, "up")
    up = [(beta, step.tolist()) for beta, step, _ in calls]
    calls.clear()
    anneal(path, z, plan, steps, "down", reverse=True)
    assert [(beta, step.tolist()) for beta, step, _ in calls] == up[::-1]


# Whole splits -------------------------------------------------------------------------------------------------------------


def test_batches_do_not_matter() -> None:
    exact = linear_gaussian()
    split, plan = as_split(exact.images(5)), AisPlan(steps=6, chains=4, leapfrog=2, pilot=5)
    together = ais_images(exact.model, split, plan, Silent())
    alone = ais_images(exact.model, split, replace(plan, images=2), Silent())
    last = ais_images(exact.model, replace(split, indices=split.indices[3:]), plan, Silent())
    assert together.keys() == alone.keys()
    for name, values in together.items():
        assert values.dtype == np.float64
        assert len(values) == 5
        assert alone[name] == pytest.approx(values, rel=0, abs=1e-9)
        assert last[name] == pytest.approx(values[3:], rel=0, abs=1e-9)
    other = ais_images(exact.model, split, replace(plan, seed=1), Silent())
    assert (other["nll"] != together["nll"]).all()


class BreaksOff(Silent):
    """Stops the work at a given tick, and counts what it was told."""

    def __init__(self, at: int) -> None:
        self.at, self.units, self.total = at, 0, 0

    def start(self, title: str, total: int, done: int = 0) -> None:
        self.total, self.units = total, done

    def advance(self, units: int, text: str = "") -> None:
        self.units += units
        if self.units >= self.at:
            raise KeyboardInterrupt


def test_resume() -> None:
    exact = linear_gaussian()
    split, plan = as_split(exact.images(5)), AisPlan(steps=6, chains=4, leapfrog=2, pilot=5, images=2)
    counting = BreaksOff(10**9)
    at_once = ais_images(exact.model, split, plan, counting)
    assert counting.units == counting.total == 5 * plan.ticks
    saved: list[dict[str, np.ndarray]] = []
    with pytest.raises(KeyboardInterrupt):
        ais_images(exact.model, split, plan, BreaksOff(3 * plan.ticks), save=saved.append)
    assert len(saved[-1]["nll"]) == 2
    resumed = ais_images(exact.model, split, plan, counting, start=saved[-1])
    assert counting.units == counting.total
    assert all((resumed[name] == values).all() for name, values in at_once.items())


def test_summary() -> None:
    exact = linear_gaussian()
    plan = AisPlan(steps=6, chains=4, leapfrog=2, pilot=5)
    values = ais_images(exact.model, as_split(exact.images(5)), plan, Silent())
    found = summarize_ais(values, plan)
    assert found["value"] == values["nll"].mean()
    assert found["se"] == pytest.approx(values["nll"].std(ddof=1) / math.sqrt(5))
    assert found["monte_carlo_se"] == pytest.approx(math.sqrt(values["variance"].sum()) / 5)
    assert found["direction"] == "upper bound on the true NLL in expectation"
    assert found["effective_chains"]["of"] == 4
    assert 0 < found["acceptance"]["least"] <= found["acceptance"]["mean"] < 1
    assert found["plan"] == plan.identity() == replace(plan, images=1).identity()
    alone = replace(plan, chains=1)
    assert summarize_ais(ais_images(exact.model, as_split(exact.images(5)), alone, Silent()), alone)["monte_carlo_se"] is None
    once = replace(plan, steps=1)
    assert summarize_ais(ais_images(exact.model, as_split(exact.images(1)), once, Silent()), once)["acceptance"]["mean"] is None


@pytest.mark.parametrize(
    ("setting", "value"), [("steps", 0), ("chains", 0), ("leapfrog", 0), ("images", 0), ("acceptance", 1.0), ("start", "decoder")]
)
def test_plans_that_cannot_be(setting: str, value: object) -> None:
    with pytest.raises(SettingError, match=setting):
        AisPlan(**{setting: value})  # type: ignore[arg-type]
