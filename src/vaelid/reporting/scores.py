"""Tables of scores: the model between its two anchors, every number with its error."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from vaelid.reporting.tables import simple_table
from vaelid.scoring.score import QUANTITIES, SCORES, score_name

Results = Mapping[str, Any]
_SETS = ("model", "real", "trivial")


def score_table(name: str, found: Results, weights: str) -> RenderableType:
    """One entry of ``scores``; ``weights``: SHA-256 of the weights that the run has now."""
    about = {score_name(quantity, found["extractor"]["name"]): known.about for quantity, known in QUANTITIES.items()}
    rows = [
        (score, *(with_its_error(row[who]) for who in _SETS), row["better"], about[score])
        for score, row in found["scores"].items()
    ]
    title = f"{name}: {found['images_per_set']:,} images per set, {found['pixels']}"
    columns = ("score", ">model", ">real", ">independent pixels", "better", "what it is")
    return Group(simple_table(title, columns, rows), *map(Text, _notes(found, weights)))


def score_tables(name: str, results: Results, weights: str) -> Iterator[RenderableType]:
    """The tables of all scores in results.json."""
    return (score_table(name, found, weights) for found in results.get(SCORES, {}).values())


def with_its_error(score: Results | None) -> str:
    """A score to the digits that its standard error leaves it, which is told to two; a dash for none.

    >>> with_its_error({"value": 3.262, "se": 2.04}), with_its_error({"value": -0.00123, "se": 0.000456})
    ('3.3 ± 2.0', '−0.00123 ± 0.00046')
    >>> with_its_error({"value": 1234.5, "se": 321.0})
    '1234 ± 321'
    >>> with_its_error({"value": -0.001, "se": 2.04})
    '0.0 ± 2.0'
    """
    if score is None:
        return "–"
    value, se = score["value"], score["se"]
    if not se or not math.isfinite(se):
        return f"{value:.4g}".replace("-", "−")
    digits = max(0, 1 - math.floor(math.log10(float(f"{se:.1e}"))))
    return f"{value:z.{digits}f} ± {se:.{digits}f}".replace("-", "−")


def _notes(found: Results, weights: str) -> list[str]:
    sets, extractor, made = found["sets"], found["extractor"], found["environment"]
    reference, real = sets["reference"], sets["real"]
    lines = [
        f"all against {reference['split']} images ({reference['protocol']}; {reference['fingerprint'][:12]}…); "
        f"real: other real images ({real['split']}); independent pixels: each with its own distribution in the training images",
        f"± is a standard error over sets of {found['images_per_set']:,} images against this reference; seed {found['seed']}",
        _about_extractor(extractor),
    ]
    if "means" in found["pixels"]:
        lines.append("The model's images are pixel means, which are no samples of it: the other two sets are not averaged.")
    lines.append(f"weights {made['weights'][:12]}…, vaelid {made['vaelid']} (commit {made['commit']})")
    if made["weights"] != weights:
        lines.insert(0, "OUT OF DATE: these scores are of other weights than the run has now. Score it again.")
    return lines


def _about_extractor(extractor: Results) -> str:
    known = f"features: {extractor['name']}, SHA-256 {extractor['sha256'][:12]}…"
    if "test_accuracy" not in extractor:
        return known
    right = f"{extractor['test_accuracy']:.2%} of test images right as binarized, {extractor['test_accuracy_gray']:.2%} as stored"
    return f"{known}, trained on {extractor['trained_on']:,} images; {right}"
