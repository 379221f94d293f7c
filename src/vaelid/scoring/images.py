"""The sets of images that are scored against each other: from the model, real ones, and independent pixels."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from vaelid.data import Data, Split
from vaelid.errors import UserError
from vaelid.evaluation.yardsticks import IndependentPixels
from vaelid.randomness import key
from vaelid.training.surroundings import own_randomness
from vaelid.vae import VAE

_BATCH = 200
#: As many as the published protocols of small images ask for.
USUAL = 10_000


def other_real(data: Data, reference: Split) -> Split:
    """Real images that are neither the reference nor training images: validation beside test, and else test."""
    return data.validation if reference.name == data.test.name else data.test


def settle_count(n: int | None, reference: Split, real: Split) -> int:
    """How many images each set has: ``n``, or by default 10,000 or as many as there are real ones.

    Raises:
        UserError: if there are not so many real images, or too few for any score.
    """
    most = min(len(reference), len(real))
    count = min(USUAL, most) if n is None else n
    if count > most:
        raise UserError(
            f"{count:,} images per set were asked for; {reference.name} has {len(reference):,} and {real.name}, the real images "
            f"to set beside it, {len(real):,}.",
            f"Ask for at most {most:,} with -n: all sets have the same size, or their scores could not be compared.",
        )
    if count < 2 * LEAST:
        raise UserError(f"Scores need at least {2 * LEAST} images per set; {count} are asked for or there.", "Raise -n.")
    return count


#: Half of the images must have more than k = 5 nearest neighbors, and a covariance in each of four parts.
LEAST = 10


def real_images(split: Split, count: int) -> Iterator[Tensor]:
    """The first ``count`` images of a split, binarized as the run's recipe says, batch by batch."""
    return (split.batch(positions) for positions in torch.arange(count).split(_BATCH))


def model_images(model: VAE, count: int, seed: int, means: bool) -> Iterator[Tensor]:
    """``count`` images from the model: draws from p(x|z), or its pixel ``means``; z from the prior."""
    for b, size in enumerate(_sizes(count)):
        with own_randomness(_seed("score-model", seed, b)):  # by batch: between two, the consumer may draw random numbers, too
            drawn = model.sample(size)
        yield drawn.means if means else drawn.draws


def trivial_images(train: Split, count: int, seed: int) -> Iterator[Tensor]:
    """``count`` images whose pixels are independent, each with its own distribution in ``train``."""
    pixels = IndependentPixels(train)
    for b, size in enumerate(_sizes(count)):
        with own_randomness(_seed("score-trivial", seed, b)):
            if pixels.levels is None:
                noise = torch.randn(size, math.prod(train.shape), dtype=torch.float64).to(pixels.mean)
                drawn = pixels.mean + pixels.scale * noise
            else:
                level = torch.multinomial(pixels.log_probability.exp(), size, replacement=True).T  # (size, D)
                drawn = level.double() / (pixels.levels - 1)
        yield drawn.float().view(size, *train.shape)


def _seed(purpose: str, seed: int, batch: int) -> int:
    return int(key(purpose, seed, batch)) & (2**63 - 1)


def _sizes(count: int) -> list[int]:
    return [len(part) for part in torch.arange(count).split(_BATCH)]
