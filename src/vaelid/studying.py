"""The verb ``study``: settings × seeds, every member a run of its own; then selection by validation, then the test split.

plan ──> study.json ──> pool of trainings ──> selection by validation ──> test split, once

study.json is written at every change, so that a study goes on where it stood.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vaelid.errors import Interrupted, UserError, VaelidError
from vaelid.folder import RunFolder
from vaelid.planning import Common, Plan, plan, taken_up
from vaelid.pool import Ending, Pool
from vaelid.progress import Reporter, Silent
from vaelid.recipe import Recipe, from_toml
from vaelid.reporting.studies import study_figures
from vaelid.run import Run
from vaelid.searching import Search, SearchPlan, plan_search
from vaelid.sweeps.ledger import ENDS, Ledger, StudyFolder, trials_told
from vaelid.sweeps.selection import choose
from vaelid.sweeps.summary import Summary
from vaelid.together import Together
from vaelid.training.engines import Vectorized


@dataclass(frozen=True)
class Conclusion:
    """Whether, and with how many ``samples`` K, the chosen and the reference members meet the test split."""

    evaluate: bool = True
    samples: int = 5000
    device: str = "auto"

    def check(self) -> None:
        """Refuse a K below 1.

        Raises:
            UserError: with the K that came.
        """
        if self.samples < 1:
            raise UserError(f"samples must be at least 1; it is {self.samples}.")


class Study:
    """A study's folder, opened.

    Args:
        path: the folder that holds study.json
        device: where models are put, ``auto`` for the best there is
    """

    def __init__(self, path: Path | str, device: str = "auto") -> None:
        self.folder, self.device = StudyFolder(path), device
        self.folder.read()  # refuses at once what is no study

    def __repr__(self) -> str:
        return f"Study({str(self.folder.path)!r}: {len(self.ledger.members)} members)"

    @property
    def ledger(self) -> Ledger:
        """study.json: members, statuses, selection, looks at the test split."""
        return self.folder.read()

    @property
    def summary(self) -> Summary:
        """Every member's curve and what it says, as things stand."""
        return Summary(self.folder.path)

    @property
    def runs(self) -> dict[str, Run]:
        """The members that have begun, as runs by name."""
        folders = {name: self.folder.member(name) for name in self.ledger.members}
        return {name: Run(folder.path, self.device) for name, folder in folders.items() if folder.exists}


def study(
    data: str | Path | None = None,
    *,
    out: Path | str,
    grid: Mapping[str, Sequence[Any]] | None = None,
    search: Mapping[str, str | Sequence[Any]] | None = None,
    trials: int | None = None,
    pruner: str = "median",
    seeds: int = 1,
    jobs: int = 1,
    evaluate: bool = True,
    samples: int = 5000,
    recipe: str | Recipe | None = None,
    overwrite: bool = False,
    init_from: Path | str | None = None,
    device: str = "auto",
    engine: str = "auto",
    checkpoint_seconds: float = 10.0,
    track: Sequence[str] = (),
    reporter: Reporter | None = None,
    settings: Mapping[str, Any] | None = None,
    **shortcuts: Any,
) -> Study:
    """Train a grid of settings with the same seeds, or search; choose by validation, and meet the test split once.

    The same call resumes: finished members are kept, broken ones go on where they were.

    Args:
        data: a data set's name, an array file, or a folder of images
        out: the study's folder
        grid: values of settings, by short or full name: ``{"lr": [1e-4, 1e-3]}``
        search: ranges to search instead: ``{"lr": "log:1e-5:1e-1", "prior": ["mixture", "standard-normal"]}``; needs optuna
        trials: trials of the search, in all
        pruner: stops bad trials early: ``median``, ``hyperband``, ``none``
        seeds: how many seeds each combination is trained with, counted from the setting ``seed``
        jobs: trainings at a time; the threads are divided among them
        evaluate: evaluate the chosen and the reference combination on the test split
        samples: K of that evaluation
        recipe, init_from, device, engine, checkpoint_seconds, track, settings, shortcuts: as ``train`` takes them
        overwrite: start afresh in a folder that holds a study

    Raises:
        UserError: for settings of the study or of any member that cannot be; nothing is trained then.
        RunError: if the folder holds another study.
        Interrupted: when stopped; the same call goes on.
    """
    start_from = Path(init_from) if init_from is not None else None
    common = Common(data, recipe, {**shortcuts, **(settings or {})}, device, start_from, checkpoint_seconds, tuple(track), engine)
    conclusion, reporter = Conclusion(evaluate, samples, device), reporter or Silent()
    require_one_way(grid or {}, search or {}, trials, seeds)
    if search:
        sought = plan_search(Path(out), common, search, trials or 0, pruner, jobs)
        carry_out_search(Path(out), sought, conclusion, overwrite, reporter)
    else:
        carry_out_study(Path(out), plan(Path(out), common, grid or {}, seeds, jobs), jobs, conclusion, overwrite, reporter)
    return Study(out, device)


