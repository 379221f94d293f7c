"""Which run is better? Paired differences per image, on the very same images, with their standard error.

    d_i = NLL_i(run) − NLL_i(reference),   mean(d) ± sd(d)/√N          images are far more unlike each other than two models are,
                                                                       so the paired error is much smaller than either run's own
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vaelid.errors import UserError

Results = Mapping[str, Any]
#: The per-image quantities that can be compared, by the name of their array.
QUANTITIES = ("neg_elbo", "nll")


@dataclass(frozen=True)
class Row:
    """One run (or yardstick) beside the reference: nats per image, lower is better."""

    name: str
    value: float
    se: float
    difference: float | None = None  # minus the reference, paired
    difference_se: float | None = None

    @property
    def sigmas(self) -> float | None:
        """How many paired standard errors the difference is; negative is better than the reference."""
        if self.difference is None or not self.difference_se:
            return None
        return self.difference / self.difference_se


@dataclass(frozen=True)
class Comparison:
    """Rows per quantity; the first row is the reference. ``warnings`` say what is not comparable, if that was waved through."""

    split: str
    images: int
    rows: Mapping[str, tuple[Row, ...]]
    warnings: tuple[str, ...] = ()


def compare_results(
    names: Sequence[str], results: Sequence[Results], values: Sequence[Mapping[str, np.ndarray]], split: str, anyway: bool = False
) -> Comparison:
    """Compare evaluated runs with the first of them.

    Args:
        results: each run's entry of ``results.json`` for the split
        values: each run's per-image arrays
        anyway: go on where the numbers do not belong together, with a label

    Raises:
        UserError: if the runs were not evaluated on the same images, or in the same unit.
    """
    warnings = tuple(w for w in (_mismatch(names[0], results[0], name, other) for name, other in zip(names, results, strict=True)) if w)
    if warnings and not anyway:
        raise UserError(" ".join(warnings), "Evaluate both on the same data; --anyway compares the means all the same, labeled.")
    rows = {}
    for quantity in QUANTITIES:
        arrays = [v[quantity] for v in values]
        compared = [_row(name, array, arrays[0] if i else None) for i, (name, array) in enumerate(zip(names, arrays, strict=True))]
        pixels = values[0].get("independent_pixels")
        if pixels is not None:
            compared.append(_row("independent pixels", pixels, arrays[0]))
        rows[quantity] = tuple(compared)
    return Comparison(split, len(values[0]["nll"]), rows, warnings)


def _row(name: str, values: np.ndarray, reference: np.ndarray | None) -> Row:
    value, se = _mean_se(values)
    if reference is None:
        return Row(name, value, se)
    if len(reference) != len(values):
        return Row(name, value, se, value - float(reference.mean()), None)  # only with ``anyway``: nothing to pair
    difference, difference_se = _mean_se(values - reference)
    return Row(name, value, se, difference, difference_se)


def _mean_se(values: np.ndarray) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


def _mismatch(name: str, one: Results, other_name: str, other: Results) -> str:
    if one["kind"] != other["kind"]:
        return f"{name} gives a {one['kind']}, {other_name} a {other['kind']}: they have no common unit."
    for key, word in (("name", "data"), ("split", "split"), ("protocol", "pixel protocol"), ("fingerprint", "set of images")):
        if one["data"][key] != other["data"][key]:
            return f"{name} and {other_name} were evaluated on another {word}: {one['data'][key]!r} and {other['data'][key]!r}."
    return ""
