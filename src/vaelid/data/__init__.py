"""Data sets as tensors with a named support, splits, binarization protocols, and downloads with checksums.

>>> import torch
>>> data = load_data(DataSettings("digits"))
>>> data.train.batch(torch.arange(5)).shape, str(data.support)
(torch.Size([5, 1, 8, 8]), 'one of 17 levels 0, 1/16, …, 1')
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vaelid.data.arrays import ARRAY_READERS
from vaelid.data.binarization import BINARIZATIONS
from vaelid.data.digits import load_digits
from vaelid.data.files import load_like, read_source
from vaelid.data.images import Images
from vaelid.data.mnist import load_binarized_mnist, load_mnist
from vaelid.data.settings import DataSettings
from vaelid.data.shades import Shades
from vaelid.data.splits import Data, Split, split_data, whole
from vaelid.settings import check, options_of, unknown

__all__ = [
    "BINARIZATIONS",
    "DATASETS",
    "Data",
    "DataSettings",
    "Dataset",
    "Images",
    "Shades",
    "Split",
    "load_data",
    "load_like",
    "split_data",
    "whole",
]


@dataclass(frozen=True)
class Dataset:
    """A data set that is known by name."""

    description: str
    load: Callable[[DataSettings], Data]


DATASETS: dict[str, Dataset] = {
    "digits": Dataset("1797 handwritten digits, 8 x 8 pixels, 17 gray levels; comes with scikit-learn", load_digits),
    "mnist": Dataset("70 000 handwritten digits, 28 x 28 pixels, 256 gray levels", load_mnist),
    "binarized-mnist": Dataset("MNIST in the static binarization of Larochelle & Murray, without labels", load_binarized_mnist),
}


def load_data(settings: DataSettings) -> Data:
    """The data that the settings name: a known data set, an array file, or a folder of images.

    Raises:
        SettingError: a setting is out of range, or the name is neither known nor a path.
        DataError: the images are not what the settings say they are.
        MachineError: a file is missing and cannot be downloaded.
    """
    check("data", options_of(DataSettings), vars(settings))
    if settings.name in DATASETS:
        return DATASETS[settings.name].load(settings)
    path = Path(settings.name).expanduser()
    looks_like_path = len(path.parts) > 1 or settings.name.endswith(("/", os.sep)) or path.suffix.lower() in ARRAY_READERS
    if not looks_like_path and not path.exists():
        raise unknown("data set or file", settings.name, DATASETS)
    return split_data(read_source(path, settings), settings)
