"""Reading images that stay on disk: the kernel is told which rows of a mapped file come next, and fetches them meanwhile.

A page that is not in memory costs its reader a wait for the disk, and the kernel reads what lies around it as well: good for a
file that is read from front to back, ten times too much for shuffled rows. Rows that are announced come in the background, all
at once, and little else with them. No thread of ours reads: it would do the same, and compete with training for a core and for
Python's lock.
"""

from __future__ import annotations

import mmap
import sys

import numpy as np

from vaelid.errors import DataError

#: Batches that are announced before the one in use is done with.
AHEAD = 2


def file_map(array: np.ndarray) -> mmap.mmap | None:
    """The map of a file that ``array`` lies in; None if it lies in memory, or in a map that Python does not know."""
    owner: object = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    return owner if isinstance(owner, mmap.mmap) else None


def announce(array: np.ndarray, rows: np.ndarray) -> None:
    """Tell the kernel that ``array[rows]`` comes next. Does nothing where the array is not mapped or its rows are scattered."""
    mapped, stride, size = file_map(array), array.strides[0], array[0].nbytes
    if mapped is None or stride != size or sys.platform == "win32":  # which has no such call
        return
    first = array.__array_interface__["data"][0] - np.frombuffer(mapped, np.uint8).__array_interface__["data"][0]
    for start in (first + rows * stride).tolist():
        page = start - start % mmap.PAGESIZE
        mapped.madvise(mmap.MADV_WILLNEED, page, start + size - page)


def require_whole(array: np.ndarray) -> None:
    """Refuse a mapped file that has been cut: reading what is gone would end the process without a word.

    Raises:
        DataError: with both lengths.
    """
    mapped = file_map(array)
    if mapped is not None and mapped.size() < len(mapped):
        raise DataError(
            f"The file that the images are read from has become shorter: {mapped.size():,} bytes, it had {len(mapped):,}.",
            "Put the original file back, and run the same command again.",
        )
