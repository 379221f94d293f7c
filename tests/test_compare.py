"""Paired comparisons: the arithmetic by hand, and every reason to refuse."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vaelid
from tiny_runs import evaluated, no_figures, trained
from vaelid.errors import RunError, UserError
from vaelid.evaluation.compare import compare_results

pytestmark = pytest.mark.usefixtures(no_figures.__name__)

ENTRY: dict[str, Any] = {
    "kind": "probability",
    "nll": {"samples": 100},
    "data": {"name": "digits", "split": "test", "protocol": "pixels as stored", "fingerprint": "abc"},
}
ONE = {
    "neg_elbo": np.array([10.0, 12.0, 17.0]),
    "nll": np.array([9.0, 11.0, 16.0]),
    "independent_pixels": np.array([20.0, 20.0, 26.0]),
}
TWO = {"neg_elbo": np.array([11.0, 12.5, 19.0]), "nll": np.array([9.5, 11.0, 17.0])}


def entry(**data: str) -> dict[str, Any]:
    """An entry whose data differ in these points, and so in their images."""
    found = copy.deepcopy(ENTRY)
    found["data"].update({"fingerprint": "x", **data} if data else {})
    return found


def test_differences_are_paired() -> None:
    found = compare_results(["one", "two"], [ENTRY, ENTRY], [ONE, TWO], "test")
    assert (found.split, found.images, found.warnings) == ("test", 3, ())
    reference, other, pixels = found.rows["neg_elbo"]
    assert (reference.name, reference.value, reference.difference, reference.sigmas) == ("one", 13.0, None, None)
    assert reference.se == pytest.approx(np.std([10, 12, 17], ddof=1) / math.sqrt(3))
    differences = np.array([1.0, 0.5, 2.0])
    assert other.value == pytest.approx(42.5 / 3)
    assert other.difference == pytest.approx(differences.mean())
    assert other.difference_se == pytest.approx(differences.std(ddof=1) / math.sqrt(3))
    assert other.sigmas == pytest.approx(differences.mean() / (differences.std(ddof=1) / math.sqrt(3)))
    assert (pixels.name, pixels.difference) == ("independent pixels", 9.0)
    assert other.se is not None
    assert other.difference_se is not None
    assert other.difference_se < other.se


def test_the_first_run_is_the_reference_of_all() -> None:
    found = compare_results(["one", "two", "three"], [ENTRY] * 3, [ONE, TWO, ONE], "test")
    assert [row.difference for row in found.rows["nll"]] == [None, pytest.approx(0.5), 0.0, 10.0]


def test_a_run_beside_itself_has_no_sigmas() -> None:
    found = compare_results(["one", "one"], [ENTRY, ENTRY], [ONE, ONE], "test")
    assert found.rows["nll"][1].sigmas is None


def test_one_image_has_no_errors() -> None:
    single = {name: array[:1] for name, array in ONE.items()}
    row = compare_results(["one", "two"], [ENTRY, ENTRY], [single, single], "test").rows["nll"][1]
    assert (row.se, row.difference, row.difference_se) == (None, 0.0, None)


FAILED = {**ENTRY, "failed": ["Images change each other's numbers"]}
MISMATCHES: list[tuple[dict[str, Any], str, str]] = [
    (FAILED, "two failed a check, so that its numbers are no likelihoods: Images change", "`vaelid audit two` says more."),
    ({**ENTRY, "kind": "density"}, "gives a probability, two a density: they have no common unit", "likelihoods are of one kind"),
    (entry(name="mnist"), "same data: 'digits' and 'mnist'", "train both on one of them"),
    (entry(split="validation"), "same split: 'test' and 'validation'", "Evaluate both on the same split."),
    (entry(protocol="redrawn"), "same pixel protocol: 'pixels as stored' and 'redrawn'", "Train both with the same binarization"),
    ({**entry(fingerprint="other"), "images": 7}, "same set of images: 'abc' and 'other' (7 images)", "with the same --limit"),
    ({**ENTRY, "nll": {"samples": 50}}, "nll with K = 100, two with K = 50", "Evaluate both with the same --samples."),
]


@pytest.mark.parametrize(("other", "reason", "remedy"), MISMATCHES, ids=[reason for _, reason, _ in MISMATCHES])
def test_what_does_not_belong_together_is_refused(other: dict[str, Any], reason: str, remedy: str) -> None:
    with pytest.raises(UserError) as refused:
        compare_results(["one", "two"], [ENTRY, other], [ONE, TWO], "test")
    assert reason in refused.value.problem
    assert remedy in refused.value.remedy
    assert sum(other in refused.value.remedy for _, _, other in MISMATCHES) == 1, "advice about something else would not help"
    assert "--anyway" in refused.value.remedy
    waved = compare_results(["one", "two"], [ENTRY, other], [ONE, TWO], "test", anyway=True)
    assert [reason in warning for warning in waved.warnings] == [True]


def test_the_same_images_under_another_name_are_the_same_images() -> None:
    """A folder of images that was moved."""
    found = compare_results(["one", "two"], [ENTRY, entry(name="elsewhere", fingerprint="abc")], [ONE, TWO], "test")
    assert not found.warnings


@pytest.mark.parametrize("count", [2, 3])
def test_other_images_are_not_paired_even_if_they_are_as_many(count: int) -> None:
    values = {name: array[:count] for name, array in TWO.items()}
    row = compare_results(["one", "two"], [ENTRY, entry(fingerprint="x")], [ONE, values], "test", anyway=True).rows["nll"][1]
    assert row.difference == pytest.approx(values["nll"].mean() - 12)
    assert row.difference_se is None


# Run folders --------------------------------------------------------------------------------------------------------------


def test_runs_are_read_from_their_folders(tmp_path: Path) -> None:
    one, two = evaluated(tmp_path, "one"), evaluated(tmp_path, "two")
    two.folder.write_weights({name: tensor * 0.9 for name, tensor in two.folder.weights().items()}, {})
    two = vaelid.open_run(two.folder.path, device="cpu")
    two.evaluate(samples=20, elbo_samples=3)
    found = vaelid.compare(one.folder.path, two.folder.path)
    reference, other, pixels = found.rows["nll"]
    assert reference.value == pytest.approx(one.results["test"]["nll"]["value"])
    assert other.difference == pytest.approx(two.results["test"]["nll"]["value"] - one.results["test"]["nll"]["value"])
    assert pixels.value == pytest.approx(one.results["test"]["yardsticks"]["independent_pixels"]["value"])
    assert found.images == 30
    assert {row.images for rows in found.rows.values() for row in rows} == {30}


BROKEN: list[tuple[Callable[[Path], Any], str]] = [
    (lambda path: trained(path, "two"), "was not evaluated on the test split"),
    (lambda path: (evaluated(path, "two").folder.results / "test.npz").unlink(), "was not evaluated on the test split"),
    (lambda path: evaluated(path, "two").evaluate(samples=20, limit=10), "not evaluated on the same set of images"),
    (lambda path: evaluated(path, "two").evaluate(samples=21), "nll with K = 20"),
]


@pytest.mark.parametrize(("make", "reason"), BROKEN, ids=["trained only", "array lost", "limited", "other K"])
def test_runs_that_cannot_be_compared(make: Callable[[Path], Any], reason: str, tmp_path: Path) -> None:
    one = evaluated(tmp_path, "one")
    make(tmp_path)
    with pytest.raises((RunError, UserError), match=reason):
        vaelid.compare(one.folder.path, tmp_path / "two")


def test_one_run_is_no_comparison(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs two runs; 1 came"):
        vaelid.compare(evaluated(tmp_path).folder.path)
