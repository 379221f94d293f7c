"""The page of a run and of a study: whole in one file, safe, and true to the folder."""

from __future__ import annotations

import csv
import re
import shutil
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import vaelid
import vaelid.publishing
from report_helpers import Parsed, add_audit, add_scores, changed, small_study, whole
from tiny_runs import Program, evaluated, trained
from vaelid.errors import CheckFailed, MachineError, RunError, UserError
from vaelid.parts import KINDS
from vaelid.reporting.page.facts import read_run
from vaelid.reporting.page.tables import certificates, headline
from vaelid.reporting.page.theory import block, known
from vaelid.run import Run

MOST_BYTES = 5_000_000
LOADED = ("src", "href", "xlink:href", "srcset", "poster", "data")
SECTIONS = ("images", "likelihood", "audit", "training", "latents", "quality", "questions", "settings", "provenance")


def page(folder: Path, **options: object) -> Parsed:
    return Parsed(vaelid.report(folder, as_is=True, **options).read_text("utf-8"))  # type: ignore[arg-type]


def table(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.read_text("utf-8").splitlines()))


def assert_well_formed(parsed: Parsed) -> None:
    """One file that asks for nothing, whose addresses exist, and that can be heard as well as seen."""
    addresses = [a[key] for _, a in parsed.elements for key in LOADED if key in a]
    assert addresses
    assert [a for a in addresses if not a.startswith(("data:", "#"))] == []
    identities = Counter(a["id"] for _, a in parsed.elements if "id" in a)
    assert [name for name, count in identities.items() if count > 1] == []
    assert [a for a in addresses if a.startswith("#") and a[1:] not in identities] == []
    assert [a for a in parsed.all("img") if not a.get("alt")] == []
    assert all(a.get("aria-label") for _, a in parsed.elements if a.get("role") in ("img", "region"))
    levels = [int(tag[1]) for tag, _ in parsed.elements if tag in ("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels)), "a heading skips a level"
    assert {"main", "nav", "header", "footer"} <= {tag for tag, _ in parsed.elements}
    assert not [name for _, a in parsed.elements for name in a if name.startswith("on")], "no handlers in attributes"


@pytest.mark.parametrize(("images", "said"), [(3, True), (None, False)])
def test_annealing_stands_beside_the_bound_of_the_same_images(images: int | None, said: bool, tmp_path: Path) -> None:
    run = whole(tmp_path)
    test = run.results["test"]
    count = images or test["images"]
    number = {"value": 87.5, "se": 1.25}
    beside = {"samples": 50, "nll": {"value": 87.9, "se": 1.5}, "above_ais": {"value": 0.4, "se": 0.1}}
    ais = {**number, "monte_carlo_se": 0.03, "direction": "upper bound", "images": count, "importance": beside}
    changed(run.folder.results_file, test={**test, "ais": ais})
    rows = [row for row in certificates(read_run(run.folder.path)).rows if "AIS" in row[0] or "of these" in row[0]]
    assert [row[:3] for row in rows] == [
        (f"AIS, {count} images", "87.500", "1.250"),
        (f"nll of these {count} images, K = 50", "87.900", "1.500"),
        ("nll − AIS, paired", "0.400", "0.100"),
    ]
    assert ("not to be compared with the rows above" in rows[0][-1]) is said


def test_pixels_that_are_redrawn_are_not_called_the_same_noise(tmp_path: Path) -> None:
    run = whole(tmp_path)
    assert "the same images and the same noise" in page(run.folder.path).text
    file = run.folder.recipe_file
    file.write_text(re.sub(r'(?m)^binarization = ".*"$', 'binarization = "resampled"', file.read_text("utf-8")), "utf-8")
    run.folder.write_weights(run.folder.weights(), {})  # of a run that was made so
    assert read_run(run.folder.path).redraws
    text = page(run.folder.path).text
    assert "the same noise" not in text
    assert text.count("redraw") >= 2


def test_a_run_is_one_file_that_asks_for_nothing(tmp_path: Path) -> None:
    run = whole(tmp_path)
    file = vaelid.report(run.folder.path, as_is=True)
    assert file == run.folder.path / "report.html"
    html = file.read_text("utf-8")
    assert len(html.encode()) < MOST_BYTES
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-" in html
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    parsed = Parsed(html)
    assert_well_formed(parsed)
    sections = [a["id"] for a in parsed.all("section")]
    assert sections == ["summary", *SECTIONS]
    assert len([a for a in parsed.all("div") if a.get("id", "").startswith("question-")]) == 9
    assert "Not measured: one run cannot say whether its settings matter" in parsed.text
    assert parsed.text.count("Not measured") == 1


def test_the_figures_are_those_of_the_folder(tmp_path: Path) -> None:
    run = whole(tmp_path)
    text, found = page(run.folder.path).text, run.results["test"]
    assert f"{found['nll']['value']:.2f} ± {found['nll']['se']:.2f}" in text
    assert f"{found['nll']['value']:.3f}" in text
    assert found["data"]["fingerprint"] in text
    assert found["environment"]["weights"] in text
    assert "upper bound on the true NLL in expectation" in text
    assert f"distortion {found['neg_elbo']['distortion']:.2f} + rate {found['neg_elbo']['rate']:.2f}" in text
    assert "FD-classifier 20, between 3 (other real images) and 70 (independent pixels)" in text
    assert "2 hypotheses, judged together by Holm's procedure at a family-wise error of 0.1 %" in text
    assert "2 hypotheses tested, none failed" in text
    kl, rate = sum(found["kl_per_dimension"]), found["neg_elbo"]["rate"]
    assert f"They sum to {kl:.1f} nats; the rate is {rate:.1f}." in text
    assert f"with K = {found['nll']['samples']}, which errs upward" in text
    for section, values in run.recipe.to_dict().items():
        assert section in text or not values


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        (("pass", "pass", "skipped"), "2 hypotheses tested, none failed; 1 skipped"),
        (("fail", "pass", "undecided"), "3 hypotheses tested, 1 failed; 1 undecided"),
        (("pass",), "1 hypothesis tested, none failed"),
    ],
)
def test_the_tile_of_the_audit_says_how_many_were_tested(verdicts: tuple[str, ...], said: str, tmp_path: Path) -> None:
    run = whole(tmp_path)
    add_audit(run.folder, *verdicts)
    [tile] = [about for name, _, about in headline(read_run(run.folder.path)) if name == "audit"]
    assert tile == said


