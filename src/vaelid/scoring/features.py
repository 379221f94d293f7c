"""What a score looks at: images turned into feature vectors by an *extractor*, whose name stands in the score's name.

Letters: B images of a batch, N of a set, F features, C classes, ``*X`` the shape of an image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vaelid.errors import CheckFailed


@dataclass(frozen=True)
class Features:
    """Features ``(N, F)`` of N images, and log p(class|image) ``(N, C)`` nats where the extractor is a classifier."""

    values: Tensor
    log_probabilities: Tensor | None = None

    def __len__(self) -> int:
        return len(self.values)


class Extractor(ABC):
    """Turns images into features.

    Attributes:
        name: stands in the name of every score made with it
        digest: SHA-256 (hex) of all its numbers
        about: what else there is to know, as plain values for a JSON file
    """

    name: str
    digest: str
    about: dict[str, Any]

    @abstractmethod
    def __call__(self, x: Tensor) -> Features:
        """Features of images ``(B, *X)`` with pixels as the model has them, on the device of the extractor's weights."""

    @abstractmethod
    def to(self, device: torch.device) -> Extractor:
        """This extractor on ``device``."""


@torch.no_grad()
def extract(extractor: Extractor, batches: Iterable[Tensor]) -> Features:
    """Features of all batches under each other, float64 on the CPU.

    Raises:
        CheckFailed: if a feature is not finite: there is no distance to such an image.
    """
    pieces = [extractor(x) for x in batches]
    values = torch.cat([piece.values.cpu() for piece in pieces]).double()
    broken = int((~values.isfinite()).any(1).sum())
    if broken:
        raise CheckFailed(
            f"{broken:,} of {len(values):,} images have features that are not finite, so they cannot be scored.",
            "`vaelid audit` looks for the cause in the model.",
        )
    known = [piece.log_probabilities.cpu() for piece in pieces if piece.log_probabilities is not None]
    return Features(values, torch.cat(known).double() if known else None)
