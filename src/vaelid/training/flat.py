"""All weights as one flat vector.

An optimizer step reads and writes every weight a few times and multiplies next to nothing: its cost is memory traffic and the
number of small operations. On one vector the update of a 1.3-million-weight model is a handful of operations, not a hundred.

The gradient of a linear layer's weight, D^T X with X ``(rows, in)`` what went in and D ``(rows, out)`` the gradient of what came
out, is as large as the weight, and X and D are small. So autograd is left to find D only, and the product is written straight to
its place in the vector: the same product, and no copy. The norm is taken piece by piece while the piece is still in the cache.

What a step costs beside the notebook's: ``benchmarks/training_epoch.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from vaelid.errors import PartError
from vaelid.training.cuda import can_record

#: Every weight starts at a multiple of this many numbers, so that vector instructions see aligned memory.
_ALIGNMENT = 16

#: X and D of each call of a layer.
Factors = list[tuple[Tensor, Tensor]]
#: That of one parameter; None for one that took no part in the loss.
Gradient = Tensor | Factors | None


class FlatParameters:
    """Makes the parameters of a module views of one vector, ``flat``; its ``.grad`` holds the gathered gradients.

    Built once, after the module is on its device; loading a state dict afterwards writes through the views.

    Args:
        layers: linear layers of the module whose weight is used by nothing but their call; of these autograd does not
            compute the gradient any more, only :meth:`gather_gradients` does

    Raises:
        PartError: if there is nothing to train, or the parameters are of several types.
    """

    def __init__(self, module: nn.Module, layers: Iterable[nn.Linear] = ()) -> None:
        named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        self.names, self.parameters = [name for name, _ in named], [p for _, p in named]
        if len({p.dtype for p in self.parameters}) != 1:
            types = ", ".join(sorted({str(p.dtype).removeprefix("torch.") for p in self.parameters}))
            problem = f"parameters of one type are needed; these are {types}" if types else "the model has no parameters to train"
            raise PartError(f"The model cannot be trained: {problem}.", "Make every parameter of your own parts float32.")
        starts, total = [], 0
        for p in self.parameters:
            starts.append(total)
            total += -(-p.numel() // _ALIGNMENT) * _ALIGNMENT
        like = self.parameters[0]
        self.flat = nn.Parameter(torch.zeros(total, dtype=like.dtype, device=like.device))
        self.grad = torch.zeros_like(self.flat)
        self.flat.grad = self.grad
        self.pieces = [slice(start, start + p.numel()) for p, start in zip(self.parameters, starts, strict=True)]
        self._gradients = [self.grad[piece].view_as(p) for p, piece in zip(self.parameters, self.pieces, strict=True)]
        for p, piece in zip(self.parameters, self.pieces, strict=True):
            self.flat.data[piece] = p.data.flatten()
            p.data = self.flat.data[piece].view_as(p)
        self._factors: dict[Tensor, Factors] = {}  # by weight
        for layer in [layer for layer in layers if layer.weight.requires_grad and layer.bias is not None]:  # layers may share
            # Without a bias, nothing would ask for D of a first layer.
            layer.weight.requires_grad_(False)
            layer.register_forward_hook(partial(self._await_gradient, layer.weight))

    def forget_gradients(self) -> None:
        """Let go of the gradients, so that the next backward pass writes instead of adding."""
        self._factors.clear()
        for p in self.parameters:
            p.grad = None

    @torch.no_grad()
    def gather_gradients(self) -> Tensor:
        """Bring the gradients of all parameters into ``flat.grad``; returns their Euclidean norm, a scalar tensor."""
        return self.put([self._factors.pop(p, p.grad) for p in self.parameters])

    def gradients_of(self, loss: Tensor, stand_ins: Sequence[Tensor]) -> list[Gradient]:
        """Gradients of a loss that was computed with ``stand_ins`` in place of the parameters: what :meth:`put` takes."""
        found = torch.autograd.grad(loss, [t for t in stand_ins if t.requires_grad], allow_unused=True)
        by_name = dict(zip([n for n, t in zip(self.names, stand_ins, strict=True) if t.requires_grad], found, strict=True))
        return [self._factors.pop(p, by_name.get(n)) for n, p in zip(self.names, self.parameters, strict=True)]

    def put(self, gradients: Sequence[Gradient]) -> Tensor:
        """Write one gradient per parameter, as a tensor or in factors, into ``flat.grad``; returns their norm, a scalar."""
        return write_gradients(gradients, self._gradients, self.grad)

    @torch.no_grad()
    def clip(self, norm: Tensor, most: float) -> None:
        """Scale the gathered gradients, whose norm is ``norm``, down to the norm ``most``; 0: leave them."""
        if not most:
            return
        if can_record(norm):  # without reading the norm, which would wait for the device
            self.grad.mul_((most / norm).clamp_max(1))
        elif float(norm) > most:
            self.grad.mul_(most / float(norm))

    def move(self, flat: Tensor, grad: Tensor) -> None:
        """Let weights and gradients live in these vectors from now on; their values go along."""
        flat.copy_(self.flat.detach())
        grad.copy_(self.grad)
        self.flat.data, self.flat.grad, self.grad = flat, grad, grad
        for p, piece in zip(self.parameters, self.pieces, strict=True):
            p.data = flat[piece].view_as(p)
        self._gradients = [grad[piece].view_as(p) for p, piece in zip(self.parameters, self.pieces, strict=True)]

    def _await_gradient(self, weight: Tensor, _layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(partial(self._note, weight, inputs[0].detach()))

    def _note(self, weight: Tensor, x: Tensor, gradient: Tensor) -> None:
        self._factors.setdefault(weight, []).append((x.reshape(-1, x.shape[-1]), gradient.reshape(-1, gradient.shape[-1])))


@torch.no_grad()
def write_gradients(gradients: Sequence[Gradient], places: Sequence[Tensor], whole: Tensor) -> Tensor:
    """Write one gradient per parameter into its place; returns the norm of all of them, a scalar.

    Args:
        whole: the vector that the places are views of; or the rows of a matrix, for several models at once: their places have
            the dimension of the models in front, and the norms are one per row
    """
    norms: list[Tensor] = []
    plain = [(place, gradient) for gradient, place in zip(gradients, places, strict=True) if isinstance(gradient, Tensor)]
    written = [place for place, _ in plain]
    if plain:
        torch._foreach_copy_(written, [gradient for _, gradient in plain])  # on a GPU at one launch
    for gradient, place in zip(gradients, places, strict=True):
        if gradient is None:
            place.zero_()  # a part that took no part in this loss
        elif not isinstance(gradient, Tensor):
            _multiply(gradient, place)
            if not can_record(whole):  # while the piece is still in the cache
                norms += _norms([place], whole)
    if can_record(whole):
        return torch.linalg.vector_norm(whole, dim=-1)
    norms += _norms(written, whole)
    return torch.linalg.vector_norm(torch.stack(norms), dim=0) if norms else whole.new_zeros(whole.shape[:-1])


def _norms(pieces: list[Tensor], whole: Tensor) -> Sequence[Tensor]:
    """Euclidean norm of each piece, a scalar; or ``(M,)`` where ``whole`` has M rows. Many small pieces take one call."""
    if whole.dim() == 1 and pieces:
        return torch._foreach_norm(pieces)
    return [torch.linalg.vector_norm(piece.flatten(1), dim=-1) for piece in pieces]


def _multiply(factors: Factors, place: Tensor) -> None:
    """place ← D^T X, summed over all calls of the layer."""
    (x, gradient), *others = factors
    if others:  # called more than once in one loss
        x, gradient = (torch.cat([first, *more], dim=-2) for first, *more in zip(*factors, strict=True))
    if gradient.dtype == place.dtype:
        torch.matmul(gradient.mT, x, out=place)
    else:  # under autocast: as short as autograd would multiply
        place.copy_(gradient.mT @ x.to(gradient.dtype))