def test_the_numbers_behind_the_charts_are_written(tmp_path: Path) -> None:
    run = whole(tmp_path)
    parsed = page(run.folder.path)
    names = ("validation_curve", "latent_map", "kl_per_dimension", "nll_histogram")
    rows = {name: table(run.folder.figures / f"{name}.csv") for name in names}
    values = run.folder.read_arrays(run.folder.results / "test.npz")
    np.testing.assert_array_equal([float(row["nll_nats"]) for row in rows["nll_histogram"]], values["nll"])
    assert [float(row["validation_neg_elbo"]) for row in rows["validation_curve"]] == [line["neg_elbo"] for line in run.metrics]
    assert [float(row["kl_nats"]) for row in rows["kl_per_dimension"]] == run.results["test"]["kl_per_dimension"]
    assert [int(row["label"]) for row in rows["latent_map"]] == values["labels"].tolist()
    assert {a["download"] for a in parsed.all("a") if "download" in a} == {f"{name}.csv" for name in names}


def test_what_is_missing_is_named_with_its_command(tmp_path: Path) -> None:
    path = trained(tmp_path, "a run").folder.path
    text = page(path).text
    for verb in ("evaluate", "audit", "score"):
        assert f"vaelid {verb} '{path}'" in text
    assert "Not measured: evaluation, audit, scores (not done yet)." in text
    assert "That cannot be said yet: not measured are evaluation, audit, scores" in text
    assert not (path / "results.json").exists(), "--as-is measures nothing"


def test_numbers_of_other_weights_do_not_count(tmp_path: Path) -> None:
    run = whole(tmp_path)
    run.folder.weights_file.write_bytes(run.folder.weights_file.read_bytes() + b" ")
    facts = read_run(run.folder.path)
    assert set(facts.missing) == {"evaluation", "audit", "scores"}
    assert all("other weights" in missing.why for missing in facts.missing.values())
    assert not facts.found
    assert not facts.values
    assert not facts.audit
    assert not facts.scores


def test_the_scores_that_say_most_are_shown(tmp_path: Path) -> None:
    run = whole(tmp_path)
    results = run.results
    [entry] = results["scores"].values()
    keys = ("test/means/inception", "test/draws/random-projection", "test/draws/classifier", "validation/draws/inception")
    changed(run.folder.results_file, scores=dict.fromkeys(keys, entry))
    assert read_run(run.folder.path).scores["key"] == "test/draws/classifier"


