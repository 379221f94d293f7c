"""Which pixel values a picture shows as black and as white.

Pixels of every support but ``real`` lie in [0, 1] and are shown as they are. Real values have no scale of their own: their
least and largest value among the first training images become black and white, in every picture of a run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from vaelid.data.splits import Split

Pixels = TypeVar("Pixels", Tensor, np.ndarray)

#: Images whose least and largest value are taken: enough for a picture, and read at once from a file of any size.
_LOOKED_AT = 1000
_LEAST_SPAN = 1e-6


@dataclass(frozen=True)
class Shades:
    """``black`` and ``white`` are pixel values; a value between them is a gray in proportion."""

    black: float = 0.0
    white: float = 1.0

    @classmethod
    def of(cls, train: Split) -> Shades:
        """What suits the images of a training split."""
        if train.support.name != "real":
            return cls()
        seen = train.batch(torch.arange(min(_LOOKED_AT, len(train))))
        return cls(float(seen.min()), float(seen.max()))

    def of_pixels(self, x: Pixels) -> Pixels:
        """Pixels of any shape on the scale of pictures: 0 is black, 1 is white, and what is darker or brighter lies outside."""
        return (x - self.black) / max(self.white - self.black, _LEAST_SPAN)
