"""The images of one source, as they are stored.

Pixels with n gray levels are stored as whole numbers 0 … n−1 in one byte each (60 000 MNIST images: 47 MB), others as
float32. Scaling to [0, 1] and binarization happen per batch, in ``splits.py``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from vaelid.data.reading import announce, require_whole
from vaelid.errors import DataError
from vaelid.supports import Support

BLOCK_BYTES = 2**24  # what is read at a time from arrays that may be larger than memory


@dataclass(frozen=True, eq=False)
class Images:
    """All images of one source.

    ``pixels`` is ``(N, *X)``: a tensor, uint8 where ``support`` is discrete and else float32; or a (memory-mapped) NumPy
    array of any real type, which becomes one of the two when images are gathered. ``support`` is that of the stored
    pixels on the scale [0, 1]. ``labels`` is ``(N,)`` int64. ``files`` has one name per image, ``skipped`` names the
    unreadable files that were left out.

    Raises:
        DataError: pixels of another type, or another number of labels or files than of images.
    """

    name: str
    pixels: Tensor | np.ndarray
    support: Support
    labels: Tensor | None = None
    label_names: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        stored = torch.uint8 if self.support.discrete else torch.float32
        if isinstance(self.pixels, Tensor) and self.pixels.dtype != stored:
            came = f"those of {self.name} are {self.pixels.dtype}"
            raise DataError(f"Pixels that are {self.support} are stored as {stored}; {came}.")
        if self.pixels.ndim < 2 or 0 in self.pixels.shape:
            raise DataError(f"{self.name} must hold images as (N, *X); its shape is {tuple(self.pixels.shape)}.")
        counts = {"labels": None if self.labels is None else len(self.labels), "file names": len(self.files) or None}
        for what, count in counts.items():
            if count is not None and count != len(self):
                raise DataError(f"{self.name} has {len(self)} images but {count} {what}.")

    def __len__(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape ``*X`` of one image."""
        return tuple(self.pixels.shape[1:])

    def gather(self, indices: Tensor) -> Tensor:
        """The stored pixels ``(B, *X)`` at ``indices`` ``(B,)``, on the device of the indices.

        uint8 level numbers where the support is discrete, else float32.

        Raises:
            DataError: a memory-mapped file has become shorter.
        """
        if isinstance(self.pixels, Tensor):
            return self.pixels.index_select(0, indices)
        require_whole(self.pixels)
        return torch.from_numpy(self._as_stored(self.pixels[indices.cpu().numpy()])).to(indices.device)

    def announce(self, indices: Tensor) -> None:
        """Images ``indices`` ``(B,)`` will be gathered soon: what is to come from a disk is fetched in the background."""
        if not isinstance(self.pixels, Tensor):
            announce(self.pixels, indices.cpu().numpy())

    def to(self, device: torch.device | str) -> Images:
        """The same images with pixels and labels on ``device``; a memory-mapped array stays where it is."""
        pixels = self.pixels.to(device) if isinstance(self.pixels, Tensor) else self.pixels
        return replace(self, pixels=pixels, labels=None if self.labels is None else self.labels.to(device))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of shape, support and stored pixels; the same for a memory-mapped array and its copy in memory."""
        digest = hashlib.sha256(f"{len(self)}{self.shape}{self.support.name}".encode())
        for block in self._blocks():
            digest.update(block.data)
        return digest.hexdigest()

    def _blocks(self) -> Iterator[np.ndarray]:
        row_bytes = int(np.prod(self.shape)) * (1 if self.support.discrete else 4)
        step = max(1, BLOCK_BYTES // row_bytes)
        for start in range(0, len(self), step):
            rows = self.pixels[start : start + step]
            yield self._as_stored(rows.cpu().numpy() if isinstance(rows, Tensor) else rows)

    def _as_stored(self, rows: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(rows, dtype=np.uint8 if self.support.discrete else np.float32)
