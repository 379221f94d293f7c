"""A study as it stands in its folder: every member's curve and what it says. Reads files only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from vaelid.sweeps.curves import Curve, Facts, curve_of, look
from vaelid.sweeps.intervals import Interval, t_interval
from vaelid.sweeps.ledger import Ledger, Member, StudyFolder

#: Common levels of −ELBO whose first epoch is told: so many nats above the best value of the whole study.
ABOVE_BEST = (20.0, 5.0, 1.0)


@dataclass(frozen=True)
class Seen:
    """One member, its curve, what the curve says, and the validation −ELBO of the weights that the run keeps."""

    member: Member
    curve: Curve
    facts: Facts
    kept: float | None


class Summary:
    """A study's folder, read.

    Args:
        path: the folder that holds study.json

    Raises:
        RunError: if there is no study, or a file of it is damaged.
    """

    def __init__(self, path: Path | str) -> None:
        self.folder = StudyFolder(path)
        self.ledger: Ledger = self.folder.read()

    @cached_property
    def members(self) -> dict[str, Seen]:
        """All members by name."""
        curves = {name: self._curve(member) for name, member in self.ledger.members.items()}
        levels = _levels(list(curves.values()))
        return {name: self._seen(member, curves[name], levels) for name, member in self.ledger.members.items()}

    @property
    def combinations(self) -> dict[str, list[Seen]]:
        """The members of each combination, in the order of the study."""
        return {name: [self.members[m.name] for m in members] for name, members in self.ledger.combinations.items()}

    def _curve(self, member: Member) -> Curve:
        folder = self.folder.member(member.name)
        if not folder.exists:
            return curve_of([], member.status, "")
        outcome = folder.read_json(folder.environment_file).get("outcome", "")
        return curve_of(folder.metrics(), member.status, outcome)

    def _seen(self, member: Member, curve: Curve, levels: Sequence[float]) -> Seen:
        facts = look(curve, levels)
        return Seen(member, curve, facts, facts.last if member.recipe.get("training.keep") == "last" else facts.best)


def kept_interval(seen: Sequence[Seen]) -> Interval | None:
    """The kept weights' validation −ELBO over the seeds that finished; None where none did."""
    values = [each.kept for each in seen if each.member.status == "finished" and each.kept is not None]
    return t_interval(values) if values else None


def _levels(curves: Sequence[Curve]) -> list[float]:
    values = np.concatenate([np.empty(0), *(curve.neg_elbo for curve in curves)])
    finite = values[np.isfinite(values)]
    return [float(finite.min()) + above for above in ABOVE_BEST] if len(finite) else []
