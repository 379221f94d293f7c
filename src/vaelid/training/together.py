"""Several trainings at once: members of a study that differ in numbers only make their steps together.

    each member    its order of images, pixels, noise, objective, learning rate, validation, patience, checkpoints: as alone
    together       loss and gradients: the recorded step (see ``capture``), batched over models with ``torch.vmap``

A step of a small model is mostly the cost of starting operations, and M models of one make take M steps with the operations of
one. The weights of all members are the rows of one matrix. A member that is done leaves, and costs nothing from then on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from vaelid.errors import Diverged, PartError, VaelidError
from vaelid.objectives import Objective
from vaelid.optimizers import fuse, take_numbers_from_the_device
from vaelid.progress import Reporter
from vaelid.training.capture import Captured, capture, numbers_of
from vaelid.training.cuda import Pixels, Recorded, Replay, Update, can_record, record
from vaelid.training.engines import TOLERANCE, as_it_is, compiled_if_possible, compiling_pays
from vaelid.training.flat import write_gradients
from vaelid.training.loop import Clock, Epoch, Pace, finish_epoch
from vaelid.training.state import Training
from vaelid.training.surroundings import Generators


@dataclass
class Member:
    """One of several trainings under way: its place in torch's random numbers, and what became of it."""

    training: Training
    generators: Generators
    reporter: Reporter
    pace: Pace
    epoch: Epoch | None = None
    error: Exception | None = None
    captured: Captured | None = field(init=False)  # None: its step cannot be recorded

    def __post_init__(self) -> None:
        x, objective = self.example()
        try:
            recorded = capture(self.training.model, self.training.weights, objective, x, self.training.engine.bfloat16)
        except PartError:  # it trains alone, by its own engine
            recorded = None
        self.captured = recorded

    @property
    def over(self) -> bool:
        """Whether it trains no more."""
        return self.error is not None or bool(self.training.outcome)

    def example(self) -> tuple[Tensor, Objective]:
        """A batch of full size, and the objective."""
        split, settings = self.training.data.train, self.training.settings
        x = split.batch(torch.arange(min(settings.batch_size, len(split))), seed=settings.seed)
        self.training.model.train()
        return x, self.training.objective.at(0)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """For the length of the block torch's generators are this member's; what goes wrong in it is this member's trouble."""
        with self.generators.turn(), self.trying():
            yield

    @contextmanager
    def trying(self) -> Iterator[None]:
        """What goes wrong in this block is this member's trouble."""
        try:
            yield
        except Diverged as error:
            self.error = error
            self.training.save_kept()
        except VaelidError as error:
            self.error = error


def alike(a: Member, b: Member) -> bool:
    """Whether two members can make their steps together: the same images, and the same operations with the same constants."""
    if a.captured is None or b.captured is None:
        return False
    first, second = a.captured.graph, b.captured.graph
    same_data = a.training.data.fingerprint == b.training.data.fingerprint
    same_size = a.training.settings.batch_size == b.training.settings.batch_size
    if not (same_data and same_size and first.code == second.code):
        return False
    constants = {str(node.target) for node in first.graph.nodes if node.op == "get_attr"}
    return all(torch.equal(getattr(first, name), getattr(second, name)) for name in constants)


def groups(members: Sequence[Member]) -> list[list[Member]]:
    """The members, those that are alike together."""
    found: list[list[Member]] = []
    for member in members:
        home = next((group for group in found if alike(group[0], member)), None)
        if home is None:
            found.append(home := [])
        home.append(member)
    return found


