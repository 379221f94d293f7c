"""One contract per kind of part, run over every entry of its table and every choice among its options.

A new part that is entered in a table is tested here without a line being added. Thresholds are 5 standard errors: some 3000
comparisons of samples would fail a correct part at one seed in several hundred, and the seed is fixed.
"""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from small_parts import LATENT, NETWORK, SHAPE, build_part, build_vae, inputs_of, pixels, points, support_of, variants
from vaelid.networks import NETWORKS, Network
from vaelid.objectives import OBJECTIVES
from vaelid.optimizers import OPTIMIZERS, SCHEDULES
from vaelid.parts import KINDS, part_options
from vaelid.recipe import Part
from vaelid.supports import BINARY, REAL, Support

DENSITIES = [case for kind in ("prior", "posterior", "likelihood") for case in variants(kind)]
OWN_IDEAS = {"factorized-mixture", "constant", "plateau", "mlp"}  # nobody to refer to
each_density = pytest.mark.parametrize(("kind", "name", "options"), DENSITIES)
each_entry = pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in KINDS for name in KINDS[kind].table])
each_network = pytest.mark.parametrize("name", NETWORKS)


def event_support(kind: str, name: str) -> Support:
    return support_of(name) if kind == "likelihood" else REAL


def within(errors: Tensor, standard_errors: Tensor, count: float = 5.0) -> bool:
    """Whether every error is at most so many standard errors (and rounding)."""
    return bool((errors.abs() <= count * standard_errors + 1e-9).all())


# Priors, posteriors, likelihoods ------------------------------------------------------------------------------------------


@each_density
def test_shapes(kind: str, name: str, options: dict[str, Any]) -> None:
    batch, event = {"prior": ((), (LATENT,)), "posterior": ((5,), (LATENT,)), "likelihood": ((3, 5), SHAPE)}[kind]
    distribution = build_part(kind, name, options)(*inputs_of(kind, name, 3, 5))
    assert distribution.batch_shape == batch
    assert distribution.event_shape == event
    assert distribution.mean.shape == (*batch, *event)
    draw = distribution.sample((7,))
    assert draw.shape == (7, *batch, *event)
    assert draw.dtype == torch.float64
    assert not draw.requires_grad
    assert distribution.log_prob(draw).shape == (7, *batch)
    assert not event_support(kind, name).outside(draw).any()


@each_density
def test_every_parameter_gets_a_gradient(kind: str, name: str, options: dict[str, Any]) -> None:
    part = build_part(kind, name, options)
    if not dict(part.named_parameters()):
        pytest.skip("has no parameters")
    distribution = part(*inputs_of(kind, name, 3, 5))
    distribution.log_prob(distribution.sample()).sum().backward()
    without = [n for n, p in part.named_parameters() if p.grad is None or not p.grad.isfinite().all() or not p.grad.any()]
    assert without == []


@each_density
def test_density_integrates_to_one(kind: str, name: str, options: dict[str, Any]) -> None:
    distribution = build_part(kind, name, options)(*inputs_of(kind, name, 1, 2))
    values, volume = points(distribution, event_support(kind, name))
    mass = distribution.log_prob(values).exp().sum(0) * volume
    torch.testing.assert_close(mass, torch.ones_like(mass), atol=1e-6, rtol=0)


@each_density
def test_samples_have_the_moments_of_the_density(kind: str, name: str, options: dict[str, Any]) -> None:
    """Means, variances and the covariance, by the density on all points and by samples; and ``mean`` says the same."""
    distribution = build_part(kind, name, options)(*inputs_of(kind, name, 1, 2))
    values, volume = points(distribution, event_support(kind, name))
    weights = (distribution.log_prob(values).exp() * volume).unsqueeze(-1)
    expected = (_monomials(values, distribution) * weights).sum(0)
    torch.testing.assert_close(expected[..., :2], torch.zeros_like(expected[..., :2]), atol=1e-6, rtol=0)
    seen = _monomials(distribution.sample((40_000,)), distribution)
    assert within(seen.mean(0) - expected, seen.std(0) / math.sqrt(len(seen)))


def _monomials(x: Tensor, distribution: Distribution) -> Tensor:
    """Of the two deviations from the mean: both, their squares and their product, ``(..., 5)``."""
    first, second = (x - distribution.mean).detach().flatten(-len(distribution.event_shape)).unbind(-1)
    return torch.stack([first, second, first**2, second**2, first * second], dim=-1)


@each_density
def test_the_expected_score_is_zero(kind: str, name: str, options: dict[str, Any]) -> None:
    """E[∂ log p(x)/∂θ] = 0 for x drawn from p and every parameter θ: density and sampler are the same distribution."""
    part = build_part(kind, name, options)
    parameters = dict(part.named_parameters())
    if not parameters:
        pytest.skip("has no parameters")
    distribution = part(*inputs_of(kind, name, 1, 2))
    scores = []
    for draws in distribution.sample((40_000,)).chunk(100):
        mean = distribution.log_prob(draws).mean(0).sum()
        scores.append(torch.cat([g.flatten() for g in torch.autograd.grad(mean, list(parameters.values()), retain_graph=True)]))
    score = torch.stack(scores)
    assert within(score.mean(0), score.std(0) / math.sqrt(len(score)))


@each_density
def test_weights_survive_saving(kind: str, name: str, options: dict[str, Any]) -> None:
    one, other = build_part(kind, name, options), build_part(kind, name, options)
    inputs = inputs_of(kind, name, 1, 2)
    value = one(*inputs).sample()
    if any(True for _ in one.parameters()):
        assert not torch.equal(one(*inputs).log_prob(value), other(*inputs).log_prob(value))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(*inputs).log_prob(value), other(*inputs).log_prob(value))


