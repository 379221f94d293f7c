"""A study by search: trials proposed one after the other, stopped early where others were better at the same epoch.

    take a trial ─> train it in a process of its own ─> report every epoch ─> pruned, diverged or finished ─> the next one

All that is shared (study.json, Optuna's journal) is read and written under one lock, for a moment each time, so that any number
of processes may work on one folder. Who works on a trial holds its claim, a lock that the kernel drops with the process: a trial
that nobody works on any more is taken up by whoever comes next, and goes on from its checkpoint.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from vaelid import __version__
from vaelid.errors import RunError, UserError
from vaelid.folder import RunFolder
from vaelid.planning import Common, asked_for, clear_members, kind_of, member_of, order_of, settings_in_common
from vaelid.pool import Ending
from vaelid.progress import Reporter
from vaelid.recipe import SHORTCUTS, Recipe
from vaelid.settings import at_least_one, unknown
from vaelid.sweeps.ledger import ENDS, Ledger, StudyFolder, plain, require_same, trials_told
from vaelid.sweeps.space import Axis, Choice, corners, space_of
from vaelid.sweeps.trials import PRUNERS, Trials, optuna_or_refuse
from vaelid.worker import Order

_JOURNAL, _LOCK, _CLAIMS = "search.journal", ".search.lock", ".claims"


@dataclass(frozen=True)
class SearchPlan:
    """What is searched, with how many trials in all, and what all trials have in common.

    Attributes:
        known: the values that the recipe has without a search, if all of them lie in the space; else empty
        settings: the common settings, with epochs and patience, which a search cannot change on the way
    """

    common: Common
    space: dict[str, Axis]
    trials: int
    pruner: str
    jobs: int
    recipe: Recipe
    known: dict[str, Any]
    settings: dict[str, Any]


def plan_search(
    out: Path, common: Common, search: Mapping[str, str | Sequence[Any]], trials: int, pruner: str, jobs: int
) -> SearchPlan:
    """A search, checked at the ends of all its axes.

    Raises:
        UserError: for numbers below 1, a space that is none, and all that ``train`` would refuse.
        MachineError: if optuna is not installed.
    """
    at_least_one(trials, "trials")
    at_least_one(jobs, "jobs")
    optuna_or_refuse()
    if pruner not in PRUNERS:
        raise unknown("pruner", pruner, PRUNERS)
    common.require_possible()
    if common.engine == "vectorized":
        raise UserError("Trials of a search are not trained together.", "Leave --engine out, or give a grid.")
    space = space_of(search)
    for values in corners(space):
        asked = asked_for(out, common, values)
    base = asked_for(out, common, {}).recipe
    flat = base.flat()
    known = {
        name: str(value) if isinstance(axis, Choice) else value
        for name, axis in space.items()
        if axis.holds(value := _setting(base, name))
    }
    in_common = settings_in_common({**flat, "data (fingerprint)": asked.data.fingerprint}, set(space))
    first = known if len(known) == len(space) else {}
    return SearchPlan(common, space, trials, pruner, jobs, base, first, plain(in_common | {"training.seed": base.training.seed}))


class Search:
    """One process's part in a search; ``jobs`` of its trainings run at a time.

    Args:
        folder: the study's
        planned: as it was asked for
    """

    def __init__(self, folder: StudyFolder, planned: SearchPlan, reporter: Reporter) -> None:
        self.folder, self.planned, self.reporter = folder, planned, reporter
        self.claims: dict[str, ExitStack] = {}  # trials that this process works on
        self.given_up: set[str] = set()  # trials that failed here: tried again by the next command, not by this one
        self.pruned: set[str] = set()
        self.seen: dict[str, int] = {}  # epochs of each trial that were looked at here

    def begin(self, overwrite: bool) -> None:
        """Make the folder a study, or join the one that is there.

        Raises:
            RunError: if the folder holds another study, or other things.
        """
        self.folder.path.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder.path / _LOCK):
            self.folder.require_room()
            ledger = self.folder.read() if self.folder.exists else Ledger()
            if overwrite:
                clear_members(self.folder, ledger.members)
                (self.folder.path / _JOURNAL).unlink(missing_ok=True)
                ledger = Ledger()
            if ledger.members and not ledger.search:
                raise RunError(f"{self.folder.path} holds a grid, not a search.", "Give another --out, or --overwrite.")
            space = {name: str(axis) for name, axis in self.planned.space.items()}
            asked = {"space": space, "pruner": self.planned.pruner, "settings": self.planned.settings}
            if ledger.search:
                _require_same_search(ledger.search, asked, self.folder.path)
            most = max(self.planned.trials, ledger.search.get("trials", 0))
            self.folder.write(replace(ledger, search={**asked, "trials": most, "ended": count_ends(ledger)}, vaelid=__version__))
            self._trials()  # a damaged journal shows before anything is trained

    def supply(self) -> tuple[str, Order] | None:
        """The next trial to work on: one that nobody works on any more, or a new one; None if there is none now."""
        with self.shared() as (ledger, trials):
            found = self._abandoned(trials) or self._new(ledger, trials)
            if found is None:
                return None
            number, values = found
            name = name_of(number)
            asked = asked_for(self.folder.path, self.planned.common, values)
            recipe = asked.recipe
            if name not in ledger.members:
                common, seed = self.planned.common, recipe.training.seed
                ledger.members[name] = member_of(name, name, seed, values, recipe, asked, kind_of(asked), common)
            ledger.members[name].status, ledger.members[name].message = "running", ""
            order = order_of(self.folder.path / name, recipe, asked.code_from, self.planned.common, self.planned.jobs)
            return name, order

    def started(self, name: str) -> None:
        """A trial's process runs."""
        member = self.folder.read().members[name]
        settings = {key: value for key, value in member.settings.items() if key != "training.seed"}
        said = " ".join(f"{key}={f'{value:.4g}' if isinstance(value, float) else value}" for key, value in settings.items())
        self.reporter.say(f"{name}: {said}")

    def watch(self, running: Sequence[str]) -> list[str]:
        """Report the epochs that the running trials have finished; returns those that the pruner gives up."""
        words = []
        for name in running:
            history = self.folder.member(name).metrics()
            if history:
                words.append(f"{name} epoch {history[-1]['epoch']} −ELBO {history[-1]['neg_elbo']:.2f}")
            if name not in self.pruned and len(history) > self.seen.get(name, -1):
                self.seen[name] = len(history)
                with self.shared() as (_, trials):
                    self._report(trials, name, history)
        self.reporter.advance(0, " | ".join(words))
        return sorted(self.pruned)

    def ended(self, name: str, ending: Ending) -> None:
        """A trial's process is over: Optuna and study.json learn how."""
        with self.shared() as (ledger, trials):
            status = "pruned" if ending.status == "interrupted" and name in self.pruned else ending.status
            history, number = self.folder.member(name).metrics(), number_of(name)
            if status in ENDS:
                if name not in self.pruned:
                    self._report(trials, name, history, prune=False)
                trials.tell(number, self._value(history) if status == "finished" else None)
            ledger.members[name].status, ledger.members[name].message = status, ending.message
            self.given_up.add(name)
        self.claims.pop(name).close()
        if status in ENDS:
            self.reporter.advance(1)
        last = f": {ending.message.splitlines()[-1]}" if status == "failed" else ""
        self.reporter.say(f"{name} {status}{last} ({trials_told(ledger.search)})")

    def left(self, ledger: Ledger) -> int:
        """Trials that are asked for and have neither ended nor failed."""
        return max(ledger.search["trials"], len(ledger.members)) - sum(
            member.status in (*ENDS, "failed") for member in ledger.members.values()
        )

    def close(self) -> None:
        """Let go of all trials."""
        for claim in self.claims.values():
            claim.close()
        self.claims.clear()

    @contextmanager
    def shared(self) -> Iterator[tuple[Ledger, Trials]]:
        """study.json and the journal, for this process alone; what was changed in the ledger is written at the end."""
        with FileLock(self.folder.path / _LOCK):
            ledger = self.folder.read()
            yield ledger, self._trials()
            ledger.search["ended"] = count_ends(ledger)
            self.folder.write(ledger)

    def _trials(self) -> Trials:
        training, file = self.planned.recipe.training, self.folder.path / _JOURNAL
        return Trials(file, self.planned.space, self.planned.pruner, training.seed, training.epochs)

    def _new(self, ledger: Ledger, trials: Trials) -> tuple[int, dict[str, Any]] | None:
        if len(trials) >= ledger.search["trials"]:
            return None
        number, values = trials.ask(self.planned.known)
        return (number, values) if self._claim(name_of(number)) else None

    def _abandoned(self, trials: Trials) -> tuple[int, dict[str, Any]] | None:
        """A trial without an end that nobody works on: its process was stopped, or it failed in an earlier one."""
        for number, values in trials.open_trials().items():
            name = name_of(number)
            if name not in self.claims and name not in self.given_up and self._claim(name):
                return number, values
        return None

    def _claim(self, name: str) -> bool:
        """Whether the trial is now this process's to work on."""
        claim = ExitStack()
        try:
            claim.enter_context(RunFolder(self.folder.path / _CLAIMS / name).lock())
            run = self.folder.member(name)
            if run.path.is_dir():
                with run.lock():  # the training of a process that was killed may still be saving itself
                    pass
        except RunError:
            claim.close()
            return False
        self.claims[name] = claim
        return True

    def _report(self, trials: Trials, name: str, history: Sequence[Mapping[str, Any]], prune: bool = True) -> None:
        """Report, one after the other, the epochs that Optuna does not know yet, up to the first that is not good enough."""
        number = number_of(name)
        before = trials.reported(number)
        for line in history:
            if line["epoch"] > before:
                trials.report(number, line["epoch"], line["neg_elbo"])
                if prune and trials.unpromising(number):
                    self.pruned.add(name)
                    return

    def _value(self, history: Sequence[Mapping[str, Any]]) -> float:
        """The validation −ELBO of the weights that the run keeps."""
        values = [line["neg_elbo"] for line in history]
        return float(values[-1] if self.planned.recipe.training.keep == "last" else min(values))


def name_of(number: int) -> str:
    """The name of a trial, and of its run folder."""
    return f"trial-{number:03d}"


def number_of(name: str) -> int:
    """The number of a trial by its name."""
    return int(name.removeprefix("trial-"))


def count_ends(ledger: Ledger) -> dict[str, int]:
    """How many trials stand how."""
    return dict(Counter(member.status for member in ledger.members.values()))


def _require_same_search(stood: Mapping[str, Any], asked: Mapping[str, Any], where: Path) -> None:
    before, now = ({**each["settings"], **each["space"], "pruner": each["pruner"]} for each in (stood, asked))
    require_same(before, now, where, "In a search --trials may be raised, and nothing else be changed.")


def _setting(recipe: Recipe, name: str) -> Any:
    section, _, key = SHORTCUTS.get(name, (name,))[0].partition(".")
    return recipe.to_dict()[section].get(key)
