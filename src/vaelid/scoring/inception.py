"""The Inception network of the FID: the graph of 2015-12-05, with the weights as torch-fidelity and pytorch-fid converted them.

It differs from the Inception of torchvision: 1008 outputs, average pools that leave the padding out, a *maximum* pool in the last
block (a quirk that all published FIDs share), and images enlarged to 299 × 299 as TensorFlow 1 did it. Only scores of these very
weights may be called FID, KID or IS.

Names of weights follow the published file: ``Mixed_5b.branch5x5_2.conv.weight``, ``….bn.running_mean``, ``fc.weight`` …

References:
    Szegedy et al. 2016, Rethinking the Inception architecture; Heusel et al. 2017; Parmar, Zhang & Zhu 2022, On aliased resizing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

SIDE, CLASSES = 299, 1008

Kernel = tuple[int, int]
Pool = Callable[[Tensor], Tensor]
#: name, channels out, kernel, stride
Layer = tuple[str, int, Kernel, int]
#: A path through a block: steps one after the other; the layers of a step are run side by side.
Path = Sequence[tuple[Layer, ...]]


def _average(x: Tensor) -> Tensor:
    return functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def _maximum(x: Tensor) -> Tensor:
    return functional.max_pool2d(x, 3, stride=1, padding=1)


def _shrink(x: Tensor) -> Tensor:
    return functional.max_pool2d(x, 3, stride=2)


class ConvUnit(nn.Module):
    """Convolution without bias, batch norm (ε = 0.001), ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: Kernel, stride: int = 1, padding: Kernel = (0, 0)) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs, H, W) -> (B, outputs, H', W')``."""
        return functional.relu(self.bn(self.conv(x)), inplace=True)


class Block(nn.Module):
    """Paths side by side, their channels joined; ``pool`` starts the last path.

    Args:
        inputs: channels in
        paths: the layers, by name
        pool: what the last path begins with
        project: channels of the layer ``branch_pool`` after the pool; 0 for none
    """

    def __init__(self, inputs: int, paths: Sequence[Path], pool: Pool, project: int = 0) -> None:
        super().__init__()
        self.paths, self.pool, self.project = paths, pool, project
        self.outputs = project or inputs
        for path in paths:
            channels = inputs
            for step in path:
                for name, outputs, kernel, stride in step:
                    # Layers that do not shrink the image keep its size.
                    padding = (kernel[0] // 2, kernel[1] // 2) if stride == 1 else (0, 0)
                    self.add_module(name, ConvUnit(channels, outputs, kernel, stride, padding))
                channels = sum(layer[1] for layer in step)
            self.outputs += channels
        if project:
            self.branch_pool = ConvUnit(inputs, project, (1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs, H, W) -> (B, outputs, H', W')``, channels in the order of the paths, the pool last."""
        joined = [self._along(path, x) for path in self.paths]
        pooled = self.pool(x)
        return torch.cat([*joined, self.branch_pool(pooled) if self.project else pooled], 1)

    def _along(self, path: Path, x: Tensor) -> Tensor:
        for step in path:
            x = torch.cat([self.get_submodule(name)(x) for name, *_ in step], 1)
        return x


_ONE, _THREE, _FIVE, _WIDE, _TALL = (1, 1), (3, 3), (5, 5), (1, 7), (7, 1)


def _chain(*layers: Layer) -> Path:
    return [(layer,) for layer in layers]


def _block_a(inputs: int, project: int) -> Block:
    double = (("branch3x3dbl_1", 64, _ONE, 1), ("branch3x3dbl_2", 96, _THREE, 1), ("branch3x3dbl_3", 96, _THREE, 1))
    five = (("branch5x5_1", 48, _ONE, 1), ("branch5x5_2", 64, _FIVE, 1))
    return Block(inputs, [_chain(("branch1x1", 64, _ONE, 1)), _chain(*five), _chain(*double)], _average, project)


def _block_b(inputs: int) -> Block:
    double = (("branch3x3dbl_1", 64, _ONE, 1), ("branch3x3dbl_2", 96, _THREE, 1), ("branch3x3dbl_3", 96, _THREE, 2))
    return Block(inputs, [_chain(("branch3x3", 384, _THREE, 2)), _chain(*double)], _shrink)


def _block_c(inputs: int, width: int) -> Block:
    single = (("branch7x7_1", width, _ONE, 1), ("branch7x7_2", width, _WIDE, 1), ("branch7x7_3", 192, _TALL, 1))
    double = (
        ("branch7x7dbl_1", width, _ONE, 1),
        ("branch7x7dbl_2", width, _TALL, 1),
        ("branch7x7dbl_3", width, _WIDE, 1),
        ("branch7x7dbl_4", width, _TALL, 1),
        ("branch7x7dbl_5", 192, _WIDE, 1),
    )
    return Block(inputs, [_chain(("branch1x1", 192, _ONE, 1)), _chain(*single), _chain(*double)], _average, 192)


