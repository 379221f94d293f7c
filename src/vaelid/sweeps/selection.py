"""Which combination is chosen, by validation alone: the lowest mean over the seeds of the kept weights' validation −ELBO.

A combination is judged when all its seeds have finished: the mean over those that happened not to diverge would flatter it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from vaelid.sweeps.intervals import t_interval
from vaelid.sweeps.ledger import Ledger, Member

RULE = "lowest mean over seeds of the kept weights' validation −ELBO (fixed images and noise, β = 1), in nats per image"


def choose(ledger: Ledger, values: Mapping[str, float | None]) -> dict[str, Any]:
    """What study.json says about the selection.

    Args:
        values: validation −ELBO of each member's kept weights, by name; None where there are none
    """
    found: dict[str, Any] = {"rule": RULE, "reference": next(iter(ledger.combinations), None), "chosen": None, "reason": ""}
    apart = _apart(list(ledger.members.values()))
    if apart:
        return {**found, "reason": apart, "ranking": [], "left_out": {}}
    means, left_out = {}, {}
    for name, members in ledger.combinations.items():
        why = _unfit(members, values)
        if why:
            left_out[name] = why
        else:
            means[name] = t_interval([_number(values[member.name]) for member in members])
    order = sorted(means, key=lambda name: means[name].mean)
    found |= {"ranking": [{"combination": name, **asdict(means[name])} for name in order], "left_out": left_out}
    if not order:
        return {**found, "reason": "no combination has finished with all its seeds"}
    found["chosen"] = order[0]
    if len(order) > 1:
        found["runner_up"] = _difference(ledger, values, order[0], order[1])
    return found


def _difference(ledger: Ledger, values: Mapping[str, float | None], first: str, second: str) -> dict[str, Any]:
    """The chosen combination minus another, paired by seed where both have the same ones."""
    pairs = [{m.seed: _number(values[m.name]) for m in ledger.combinations[name]} for name in (first, second)]
    shared = sorted(pairs[0].keys() & pairs[1].keys())
    if not shared:
        return {"combination": second}
    return {"combination": second, "difference": asdict(t_interval([pairs[0][seed] - pairs[1][seed] for seed in shared]))}


def _unfit(members: Sequence[Member], values: Mapping[str, float | None]) -> str:
    """Why a combination cannot be judged; empty if it can."""
    ended = [member.status for member in members]
    others = [status for status in dict.fromkeys(ended) if status != "finished"]
    if others:
        return ", ".join(f"{ended.count(status)} of {len(ended)} {status}" for status in others)
    return "" if all(values.get(member.name) is not None for member in members) else "no validation values"


def _apart(members: Sequence[Member]) -> str:
    """Why the members' validation values have no common scale; empty if they do."""
    if len({member.images for member in members}) > 1:
        return "the members were validated on different images or pixels: their values have no common scale, so none is chosen"
    if len({member.kind for member in members}) > 1:
        return "some members give probabilities and some densities: they have no common unit, so none is chosen"
    return ""


def _number(value: float | None) -> float:
    assert value is not None, "asked of finished members only"
    return value
