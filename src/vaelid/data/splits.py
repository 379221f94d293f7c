"""Training, validation and test images, ready to hand out batches.

Letters: N images of the source, n images of a split, B of a batch, ``*X`` the shape of one image.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from vaelid.data.binarization import BINARIZATIONS, Binarization, Draw
from vaelid.data.images import Images
from vaelid.data.reading import AHEAD
from vaelid.data.settings import DataSettings
from vaelid.errors import DataError
from vaelid.randomness import permutation
from vaelid.supports import Support

TRAIN = "train"


@dataclass(frozen=True, eq=False)
class Split:
    """One part of the images: those at ``indices`` ``(n,)`` int64 of the source.

    ``of``: how many images there are in all, where a limit left only the first of them.

    Every split but ``train`` counts as held out: its dynamic binarization is drawn once.

    Raises:
        DataError: no images, or images that cannot be binarized as the settings ask.
    """

    name: str
    images: Images
    indices: Tensor
    settings: DataSettings
    of: int | None = None

    def __post_init__(self) -> None:
        if not len(self.indices):
            raise DataError(f"The {self.name} split of {self.images.name} has no images.")
        self._binarization.support(self.images)  # refuses at once what it cannot binarize

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def available(self) -> int:
        """How many images there are without any limit."""
        return len(self) if self.of is None else self.of

    def first(self, count: int) -> Split:
        """The first ``count`` images, which still know how many there are."""
        return replace(self, indices=self.indices[:count], of=self.available)

    @property
    def labels(self) -> Tensor | None:
        """The labels ``(n,)`` int64 of these images, or None."""
        return None if self.images.labels is None else self.images.labels[self.indices]

    @property
    def support(self) -> Support:
        """The support of what ``batch`` returns."""
        return self._binarization.support(self.images)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape ``*X`` of one image."""
        return self.images.shape

    @property
    def device(self) -> torch.device:
        """Where batches are."""
        return self.indices.device

    @property
    def held_out(self) -> bool:
        """Whether these images are for judging, not for training."""
        return self.name != TRAIN

    @property
    def protocol(self) -> str:
        """One sentence on how the pixels come about."""
        return self._binarization.protocol(self.held_out, self.settings)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the images, of which of them these are, and of how they are binarized."""
        digest = hashlib.sha256(self.images.fingerprint.encode())
        digest.update(self.indices.cpu().numpy().tobytes())
        digest.update(self._binarization.identity(self.held_out, self.settings).encode())
        return digest.hexdigest()

    def batch(self, positions: Tensor, epoch: int | Tensor = 0, seed: int | Tensor = 0) -> Tensor:
        """The images at ``positions`` ``(B,)`` of this split as float32 ``(B, *X)`` in ``support``.

        ``epoch`` and ``seed`` (one for all, or ``(B,)``) name the draw where pixels are redrawn; all else does
        not depend on them.
        """
        indices = self._source(positions)
        self.images.announce(indices)
        return self._made(indices, epoch, seed)

    def batches(self, positions: Iterable[Tensor], epoch: int = 0, seed: int = 0) -> Iterator[Tensor]:
        """``batch`` after ``batch``; what the next ones need from a disk is fetched while one is in use."""
        coming: deque[Tensor] = deque()
        for at in positions:
            coming.append(self._source(at))
            self.images.announce(coming[-1])
            if len(coming) > AHEAD:
                yield self._made(coming.popleft(), epoch, seed)
        for indices in coming:
            yield self._made(indices, epoch, seed)

    def gray(self, positions: Tensor) -> Tensor:
        """The images at ``positions`` ``(B,)`` before binarization, float32 ``(B, *X)``; in [0, 1] unless the support is real."""
        return self._scaled(self._source(positions))

    def to(self, device: torch.device | str) -> Split:
        """This split on ``device``; the stored pixels (one byte each) are moved once."""
        return self._on(device, self.images.to(device))

    @property
    def _binarization(self) -> Binarization:
        return BINARIZATIONS[self.settings.binarization]

    def _on(self, device: torch.device | str, images: Images) -> Split:
        return replace(self, images=images, indices=self.indices.to(device))

    def _source(self, positions: Tensor) -> Tensor:
        return self.indices.index_select(0, positions.to(self.device))

    def _made(self, indices: Tensor, epoch: int | Tensor, seed: int | Tensor) -> Tensor:
        return self._binarization(self._scaled(indices), Draw(indices, self.held_out, epoch, seed), self.settings)

    def _scaled(self, indices: Tensor) -> Tensor:
        stored, gray_levels = self.images.gather(indices), self.images.support.levels
        # Dividing, unlike multiplying by 1/(n−1), gives the float32 nearest to k/(n−1).
        return stored if gray_levels is None else stored.to(torch.float32).div_(gray_levels - 1)


@dataclass(frozen=True, eq=False)
class Data:
    """The three splits of one source."""

    name: str
    train: Split
    validation: Split
    test: Split

    @property
    def splits(self) -> dict[str, Split]:
        """The splits by name."""
        return {split.name: split for split in (self.train, self.validation, self.test)}

    @property
    def support(self) -> Support:
        """The support of the batches."""
        return self.train.support

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape ``*X`` of one image."""
        return self.train.shape

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the fingerprints of the splits."""
        return hashlib.sha256("".join(s.fingerprint for s in self.splits.values()).encode()).hexdigest()

    def to(self, device: torch.device | str) -> Data:
        """These data on ``device``; pixels that splits share are moved once and stay shared."""
        sources = {id(split.images): split.images for split in self.splits.values()}
        moved = {source: images.to(device) for source, images in sources.items()}
        return Data(self.name, *(split._on(device, moved[id(split.images)]) for split in self.splits.values()))


def split_data(images: Images, settings: DataSettings) -> Data:
    """Split images at random, by ``split_seed``, the two fractions and ``validation_images``, which goes before its fraction.

    Each held-out split gets at least one image.

    Raises:
        DataError: too few images for three splits.
    """
    total = len(images)
    validation, test = (max(1, round(total * share)) for share in (settings.validation_fraction, settings.test_fraction))
    held_out = [settings.validation_images or validation, test]
    train_count = total - sum(held_out)
    if train_count < 1:
        raise DataError(
            f"{images.name} has {total} image{'' if total == 1 else 's'}: "
            f"{held_out[0]} for validation and {held_out[1]} for test leave none to train on.",
            "Each split needs at least one image: give more images, or lower those for validation and test (in [data]).",
        )
    order = permutation(total, settings.split_seed)
    return assemble(images, settings, *torch.split(order, [train_count, *held_out]))


def assemble(images: Images, settings: DataSettings, train: Tensor, validation: Tensor, test: Tensor) -> Data:
    """Data with the given source positions per split, cut to ``train_limit`` and ``held_out_limit``."""
    limit, held_out_limit = settings.train_limit, settings.held_out_limit
    return Data(
        images.name,
        Split(TRAIN, images, train[:limit].clone(), settings, len(train)),
        Split("validation", images, validation[:held_out_limit].clone(), settings, len(validation)),
        Split("test", images, test[:held_out_limit].clone(), settings, len(test)),
    )


def whole(images: Images, settings: DataSettings, name: str = "input") -> Split:
    """All images in their order as one held-out split, e.g. new images to judge a trained model on."""
    return Split(name, images, torch.arange(len(images)), settings)
