"""Reports for tests: tiny runs and studies, made without training, and what a page holds."""

from __future__ import annotations

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from tiny_runs import evaluated
from vaelid.folder import RunFolder
from vaelid.run import Run
from vaelid.sweeps.ledger import Ledger, Member, StudyFolder
from vaelid.sweeps.selection import choose
from vaelid.sweeps.summary import Summary
from vaelid.usercode import sha256

SCORE = "test/draws/classifier"


def finding(
    verdict: str = "pass", part: str = "prior", meaning: str = "the density integrates to e^2 instead of 1"
) -> dict[str, Any]:
    """One finding of an audit, as audit.json has it."""
    return {
        "test": "normalization",
        "part": part,
        "hypothesis": "the density integrates to one",
        "verdict": verdict,
        "meaning": meaning,
        "guilty": "",
        "statistic": 3.2,
        "p_value": 0.5,
        "error": None,
        "tolerance": None,
        "detail": {},
    }


def add_audit(folder: RunFolder, *verdicts: str) -> None:
    """An audit of the run's weights with findings of these verdicts."""
    worst = next((v for v in ("fail", "undecided") if v in verdicts), "pass")
    head = {
        "target": str(folder.path),
        "verdict": worst,
        "exit_code": 0,
        "level": 1e-3,
        "seed": 0,
        "quick": False,
        "seconds": 1.0,
    }
    folder.write_json(folder.audit_file, {**head, "findings": [finding(v) for v in verdicts], "environment": made(folder)})


def add_scores(folder: RunFolder, fd: tuple[float, float, float] = (20.0, 3.0, 70.0)) -> None:
    """Scores of the run's weights: Fréchet distance of model, real images and independent pixels; and others that are quiet."""

    def row(better: str, *values: float) -> dict[str, Any]:
        summaries = [{"value": value, "se": 0.1, "interval": [value - 0.2, value + 0.2]} for value in values]
        return {"better": better, **dict(zip(("model", "real", "trivial"), summaries, strict=True))}

    scores = {
        "FD-classifier": row("lower", *fd),
        "IS-classifier": row("higher", 5.0, 8.0, 3.0),
        "coverage-classifier": row("higher", 0.8, 0.9, 0.2),
        "C_T-classifier": row("near 0", 0.5, 0.1, 5.0),
    }
    sets = {name: {"split": split} for name, split in (("reference", "test"), ("real", "validation"))}
    entry = {
        "scores": scores,
        "images_per_set": 30,
        "pixels": "draws from p(x|z)",
        "sets": sets,
        "seed": 0,
        "extractor": {"name": "classifier", "sha256": "ab" * 32},
        "environment": made(folder),
    }
    results = folder.read_json(folder.results_file)
    folder.write_json(folder.results_file, {**results, "scores": {SCORE: entry}})


def made(folder: RunFolder) -> dict[str, Any]:
    """Where a number of this run was made, as results.json says it."""
    return {**folder.read_json(folder.environment_file), "weights": sha256(folder.weights_file)}


def whole(folder: Path, name: str = "run") -> Run:
    """A tiny run that is evaluated, audited and scored."""
    run = evaluated(folder, name)
    add_audit(run.folder, "pass", "pass")
    add_scores(run.folder)
    return run


def small_study(folder: Path, values: dict[str, float] | None = None, **statuses: str) -> StudyFolder:
    """A study of learning rates whose members are copies of the tiny run, with curves that end at these values."""
    study, ledger = StudyFolder(folder / "study"), Ledger(grid={"lr": ["0.001", "0.01", "0.1"]}, seeds=[0, 1])
    run = whole(folder, "template")
    for number, (combination, value) in enumerate((values or {"lr=0.001": 90.0, "lr=0.01": 80.0, "lr=0.1": 85.0}).items()):
        for seed in (0, 1):
            name, status = f"{combination},seed={seed}", statuses.get(f"m{number}", "finished")
            own = {"optimizer.lr": float(combination.partition("=")[2]), "training.seed": seed}
            message = "the loss became nan" if status == "diverged" else ""
            ledger.members[name] = Member(name, combination, seed, own, {}, "f", "probability", status, message)
            member = RunFolder(shutil.copytree(run.folder.path, study.path / name))
            member.keep_metrics(0)
            last = {**run.metrics[-1], "change_se": 0.1}
            for epoch, above in enumerate(np.geomspace(20, 0.01, 20), 1):
                member.append_metrics({**last, "epoch": epoch, "neg_elbo": value + 0.1 * seed + float(above)})
            member.write_json(member.environment_file, {**run.about, "outcome": "all 20 epochs done"})
    study.write(ledger)
    ledger.selection = choose(ledger, {name: seen.kept for name, seen in Summary(study.path).members.items()})
    nll = {"name": "bound, K = 20", "value": 79.0, "se": 0.5, "direction": "upper"}
    look = {"neg_elbo": {"value": 81.0}, "nll": nll, "samples": 20}
    if ledger.selection["chosen"]:
        chosen = ledger.combinations[ledger.selection["chosen"]][0]
        ledger.test.append({"member": chosen.name, "combination": chosen.combination, "role": "chosen", **look})
    study.write(ledger)
    return study


class Parsed(HTMLParser):
    """A page's elements, texts and addresses."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.pieces: list[str] = []
        self._silent = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self._silent = tag in ("style", "script")

    def handle_endtag(self, tag: str) -> None:
        self._silent = False

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.pieces.append(data)

    @property
    def text(self) -> str:
        """All that is read, spaces folded."""
        return " ".join("".join(self.pieces).split())

    def all(self, *tags: str) -> list[dict[str, str]]:
        """The attributes of all elements with one of these tags."""
        return [attributes for tag, attributes in self.elements if tag in tags]


def changed(file: Path, **changes: Any) -> None:
    """Replace entries at the top of a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
