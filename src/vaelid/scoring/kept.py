"""Features of the training images, kept in the cache folder: they cost most of a score's looking, and change with nothing that
a run can change. One file per data fingerprint, extractor, version of torch and kind of device, beside the extractors.

Keeping them saves time and nothing else: where nothing can be kept, they are computed, and that is said.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import ExitStack
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
from vaelid.progress import Reporter
from vaelid.scoring.features import Extractor

#: Raised when an extractor's code gives other features: what older versions kept is then left alone.
_VERSION = 2
#: Larger sets of features are not kept: reading them is no bargain, and the cache is the user's disk.
MOST_BYTES = 2**27
_VALUES, _CHECKSUM = "features", "sha256"
_NOT_KEPT = "the features of the training images are not kept for another score:"


def training_features(train: Split, extractor: Extractor, look: Callable[[], Tensor], reporter: Reporter) -> Tensor:
    """Features ``(T, F)`` of all images of ``train``, float64: those that are kept, else what ``look()`` gives.

    Pixels that are redrawn have the features of their first access, one for all: a draw is a function of image and access.
    Of several processes that want the same, one computes them and the others wait.

    Raises:
        MachineError: if what was kept is damaged.
    """
    file = _file(train, extractor)
    with ExitStack() as stack:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(f"{file}.lock"))
        except OSError as error:
            reporter.say(f"warning: {_NOT_KEPT} {file.parent} cannot be used: {error}. VAELID_CACHE names another folder.")
            return _read(file, len(train)) if file.is_file() else look()
        if file.is_file():
            return _read(file, len(train))
        values = look()
        try:
            _keep(file, values)
        except MachineError as error:
            reporter.say(f"warning: {_NOT_KEPT} {error.problem}")
        return values


def _keep(file: Path, values: Tensor) -> None:
    # Networks give float32: nothing is lost then, and half of the room is saved.
    kept = values.float() if torch.equal(values.float().double(), values) else values
    if kept.nbytes <= MOST_BYTES:
        kept = kept.contiguous()
        write_atomic(file, safetensors.torch.save({_VALUES: kept}, {_CHECKSUM: _checksum(kept)}))


def _checksum(values: Tensor) -> str:
    return hashlib.sha256(values.numpy().tobytes()).hexdigest()


def _file(train: Split, extractor: Extractor) -> Path:
    # The last bits of a convolution are those of a version of torch and of a kind of device.
    parts = (_VERSION, train.fingerprint, extractor.name, extractor.digest, torch.__version__, train.device.type)
    key = hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()
    return cache_folder() / "extractors" / f"training-{extractor.name}-{key[:32]}.safetensors"


def _read(file: Path, count: int) -> Tensor:
    try:
        with safetensors.safe_open(file, framework="pt") as found:
            values, checksum = found.get_tensor(_VALUES), (found.metadata() or {}).get(_CHECKSUM)
    except (OSError, safetensors.SafetensorError) as error:
        raise MachineError(f"{file} is damaged: {error}.", "Remove it; the features are then computed again.") from error
    if checksum != _checksum(values):
        raise MachineError(f"{file} is damaged: its features have another checksum.", "Remove it.")
    if len(values) != count:
        raise MachineError(f"{file} is damaged: it has {len(values)} features for {count} images.", "Remove it.")
    return values.double()
