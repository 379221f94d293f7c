"""An audit for people and for programs: the table of findings, and audit.json with what it was made on."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import torch
from rich.console import Group, RenderableType
from rich.text import Text

from vaelid.auditing.findings import AuditReport
from vaelid.environment import describe_machine
from vaelid.errors import UserError
from vaelid.folder import RunFolder
from vaelid.reporting.tables import simple_table
from vaelid.usercode import sha256

_MEANS = {
    "pass": "no test refutes that sampler, density, gradients and formulas belong to one distribution",
    "fail": "the part is not what it says it is; each failed line says why, and whom it points at",
    "undecided": "nothing failed, but what is undecided could not be tested, and that is no pass",
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
    folder = RunFolder(report.target)
    weights = {"weights": sha256(folder.weights_file)} if folder.exists else {}
    environment = {**describe_machine(torch.device("cpu")), **weights}
    return json.dumps({**report.to_dict(), "environment": environment}, indent=2, ensure_ascii=False) + "\n"


def audit_table(report: AuditReport) -> RenderableType:
    """One line per hypothesis; below it the verdict, and how sure it is."""
    head, rows = report.table()
    counts = Counter(finding.verdict for finding in report.findings)
    counted = ", ".join(f"{counts[verdict]} {verdict}" for verdict in ("fail", "undecided", "pass", "skipped") if counts[verdict])
    how = f"seed {report.seed}{', quick' if report.quick else ''}, {report.seconds:.1f} s"
    return Group(
        simple_table(f"audit of {report.target}", head, rows, lines=True),
        Text(f"{report.verdict} ({counted}): {_MEANS[report.verdict]}."),
        Text(f"All p-values judged together (Holm), family-wise error {report.level:.1%}; {how}."),
    )
