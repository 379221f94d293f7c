"""From facts to one HTML file: templates, style and script are put together here; nothing outside the file is ever asked for."""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined

from vaelid.environment import describe_machine
from vaelid.reporting.page import answers, panels, remarks, study_panels, tables, theory
from vaelid.reporting.page.facts import AUDIT, EVALUATION, SCORING, RunFacts
from vaelid.reporting.page.panels import Panel
from vaelid.reporting.page.study import StudyFacts, member_words, study_headline, study_remarks
from vaelid.sweeps import words
from vaelid.sweeps.ledger import trials_told

#: Sections of a run's page by anchor, in order.
MEASURED = {
    "images": "Images",
    "likelihood": "Likelihood",
    "audit": "Audit",
    "training": "Training",
    "latents": "Latents",
    "quality": "Sample quality",
    "questions": "Nine questions",
    "settings": "Settings",
    "provenance": "Provenance",
}
RUN_SECTIONS = {"summary": "Summary", **MEASURED}
STUDY_SECTIONS = {
    "summary": "Summary",
    "curves": "Validation curves",
    "choice": "Ranking and choice",
    "test": "Test split",
    "members": "Members",
    "effects": "Effects of the settings",
}
_RUN_OF_STUDY = {"run": "The run shown", **MEASURED}
#: What needs no weights.
_WITHOUT_WEIGHTS = ("run", "training", "questions", "settings", "provenance")


@dataclass(frozen=True)
class Page:
    """One HTML file, and the charts on it, each with the folder of figures that it belongs to."""

    html: str
    panels: tuple[tuple[Path, Panel], ...]


def run_page(run: RunFacts) -> Page:
    """The page of a run."""
    view = {**_about_run(run), "title": run.name, "lead": answers.what_it_is(run), "anchors": RUN_SECTIONS, "study": None}
    return _render("run.html.j2", run.folder.path, {**view, "stable": f"{_sentence(words.stability(run.curve))}"})


def study_page(study: StudyFacts) -> Page:
    """The page of a study, with the run of its chosen combination."""
    run, members = study.run, study.summary.members
    view: dict[str, Any] = {} if run is None else _about_run(run)
    said, effects = study_panels.words_of(study), [study_panels.effect_words(study, effect) for effect in study.effects]
    view |= {
        "title": study.name,
        "lead": _lead(study),
        "anchors": {**STUDY_SECTIONS, **_sections_of(run)},
        "study": study,
        "run": run,
        "run_lead": "" if run is None else f"{run.name}: {answers.what_it_is(run)}{_instead(study)}",
        "study_headline": study_headline(study),
        "study_findings": [*study_panels.found_in_words(study), *effects],
        "study_remarks": study_remarks(study),
        "curves": study_panels.curve_panels(study),
        "ranking": study_panels.ranking_table(study),
        "test": study_panels.test_table(study),
        "members": study_panels.members_table(study),
        "words": said,
        "member_words": [(name, member_words(seen), seen.member.message) for name, seen in members.items()],
        "effects": [(study_panels.effect_table(study, e), study_panels.effect_panel(study, e)) for e in study.effects],
        "effect_words": effects,
        "stable": " ".join(f"{name}: {text}." for name, text in study_panels.stability_of(study)),
    }
    return _render("study.html.j2", study.summary.folder.path, view)


