"""The audit on a zoo: every broken part is caught by the expected test with the guilty name, every correct part passes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import distributions as d
from torch.distributions import Distribution

from broken_parts import BROKEN
from correct_parts import CORRECT, ZUKO
from vaelid.auditing.audit import TESTS, audit


def documented() -> dict[str, list[str]]:
    """The audit's words on each error that docs/numbers.md lists, in the pieces between names and numbers."""
    page = (Path(__file__).parents[1] / "docs" / "numbers.md").read_text("utf-8")
    rows = [line.replace("\\|", "¦").strip("| ").split(" | ") for line in page.split("| the audit's words |")[1].splitlines()]
    return {row[0]: row[1].replace("¦", "|").split(" … ") for row in rows if len(row) == 2}


DOCUMENTED = documented()


@pytest.mark.parametrize("name", BROKEN)
def test_broken_part_is_caught_and_named(name: str) -> None:
    broken = BROKEN[name]
    report = audit(broken.make(), quick=True)
    assert broken.is_caught(report), str(report)
    assert all(f.meaning for f in report.failures)
    assert report.exit_code == 3
    said = [" ".join(f.words.split()) for f in report.failures]
    assert any(all(piece in words for piece in DOCUMENTED.get(name, [])) for words in said), said


@pytest.mark.parametrize("name", CORRECT)
def test_correct_part_passes(name: str) -> None:
    report = audit(CORRECT[name](), quick=True)
    assert report.verdict == "pass", str(report)
    assert report.exit_code == 0


@pytest.fixture
def zuko() -> Iterator[object]:
    module = pytest.importorskip("zuko", reason="zuko is not installed: its flows are not audited")
    Distribution.set_default_validate_args(True)  # zuko switches the checks off for everybody
    return module


@pytest.mark.parametrize("name", ZUKO)
def test_correct_flow_passes(name: str, zuko: object) -> None:
    report = audit(ZUKO[name](zuko), quick=True)
    assert report.verdict == "pass", str(report)


def test_the_page_of_numbers_lists_errors_of_the_zoo() -> None:
    assert len(DOCUMENTED) >= 20
    assert set(DOCUMENTED) <= set(BROKEN)


def test_the_zoo_is_what_was_asked_for() -> None:
    assert len(BROKEN) >= 15
    assert sum(b.subtle for b in BROKEN.values()) >= 5
    assert sum(not b.parameters for b in BROKEN.values()) >= 3
    assert len(CORRECT) >= 15


def test_sampler_5_percent_too_wide_is_found_by_default() -> None:
    for seed in range(3):
        torch.manual_seed(seed)
        report = audit(BROKEN["sampler 5 % too wide"].make(), seed=seed)
        assert any(f.test == "scores" and "log_scale" in f.guilty for f in report.failures)


def test_each_test_is_blind_where_the_table_says_so() -> None:
    """Separated modes: Stein's identity sees nothing, the exchange identity does."""
    report = audit(BROKEN["separated modes, weight off by 0.05"].make())
    assert {f.test for f in report.failures} == {"exchange"}
    report = audit(BROKEN["factorized density, joint sampler"].make())
    assert "scores" not in {f.test for f in report.failures}
    assert {"scores-2", "stein", "exchange"} <= {f.test for f in report.failures}
    assert all(test.sees and test.blind for test in TESTS.values())


def test_torch_von_mises_is_no_density_on_the_reals() -> None:
    """Its support is declared real, its density is periodic: the integral is infinite; ``variance`` is the circular one."""
    report = audit(d.VonMises(torch.tensor(0.0), torch.tensor(2.0)), quick=True)
    assert "variance" in {f.guilty for f in report.failures if f.test == "closed-forms"}


def test_per_dimension_densities_are_summed_and_tested_further() -> None:
    report = audit(BROKEN["the notebook's mixture"].make(), quick=True)
    [shape] = [f for f in report.failures if f.test == "contract"]
    assert "came as (7, 4) instead of (7,)" in shape.meaning
    assert "Sum over the last dimension" in shape.meaning
    assert {"scores", "scores-2", "stein"} <= {f.test for f in report.failures}
