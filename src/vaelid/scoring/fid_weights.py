"""The published Inception weights: where they are, how they are checked, and the extractor that they make."""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vaelid.data.download import matches
from vaelid.data.store import KnownFile, content
from vaelid.errors import DataError, MachineError
from vaelid.scoring.features import Extractor, Features
from vaelid.scoring.inception import InceptionNet

_NAME = "weights-inception-2015-12-05-6726825d.pth"
WEIGHTS = KnownFile(
    f"inception/{_NAME}",
    "sha256:6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    (
        f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{_NAME}",
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
    ),
)
_TOGETHER = 16  # images: enlarged, they take 1 MB each, and the first layers 70 times that


class Inception(Extractor):
    """Pool features and class probabilities of the Inception network; gray images become RGB, pixels bytes, as everywhere."""

    name = "inception"

    def __init__(self, net: InceptionNet, digest: str) -> None:
        self.net, self.digest = net.eval().requires_grad_(False), digest
        self.about: dict[str, Any] = {"weights": _NAME}

    def __call__(self, x: Tensor) -> Features:
        found = [self.net(part) for part in as_bytes(x).split(_TOGETHER)]
        return Features(torch.cat([f for f, _ in found]), torch.cat([logits for _, logits in found]).log_softmax(-1))

    def to(self, device: torch.device) -> Inception:
        return Inception(self.net.to(device), self.digest)


def as_bytes(x: Tensor) -> Tensor:
    """Images ``(B, 1 or 3, H, W)`` on [0, 1] as RGB on the grid 0 … 255, float32 ``(B, 3, H, W)``.

    Raises:
        DataError: for images that are neither gray nor RGB, or have pixels outside [0, 1].
    """
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise DataError(f"Inception looks at gray or RGB pictures; images of shape {tuple(x.shape[1:])} came.", _ANOTHER)
    low, high = float(x.min()), float(x.max())
    if low < 0 or high > 1:
        raise DataError(f"Inception looks at pixels in [0, 1]; these lie between {low:.4g} and {high:.4g}.", _ANOTHER)
    return (x.float() * 255).round().expand(-1, 3, -1, -1)


_ANOTHER = "Score with --extractor random-projection."


def inception(weights: Path | None) -> Inception:
    """The extractor with the published weights, from a file, the data folder, the cache, or the net.

    Raises:
        DataError: if the file is not the published one.
        MachineError: if it is nowhere to be had; says what to fetch, and where to put it.
    """
    if weights is None:
        try:
            raw = content(WEIGHTS)
        except MachineError as error:
            remedy = f"Fetch {WEIGHTS.urls[0]} (91 MB) elsewhere, and name it with --weights. {error.remedy}"
            raise MachineError(error.problem, remedy) from error
    else:
        raw = _read(weights)
    net = InceptionNet()
    # Loads tensors and nothing else: an unpickled file could run anything.
    try:
        net.load_state_dict(torch.load(io.BytesIO(raw), weights_only=True))
    except (RuntimeError, pickle.UnpicklingError) as error:
        raise DataError(f"The Inception weights cannot be read: {error}.", "Fetch the original file again.") from error
    return Inception(net, hashlib.sha256(raw).hexdigest())


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise DataError(f"--weights names {path}, which is no file.", f"It must be the published {_NAME}.")
    if not matches(path, WEIGHTS.checksum):
        raise DataError(
            f"{path} is not the published {_NAME}: its checksum is not {WEIGHTS.checksum}. "
            "Scores of other weights may not be called FID, KID or IS.",
            f"Fetch {WEIGHTS.urls[0]}.",
        )
    return path.read_bytes()