def require_one_way(grid: Mapping[str, Any], search: Mapping[str, Any], trials: int | None, seeds: int) -> None:
    """Refuse a mixture of grid and search.

    Raises:
        UserError: says what to give instead.
    """
    if search and grid:
        raise UserError("A study is a grid or a search, not both.", "Search over a few values: --search prior=choice:a,b")
    if search and seeds != 1:
        raise UserError(
            "All trials of a search have the same seed.",
            "Give the best several seeds in a study of its own: --seeds.",
        )
    if bool(search) != (trials is not None):
        raise UserError(
            "A search needs both its ranges and its number of trials.", "As in: --search lr=log:1e-5:1e-1 --trials 20"
        )


def carry_out_study(
    out: Path, planned: Plan, jobs: int, conclusion: Conclusion, overwrite: bool, reporter: Reporter, pool: Pool | None = None
) -> None:
    """Train what is not trained yet, select, evaluate.

    Args:
        pool: carries out the trainings, ``jobs`` at a time; without it, processes of their own

    Raises:
        RunError: if the folder holds another study, or is in use.
        Interrupted: when stopped.
    """
    conclusion.check()
    folder = StudyFolder(out)
    with RunFolder(out).lock():
        ledger = taken_up(folder, planned, overwrite)
        folder.write(ledger)
        try:
            together = any(order.engine == Vectorized.name for order in planned.orders.values())
            _train(folder, ledger, planned, pool or (Together(reporter) if together else Pool(jobs)), reporter)
            _conclude(folder, ledger, conclusion, reporter)
            study_figures(Summary(out))
        except KeyboardInterrupt as error:
            ended = sum(member.status in ENDS for member in ledger.members.values())
            raise Interrupted(
                f"Stopped: {ended} of {len(ledger.members)} members are done, and what the others did is saved.",
                "Run the same command again to go on.",
            ) from error


def carry_out_search(
    out: Path, planned: SearchPlan, conclusion: Conclusion, overwrite: bool, reporter: Reporter, pool: Pool | None = None
) -> None:
    """Take part in a search until no trial is left to take; whoever sees the last one end selects and evaluates.

    Args:
        pool: carries out the trainings, some at a time; without it, processes of their own

    Raises:
        RunError: if the folder holds another study.
        Interrupted: when stopped.
    """
    conclusion.check()
    folder = StudyFolder(out)
    search = Search(folder, planned, reporter)
    search.begin(overwrite)
    try:
        ledger = folder.read()
        with reporter.bar("search", ledger.search["trials"], ledger.search["trials"] - search.left(ledger)):
            (pool or Pool(planned.jobs)).run(search.supply, search.started, search.ended, search.watch)
        with search.shared() as (ledger, _):
            left = search.left(ledger)
            if left:
                reporter.say(f"{left} of {ledger.search['trials']} trials are other processes': the last one selects.")
            else:
                _conclude(folder, ledger, conclusion, reporter)
        study_figures(Summary(out))
    except KeyboardInterrupt as error:
        raise Interrupted(
            f"Stopped: {trials_told(folder.read().search)}; what the others did is saved.", "Run the same command again to go on."
        ) from error
    finally:
        search.close()


def _conclude(folder: StudyFolder, ledger: Ledger, conclusion: Conclusion, reporter: Reporter) -> None:
    _select(folder, ledger)
    if conclusion.evaluate and ledger.selection["chosen"]:
        _meet_test(folder, ledger, conclusion, reporter)


