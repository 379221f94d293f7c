"""The command line: one thin function per verb. Imports wait inside the verbs, so that ``--help`` answers at once."""

from __future__ import annotations

from vaelid.cli.evaluating import evaluate
from vaelid.cli.images import encode, interpolate, reconstruct, sample
from vaelid.cli.judging import audit, compare
from vaelid.cli.looking import data_app, parts, recipes_app, show
from vaelid.cli.program import app, main
from vaelid.cli.reporting import report
from vaelid.cli.scoring import score
from vaelid.cli.studying import study
from vaelid.cli.training import train

__all__ = ["app", "main"]

for verb in (train, study, evaluate, compare, audit, score, report, sample, reconstruct, interpolate, encode, show, parts):
    app.command()(verb)
app.add_typer(data_app, name="data")
app.add_typer(recipes_app, name="recipes")