@each_density
def test_repr_names_the_part(kind: str, name: str, options: dict[str, Any]) -> None:
    part = build_part(kind, name, options)
    assert repr(part).startswith(type(part).__name__)


# Networks -----------------------------------------------------------------------------------------------------------------


def build_network(name: str) -> Network:
    return NETWORKS[name](inputs=(2, 3), outputs=4).double()


@each_network
@pytest.mark.parametrize("batch", [(), (5,), (3, 5)])
def test_networks_take_any_batch(name: str, batch: tuple[int, ...]) -> None:
    network, x = build_network(name), torch.randn(*batch, 2, 3, dtype=torch.float64)
    y = network(x)
    assert y.shape == (*batch, 4)
    alone = torch.stack([network(row) for row in x.reshape(-1, 2, 3)]).reshape(y.shape)
    torch.testing.assert_close(y, alone)  # what is beside an input in the batch does not matter


@each_network
def test_networks_train_and_save(name: str) -> None:
    network, other, x = build_network(name), build_network(name), torch.randn(5, 2, 3, dtype=torch.float64)
    network(x).square().sum().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert not torch.equal(network(x), other(x))
    other.load_state_dict(network.state_dict())
    assert torch.equal(network(x), other(x))
    assert type(network).__name__ in repr(network)


@each_network
def test_the_output_bias_is_added_to_the_outputs(name: str) -> None:
    network, x = build_network(name), torch.randn(5, 2, 3, dtype=torch.float64)
    before, shift = network(x), torch.tensor([1.0, -2.0, 0.0, 3.0])
    with torch.no_grad():
        network.output_bias.add_(shift)
    torch.testing.assert_close(network(x), before + shift)


# Objectives ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("prior", KINDS["prior"].table)
def test_objectives_reach_every_parameter_of_the_model(name: str, prior: str) -> None:
    model, objective = build_vae(prior=Part(prior)), OBJECTIVES[name]()
    x = pixels(BINARY, 5)
    seen = model(x, objective.samples)
    bound = objective(seen)
    assert bound.shape == (5,)
    assert objective.rate_kind(seen) in ("closed-form", "sampled")
    (-bound.mean()).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all() or not p.grad.any()] == []


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_look_at_each_image_alone(name: str) -> None:
    model, objective, x = build_vae(), OBJECTIVES[name](), pixels(BINARY, 5)
    q = model.posterior(x)
    z = q.rsample((objective.samples,))
    together = objective(model.look(x, q, z))
    for i in range(5):
        torch.testing.assert_close(
            objective(model.look(x[i : i + 1], model.posterior(x[i : i + 1]), z[:, i : i + 1])), together[[i]]
        )


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_are_frozen_and_know_their_epochs(name: str) -> None:
    objective = OBJECTIVES[name]()
    assert objective.at(1e6) == objective  # without a warm-up nothing changes
    assert objective == OBJECTIVES[name]()
    assert re.fullmatch(rf"{type(objective).__name__}\(.*samples=\d+.*\)", repr(objective))
    with pytest.raises(AttributeError):
        objective.samples = 2


# Optimizers and schedules -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_descend(name: str) -> None:
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = OPTIMIZERS[name]([weight], lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        weight.square().sum().backward()
        optimizer.step()
    assert float(weight.detach().norm()) < 0.1


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_give_a_factor_at_most_one(name: str) -> None:
    schedule = SCHEDULES[name](warmup_steps=10)
    factors = [schedule.factor(step, 100, step // 10) for step in range(200)]
    assert all(0 <= f <= 1 for f in factors)
    assert factors[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    if not schedule.needs_total:
        assert factors == [schedule.factor(step, 1000, step // 10) for step in range(200)]


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_continue_from_their_state(name: str) -> None:
    one, other = SCHEDULES[name](), SCHEDULES[name]()
    for value in [3.0, 2.0, *[2.5] * 15]:
        one.observe(value)
    other.load(one.state())
    for value in [2.5] * 15:
        one.observe(value)
        other.observe(value)
        assert one.factor(1000, 2000, 10) == other.factor(1000, 2000, 10)
    assert one.state() == other.state()


# Every entry of every table -----------------------------------------------------------------------------------------------


@each_entry
def test_entries_are_documented(kind: str, name: str) -> None:
    text = KINDS[kind].table[name].__doc__ or ""
    assert text.strip()
    assert name in OWN_IDEAS or re.search(r"References:\s+\S.*\d{4}|References: .*\d{4}", text, re.DOTALL), (
        "References are missing"
    )
    if kind in ("prior", "posterior", "likelihood", "objective"):
        assert re.search(r"[qp]\(.\|?.?\) =|log p\(x\|z\) =|P\(k\|z\) =|\(1/K\) Σ|KL\(q", text), "a formula is missing"


@each_entry
def test_options_have_ranges_and_good_defaults(kind: str, name: str) -> None:
    options = part_options(kind, KINDS[kind].table[name])
    for option in options.values():
        assert not option.required
        if option.type in (int, float):
            assert option.range is not None, f"{option.name} has no range"
            assert option.default in option.range
        if option.choices:
            assert option.default in option.choices
        assert option.allowed


def test_the_small_parts_cover_the_tables() -> None:
    assert {case.values[1] for case in DENSITIES} == {n for k in ("prior", "posterior", "likelihood") for n in KINDS[k].table}
    assert {"gaussian-per-pixel-data", "mixture-k-means"} <= {case.id for case in DENSITIES}
    assert NETWORK.name in NETWORKS
