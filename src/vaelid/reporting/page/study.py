"""What a study's folder says, and what that means: members, ranking, effects of settings, and the chosen run's own facts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from vaelid.reporting.page.facts import RunFacts, read_run
from vaelid.reporting.page.remarks import TONES, Remark
from vaelid.reporting.studies import tried
from vaelid.sweeps import words
from vaelid.sweeps.curves import FINISHED
from vaelid.sweeps.effects import Effect, effects
from vaelid.sweeps.ledger import ENDS, Ledger
from vaelid.sweeps.summary import Seen, Summary, kept_interval


@dataclass(frozen=True)
class StudyFacts:
    """A study's folder, read.

    Attributes:
        run: the member that ``shown_member`` names, as a run; None without any
    """

    summary: Summary
    run: RunFacts | None

    @property
    def ledger(self) -> Ledger:
        """study.json."""
        return self.summary.ledger

    @property
    def name(self) -> str:
        """The study's folder, by its last part."""
        return self.summary.folder.path.resolve().name

    @property
    def chosen(self) -> str | None:
        """The combination that validation chose."""
        return self.ledger.selection.get("chosen")

    @cached_property
    def effects(self) -> list[Effect]:
        """What each setting does to the validation −ELBO."""
        return effects(self.ledger.members, {name: seen.kept for name, seen in self.summary.members.items()})

    @property
    def best(self) -> float | None:
        """The lowest validation −ELBO of any member's kept weights."""
        return min((seen.kept for seen in self.summary.members.values() if seen.kept is not None), default=None)


def shown_member(summary: Summary) -> str | None:
    """Which member a page shows as a run: one with weights before one without, and of the chosen combination before any other.

    Of several the first of the chosen combination, else the one with the lowest validation −ELBO; None if none has begun.
    """
    chosen = summary.ledger.selection.get("chosen")
    fit = {name: seen.kept for name, seen in summary.members.items() if seen.kept is not None}

    def rank(name: str) -> tuple[bool, bool, float]:
        ours = summary.members[name].member.combination == chosen
        return not summary.folder.member(name).weights_file.is_file(), not ours, 0.0 if ours else fit[name]

    return min(fit, key=rank, default=None)


def read_study(path: Path | str, problems: Mapping[str, str] | None = None) -> StudyFacts:
    """Read a study's folder.

    Raises:
        RunError: if there is no study, or a file of it is damaged.
    """
    summary = Summary(path)
    member = shown_member(summary)
    return StudyFacts(summary, read_run(summary.folder.member(member).path, problems) if member else None)


def study_remarks(study: StudyFacts) -> list[Remark]:
    """Everything worth saying about a study, the most serious first."""
    found = [remark for rule in RULES for remark in rule(study)]
    return sorted(found, key=lambda remark: TONES.index(remark.tone))


def _endings(study: StudyFacts) -> list[Remark]:
    said = []
    for status, text in (("diverged", "diverged"), ("failed", "failed with an error")):
        names = [name for name, member in study.ledger.members.items() if member.status == status]
        if names:
            said.append(
                Remark("bad", f"{len(names)} of {len(study.ledger.members)} members {text}: {_listed(names)}.", "members")
            )
    left = sum(member.status not in (*ENDS, "failed") for member in study.ledger.members.values())
    if left:
        text = f"{left} of {len(study.ledger.members)} members are not done: the same study command goes on."
        said.append(Remark("warn", text, "members"))
    return said


def _choice(study: StudyFacts) -> list[Remark]:
    selection = study.ledger.selection
    if not selection:
        return [Remark("warn", "Nothing is chosen before all trainings have ended.", "choice")]
    left_out = {} if study.ledger.search else selection.get("left_out", {})  # of a search, their number is told on top
    said = [Remark("warn", f"Left out of the choice: {name} ({why}).", "choice") for name, why in left_out.items()]
    if selection["chosen"] is None:
        return [*said, Remark("bad", f"Nothing is chosen: {selection['reason']}.", "choice")]
    return said + _margin(selection)


def _margin(selection: Mapping[str, Any]) -> list[Remark]:
    runner_up = selection.get("runner_up", {})
    difference = runner_up.get("difference")
    if difference is None:
        return []
    gain = -difference["mean"]
    against = f"{selection['chosen']} is {gain:.3f}"
    if difference["half"] is None:
        text = f"{against} nats below {runner_up['combination']} with the one seed that both have: other seeds may say otherwise."
        return [Remark("warn", text, "choice")]
    against += f" ± {difference['half']:.3f} nats below {runner_up['combination']}, paired over {difference['seeds']} seeds"
    if gain <= difference["half"]:
        return [Remark("warn", f"{against}: these seeds cannot tell the two apart.", "choice")]
    return [Remark("good", f"{against}: a clear choice.", "choice")]