def _block_d(inputs: int) -> Block:
    short = (("branch3x3_1", 192, _ONE, 1), ("branch3x3_2", 320, _THREE, 2))
    long = (
        ("branch7x7x3_1", 192, _ONE, 1),
        ("branch7x7x3_2", 192, _WIDE, 1),
        ("branch7x7x3_3", 192, _TALL, 1),
        ("branch7x7x3_4", 192, _THREE, 2),
    )
    return Block(inputs, [_chain(*short), _chain(*long)], _shrink)


def _block_e(inputs: int, pool: Pool) -> Block:
    def fork(name: str) -> tuple[Layer, Layer]:
        return (f"{name}a", 384, (1, 3), 1), (f"{name}b", 384, (3, 1), 1)

    single = [*_chain(("branch3x3_1", 384, _ONE, 1)), fork("branch3x3_2")]
    double = [*_chain(("branch3x3dbl_1", 448, _ONE, 1), ("branch3x3dbl_2", 384, _THREE, 1)), fork("branch3x3dbl_3")]
    return Block(inputs, [_chain(("branch1x1", 320, _ONE, 1)), single, double], pool, 192)


class InceptionNet(nn.Module):
    """RGB images ``(B, 3, H, W)``, bytes 0 … 255 in any floating type, to pool features and logits."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvUnit(3, 32, _THREE, 2)
        self.Conv2d_2a_3x3 = ConvUnit(32, 32, _THREE)
        self.Conv2d_2b_3x3 = ConvUnit(32, 64, _THREE, 1, (1, 1))
        self.Conv2d_3b_1x1 = ConvUnit(64, 80, _ONE)
        self.Conv2d_4a_3x3 = ConvUnit(80, 192, _THREE)
        blocks: Mapping[str, Callable[[int], Block]] = {
            "Mixed_5b": lambda inputs: _block_a(inputs, 32),
            "Mixed_5c": lambda inputs: _block_a(inputs, 64),
            "Mixed_5d": lambda inputs: _block_a(inputs, 64),
            "Mixed_6a": _block_b,
            "Mixed_6b": lambda inputs: _block_c(inputs, 128),
            "Mixed_6c": lambda inputs: _block_c(inputs, 160),
            "Mixed_6d": lambda inputs: _block_c(inputs, 160),
            "Mixed_6e": lambda inputs: _block_c(inputs, 192),
            "Mixed_7a": _block_d,
            "Mixed_7b": lambda inputs: _block_e(inputs, _average),
            "Mixed_7c": lambda inputs: _block_e(inputs, _maximum),
        }
        channels, self.mixed = 192, tuple(blocks)
        for name, make in blocks.items():
            block = make(channels)
            self.add_module(name, block)
            channels = block.outputs
        self.fc = nn.Linear(channels, CLASSES)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features ``(B, 2048)``, and logits without the bias ``(B, 1008)`` (all published Inception Scores leave it out)."""
        x = (enlarge(x) - 128) / 128
        x = _shrink(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))))
        x = _shrink(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)))
        for name in self.mixed:
            x = self.get_submodule(name)(x)
        features = x.mean((2, 3))
        return features, features @ self.fc.weight.T


def enlarge(x: Tensor, side: int = SIDE) -> Tensor:
    """Bilinear ``(B, C, H, W) -> (B, C, side, side)`` as TensorFlow 1 does it: output i looks at input i · H/side.

    torch has no such mode: ``align_corners=False`` looks at (i + ½) · H/side − ½, True at i · (H − 1)/(side − 1).
    """
    rows, columns = (_weights(length, side).to(x) for length in x.shape[-2:])
    return torch.einsum("oh,bchw,pw->bcop", rows, x, columns)


def _weights(length: int, side: int) -> Tensor:
    """The matrix ``(side, length)`` of bilinear weights along one axis."""
    at = torch.arange(side, dtype=torch.float64) * (length / side)
    lower = at.floor().long().clamp(max=length - 1)
    upper = (lower + 1).clamp(max=length - 1)
    share = at - lower
    weights = torch.zeros(side, length, dtype=torch.float64)
    weights.scatter_add_(1, lower.unsqueeze(1), (1 - share).unsqueeze(1))
    return weights.scatter_add_(1, upper.unsqueeze(1), share.unsqueeze(1))
