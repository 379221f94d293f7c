"""Options and arguments that several verbs share, and what verbs do with them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vaelid.errors import UserError
from vaelid.settings import CommandText

if TYPE_CHECKING:
    from vaelid.run import Run

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")]
Engine = Annotated[str, typer.Option(metavar="auto|eager|graph|compile", help="How steps are computed (docs/engines.md).")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
AllowCode = Annotated[bool, typer.Option("--allow-code", help="Run the user code that the folder brings along.")]
Picture = Annotated[Path, typer.Option(metavar="FILE", help="A .png, .pdf or .npy file.")]
Seed = Annotated[int, typer.Option(help="Names the random numbers.")]
Split = Annotated[str, typer.Option(help="train, validation or test.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any setting; repeatable.")]


def pairs(
    assignments: list[str] | None, form: str = "SECTION.KEY=VALUE", example: str = "optimizer.lr=1e-3"
) -> dict[str, CommandText]:
    """``["a=1"]`` -> ``{"a": "1"}``; the values are still to be read.

    Raises:
        UserError: for one without an equals sign; says the ``form`` that is asked for, with an ``example``.
    """
    for assignment in assignments or []:
        if "=" not in assignment:
            raise UserError(f"--set takes {form}; {assignment!r} came.", f"For example: --set {example}")
    split = (assignment.split("=", 1) for assignment in assignments or [])
    return {key: CommandText(value) for key, value in split}


def opened_run(path: Path, device: str, allow_code: bool, out: Path | None = None) -> Run:
    """The run; where pictures are to be written to ``out``, its ending is checked first."""
    from vaelid.reporting.export import PICTURES, require_ending
    from vaelid.run import open_run

    if out is not None:
        require_ending(out, (*PICTURES, ".npy"))
    return open_run(path, device=device, allow_code=allow_code)
