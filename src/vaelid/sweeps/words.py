"""What the curves say, in words. Every sentence follows from figures of ``curves`` and holds them; none claims more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from vaelid.sweeps.curves import AT_REST, CLEAR, NEAR, SHORTEST, Facts, Slope, Spike

#: Verdicts with which a best value is more than the best so far.
_AT_AN_END = ("converged", "stopped by patience")
_NOT_JUDGED = "steadiness not judged: no change between epochs with a known standard error"


def convergence(facts: Facts) -> str:
    """Whether one member had come to rest, and how that is seen."""
    return f"{facts.verdict}{_BECAUSE[facts.verdict](facts)}"


def stability(facts: Facts) -> str:
    """How often one member's curve rose by more than its own error, and by how much; of spikes the largest."""
    steady = facts.stability
    if steady.spikes:
        largest = max(steady.spikes, key=lambda spike: spike.nats)
        return f"{_spiked(steady.spikes)} in epoch {largest.epoch}, {_made_good(largest)}"
    if not steady.judged:
        return _NOT_JUDGED
    if not steady.rises or steady.largest is None:
        return f"steady: no rise beyond {CLEAR:g} s.e. in {_counted(steady.judged, 'change')}"
    return f"{_rose(steady.rises, steady.judged, steady.largest)}; no spike"


def _spiked(spikes: Sequence[Spike]) -> str:
    """How many spikes there were, how many of them the choice of validation images could explain, and the largest's height."""
    doubtful = sum(spike.doubtful for spike in spikes)
    which, them = ("", "it") if len(spikes) == 1 else (f"{doubtful} of them ", "it" if doubtful == 1 else "them")
    doubt = f" ({which}within {CLEAR:g} s.e.: other images might not show {them})" if doubtful else ""
    return f"{_counted(len(spikes), 'spike')}{doubt}, the largest of {_nats(max(spike.nats for spike in spikes))}"


def _made_good(spike: Spike) -> str:
    if spike.back_after is not None:
        return f"made good after {_counted(spike.back_after, 'epoch')}"
    return f"made good but for {_nats(spike.left)}" if spike.left < spike.nats / 2 else "never made good"


def _rose(rises: int, judged: int, largest: float | None) -> str:
    most = f", at most by {_nats(largest)}" if largest is not None else ""
    return f"rose by more than {CLEAR:g} s.e. in {rises} of {_counted(judged, 'change')}{most}"


def speed(facts: Facts) -> str:
    """How soon one member was close to its own best; for one that still falls, that best is only the best so far."""
    if facts.near_best is None or facts.near_best.epochs is None or facts.best is None:
        return "no epoch with a finite value"
    near = facts.near_best
    so_far = "" if facts.verdict in _AT_AN_END else " so far"
    after = f"after {_counted(facts.near_best.epochs, 'epoch')} ({near.seconds:.0f} s of training)"
    return f"within {NEAR:g} nat of its best{so_far} ({facts.best:.2f}) {after}"


def together(all_facts: Sequence[Facts]) -> str:
    """Convergence, stability and speed of the seeds of one combination, in one line; verdicts that differ are counted."""
    if len(all_facts) == 1:
        return "; ".join(say(all_facts[0]) for say in (convergence, stability, speed))
    verdicts = Counter(facts.verdict for facts in all_facts)
    parts = [f"{verdict}{_slopes(verdict, all_facts)} ({n} of {len(all_facts)} seeds)" for verdict, n in verdicts.items()]
    return "; ".join([*parts, steadiness(all_facts), *_speeds(all_facts)])


def _speeds(all_facts: Sequence[Facts]) -> list[str]:
    """After how many epochs the seeds were near their best, as a range; nothing where none has a finite value."""
    found = [facts.near_best.epochs for facts in all_facts if facts.near_best is not None and facts.near_best.epochs is not None]
    if not found:
        return []
    so_far = "" if all(facts.verdict in _AT_AN_END for facts in all_facts) else " so far"
    span = f"{min(found):,} to " if min(found) < max(found) else ""
    return [f"within {NEAR:g} nat of each one's best{so_far} after {span}{_counted(max(found), 'epoch')}"]


