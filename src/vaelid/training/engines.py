"""How loss and gradients of a batch are computed: eager defines them, the faster engines have to agree with it.

    engine    what a step is                                                    agrees with eager
    eager     the model's Python code, then autograd                            defines it
    graph     the tensor operations of one such step, recorded and replayed     bit for bit on a CPU (tried before it is used)
    compile   the same, compiled by torch's Inductor (needs a C++ compiler)     to rounding: 1e-5 of the largest gradient (tried)
    vectorized   members of a study that differ in numbers only, batched        to rounding, likewise

A replay leaves out Python, distribution objects and autograd's bookkeeping; compiled, neighboring operations become one loop; on
a GPU a step is one launch of a CUDA graph. What it gains on a CPU: ``benchmarks/training_peers.py``. ``auto`` measures at the
first start of a run, and the run keeps to what came out. It compiles only where 20,000 steps or more are to come (50,000 on a
GPU). A part of a user's own may do things that a recording does not see, so there ``auto`` is ``eager``.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from statistics import median

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from vaelid.errors import PartError
from vaelid.objectives import Objective
from vaelid.settings import unknown
from vaelid.training.capture import capture, loss_of, numbers_of, shape_of
from vaelid.training.cuda import Replay, can_record, record
from vaelid.training.flat import FlatParameters
from vaelid.training.surroundings import own_randomness
from vaelid.vae import VAE

#: From so many steps on a recording (half a second) pays.
_MANY_STEPS = 1000
#: And compiling it (ten to thirty seconds) on a CPU, and on a GPU, where a step takes a tenth of the time.
_VERY_MANY_STEPS, _VERY_MANY_STEPS_ON_A_GPU = 20_000, 50_000
#: Steps per turn, and turns, in which two engines are timed.
_STEPS, _TURNS = 5, 3
#: Largest difference of a gradient from eager's, as a share of the largest gradient.
TOLERANCE = 1e-5


class Eager:
    """The definition of a step.

    Args:
        model: the VAE, in training mode when called
        weights: its parameters; gradients are left in ``weights.grad``
        bfloat16: whether the networks' products are short
    """

    name = "eager"

    def __init__(self, model: VAE, weights: FlatParameters, bfloat16: bool = False) -> None:
        self.model, self.weights, self.bfloat16 = model, weights, bfloat16

    def __call__(self, x: Tensor, objective: Objective) -> tuple[Tensor, Tensor]:
        """Loss, in nats per image, and Euclidean norm of its gradient: two scalar tensors."""
        loss = loss_of(self.model, x, objective, self.bfloat16)
        self.weights.forget_gradients()
        loss.backward()
        return loss.detach(), self.weights.gather_gradients()


class Graph(Eager):
    """A recorded step, replayed for every batch of the recorded shape; other batches (the last of an epoch) are eager's."""

    name = "graph"

    def __init__(self, model: VAE, weights: FlatParameters, bfloat16: bool = False) -> None:
        super().__init__(model, weights, bfloat16)
        self._recorded: tuple[torch.Size, Objective] | None = None

    def record(self, x: Tensor, objective: Objective) -> None:
        """Record the step for batches like ``x`` and objectives of this shape.

        Raises:
            PartError: if a part cannot be recorded.
        """
        self.captured = capture(self.model, self.weights, objective, x, self.bfloat16)
        values = [p.detach() for p in self.weights.parameters]  # views of the flat vector: always the weights of now
        inputs = self._inputs(x, objective)
        run = partial(self.translate(self.captured.graph, [*values, *inputs]), *values)
        self._step: Replay = partial(self._replay, run)
        if can_record(x):
            self._step = record(self._step, inputs, [self.weights.grad])
        self._recorded = x.shape, shape_of(objective)

    def translate(self, function: Replay, inputs: Sequence[Tensor]) -> Replay:
        """A faster form of a function of tensors, for inputs like these."""
        return function

    def __call__(self, x: Tensor, objective: Objective) -> tuple[Tensor, Tensor]:
        if self._recorded is None:
            self.record(x, objective)
        if self._recorded != (x.shape, shape_of(objective)):
            return super().__call__(x, objective)
        with torch.no_grad():
            loss, norm = self._step(*self._inputs(x, objective))
        return loss, norm

    def _replay(self, run: Replay, *inputs: Tensor) -> Sequence[Tensor]:
        loss, *gradients = run(*inputs)
        return loss, self.weights.put(self.captured.gradients(gradients))

    def _inputs(self, x: Tensor, objective: Objective) -> list[Tensor]:
        return [x, *numbers_of(objective, x.device), *(draw() for draw in self.captured.draws)]


class Compile(Graph):
    """A recorded step, compiled: neighboring elementwise operations become one loop."""

    name = "compile"

    def translate(self, function: Replay, inputs: Sequence[Tensor]) -> Replay:
        """Raises PartError where nothing can be compiled (no C++ compiler, say)."""
        return compiled(function, inputs)


class Vectorized(Eager):
    """A member of a study whose steps are made together with those of others (``training.together``); alone it is eager."""

    name = "vectorized"


ENGINES: dict[str, type[Eager]] = {"eager": Eager, "graph": Graph, "compile": Compile, "vectorized": Vectorized}
AUTO = "auto"
#: Engines that give the same bits on a CPU.
SAME_BITS = ("eager", "graph")


def require_engine(name: str) -> None:
    """Raise SettingError for a name that is neither in ``ENGINES`` nor ``auto``."""
    if name not in (AUTO, *ENGINES):
        raise unknown("engine", name, (AUTO, *ENGINES))


