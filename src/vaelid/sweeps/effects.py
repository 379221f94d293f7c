"""What one setting does to the validation −ELBO, all else equal: its values compared within blocks.

A block is a seed together with a value for every other setting. Two values are compared in the blocks that have finished members
for both, by the mean of the paired differences with Student's interval; members that did not finish are in no block.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vaelid.sweeps.curves import FINISHED
from vaelid.sweeps.grid import canonical
from vaelid.sweeps.intervals import Interval, t_interval
from vaelid.sweeps.ledger import Member

_SEED = "training.seed"


@dataclass(frozen=True)
class Level:
    """One value of a setting.

    Attributes:
        kept: validation −ELBO of the finished members that have it, in nats
        members: how many members have it, finished or not
        above_best: how far it lies above the setting's best value, paired by block; None for that one, and without a common block
    """

    value: Any
    kept: tuple[float, ...]
    members: int
    above_best: Interval | None = None

    @property
    def mean(self) -> float | None:
        """Mean of ``kept``; None if no member finished."""
        return sum(self.kept) / len(self.kept) if self.kept else None


@dataclass(frozen=True)
class Effect:
    """A setting that differs among members, with its values: numbers ascending, all else in the order asked for."""

    setting: str
    levels: tuple[Level, ...]

    @property
    def best(self) -> Level | None:
        """The value with the lowest mean; None if no member finished."""
        return _best(self.levels)

    @property
    def at_edge(self) -> str:
        """``smallest`` or ``largest`` where the best of three numbers or more is one; else empty."""
        numbers = [level.value for level in self.levels]
        if self.best is None or len(numbers) < 3 or not all(map(_is_number, numbers)):
            return ""
        return {min(numbers): "smallest", max(numbers): "largest"}.get(self.best.value, "")


def effects(members: Mapping[str, Member], kept: Mapping[str, float | None]) -> list[Effect]:
    """Every setting that differs among the members, but the seed.

    Args:
        kept: validation −ELBO of each member's kept weights, by name
    """
    found, seen = [], set()
    for key in dict.fromkeys(key for member in members.values() for key in member.settings if key != _SEED):
        texts = tuple(_text(member.settings.get(key)) for member in members.values())
        partition = tuple(map(texts.index, texts))
        if len(set(texts)) < 2 or partition in seen:  # a setting that always moves with another is one with it
            continue
        seen.add(partition)
        found.append(_effect(key, members, kept))
    return found


def _effect(key: str, members: Mapping[str, Member], kept: Mapping[str, float | None]) -> Effect:
    values = {_text(member.settings.get(key)): member.settings.get(key) for member in members.values()}
    if all(map(_is_number, values.values())):
        values = dict(sorted(values.items(), key=lambda item: item[1] or 0.0))
    together = {text: {name for name, member in members.items() if _text(member.settings.get(key)) == text} for text in values}
    blocks: dict[str, dict[str, float]] = {text: {} for text in values}
    for name, member in members.items():
        value = kept.get(name)
        if member.status == FINISHED and value is not None and math.isfinite(value):
            blocks[_text(member.settings.get(key))][_block(member, key, members)] = value
    levels = {text: Level(values[text], tuple(blocks[text].values()), len(together[text])) for text in values}
    best = _best(tuple(levels.values()))
    reference = {} if best is None else blocks[_text(best.value)]
    against = (level if level is best else _against(level, blocks[text], reference) for text, level in levels.items())
    return Effect(canonical(key), tuple(against))


def _best(levels: Sequence[Level]) -> Level | None:
    """The lowest mean; of values that lost members only if all did, since the mean of the survivors would flatter them."""
    whole = [level for level in levels if len(level.kept) == level.members]
    fit = whole or [level for level in levels if level.kept]
    return min(fit, key=lambda level: level.mean or 0.0, default=None)


def _against(level: Level, mine: Mapping[str, float], best: Mapping[str, float]) -> Level:
    shared = sorted(mine.keys() & best.keys())
    if not shared:
        return level
    return Level(level.value, level.kept, level.members, t_interval([mine[block] - best[block] for block in shared]))


def _block(member: Member, key: str, members: Mapping[str, Member]) -> str:
    """All that is a member's own, but for ``key`` and the settings that always move with it."""
    moving = {other for other in member.settings if other == key or _same_partition(key, other, members)}
    return _text({other: value for other, value in member.settings.items() if other not in moving})


def _same_partition(key: str, other: str, members: Mapping[str, Member]) -> bool:
    if other == _SEED:
        return False
    pairs = {(_text(member.settings.get(key)), _text(member.settings.get(other))) for member in members.values()}
    return len(pairs) == len({one for one, _ in pairs}) == len({two for _, two in pairs})


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(value: Any) -> str:
    return repr(sorted(value.items())) if isinstance(value, dict) else repr(value)
