"""The verb ``score``: how good the images are, beside real data and independent pixels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from vaelid.cli.options import AllowCode, Device, RunArgument, Seed, opened_run


def score(
    run: RunArgument,
    split: Annotated[str, typer.Option(help="The reference: train, validation or test.")] = "test",
    n: Annotated[
        int | None, typer.Option("-n", metavar="N", help="Images per set; default: 10,000, or as many as are real.")
    ] = None,
    extractor: Annotated[str, typer.Option(help="auto, classifier, random-projection or inception.")] = "auto",
    weights: Annotated[Path | None, typer.Option(metavar="FILE", help="The published Inception weights.")] = None,
    draw: Annotated[bool, typer.Option("--draw/--mean", help="Pixels drawn from p(x|z), or its means.")] = True,
    seed: Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the entry of results.json instead of a table.")] = False,
    device: Device = "auto",
    allow_code: AllowCode = False,
) -> None:
    """Sample quality: Fréchet and kernel distance, precision, recall …, each beside real data and independent pixels."""
    from vaelid.progress import default_reporter
    from vaelid.reporting.scores import score_table
    from vaelid.reporting.tables import show

    opened = opened_run(run, device, allow_code)
    with default_reporter() as reporter:
        found = opened.score(split, n, extractor=extractor, weights=weights, means=not draw, seed=seed, reporter=reporter)
    if as_json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return
    show(score_table(str(run), found, opened.weights_digest))
    print(f"results: {opened.folder.results_file}")