def _train(folder: StudyFolder, ledger: Ledger, planned: Plan, pool: Pool | Together, reporter: Reporter) -> None:
    left = {name: order for name, order in planned.orders.items() if ledger.members[name].status not in ENDS}
    watch = Watch(folder, {name: from_toml(planned.orders[name].recipe).training.epochs for name in left}, reporter)

    def started(name: str) -> None:
        ledger.members[name].status, ledger.members[name].message = "running", ""
        folder.write(ledger)

    def ended(name: str, ending: Ending) -> None:
        ledger.members[name].status, ledger.members[name].message = ending.status, ending.message
        folder.write(ledger)
        if ending.status != "interrupted":
            watch.end(name)
        left_words = f": {ending.message.splitlines()[-1]}" if ending.status == "failed" else ""
        done = sum(member.status in ENDS for member in ledger.members.values())
        reporter.say(f"{name} {ending.status}{left_words} ({done} of {len(ledger.members)} done)")

    if left:
        with reporter.bar("study", watch.total, watch.done):
            waiting = iter(left.items())
            pool.run(lambda: next(waiting, None), started, ended, watch.look)


class Watch:
    """The progress of all members: finished epochs, read from their folders, of the most that there can be.

    Args:
        epochs: the most that each member can train, by name
    """

    def __init__(self, folder: StudyFolder, epochs: Mapping[str, int], reporter: Reporter) -> None:
        self.folder, self.epochs, self.reporter = folder, epochs, reporter
        self.words: dict[str, str] = {}
        self.seen = {name: self._lines(name) for name in epochs}
        self.total, self.done = sum(epochs.values()), sum(self.seen.values())

    def look(self, running: Sequence[str]) -> tuple[str, ...]:
        """Move the bar by what the running members have done since the last look; none of them is to be stopped."""
        news = 0
        for name in running:
            lines = self._lines(name)
            news += max(0, lines - self.seen[name])
            self.seen[name] = lines
        self.reporter.advance(news, " | ".join(self.words[name] for name in running if name in self.words))
        return ()

    def end(self, name: str) -> None:
        """A member ended; what it need not train any more is behind us, too."""
        self.reporter.advance(self.epochs[name] - self.seen[name])
        self.seen[name] = self.epochs[name]

    def _lines(self, name: str) -> int:
        history = self.folder.member(name).metrics()
        if history:
            self.words[name] = f"{name} epoch {history[-1]['epoch']} −ELBO {history[-1]['neg_elbo']:.2f}"
        return len(history)


def _select(folder: StudyFolder, ledger: Ledger) -> None:
    seen = Summary(folder.path).members
    ledger.selection = choose(ledger, {name: each.kept for name, each in seen.items()})
    folder.write(ledger)


def _meet_test(folder: StudyFolder, ledger: Ledger, conclusion: Conclusion, reporter: Reporter) -> None:
    """Evaluate the chosen and the reference members on the test split; every such look is written down, and none is repeated."""
    chosen, reference = ledger.selection["chosen"], ledger.selection["reference"]
    for combination in dict.fromkeys((chosen, reference)):
        for member in ledger.combinations[combination]:
            if member.status != "finished":
                continue
            run = Run(folder.member(member.name).path, conclusion.device)
            if not run.folder.weights_file.is_file():
                reporter.say(f"test split: {member.name} is not evaluated, for its weights are not here")
                continue
            look = {
                "member": member.name,
                "combination": combination,
                "weights": run.weights_digest,
                "samples": conclusion.samples,
            }
            if any(look.items() <= before.items() for before in ledger.test):
                continue
            reporter.say(f"test split: {member.name} ({'chosen' if combination == chosen else 'reference'})")
            ledger.test.append(
                {**look, "role": "chosen" if combination == chosen else "reference", **_tested(run, conclusion, reporter)}
            )
            folder.write(ledger)


def _tested(run: Run, conclusion: Conclusion, reporter: Reporter) -> dict[str, Any]:
    """What the test split said about a run, or why it says nothing."""
    try:
        found = run.evaluate("test", conclusion.samples, reporter=reporter)
    except VaelidError as error:
        return {"problem": error.problem}
    return {"neg_elbo": found["neg_elbo"], "nll": {key: found["nll"][key] for key in ("name", "value", "se", "direction")}}