def _slopes(verdict: str, all_facts: Sequence[Facts]) -> str:
    """The range of the slopes of the seeds with this verdict, where the verdict is about slopes."""
    if verdict == "converged":
        return f" to within {AT_REST:g} nats per epoch"
    found = [facts.slope.per_epoch for facts in all_facts if facts.verdict == verdict and facts.slope is not None]
    if verdict not in ("still falling", "rising") or not found:
        return ""
    low, high = min(map(abs, found)), max(map(abs, found))
    span = _small(low) if _small(low) == _small(high) else f"{_small(low)} to {_small(high)}"
    return f" by {span} nats per epoch{' when stopped' if verdict == 'still falling' else ''}"


def steadiness(all_facts: Sequence[Facts]) -> str:
    """How often the curves of several seeds rose by more than their own errors, and by how much."""
    steady = [facts.stability for facts in all_facts]
    judged, spikes = sum(s.judged for s in steady), [spike for s in steady for spike in s.spikes]
    largest = max((s.largest for s in steady if s.largest is not None), default=None)
    rose = _rose(sum(s.rises for s in steady), judged, largest) if judged else _NOT_JUDGED
    return f"{rose}; {_spiked(spikes) if spikes else 'no spike'}" if judged or spikes else rose


def _patience(facts: Facts) -> str:
    waited = f": no new best in the {_counted(facts.epochs - facts.best_epoch, 'epoch')} after epoch {facts.best_epoch}"
    return f"{waited}{_above(facts)}"


def _divergence(facts: Facts) -> str:
    if facts.best is None:
        return " before any epoch had a finite value"
    return f" after {_counted(facts.epochs, 'epoch')}; best until then {facts.best:.2f} (epoch {facts.best_epoch})"


def _doubt(facts: Facts) -> str:
    if facts.slope is None:
        return f" on convergence: {_counted(facts.epochs, 'epoch')}, of which {2 * SHORTEST} are needed"
    return f" on convergence: {_changes(facts.slope)}"


def _rest(facts: Facts) -> str:
    return f" to within {AT_REST:g} nats per epoch: {_changes(facts.slope)}{_above(facts)}" if facts.slope else ""


def _falling(facts: Facts) -> str:
    return f" by {_span(facts.slope)} when stopped" if facts.slope else ""


def _rising(facts: Facts) -> str:
    return f" by {_span(facts.slope)}{_above(facts)}" if facts.slope else ""


def _above(facts: Facts) -> str:
    if facts.best is None or facts.last is None or facts.last - facts.best < NEAR:
        return ""
    return f", {_nats(facts.last - facts.best)} above its best at the end"


_BECAUSE: dict[str, Callable[[Facts], str]] = {
    "converged": _rest,
    "still falling": _falling,
    "rising": _rising,
    "stopped by patience": _patience,
    "diverged": _divergence,
    "not enough evidence": _doubt,
    "pruned": lambda facts: f": stopped by the search after {_counted(facts.epochs, 'epoch')}",
    "not finished": lambda facts: f": {_counted(facts.epochs, 'epoch')} so far",
}


def _span(slope: Slope) -> str:
    size = f"{_small(abs(slope.per_epoch))} nats per epoch"
    return f"{size} (± {_small(slope.half)} over the last {slope.epochs} epochs)"


def _changes(slope: Slope) -> str:
    sign = "−" if slope.per_epoch < 0 else "+"
    return f"{sign}{_small(abs(slope.per_epoch))} ± {_small(slope.half)} nats per epoch over the last {slope.epochs} epochs"


def _small(value: float) -> str:
    """Two digits that count: 0.9, 0.047, 12."""
    return f"{value:.2g}" if 1e-4 < value < 99.5 else f"{value:,.0f}" if value >= 99.5 else "less than 0.0001"


def _nats(value: float) -> str:
    return f"{_small(value)} nats"


def _counted(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