@dataclass(frozen=True)
class Choice:
    """An engine, and in words why this one."""

    engine: Eager
    reason: str


def choose(asked: str, eager: Eager, x: Tensor, objective: Objective, steps: int, own_code: bool) -> Choice:
    """The engine asked for, or the one that suits a training; what cannot be used gives way to eager, and the reason says so.

    Args:
        asked: a name in ``ENGINES``, or ``auto``
        x, objective: a batch and an objective to try it with; weights and generators are as before afterwards
        steps: how many are to come
        own_code: whether parts of a user's own are in the model
    """
    if asked == "eager":
        return Choice(eager, "asked for")
    if asked == Vectorized.name:
        return Choice(Vectorized(eager.model, eager.weights, eager.bfloat16), "asked for")
    if asked != AUTO:
        return usable(asked, eager, x, objective)
    if own_code:
        return Choice(eager, "parts of your own may do what a recording does not see")
    if steps < _MANY_STEPS:
        return Choice(eager, f"for {steps:,} steps a recording does not pay")
    return fastest(["graph", "compile"] if compiling_pays(steps, x) else ["graph"], eager, x, objective)


def compiling_pays(steps: int, x: Tensor) -> bool:
    """Whether so many steps on batches like ``x`` are enough for it."""
    return steps >= (_VERY_MANY_STEPS_ON_A_GPU if can_record(x) else _VERY_MANY_STEPS)


def usable(name: str, eager: Eager, x: Tensor, objective: Objective) -> Choice:
    """The engine of that name if it can be used for this step and agrees with eager, else eager."""
    engine = ENGINES[name](eager.model, eager.weights, eager.bfloat16)
    try:
        difference = disagreement(engine, eager, x, objective)
    except PartError as error:
        return Choice(eager, f"{name} cannot be used: {error.problem}")
    exact = name in SAME_BITS and not x.is_cuda
    if not difference <= (0.0 if exact else TOLERANCE):
        return Choice(eager, f"{name} differs from eager by {difference:.1e} of the largest gradient")
    return Choice(engine, "asked for")


def fastest(names: Sequence[str], eager: Eager, x: Tensor, objective: Objective) -> Choice:
    """Of eager and these engines, those that can be used, the one that takes the least time."""
    tried = [usable(name, eager, x, objective) for name in names]
    engines = [*(choice.engine for choice in tried if choice.engine is not eager), eager]
    seconds = timed(engines, x, objective)
    words = "loss and gradients take " + ", ".join(f"{1e3 * s:.2f} ms by {e.name}" for s, e in zip(seconds, engines, strict=True))
    refused = [choice.reason for choice in tried if choice.engine is eager]
    return Choice(engines[seconds.index(min(seconds))], "; ".join([words, *refused]))


def disagreement(engine: Eager, eager: Eager, x: Tensor, objective: Objective) -> float:
    """Largest difference between the two gradients, as a share of the largest gradient; infinite if the losses differ."""
    expected_loss, expected = _once(eager, x, objective)
    _once(engine, x, objective)  # a replay counts: that of a recording proves little
    loss, found = _once(engine, x, objective)
    if not abs(loss - expected_loss) <= TOLERANCE * max(1.0, abs(expected_loss)):
        return math.inf
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-30))


def _once(engine: Eager, x: Tensor, objective: Objective) -> tuple[float, Tensor]:
    with own_randomness(0):
        loss, _ = engine(x, objective)
    return float(loss), engine.weights.grad.clone()


def timed(engines: Sequence[Eager], x: Tensor, objective: Objective) -> list[float]:
    """Seconds per step of each engine: the median of turns, taken one after the other."""
    turns: list[list[float]] = [[] for _ in engines]
    for _ in range(_TURNS):
        for engine, seconds in zip(engines, turns, strict=True):
            with own_randomness(0):
                begun = time.perf_counter()
                for _ in range(_STEPS):
                    loss, _ = engine(x, objective)
                float(loss)  # waits for a device that works on its own
                seconds.append((time.perf_counter() - begun) / _STEPS)
    return [median(seconds) for seconds in turns]


def compiled(function: Replay, inputs: Sequence[Tensor]) -> Replay:
    """What torch's Inductor makes of a function of tensors, for inputs like these.

    Raises:
        PartError: if it cannot (no C++ compiler, say).
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # torch's about its own insides
            inductor = import_module("torch._inductor")  # takes seconds, so only where it is asked for
            traced = lambda *tensors: function(*tensors)  # noqa: E731, PLW0108 - make_fx takes no bound method
            graph = function if isinstance(function, GraphModule) else make_fx(traced)(*inputs)
            # On a CPU a wrapper in C++ around the loops: in Python it would take longer than some of them.
            result: Replay = inductor.compile(graph, list(inputs), options={"cpp_wrapper": not can_record(inputs[0])})
    except Exception as error:  # whatever the compiler of this machine raises
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise PartError(f"The step cannot be compiled: {reason[0]}", "Train with --engine graph.") from error
    return result


def compiled_if_possible(function: Replay, inputs: Sequence[Tensor]) -> Replay:
    """The same; where that cannot be, the function as it is, with a warning."""
    try:
        return compiled(function, inputs)
    except PartError as error:
        warnings.warn(f"{error.problem} It is made operation by operation.", RuntimeWarning, stacklevel=2)
        return function


def as_it_is(function: Replay, _inputs: Sequence[Tensor]) -> Replay:
    """Not compiled."""
    return function
