"""Optimizers and learning-rate schedules by name.

An optimizer entry is a function of the parameters and its options; a schedule gives the factor on the learning rate at a step.
Training hands over all weights as one flat parameter (see ``training.flat``), so the single-tensor and fused forms are the fast
ones.
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterable
from functools import cache
from importlib.util import find_spec
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from vaelid import kernels
from vaelid.settings import Count, Fraction, NonNegative, NonNegativeInt, Positive

Parameters = Iterable[nn.Parameter]


class LeanAdamax(Optimizer):
    """The steps of ``torch.optim.Adamax``, bit for bit while m is no denormal number, with fewer passes over memory.

    m ← m + (1 − β₁)(g − m),  u ← max(β₂ u, |g| + ε),  θ ← θ − lr/(1 − β₁ᵗ) · m/u

    The update is all memory traffic: on a CPU, with one operation after the other over all weights, it was two fifths of a
    training step at batch 32. So all operations are done on one block, which stays in the cache, before the next; or one
    compiled loop does them number by number (see ``kernels``).

    An m below 2⁻¹²⁶ becomes 0. Where no gradient comes (a pixel that is seldom lit), m falls by β₁ with every step into the
    denormal numbers and stays there, and processors compute with them a hundred times more slowly. The weights do not notice:
    u ≥ ε, so such an m moves a weight by less than 10⁻³⁰ lr. (``torch.set_flush_denormal`` would do it for one thread only, and
    a resumed run would have to have the same threads flushed.)

    On other devices the step is one sequence of operations over all weights, which torch can compile into one (:func:`fuse`).

    Args:
        parameters: to be trained
        defaults: ``lr``, ``betas``, ``eps``, ``weight_decay``, ``capturable``, as torch's
    """

    def __init__(self, parameters: Parameters, defaults: dict[str, Any]) -> None:
        super().__init__(parameters, {"capturable": False, **defaults})
        self.update_whole = _update_whole

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient; gives what ``closure`` gives."""
        with torch.enable_grad():
            loss = closure() if closure is not None else None
        self.update()
        return loss

    def update(self) -> None:
        """The same without the hooks and the profiler's mark that torch puts around every ``step``."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, parameter: nn.Parameter, grad: Tensor, group: dict[str, Any]) -> None:
        state, (beta1, beta2) = self.state[parameter], group["betas"]
        if not state:  # torch's names: a checkpoint does not depend on which of the two wrote it
            state["step"] = torch.zeros((), device=parameter.device if group["capturable"] else "cpu")
            state["exp_avg"], state["exp_inf"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        vectors = parameter.detach(), grad, state["exp_avg"], state["exp_inf"]
        constants = 1 - beta1, beta2, group["eps"], group["weight_decay"]
        if group["capturable"]:
            self.update_whole(vectors, constants, group["lr"], state["step"])
        else:
            update_adamax(vectors, (*constants, -group["lr"] / (1 - beta1 ** state["step"].item())))


def make_step(optimizer: Optimizer) -> None:
    """One update; of the built-in Adamax without what torch puts around a ``step``."""
    if type(optimizer) is LeanAdamax:
        optimizer.update()
    else:
        optimizer.step()


def take_numbers_from_the_device(optimizer: Optimizer) -> bool:
    """Let learning rate and count of steps be tensors beside the weights, so that a recorded step sees them change.

    Returns whether the optimizer can do that; those of torch say so by an option ``capturable``.
    """
    if not all("capturable" in group for group in optimizer.param_groups):
        return False
    for group in optimizer.param_groups:
        device = group["params"][0].device
        group["capturable"], group["lr"] = True, torch.tensor(float(group["lr"]), device=device)
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            if "step" in state:
                state["step"] = state["step"].to(device)
    return True


def fuse(optimizer: Optimizer) -> None:
    """Compile the operations of the built-in Adamax for a GPU into one kernel; torch's own optimizers are one already."""
    if isinstance(optimizer, LeanAdamax) and find_spec("triton"):
        with warnings.catch_warnings(action="ignore"):  # torch's about its own insides
            optimizer.update_whole = torch.compile(_update_whole, dynamic=False)


#: Numbers in a block: four vectors and a temporary one in 1.3 MB, which the second cache of today's cores holds.
_BLOCK = 2**16
_LARGEST_DENORMAL = 2.0**-126 - 2.0**-149


