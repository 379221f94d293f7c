"""What a recipe says about its data: the section ``[data]``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from vaelid.settings import Count, NonNegativeInt, Range, Unset

Probability = Annotated[float, Range(0, 1)]
Share = Annotated[float, Range(0, 1, open_low=True, open_high=True)]  # every split needs an image, so neither none nor all
Levels = Annotated[int, Range(2, 256)]


@dataclass(frozen=True)
class DataSettings:
    """Which images, how they are split, and how gray levels become 0 and 1.

    ``name`` is a name in ``DATASETS``, a path to a .npy, .npz, .pt or .safetensors file, or a folder of images.
    ``binarization_seed`` names the one draw of validation and test images; ``threshold`` belongs to ``"threshold"``: a pixel
    above it becomes 1. ``split_seed`` and the two fractions split data that bring no split of their own; ``validation_images``
    says how many images to hold out for validation where a fraction, or the 10,000 of MNIST, will not do.
    ``train_limit`` and ``held_out_limit`` use only the first images of each split, for quick trials.

    ``size`` (pixels), ``crop``, ``channels`` and ``skip_bad`` are for folders of images: side length, how a picture becomes
    a square, gray or color, and whether to go on without unreadable files. ``array`` and ``levels`` are for arrays: the
    name of the array in its file (default: the only one, or ``images``, or ``x``), and the number of gray levels of
    integers (default: 2 if only 0 and 1 occur, else 256).
    """

    name: str
    binarization: Literal["none", "dynamic", "resampled", "threshold"] = "none"
    binarization_seed: NonNegativeInt = 0
    threshold: Probability = 0.5
    split_seed: NonNegativeInt = 14
    validation_fraction: Share = 0.1
    test_fraction: Share = 0.1
    validation_images: Annotated[Count | None, Unset("validation_fraction of the images; 10,000 of MNIST")] = None
    train_limit: Annotated[Count | None, Unset("all images of the split")] = None
    held_out_limit: Annotated[Count | None, Unset("all images of the splits")] = None
    size: Annotated[Count | None, Unset("pictures keep their size")] = None
    crop: Literal["center", "pad", "stretch"] = "center"
    channels: Literal["auto", "gray", "rgb"] = "auto"
    array: str = ""
    levels: Annotated[Levels | None, Unset("2 if only 0 and 1 occur, else 256")] = None
    skip_bad: bool = False
