"""Pictures and arrays written where the user says; the ending of the file decides what is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from vaelid.data import Shades
from vaelid.errors import MachineError, UserError
from vaelid.reporting import plots

PICTURES = (".png", ".pdf")


def require_ending(path: Path, endings: tuple[str, ...]) -> None:
    """Refuse a file whose ending does not say what to write.

    Raises:
        UserError: with the endings that do.
    """
    if path.suffix not in endings:
        said = f"has the ending {path.suffix!r}" if path.suffix else "has no ending"
        raise UserError(f"What to write into {path} is unclear: it {said}.", f"Give a file that ends in {' or '.join(endings)}.")


def write_images(path: Path, images: np.ndarray, draw: Callable[[np.ndarray], Figure], shades: Shades) -> None:
    """Images as an array (.npy) or as the figure that ``draw`` makes of them (.png, .pdf).

    Args:
        shades: of the figure; the array holds the pixels as they are
    """
    require_ending(path, (*PICTURES, ".npy"))
    with _writing(path):
        if path.suffix == ".npy":
            np.save(path, images)
        else:
            draw(shades.of_pixels(images)).savefig(path, dpi=plots.DPI, facecolor="white")


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Named arrays as .npz."""
    require_ending(path, (".npz",))
    with _writing(path):
        np.savez(path, **arrays)  # type: ignore[arg-type]


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        # NumPy's own error of a full disk knows no reason, but how many numbers were written.
        reason = error.strerror or f"the disk took only a part of it ({error})"
        reason = f"{path.parent} is not a folder" if isinstance(error, FileExistsError) else reason
        raise MachineError(f"{path} cannot be written: {reason}.", "Choose another --out.") from error
