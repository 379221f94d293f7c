"""An audit for people and for programs: the verdict and its tables, and audit.json with what it was made on."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from rich.console import Group, RenderableType
from rich.text import Text

from vaelid.auditing.findings import AuditReport, Finding
from vaelid.environment import describe_machine
from vaelid.errors import UserError
from vaelid.folder import RunFolder
from vaelid.reporting.tables import simple_table

_MEANS = {
    "pass": "No test refutes that sampler, density, gradients and formulas belong to one distribution",
    "fail": "The part is not what it says it is; each failed line says why, and whom it points at",
    "undecided": "Nothing failed, but what is undecided could not be tested, and that is no pass",
}


def place_of_audit(target: str, out: Path | None) -> Path | None:
    """The file for audit.json: ``out``, or in the run folder ``target``; None for a part without ``out``.

    Raises:
        UserError: if ``out`` is a folder.
    """
    if out is not None and out.is_dir():
        raise UserError(f"--out takes a file; {out} is a folder.", f"For example: --out {out / 'audit.json'}")
    folder = RunFolder(target)
    return out or (folder.audit_file if folder.exists else None)


def audit_document(report: AuditReport) -> str:
    """The text of audit.json: all findings, versions and machine, and for a run the weights that were looked at."""
    weights = {"weights": report.weights} if report.weights else {}
    environment = {**describe_machine(torch.device("cpu")), **weights}
    return json.dumps({**report.to_dict(), "environment": environment}, indent=2, ensure_ascii=False) + "\n"


def audit_table(report: AuditReport, everything: bool = False) -> RenderableType:
    """The verdict and how sure it is; what failed or is undecided, in full; a line per group of tests, or ``everything``."""
    head, rows = report.table()
    open_ = [row for finding, row in zip(report.findings, rows, strict=True) if finding.verdict in ("fail", "undecided")]
    how = f"seed {report.seed}{', quick' if report.quick else ''}, {report.seconds:.1f} s"
    verdict = [
        Text(f"audit of {report.target}: {report.verdict} ({_counts(report.findings)})", style="bold"),
        Text(f"{_MEANS[report.verdict]}."),
        Text(f"All p-values judged together (Holm), family-wise error {report.level:.1%}; {how}."),
    ]
    if everything:
        return Group(*verdict, simple_table("every hypothesis", head, rows, lines=True))
    in_full = [simple_table("failed or undecided", head, open_, lines=True)] if open_ else []
    groups = simple_table(
        "all tests (--verbose: every hypothesis)",
        ("part", "test", "hypotheses", "least p-value, or largest error; why skipped"),
        _groups(report),
    )
    return Group(*verdict, *in_full, groups)


def _groups(report: AuditReport) -> list[tuple[str, str, str, str]]:
    """One row for each test of each part: how its hypotheses fared, and the evidence of the one that came nearest to failing."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in report.findings:
        groups.setdefault((finding.part, finding.test), []).append(finding)
    return [(*key, _counts(found), _evidence(found)) for key, found in groups.items()]


def _evidence(found: Sequence[Finding]) -> str:
    """The evidence that came nearest to failing, and why what was skipped was."""
    why = list(dict.fromkeys(finding.meaning for finding in found if finding.verdict == "skipped"))
    said = [min(found, key=_margin).evidence, *([f"skipped: {'; '.join(why)}"] if why else [])]
    return "; ".join(filter(None, said))


def _margin(finding: Finding) -> float:
    """How far from failing, for a comparison within one test: small is near."""
    if finding.p_value is not None and not math.isnan(finding.p_value):
        return finding.p_value
    if finding.error is None or not finding.tolerance:
        return math.inf
    return 1 - finding.error / finding.tolerance


def _counts(findings: Iterable[Finding]) -> str:
    counts = Counter(finding.verdict for finding in findings)
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in ("fail", "undecided", "pass", "skipped") if counts[verdict])
