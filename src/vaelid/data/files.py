"""The user's own images, whatever file or folder holds them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from vaelid.data.arrays import ARRAY_READERS, read_array
from vaelid.data.folders import IMAGE_SUFFIXES, read_folder, read_image_files
from vaelid.data.images import Images
from vaelid.data.settings import DataSettings
from vaelid.data.splits import Data
from vaelid.errors import DataError
from vaelid.supports import Support


def read_source(path: Path, settings: DataSettings, expected: Support | None = None) -> Images:
    """The images of a folder or of an array file.

    Raises:
        DataError: nothing is there, the suffix is unknown, or the content is not images.
    """
    if path.is_dir():
        return read_folder(path, settings)
    if not path.is_file():
        raise DataError(f"There is no file or folder {path.absolute()}.")
    if path.suffix.lower() not in ARRAY_READERS:
        raise DataError(
            f"{path} is neither a folder of images nor an array file.",
            f"Array files end in {', '.join(ARRAY_READERS)}.",
        )
    return read_array(path, settings, expected)


def load_like(paths: Sequence[str | Path], data: Data, settings: DataSettings) -> Images:
    """New images for a model that was trained on ``data`` with ``settings``: image files, folders, arrays, in this order.

    They are stored as the training images were; ``whole`` makes a split of them, which binarizes as a held-out split does.

    Raises:
        DataError: unreadable images, or another shape or support than was trained.
    """
    trained = data.train.images
    if settings.channels == "auto" and trained.shape[0] == 3:
        settings = replace(settings, channels="rgb")  # gray images among color images become RGB, as in training
    parts = []
    for one_image, group in itertools.groupby(map(Path, paths), key=_is_image_file):
        members = list(group)
        if one_image:
            parts.append(read_image_files("the input", members, [str(path) for path in members], settings))
        else:
            parts.extend(read_source(path, settings, trained.support) for path in members)
    if not parts:
        raise DataError("No input images were named.", "Give image files, a folder of images, or an array file.")
    for part in parts:
        _check_like(part, trained)
    return _joined(parts)


def _is_image_file(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir()


def _check_like(images: Images, trained: Images) -> None:
    if images.shape != trained.shape:
        raise DataError(
            f"The model was trained on images of shape {trained.shape}; those of {images.name} have shape {images.shape}.",
            "Convert the images to the shape that was trained: channels, rows, columns, or one size for flat data.",
        )
    if images.support != trained.support:
        raise DataError(
            f"The model was trained on pixels stored as {trained.support}; those of {images.name} are {images.support}.",
            "Convert the images to the pixel values that were trained.",
        )


def _joined(parts: list[Images]) -> Images:
    if len(parts) == 1:
        return replace(parts[0], files=tuple(_full_names(parts[0]))) if parts[0].files else parts[0]
    pixels = torch.cat([part.gather(torch.arange(len(part))) for part in parts])
    files = tuple(name for part in parts for name in _full_names(part))
    return Images("the input", pixels, parts[0].support, files=files, skipped=tuple(n for part in parts for n in part.skipped))


def _full_names(part: Images) -> list[str]:
    """Names that tell the images of several sources apart: those below a folder begin with the folder."""
    if not part.files:
        return [f"{part.name}[{i}]" for i in range(len(part))]
    folder = Path(part.name)
    return [str(folder / name) for name in part.files] if folder.is_dir() else list(part.files)
