"""Features of the training images, kept in the cache folder: they cost most of a score's looking, and change with nothing that
a run can change. One file per data fingerprint, extractor and version of torch, beside the extractors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from filelock import FileLock
from torch import Tensor

from vaelid.data import Split
from vaelid.data.store import cache_folder
from vaelid.errors import MachineError
from vaelid.folder import write_atomic
from vaelid.scoring.features import Extractor

#: Larger sets of features are not kept: reading them is no bargain, and the cache is the user's disk.
MOST_BYTES = 2**27
_VALUES = "features"


def training_features(train: Split, extractor: Extractor, look: Callable[[], Tensor]) -> Tensor:
    """Features ``(T, F)`` of all images of ``train``, float64: those that are kept, else what ``look()`` gives.

    Pixels that are redrawn have the features of their first access, one for all: a draw is a function of image and access.

    Raises:
        MachineError: if the file cannot be read or written, or is damaged.
    """
    file = _file(train, extractor)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock"):
            if file.is_file():
                return _read(file, len(train))
            values = look()
            # Networks give float32: nothing is lost then, and half of the room is saved.
            kept = values.float() if torch.equal(values.float().double(), values) else values
            if kept.nbytes <= MOST_BYTES:
                write_atomic(file, safetensors.torch.save({_VALUES: kept.contiguous()}))
            return values
    except OSError as error:
        raise MachineError(f"{file} cannot be used: {error}.", "Set VAELID_CACHE to a folder that can be written to.") from error


def _file(train: Split, extractor: Extractor) -> Path:
    # The last bits of a convolution are those of a version of torch and of a kind of device.
    parts = (train.fingerprint, extractor.name, extractor.digest, torch.__version__, train.device.type)
    key = hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()
    return cache_folder() / "extractors" / f"training-{extractor.name}-{key[:32]}.safetensors"


def _read(file: Path, count: int) -> Tensor:
    try:
        values = safetensors.torch.load(file.read_bytes())[_VALUES].double()
    except (safetensors.SafetensorError, KeyError) as error:
        raise MachineError(f"{file} is damaged: {error}.", "Remove it; the features are then computed again.") from error
    if len(values) != count:
        raise MachineError(f"{file} is damaged: it has {len(values)} features for {count} images.", "Remove it.")
    return values
