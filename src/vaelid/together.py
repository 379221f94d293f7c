"""Members of a study trained together, in this process: what ``pool`` does with processes of their own."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from pathlib import Path

from vaelid.data import Data, load_data
from vaelid.data.settings import DataSettings
from vaelid.errors import Diverged, Interrupted, MachineError, PartError, VaelidError
from vaelid.folder import RunFolder
from vaelid.pool import Ending
from vaelid.progress import Reporter, Silent
from vaelid.recipe import from_toml
from vaelid.reporting.figures import training_figures
from vaelid.training.loop import Pace, fit
from vaelid.training.start import Conditions, choose_device, note_divergence, numerics_of, under_way
from vaelid.training.surroundings import Generators, fixed_numerics, own_randomness, stop_on_signal
from vaelid.training.together import Joint, Member, fit_together, groups
from vaelid.training.tracking import trackers_of
from vaelid.worker import Order

#: Threads, and type of numbers.
Numerics = tuple[int, str]
_PAUSE = 0.5  # seconds between two looks at the members' folders


class Together:
    """Carries out orders together where that is faster than one after the other, in the manner of ``pool.Pool``.

    Members that are alike but for numbers are one group; groups come one after the other. A group that cannot be batched, or for
    which batching does not pay (large models on a CPU), is trained one after the other.
    """

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter
        self.loaded: dict[DataSettings, Data] = {}
        self.numerics: dict[int, Numerics] = {}  # by member

    def run(
        self,
        supply: Callable[[], tuple[str, Order] | None],
        started: Callable[[str], None],
        ended: Callable[[str, Ending], None],
        watch: Callable[[list[str]], Collection[str]],
    ) -> None:
        """As ``Pool.run``; what ``watch`` returns is not stopped.

        Raises:
            KeyboardInterrupt: after every member has saved itself.
        """
        orders = dict(iter(supply, None))
        with ExitStack() as stack:
            stop_asked = stack.enter_context(stop_on_signal())
            members: dict[str, Member] = {}
            for name, order in orders.items():
                started(name)
                try:
                    members[name] = self._member(order, stack)
                except VaelidError as error:
                    ended(name, Ending("failed", str(error)))
            names = {id(member): name for name, member in members.items()}
            for how, alike in self._by_numerics(list(members.values())):
                with fixed_numerics(*how):
                    for group in groups(alike):
                        if not stop_asked():
                            self._train(group, stop_asked, _Looking(watch, [names[id(m)] for m in group]))
            for name, member in members.items():
                ended(name, drawn(member))
        for member in members.values():  # what left the folders above knew of no error
            if isinstance(member.error, Diverged):
                note_divergence(member.training.folder, member.error)
        if stop_asked():
            raise KeyboardInterrupt

    def _member(self, order: Order, stack: ExitStack) -> Member:
        recipe, folder = from_toml(order.recipe), RunFolder(order.folder)
        if recipe.data not in self.loaded:
            self.loaded[recipe.data] = load_data(recipe.data)  # once for all members
        data = self.loaded[recipe.data]
        start = Path(order.init_from) if order.init_from is not None else None
        conditions = Conditions(
            choose_device(order.device), False, order.engine, start, order.checkpoint_seconds, trackers_of(order.track)
        )
        stack.enter_context(folder.lock())
        numerics = numerics_of(folder, recipe, data, conditions)
        with fixed_numerics(*numerics), own_randomness(recipe.training.seed):
            training = stack.enter_context(under_way(folder, recipe, Path(order.code_from), data, conditions, Silent()))
            member = Member(training, Generators(conditions.device), Silent(), Pace(order.checkpoint_seconds))
        self.numerics[id(member)] = numerics
        return member

    def _by_numerics(self, members: Sequence[Member]) -> list[tuple[Numerics, list[Member]]]:
        """The members by threads and type of numbers, which each keeps from its first start on."""
        found: dict[Numerics, list[Member]] = {}
        for member in members:
            found.setdefault(self.numerics[id(member)], []).append(member)
        return list(found.items())

    def _train(self, group: Sequence[Member], stop_asked: Callable[[], bool], watch: Callable[[], bool]) -> None:
        ready = [member for member in group if not member.over]
        try:
            joint = Joint(ready) if len(ready) > 1 else None
        except PartError as error:
            self.reporter.say(f"{len(ready)} members are trained one after the other: {error.problem}")
            joint = None
        if joint is not None and joint.pays():
            fit_together(joint, stop_asked, watch)
            return
        if joint is not None:
            self.reporter.say(f"{len(ready)} members are trained one after the other: together they would be slower here.")
        for member in ready:
            with member.turn():
                try:
                    fit(member.training, member.reporter, lambda: watch() or stop_asked(), member.pace.seconds)
                except Interrupted:
                    return


def drawn(member: Member) -> Ending:
    """Draw a member's figures; what became of it, which is a failure if the disk refuses them, as in a process of its own."""
    told = ending(member)
    try:
        training_figures(member.training.folder)
    except MachineError as error:
        return Ending("failed", str(error)) if told.status == "finished" else told
    return told


def ending(member: Member) -> Ending:
    """What became of a member, in the words of the study."""
    if isinstance(member.error, Diverged):
        return Ending("diverged", str(member.error))
    if member.error is not None:
        return Ending("failed", str(member.error))
    return Ending("finished" if member.training.outcome else "interrupted")


class _Looking:
    """Tells ``watch`` the names, now and then; is never a reason to stop."""

    def __init__(self, watch: Callable[[list[str]], Collection[str]], names: list[str]) -> None:
        self.watch, self.names, self.last = watch, names, time.monotonic()

    def __call__(self) -> bool:
        """Look, if it is time."""
        if time.monotonic() - self.last >= _PAUSE:
            self.last = time.monotonic()
            self.watch(self.names)
        return False
