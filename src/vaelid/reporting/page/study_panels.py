"""Charts and tables of a study's page."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vaelid.reporting import charts, plots
from vaelid.reporting.charts import Place
from vaelid.reporting.overlay import overlaid_curves
from vaelid.reporting.page.panels import NARROW, WIDE, Panel, Row, panel
from vaelid.reporting.page.study import StudyFacts
from vaelid.reporting.page.tables import Table
from vaelid.reporting.studies import LINEAR, LOGARITHMIC, drawn_curves, named, tried
from vaelid.sweeps import words
from vaelid.sweeps.curves import FINISHED
from vaelid.sweeps.effects import Effect
from vaelid.sweeps.intervals import Interval
from vaelid.sweeps.summary import Seen, kept_interval

#: More values of a numeric setting than this come from a search, and are drawn on an axis of their own.
_MOST_NAMED = 6
_WIDE_RANGE = 20.0
#: Combinations that the summary tells of; all of them stand among the members.
_MOST_TOLD = 4


def curve_panels(study: StudyFacts) -> list[Panel]:
    """All validation curves over each other, on a linear and on a logarithmic scale; none without a finite value."""
    curves, searched = drawn_curves(study.summary), bool(study.ledger.search)
    if not curves:
        return []
    rows: list[Row] = [
        (name, epoch, value)
        for name, seen in study.summary.members.items()
        for epoch, value in enumerate(seen.curve.neg_elbo.tolist(), 1)
    ]
    ends = "; ".join(f"{name} ends at {np.mean([line[-1] for line in lines]):.1f}" for name, lines in curves.items())
    lines = f"of the best {len(curves)} trials" if searched else "a line per seed"
    alt = f"Line chart of validation −ELBO by epoch, {lines}: {ends} nats."
    captions = {
        LINEAR: f"Validation −ELBO by epoch, {lines}, zoomed to the later epochs; the same images and noise for all.",
        LOGARITHMIC: "The same as a distance from the best value of all, both axes logarithmic: straight lines are power laws.",
    }
    columns = ("member", "epoch", "validation_neg_elbo")
    return [
        panel(
            name,
            lambda size, logarithmic=name == LOGARITHMIC: overlaid_curves(curves, logarithmic, size=size),  # type: ignore[misc]
            (WIDE, NARROW),
            (alt, caption),
            columns,
            rows,
        )
        for name, caption in captions.items()
    ]


def effect_panel(study: StudyFacts, effect: Effect) -> Panel | None:
    """Validation −ELBO of every finished member against one setting; None if no member finished."""
    levels = [level for level in effect.levels if level.kept]
    if not levels or effect.best is None:
        return None
    rows: list[Row] = [(_value(level.value), value) for level in levels for value in level.kept]
    best = effect.best
    alt = (
        f"Dot chart of validation −ELBO against {effect.setting}: the lowest mean, {best.mean:.2f} nats, at {_value(best.value)}."
    )
    bars = "" if study.ledger.search else "; the bars are means"
    caption = f"Every finished member by its {effect.setting}{bars}. Lower is better."
    return panel(
        effect_name(effect),
        lambda size: effect_chart(effect, size, bool(study.ledger.search)),
        (WIDE, NARROW),
        (alt, caption),
        (effect.setting, "validation_neg_elbo"),
        rows,
    )


def effect_name(effect: Effect) -> str:
    """What the chart of an effect is called: ``effect_lr``, ``effect_prior_components``."""
    return f"effect_{''.join(c if c.isalnum() else '_' for c in effect.setting)}"


def effect_figures(study: StudyFacts) -> None:
    """The charts of all effects as PNG and PDF beside the study's curves."""
    for effect in study.effects:
        if effect.best is not None:
            figure = effect_chart(effect, searched=bool(study.ledger.search))
            plots.save_figure(figure, study.summary.folder.figures, effect_name(effect))


def effect_chart(effect: Effect, size: Place = charts.SIZE, searched: bool = False) -> Figure:
    """Dots of every finished member over the values of one setting, with their means.

    Many numbers get an axis of their own, and so do those of a search, which has no values that were chosen beforehand.
    """
    levels = [level for level in effect.levels if level.kept]
    numbers = [level.value for level in levels if isinstance(level.value, int | float) and not isinstance(level.value, bool)]
    figure, axes = charts.chart(effect.setting, "validation −ELBO (nats per image)", "", size)
    measured = len(numbers) == len(levels) and (searched or len(levels) > _MOST_NAMED)
    places = np.array(numbers, dtype=float) if measured else np.arange(len(levels), dtype=float)
    if measured and places.min() > 0 and places.max() > _WIDE_RANGE * places.min():
        axes.set_xscale("log")
    for place, level in zip(places, levels, strict=True):
        axes.plot([place] * len(level.kept), level.kept, "o", color=charts.BLUE, alpha=0.75, markersize=6, markeredgewidth=0)
        if not measured and not searched and level.mean is not None:
            axes.plot([place - 0.16, place + 0.16], [level.mean] * 2, color=charts.ORANGE, linewidth=2)
    if not measured:
        axes.set_xticks(places, [_value(level.value) for level in levels])
        axes.set_xlim(-0.6, len(levels) - 0.4)
    axes.margins(y=0.12)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6))
    return figure


