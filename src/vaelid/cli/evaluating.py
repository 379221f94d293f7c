"""The verb ``evaluate``: bounds on log p(x), and what goes beyond them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vaelid.cli.options import AllowCode, Device, RunArgument, Seed, Split, opened_run
from vaelid.errors import UserError

if TYPE_CHECKING:
    from vaelid.beyond import Beyond

_SIMULATED = 100
Samples = Annotated[int, typer.Option(metavar="K", help="Samples of the importance-weighted bound.")]
ElboSamples = Annotated[int, typer.Option(metavar="S", help="Draws per image for −ELBO.")]
Limit = Annotated[
    int | None, typer.Option(metavar="N", help="Only the first N images of the split; images drawn for --bdmc (100).")
]
Batch = Annotated[int, typer.Option(metavar="N", help="Images looked at together; of no influence on the numbers.")]
DecoderPrecision = Annotated[
    str,
    typer.Option(help="float32, or bfloat16: a faster K-sample bound on some processors, with its measured error beside it."),
]
Input = Annotated[list[Path] | None, typer.Option("--input", metavar="FILE", help="New images instead; repeatable.")]
Ais = Annotated[bool, typer.Option("--ais", help="Annealed importance sampling, too: a far tighter bound, at a price.")]
Bdmc = Annotated[bool, typer.Option("--bdmc", help="The measured error of these bounds, on images drawn from the model.")]
Gaps = Annotated[bool, typer.Option("--gaps", help="Where the ELBO loses: the family of q, or the encoder (with --ais).")]
Aggregate = Annotated[bool, typer.Option("--aggregate", help="Mutual information, and KL of the aggregate posterior.")]
Steps = Annotated[int | None, typer.Option("--ais-steps", metavar="N", help="Temperatures of AIS and BDMC (100).")]
Chains = Annotated[int | None, typer.Option(metavar="M", help="Chains per image of AIS and BDMC (16).")]
Start = Annotated[str | None, typer.Option("--ais-start", help="Where chains start: encoder (usual) or prior.")]
Force = Annotated[
    bool, typer.Option("--force", help="Print numbers that a check says are no likelihoods, with what failed beside them.")
]
Json = Annotated[bool, typer.Option("--json", help="Print results.json's entry instead of a table.")]


def evaluate(
    run: RunArgument,
    split: Split = "test",
    samples: Samples = 5000,
    elbo_samples: ElboSamples = 10,
    limit: Limit = None,
    seed: Seed = 0,
    batch: Batch = 50,
    decoder_precision: DecoderPrecision = "float32",
    input_: Input = None,
    ais: Ais = False,
    bdmc: Bdmc = False,
    gaps: Gaps = False,
    aggregate: Aggregate = False,
    ais_steps: Steps = None,
    chains: Chains = None,
    ais_start: Start = None,
    force: Force = False,
    as_json: Json = False,
    device: Device = "auto",
    allow_code: AllowCode = False,
) -> None:
    """Bounds on log p(x) with their errors, on a split or on new images; writes results and figures."""
    from vaelid.progress import default_reporter
    from vaelid.reporting.beyond import bdmc_tables, beyond_tables
    from vaelid.reporting.figures import figures_folder
    from vaelid.reporting.tables import ranking, results_table, show

    asked = {"ais": ais, "bdmc": bdmc, "gaps": gaps, "aggregate": aggregate}
    beyond = _beyond(asked, {"steps": ais_steps, "chains": chains, "start": ais_start}, seed, limit)
    opened, name = opened_run(run, device, allow_code), "input" if input_ else split
    ranked: list[tuple[str, float]] = []
    how: dict[str, Any] = {"elbo_samples": elbo_samples, "seed": seed, "images": batch, "decoder_precision": decoder_precision}
    how |= {"force": force, "beyond": beyond}
    with default_reporter() as reporter:
        if input_:
            ranked = opened.evaluate_files(input_, samples, **how, reporter=reporter)
        else:
            opened.evaluate(split, samples, limit=limit, **how, reporter=reporter)
    results = opened.results
    found, simulated = results[name], {"bdmc": results["bdmc"]} if bdmc else {}
    if as_json:
        images = {"ranking": [{"image": image, "nll": value} for image, value in ranked]} if ranked else {}
        print(json.dumps({name: {**found, **images}, **simulated}, indent=2))
        return
    show(results_table(str(run), found), *beyond_tables(found), *bdmc_tables(simulated))
    if ranked:
        show(ranking(ranked, found["kind"], most=20))
    print(f"results: {opened.folder.results_file}   figures: {figures_folder(opened.folder, name)}")


def _beyond(asked: dict[str, bool], annealing: dict[str, Any], seed: int, limit: int | None) -> Beyond:
    """What goes beyond the bounds.

    Raises:
        UserError: for options of AIS without it.
    """
    from vaelid.beyond import Beyond
    from vaelid.evaluation.ais import AisPlan

    given = {name: value for name, value in annealing.items() if value is not None}
    if given and not (asked["ais"] or asked["bdmc"] or asked["gaps"]):
        option = {"steps": "--ais-steps", "chains": "--chains", "start": "--ais-start"}[next(iter(given))]
        raise UserError(f"{option} is about annealing, which is not asked for.", "Add --ais, --bdmc or --gaps.")
    if limit is not None and limit < 1:
        raise UserError(f"limit must be at least 1; it is {limit}.")
    return Beyond(**asked, annealing=AisPlan(**given, seed=seed), simulated=_SIMULATED if limit is None else limit)
