"""What the curves say, on curves made so that the answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vaelid.sweeps import curves, words
from vaelid.sweeps.curves import Curve, Facts, curve_of, look, slope_of

ERROR = 0.05


def noise(epochs: int, size: float = 0.02) -> np.ndarray:
    return np.random.default_rng(0).normal(0, size, epochs)


def seen(values: np.ndarray, status: str = "finished", outcome: str = "", error: float = ERROR, levels: tuple = ()) -> Facts:
    errors = np.full(len(values), error)
    errors[:1] = math.nan
    return look(Curve(np.asarray(values, float), errors, 2.0 * np.arange(1, len(values) + 1), status, outcome), levels)


def fall(epochs: int, scale: float = 3.0, to: float = 90.0) -> np.ndarray:
    return to + 50 * np.exp(-np.arange(epochs) / scale)


# Convergence --------------------------------------------------------------------------------------------------------------


def test_a_plateau_has_converged() -> None:
    facts = seen(fall(60) + noise(60))
    assert facts.verdict == "converged"
    assert words.convergence(facts).startswith("converged to within 0.02 nats per epoch: ")
    assert words.convergence(facts).endswith("over the last 20 epochs")


def test_a_slow_fall_is_told_with_its_pace() -> None:
    facts = seen(200 - 0.9 * np.arange(40) + noise(40))
    assert facts.verdict == "still falling"
    assert facts.slope.per_epoch == pytest.approx(-0.9, abs=facts.slope.half)
    assert words.convergence(facts).startswith("still falling by 0.9 nats per epoch (± 0.00")
    assert words.convergence(facts).endswith("when stopped")
    assert "so far" in words.speed(facts)


def test_a_drift_upward_is_rising() -> None:
    facts = seen(np.concatenate([fall(20), 90 + 0.2 * np.arange(30)]) + noise(50))
    assert facts.verdict == "rising"
    assert "nats above its best at the end" in words.convergence(facts)


@pytest.mark.parametrize("epochs", [1, 5, 15])
def test_few_epochs_are_not_enough_evidence(epochs: int) -> None:
    facts = seen(fall(epochs))
    assert facts.verdict == "not enough evidence"
    assert facts.slope is None
    assert words.convergence(facts).endswith(", of which 16 are needed")


def test_noise_that_hides_the_slope_is_not_enough_evidence() -> None:
    facts = seen(90 + noise(60, size=3.0))
    assert facts.verdict == "not enough evidence"
    assert "±" in words.convergence(facts)


def test_patience_is_told_as_what_it_is() -> None:
    values = np.concatenate([fall(30), np.full(21, 92.0)])
    facts = seen(values, outcome="no improvement for 21 epochs")
    assert facts.verdict == "stopped by patience"
    expected = "stopped by patience: no new best in the 21 epochs after epoch 30, 2 nats above its best at the end"
    assert words.convergence(facts) == expected


@pytest.mark.parametrize(("values", "status"), [(fall(12), "diverged"), (np.append(fall(11), math.nan), "finished")])
def test_divergence(values: np.ndarray, status: str) -> None:
    facts = seen(values, status)
    assert facts.verdict == "diverged"
    assert words.convergence(facts).startswith("diverged after 12 epochs; best until then ")


def test_nothing_finite_and_nothing_at_all() -> None:
    for values in (np.array([]), np.array([math.inf])):
        facts = seen(values, "diverged")
        assert (facts.best, facts.verdict) == (None, "diverged")
        assert words.convergence(facts) == "diverged before any epoch had a finite value"
        assert "not judged" in words.stability(facts)
        assert words.speed(facts) == "no epoch with a finite value"


@pytest.mark.parametrize("status", ["failed", "interrupted", "waiting"])
def test_what_did_not_end_is_not_judged(status: str) -> None:
    assert seen(fall(60), status).verdict == "not finished"
    assert words.convergence(seen(fall(60), status)) == "not finished: 60 epochs so far"


def test_every_verdict_has_words() -> None:
    assert set(words._BECAUSE) == set(curves.VERDICTS)


# The slope ----------------------------------------------------------------------------------------------------------------


def test_the_slope_is_that_of_least_squares() -> None:
    values = 100 - 0.3 * np.arange(40) + noise(40, 0.5)
    slope = slope_of(values)
    assert slope.epochs == 20
    assert slope.per_epoch == pytest.approx(np.polyfit(np.arange(20), values[-20:], 1)[0])


def test_the_intervals_of_independent_noise_cover_as_they_say() -> None:
    random = np.random.default_rng(1)
    slopes = [slope_of(random.normal(0, 1, 40)) for _ in range(400)]
    covered = np.mean([abs(slope.per_epoch) < slope.half for slope in slopes])
    assert 0.93 < covered <= 1


def test_resemblance_of_neighbors_widens_the_interval() -> None:
    random = np.random.default_rng(2)
    hits = []
    for _ in range(300):
        values = random.normal(0, 1, 45)
        for at in range(1, 45):
            values[at] += 0.6 * values[at - 1]
        slope = slope_of(values[5:])
        hits.append(abs(slope.per_epoch) < slope.half)
    assert np.mean(hits) > 0.85, "without the correction this is about 0.7"


# Stability ----------------------------------------------------------------------------------------------------------------


def test_a_spike_is_found_with_its_size_and_its_end() -> None:
    values = fall(60) + noise(60)
    values[30:33] = values[29] + np.array([14.0, 6.0, 1.0])
    facts = seen(values)
    [spike] = facts.stability.spikes
    assert (spike.epoch, spike.back_after) == (31, pytest.approx(3, abs=1))
    assert spike.nats == pytest.approx(14.0)
    assert words.stability(facts).startswith("1 spike, the largest of 14 nats in epoch 31, made good after")


def test_a_spike_that_is_never_made_good() -> None:
    values = np.concatenate([fall(30), fall(30, to=95.0) - 50 + 50])
    values[30:] = 97 + noise(30)
    assert words.stability(seen(values)).endswith("never made good")


def test_a_spike_just_before_the_end_is_made_good_as_far_as_it_was() -> None:
    values = np.append(np.full(30, 90.0), [540.0, 92.5, 92.9])
    [spike] = seen(values).stability.spikes
    assert (spike.back_after, spike.left) == (None, 2.5)
    assert words.stability(seen(values)).endswith("the largest of 450 nats in epoch 31, made good but for 2.5 nats")
    assert seen(np.append(values, 89.0)).stability.spikes[0].left == 0


def test_rises_within_the_error_are_no_rises() -> None:
    values = 90 + noise(60, 0.05)
    assert seen(values, error=1.0).stability.rises == 0
    assert words.stability(seen(values, error=1.0)) == "steady: no rise beyond 3 s.e. in 59 changes"
    counted = seen(values, error=0.001).stability
    assert counted.rises == int((np.diff(values) > 0.003).sum())
    assert counted.largest == pytest.approx(np.diff(values).max())
    assert counted.spikes == ()


def test_without_standard_errors_nothing_is_said_about_steadiness() -> None:
    facts = seen(fall(60), error=math.nan)
    assert facts.stability.judged == 0
    assert words.stability(facts).startswith("steadiness not judged")
    assert words.steadiness([facts, facts]) == words.stability(facts)


def with_spikes(*heights: float, errors: tuple[float, ...]) -> Facts:
    """A plateau that jumps in epochs 41, 51, … by ``heights`` whose standard errors are ``errors``."""
    values, standard_errors = fall(80), np.full(80, ERROR)
    for at, (height, error) in enumerate(zip(heights, errors, strict=True)):
        values[40 + 10 * at] += height
        standard_errors[40 + 10 * at] = error
    return look(Curve(values, standard_errors, np.arange(80.0)))


def test_a_spike_that_few_images_make_is_told_with_its_height() -> None:
    """One image of 10,000 that costs 4.5e9 nats for an epoch: the change is as large as its standard error."""
    facts = with_spikes(449_893.6, errors=(449_893.5,))
    [spike] = facts.stability.spikes
    assert (spike.epoch, spike.se, spike.back_after, spike.doubtful) == (41, 449_893.5, 1, True)
    assert facts.stability.rises == 0
    doubt = "within 3 s.e.: other images might not show it"
    assert words.stability(facts) == f"1 spike ({doubt}), the largest of 449,894 nats in epoch 41, made good after 1 epoch"


@pytest.mark.parametrize(("error", "doubtful"), [(4.0, True), (3.99, False), (math.nan, False)])
def test_a_spike_is_doubtful_within_three_known_standard_errors(error: float, doubtful: bool) -> None:
    [spike] = with_spikes(12.0, errors=(error,)).stability.spikes
    assert spike.nats == pytest.approx(12.0, rel=1e-5)
    assert spike.doubtful is doubtful
    assert spike.se == (None if math.isnan(error) else error)


def test_spikes_of_several_seeds_are_counted_with_their_doubt() -> None:
    some = [with_spikes(12.0, 140.0, errors=(0.1, 130.0)), with_spikes(9.0, errors=(8.0,))]
    doubt = "2 of them within 3 s.e.: other images might not show them"
    expected = f"rose by more than 3 s.e. in 1 of 158 changes, at most by 12 nats; 3 spikes ({doubt}), the largest of 140 nats"
    assert words.steadiness(some) == expected
    one = "1 of them within 3 s.e.: other images might not show it"
    assert words.stability(some[0]).startswith(f"2 spikes ({one}), the largest of 140 nats in epoch 51")


@pytest.mark.parametrize(("height", "spikes"), [(0.99, 0), (1.01, 1)])
def test_a_spike_is_of_a_nat_at_least(height: float, spikes: int) -> None:
    assert len(with_spikes(height, errors=(height,)).stability.spikes) == spikes


def test_a_spike_is_far_above_the_usual_changes() -> None:
    """Every other epoch 2 nats up and down: a jump of 9 is none, one of 11 is."""
    values = 90.0 + np.arange(60) % 2 * 2.0
    for height, spikes in ((9.0, 0), (11.0, 1)):
        values[31] = values[30] + height
        assert len(seen(values, error=50.0).stability.spikes) == spikes


def test_a_curve_that_becomes_infinite_has_diverged_and_no_spike() -> None:
    facts = seen(np.append(fall(40), math.inf))
    assert (facts.verdict, facts.stability.spikes) == ("diverged", ())


# Speed --------------------------------------------------------------------------------------------------------------------


def test_speed_counts_epochs_and_seconds_to_a_level() -> None:
    facts = seen(np.array([100, 95, 91.5, 90.9, 90.0, 90.5]), levels=(95.0, 80.0))
    assert (facts.best, facts.best_epoch, facts.last) == (90.0, 5, 90.5)
    assert (facts.near_best.epochs, facts.near_best.seconds) == (4, 8.0)
    assert [(r.epochs, r.seconds) for r in facts.levels] == [(2, 4.0), (None, None)]
    assert words.speed(facts) == "within 1 nat of its best so far (90.00) after 4 epochs (8 s of training)"


def test_a_curve_from_metrics() -> None:
    lines = [
        {"neg_elbo": 5.0, "change_se": None, "train_seconds": 1.0},
        {"neg_elbo": 4.0, "change_se": 0.1, "train_seconds": 2.0},
        {"neg_elbo": 3.0, "train_seconds": 2.0},
    ]
    curve = curve_of(lines, "finished", "all 3 epochs done")
    np.testing.assert_array_equal(curve.change_se, [math.nan, 0.1, math.nan])
    np.testing.assert_array_equal(curve.seconds, [1, 3, 5])
    assert len(curve_of([], "waiting", "").neg_elbo) == 0


# Seeds together -----------------------------------------------------------------------------------------------------------


def test_seeds_that_disagree_are_counted() -> None:
    some = [seen(200 - 0.9 * np.arange(40) + noise(40)), seen(200 - 0.5 * np.arange(40) + noise(40)), seen(fall(60) + noise(60))]
    said = words.together(some)
    falling, flat = "still falling by 0.5 to 0.9 nats per epoch when stopped", "converged to within 0.02 nats per epoch"
    assert said.startswith(f"{falling} (2 of 3 seeds); {flat} (1 of 3 seeds); ")
    assert said.endswith("no spike; within 1 nat of each one's best so far after 13 to 39 epochs")
    assert words.together([some[2]] * 2).endswith("within 1 nat of each one's best after 13 epochs")
    alone = (words.convergence(some[0]), words.stability(some[0]), words.speed(some[0]))
    assert words.together(some[:1]) == "; ".join(alone)