def effect_table(study: StudyFacts, effect: Effect) -> Table:
    """The values of one setting: means, and how far each lies above the best, paired; of a search, the best of each value."""
    if study.ledger.search:
        return _found_by_value(effect)
    rows = []
    for level in effect.levels:
        finished = f"{len(level.kept)} of {level.members}"
        mean = f"{level.mean:.3f}" if level.mean is not None else ""
        rows.append((_value(level.value), finished, mean, *_paired(level.above_best, level is effect.best)))
    columns = (effect.setting, ">members finished", ">mean validation −ELBO", ">above the best", ">± t, 95%")
    notes = ("Differences are paired: same seed, all other settings equal. A difference smaller than its interval is none.",)
    return Table(f"The effect of {effect.setting}", columns, rows, notes)


def _found_by_value(effect: Effect) -> Table:
    """What a search found at each value. Its trials differ in all settings at once, so nothing is paired."""
    levels = list(effect.levels)
    if all(isinstance(level.value, int | float) for level in levels):
        levels.sort(key=lambda level: level.value)
    rows = [
        (_value(level.value), f"{len(level.kept)} of {level.members}", f"{min(level.kept):.3f}" if level.kept else "–")
        for level in levels
    ]
    notes = ("Trials differ in all settings at once, and a search proposes more of what was good: nothing is compared here.",)
    return Table(f"Trials by {effect.setting}", (effect.setting, ">trials finished", ">best validation −ELBO"), rows, notes)


def ranking_table(study: StudyFacts) -> Table:
    """The ranking by validation: of combinations, or of the trials of a search."""
    return _trials_table(study) if study.ledger.search else combinations_table(study)


def _trials_table(study: StudyFacts) -> Table:
    """All trials with the values that they tried, the best first, those that did not finish last."""
    ranked = sorted(study.summary.members.values(), key=_rank)
    names = list(dict.fromkeys(name for seen in ranked for name in tried(seen.member)))
    rows = []
    for seen in ranked:
        name = seen.member.name + (" (chosen)" if seen.member.combination == study.chosen else "")
        values = tried(seen.member)
        kept = f"{seen.kept:.3f}" if seen.kept is not None else "–"
        rows.append((name, *(values.get(each, "") for each in names), seen.member.status, kept))
    notes = ("Nats per image, lower is better; one seed, so no interval. Only trials that finished can be chosen.",)
    return Table("Trials by validation", ("trial", *names, "status", ">validation −ELBO"), rows, notes)


def _rank(seen: Seen) -> tuple[bool, float]:
    return seen.member.status != FINISHED, seen.kept if seen.kept is not None else math.inf


def combinations_table(study: StudyFacts) -> Table:
    """The ranking: combinations by mean validation −ELBO, the best first, those without one last."""
    rows = []
    for name, members in study.summary.combinations.items():
        interval = kept_interval(members)
        finished = sum(seen.member.status == "finished" for seen in members)
        rows.append(
            (
                interval,
                (name + (" (chosen)" if name == study.chosen else ""), f"{finished} of {len(members)}", *_interval(interval)),
            )
        )
    rows.sort(key=lambda row: (row[0] is None, row[0].mean if row[0] is not None else 0.0))
    columns = ("combination", ">seeds finished", ">validation −ELBO", ">± t, 95%", ">sd of seeds")
    notes = ("Mean over the seeds that finished, nats per image, lower is better; no interval with one seed.",)
    return Table("Ranking by validation", columns, [row for _, row in rows], notes)


def members_table(study: StudyFacts) -> Table:
    """One row per member: status, best value, and how soon it reached it and the levels common to all."""
    members = list(study.summary.members.values())
    levels = next((seen.facts.levels for seen in members if seen.facts.levels), ())
    columns = ["member", "status", ">epochs", ">best −ELBO", ">in epoch", ">within 1 nat of it"]
    columns += [f">to {reached.level:.2f}" for reached in levels]
    rows = [_member(seen, len(levels)) for seen in members]
    notes = ("Epochs (and seconds of training) to a value; a dash: never reached.",)
    return Table("Speed of every member", columns, rows, notes)