def test_a_run_without_an_epoch_has_a_page(tmp_path: Path) -> None:
    run = trained(tmp_path)
    run.folder.keep_metrics(0)
    shutil.rmtree(run.folder.checkpoints)
    for file in (run.folder.weights_file, run.folder.progress_file, run.folder.real_file):
        file.unlink()
    parsed = page(run.folder.path)
    assert_well_formed(parsed)
    assert "No epoch was finished: there is nothing to judge." in parsed.text
    assert "Not measured: evaluation, audit, scores (the run has no trained weights yet)." in parsed.text


def test_names_are_text_and_no_markup(tmp_path: Path) -> None:
    hostile = "</style><img src=x onerror=alert(1)>"
    run = whole(tmp_path, "<b onclick=alert(2)>&amp;'\"")
    changed(run.folder.environment_file, outcome=hostile)
    recipe = run.folder.recipe_file
    recipe.write_text(recipe.read_text().replace('name = "digits"', f"name = '{hostile}'"))
    results = run.results
    results["test"]["data"]["protocol"] = hostile
    run.folder.write_json(run.folder.results_file, results)
    html = vaelid.report(run.folder.path, as_is=True).read_text("utf-8")
    assert hostile not in html
    assert "<b onclick" not in html
    parsed = Parsed(html)
    assert_well_formed(parsed)
    assert parsed.text.count(hostile) >= 3
    assert [p for p in parsed.all("img") if p["src"] == "x"] == []


def test_every_built_in_part_has_its_theory() -> None:
    for kind in ("likelihood", "prior", "optimizer"):
        assert set(known()[kind]) == set(KINDS[kind].table)
    for kind, table in known().items():
        for theory in table.values():
            assert theory.about.endswith(".")
            assert theory.sampling.endswith(".")
            assert theory.trap.endswith(".") or kind == "optimizer"
            for formula in filter(None, (theory.density, theory.sampler)):
                assert "\\" not in block(formula), "a command that the converter does not know"


def test_a_users_own_part_has_a_page(tmp_path: Path) -> None:
    run = whole(tmp_path)
    recipe = run.folder.recipe_file
    own = recipe.read_text().replace('name = "mixture"', 'name = "my_parts.py:MyPrior"')
    recipe.write_text(own)
    run.folder.write_weights(run.folder.weights(), {})  # of a run that was made so
    parsed = page(run.folder.path)
    assert_well_formed(parsed)
    assert "The prior is my_parts.py:MyPrior" in parsed.text
    assert "This is a part of the user's own" in parsed.text


def test_what_is_missing_is_measured_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = evaluated(tmp_path)
    asked: list[str] = []

    def score(self: Run, split: str, **_: object) -> None:
        asked.append(f"score {split}")
        add_scores(self.folder)

    monkeypatch.setattr(Run, "score", score)
    monkeypatch.setattr(vaelid.publishing, "audit", quick_audit)
    parsed = Parsed(vaelid.report(run.folder.path, device="cpu").read_text("utf-8"))
    assert asked == ["score test"]
    assert run.folder.read_json(run.folder.audit_file)["verdict"] == "pass"
    assert "Not measured: audit" not in parsed.text
    assert "Not measured: scores" not in parsed.text
    assert "FD-classifier" in parsed.text
    before = run.folder.audit_file.read_bytes()
    vaelid.report(run.folder.path, device="cpu")
    assert run.folder.audit_file.read_bytes() == before, "nothing is measured twice"
    assert asked == ["score test"]


def quick_audit(target: str, **options: object) -> object:
    return vaelid.audit(target, quick=True, **options)  # type: ignore[arg-type]


def test_a_refused_number_is_news_and_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise CheckFailed("p(x) depends on the batch.", "Repair it.")

    def few(*_: object, **__: object) -> None:
        raise UserError("30 images are too few.")

    monkeypatch.setattr(Run, "evaluate", refuse)
    monkeypatch.setattr(Run, "score", few)
    monkeypatch.setattr(vaelid.publishing, "audit", quick_audit)
    text = Parsed(vaelid.report(run.folder.path, device="cpu").read_text("utf-8")).text
    assert "Not measured: evaluation (refused: p(x) depends on the batch.)" in text
    assert "Not measured: scores (not possible: 30 images are too few.)" in text


