"""Verbs that make a run: ``train``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from vaelid.cli.options import Device, Set, pairs


def train(
    data: Annotated[
        str | None, typer.Argument(metavar="DATA", help="A name (`data list`), array file or folder of images.")
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="Built-in recipe or TOML file; default: the one named like DATA.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; default: runs/DATA-HASH.")] = None,
    prior: Annotated[str | None, typer.Option(help="Name, or FILE.py:CLASS.")] = None,
    likelihood: Annotated[str | None, typer.Option(help="Name, or FILE.py:CLASS.")] = None,
    posterior: Annotated[str | None, typer.Option(help="Name, or FILE.py:CLASS.")] = None,
    latent: Annotated[int | None, typer.Option(metavar="N", help="Latent dimensions.")] = None,
    components: Annotated[int | None, typer.Option(metavar="N", help="Components of a mixture prior.")] = None,
    hidden: Annotated[str | None, typer.Option(metavar="N,N", help="Hidden widths; the decoder gets them in reverse.")] = None,
    epochs: Annotated[int | None, typer.Option(metavar="N", help="At most so many epochs.")] = None,
    batch_size: Annotated[int | None, typer.Option(metavar="N", help="Images per step.")] = None,
    lr: Annotated[float | None, typer.Option(metavar="X", help="Learning rate.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="adamax, adam, adamw or sgd.")] = None,
    schedule: Annotated[str | None, typer.Option(help="constant, cosine, plateau or staged.")] = None,
    beta: Annotated[float | None, typer.Option(metavar="X", help="Weight of the KL.")] = None,
    patience: Annotated[int | None, typer.Option(metavar="N", help="Epochs without improvement; 0: no limit.")] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Seed of weights, order and noise.")] = None,
    binarization: Annotated[str | None, typer.Option(help="dynamic, resampled, threshold or none.")] = None,
    set_: Set = None,
    device: Device = "auto",
    init_from: Annotated[Path | None, typer.Option(metavar="RUN", help="Start from the weights of a trained run.")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Go on without unreadable image files.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start afresh in a folder that holds a run.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved recipe and train nothing.")] = False,
) -> None:
    """Train a VAE. The same command again goes on where it was interrupted."""
    given = dict(locals())  # the short options are called like the short names of settings
    from vaelid.recipe import SHORTCUTS
    from vaelid.training.request import request

    settings = {name: given[name] for name in SHORTCUTS if given[name] is not None}
    settings |= {"data.skip_bad": True} if skip_bad else {}
    settings |= pairs(set_)
    asked = request(data, recipe, out, settings)
    if dry_run:
        print(asked.recipe.to_toml(), end="")
        print(f"# would train in {asked.folder.path}", file=sys.stderr)
        return
    from vaelid.progress import default_reporter
    from vaelid.reporting.tables import run_summary, show
    from vaelid.run import carry_out
    from vaelid.training.start import Conditions, choose_device

    conditions = Conditions(choose_device(device), overwrite, init_from)
    pixels = f"{len(asked.data.train):,} training images, pixels {asked.data.support}"
    with default_reporter() as reporter:
        reporter.say(f"{asked.data.name}: {pixels}; likelihood {asked.recipe.likelihood.name}; run folder {asked.folder.path}")
        for skipped in asked.data.train.images.skipped:
            reporter.say(f"left out (--skip-bad): {skipped}")
        run = carry_out(asked, conditions, reporter)
    show(run_summary(run.folder, run.recipe, run.about))
    print(f"next: vaelid evaluate {run.folder.path}")