def words_of(study: StudyFacts) -> list[tuple[str, str]]:
    """What the curves of each combination say."""
    groups = list(study.summary.combinations.values())
    if study.ledger.search:
        groups.sort(key=lambda members: _rank(members[0]))
    return [(named(study.ledger, members[0].member), words.together([seen.facts for seen in members])) for members in groups]


def test_table(study: StudyFacts) -> Table:
    """Every look at the test split."""
    rows = []
    for look in study.ledger.test:
        if "problem" in look:
            rows.append((look["member"], look["role"], "", "", "", look["problem"]))
            continue
        nll, se = look["nll"], look["nll"]["se"]
        error = f"{se:.3f}" if se is not None else ""
        said = f"{nll['name']}; {nll['direction']}"
        rows.append((look["member"], look["role"], f"{look['neg_elbo']['value']:.3f}", f"{nll['value']:.3f}", error, said))
    columns = ("member", "role", ">test −ELBO", ">test nll", ">± s.e.", "what nll is")
    return Table("Every look at the test split, in order", columns, rows)


def _member(seen: Seen, levels: int) -> tuple[str, ...]:
    facts = seen.facts
    best, epoch = (f"{facts.best:.3f}", str(facts.best_epoch)) if facts.best is not None else ("", "")
    near = [facts.near_best] if facts.near_best is not None else []
    reached = [*near, *facts.levels] + [None] * (1 + levels - len(near) - len(facts.levels))
    times = ["–" if r is None or r.seconds is None else f"{r.epochs} ({r.seconds:.0f} s)" for r in reached]
    return seen.member.name, seen.member.status, str(facts.epochs), best, epoch, *times


def _interval(interval: Interval | None) -> tuple[str, str, str]:
    if interval is None:
        return "", "", ""
    half, sd = (f"{number:.3f}" if number is not None else "" for number in (interval.half, interval.sd))
    return f"{interval.mean:.3f}", half, sd


def _paired(above: Interval | None, is_best: bool) -> tuple[str, str]:
    if is_best:
        return "best", ""
    if above is None:
        return "–", ""
    return f"{above.mean:+.3f}", f"{above.half:.3f}" if above.half is not None else "one pair"


def _value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def found_in_words(study: StudyFacts) -> list[str]:
    """What was chosen, how good it is, and how each combination went, in sentences."""
    said = []
    if study.chosen is not None:
        interval = kept_interval(study.summary.combinations[study.chosen])
        value = f" with {interval} nats per image" if interval is not None else ""
        chosen = named(study.ledger, study.ledger.combinations[study.chosen][0])
        said.append(f"{chosen} has the lowest validation −ELBO{value} and was chosen by it; the test split had no say.")
    return said + [f"{name}: {text}." for name, text in words_of(study)[:_MOST_TOLD]]


def stability_of(study: StudyFacts) -> list[tuple[str, str]]:
    """How steady the seeds of each combination were, and how far apart they ended."""
    said = []
    for name, members in study.summary.combinations.items():
        interval = kept_interval(members)
        spread = (
            f"; {interval.seeds} seeds scatter by {interval.sd:.2f} nats (sd)" if interval is not None and interval.sd else ""
        )
        diverged = sum(seen.member.status == "diverged" for seen in members)
        ended = f"; {diverged} of {len(members)} seeds diverged" if diverged else ""
        said.append((name, f"{words.steadiness([seen.facts for seen in members])}{spread}{ended}"))
    return said


def effect_words(study: StudyFacts, effect: Effect) -> str:
    """Whether one setting matters, as far as the paired differences say; a search has none."""
    best = effect.best
    if study.ledger.search:
        found = min((level for level in effect.levels if level.kept), key=lambda level: min(level.kept), default=None)
        return f"{effect.setting}: {'no trial finished' if found is None else f'the best trial has {_value(found.value)}'}."
    others = [level for level in effect.levels if level.above_best is not None]
    if best is None or not others:
        return f"{effect.setting}: no two values can be compared."
    worst = max(others, key=lambda level: level.above_best.mean if level.above_best is not None else 0.0)
    clear = [
        level
        for level in others
        if level.above_best and level.above_best.half is not None and level.above_best.mean > level.above_best.half
    ]
    known = any(level.above_best and level.above_best.half is not None for level in others)
    said = f"{effect.setting}: best at {_value(best.value)}"
    if worst.above_best is not None:
        half = f" ± {worst.above_best.half:.2f}" if worst.above_best.half is not None else ""
        said += f"; {_value(worst.value)} lies {worst.above_best.mean:.2f}{half} nats above it"
    if not known:
        return f"{said}; with one pair nothing is known about other seeds."
    return f"{said}; it matters." if clear else f"{said}; within what seeds scatter."
