"""Verbs that judge: ``evaluate``, ``compare``, ``audit``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from vaelid.cli.options import AllowCode, Device, RunArgument, Seed, Split, opened_run, pairs


def evaluate(
    run: RunArgument,
    split: Split = "test",
    samples: Annotated[int, typer.Option(metavar="K", help="Samples of the importance-weighted bound.")] = 5000,
    elbo_samples: Annotated[int, typer.Option(metavar="S", help="Draws per image for −ELBO.")] = 10,
    limit: Annotated[int | None, typer.Option(metavar="N", help="Only the first N images of the split.")] = None,
    seed: Seed = 0,
    batch: Annotated[int, typer.Option(metavar="N", help="Images looked at together; of no influence on the numbers.")] = 50,
    input_: Annotated[list[Path] | None, typer.Option("--input", metavar="FILE", help="New images instead; repeatable.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Print numbers that a check says are no likelihoods, with what failed beside them.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print results.json's entry instead of a table.")] = False,
    device: Device = "auto",
    allow_code: AllowCode = False,
) -> None:
    """Bounds on log p(x) with their errors, on a split or on new images; writes results and figures."""
    from vaelid.progress import default_reporter
    from vaelid.reporting.figures import figures_folder
    from vaelid.reporting.tables import ranking, results_table, show

    opened, name = opened_run(run, device, allow_code), "input" if input_ else split
    ranked: list[tuple[str, float]] = []
    with default_reporter() as reporter:
        how: dict[str, Any] = {"elbo_samples": elbo_samples, "seed": seed, "images": batch, "force": force, "reporter": reporter}
        if input_:
            ranked = opened.evaluate_files(input_, samples, **how)
        else:
            opened.evaluate(split, samples, limit=limit, **how)
    results = opened.results[name]
    if as_json:
        images = {"ranking": [{"image": image, "nll": value} for image, value in ranked]} if ranked else {}
        print(json.dumps({name: {**results, **images}}, indent=2))
        return
    show(results_table(str(run), results))
    if ranked:
        show(ranking(ranked, results["kind"], most=20))
    print(f"results: {opened.folder.results_file}   figures: {figures_folder(opened.folder, name)}")


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
        show(audit_table(report))
        print(f"written: {file}" if file else "not written: name a file with --out")
    raise typer.Exit(report.exit_code)
