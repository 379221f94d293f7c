"""All weights as one flat vector.

An optimizer step reads and writes every weight a few times and multiplies next to nothing: its cost is memory traffic and the
number of small operations. On one vector the update of a 1.3-million-weight model is a handful of operations, not a hundred,
and the gradient norm is one more. What a step costs beside the notebook's: ``benchmarks/training_epoch.py``.
"""

from __future__ import annotations

import torch
from torch import nn

from vaelid.errors import PartError

#: Every weight starts at a multiple of this many numbers, so that vector instructions see aligned memory.
_ALIGNMENT = 16


class FlatParameters:
    """Makes the parameters of a module views of one vector, ``flat``; its ``.grad`` holds the gathered gradients.

    Built once, after the module is on its device; loading a state dict afterwards writes through the views.

    Raises:
        PartError: if there is nothing to train, or the parameters are of several types.
    """

    def __init__(self, module: nn.Module) -> None:
        self.parameters = [p for p in module.parameters() if p.requires_grad]
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
        self._gradients = []
        for p, start in zip(self.parameters, starts, strict=True):
            piece = slice(start, start + p.numel())
            self.flat.data[piece] = p.data.flatten()
            p.data = self.flat.data[piece].view_as(p)
            self._gradients.append(self.grad[piece].view_as(p))

    def forget_gradients(self) -> None:
        """Let go of the gradients, so that the next backward pass writes instead of adding."""
        for p in self.parameters:
            p.grad = None

    def gather_gradients(self) -> torch.Tensor:
        """Bring the gradients of all parameters into ``flat.grad``; returns their Euclidean norm, a scalar tensor."""
        for p, place in zip(self.parameters, self._gradients, strict=True):
            if p.grad is None:
                place.zero_()  # a part that took no part in this loss
            else:
                place.copy_(p.grad)
        return torch.linalg.vector_norm(self.grad)
