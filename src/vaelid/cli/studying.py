"""Verbs that train many runs: ``study``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vaelid.cli import train_options as options
from vaelid.cli.options import Device, Set

if TYPE_CHECKING:
    from vaelid.planning import Plan
    from vaelid.searching import SearchPlan

Grid = Annotated[
    list[str] | None,
    typer.Option(metavar="SETTING=V,V…", help="Values to try, ';' between those with commas; repeatable: all combinations."),
]
Search = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SETTING=KIND:…",
        help="Search instead of a grid: log:LOW:HIGH, float:…, int:…, log-int:…, choice:A,B; repeatable. Needs optuna.",
    ),
]
Trials = Annotated[int | None, typer.Option(metavar="N", help="Trials of a search, in all; may be raised later.")]
Pruner = Annotated[str, typer.Option(help="Stops bad trials of a search early: median, hyperband or none.")]
Seeds = Annotated[int, typer.Option(metavar="N", help="Seeds of each combination, counted from --seed.")]
Jobs = Annotated[int, typer.Option(metavar="N", help="Trainings at a time; the threads are divided among them.")]
Evaluate = Annotated[bool, typer.Option("--evaluate/--no-evaluate", help="Chosen and reference members on the test split.")]
Samples = Annotated[int, typer.Option(metavar="K", help="Samples of the importance-weighted bound on the test split.")]
Engine = Annotated[str, typer.Option(metavar="auto|eager|graph|compile|vectorized", help="vectorized: members train together.")]


def study(
    data: options.Data = None,
    out: Annotated[Path, typer.Option(help="Folder of the study.")] = ...,  # type: ignore[assignment]
    grid: Grid = None,
    search: Search = None,
    trials: Trials = None,
    pruner: Pruner = "median",
    seeds: Seeds = 1,
    jobs: Jobs = 1,
    evaluate: Evaluate = True,
    samples: Samples = 5000,
    recipe: options.RecipeName = None,
    prior: options.PartName = None,
    likelihood: options.PartName = None,
    posterior: options.PartName = None,
    latent: options.Latent = None,
    components: options.Components = None,
    hidden: options.Hidden = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    lr: options.Rate = None,
    optimizer: options.Optimizer = None,
    schedule: options.Schedule = None,
    beta: options.Beta = None,
    patience: options.Patience = None,
    seed: options.FirstSeed = None,
    binarization: options.Binarization = None,
    set_: Set = None,
    device: Device = "auto",
    engine: Engine = "auto",
    init_from: options.InitFrom = None,
    track: options.Track = None,
    skip_bad: options.SkipBad = False,
    overwrite: options.Overwrite = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the members and train nothing.")] = False,
) -> None:
    """Train a grid of settings with several seeds each, or search; say what the curves show. The same command again goes on."""
    settings = options.settings_of(dict(locals()))
    from vaelid.planning import Common, plan
    from vaelid.progress import default_reporter
    from vaelid.searching import SearchPlan, plan_search
    from vaelid.studying import Conclusion, carry_out_search, carry_out_study, require_one_way
    from vaelid.sweeps.grid import parse_axes
    from vaelid.sweeps.space import parse_space

    common = Common(data, recipe, settings, device, init_from, track=tuple(track or ()), engine=engine)
    conclusion = Conclusion(evaluate, samples, device)
    axes, ranges = parse_axes(grid or []), parse_space(search or [])
    require_one_way(axes, ranges, trials, seeds)
    planned = plan_search(out, common, ranges, trials or 0, pruner, jobs) if ranges else plan(out, common, axes, seeds, jobs)
    if dry_run:
        _list(planned)
        return
    with default_reporter() as reporter:
        if isinstance(planned, SearchPlan):
            carry_out_search(out, planned, conclusion, overwrite, reporter)
        else:
            carry_out_study(out, planned, jobs, conclusion, overwrite, reporter)
    _tell(out)


def _tell(out: Path) -> None:
    """Print what came out; exit 1 if a member failed."""
    from vaelid.reporting.studies import study_tables
    from vaelid.reporting.tables import show
    from vaelid.sweeps.summary import Summary

    summary = Summary(out)
    show(study_tables(summary))
    print(f"study: {summary.folder.file}   figures: {summary.folder.figures}")
    if any(member.status == "failed" for member in summary.ledger.members.values()):
        raise typer.Exit(1)


def _list(planned: Plan | SearchPlan) -> None:
    """Print every member with its own settings, or what a search would search."""
    from vaelid.reporting.tables import show, simple_table
    from vaelid.searching import SearchPlan

    if isinstance(planned, SearchPlan):
        known = {name: str(planned.known.get(name, "")) for name in planned.space}
        ranges = [(name, str(axis), known[name]) for name, axis in planned.space.items()]
        show(simple_table(f"{planned.trials} trials, pruner {planned.pruner}", ("setting", "search", "first trial"), ranges))
        return
    rows = [(name, " ".join(f"{key}={value}" for key, value in m.settings.items())) for name, m in planned.members.items()]
    show(simple_table(f"{len(rows)} members", ("member", "its own settings"), rows))
