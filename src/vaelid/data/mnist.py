"""MNIST, with gray levels as published or statically binarized.

References:
    LeCun, Bottou, Bengio & Haffner (1998), "Gradient-based learning applied to document recognition".
    Larochelle & Murray (2011), "The neural autoregressive distribution estimator": the static binarization.
"""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vaelid.data.images import Images
from vaelid.data.settings import DataSettings
from vaelid.data.splits import Data, assemble
from vaelid.data.store import KnownFile, content, find
from vaelid.errors import DataError
from vaelid.supports import BINARY, BYTES

SIZES = (50_000, 10_000, 10_000)  # train, validation, test
_FIXED = torch.split(torch.arange(sum(SIZES)), list(SIZES))
_PIXELS = 28 * 28

_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://raw.githubusercontent.com/fgnt/mnist/master/",
)
_BINARIZED_MIRRORS = (
    "https://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/",
    "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/",
)


def _mnist_file(name: str, sha256: str) -> KnownFile:
    return KnownFile(f"mnist/{name}", f"sha256:{sha256}", tuple(mirror + name for mirror in _MIRRORS))


def _binarized_file(part: str, md5: str) -> KnownFile:
    name = f"binarized_mnist_{part}.amat"
    return KnownFile(f"binarized_mnist/{name}", f"md5:{md5}", tuple(mirror + name for mirror in _BINARIZED_MIRRORS))


IMAGE_FILES = (
    _mnist_file("train-images-idx3-ubyte.gz", "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
    _mnist_file("t10k-images-idx3-ubyte.gz", "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
)
LABEL_FILES = (
    _mnist_file("train-labels-idx1-ubyte.gz", "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
    _mnist_file("t10k-labels-idx1-ubyte.gz", "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
)
TEXT_FILES = (
    _binarized_file("train", "db28b1a6ae0fe70cbd3da91acf46e477"),
    _binarized_file("valid", "bf37822a04e94123630de6a7dfd9c9ef"),
    _binarized_file("test", "14e41ae11040adba6ab8cb291eda0dd8"),
)
PACKED_PLACE = "binarized_mnist/binarized_mnist_packed.npz"
PACKED_SHA256 = {  # of np.packbits(pixels, axis=1)
    "train": "727146c35424b019f3e350e1e69faa05644a0abaf787e3f4e1a9632220a13906",
    "valid": "a256ac44ae26be720fad8616a05ed6ecfd1619930d9a208379bb2a4405df5b6d",
    "test": "9fcd8da6f0fdf09b2ba30fe63a0bb784042a0de82563172530229b983e294ff2",
}


def load_mnist(settings: DataSettings) -> Data:
    """MNIST, shape (1, 28, 28), 256 levels: 50 000 training and 10 000 validation images by ``split_seed``, 10 000 test images.

    The split is that of ``torch.utils.data.random_split`` on the CPU. ``validation_images`` divides the 60 000 otherwise; the
    fractions in the settings have no effect.

    Raises:
        DataError: a file is not the published one, or no image is left to train on.
        MachineError: a file can be found nowhere.
    """
    pixels = np.empty((sum(SIZES), _PIXELS), dtype=np.uint8)
    filled = 0
    for file in IMAGE_FILES:  # one after the other: only one file at a time stands in memory besides the pixels
        part = read_idx(content(file), file.place)
        pixels[filled : filled + len(part)] = part.reshape(-1, _PIXELS)
        filled += len(part)
    labels = np.concatenate([read_idx(content(file), file.place) for file in LABEL_FILES])
    images = Images("mnist", _square(pixels), BYTES, torch.from_numpy(labels).long(), tuple("0123456789"))
    generator = torch.Generator().manual_seed(settings.split_seed)
    order = torch.randperm(SIZES[0] + SIZES[1], generator=generator)
    train_count = len(order) - (settings.validation_images or SIZES[1])
    if train_count < 1:
        raise DataError(f"data.validation_images must be below {len(order):,}; it is {settings.validation_images:,}.")
    return assemble(images, settings, order[:train_count], order[train_count:], _FIXED[2])


def load_binarized_mnist(settings: DataSettings) -> Data:
    """The static binarization of MNIST, shape (1, 28, 28), binary, without labels, with its own split 50 000 / 10 000 / 10 000.

    Raises:
        DataError: a file is not the published one, or another binarization or split is asked for.
        MachineError: a file can be found nowhere.
    """
    if settings.validation_images is not None:
        raise DataError("binarized-mnist comes with its own split.", "Leave data.validation_images out, or use mnist.")
    packed = find(PACKED_PLACE)
    parts = _read_packed(packed) if packed else [_read_text(content(file)) for file in TEXT_FILES]
    images = Images("binarized-mnist", _square(np.concatenate(parts)), BINARY)
    return assemble(images, settings, *_FIXED)


_ANOTHER_FILE = "Replace it by the original file."


def read_idx(raw: bytes, name: str) -> np.ndarray:
    """The array of bytes in an IDX file: two zero bytes, type 8 (uint8), number of sizes, sizes (big-endian), values.

    Raises:
        DataError: another header, or not as many values as it promises.
    """
    if len(raw) < 4 or raw[:3] != b"\0\0\x08" or len(raw) < 4 + 4 * raw[3]:
        raise DataError(f"{name} is no IDX file of bytes: it begins with {raw[:4].hex(' ') or 'nothing'}.", _ANOTHER_FILE)
    start = 4 + 4 * raw[3]
    shape = struct.unpack(f">{raw[3]}I", raw[4:start])
    if len(raw) - start != np.prod(shape):
        raise DataError(f"{name} promises {' x '.join(map(str, shape))} values; {len(raw) - start} came.", _ANOTHER_FILE)
    return np.frombuffer(raw, dtype=np.uint8, offset=start).reshape(shape)


def _square(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels).view(-1, 1, 28, 28)


def _read_text(raw: bytes) -> np.ndarray:
    # The checksum has vouched for the form: every value is followed by one blank or line end.
    return (np.frombuffer(raw, dtype=np.uint8)[::2] - ord("0")).reshape(-1, _PIXELS)


def _read_packed(path: Path) -> list[np.ndarray]:
    """Pixels of the three parts from the file with eight pixels per byte.

    Raises:
        DataError: it does not hold the published bits.
    """
    parts = []
    with np.load(path, allow_pickle=False) as packed:
        for name, sha256 in PACKED_SHA256.items():
            bits = packed[name] if name in packed.files else np.empty(0, dtype=np.uint8)
            if hashlib.sha256(bits.tobytes()).hexdigest() != sha256:
                raise DataError(
                    f"{path} is damaged or another file: its array {name!r} does not hold the published images.",
                    "Replace or remove it; without it the original text files are read or downloaded.",
                )
            parts.append(np.unpackbits(bits, axis=1))
    return parts