def _verdicts(study: StudyFacts) -> list[Remark]:
    chosen = study.summary.combinations.get(study.chosen or "", [])
    falling = [seen for seen in chosen if seen.facts.verdict == "still falling"]
    if not falling:
        return []
    text = (
        f"The chosen combination was still falling when it stopped ({len(falling)} of {len(chosen)} seeds): its best is to come."
    )
    return [Remark("warn", f"{text} Raise --epochs.", "members")]


def _undecided(study: StudyFacts) -> list[Remark]:
    """Others that were still falling: the ranking is one of the epochs that were trained."""
    others = [
        name
        for name, members in study.summary.combinations.items()
        if name != study.chosen and any(seen.facts.verdict == "still falling" for seen in members)
    ]
    if not others or not study.chosen:
        return []
    text = f"Still falling when stopped: {_listed(others)}. The ranking holds for these epochs, and not for longer ones."
    return [Remark("note", text, "members")]


def _edges(study: StudyFacts) -> list[Remark]:
    return [
        Remark("note", f"The best {effect.setting} tried is the {effect.at_edge} one: the best of all may lie beyond.", "effects")
        for effect in study.effects
        if effect.at_edge
    ]


def _looks(study: StudyFacts) -> list[Remark]:
    chosen = list(dict.fromkeys(look["combination"] for look in study.ledger.test if look["role"] == "chosen"))
    if len(chosen) > 1:
        text = f"The test split has met {len(chosen)} choices in turn ({_listed(chosen)}): the last is no longer a first look."
        return [Remark("warn", text, "test")]
    if not study.ledger.test:
        return [Remark("note", "The test split was not looked at.", "test")]
    return []


def _weights(study: StudyFacts) -> list[Remark]:
    """Members of which only the small files are here: what needs a model cannot be shown."""
    if study.run is None or study.run.has_weights:
        return []
    text = (
        "No member's trained weights are in this folder, so its images, audit and sample quality cannot be measured here; what "
        "the curves say, and the choice, need none."
    )
    return [Remark("note", text, "run")]


Rule = Callable[[StudyFacts], Sequence[Remark]]
RULES: tuple[Rule, ...] = (_endings, _choice, _verdicts, _undecided, _looks, _edges, _weights)


def study_headline(study: StudyFacts) -> list[tuple[str, str, str]]:
    """The figures that stand on top: name, value, and what it is."""
    members = study.ledger.members.values()
    finished = sum(member.status == FINISHED for member in members)
    search = study.ledger.search
    if search:
        tiles = [("trials finished", f"{finished} of {search['trials']}", ", ".join(_ended(search)))]
    else:
        tiles = [("members finished", f"{finished} of {len(members)}", f"{len(study.ledger.combinations)} combinations")]
    if study.chosen is None:
        return tiles
    interval = kept_interval(study.summary.combinations[study.chosen])
    [first, *_] = study.ledger.combinations[study.chosen]
    tried_values = ", ".join(f"{key}={value}" for key, value in tried(first).items()) if search else ""
    about = tried_values or "by the lowest mean validation −ELBO"
    tiles.insert(0, ("chosen", study.chosen, about))
    if interval is not None:
        half = f" ± {interval.half:.2f}" if interval.half is not None else ""
        about = f"mean of {interval.seeds} seeds, 95 % t-interval" if half else "one seed: no interval"
        tiles.append(("validation −ELBO", f"{interval.mean:.2f}{half}", about))
    return [*tiles, *_test_tile(study)]


def _test_tile(study: StudyFacts) -> list[tuple[str, str, str]]:
    """The mean nll of the chosen members, each as it was seen last: of several looks with other K, those with the last one's."""
    looked = [look for look in study.ledger.test if look["combination"] == study.chosen and "nll" in look]
    latest = {look["member"]: look for look in looked if look["samples"] == looked[-1]["samples"]}.values()
    values = [look["nll"]["value"] for look in latest]
    if not values:
        return []
    about = f"mean over {len(values)} seeds, K = {looked[-1]['samples']:,}" if len(values) > 1 else looked[-1]["nll"]["name"]
    return [("nll, test", f"{sum(values) / len(values):.2f}", about)]


def _ended(search: Mapping[str, Any]) -> list[str]:
    return [f"{count} {status}" for status, count in search["ended"].items() if status != FINISHED] or ["none otherwise"]


def member_words(seen: Seen) -> list[tuple[str, str]]:
    """Speed, stability and convergence of one member in words."""
    return [
        ("speed", words.speed(seen.facts)),
        ("stability", words.stability(seen.facts)),
        ("convergence", words.convergence(seen.facts)),
    ]


def _listed(names: Sequence[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