class Joint:
    """Loss and gradients of several members at once; their weights become the rows of one matrix.

    Raises:
        PartError: if the recorded step cannot be batched, or gives other gradients than the members' own engines.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        if members[0].captured is None:
            raise PartError("The step cannot be recorded.")
        self.members, self.captured = members, members[0].captured
        first, *_ = weights = [member.training.weights for member in members]
        size = (len(members), first.flat.numel())
        matrix, self.grads = first.flat.detach().new_empty(size), first.grad.new_zeros(size)
        for own, row, grad in zip(weights, matrix, self.grads, strict=True):
            own.move(row, grad)
        shapes = [(len(members), *p.shape) for p in first.parameters]
        self.values = [matrix[:, piece].view(shape) for piece, shape in zip(first.pieces, shapes, strict=True)]
        self.places = [self.grads[:, piece].view(shape) for piece, shape in zip(first.pieces, shapes, strict=True)]
        examples = [member.example() for member in members]
        self.shape, self.numbers = examples[0][0].shape, _Numbers()
        self.access: list[tuple[int, int, int]] = []  # epoch, seed and number of the images that each member is at
        self.words: list[Tensor] = []  # the first two, for every image
        with _generators_as_they_were(members), torch.no_grad():
            inputs = self._inputs(*zip(*examples, strict=True))
            try:
                self.graph: Replay = make_fx(torch.vmap(self.captured.graph))(*self.values, *inputs)
            except RuntimeError as error:
                raise PartError(f"The step cannot be batched over models: {str(error).splitlines()[0]}") from error
            self.run: Replay = self._compute
            if can_record(matrix):
                self.graph = self._translate(self.graph, [*self.values, *inputs])
                self.run = record(self._compute, inputs, [self.grads])
        self.recorded = self._record_what_surrounds_it() if can_record(matrix) else None
        self._require_agreement(examples)

    def __call__(self, x: Sequence[Tensor], objectives: Sequence[Objective]) -> tuple[Tensor, Tensor]:
        """Losses and gradient norms, ``(M,)`` each, for a batch and an objective of every member."""
        with torch.no_grad():
            loss, norm = self.run(*self._inputs(x, objectives))
        return loss, norm

    def _compute(self, *inputs: Tensor) -> Sequence[Tensor]:
        loss, *gradients = self.graph(*self.values, *inputs)
        return loss, write_gradients(self.captured.gradients(gradients), self.places, self.grads)

    def _inputs(self, x: Sequence[Tensor], objectives: Sequence[Objective]) -> list[Tensor]:
        return [torch.stack(list(x)), *self.numbers(objectives, x[0].device), *self._noise()]

    def _noise(self) -> list[Tensor]:
        drawn = []
        for member in self.members:
            with member.generators.drawing():
                drawn.append([draw() for draw in self.captured.draws])
        return [torch.stack(each) for each in zip(*drawn, strict=True)]

    def _translate(self, function: Replay, inputs: Sequence[Tensor]) -> Replay:
        """Compiled, where enough steps are to come and it can be."""
        to_come = [m.training.settings.epochs * m.training.batches - m.training.state.step for m in self.members]
        translate = compiled_if_possible if compiling_pays(max(to_come), inputs[0]) else as_it_is
        return translate(function, inputs)

    def _record_what_surrounds_it(self) -> Recorded | None:
        """Pixels and updates of all members, as one launch each; None if an optimizer does not lend itself to it."""
        trainings = [member.training for member in self.members]
        for training in trainings:
            if not take_numbers_from_the_device(training.optimizer):
                return None
            fuse(training.optimizer)

        def update(norms: Tensor) -> None:
            for training, norm in zip(trainings, norms, strict=True):
                training.update(norm)

        update_all = Update(update, lambda: [tensor for training in trainings for tensor in training.changing()])
        pixels = Pixels(trainings[0].data.train, len(trainings) * self.shape[0], self._translate)
        return Recorded(pixels, update_all)

    def _require_agreement(self, examples: Sequence[tuple[Tensor, Objective]]) -> None:
        with _generators_as_they_were(self.members):
            self(*zip(*examples, strict=True))
            found = [member.training.weights.grad.clone() for member in self.members]
        for member, (x, objective), ours in zip(self.members, examples, found, strict=True):
            with _generators_as_they_were([member]), member.turn():
                member.training.engine(x, objective)
            expected = member.training.weights.grad
            difference = float((ours - expected).abs().max() / expected.abs().max().clamp_min(1e-30))
            if not difference <= TOLERANCE:
                raise PartError(f"Batched over models, gradients differ by {difference:.1e} of the largest.")

    def pays(self) -> bool:
        """Whether a step of all takes less time than the members' own steps, one after the other."""
        examples = [member.example() for member in self.members]
        turns = []
        with _generators_as_they_were(self.members):
            for _ in range(3):
                begun = time.perf_counter()
                self(*zip(*examples, strict=True))[0].tolist()
                middle = time.perf_counter()
                for member, (x, objective) in zip(self.members, examples, strict=True):
                    with member.turn():
                        float(member.training.engine(x, objective)[0])
                turns.append((middle - begun) / (time.perf_counter() - middle))
        return median(turns) < 1


