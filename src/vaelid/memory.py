"""Memory in large pages: weights, gradients and moments of some millions of numbers, read and written in every step.

With pages of 4 KB the processor looks up a place in memory for every thousand numbers; with 2 MB, for half a million. PyTorch
asks the kernel (Linux) for large pages where an environment variable says so when it makes its first tensor: too early for a
library, in time for a program. No number depends on it. What it gains: ``docs/engines.md``.
"""

from __future__ import annotations

import os

#: What PyTorch reads; a user's own setting stands.
LARGE_PAGES = {"THP_MEM_ALLOC_ENABLE": "1"}


def ask_for_large_pages() -> None:
    """For this process, before PyTorch is imported, and for those that it starts."""
    for name, value in LARGE_PAGES.items():
        os.environ.setdefault(name, value)