def test_a_study_is_one_file_and_shows_its_chosen_run(tmp_path: Path) -> None:
    study = small_study(tmp_path)
    file = vaelid.report(study.path, as_is=True)
    parsed = Parsed(file.read_text("utf-8"))
    assert len(file.read_bytes()) < MOST_BYTES
    assert_well_formed(parsed)
    text = parsed.text
    assert "lr=0.01 has the lowest validation −ELBO" in text
    assert "lr=0.01,seed=0: A variational autoencoder with 3 latents" in text
    assert "lr: best at 0.01; 0.001 lies 10.00" in text
    assert "Every look at the test split, in order" in text
    assert "Not measured" not in text, "the study itself says whether its settings matter"
    rows = table(study.figures / "effect_lr.csv")
    assert [row["lr"] for row in rows] == ["0.001", "0.001", "0.01", "0.01", "0.1", "0.1"]
    assert (study.figures / "effect_lr.png").read_bytes().startswith(b"\x89PNG")
    assert (study.path / "lr=0.01,seed=0" / "figures" / "kl_per_dimension.csv").is_file()


def test_a_report_of_a_study_leaves_the_test_split_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = small_study(tmp_path)
    run = study.member("lr=0.01,seed=0")
    run.results_file.unlink()
    monkeypatch.setattr(Run, "evaluate", lambda *_, **__: pytest.fail("the study decides when the test split is looked at"))
    monkeypatch.setattr(Run, "score", lambda self, *_, **__: add_scores(self.folder))
    text = Parsed(vaelid.report(study.path, device="cpu").read_text("utf-8")).text
    assert "Not measured: evaluation (in a study, the study decides when the test split is looked at)." in text


def test_a_study_that_has_only_begun_has_a_page(tmp_path: Path) -> None:
    study = small_study(tmp_path)
    ledger = study.read()
    for name, member in ledger.members.items():
        member.status = "waiting"
        study.member(name).weights_file.unlink()
        study.member(name).keep_metrics(0)
        shutil.rmtree(study.member(name).checkpoints)
    ledger.selection, ledger.test = {}, []
    study.write(ledger)
    parsed = page(study.path)
    assert_well_formed(parsed)
    assert "6 of 6 members are not done: the same study command goes on." in parsed.text
    assert "No member has finished an epoch yet" in parsed.text


def test_no_pdf_without_a_browser_and_no_work_before_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MachineError, match="apt-get install chromium"):
        vaelid.report(run.folder.path, pdf=True)
    assert not run.folder.results_file.exists()


def test_a_browser_that_fails_leaves_the_old_pdf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = whole(tmp_path)
    browser = tmp_path / "chromium"
    browser.write_text("#!/bin/sh\necho no display >&2\nexit 1\n")
    browser.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    old = run.folder.path / "report.pdf"
    old.write_bytes(b"old")
    with pytest.raises(MachineError, match="no display"):
        vaelid.report(run.folder.path, pdf=True, as_is=True)
    assert old.read_bytes() == b"old"
    assert (run.folder.path / "report.html").is_file()


def test_places_that_cannot_be(tmp_path: Path) -> None:
    run = trained(tmp_path)
    with pytest.raises(UserError, match=r"does not end in \.html"):
        vaelid.report(run.folder.path, out=tmp_path / "report.pdf")
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        vaelid.report(run.folder.path, out=tmp_path / "folder.html")
    with pytest.raises(RunError, match="no run folder"):
        vaelid.report(tmp_path)


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    run, program, opened = whole(tmp_path), Program(capsys), list[str]()
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or True)  # type: ignore[func-returns-value]
    out = tmp_path / "new" / "page.html"
    said = program("report", run.folder.path, "--as-is", "--out", out, "--open")
    assert said.code == 0, said.err
    assert f"report: {out}" in said.out
    assert opened == [out.as_uri()]
    assert out.is_file()
    assert "does not end in .html" in program.refuses("report", run.folder.path, "--out", tmp_path / "x.pdf")


def test_a_new_training_removes_the_old_report(tmp_path: Path) -> None:
    run = whole(tmp_path)
    vaelid.report(run.folder.path, as_is=True)
    assert run.folder.report_file in run.folder.own
    assert run.folder.report_file.with_suffix(".pdf") in run.folder.own
