"""A study of which only small files were kept has a report of all that needs no weights, and says what is missing."""

from __future__ import annotations

import shutil
from pathlib import Path

import vaelid
from report_helpers import Parsed, small_study
from test_report_page import assert_well_formed, page
from vaelid.reporting.page.study import read_study
from vaelid.sweeps.ledger import StudyFolder


def without_weights(study: StudyFolder, *names: str) -> None:
    """Make members what an archive of small files restores."""
    for name in names:
        study.member(name).weights_file.unlink()
        shutil.rmtree(study.member(name).checkpoints)


def test_a_study_without_weights_is_reported_with_all_that_needs_none(tmp_path: Path) -> None:
    study = small_study(tmp_path)
    without_weights(study, *study.read().members)
    parsed = Parsed(vaelid.report(study.path, device="cpu").read_text("utf-8"))
    assert_well_formed(parsed)
    assert "No member's trained weights are in this folder" in parsed.text
    why = "its trained weights, model.safetensors, are not in the folder, a copy of its small files"
    assert f"Not measured: evaluation, audit, scores ({why})." in parsed.text
    for verb in ("evaluate", "audit", "score"):
        assert f"vaelid {verb}" not in parsed.text, "no command here measures it"
    shown = {attributes.get("id") for attributes in parsed.all("section", "figure")}
    assert {"chart-validation_curves", "chart-validation_curves_log", "chart-effect_lr", "training", "questions"} <= shown
    assert not {"images", "audit", "latents", "quality"} & shown
    assert "lr=0.01 has the lowest validation −ELBO" in parsed.text
    drawn = {path.name for path in study.figures.iterdir()}
    for name in ("validation_curves", "validation_curves_log", "effect_lr"):
        assert {f"{name}.{kind}" for kind in ("png", "pdf", "csv")} <= drawn


def test_a_member_with_weights_is_shown_before_one_without(tmp_path: Path) -> None:
    study = small_study(tmp_path)  # lr=0.01 is chosen
    assert read_study(study.path).run.name == "lr=0.01,seed=0"
    without_weights(study, "lr=0.01,seed=0")
    assert read_study(study.path).run.name == "lr=0.01,seed=1"
    without_weights(study, "lr=0.01,seed=1")
    assert read_study(study.path).run.name == "lr=0.1,seed=0", "the best of the others"
    assert "It is shown because no weights of the chosen lr=0.01 are in the study's folder." in page(study.path).text
