"""What an audit says: one finding per hypothesis, and the report that holds them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from vaelid.auditing.statistics import holm

Verdict = Literal["pass", "fail", "undecided", "skipped"]

#: Family-wise error over all tests of an audit.
LEVEL = 1e-3
_EXIT = {"fail": 3, "undecided": 4, "pass": 0}


@dataclass(frozen=True)
class Finding:
    """One hypothesis about one part, and what became of it.

    Attributes:
        test: a name in ``TESTS``
        part: whose hypothesis: ``prior``, ``posterior``, ``likelihood``, ``model`` …
        hypothesis: what must hold
        verdict: ``skipped`` where the hypothesis does not apply (and says why); ``undecided`` is never a pass
        meaning: what the verdict means, in words
        guilty: the parameter, dimension or module that a failure points at
        statistic, p_value: of a statistical test; whether it fails is decided over the whole family
        error, tolerance: of a deterministic test
        detail: further numbers
    """

    test: str
    part: str
    hypothesis: str
    verdict: Verdict
    meaning: str = ""
    guilty: str = ""
    statistic: float | None = None
    p_value: float | None = None
    error: float | None = None
    tolerance: float | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)

    @property
    def evidence(self) -> str:
        """The number behind the verdict, for a table."""
        if self.p_value is not None and math.isnan(self.p_value):
            return "no number"
        if self.p_value is not None:
            return (
                f"z = {self.statistic:.1f}, p = {self.p_value:.1g}" if self.statistic is not None else f"p = {self.p_value:.1g}"
            )
        if self.error is not None:
            return f"error {self.error:.2g} (at most {self.tolerance:.2g})"
        return ""

    @property
    def words(self) -> str:
        """What a verdict other than pass means, and whom it points at; the hypothesis of a pass."""
        if self.verdict == "pass":
            return self.hypothesis
        return self.meaning if self.guilty in self.meaning else f"{self.meaning} ({self.guilty})"


@dataclass(frozen=True)
class AuditReport:
    """All findings of an audit; ``weights`` is the SHA-256 of the file that a run's model was read from."""

    target: str
    findings: tuple[Finding, ...]
    seed: int
    quick: bool
    seconds: float = 0.0
    level: float = LEVEL
    weights: str | None = None

    @property
    def failures(self) -> tuple[Finding, ...]:
        """Findings that failed, Holm's correction for the whole family included; in the order of the tests."""
        return tuple(f for f in self.findings if f.verdict == "fail")

    @property
    def verdict(self) -> Verdict:
        """A failure beats undecided, and undecided beats a pass; nothing tested is undecided, too."""
        verdicts = {f.verdict for f in self.findings}
        return next((v for v in ("fail", "undecided", "pass") if v in verdicts), "undecided")

    @property
    def exit_code(self) -> int:
        """0 all pass, 3 something failed, 4 undecided."""
        return _EXIT[self.verdict]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for ``audit.json``; numbers that JSON does not know become null."""
        head = {"target": self.target, "verdict": self.verdict, "exit_code": self.exit_code, "level": self.level}
        how = {"seed": self.seed, "quick": self.quick, "seconds": round(self.seconds, 2)}
        return {**head, **how, "findings": [_plain(asdict(f)) for f in self.findings]}

    def to_json(self) -> str:
        """The text of ``audit.json``: :meth:`to_dict`, with a newline at the end."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Head and rows for a terminal: part, test, verdict, evidence, and what a verdict other than pass means."""
        head = ("part", "test", "verdict", "evidence", "what it means")
        return head, [(f.part, f.test, f.verdict, f.evidence, f.words) for f in self.findings]

    def __str__(self) -> str:
        head = f"audit of {self.target}: {self.verdict} ({len(self.findings)} findings, {self.seconds:.1f} s)"
        lines = [
            f"  {f.verdict:9} {f.part} / {f.test}: {f.meaning} [{f.evidence}]"
            for f in self.findings
            if f.verdict not in ("pass", "skipped")
        ]
        return "\n".join([head, *lines])


def judged(findings: Sequence[Finding], level: float = LEVEL) -> tuple[Finding, ...]:
    """The findings with every p-value decided by Holm's procedure over the whole family; one that is no number is undecided."""
    decided = [_without_number(f) if f.p_value is not None and not math.isfinite(f.p_value) else f for f in findings]
    tested = [i for i, f in enumerate(decided) if f.p_value is not None and f.verdict in ("pass", "fail")]
    rejected = holm([decided[i].p_value or 0.0 for i in tested], level)
    for i, fails in zip(tested, rejected, strict=True):
        decided[i] = replace(decided[i], verdict="fail" if fails else "pass")
    return tuple(decided)


def _without_number(finding: Finding) -> Finding:
    """A statistical test whose values are NaN or infinite, or never vary, has tested nothing."""
    if finding.verdict not in ("pass", "fail"):
        return finding
    where = f" ({finding.guilty})" if finding.guilty else ""
    words = f"Not tested: the values that would decide {finding.hypothesis} are NaN, infinite, or never vary{where}"
    return replace(finding, verdict="undecided", meaning=words)


def exact(test: str, part: str, hypothesis: str, error: float, tolerance: float, meaning: str, guilty: str = "") -> Finding:
    """A finding of a deterministic test: it fails if the error is above the tolerance or is no number."""
    fails = not error <= tolerance
    return Finding(
        test, part, hypothesis, "fail" if fails else "pass", meaning, guilty if fails else "", error=error, tolerance=tolerance
    )


def rule(test: str, part: str, hypothesis: str, holds: bool, meaning: str, guilty: str = "") -> Finding:
    """A finding of a yes-or-no test."""
    return Finding(test, part, hypothesis, "pass" if holds else "fail", meaning, "" if holds else guilty)


def skipped(test: str, part: str, hypothesis: str, why: str) -> Finding:
    """A hypothesis that does not apply here."""
    return Finding(test, part, hypothesis, "skipped", why)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
