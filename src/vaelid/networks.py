"""Plain networks without probability: they turn a vector or an image into numbers that a part gives a meaning.

The contract of a network: the constructor takes ``inputs`` (the shape of one input) and ``outputs`` (how many numbers to give),
then its own options; ``forward`` maps ``(*batch, *inputs)`` to ``(*batch, outputs)`` for any number of batch dimensions.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from itertools import pairwise

from torch import Tensor, nn

from vaelid.settings import Count, unknown

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "leaky-relu": nn.LeakyReLU,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
}


class Network(nn.Module, ABC):
    """Base of networks."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """``(*batch, *inputs) -> (*batch, outputs)``."""

    @property
    @abstractmethod
    def output_bias(self) -> nn.Parameter:
        """The bias of the last layer, ``(outputs,)``: where a likelihood may put the statistics of the data."""


class MLP(Network):
    """Fully connected layers with one activation between them.

    Args:
        inputs: shape of one input; it is flattened
        outputs: how many numbers to give
        hidden: width of each hidden layer
        activation: a name in ``ACTIVATIONS``
    """

    def __init__(
        self, inputs: tuple[int, ...], outputs: int, hidden: tuple[Count, ...] = (512, 512), activation: str = "leaky-relu"
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise unknown("activation", activation, ACTIVATIONS)
        self.input_dims = len(inputs)
        widths = [math.prod(inputs), *hidden, outputs]
        layers: list[nn.Module] = []
        for width_in, width_out in pairwise(widths):
            layers += [nn.Linear(width_in, width_out), ACTIVATIONS[activation]()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.flatten(-self.input_dims))

    @property
    def output_bias(self) -> nn.Parameter:
        return self._linear[-1].bias

    def extra_repr(self) -> str:
        """The widths from input to output, as ``64-512-512-40``."""
        return "-".join(str(width) for width in [self._linear[0].in_features, *(layer.out_features for layer in self._linear)])

    @property
    def _linear(self) -> list[nn.Linear]:
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]


NETWORKS: dict[str, type[Network]] = {"mlp": MLP}