def _about_run(run: RunFacts) -> dict[str, Any]:
    recipe, evaluated = run.recipe, bool(run.found)
    place = shlex.quote(str(run.folder.recipe_file))
    found: dict[str, Any] = {
        "run": run,
        "missing": {what: run.missing.get(what) for what in (EVALUATION, AUDIT, SCORING)},
        "headline": tables.headline(run),
        "how_good": answers.how_good(run),
        "remarks": remarks.remarks(run),
        "grids": dict(panels.grids(run)),
        "pairs": panels.pairs(run),
        "curve": panels.training_panel(run),
        "training_words": [(name, _sentence(say(run.curve))) for name, say in _SAYINGS.items()],
        "latent_map": panels.latent_panel(run),
        "kl": panels.kl_panel(run),
        "histogram": panels.histogram_panel(run),
        "extremes": {which: panels.extremes(run, which) for which in ("likeliest", "unlikeliest")},
        "components": panels.components(run),
        "settings": tables.settings(run),
        "provenance": tables.provenance(run),
        "again": f"vaelid train --recipe {place} --out runs/again",
        "study_command": answers.study_command(run),
        "support": answers.support_words(run),
        "own": theory.OWN,
        "likelihood": theory.theory_of("likelihood", recipe.likelihood.name),
        "prior": theory.theory_of("prior", recipe.prior.name),
        "mixture": theory.theory_of("prior", "mixture"),
        "optimizer": theory.theory_of("optimizer", recipe.optimizer.name),
        "audited": {part: answers.audited(run, part) for part in ("posterior", "prior")},
        "trained": answers.properly_trained(run),
        "quality_words": answers.quality_words(run),
    }
    if evaluated:
        found |= {"certificates": tables.certificates(run), "trust": tables.trust(run), "beyond": tables.beyond(run)}
        found["in_samples"] = tables.convergence_in_samples(run)
    if run.audit:
        found |= {"bad_findings": tables.findings(run, ("fail", "undecided"))}
        found |= {"other_findings": tables.findings(run, ("pass", "skipped"))}
    if run.scores:
        found["quality"] = tables.quality(run)
    return found


_SAYINGS = {"convergence": words.convergence, "stability": words.stability, "speed": words.speed}


def _render(template: str, path: Path, view: Mapping[str, Any]) -> Page:
    environment = Environment(
        loader=PackageLoader("vaelid.reporting.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(inline=theory.inline, block=theory.block)
    templates = resources.files("vaelid.reporting.page") / "templates"
    style, script = ((templates / name).read_text(encoding="utf-8") for name in ("style.css", "script.js"))
    made = describe_machine(torch.device("cpu"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    head = {
        "style": style,
        "script": script,
        "script_hash": f"sha256-{digest}",
        "version": made["vaelid"],
        "commit": made["commit"],
    }
    html = environment.get_template(template).render({**view, **head, "path": str(path)})
    return Page(html, tuple(_placed(view)))


def _placed(view: Mapping[str, Any]) -> Iterator[tuple[Path, Panel]]:
    """The charts of a view: a run's belong to the run, also on a study's page."""
    run, study = view["run"], view["study"]
    if run is not None:
        yield from ((run.folder.figures, panel) for panel in view.values() if isinstance(panel, Panel))
    if study is not None:
        several = [*view["curves"], *(panel for _, panel in view["effects"] if panel is not None)]
        yield from ((study.summary.folder.figures, panel) for panel in several)


def _lead(study: StudyFacts) -> str:
    ledger = study.ledger
    if ledger.search:
        space = "; ".join(f"{name}: {axis}" for name, axis in ledger.search["space"].items())
        told = f"A search, {trials_told(ledger.search)}; each from fresh weights and with the same seed"
        return f"{told}. What is searched: {space}; pruner: {ledger.search['pruner']}."
    axes = "; ".join(f"{axis}: {', '.join(map(str, values))}" for axis, values in ledger.grid.items()) or "nothing but the seed"
    seeds = f"{len(ledger.seeds)} seed{'' if len(ledger.seeds) == 1 else 's'}"
    return f"{len(ledger.members)} trainings from fresh weights, {seeds} each. What is varied: {axes}."


def _sections_of(run: RunFacts | None) -> dict[str, str]:
    """The sections of the run that a study's page shows: of one without weights, those that need none."""
    if run is None:
        return {}
    return {name: title for name, title in _RUN_OF_STUDY.items() if run.has_weights or name in _WITHOUT_WEIGHTS}


def _instead(study: StudyFacts) -> str:
    """Why the run shown is none of the chosen combination, where one was chosen."""
    chosen = study.ledger.combinations.get(study.chosen or "", [])
    if not chosen or study.run is None or study.run.name in [member.name for member in chosen]:
        return ""
    return f" It is shown because no weights of the chosen {study.chosen} are in the study's folder."


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
