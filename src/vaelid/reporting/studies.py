"""What a study says: tables for the terminal, and its curves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Group, RenderableType
from rich.text import Text

from vaelid.errors import MachineError
from vaelid.reporting import plots
from vaelid.reporting.overlay import overlaid_curves
from vaelid.reporting.tables import simple_table
from vaelid.sweeps import words
from vaelid.sweeps.curves import Facts
from vaelid.sweeps.intervals import LEVEL
from vaelid.sweeps.ledger import ENDS, Ledger, Member, trials_told
from vaelid.sweeps.summary import Seen, Summary, kept_interval

#: Of a search, only the curves of the best trials are drawn.
MOST_TRIALS = 8
#: Names of the figures of a study; each is written as PNG and PDF.
LINEAR, LOGARITHMIC = "validation_curves", "validation_curves_log"


def study_tables(summary: Summary) -> RenderableType:
    """Combinations with their intervals and words, members with their figures, the selection, and the looks at the test split."""
    parts: list[RenderableType] = [combinations_table(summary), members_table(summary)]
    if summary.ledger.test:
        parts.append(_test_table(summary.ledger.test))
    return Group(*parts, *map(Text, [*_searched(summary.ledger.search), *_selected(summary.ledger), *_problems(summary)]))


def combinations_table(summary: Summary) -> RenderableType:
    """One row per combination: validation −ELBO over its seeds, and what the curves say."""
    rows = []
    for members in summary.combinations.values():
        interval = kept_interval(members)
        finished = sum(seen.member.status == "finished" for seen in members)
        seeds = str(len(members)) if finished == len(members) else f"{finished} of {len(members)}"
        value, half = ("", "") if interval is None else (f"{interval.mean:.3f}", _number(interval.half))
        spread = "" if interval is None else _number(interval.sd)
        said = words.together([seen.facts for seen in members])
        rows.append((named(summary.ledger, members[0].member), seeds, value, half, spread, said))
    columns = ("combination", ">seeds", ">validation −ELBO", f">± t, {LEVEL:.0%}", ">sd of seeds", "what the curves say")
    title = f"{summary.folder.path}: mean over the seeds that finished, nats per image, lower is better"
    return simple_table(title, columns, rows)


def members_table(summary: Summary) -> RenderableType:
    """One row per member: status, best value, and how soon it reached it and the levels common to all."""
    members = list(summary.members.values())
    levels = next((seen.facts.levels for seen in members if seen.facts.levels), ())
    columns = ["member", "status", ">epochs", ">best −ELBO", ">epoch", ">to within 1 nat of its best"]
    columns += [f">to {reached.level:.2f}" for reached in levels]
    rows = [_member_row(seen, len(levels)) for seen in members]
    return simple_table("epochs (and seconds of training) to a value; a dash: never reached", columns, rows)


def study_figures(summary: Summary) -> list[Path]:
    """The curves of all members over each other, on a linear and on a logarithmic scale, as PNG and PDF.

    Raises:
        MachineError: if the disk refuses.
    """
    curves = drawn_curves(summary)
    if not curves:
        return []
    figures = {LINEAR: overlaid_curves(curves), LOGARITHMIC: overlaid_curves(curves, logarithmic=True)}
    try:
        return [path for name, figure in figures.items() for path in plots.save_figure(figure, summary.folder.figures, name)]
    except OSError as error:
        raise MachineError(
            f"Figures of {summary.folder.path} cannot be written: {error.strerror or error}.",
            "The numbers are safe. Make room, or see that the folder can be written to, and run the same command again.",
        ) from error


def drawn_curves(summary: Summary) -> dict[str, list[NDArray[np.float64]]]:
    """−ELBO by epoch of every member of each combination that has a finite value; of a search, those of the best trials."""
    curves = {
        name: [seen.curve.neg_elbo for seen in members if np.isfinite(seen.curve.neg_elbo).any()]
        for name, members in summary.combinations.items()
    }
    curves = {name: found for name, found in curves.items() if found}
    if not summary.ledger.search:
        return curves
    best = sorted(curves, key=lambda name: min(float(np.nanmin(line)) for line in curves[name]))
    return {name: curves[name] for name in best[:MOST_TRIALS]}


def _member_row(seen: Seen, levels: int) -> list[str]:
    facts = seen.facts
    best, epoch = (f"{facts.best:.3f}", str(facts.best_epoch)) if facts.best is not None else ("", "")
    reached = [_reached(facts, i) for i in range(levels)]
    return [seen.member.name, seen.member.status, str(facts.epochs), best, epoch, _near(facts), *reached]


def _near(facts: Facts) -> str:
    near = facts.near_best
    return "" if near is None or near.seconds is None else f"{near.epochs} ({near.seconds:.0f} s)"


def _reached(facts: Facts, index: int) -> str:
    if index >= len(facts.levels) or facts.levels[index].seconds is None:
        return "–"
    return f"{facts.levels[index].epochs} ({facts.levels[index].seconds:.0f} s)"


def _test_table(looks: Sequence[Mapping[str, Any]]) -> RenderableType:
    rows = []
    for look in looks:
        if "problem" in look:
            rows.append((look["member"], look["role"], "", "", "", look["problem"]))
            continue
        bound, nll = look["neg_elbo"], look["nll"]
        said = f"{nll['name']}; {nll['direction']}"
        rows.append((look["member"], look["role"], f"{bound['value']:.3f}", f"{nll['value']:.3f}", _number(nll["se"]), said))
    columns = ("member", "role", ">test −ELBO", ">test nll", ">± s.e.", "what nll is")
    return simple_table("test split: every look that this study took, nats per image", columns, rows)


def named(ledger: Ledger, member: Member) -> str:
    """The name of a member's combination; a trial's with the values that it tried."""
    if not ledger.search:
        return member.combination
    return f"{member.name} ({', '.join(f'{key}={value}' for key, value in tried(member).items())})"


def tried(member: Member) -> dict[str, str]:
    """The values that a trial tried, by the short names of their settings; by the full names where two have the same short one.

    >>> settings = {"encoder.hidden": [64], "decoder.hidden": [32], "optimizer.lr": 0.00123, "optimizer.name": "adam"}
    >>> tried(Member("trial-0", "trial-0", 0, settings, {}, "", ""))
    {'encoder.hidden': '[64]', 'decoder.hidden': '[32]', 'lr': '0.00123', 'optimizer': 'adam'}
    """
    own = {key: value for key, value in member.settings.items() if key != "training.seed"}
    short = {key: key.rpartition(".")[2] if not key.endswith(".name") else key.partition(".")[0] for key in own}
    uses = Counter(short.values())
    names = {key: name if uses[name] == 1 else key for key, name in short.items()}
    return {names[key]: f"{value:.3g}" if isinstance(value, float) else str(value) for key, value in own.items()}


def _searched(search: Mapping[str, Any]) -> list[str]:
    """What was searched, and how many trials ended how."""
    if not search:
        return []
    space = ", ".join(f"{name} {axis}" for name, axis in search["space"].items())
    return [f"search: {space}; pruner {search['pruner']}; {trials_told(search)}"]


def _selected(ledger: Ledger) -> list[str]:
    """What was chosen, by which rule, and how far it is from the next."""
    selection = ledger.selection
    if not selection:
        return ["nothing is selected before all trainings have ended"]
    left_out = {} if ledger.search else selection.get("left_out", {})  # of a search, their number is told
    lines = [f"left out of the selection: {name} ({why})" for name, why in left_out.items()]
    if selection["chosen"] is None:
        return [*lines, f"nothing is selected: {selection['reason']}"]
    lines.append(f"chosen: {selection['chosen']} ({selection['rule']}); reference: {selection['reference']}")
    if "difference" in selection.get("runner_up", {}):
        lines.append(_margin(selection["runner_up"]))
    return lines


def _margin(runner_up: Mapping[str, Any]) -> str:
    difference, other = runner_up["difference"], runner_up["combination"]
    below = f"it is {-difference['mean']:.3f}"
    if difference["half"] is None:
        return f"{below} nats below {other} with the one seed that both have: nothing is known about other seeds"
    told = "" if -difference["mean"] > difference["half"] else ": these seeds cannot tell the two apart"
    return f"{below} ± {difference['half']:.3f} nats below {other}, paired over {difference['seeds']} seeds{told}"


def _problems(summary: Summary) -> list[str]:
    members = summary.ledger.members.values()
    said = [f"{member.name} {member.status}: {_line(member)}" for member in members if member.message]
    waiting = sum(member.status not in ENDS for member in members)
    goes_on = [f"{waiting} of {len(members)} members are not done: the same study command goes on"] if waiting else []
    return [*said, *goes_on]


def _line(member: Member) -> str:
    """The line of a message that says most: of a traceback the last, of our own the first."""
    lines = member.message.splitlines()
    return lines[-1 if lines[0].startswith("Traceback") else 0]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
