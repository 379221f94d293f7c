"""Ways from gray levels to 0 and 1, the *binarization protocols* of the literature.

They give different data and therefore likelihoods that must not be compared with each other. Every random draw is a pure
function of what it is for, of its seed and epoch and of the position of the image in its source, so that it does not depend
on batch size or order. A pixel of gray value g in [0, 1] becomes 1 where u < g, with u uniform on [0, 1).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from vaelid import kernels
from vaelid.data.images import Images
from vaelid.data.settings import DataSettings
from vaelid.errors import DataError
from vaelid.randomness import key, uniform
from vaelid.supports import BINARY, REAL, Support


@dataclass(frozen=True, eq=False)
class Draw:
    """What one draw is for: source positions ``indices`` ``(B,)`` of a training or held-out split, and the access to them: one
    for all, or ``(B,)``."""

    indices: Tensor
    held_out: bool
    epoch: int | Tensor = 0
    seed: int | Tensor = 0


class Binarization(ABC):
    """One protocol: gray values in, pixels out, and what to say about them."""

    @abstractmethod
    def __call__(self, gray: Tensor, draw: Draw, settings: DataSettings) -> Tensor:
        """Pixels for gray values, both float32 ``(B, *X)``; may write into ``gray``."""

    @abstractmethod
    def protocol(self, held_out: bool, settings: DataSettings) -> str:
        """One sentence on how the pixels of a split come about."""

    @abstractmethod
    def identity(self, held_out: bool, settings: DataSettings) -> str:
        """All that the draws depend on besides images and access; part of a split's fingerprint, so it must never change."""

    def support(self, images: Images) -> Support:
        """The support of the pixels that come out.

        Raises:
            DataError: the stored pixels are binary already, or not gray values in [0, 1].
        """
        remedy = "Set data.binarization to 'none'."
        if images.support == BINARY:
            raise DataError(f"The images of {images.name} are already binary; they cannot be binarized.", remedy)
        if images.support == REAL:
            low, high = float(images.pixels.min()), float(images.pixels.max())
            raise DataError(
                f"Only gray values in [0, 1] can be binarized; those of {images.name} lie between {low:.6g} and {high:.6g}.",
                f"{remedy} Or scale the images to [0, 1].",
            )
        return BINARY


class Keep(Binarization):
    """Gray values stay as they are."""

    def __call__(self, gray: Tensor, draw: Draw, settings: DataSettings) -> Tensor:
        return gray

    def protocol(self, held_out: bool, settings: DataSettings) -> str:
        return "pixels as stored"

    def identity(self, held_out: bool, settings: DataSettings) -> str:
        return "none"

    def support(self, images: Images) -> Support:
        """That of the stored pixels, whatever it is."""
        return images.support


class Dynamic(Binarization):
    """Training images are redrawn in every epoch; validation and test images are drawn once, by ``binarization_seed``.

    The usual protocol (Burda, Grosse & Salakhutdinov 2016) with held-out images that are the same for every model.
    """

    def __call__(self, gray: Tensor, draw: Draw, settings: DataSettings) -> Tensor:
        if draw.held_out:
            keys = key("binarize-held-out", settings.binarization_seed, draw.indices, device=gray.device)
            return _bernoulli(gray, keys)
        return _bernoulli(gray, _access_keys(draw))

    def protocol(self, held_out: bool, settings: DataSettings) -> str:
        """Held-out images name their seed: figures of two runs compare only under the same one."""
        if held_out:
            return f"binarized once with seed {settings.binarization_seed}, the same for every model"
        return "redrawn in every epoch"

    def identity(self, held_out: bool, settings: DataSettings) -> str:
        return f"once:{settings.binarization_seed}" if held_out else "redrawn"


class Resampled(Binarization):
    """All images are redrawn at every access, validation and test images too, so that their scores vary between accesses."""

    def __call__(self, gray: Tensor, draw: Draw, settings: DataSettings) -> Tensor:
        return _bernoulli(gray, _access_keys(draw))

    def protocol(self, held_out: bool, settings: DataSettings) -> str:
        return "redrawn at every access (access 0)" if held_out else "redrawn in every epoch"

    def identity(self, held_out: bool, settings: DataSettings) -> str:
        return "redrawn"


class Threshold(Binarization):
    """A pixel is 1 where its gray value is above ``threshold``."""

    def __call__(self, gray: Tensor, draw: Draw, settings: DataSettings) -> Tensor:
        return gray.gt_(settings.threshold)

    def protocol(self, held_out: bool, settings: DataSettings) -> str:
        return f"1 where the gray value is above {settings.threshold:g}, else 0"

    def identity(self, held_out: bool, settings: DataSettings) -> str:
        """The threshold to its last digit, which ``protocol`` shortens."""
        return f"threshold:{settings.threshold!r}"


BINARIZATIONS: dict[str, Binarization] = {
    "none": Keep(),
    "dynamic": Dynamic(),
    "resampled": Resampled(),
    "threshold": Threshold(),
}


def _access_keys(draw: Draw) -> Tensor:
    # Positions in the source are unique over all splits, so one purpose serves the training and the held-out splits.
    return key("binarize-train", draw.seed, draw.epoch, draw.indices, device=draw.indices.device)


def _bernoulli(gray: Tensor, keys: Tensor) -> Tensor:
    kernel = kernels.find("binarize", gray, keys)
    if kernel and gray.dtype == torch.float32 and _binarize_agrees(kernel):
        kernel(gray.flatten(1).numpy(), keys.numpy())
        return gray
    return _draw(gray, keys)


def _draw(gray: Tensor, keys: Tensor) -> Tensor:
    # The in-place comparison writes 0. and 1. where the random numbers were: no mask, no conversion.
    return uniform(keys, gray[0].numel()).view(gray.shape).lt_(gray)


@cache
def _binarize_agrees(kernel: kernels.Kernel) -> bool:
    keys = key("binarize-check", torch.arange(64))
    ours = uniform(key("binarize-check-gray", torch.arange(64)), 33)
    ours[:, :4] = torch.tensor([0.0, 1.0, 2.0**-24, 1 - 2.0**-24])
    torchs = _draw(ours, keys)  # leaves its argument as it was
    kernel(ours.numpy(), keys.numpy())
    return kernels.same_bits([ours], [torchs])
