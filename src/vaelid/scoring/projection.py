"""Random projection: features for images without labels.

F orthonormal random directions in pixel space, the same for everyone. They know nothing about pictures: a score of them compares
means and covariances of pixels, and two images that look alike but are shifted by a pixel lie far apart. Images with fewer pixels
than F are taken as they are, in a rotated frame.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import torch
from torch import Tensor

from vaelid.randomness import key, normal
from vaelid.scoring.features import Extractor, Features

_FEATURES = 64


class RandomProjection(Extractor):
    """``(B, *X) -> (B, F)`` by a fixed matrix with orthonormal columns."""

    name = "random-projection"

    def __init__(self, shape: tuple[int, ...]) -> None:
        pixels = math.prod(shape)
        directions = normal(key("random-projection", torch.arange(pixels)), min(_FEATURES, pixels)).double()
        self.matrix = torch.linalg.qr(directions).Q
        # To 9 digits, since the last ones depend on the machine's linear algebra.
        self.digest = hashlib.sha256((self.matrix * 1e9).round().long().numpy().tobytes()).hexdigest()
        self.about: dict[str, Any] = {"pixels": pixels, "features": self.matrix.shape[1]}

    def __call__(self, x: Tensor) -> Features:
        return Features(x.flatten(1).double().cpu() @ self.matrix)

    def to(self, device: torch.device) -> RandomProjection:
        """Itself: the projection is done on the CPU, in float64."""
        return self
