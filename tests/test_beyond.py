"""AIS, BDMC, gaps and aggregate posterior of a run: from the command line and Python, kept, resumed, told with their errors."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

import vaelid
import vaelid.beyond
import vaelid.judging
from test_evaluate import Stop
from tiny_runs import SAMPLES, Program, evaluated, no_figures
from vaelid import Beyond
from vaelid.errors import CheckFailed, SettingError
from vaelid.evaluation.ais import AisPlan
from vaelid.evaluation.compare import QUANTITIES
from vaelid.run import Run

pytestmark = pytest.mark.usefixtures(no_figures.__name__)

PLAN = AisPlan(steps=4, chains=3, pilot=3)
USUAL = {"samples": SAMPLES, "elbo_samples": 3}
ANNEAL = ["--samples", SAMPLES, "--elbo-samples", 3, "--ais-steps", 4, "--chains", 3]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Program:
    return Program(capsys)


def arrays(opened: Run, name: str) -> dict[str, np.ndarray]:
    return opened.folder.read_arrays(opened.folder.results / f"{name}.npz")


def test_everything_from_the_command_line(tmp_path: Path, run: Program) -> None:
    opened = evaluated(tmp_path)
    before = opened.results["test"]
    words = ["evaluate", opened.folder.path, *ANNEAL, "--ais", "--gaps", "--aggregate", "--bdmc", "--limit", 6]
    said = run(*words)
    assert said.code == 0, said.err
    assert "the bounds of the test images stand in" in said.err
    printed = " ".join(said.out.split())
    for words_said in (
        "annealed importance sampling: 6 test images (limited to the first of 359), nats per image",
        "from q(z|x), 4 steps, 3 chains; upper bound on the true NLL in expectation",
        "nll − ais",
        "effective chains of 3 on average",
        "tuned to 0.65 beforehand, then frozen",
        "gaps of the ELBO: 6 test images",
        "amortization",
        "aggregate posterior: 6 test images",
        f"at most log N = {math.log(6):.3f}",
        "bidirectional Monte Carlo, log p(x): 6 images drawn from the model",
        "upper − importance",
        "OTHER IMAGES: ais (6 images), gaps (6 images), aggregate (6 images) below, not of these 30: compare within a table",
    ):
        assert words_said in printed, words_said
    assert printed.count("OTHER IMAGES than the 30 of the bounds: compare within this table only.") == 3
    results = opened.results
    assert set(results) == {"test", "bdmc"}
    test = results["test"]
    assert {name: test[name] for name in before} == before, "the bounds of all 30 images are still there"
    for kind in ("ais", "gaps", "aggregate"):
        assert test[kind]["images"] == 6
        assert test[kind]["environment"]["weights"] == opened.weights_digest
        assert len(test[kind]["data"]["fingerprint"]) == 64
        assert test[kind]["data"]["fingerprint"] != before["data"]["fingerprint"]
    assert test["ais"]["acceptance"]["mean"] == pytest.approx(arrays(opened, "test.ais")["acceptance"].mean())
    assert results["bdmc"]["gap"]["value"] == pytest.approx(results["bdmc"]["upper"]["value"] - results["bdmc"]["lower"]["value"])
    assert results["bdmc"]["importance"]["samples"] == SAMPLES
    shown = run("show", opened.folder.path).out
    assert "annealed importance sampling: 6 test images" in shown
    assert "bidirectional Monte Carlo" in shown
    printed_json = json.loads(run(*words, "--json").out)
    assert printed_json == opened.results


def test_ais_stands_beside_the_bound_of_the_same_images(tmp_path: Path) -> None:
    opened = evaluated(tmp_path)
    found = opened.evaluate(**USUAL, limit=8, beyond=Beyond(ais=True, gaps=True, annealing=PLAN))  # type: ignore[arg-type]
    nll, ais, gaps = arrays(opened, "test")["nll"], arrays(opened, "test.ais")["nll"], arrays(opened, "test.gaps")
    assert (len(nll), len(ais)) == (30, 8)
    beside = found["ais"]["importance"]
    assert beside["nll"]["value"] == pytest.approx(nll[:8].mean())
    assert beside["above_ais"]["value"] == pytest.approx((nll[:8] - ais).mean())
    assert beside["above_ais"]["se"] == pytest.approx((nll[:8] - ais).std(ddof=1) / math.sqrt(8))
    assert found["gaps"]["inference"]["value"] == pytest.approx((-ais - gaps["elbo"]).mean())
    assert found["gaps"]["log_p_from"] == found["ais"]["name"]


def test_numbers_of_other_images_say_so_until_they_are_of_the_same(tmp_path: Path, run: Program) -> None:
    """After bounds of fewer images AIS of more stands beside them."""
    opened = evaluated(tmp_path)
    opened.evaluate(**USUAL, limit=8, beyond=Beyond(ais=True, annealing=PLAN))  # type: ignore[arg-type]
    opened.evaluate(**USUAL, limit=5)  # type: ignore[arg-type]
    assert {name: opened.results["test"][name]["images"] for name in ("ais", "nll", "neg_elbo")} == {
        "ais": 8,
        "nll": 5,
        "neg_elbo": 5,
    }
    shown = " ".join(run("show", opened.folder.path).out.split())
    assert "OTHER IMAGES: ais (8 images) below, not of these 5: compare within a table only." in shown
    assert "OTHER IMAGES than the 5 of the bounds" in shown
    opened.evaluate(**USUAL, limit=8)  # type: ignore[arg-type]
    assert "OTHER IMAGES" not in run("show", opened.folder.path).out


def test_bounds_that_are_not_there_are_computed_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = evaluated(tmp_path)
    judged: list[int] = []
    judge = vaelid.run.judge  # type: ignore[attr-defined]
    monkeypatch.setattr(
        vaelid.run, "judge", lambda subject, split, *given: judged.append(len(split)) or judge(subject, split, *given)
    )
    asked = Beyond(aggregate=True)
    opened.evaluate(**USUAL, limit=5, beyond=asked)  # type: ignore[arg-type]
    assert judged == []
    opened.evaluate(samples=SAMPLES, elbo_samples=2, limit=5, beyond=asked)
    opened.evaluate(samples=SAMPLES, elbo_samples=2, limit=6, beyond=asked)
    opened.evaluate(samples=SAMPLES, elbo_samples=2, limit=6, seed=1, beyond=asked)
    opened.evaluate("validation", samples=2, limit=6, beyond=asked)
    assert judged == [5, 6, 6, 6]


def test_work_that_is_broken_off_goes_on(tmp_path: Path) -> None:
    opened, other = evaluated(tmp_path), evaluated(tmp_path, "other")
    plan = AisPlan(steps=4, chains=3, pilot=3, images=4)
    asked = Beyond(ais=True, annealing=plan)
    with pytest.raises(KeyboardInterrupt):
        opened.evaluate(**USUAL, limit=10, beyond=asked, reporter=Stop(5 * plan.ticks))  # type: ignore[arg-type]
    assert len(arrays(opened, "test.ais")["nll"]) == 4
    assert "ais" not in opened.results["test"]
    reporter = Stop()
    found = opened.evaluate(**USUAL, limit=10, beyond=asked, reporter=reporter)  # type: ignore[arg-type]
    assert reporter.log[0] == f"annealing test {4 * plan.ticks}/{10 * plan.ticks}"
    at_once = other.evaluate(**USUAL, limit=10, beyond=asked)  # type: ignore[arg-type]
    assert found["ais"]["value"] == at_once["ais"]["value"]
    again = Stop()
    assert opened.evaluate(**USUAL, limit=10, beyond=asked, reporter=again)["ais"] == found["ais"]  # type: ignore[arg-type]
    assert again.log == [f"annealing test {10 * plan.ticks}/{10 * plan.ticks}"], "what is there is not computed again"
    anew = Stop()
    seeded = Beyond(ais=True, annealing=AisPlan(steps=4, chains=3, pilot=3, images=4, seed=1))
    opened.evaluate(**USUAL, limit=10, beyond=seeded, reporter=anew)  # type: ignore[arg-type]
    assert anew.log[0] == f"annealing test 0/{10 * plan.ticks}"


def test_what_was_found_stays_while_it_is_true(tmp_path: Path) -> None:
    opened = evaluated(tmp_path)
    opened.evaluate(**USUAL, limit=4, beyond=Beyond(aggregate=True, bdmc=True, annealing=PLAN, simulated=2))  # type: ignore[arg-type]
    opened.evaluate(samples=3)
    assert "aggregate" in opened.results["test"]
    assert "bdmc" in opened.results
    opened.folder.write_weights({name: tensor + 0.01 for name, tensor in opened.folder.weights().items()}, {})
    Run(opened.folder.path, "cpu").evaluate(samples=3)
    assert "aggregate" not in opened.results["test"]
    assert "bdmc" not in opened.results


def test_bdmc_is_no_split(tmp_path: Path, run: Program) -> None:
    one, two = evaluated(tmp_path, "one"), evaluated(tmp_path, "two")
    for opened in (one, two):
        opened.evaluate(**USUAL, beyond=Beyond(bdmc=True, annealing=PLAN, simulated=2))  # type: ignore[arg-type]
        assert opened.results["bdmc"]["images"] == 2
    assert "was not evaluated on the bdmc split" in run.refuses("compare", one.folder.path, two.folder.path, "--split", "bdmc")
    assert set(vaelid.compare(one.folder.path, two.folder.path).rows) == set(QUANTITIES)


def test_an_impossible_ais_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = evaluated(tmp_path)
    monkeypatch.setattr(vaelid.beyond, "least_nll", lambda split, discrete: np.full(len(split), 1e4))
    asked = Beyond(ais=True, annealing=PLAN)
    with pytest.raises(CheckFailed, match=r"The mean ais of .* is impossible"):
        opened.evaluate(**USUAL, limit=4, beyond=asked)  # type: ignore[arg-type]
    assert "ais" not in opened.results["test"]
    forced = opened.evaluate(**USUAL, limit=4, beyond=asked, force=True)  # type: ignore[arg-type]
    assert "impossible" in forced["ais"]["failed"][0]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("--ais-steps 5", "--ais-steps is about annealing, which is not asked for. Add --ais, --bdmc or --gaps."),
        ("--chains 5 --aggregate", "--chains is about annealing"),
        ("--ais --ais-steps 0", "steps must be at least 1; it is 0."),
        ("--ais --chains 0", "chains must be at least 1; it is 0."),
        ("--ais --ais-start posterior", "start must be one of encoder, prior; it is 'posterior'."),
        ("--bdmc --limit 0", "limit must be at least 1; it is 0."),
    ],
)
def test_requests_that_cannot_be(words: str, reason: str, tmp_path: Path, run: Program) -> None:
    assert reason in run.refuses("evaluate", evaluated(tmp_path).folder.path, *words.split())


def test_a_plan_is_checked_where_it_is_made() -> None:
    with pytest.raises(SettingError, match="simulated must be at least 1; it is 0"):
        Beyond(bdmc=True, simulated=0)