class _Numbers:
    """The floats of the members' objectives as vectors; of objectives like the last ones they are there already."""

    def __init__(self) -> None:
        self.of: Sequence[Objective] = ()
        self.vectors: list[Tensor] = []

    def __call__(self, objectives: Sequence[Objective], device: torch.device) -> list[Tensor]:
        if list(self.of) != list(objectives):
            numbers = zip(*(numbers_of(objective, device) for objective in objectives), strict=True)
            self.of, self.vectors = objectives, [torch.stack(each) for each in numbers]
        return self.vectors


@contextmanager
def _generators_as_they_were(members: Sequence[Member]) -> Iterator[None]:
    states = [member.generators.copy() for member in members]
    try:
        yield
    finally:
        for member, state in zip(members, states, strict=True):
            member.generators = state


def fit_together(joint: Joint, stop_asked: Callable[[], bool], watch: Callable[[], object]) -> None:
    """Train the members of ``joint`` until all are over; what became of each is in ``Member.error`` and its ``outcome``.

    Args:
        stop_asked: once it is true, every member is saved after the step under way, and left
        watch: called after every step of all
    """
    members = joint.members
    while active := [member for member in members if not member.over]:
        for member in active:
            if member.epoch is None:
                member.epoch = Epoch(member.training)
        if list(joint.members) != active:
            joint = Joint(active)
        step(active, joint)
        for member in active:
            close(member)
        watch()
        if stop_asked():
            for member in active:
                with member.turn():
                    save(member)
            return


def step(active: Sequence[Member], joint: Joint) -> None:
    """One step of every member: together where all batches are full, else (at the end of an epoch) each by its own engine."""
    clocks = [Clock(member.training) for member in active]
    epochs = [member.epoch for member in active if member.epoch is not None]
    x, objectives = batches(active, epochs, joint), [epoch.objective for epoch in epochs]
    whole = all(len(batch) == joint.shape[0] for batch in x)
    if whole and joint.recorded is not None:
        loss, norm = joint(x, objectives)
        for member, epoch, numbers in zip(active, epochs, torch.stack([loss, norm], dim=1), strict=True):
            with member.trying():
                epoch.note(numbers, joint.shape[0])
        joint.recorded.update(norm)
        for epoch in epochs:
            epoch.next()
    else:
        answers = list(zip(*joint(x, objectives), strict=True)) if whole else one_by_one(active, x, objectives)
        for member, epoch, batch, answer in zip(active, epochs, x, answers, strict=True):
            with member.turn():
                epoch.update(*answer, len(batch))
    for clock in clocks:
        clock.stop(len(active))


def one_by_one(active: Sequence[Member], x: Sequence[Tensor], objectives: Sequence[Objective]) -> list[tuple[Tensor, Tensor]]:
    """Loss and norm of every member by its own engine."""
    answers = []
    for member, batch, objective in zip(active, x, objectives, strict=True):
        with member.turn():
            answers.append(member.training.engine(batch, objective))
    return answers


def batches(active: Sequence[Member], epochs: Sequence[Epoch], joint: Joint) -> Sequence[Tensor]:
    """The next batch of every member, all gathered and binarized in one go."""
    positions = [epoch.positions for epoch in epochs]
    sizes = [len(p) for p in positions]
    access = [(m.training.state.epoch, m.training.settings.seed, size) for m, size in zip(active, sizes, strict=True)]
    if access != joint.access:  # made anew only then: it waits for a device
        joint.access, device = access, positions[0].device
        counts = torch.tensor(sizes, device=device)
        epoch_and_seed = zip(*[(e, s) for e, s, _ in access], strict=True)
        joint.words = [torch.tensor(column, device=device).repeat_interleave(counts) for column in epoch_and_seed]
    make = joint.recorded.pixels if joint.recorded is not None else active[0].training.data.train.batch
    return make(torch.cat(positions), *joint.words).split(sizes)


def close(member: Member) -> None:
    """End the epoch if it is at its end; save what is to be saved."""
    training, epoch = member.training, member.epoch
    if epoch is None or member.error is not None:
        return
    member.reporter.advance(1)
    ended = training.state.batch == training.batches
    if not ended and not member.pace.due():
        return
    with member.turn():
        epoch.tally.settle()
        if ended:
            finish_epoch(training, member.reporter)
            member.epoch = None
        if training.outcome or member.pace.due():
            member.pace.save(training)


def save(member: Member) -> None:
    """Write a checkpoint of where the member stands."""
    if member.error is None and not member.over:
        if member.epoch is not None:
            member.epoch.tally.settle()
        member.training.checkpoint()