def update_adamax(vectors: tuple[Tensor, ...], numbers: tuple[float, ...]) -> None:
    """θ, g, m, u of one shape, and 1 − β₁, β₂, ε, weight decay, −lr/(1 − β₁ᵗ); overwrites θ, m and u."""
    kernel = kernels.find("adamax", *vectors)
    if kernel and vectors[0].dtype == torch.float32 and _adamax_agrees(kernel):
        kernel(*(v.view(-1).numpy() for v in vectors), *kernels.single(*numbers))
        return
    if vectors[0].device.type == "cpu" and all(v.is_contiguous() for v in vectors):
        blocks = [v.view(-1).split(_BLOCK * torch.get_num_threads()) for v in vectors]
    else:
        blocks = [(v,) for v in vectors]  # other devices have other caches
    scratch = torch.empty_like(blocks[0][0])
    for block in zip(*blocks, strict=True):
        _update_block(scratch[: len(block[0])] if scratch.dim() else scratch, block, numbers)


def _update_whole(vectors: tuple[Tensor, ...], constants: tuple[float, ...], lr: Tensor, step: Tensor) -> None:
    """The same in one piece, with rate and count of steps, t, on the device."""
    (theta, grad, m, u), (weight, beta2, eps, decay) = vectors, constants
    if decay:
        grad = grad + decay * theta
    m.lerp_(grad, weight)
    u.copy_(torch.maximum(u * beta2, grad.abs() + eps))
    m.copy_(torch.hardshrink(m, _LARGEST_DENORMAL))
    theta.sub_(m / u * (lr / (1 - (1 - weight) ** step)))


def _update_block(scratch: Tensor, block: tuple[Tensor, ...], numbers: tuple[float, ...]) -> None:
    (theta, grad, m, u), (weight, beta2, eps, decay, step) = block, numbers
    if decay:
        grad = torch.add(grad, theta, alpha=decay, out=scratch)
    m.lerp_(grad, weight)
    torch.maximum(u.mul_(beta2), torch.abs(grad, out=scratch).add_(eps), out=u)
    torch.hardshrink(m, _LARGEST_DENORMAL, out=m)
    theta.addcdiv_(m, u, value=step)


@cache
def _adamax_agrees(kernel: kernels.Kernel) -> bool:
    draw = torch.Generator().manual_seed(0)
    # Of all sizes, some that leave the range of float32 on either side, and a length that no vector of the machine divides.
    ours = [torch.randn(4099, generator=draw) * torch.logspace(-42, 38, 4099) for _ in range(4)]
    ours[3].abs_()
    torchs, numbers = [v.clone() for v in ours], (1 - 0.9, 0.999, 1e-8, 0.01, -0.002)
    _update_block(torch.empty(4099), tuple(torchs), numbers)
    kernel(*(v.numpy() for v in ours), *kernels.single(*numbers))
    return kernels.same_bits(ours, torchs)


def adamax(
    parameters: Parameters,
    lr: Positive = 1e-3,
    beta1: Fraction = 0.9,
    beta2: Fraction = 0.999,
    eps: Positive = 1e-8,
    weight_decay: NonNegative = 0.0,
) -> Optimizer:
    """Adam with the infinity norm: steps of at most 1.01 lr with the default betas. References: Kingma & Ba 2015, algorithm 2."""
    return LeanAdamax(parameters, {"lr": lr, "betas": (beta1, beta2), "eps": eps, "weight_decay": weight_decay})


def adam(
    parameters: Parameters,
    lr: Positive = 1e-3,
    beta1: Fraction = 0.9,
    beta2: Fraction = 0.999,
    eps: Positive = 1e-8,
    weight_decay: NonNegative = 0.0,
) -> Optimizer:
    """Adaptive moments. References: Kingma & Ba 2015, algorithm 1."""
    return torch.optim.Adam(parameters, lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=weight_decay, fused=True)


def adamw(
    parameters: Parameters,
    lr: Positive = 1e-3,
    beta1: Fraction = 0.9,
    beta2: Fraction = 0.999,
    eps: Positive = 1e-8,
    weight_decay: NonNegative = 0.01,
) -> Optimizer:
    """Adam with decoupled weight decay. References: Loshchilov & Hutter 2019, algorithm 2."""
    return torch.optim.AdamW(parameters, lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=weight_decay, fused=True)


def sgd(parameters: Parameters, lr: Positive = 1e-3, momentum: Fraction = 0.0, weight_decay: NonNegative = 0.0) -> Optimizer:
    """Stochastic gradient descent with momentum. References: Robbins & Monro 1951; Polyak 1964."""
    return torch.optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay, fused=True)


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"adamax": adamax, "adam": adam, "adamw": adamw, "sgd": sgd}


