"""Digits: the 1797 handwritten digits of 8 x 8 pixels that come with scikit-learn."""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path

import numpy as np
import torch

from vaelid.data.images import Images
from vaelid.data.settings import DataSettings
from vaelid.data.splits import Data, split_data
from vaelid.errors import MachineError
from vaelid.supports import levels

_PLACE = Path("datasets", "data", "digits.csv.gz")


def load_digits(settings: DataSettings) -> Data:
    """The digits, shape (1, 8, 8), 17 levels, split at random as the settings say.

    Raises:
        MachineError: scikit-learn is not installed.
    """
    # The file is read directly: importing scikit-learn for it would cost 1.5 s.
    spec = importlib.util.find_spec("sklearn")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    path = next((Path(folder) / _PLACE for folder in folders if (Path(folder) / _PLACE).is_file()), None)
    if path is None:
        raise MachineError("The digits come with scikit-learn, which is not installed.", "Install it: pip install scikit-learn")
    numbers = gzip.decompress(path.read_bytes()).decode().replace("\n", ",").rstrip(",").split(",")
    table = torch.from_numpy(np.array(list(map(int, numbers)), dtype=np.uint8).reshape(1797, 65))  # 64 pixels and the label
    images = Images("digits", table[:, :64].reshape(-1, 1, 8, 8).clone(), levels(17), table[:, 64].long(), tuple("0123456789"))
    return split_data(images, settings)
