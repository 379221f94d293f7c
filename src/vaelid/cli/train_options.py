"""The options of ``train``, which ``study`` takes as well."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vaelid.cli.options import pairs
from vaelid.settings import CommandText

Data = Annotated[
    str | None, typer.Argument(metavar="DATA", help="A name (`data list`), array file or folder of images; default: digits.")
]
RecipeName = Annotated[str | None, typer.Option(help="Built-in recipe or TOML file; default: the one named like DATA.")]
PartName = Annotated[str | None, typer.Option(help="Name, or FILE.py:CLASS.")]
Latent = Annotated[int | None, typer.Option(metavar="N", help="Latent dimensions.")]
Components = Annotated[int | None, typer.Option(metavar="N", help="Components of a mixture prior.")]
Hidden = Annotated[str | None, typer.Option(metavar="N,N", help="Hidden widths; the decoder gets them in reverse.")]
Epochs = Annotated[int | None, typer.Option(metavar="N", help="At most so many epochs.")]
BatchSize = Annotated[int | None, typer.Option(metavar="N", help="Images per step.")]
Rate = Annotated[float | None, typer.Option(metavar="X", help="Learning rate.")]
Optimizer = Annotated[str | None, typer.Option(help="adamax, adam, adamw or sgd.")]
Schedule = Annotated[str | None, typer.Option(help="constant, cosine, plateau or staged.")]
Beta = Annotated[float | None, typer.Option(metavar="X", help="Weight of the KL.")]
Patience = Annotated[
    int | None, typer.Option(metavar="N", help="Stop after more than N epochs in a row without improvement; 0: never.")
]
FirstSeed = Annotated[int | None, typer.Option(metavar="N", help="Seed of weights, order and noise.")]
Binarization = Annotated[str | None, typer.Option(help="dynamic, resampled, threshold or none.")]
InitFrom = Annotated[Path | None, typer.Option(metavar="RUN", help="Start from the weights of a trained run.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Go on without unreadable image files.")]
Track = Annotated[
    list[str] | None, typer.Option(metavar="NAME", help="Tell every epoch to tensorboard, wandb or mlflow; repeatable.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Start afresh in a folder that holds a run or study.")]


def settings_of(given: dict[str, Any]) -> dict[str, Any]:
    """The settings among a verb's options: the short options are called like the short names of settings."""
    from vaelid.recipe import SHORTCUTS

    settings = {name: given[name] for name in SHORTCUTS if given[name] is not None}
    settings = {name: CommandText(value) if isinstance(value, str) else value for name, value in settings.items()}
    settings |= {"data.skip_bad": True} if given["skip_bad"] else {}
    return settings | pairs(given["set_"])
