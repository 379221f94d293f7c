"""The verb ``report``: one page of a run or a study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vaelid.cli.options import AllowCode, Device


def report(
    folder: Annotated[Path, typer.Argument(metavar="RUN|STUDY", help="Folder of a run or a study.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE.html", help="The page; default: report.html in the folder.")] = None,
    pdf: Annotated[bool, typer.Option("--pdf", help="Print it beside as a PDF, too (needs chromium or Chrome).")] = False,
    open_: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    as_is: Annotated[bool, typer.Option("--as-is", help="Measure nothing; the page says what is missing.")] = False,
    samples: Annotated[int, typer.Option(metavar="K", help="Samples of the bound, if the evaluation is missing.")] = 5000,
    device: Device = "auto",
    allow_code: AllowCode = False,
) -> None:
    """One self-contained HTML page of a run or a study, made to be read; what is missing is measured first."""
    import webbrowser

    from vaelid.progress import default_reporter
    from vaelid.publishing import report as make

    with default_reporter() as reporter:
        file = make(
            folder, out=out, pdf=pdf, as_is=as_is, samples=samples, device=device, allow_code=allow_code, reporter=reporter
        )
    print(f"report: {file}" + (f"   {file.with_suffix('.pdf')}" if pdf else ""))
    if open_ and not webbrowser.open(file.resolve().as_uri()):
        print("No browser could be opened here: open the file by hand.")
