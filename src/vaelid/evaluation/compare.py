"""Which run is better? Paired differences per image, on the very same images, with their standard error.

    d_i = NLL_i(run) − NLL_i(reference),   mean(d) ± sd(d)/√N

Images are far more unlike each other than two models are, so the paired error is much smaller than either run's own.
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
    se: float | None
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
    pairs = zip(names[1:], results[1:], strict=True)
    warnings = tuple(filter(None, (_mismatch(names[0], results[0], name, other) for name, other in pairs)))
    if warnings and not anyway:
        raise UserError(
            " ".join(warnings), "Evaluate both on the same images with the same --samples, or add --anyway for a labeled table."
        )
    same_images = [r["data"]["fingerprint"] == results[0]["data"]["fingerprint"] for r in results]
    rows = {}
    for quantity in QUANTITIES:
        reference = values[0][quantity]
        compared = [_row(names[0], reference)]
        for name, found, paired in list(zip(names, values, same_images, strict=True))[1:]:
            compared.append(_row(name, found[quantity], reference, paired))
        if "independent_pixels" in values[0]:
            compared.append(_row("independent pixels", values[0]["independent_pixels"], reference, paired=True))
        rows[quantity] = tuple(compared)
    return Comparison(split, len(values[0]["nll"]), rows, warnings)


def _row(name: str, values: np.ndarray, reference: np.ndarray | None = None, paired: bool = False) -> Row:
    value, se = _mean_se(values)
    if reference is None:
        return Row(name, value, se)
    if not paired:
        return Row(name, value, se, value - float(reference.mean()))  # only with ``anyway``: other images, nothing to pair
    return Row(name, value, se, *_mean_se(values - reference))


def _mean_se(values: np.ndarray) -> tuple[float, float | None]:
    """The mean and its standard error; none for one image."""
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None


def _mismatch(name: str, one: Results, other_name: str, other: Results) -> str:
    """Why the numbers of two runs do not belong together, in words; empty if they do."""
    for each, found in ((name, one), (other_name, other)):
        if found.get("failed"):
            return f"{each} failed a check, so that its numbers are no likelihoods: {found['failed'][0]}."
    if one["kind"] != other["kind"]:
        return f"{name} gives a {one['kind']}, {other_name} a {other['kind']}: they have no common unit."
    if one["data"]["fingerprint"] != other["data"]["fingerprint"]:
        for key, word in (("name", "data"), ("split", "split"), ("protocol", "pixel protocol"), ("fingerprint", "set of images")):
            if one["data"][key] != other["data"][key]:
                values = f"{one['data'][key]!r} and {other['data'][key]!r}"
                return f"{name} and {other_name} were not evaluated on the same {word}: {values}."
    if one["nll"]["samples"] != other["nll"]["samples"]:
        return (
            f"{name} has nll with K = {one['nll']['samples']}, {other_name} with K = {other['nll']['samples']}: "
            "a bound with more samples is lower for the same model."
        )
    return ""
