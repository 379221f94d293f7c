"""The loss of one batch and its gradients as one graph of tensor operations: recorded once, a function of tensors alone.

    graph(*weights, x, *numbers, *noise) -> loss, *gradients

``weights`` are the parameters, ``numbers`` the floats of the objective (β moves in a warm-up), ``noise`` what the generator
gives. With the noise outside, a graph is the same function at every call: it can be compiled, replayed on a GPU, or batched over
models (``torch.vmap``), and all of these see the very numbers that the eager step would have drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_unflatten

from vaelid.errors import PartError
from vaelid.objectives import Objective
from vaelid.training.flat import FlatParameters, Gradient
from vaelid.training.surroundings import own_randomness
from vaelid.vae import VAE, Pass

Draw = Callable[[], Tensor]
#: A ``training.flat.Gradient`` with positions for tensors.
Place = int | list[tuple[int, int]] | None


@dataclass(frozen=True)
class Captured:
    """A recorded step.

    Attributes:
        graph: ``(*weights, x, *numbers, *noise) -> [loss, *gradients]``, tensors only
        places: where each weight's gradient stands after the loss: one tensor, or its factors (see ``training.flat``)
        draws: one function for each tensor of noise, in the order in which the eager step draws from torch's generator
    """

    graph: GraphModule
    places: list[Place]
    draws: tuple[Draw, ...]

    def gradients(self, flat: Sequence[Tensor]) -> list[Gradient]:
        """The gradients, as ``FlatParameters.put`` takes them, from what the graph gave after the loss."""
        return [
            at if at is None else flat[at] if isinstance(at, int) else [(flat[x], flat[d]) for x, d in at] for at in self.places
        ]


def numbers_of(objective: Objective, device: torch.device) -> list[Tensor]:
    """The floats of an objective as float32 scalars: what may change from step to step without a new recording."""
    # torch.tensor would wait for a GPU.
    return [torch.full((), getattr(objective, name), dtype=torch.float32, device=device) for name in _moving(objective)]


def shape_of(objective: Objective) -> Objective:
    """The objective without its floats: a recorded step serves all objectives of one shape."""
    return replace(objective, **dict.fromkeys(_moving(objective), 0.0)) if _moving(objective) else objective  # type: ignore[type-var]


def loss_of(look: Callable[[Tensor, int], Pass], x: Tensor, objective: Objective, bfloat16: bool) -> Tensor:
    """−bound, averaged over the batch, in nats per image: what training lowers.

    Args:
        look: the model
        bfloat16: whether the networks' products are short
    """
    with torch.autocast(x.device.type, torch.bfloat16, enabled=bfloat16):
        bound = objective(look(x, objective.samples))
    return -bound.mean()


def capture(model: VAE, weights: FlatParameters, objective: Objective, x: Tensor, bfloat16: bool) -> Captured:
    """Record the step that ``engines.Eager`` computes for batches of the shape of ``x``.

    Raises:
        PartError: if a part cannot be recorded: it asks for the value of a tensor, say, or draws with numbers that it computed.
    """
    names, moving = weights.names, _moving(objective)
    places: list[Place] = []

    def step(*inputs: Tensor) -> list[Tensor]:
        values, x, numbers = inputs[: len(names)], inputs[len(names)], inputs[len(names) + 1 :]
        fresh = [v.detach().requires_grad_(p.requires_grad) for v, p in zip(values, weights.parameters, strict=True)]
        now = replace(objective, **dict(zip(moving, numbers, strict=True))) if moving else objective  # type: ignore[type-var]
        look = partial(torch.func.functional_call, model, dict(zip(names, fresh, strict=True)))
        loss = loss_of(lambda x, samples: look((x, samples)), x, now, bfloat16)
        gradients, structure = tree_flatten(weights.gradients_of(loss, fresh))
        places[:] = tree_unflatten(range(len(gradients)), structure)
        return [loss.detach(), *gradients]

    weights.forget_gradients()
    try:
        with own_randomness(0):  # recording draws, too
            graph = make_fx(step)(*(p.detach() for p in weights.parameters), x, *numbers_of(objective, x.device))
    except RuntimeError as error:
        raise PartError(f"The step cannot be recorded: {str(error).splitlines()[0]}", "Train with --engine eager.") from error
    return Captured(graph, places, _lift_noise(graph))


def _moving(objective: Any) -> list[str]:
    if not is_dataclass(objective):
        return []
    return [f.name for f in fields(objective) if isinstance(getattr(objective, f.name), float)]


def _lift_noise(graph: GraphModule) -> tuple[Draw, ...]:
    """Turn every draw from torch's generator in the graph into an input, and say how to draw it.

    Raises:
        PartError: if what is drawn depends on what was computed before (dropout, say).
    """
    last = [node for node in graph.graph.nodes if node.op == "placeholder"][-1]
    draws: list[Draw] = []
    for node in [n for n in graph.graph.nodes if _draws(n)]:
        draws.append(_draw_of(node))
        with graph.graph.inserting_after(last):
            last = graph.graph.placeholder(f"noise_{len(draws)}")
        node.replace_all_uses_with(last)
        graph.graph.erase_node(node)
    for node in graph.graph.nodes:
        node.meta.clear()  # notes of the recording, which a compiler would take for its own
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return tuple(draws)


def _draws(node: Node) -> bool:
    return node.op == "call_function" and torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _draw_of(node: Node) -> Draw:
    inputs = [a for a in [*node.args, *node.kwargs.values()] if isinstance(a, Node)]
    like = node.meta["val"]
    empty = partial(torch.empty, like.shape, dtype=like.dtype, device=like.device)
    target: Any = node.target
    if not inputs:
        return partial(target, *node.args, **node.kwargs)
    if inputs == [node.args[0]] and inputs[0].target is torch.ops.aten.empty.memory_format:
        return lambda: target(empty(), *node.args[1:], **node.kwargs)
    raise PartError(
        f"The step cannot be recorded: {node.target} draws with numbers that were computed before.", "Train with --engine eager."
    )
