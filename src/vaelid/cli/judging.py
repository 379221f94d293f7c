"""Verbs that judge what is there: ``compare``, ``audit``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vaelid.cli.options import AllowCode, Seed, Split, pairs


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN…", help="Evaluated runs; the first is the reference.")],
    split: Split = "test",
    anyway: Annotated[bool, typer.Option("--anyway", help="Compare what is not comparable, labeled so.")] = False,
) -> None:
    """Paired per-image differences between evaluated runs, with their standard errors."""
    from vaelid.reporting.tables import comparison_table, show
    from vaelid.run import compare as compare_runs

    show(comparison_table(compare_runs(*runs, split=split, anyway=anyway)))


def audit(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="Run folder, built-in part (prior:mixture), or FILE.py:CLASS.")],
    quick: Annotated[bool, typer.Option("--quick", help="Fewer draws, for an answer within seconds.")] = False,
    samples: Annotated[int | None, typer.Option(metavar="N", help="Draws per part; default 20,000.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Constructor argument of a part; repeatable.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where audit.json goes; default: into the run folder, if it is one.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print audit.json instead of a table.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Every hypothesis on a line of its own.")] = False,
    seed: Seed = 0,
    allow_code: AllowCode = False,
) -> None:
    """Test whether sampler, density, gradients and formulas agree. Exit code 0: they do, 3: they do not, 4: undecided."""
    settings = pairs(set_, "KEY=VALUE", "latent=8")
    from vaelid.auditing.audit import audit as audit_target
    from vaelid.folder import write_atomic
    from vaelid.reporting.audits import audit_document, audit_table, place_of_audit
    from vaelid.reporting.tables import show

    file = place_of_audit(target, out)  # refused before the work, not after it
    report = audit_target(target, quick=quick, samples=samples, seed=seed, settings=settings, allow_code=allow_code)
    document = audit_document(report)
    if file is not None:
        write_atomic(file, document.encode())
    if as_json:
        print(document, end="")
    else:
        show(audit_table(report, everything=verbose))
        print(f"written: {file}" if file else "not written: name a file with --out")
    raise typer.Exit(report.exit_code)
