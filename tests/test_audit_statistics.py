"""The statistics below the audit: p-values that keep their promise far out, and the diagnostics of importance sampling."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from vaelid.auditing.proposals import (
    Histograms,
    Mixture,
    Product,
    Straightened,
    Table,
    conditionals,
    fit_continuous,
    frequencies,
)
from vaelid.auditing.statistics import (
    _moments,
    batched,
    batched_name,
    compare,
    effective_size,
    holm,
    pareto_shape,
    products,
    screen,
    sidak,
    tail_shapes,
)


def test_screen_of_normal_values_is_uniform() -> None:
    p_values = [screen(torch.randn(5000, 4)).p_value for _ in range(300)]
    assert stats.kstest(p_values, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("rate", [0.002, 0.02, 0.3])
def test_screen_survives_skewed_and_rare_columns(rate: float) -> None:
    """Scores of rare pixels, x − p: mostly a tiny constant. A plain t-test rejects when the event never came."""
    smallest = 1.0
    for _ in range(200):
        x = (torch.rand(2000, 20) < rate).double() - rate
        ordinary = torch.randn(2000, 5, dtype=torch.float64)
        smallest = min(smallest, screen(torch.cat([x, ordinary], 1)).p_value)
    assert smallest > 1e-5


def test_screen_survives_where_every_column_is_rare() -> None:
    """An event comes 6 times on average; among three columns, one that never came has no column of usual size beside it."""
    smallest = 1.0
    for _ in range(300):
        x = (torch.rand(6000, 3) < 1e-3).double() - 1e-3
        smallest = min(smallest, screen(x).p_value)
    assert smallest > 1e-5


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 1e4])
def test_the_units_of_a_column_do_not_hide_another(scale: float) -> None:
    values = torch.randn(2000, 6, dtype=torch.float64)
    values[:, 1] += 0.3
    expected = screen(values)
    values[:, 0] *= scale
    found = screen(values)
    assert found.worst == 1
    assert found.p_value == pytest.approx(expected.p_value, rel=1e-6)
    assert compare(values, torch.zeros(2000, 6) + torch.randn(2000, 6) * values.std(0)).worst == 1


def test_constant_columns() -> None:
    """One beside others is judged by their size; where nothing moves there is nothing to judge by."""
    ordinary = torch.randn(2000, 4, dtype=torch.float64)
    assert screen(torch.cat([ordinary, torch.ones(2000, 1)], 1)).worst == 4
    assert screen(torch.cat([ordinary, torch.ones(2000, 1)], 1)).p_value < 1e-5
    assert screen(torch.cat([ordinary, torch.full((2000, 1), -1e-4)], 1)).p_value > 1e-3
    assert math.isnan(screen(torch.full((2000, 2), -1e-4)).p_value)
    assert screen(torch.zeros(2000, 2)).p_value == 1.0
    assert math.isnan(compare(torch.zeros(500, 2), torch.ones(500, 2)).p_value)


def test_screen_of_squares_keeps_its_level_in_the_lower_tail() -> None:
    p_values = [screen(torch.randn(200, 30).square() - 1).p_value for _ in range(400)]
    assert sum(p < 0.01 for p in p_values) <= 14


def test_screen_names_the_column() -> None:
    values = torch.randn(1000, 6)
    values[:, 4] += 0.5
    found = screen(values)
    assert found.worst == 4
    assert found.p_value < 1e-20


def test_compare_two_samples() -> None:
    a, b = torch.randn(1000, 3), torch.randn(3000, 3)
    assert compare(a, b).p_value > 1e-4
    assert compare(a, b + torch.tensor([0.0, 0.0, 0.4])).worst == 2


def test_batched_columns_and_their_names() -> None:
    values = torch.zeros(5, 3, 2)
    assert batched(values).shape == (5, 2 + 6)
    assert batched_name(1, ["a", "b"], 3) == "b"
    assert batched_name(2 + 3, ["a", "b"], 3) == "b at condition 1"


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005], 0.05) == [True, False, False, True]
    assert holm([math.nan, 0.5], 0.05) == [False, False]
    assert holm([math.nan, 1e-30, 0.5, 1e-20], 0.05) == [False, True, False, True]
    assert holm([0.02, math.nan, math.nan], 0.05) == [False, False, False], "NaN counts as a test: the family does not shrink"
    assert holm([], 0.05) == []


def test_sidak_keeps_small_numbers() -> None:
    assert sidak(1e-20, 1000) == pytest.approx(1e-17)
    assert sidak(0.5, 2) == pytest.approx(0.75)
    assert sidak(1.0, 5) == 1.0
    assert math.isnan(sidak(math.nan, 5))


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e200])
def test_a_value_that_is_no_number_gives_no_p_value(bad: float) -> None:
    """One of 1000, in a column that is not the wrong one; 1e200 has a variance that is not finite."""
    values = torch.randn(1000, 3, dtype=torch.float64)
    values[:, 0] += 5
    values[5, 1] = bad
    assert math.isnan(screen(values).p_value)
    assert screen(values).worst == 1
    assert math.isnan(compare(values, torch.randn(500, 3)).p_value)


@pytest.mark.parametrize("shape", [0.2, 0.5, 0.8])
def test_pareto_shape_of_pareto_weights(shape: float) -> None:
    u = torch.rand(20_000, dtype=torch.float64)
    assert pareto_shape(-shape * u.log()) == pytest.approx(shape, abs=0.15)


def test_the_heavier_of_both_tails_of_every_column() -> None:
    heavy = torch.rand(20_000, dtype=torch.float64).pow(-0.8)
    light = torch.randn(20_000, dtype=torch.float64)
    rare = (torch.rand(20_000) < 1e-3).double()
    found = tail_shapes(torch.stack([heavy, -3 * heavy, light, rare, torch.zeros(20_000)], dim=1))
    assert found[:2].tolist() == pytest.approx([0.8, 0.8], abs=0.15)
    assert found[2] < 0.2
    assert found[3:].tolist() == [-math.inf, -math.inf], "two values have no tail"
    assert tail_shapes(torch.zeros(20, 2)).tolist() == [-math.inf, -math.inf]


def test_effective_size() -> None:
    assert effective_size(torch.zeros(10)) == pytest.approx(1.0)
    assert effective_size(torch.tensor([0.0, -math.inf, -math.inf, -math.inf])) == pytest.approx(0.25)


def test_proposals_are_normalized() -> None:
    """On a fine grid in one dimension, whatever was fitted."""
    draws = torch.cat([torch.randn(2000, 1, dtype=torch.float64) - 4, 0.5 * torch.randn(2000, 1, dtype=torch.float64) + 3])
    heavy = torch.distributions.Cauchy(0.0, 1.0).sample((4000, 1)).double()
    t = torch.linspace(-14, 14, 40_001, dtype=torch.float64)
    grid = torch.sinh(t)
    for y in (draws, heavy):
        for q in (Straightened(y, Mixture, 4), Straightened(y, Product, 4), Straightened(y, Mixture, 1), fit_continuous(y)):
            total = torch.logsumexp(q.log_prob(grid[:, None]) + torch.cosh(t).log() + math.log(float(t[1] - t[0])), 0).exp()
            assert float(total) == pytest.approx(1.0, abs=1e-3)


def test_discrete_proposals_are_normalized() -> None:
    y = torch.randint(0, 3, (5000, 2)).double()
    events = torch.cartesian_prod(torch.arange(3.0), torch.arange(3.0)).double()
    outside = torch.tensor([[7.0, 0.0]], dtype=torch.float64)
    for q in (Histograms(frequencies(y, torch.arange(3.0)), torch.arange(3.0), True), Table(y)):
        assert float(q.log_prob(events).exp().sum()) == pytest.approx(1.0)
        assert float(q.log_prob(outside)[0]) == -math.inf


def test_what_a_density_says_about_single_coordinates() -> None:
    """Of independent ones all there is to say, without the constant that the density lacks."""
    truth = torch.softmax(torch.randn(3, 5, dtype=torch.float64), 1)

    def log_prob(y: torch.Tensor) -> torch.Tensor:
        return 7.0 + truth.log()[torch.arange(3), y.long()].sum(1)

    found = conditionals(log_prob, torch.tensor([4.0, 0.0, 2.0], dtype=torch.float64), torch.arange(5.0))
    torch.testing.assert_close(found, truth, rtol=0, atol=1e-8)
    torch.testing.assert_close(found.sum(1), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_moments_of_pieces_are_those_of_the_whole(piece: int) -> None:
    """Against formulas over all rows: an ordinary column, one far from zero, a skewed one, and a constant."""
    x = torch.randn(1000, 4, dtype=torch.float64)
    x = torch.stack([x[:, 0], 1e4 + 1e-2 * x[:, 1], x[:, 2].exp() - 2, torch.full((1000,), 0.3)], dim=1)
    found = _moments(x.split(piece))
    centered = x - x.mean(0)
    centered[:, 3] = 0.0  # but for rounding
    torch.testing.assert_close(found.mean, x.mean(0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.variance, centered.square().sum(0) / 999, rtol=1e-6, atol=0)
    torch.testing.assert_close(found.third, centered.pow(3).mean(0), rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(found.fourth, centered.pow(4).mean(0), rtol=1e-6, atol=0)
    assert screen(x.split(piece)).p_value == pytest.approx(screen(x).p_value)


def test_products_come_in_the_order_of_pairs() -> None:
    x, y = torch.randn(2, 5, 4), torch.randn(2, 5, 4)
    i, j = torch.triu_indices(4, 4, 1)
    torch.testing.assert_close(products(x, y), x[..., i] * y[..., j])


def test_what_rounding_may_have_added_is_no_evidence() -> None:
    values = 1e-4 + 1e-5 * torch.randn(1000, 1)
    assert screen(values).p_value < 1e-9
    assert screen(values, rounding=2e-4).p_value == 1.0
    assert compare(values, torch.zeros(500, 1), rounding=2e-4).p_value == 1.0
    assert compare(values, torch.zeros(500, 1), rounding=2e-5).p_value < 1e-9
