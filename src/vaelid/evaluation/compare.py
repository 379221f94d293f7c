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
from vaelid.evaluation.precision import decoder_words, error_words

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
    images: int = 0  # that the value is the mean of

    @property
    def sigmas(self) -> float | None:
        """How many paired standard errors the difference is; negative is better than the reference."""
        if self.difference is None or not self.difference_se:
            return None
        return self.difference / self.difference_se


@dataclass(frozen=True)
class Comparison:
    """Rows per quantity; the first row is the reference. ``warnings`` say what is not comparable, if that was waved through;
    ``notes`` what else a reader of the numbers has to know.
    """

    split: str
    images: int
    rows: Mapping[str, tuple[Row, ...]]
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


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
    mismatches = [pair for name, other in pairs if (pair := _mismatch(names[0], results[0], name, other))]
    warnings = tuple(problem for problem, _ in mismatches)
    if warnings and not anyway:
        remedies = " ".join(dict.fromkeys(remedy for _, remedy in mismatches))
        raise UserError(" ".join(warnings), f"{remedies} With --anyway there is a table, labeled NOT COMPARABLE.")
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
    shortened = [(name, error_words(found["nll"])) for name, found in zip(names, results, strict=True)]
    notes = tuple(f"nll of {name}: {said}." for name, said in shortened if said is not None)
    return Comparison(split, len(values[0]["nll"]), rows, warnings, notes)


def _row(name: str, values: np.ndarray, reference: np.ndarray | None = None, paired: bool = False) -> Row:
    value, se = _mean_se(values)
    if reference is None:
        return Row(name, value, se, images=len(values))
    if not paired:  # only with ``anyway``: other images, nothing to pair
        return Row(name, value, se, value - float(reference.mean()), images=len(values))
    return Row(name, value, se, *_mean_se(values - reference), images=len(values))


def _mean_se(values: np.ndarray) -> tuple[float, float | None]:
    """The mean and its standard error; none for one image."""
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None


#: What differs about the images, in this order, in words, and what to do about it.
_IMAGES = (
    ("name", "data", "Only models of the same data can be compared: train both on one of them."),
    ("split", "split", "Evaluate both on the same split."),
    ("protocol", "pixel protocol", "Train both with the same binarization, or none can be said to be better."),
    (
        "fingerprint",
        "set of images",
        "Evaluate both with the same --limit, or none; and train both with the same [data] settings.",
    ),
)


def _mismatch(name: str, one: Results, other_name: str, other: Results) -> tuple[str, str] | None:
    """Why the numbers of two runs do not belong together, and what to do about it, in words; None if they do."""
    for each, found in ((name, one), (other_name, other)):
        if found.get("failed"):
            problem = f"{each} failed a check, so that its numbers are no likelihoods: {found['failed'][0]}."
            return problem, f"`vaelid audit {each}` says more."
    if one["kind"] != other["kind"]:
        problem = f"{name} gives a {one['kind']}, {other_name} a {other['kind']}: they have no common unit."
        return problem, "Compare models whose likelihoods are of one kind."
    if one["data"]["fingerprint"] != other["data"]["fingerprint"]:
        for key, word, remedy in _IMAGES:
            if one["data"][key] != other["data"][key]:
                values = f"{_shown(one, key)} and {_shown(other, key)}"
                return f"{name} and {other_name} were not evaluated on the same {word}: {values}.", remedy
    if one["nll"]["samples"] != other["nll"]["samples"]:
        problem = (
            f"{name} has nll with K = {one['nll']['samples']}, {other_name} with K = {other['nll']['samples']}: "
            "a bound with more samples is lower for the same model."
        )
        return problem, "Evaluate both with the same --samples."
    if decoder_words(one["nll"]) != decoder_words(other["nll"]):
        short, long = (name, other_name) if decoder_words(one["nll"]) else (other_name, name)
        problem = (
            f"{short} has nll with a bfloat16 decoder, {long} with a float32 one: their difference would have its error in it."
        )
        return problem, "Evaluate both with the same --decoder-precision."
    return None


def _shown(found: Results, key: str) -> str:
    """An entry of ``data``; a set of images by their number, too."""
    count = f" ({found['images']:,} images)" if key == "fingerprint" and "images" in found else ""
    return f"{found['data'][key][:12]!r}{count}" if key == "fingerprint" else f"{found['data'][key]!r}"
