"""The verb ``report``: what is missing is measured first, by the existing verbs; then the page is drawn from the folder alone.

The test split of a study is the study's: a report of one audits and scores the chosen run, and evaluates nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vaelid.auditing.audit import audit
from vaelid.errors import CheckFailed, MachineError, UserError
from vaelid.folder import RunFolder, write_atomic
from vaelid.progress import Reporter, Silent
from vaelid.reporting.audits import audit_document
from vaelid.reporting.page.build import run_page, study_page
from vaelid.reporting.page.facts import AUDIT, EVALUATION, SCORING, SPLIT, read_run
from vaelid.reporting.page.panels import write_numbers
from vaelid.reporting.page.printing import find_browser, print_page
from vaelid.reporting.page.study import read_study, shown_member
from vaelid.reporting.page.study_panels import effect_figures
from vaelid.reporting.studies import study_figures
from vaelid.run import Run
from vaelid.sweeps.ledger import StudyFolder
from vaelid.sweeps.summary import Summary


def report(
    path: Path | str,
    *,
    out: Path | str | None = None,
    pdf: bool = False,
    as_is: bool = False,
    samples: int = 5000,
    device: str = "auto",
    allow_code: bool = False,
    reporter: Reporter | None = None,
) -> Path:
    """One self-contained HTML page of a run or a study; what was not measured yet is measured first.

    Args:
        path: the folder of a run or a study
        out: the page's file; without it report.html in the folder
        pdf: print it beside as a PDF, too, by chromium
        as_is: measure nothing; the page then says what is missing, and by which command it is measured
        samples: K of an evaluation that is missing
        device, allow_code: as ``open_run`` takes them

    Returns:
        The page's file.

    Raises:
        RunError: if there is neither a run nor a study, or it has no trained weights and ``as_is`` is not asked for.
        UserError: if ``out`` does not end in .html.
        MachineError: without chromium, if a PDF is asked for; or if the disk refuses.
    """
    folder, reporter = Path(path), reporter or Silent()
    file = _place(folder, None if out is None else Path(out))
    browser = find_browser() if pdf else ""  # refused before the work, not after it
    studied = StudyFolder(folder).exists
    subject = _run_of(folder) if studied else folder
    problems: dict[str, str] = {}
    if subject is not None and not as_is:
        problems = _complete(Run(subject, device, allow_code), samples, studied, reporter)
    if studied:
        study = read_study(folder, problems)
        page = study_page(study)
        study_figures(study.summary)
        effect_figures(study)
    else:
        page = run_page(read_run(folder, problems))
    write_numbers(page.panels)
    write_atomic(file, page.html.encode())
    if browser:
        print_page(file, file.with_suffix(".pdf"), browser)
    return file


def _place(folder: Path, out: Path | None) -> Path:
    if not StudyFolder(folder).exists:
        RunFolder(folder).require()
    if out is None:
        return RunFolder(folder).report_file
    if out.suffix != ".html":
        raise UserError(
            f"The report is an HTML file; {out} does not end in .html.", f"For example: --out {out.with_suffix('.html')}"
        )
    if out.is_dir():
        raise MachineError(f"{out} is a folder.", f"For example: --out {out / 'report.html'}")
    return out


def _run_of(study: Path) -> Path | None:
    member = shown_member(Summary(study))
    return None if member is None else StudyFolder(study).member(member).path


def _complete(run: Run, samples: int, studied: bool, reporter: Reporter) -> dict[str, str]:
    """Measure what is missing; why something cannot be measured, by its name."""
    if studied and not run.folder.weights_file.is_file():
        return {}  # a copy without weights: the page says so
    problems: dict[str, str] = {}
    work: dict[str, Callable[[], object]] = {
        EVALUATION: lambda: run.evaluate(SPLIT, samples, reporter=reporter),
        AUDIT: lambda: _audit(run),
        SCORING: lambda: run.score(SPLIT, reporter=reporter),
    }
    if studied:
        del work[EVALUATION]
        problems[EVALUATION] = "in a study, the study decides when the test split is looked at"
    for what, missing in read_run(run.folder.path).missing.items():
        if what not in work:
            continue
        reporter.say(f"{what} is missing: {missing.command}")
        problems |= _tried(what, work[what])
    return problems


def _tried(what: str, work: Callable[[], object]) -> dict[str, str]:
    """A model whose numbers are no likelihoods, or images too few to be scored, are news for the page, and not its end."""
    try:
        work()
    except CheckFailed as error:
        return {what: f"refused: {error.problem}"}
    except UserError as error:
        if what != SCORING:
            raise
        return {what: f"not possible: {error.problem}"}
    return {}


def _audit(run: Run) -> None:
    found = audit(str(run.folder.path), allow_code=run.allow_code)
    write_atomic(run.folder.audit_file, audit_document(found).encode())
