"""Reading images that stay on disk: batches of scattered rows of a memory-mapped file, ahead of who asks for them.

A page that is not in memory costs its reader a wait for the disk, and the kernel reads what lies around it as well: good for a
file that is read from front to back, ten times too much for shuffled rows. So the rows of a batch are announced before they
are touched (the disk then works on all of them at once and on little else), and threads touch them while the batch before is
in use.
"""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from vaelid.errors import DataError

#: Batches that are read or being read while one is in use.
DEPTH = 2
#: What the names of reading threads begin with.
THREAD = "vaelid-reader"

T = TypeVar("T")
R = TypeVar("R")


def ahead(read: Callable[[T], R], wanted: Iterable[T]) -> Iterator[R]:
    """``map(read, wanted)``, with up to ``DEPTH`` results made in advance, in order.

    An error of ``read`` is raised where its result would have come. A thread lives as long as one call of ``read``, so none is
    left behind however the loop over the results ends.
    """
    pending: deque[Future[R]] = deque()
    for item in wanted:
        pending.append(_begun(read, item))
        if len(pending) > DEPTH:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _begun(read: Callable[[T], R], item: T) -> Future[R]:
    thread = ThreadPoolExecutor(1, thread_name_prefix=THREAD)
    future = thread.submit(read, item)
    thread.shutdown(wait=False)  # it ends when it has read
    return future


def file_map(array: np.ndarray) -> mmap.mmap | None:
    """The map of a file that ``array`` lies in; None if it lies in memory, or in a map that Python does not know."""
    owner: object = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    return owner if isinstance(owner, mmap.mmap) else None


def announce(array: np.ndarray, rows: np.ndarray) -> None:
    """Tell the kernel that ``array[rows]`` comes next. Does nothing where the array is not mapped or its rows are scattered.

    Raises:
        DataError: the file has become shorter. (Reading what is gone would end the process without a word.)
    """
    mapped = file_map(array)
    if mapped is None:
        return
    if mapped.size() < len(mapped):
        raise DataError(
            f"The file that the images are read from has become shorter: {mapped.size():,} bytes, it had {len(mapped):,}.",
            "Put the original file back, and run the same command again.",
        )
    stride, size = array.strides[0], array[0].nbytes
    if stride != size:
        return
    first = array.__array_interface__["data"][0] - np.frombuffer(mapped, np.uint8).__array_interface__["data"][0]
    for start in (first + rows * stride).tolist():
        page = start - start % mmap.PAGESIZE
        mapped.madvise(mmap.MADV_WILLNEED, page, start + size - page)
