"""The archive of the learning-rate study: what was put aside and back is the same study, and lacks what it lacked."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from studies.learning_rates.archive import restore, save

from test_study import carry_out
from tiny_runs import no_figures
from vaelid import pool, studying
from vaelid.errors import Interrupted, RunError
from vaelid.studying import Conclusion
from vaelid.sweeps.ledger import StudyFolder
from vaelid.sweeps.summary import Summary

pytestmark = pytest.mark.usefixtures(no_figures.__name__)
GRID = {"lr": [1e-3, 1e-2]}
HERE = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_PAUSE", 0.0)
    monkeypatch.setattr(studying, "study_figures", lambda *_: [])


def test_a_restored_study_trains_the_missing_members_only(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        carry_out(tmp_path / "here", GRID, fate={"lr=0.01,seed=0": KeyboardInterrupt()})
    archive = StudyFolder(tmp_path / "archive")
    assert save(StudyFolder(tmp_path / "here"), archive) == ["lr=0.001,seed=0: finished (saved)", "lr=0.01,seed=0: waiting"]
    assert not list(archive.path.rglob("*.safetensors"))
    there = StudyFolder(tmp_path / "there")
    assert restore(there, archive) == ["lr=0.001,seed=0: finished, without weights", "lr=0.01,seed=0: to be trained"]
    found, begun = carry_out(there.path, GRID)
    assert begun.trained == ["lr=0.01,seed=0"]
    # The same study as if it had never moved: curves, choice, and what is said of them.
    straight, _ = carry_out(tmp_path / "straight", GRID)
    assert found.ledger.selection == straight.ledger.selection
    one, other = (Summary(each.folder.path).members["lr=0.001,seed=0"] for each in (found, straight))
    assert one.curve.neg_elbo.tolist() == other.curve.neg_elbo.tolist()
    assert one.facts.verdict == other.facts.verdict
    save(there, archive)
    assert [m.status for m in archive.read().members.values()] == ["finished", "finished"]


def test_what_has_no_weights_does_not_meet_the_test_split(tmp_path: Path) -> None:
    study, archive = StudyFolder(tmp_path / "study"), StudyFolder(tmp_path / "archive")
    carry_out(study.path, {"lr": [1e-3]})
    save(study, archive, heavy=tmp_path / "heavy")
    without, with_them = StudyFolder(tmp_path / "without"), StudyFolder(tmp_path / "with")
    restore(without, archive)
    found, begun = carry_out(without.path, {"lr": [1e-3]}, how=Conclusion(True, 2, "cpu"))
    assert (begun.trained, found.ledger.test) == ([], [])
    assert restore(with_them, archive, heavy=tmp_path / "heavy") == ["lr=0.001,seed=0: finished, with weights"]
    found, begun = carry_out(with_them.path, {"lr": [1e-3]}, how=Conclusion(True, 2, "cpu"))
    assert (begun.trained, len(found.ledger.test)) == ([], 1)
    save(with_them, archive)
    again = StudyFolder(tmp_path / "again")
    restore(again, archive)
    assert again.read().test == found.ledger.test, "the look at the test split is not forgotten"


def test_a_member_under_way_goes_on_from_the_heavy_files(tmp_path: Path) -> None:
    here, archive = StudyFolder(tmp_path / "here"), StudyFolder(tmp_path / "archive")
    carry_out(here.path, {"lr": [1e-3]})
    ledger = here.read()
    ledger.members["lr=0.001,seed=0"].status = "interrupted"
    here.write(ledger)
    save(here, archive, heavy=tmp_path / "heavy")
    there = StudyFolder(tmp_path / "there")
    restore(there, archive, heavy=tmp_path / "heavy")
    found, begun = carry_out(there.path, {"lr": [1e-3]}, epochs=2)
    assert begun.trained == ["lr=0.001,seed=0"]
    assert "resuming" in found.runs["lr=0.001,seed=0"].folder.log_file.read_text()


def test_an_end_that_the_archive_has_is_not_lost(tmp_path: Path) -> None:
    study, archive = StudyFolder(tmp_path / "study"), StudyFolder(tmp_path / "archive")
    carry_out(study.path, GRID)
    save(study, archive)
    shutil.rmtree(study.path)
    carry_out(study.path, {"lr": [1e-3]})
    with pytest.raises(RunError, match=r"has ends that .* lacks: lr=0.01,seed=0"):
        save(study, archive)
    assert restore(study, archive) == ["lr=0.001,seed=0: left as it is", "lr=0.01,seed=0: finished, without weights"]
    save(study, archive)


@pytest.mark.slow
def test_the_script_goes_on_from_its_archive(tmp_path: Path) -> None:
    def run(runs: str) -> str:
        asked = {
            "DATA": "digits",
            "RECIPE": "digits",
            "SEEDS": "1",
            "EPOCHS": "1",
            "SLOW_EPOCHS": "2",
            "SAMPLES": "2",
            "JOBS": "1",
            "ENGINE": "eager",
            "RUNS": str(tmp_path / runs),
            "ARCHIVE": str(tmp_path / "archive"),
            "PYTHON": sys.executable,
            "VAELID": str(tmp_path / "vaelid"),
        }
        script = HERE / "studies" / "learning_rates" / "run.sh"
        return subprocess.run([script], env={**os.environ, **asked}, capture_output=True, text=True, check=True).stderr

    (tmp_path / "vaelid").write_text(f'#!/bin/sh\nexec {sys.executable} -m vaelid "$@"\n')
    (tmp_path / "vaelid").chmod(0o755)
    assert "lr=1e-05,seed=0 finished (3 of 3 done)" in run("one")
    shutil.rmtree(tmp_path / "archive" / "lr=0.01,seed=0")
    archive = StudyFolder(tmp_path / "archive")
    ledger = archive.read()
    ledger.members["lr=0.01,seed=0"].status = "waiting"
    archive.write(ledger)
    said = run("two")
    assert "lr=0.01,seed=0 finished (3 of 3 done)" in said
    assert "lr=0.001,seed=0 finished" not in said
