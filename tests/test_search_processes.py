"""Two programs that work on one search at once: every trial is done once, and what they share stays whole."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tiny_runs import TINY_OPTIONS
from vaelid.studying import Study
from vaelid.sweeps.space import space_of
from vaelid.sweeps.trials import Trials

pytest.importorskip("optuna", reason="needs optuna (in the extra search)")
pytestmark = pytest.mark.slow
TRIALS = [f"trial-{number:03d}" for number in range(4)]
LR = "log:1e-3:1e-1"


def start(out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "vaelid", "study", "digits", *TINY_OPTIONS, "--set=training.epochs=1", "--device", "cpu"]
    command += ["--search", f"lr={LR}", "--trials", str(len(TRIALS)), "--samples", "5", "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_two_programs_on_one_search_do_every_trial_once(tmp_path: Path) -> None:
    out = tmp_path / "study"
    both = [start(out), start(out)]
    said = [program.communicate(timeout=300) for program in both]
    words = "\n".join(err for _, err in said)
    assert [program.returncode for program in both] == [0, 0], words
    ledger = Study(out).ledger
    assert {name: member.status for name, member in ledger.members.items()} == dict.fromkeys(TRIALS, "finished")
    assert ledger.search["ended"] == {"finished": len(TRIALS)}
    ended = Counter(line.split()[0] for line in words.splitlines() if " finished (of 4 trials: " in line)
    assert ended == dict.fromkeys(TRIALS, 1), "each was trained by one of the two, and once"
    for name, run in Study(out).runs.items():
        assert [line["epoch"] for line in run.metrics] == [1], name
        assert run.about["outcome"] == "the one epoch done"
    # The journal tells the same as study.json: no trial is lost, open, or there twice.
    trials = Trials(out / "search.journal", space_of({"lr": LR}), "median", 0, 1)
    assert len(trials) == len(TRIALS)
    assert trials.open_trials() == {}
    assert [trials.reported(number) for number in range(len(TRIALS))] == [1] * len(TRIALS)
    assert ledger.selection["chosen"] in TRIALS
    looks = [(look["member"], look["weights"]) for look in ledger.test]
    assert looks
    assert len(looks) == len(set(looks)), "the test split meets each once"
