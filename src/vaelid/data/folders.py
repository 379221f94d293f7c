"""Folders of image files.

Every file becomes 8 bits per channel, upright (EXIF orientation), gray or RGB. What is not in the picture is white: the
background of transparent pictures and the margin of ``crop="pad"``. Gray from color is the luma 0.299 R + 0.587 G + 0.114 B.
Pictures count as gray by their mode, palettes by their pixels. Of an animation the first frame is taken.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from vaelid.data.images import Images
from vaelid.data.settings import DataSettings
from vaelid.errors import DataError
from vaelid.supports import BYTES

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_DEEP_MODES = frozenset(("I", "I;16", "I;16B", "I;16L", "I;16N"))
_GRAY_MODES = frozenset(("1", "L", "LA", "La"))
_FILTER = Image.Resampling.LANCZOS  # antialiased
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)  # what Pillow raises


def read_folder(folder: Path, settings: DataSettings) -> Images:
    """All image files below ``folder``, in the order of their paths; hidden files and other suffixes are left out.

    If all images lie in two or more subfolders, the names of these are the labels.

    Raises:
        DataError: no image, unreadable files (all are named), or images of different sizes.
    """
    found = (p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".") and p.is_file())
    names = sorted(path.relative_to(folder).as_posix() for path in found)
    if not names:
        raise DataError(f"There are no images in {folder}.", f"These are read: {' '.join(IMAGE_SUFFIXES)}.")
    images = read_image_files(str(folder), [folder / name for name in names], names, settings)
    labels, label_names = _labels(images.files)
    return Images(images.name, images.pixels, images.support, labels, label_names, images.files, images.skipped)


def read_image_files(source: str, paths: Sequence[Path], names: Sequence[str], settings: DataSettings) -> Images:
    """The images in these files, without labels; ``names`` is what they are called in messages and in ``Images.files``.

    Raises:
        DataError: unreadable files (all are named), no readable one, or images of different sizes.
    """
    with ThreadPoolExecutor() as pool:  # Pillow decodes and resizes without holding Python's lock
        outcomes = list(pool.map(lambda path: _attempt(path, settings), paths))
    bad = {name: outcome for name, outcome in zip(names, outcomes, strict=True) if isinstance(outcome, str)}
    good = {name: outcome for name, outcome in zip(names, outcomes, strict=True) if not isinstance(outcome, str)}
    if bad and (not settings.skip_bad or not good):
        listing = "\n".join(f"  {name}: {reason}" for name, reason in bad.items())
        raise DataError(
            f"{len(bad)} of {len(names)} image files in {source} cannot be read:\n{listing}",
            "Repair or remove them, or train with --skip-bad (data.skip_bad = true) to go on without them." if good else "",
        )
    _check_sizes(source, good)
    pixels = torch.from_numpy(_stacked(list(good.values())))
    return Images(source, pixels, BYTES, files=tuple(good), skipped=tuple(bad))


def _attempt(path: Path, settings: DataSettings) -> np.ndarray | str:
    """The picture as uint8 (H, W) or (H, W, 3), or the reason why it cannot be read."""
    try:
        with Image.open(path) as file:
            picture = _eight_bits(ImageOps.exif_transpose(file))
    except _UNREADABLE as error:
        return f"{type(error).__name__}: {error}"
    picture = picture.convert({"gray": "L", "rgb": "RGB"}.get(settings.channels, picture.mode))
    return np.asarray(picture if settings.size is None else CROPS[settings.crop](picture, settings.size))


def _eight_bits(picture: Image.Image) -> Image.Image:
    """The picture in mode L or RGB."""
    if picture.mode in _DEEP_MODES:
        deep = np.asarray(picture).astype(np.int64)
        if deep.min() < 0 or deep.max() > 65535:
            raise ValueError(f"its values {deep.min()} … {deep.max()} do not fit 16 bits")
        return Image.fromarray(((deep + 128) // 257).astype(np.uint8))  # 65535 / 255 = 257
    if picture.mode == "F":
        raise ValueError("its pixels are floating-point numbers, whose range is unknown; give such images as a .npy file")
    gray = picture.mode in _GRAY_MODES or (picture.mode == "P" and _is_gray(picture))
    if picture.has_transparency_data:
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture.convert("RGBA"))
    return picture.convert("L" if gray else "RGB")


def _is_gray(palette_picture: Image.Image) -> bool:
    red, green, blue = np.moveaxis(np.asarray(palette_picture.convert("RGBA"))[..., :3], 2, 0)
    return bool((red == green).all() and (green == blue).all())


def _center(picture: Image.Image, size: int) -> Image.Image:
    """The shorter side is scaled to ``size``; what the longer side has more is cut off evenly."""
    return ImageOps.fit(picture, (size, size), _FILTER)


def _pad(picture: Image.Image, size: int) -> Image.Image:
    """The longer side is scaled to ``size``; what the shorter side has less is white."""
    return ImageOps.pad(picture, (size, size), _FILTER, color="white")


def _stretch(picture: Image.Image, size: int) -> Image.Image:
    """Both sides are scaled to ``size``."""
    return picture.resize((size, size), _FILTER)


CROPS: dict[str, Callable[[Image.Image, int], Image.Image]] = {"center": _center, "pad": _pad, "stretch": _stretch}


def _check_sizes(source: str, pictures: dict[str, np.ndarray]) -> None:
    first, *others = pictures
    for other in others:
        if pictures[other].shape[:2] != pictures[first].shape[:2]:
            sizes = [f"{name} is {pictures[name].shape[1]} x {pictures[name].shape[0]} pixels" for name in (first, other)]
            raise DataError(
                f"The images in {source} differ in size: {sizes[0]}, {sizes[1]}.",
                "Set data.size to the side length in pixels that all should get, and data.crop to how.",
            )


def _stacked(pictures: list[np.ndarray]) -> np.ndarray:
    """One array (N, C, H, W): gray if all are gray, else RGB."""
    channels = 1 if all(picture.ndim == 2 for picture in pictures) else 3
    stacked = np.empty((len(pictures), channels, *pictures[0].shape[:2]), dtype=np.uint8)
    for row, picture in zip(stacked, pictures, strict=True):
        row[...] = picture if picture.ndim == 2 else np.moveaxis(picture, 2, 0)
    return stacked


def _labels(files: Sequence[str]) -> tuple[Tensor | None, tuple[str, ...]]:
    parts = [name.split("/") for name in files]
    classes = sorted({part[0] for part in parts})
    if len(classes) < 2 or any(len(part) == 1 for part in parts):
        return None, ()
    numbers = {name: number for number, name in enumerate(classes)}
    return torch.tensor([numbers[part[0]] for part in parts]), tuple(classes)
