"""What a setting does, all else equal: on values with known differences."""

from __future__ import annotations

import math
from typing import Any

import pytest

from vaelid.sweeps.effects import Effect, effects
from vaelid.sweeps.ledger import Member

Kept = dict[str, float | None]


def study(settings: list[dict[str, Any]], seeds: int, statuses: dict[str, str] | None = None) -> dict[str, Member]:
    """Members with these settings of their own, each with so many seeds."""
    members = {}
    for number, own in enumerate(settings):
        for seed in range(seeds):
            name = f"m{number},seed={seed}"
            status = (statuses or {}).get(name, "finished")
            members[name] = Member(name, f"m{number}", seed, {**own, "training.seed": seed}, {}, "f", "probability", status)
    return members


def found(members: dict[str, Member], kept: Kept, setting: str) -> Effect:
    [effect] = [effect for effect in effects(members, kept) if effect.setting == setting]
    return effect


def test_differences_are_paired_by_seed() -> None:
    members = study([{"optimizer.lr": 0.1}, {"optimizer.lr": 0.2}], seeds=3)
    kept: Kept = {f"m0,seed={s}": base for s, base in enumerate((100.0, 200.0, 300.0))}
    kept |= {f"m1,seed={s}": base + gap for s, (base, gap) in enumerate(((100.0, 1.0), (200.0, 2.0), (300.0, 3.0)))}
    [effect] = effects(members, kept)
    assert effect.setting == "lr"
    assert effect.best is not None
    assert (effect.best.value, effect.best.mean) == (0.1, 200.0)
    above = effect.levels[1].above_best
    assert above is not None
    # Mean 2, sd 1, three pairs: t(0.975, 2 degrees) = 4.302653 over √3. Unpaired, the seeds' spread of 100 would hide it.
    assert (above.mean, above.seeds) == (2.0, 3)
    assert above.half == pytest.approx(4.302653 / math.sqrt(3), abs=1e-5)
    assert effect.levels[0].above_best is None, "the best value is not compared with itself"


def test_other_settings_are_held_equal() -> None:
    grid = [{"optimizer.lr": lr, "model.latent": latent} for lr in (0.1, 0.2) for latent in (2, 4)]
    members = study(grid, seeds=1)
    kept: Kept = {"m0,seed=0": 50.0, "m1,seed=0": 10.0, "m2,seed=0": 53.0, "m3,seed=0": 13.0}
    above = found(members, kept, "lr").levels[1].above_best
    assert above is not None
    assert (above.mean, above.half, above.seeds) == (3.0, 0.0, 2)
    above = found(members, kept, "latent").levels[0].above_best
    assert above is not None
    assert above.mean == 40.0


def test_members_that_did_not_finish_are_in_no_pair_and_flatter_nobody() -> None:
    members = study([{"optimizer.lr": 0.1}, {"optimizer.lr": 0.2}], seeds=2, statuses={"m1,seed=1": "diverged"})
    kept: Kept = {"m0,seed=0": 10.0, "m0,seed=1": 20.0, "m1,seed=0": 11.5, "m1,seed=1": 1.0}
    [effect] = effects(members, kept)
    worse = effect.levels[1]
    assert effect.best is effect.levels[0], "the mean of 0.2 is lower only because its bad seed is missing"
    assert (worse.members, worse.kept) == (2, (11.5,))
    assert worse.above_best is not None
    assert (worse.above_best.mean, worse.above_best.half) == (1.5, None)


def test_settings_that_always_move_together_are_one() -> None:
    grid = [{"encoder.hidden": [8, 4], "decoder.hidden": [4, 8]}, {"encoder.hidden": [16], "decoder.hidden": [16]}]
    members = study(grid, seeds=2)
    kept: Kept = {"m0,seed=0": 5.0, "m0,seed=1": 6.0, "m1,seed=0": 7.0, "m1,seed=1": 8.0}
    [effect] = effects(members, kept)
    assert [level.value for level in effect.levels] == [[8, 4], [16]]
    assert effect.levels[1].above_best is not None, "the mirrored setting must not part the blocks"
    assert effect.levels[1].above_best.mean == 2.0


@pytest.mark.parametrize(("kept", "edge"), [((3.0, 2.0, 1.0), "largest"), ((1.0, 2.0, 3.0), "smallest"), ((2.0, 1.0, 3.0), "")])
def test_a_best_value_at_the_edge_is_told(kept: tuple[float, ...], edge: str) -> None:
    members = study([{"optimizer.lr": lr} for lr in (0.1, 0.2, 0.3)], seeds=1)
    [effect] = effects(members, {f"m{i},seed=0": value for i, value in enumerate(kept)})
    assert effect.at_edge == edge


def test_names_have_no_edge_and_nothing_finished_no_best() -> None:
    members = study([{"prior.name": name} for name in ("a", "b", "c")], seeds=1)
    [effect] = effects(members, {"m0,seed=0": 1.0, "m1,seed=0": 2.0, "m2,seed=0": 3.0})
    assert effect.at_edge == ""
    [effect] = effects(members, {})
    assert effect.best is None
    assert all(level.mean is None and level.above_best is None for level in effect.levels)


def test_a_study_of_seeds_alone_has_no_effects() -> None:
    assert effects(study([{}], seeds=3), {}) == []


def test_numbers_ascend_and_names_keep_their_order() -> None:
    members = study([{"optimizer.lr": lr, "prior.name": prior} for lr in (1e-3, 1e-2, 1e-5) for prior in ("mixture", "a")], 1)
    kept = dict.fromkeys(members, 1.0)
    assert [level.value for level in found(members, kept, "lr").levels] == [1e-5, 1e-3, 1e-2]
    assert [level.value for level in found(members, kept, "prior").levels] == ["mixture", "a"]
