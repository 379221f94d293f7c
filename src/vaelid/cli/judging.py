"""Verbs that judge a run: ``evaluate``, ``compare``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from vaelid.cli.options import AllowCode, Device, RunArgument, Seed, Split, opened_run


def evaluate(
    run: RunArgument,
    split: Split = "test",
    samples: Annotated[int, typer.Option(metavar="K", help="Samples of the importance-weighted bound.")] = 5000,
    elbo_samples: Annotated[int, typer.Option(metavar="S", help="Draws per image for −ELBO.")] = 10,
    limit: Annotated[int | None, typer.Option(metavar="N", help="Only the first N images of the split.")] = None,
    seed: Seed = 0,
    batch: Annotated[int, typer.Option(metavar="N", help="Images looked at together; of no influence on the numbers.")] = 50,
    input_: Annotated[list[Path] | None, typer.Option("--input", metavar="FILE", help="New images instead; repeatable.")] = None,
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
        if input_:
            ranked = opened.evaluate_files(input_, samples, elbo_samples=elbo_samples, seed=seed, images=batch, reporter=reporter)
        else:
            opened.evaluate(split, samples, elbo_samples=elbo_samples, limit=limit, seed=seed, images=batch, reporter=reporter)
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
