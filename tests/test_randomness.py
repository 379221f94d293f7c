"""The counter-based generator against published words, against its distributions, and against itself in other chunks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy import stats

from vaelid.randomness import _mix, _mix_int, _words, key, normal, permutation, uniform

KEYS = key("test", 0, torch.arange(50))


def test_words_are_splitmix64() -> None:
    """The first two outputs for seed 1234567 that the reference implementation gives."""
    words = _words(torch.tensor(1234567), 0, 2)
    assert [int(w) % 2**64 for w in words] == [6457827717110365317, 3203168211198807973]
    assert torch.equal(_words(torch.tensor([0, 1234567]), 1, 1)[1], words[1:])


@settings(deadline=None, derandomize=True, max_examples=50)
@given(st.integers(-(2**63), 2**63 - 1))
def test_numbers_and_tensors_are_mixed_alike(z: int) -> None:
    assert int(_mix(torch.tensor(z))) == _mix_int(z)


@settings(deadline=None, derandomize=True, max_examples=50)
@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=4), st.data())
def test_numbers_and_tensors_fold_into_the_same_key(words: list[int], data: st.DataObject) -> None:
    plain = key("fold", *words)
    given_as = [torch.tensor(w) if data.draw(st.booleans()) else w for w in words]
    assert torch.equal(key("fold", *given_as), plain)
    assert int(key("fold", *words, 1)) != int(plain)


def test_keys_broadcast_and_differ() -> None:
    keys = key("grid", torch.arange(300)[:, None], torch.arange(300, dtype=torch.int32))
    assert keys.shape == (300, 300)
    assert keys.unique().numel() == 90_000
    assert int(keys[7, 9]) == int(key("grid", 7, 9))
    assert int(key("grid", 7, 9)) != int(key("grid", 9, 7))
    assert int(key("grid", 7, 9)) != int(key("other", 7, 9))


def test_folding_leaves_its_words_alone() -> None:
    ids = torch.arange(5)
    key("test", ids)
    key("test", 3, ids, 4)
    assert ids.tolist() == [0, 1, 2, 3, 4]
    keys = key("test", ids)
    before = keys.clone()
    uniform(keys, 4), normal(keys, 4)
    assert torch.equal(keys, before)


@pytest.mark.parametrize("first", [0, 1, 2, 7, 10])
@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_normal_numbers_do_not_depend_on_chunks(first: int, count: int) -> None:
    whole = normal(KEYS, 20)
    assert torch.equal(normal(KEYS, count, first), whole[:, first : first + count])
    assert torch.equal(normal(KEYS[7], count, first), whole[7, first : first + count])


def test_numbers_do_not_depend_on_layout() -> None:
    keys = key("grid", torch.arange(6)[:, None], torch.arange(4))
    for draw in (normal, uniform):
        assert torch.equal(draw(keys.T, 5), draw(keys, 5).transpose(0, 1))
        assert torch.equal(draw(keys[::2, 1:3], 5), draw(keys, 5)[::2, 1:3])
        assert torch.equal(draw(keys, 3), draw(keys, 8)[..., :3])


def test_uniform_numbers_are_uniform() -> None:
    """Kolmogorov–Smirnov, p > 1e-6, along a key and across keys."""
    along, across = uniform(key("test", 1), 100_001), uniform(key("test", 2, torch.arange(100_000)), 1)
    assert along.shape == (100_001,)
    for u in (along, across[:, 0]):
        assert u.dtype == torch.float32
        assert float(u.min()) >= 0
        assert float(u.max()) < 1
        assert stats.kstest(u.double().numpy(), "uniform").pvalue > 1e-6


def test_the_largest_uniform_number_is_below_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vaelid.randomness.kernels.find", lambda *_: None)  # the compiled loop makes its own words
    monkeypatch.setattr("vaelid.randomness._words", lambda keys, first, count: torch.full((*keys.shape, count), -1))
    assert uniform(KEYS, 3).tolist() == [[1 - 2**-24] * 3] * 50
    assert normal(KEYS, 3).isfinite().all()


def test_the_smallest_uniform_number_gives_a_finite_normal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vaelid.randomness.kernels.find", lambda *_: None)  # the compiled loop makes its own words
    monkeypatch.setattr(
        "vaelid.randomness._words", lambda keys, first, count: torch.zeros((*keys.shape, count), dtype=torch.int64)
    )
    assert uniform(KEYS, 1).tolist() == [[0.0]] * 50
    assert float(normal(KEYS, 1).max()) == pytest.approx(6.66, abs=0.01)


def test_normal_numbers_are_normal() -> None:
    """Kolmogorov–Smirnov p > 1e-6, four moments within 5 standard errors, along a key and across keys."""
    count = 200_000
    for z in (normal(key("test", 3), count), normal(key("test", 4, torch.arange(count // 4)), 4).flatten()):
        assert stats.kstest(z.double().numpy(), "norm").pvalue > 1e-6
        for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
            assert abs(float(z.double().pow(power).mean()) - moment) < 5 * (variance / count) ** 0.5


def test_neighbors_are_uncorrelated() -> None:
    """Neighboring numbers, the pairs of Box–Muller, neighboring images and purposes; each within 5 standard errors."""
    z = normal(key("test", 5, torch.arange(1000)), 200)
    other = normal(key("other", 5, torch.arange(1000)), 200)
    pairs = [
        (z[:, :-1], z[:, 1:]),
        (z[:, ::2], z[:, 1::2]),
        (z[:-1], z[1:]),
        (z, other),
        (z[:, ::2] ** 2 - 1, z[:, 1::2] ** 2 - 1),
    ]
    for a, b in pairs:
        products = (a * b).double()
        assert abs(float(products.mean())) < 5 * float(products.std()) / products.numel() ** 0.5


def test_permutations_are_permutations_of_their_own() -> None:
    order = permutation(1000, 1, 2)
    assert torch.equal(order.sort().values, torch.arange(1000))
    assert torch.equal(order, permutation(1000, 1, 2))
    assert not torch.equal(order, permutation(1000, 1, 3))
    state = torch.get_rng_state()
    permutation(10, 0)
    assert torch.equal(state, torch.get_rng_state())
    # Position of the number 0 over 5000 permutations of 10: χ² uniform, p > 1e-6.
    places = torch.bincount(torch.stack([permutation(10, 7, i).argmin() for i in range(5000)]), minlength=10)
    assert stats.chisquare(places).pvalue > 1e-6
