"""Long work, one batch of images at a time: shown as it goes, saved as it goes, taken up again where it stood."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vaelid.progress import Reporter
from vaelid.vae import VAE

Arrays = dict[str, np.ndarray]
Save = Callable[[Arrays], None]
#: Called by the work on a batch after each of its ``units``.
Tick = Callable[[], None]

_SAVE_EVERY = 30.0  # seconds
_CPU_BYTES, _CUDA_SHARE = 2**25, 1 / 20


def collect(
    count: int,
    together: int,
    units: int,
    work: Callable[[Tensor, Tick], dict[str, Tensor]],
    reporter: Reporter,
    title: str,
    start: Arrays | None = None,
    save: Save | None = None,
) -> Arrays:
    """Per-image values of images 0 … ``count − 1``, float64; however it is broken off, ``save`` gets what was done until then.

    Args:
        together: images per batch
        units: how often ``work`` ticks on a batch; with 0 the bar moves when a batch is done
        work: positions ``(B,)`` and a tick -> values with B rows each
        start: what an earlier, interrupted call had saved
        save: called now and then with all values so far
    """
    parts = [start] if start else []
    done = len(next(iter(start.values()))) if start else 0
    saved = time.monotonic()
    try:
        with reporter.bar(title, count * max(units, 1), done * max(units, 1)):
            for first in range(done, count, together):
                positions = torch.arange(first, min(first + together, count))
                # Beside a bar that counts images their numbers would say the same again.
                text = f"image {first + 1:,} to {int(positions[-1]) + 1:,} of {count:,}" if units > 1 else ""
                tick = partial(reporter.advance, len(positions), text)
                parts.append({name: value.detach().double().cpu().numpy() for name, value in work(positions, tick).items()})
                if units == 0:
                    tick()
                if save is not None and time.monotonic() - saved > _SAVE_EVERY:
                    save(joined(parts))
                    saved = time.monotonic()
    except BaseException:
        if save is not None and parts:
            save(joined(parts))
        raise
    return joined(parts)


def joined(parts: Sequence[Arrays]) -> Arrays:
    """The batches' arrays under each other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def rows_at_once(model: VAE) -> int:
    """How many decodings (chains × images) to differentiate at once: what stays near a CPU core, or a part of a GPU's memory."""
    outputs = math.prod(model.likelihood.shape) * (model.likelihood.support.levels or 2)
    device = next(model.parameters()).device
    room = _CPU_BYTES if device.type != "cuda" else int(torch.cuda.mem_get_info(device)[0] * _CUDA_SHARE)
    return max(16, room // (8 * outputs))


def mean_se(values: np.ndarray) -> dict[str, Any]:
    """``value`` and its standard error ``se`` over images (None for one image)."""
    se = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
    return {"value": float(values.mean()), "se": se}