class Schedule(ABC):
    """The factor on the learning rate. Only ``plateau`` has a state; it is saved with every checkpoint."""

    #: Whether the factor depends on how long the training is planned to be (then `epochs` cannot be raised later).
    needs_total: bool = False

    @abstractmethod
    def factor(self, step: int, total: int, epoch: int) -> float:
        """The factor for the optimizer step number ``step`` (from 0) of ``total``, a step of epoch number ``epoch`` (from 0)."""

    def observe(self, neg_elbo: float) -> None:  # noqa: B027 - a hook: doing nothing is the right default
        """Take note of an epoch's validation −ELBO (nats)."""

    def state(self) -> dict[str, Any]:
        """What :meth:`load` needs to go on from here: plain values for a JSON file."""
        return {}

    def load(self, state: dict[str, Any]) -> None:  # noqa: B027 - the same
        """Continue from :meth:`state`."""


class Constant(Schedule):
    """Factor 1, after an optional linear warm-up over ``warmup_steps`` steps."""

    def __init__(self, warmup_steps: NonNegativeInt = 0) -> None:
        self.warmup_steps = warmup_steps

    def factor(self, step: int, total: int, epoch: int) -> float:
        return _warmup(step, self.warmup_steps)


class Cosine(Schedule):
    """Linear warm-up, then half a cosine from 1 down to ``final``, which the step after the last one would have.

    References:
        Loshchilov & Hutter 2017, SGDR, eq. 5 (one cycle).
    """

    needs_total = True

    def __init__(self, warmup_steps: NonNegativeInt = 500, final: Fraction = 0.0) -> None:
        self.warmup_steps, self.final = warmup_steps, final

    def factor(self, step: int, total: int, epoch: int) -> float:
        done = min(1.0, max(0, step - self.warmup_steps) / max(1, total - self.warmup_steps))
        return _warmup(step, self.warmup_steps) * (self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * done)))


class Plateau(Schedule):
    """Multiply by ``shrink`` when validation −ELBO has not improved for more than ``wait`` epochs in a row."""

    def __init__(
        self, shrink: Fraction = 0.5, wait: Count = 10, smallest: Fraction = 0.01, warmup_steps: NonNegativeInt = 0
    ) -> None:
        self.shrink, self.wait, self.smallest, self.warmup_steps = shrink, wait, smallest, warmup_steps
        self.current, self.best, self.bad = 1.0, math.inf, 0

    def factor(self, step: int, total: int, epoch: int) -> float:
        return self.current * _warmup(step, self.warmup_steps)

    def observe(self, neg_elbo: float) -> None:
        if neg_elbo < self.best:
            self.best, self.bad = neg_elbo, 0
            return
        self.bad += 1
        if self.bad > self.wait:
            self.current, self.bad = max(self.current * self.shrink, self.smallest), 0

    def state(self) -> dict[str, Any]:
        return {"current": self.current, "best": self.best, "bad": self.bad}

    def load(self, state: dict[str, Any]) -> None:
        self.current, self.best, self.bad = state["current"], state["best"], state["bad"]


class Staged(Schedule):
    """Stages of which each lasts ``growth`` times as many epochs as the one before, from one epoch; the factor falls
    geometrically from 1 in the first to ``final`` in the last, and stays there.

    With its defaults stage i = 0 … 7 lasts 3^i epochs (3,280 in all) at the factor 10^(−i/7). Boundaries are counted in
    epochs and not in shares of the training's length, so a training may stop after any stage and go on to the next.

    References:
        Burda, Grosse & Salakhutdinov 2016, Importance Weighted Autoencoders (the schedule of their experiments).
    """

    def __init__(self, stages: Count = 8, growth: Count = 3, final: Fraction = 0.1, warmup_steps: NonNegativeInt = 0) -> None:
        self.warmup_steps = warmup_steps
        self.ends = list(accumulate(growth**i for i in range(stages)))  # epochs done when stage i is over
        self.factors = [final ** (i / max(1, stages - 1)) for i in range(stages)]

    def factor(self, step: int, total: int, epoch: int) -> float:
        stage = min(bisect_right(self.ends, epoch), len(self.ends) - 1)
        return self.factors[stage] * _warmup(step, self.warmup_steps)


SCHEDULES: dict[str, type[Schedule]] = {"constant": Constant, "cosine": Cosine, "plateau": Plateau, "staged": Staged}


def _warmup(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / steps) if steps else 1.0
