"""What a GPU repeats: operations on tensors of fixed places, recorded once as a CUDA graph and launched all at once.

A step on a GPU is three launches, and all the processor does beside them is to draw noise and to fill in a few numbers:

    pixels    positions, epoch, seed -> x           gathered and binarized from what lies on the device
    engine    x, numbers, noise -> loss, norm       loss and gradients (``engines.Graph``, ``Compile``; ``together.Joint``)
    update    norm -> weights                       clipping, optimizer, moving average

Without that a small model's step is the processor's time for starting some 300 operations. Measured: ``benchmarks/gpu_epoch.py``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vaelid.data import Split
from vaelid.errors import PartError

Replay = Callable[..., Sequence[Tensor]]
#: Makes a faster form of a function of tensors, for inputs like these.
Translate = Callable[[Replay, Sequence[Tensor]], Replay]
#: So often a function runs before it is recorded: libraries choose kernels and take workspace at first calls.
_TRIALS = 3


def can_record(tensor: Tensor) -> bool:
    """Whether what is done with this tensor can be recorded: it lies on a GPU."""
    return tensor.is_cuda


def record(function: Replay, inputs: Sequence[Tensor], changed: Sequence[Tensor] = ()) -> Replay:
    """The kernels of ``function`` as one CUDA graph: a call copies its inputs into place and launches them all at once.

    What comes out lies in the same memory at every call.

    Args:
        function: of tensors like ``inputs``, which waits for nothing; its other numbers stay as they are now
        changed: tensors that it overwrites; recording leaves them as they were

    Raises:
        PartError: if something in it cannot be recorded.
    """
    places, before = [t.clone() for t in inputs], [t.clone() for t in changed]
    try:
        with torch.cuda.device(inputs[0].device):
            side, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(_TRIALS):
                    function(*places)
            torch.cuda.current_stream().wait_stream(side)
            with torch.cuda.graph(graph):
                outputs = function(*places)
    except RuntimeError as error:
        raise PartError(f"No CUDA graph can be made of it: {str(error).splitlines()[0]}", "Train with --engine eager.") from error
    finally:
        for tensor, value in zip(changed, before, strict=True):
            tensor.copy_(value)

    def replay(*now: Tensor) -> Sequence[Tensor]:
        torch._foreach_copy_(places, list(now))
        graph.replay()
        return outputs

    return replay


class Pixels:
    """The batches of a split that lies on a GPU; those of ``size`` images by a recording, unless the images stayed on a disk.

    What it gives is overwritten by the next call.
    """

    def __init__(self, split: Split, size: int, translate: Translate) -> None:
        self.split, self.size, self.translate = split, size, translate
        self.replay: Replay | None = None
        self.on_disk = not isinstance(split.images.pixels, Tensor)

    def __call__(self, positions: Tensor, epoch: Tensor, seed: Tensor) -> Tensor:
        """``Split.batch`` at ``positions`` ``(B,)``; epoch and seed are int64, one for all or ``(B,)``."""
        inputs = [positions, epoch, seed]
        if self.on_disk or len(positions) != self.size:
            return self._make(*inputs)[0]
        if self.replay is None:
            self._make(*inputs)  # what is made once and kept should be there, and not be recorded
            self.replay = record(self.translate(self._make, inputs), inputs)
        return self.replay(*inputs)[0]

    def _make(self, positions: Tensor, epoch: Tensor, seed: Tensor) -> Sequence[Tensor]:
        return [self.split.batch(positions, epoch, seed)]


class Update:
    """A change of weights, made as it is the first time (an optimizer then makes its state), and recorded at the second call.

    Args:
        function: gradient norms -> nothing; changes tensors in place, and of the numbers that it uses only tensors may change
        changed: the tensors that it changes, asked for when it is recorded
    """

    def __init__(self, function: Callable[[Tensor], None], changed: Callable[[], Sequence[Tensor]]) -> None:
        self.function, self.changed = function, changed
        self.calls = 0
        self.replay: Replay | None = None

    def __call__(self, norm: Tensor) -> None:
        """Make it."""
        self.calls += 1
        if self.calls == 2:
            try:
                self.replay = record(self._change, [norm], self.changed())
            except PartError as error:
                warnings.warn(
                    f"The optimizer's step is made operation by operation: {error.problem}", RuntimeWarning, stacklevel=2
                )
        if self.replay is None:
            self.function(norm)
        else:
            self.replay(norm)

    def _change(self, norm: Tensor) -> Sequence[Tensor]:
        self.function(norm)
        return ()


@dataclass(frozen=True)
class Recorded:
    """What surrounds loss and gradients in a step on a GPU: pixels before, update after."""

    pixels: Pixels
    update: Callable[[Tensor], None]

    def batches(self, positions: Iterable[Tensor], epoch: int, seed: int) -> Iterator[Tensor]:
        """As ``Split.batches``; each is overwritten by the next."""
        if self.pixels.on_disk:
            return self.pixels.split.batches(positions, epoch, seed)
        device = self.pixels.split.device
        words = [torch.tensor(word, device=device) for word in (epoch, seed)]
        return (self.pixels(at, *words) for at in positions)
