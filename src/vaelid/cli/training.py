"""Verbs that make a run: ``train``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from vaelid.cli import train_options as options
from vaelid.cli.options import Device, Engine, Set


def train(
    data: options.Data = None,
    recipe: options.RecipeName = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; default: runs/DATA-HASH.")] = None,
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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved recipe and train nothing.")] = False,
) -> None:
    """Train a VAE. The same command again goes on where it was interrupted."""
    settings = options.settings_of(dict(locals()))
    from vaelid.training.request import request
    from vaelid.training.start import Conditions, choose_device
    from vaelid.training.tracking import trackers_of

    conditions = Conditions(choose_device(device), overwrite, engine, init_from, trackers=trackers_of(track or []))
    asked = request(data, recipe, out, settings)
    if dry_run:
        print(asked.recipe.resolve(asked.code_from).to_toml(unset=True), end="")
        print(f"# would train in {asked.folder.path}", file=sys.stderr)
        return
    from vaelid.progress import default_reporter
    from vaelid.reporting.tables import run_summary, show, words_of_count
    from vaelid.run import carry_out

    pixels = f"{words_of_count(len(asked.data.train), asked.data.train.available, 'training')}, pixels {asked.data.support}"
    with default_reporter() as reporter:
        reporter.say(f"{asked.data.name}: {pixels}; likelihood {asked.recipe.likelihood.name}; run folder {asked.folder.path}")
        for skipped in asked.data.train.images.skipped:
            reporter.say(f"left out (--skip-bad): {skipped}")
        run = carry_out(asked, conditions, reporter)
    show(run_summary(run.folder, run.recipe, run.about))
    print(f"next: vaelid evaluate {run.folder.path}")
