"""What a run's folder says: everything the page is made of, read once. Runs none of the run's code and loads no weights.

A number counts only if it was measured on the weights that the run has now; what is missing is named with its command.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from vaelid.evaluation.bdmc import BDMC
from vaelid.folder import DIVERGED, RunFolder
from vaelid.recipe import Recipe
from vaelid.scoring.score import SCORES
from vaelid.sweeps import curves
from vaelid.usercode import sha256

Arrays = dict[str, np.ndarray]
#: What a page wants measured, in the order in which it is measured.
EVALUATION, AUDIT, SCORING = "evaluation", "audit", "scores"
#: The split that a page is about.
SPLIT = "test"


@dataclass(frozen=True)
class Missing:
    """Something that was not measured: which of the three, the command that measures it, and why there is nothing.

    Without weights in the folder the command is empty: nothing here measures it.
    """

    what: str
    command: str
    why: str


@dataclass(frozen=True)
class RunFacts:
    """A run's folder, read.

    Attributes:
        about: environment.json
        found: the entry of the test split in results.json; empty if it was not evaluated
        values: per-image values of that entry; shown: the pictures that belong to it
        audit: audit.json; empty if these weights were not audited
        scores: the entry of ``scores`` that is shown, and its key in results.json; empty likewise
        missing: what was not measured, by its name
    """

    folder: RunFolder
    recipe: Recipe
    about: Mapping[str, Any]
    history: list[dict[str, Any]]
    found: Mapping[str, Any]
    values: Arrays
    shown: Arrays
    audit: Mapping[str, Any]
    scores: Mapping[str, Any]
    bdmc: Mapping[str, Any]
    missing: Mapping[str, Missing]

    @property
    def name(self) -> str:
        """The run's folder, by its last part."""
        return self.folder.path.resolve().name

    @cached_property
    def curve(self) -> curves.Facts:
        """What the validation curve says."""
        outcome = self.about.get("outcome") or ""
        ended = curves.DIVERGED if outcome.startswith(DIVERGED) else curves.FINISHED
        return curves.look(curves.curve_of(self.history, ended if outcome else "running", outcome))

    @property
    def has_weights(self) -> bool:
        """Whether its trained weights lie in the folder; a copy of its small files has none."""
        return self.folder.weights_file.is_file()

    @property
    def redraws(self) -> bool:
        """Whether validation sees other pixels of its images in every epoch."""
        return self.recipe.data.binarization == "resampled"

    @property
    def discrete(self) -> bool | None:
        """Whether its numbers are probabilities; None before an evaluation."""
        return None if not self.found else self.found["kind"] == "probability"

    @property
    def pixels(self) -> int:
        """D."""
        return int(np.prod(self.about["data"]["shape"]))

    def real(self, count: int) -> np.ndarray | None:
        """Training images as pictures on the [0, 1] scale, ``(count, *X)`` at most."""
        found = self.folder.read_arrays(self.folder.real_file)
        return found["images"][:count] if found else None

    def generated(self) -> np.ndarray | None:
        """Pixel means of 16 images of the model: of the evaluation, else of the last improved epoch."""
        if "means" in self.shown:
            return self.shown["means"]
        progress = self.folder.read_arrays(self.folder.progress_file)
        return progress["means"][-1] / 255.0 if progress else None


def read_run(path: Path | str, problems: Mapping[str, str] | None = None) -> RunFacts:
    """Read a run's folder.

    Args:
        problems: why something could not be measured, by its name

    Raises:
        RunError: if there is no run, or a file of it is damaged.
    """
    folder = RunFolder(path).require()
    weights = sha256(folder.weights_file) if folder.weights_file.is_file() else ""
    results = folder.read_json(folder.results_file)
    found, audit = results.get(SPLIT, {}), folder.read_json(folder.audit_file)
    if not weights:  # without them nothing can be measured, whatever else stands in the way
        problems = dict.fromkeys((EVALUATION, AUDIT, SCORING), _without_weights(folder))
    fresh = {
        EVALUATION: _is_of(found, weights),
        AUDIT: _is_of(audit, weights),
        SCORING: _scores_of(results, weights) is not None,
    }
    known = {EVALUATION: bool(found), AUDIT: bool(audit), SCORING: SCORES in results}
    bdmc = results.get(BDMC, {})
    evaluated = fresh[EVALUATION]
    return RunFacts(
        folder=folder,
        recipe=folder.recipe(),
        about=folder.read_json(folder.environment_file),
        history=folder.metrics(),
        found=found if evaluated else {},
        values=folder.read_arrays(folder.results / f"{SPLIT}.npz") if evaluated else {},
        shown=folder.read_arrays(folder.samples / f"{SPLIT}.npz") if evaluated else {},
        audit=audit if fresh[AUDIT] else {},
        scores=_scores_of(results, weights) or {},
        bdmc=bdmc if _is_of(bdmc, weights) else {},
        missing={
            what: Missing(what, command_of(what, folder.path) if weights else "", _why(what, known[what], problems or {}))
            for what in fresh
            if not fresh[what]
        },
    )


def command_of(what: str, path: Path) -> str:
    """The command that measures something of a run.

    >>> command_of("scores", Path("runs/a b"))
    "vaelid score 'runs/a b'"
    """
    verb = {EVALUATION: "evaluate", AUDIT: "audit", SCORING: "score"}[what]
    return f"vaelid {verb} {shlex.quote(str(path))}"


def _is_of(entry: Mapping[str, Any], weights: str) -> bool:
    return bool(weights) and entry.get("environment", {}).get("weights") == weights


def _scores_of(results: Mapping[str, Any], weights: str) -> dict[str, Any] | None:
    """The scores against the test split that say most: of draws before means, of learned features before random ones."""
    known = {name: found for name, found in results.get(SCORES, {}).items() if _is_of(found, weights)}
    wanted = [name for name in known if name.startswith(f"{SPLIT}/")]
    if not wanted:
        return None
    order = ("inception", "classifier", "random-projection")

    def rank(name: str) -> tuple[bool, int]:
        _, pixels, extractor = name.split("/", 2)
        return pixels != "draws", order.index(extractor) if extractor in order else len(order)

    best = min(wanted, key=rank)
    return {**known[best], "key": best}


def _without_weights(folder: RunFolder) -> str:
    """Whether there are no weights yet, or a copy lacks them: a training saves them with its first checkpoint."""
    if folder.metrics() and not folder.checkpoints.is_dir():
        return f"its trained weights, {folder.weights_file.name}, are not in the folder, a copy of its small files"
    return "the run has no trained weights yet"


def _why(what: str, known: bool, problems: Mapping[str, str]) -> str:
    if what in problems:
        return problems[what]
    return "the numbers that are there belong to other weights than the run has now" if known else "not done yet"
