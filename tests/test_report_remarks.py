"""What a report worries about: every rule on figures that call for it, and silence on figures that do not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from report_helpers import finding, small_study, whole
from vaelid.recipe import Part
from vaelid.reporting.page.answers import properly_trained, study_command
from vaelid.reporting.page.facts import RunFacts, read_run
from vaelid.reporting.page.remarks import remarks
from vaelid.reporting.page.study import read_study, study_remarks

EPOCHS = 40


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> RunFacts:
    """A run that nothing is to be said against."""
    run = read_run(whole(tmp_path_factory.mktemp("sound")).folder.path)
    nll = {
        **run.found["nll"],
        "pareto_k": {"median": 0.2, "share_above_0.7": 0.0, "threshold": 0.7, "share_above_threshold": 0.0},
        "last_doubling": {"from": 10, "to": 20, "gain": 0.001, "se": 0.001, "still_rising": False},
    }
    recipe = replace(run.recipe, data=replace(run.recipe.data, train_limit=None, held_out_limit=None))
    found = {**run.found, "nll": nll, "active_units": {"variance": 3, "kl": 3}}
    values = {**run.values, "independent_pixels": run.values["nll"] + 20 + np.resize([0.0, 1.0], len(run.values["nll"]))}
    about = {**run.about, "commit": "abc", "outcome": f"all {EPOCHS} epochs done"}
    history = curve(100 + 20 * 0.5 ** np.arange(EPOCHS))
    return replace(run, recipe=recipe, found=found, values=values, history=history, about=about)


def curve(values: Any, **line: Any) -> list[dict[str, Any]]:
    same = {"loss": 100.0, "change_se": 0.05, "train_seconds": 1.0, "dead_components": 0, **line}
    return [{**same, "epoch": epoch, "neg_elbo": float(value)} for epoch, value in enumerate(values, 1)]


def said(run: RunFacts) -> dict[str, str]:
    return {remark.text: remark.tone for remark in remarks(run)}


def tone_of(run: RunFacts, start: str) -> str:
    """The tone of the one remark that begins so."""
    [tone] = [tone for text, tone in said(run).items() if text.startswith(start)]
    return tone


def with_nll(run: RunFacts, **changes: Any) -> RunFacts:
    return replace(run, found={**run.found, "nll": {**run.found["nll"], **changes}})


def with_score(run: RunFacts, name: str, model: float, real: float, trivial: float) -> RunFacts:
    row = {"better": "", **{who: {"value": v, "se": 0.1} for who, v in (("model", model), ("real", real), ("trivial", trivial))}}
    return replace(run, scores={**run.scores, "scores": {**run.scores["scores"], name: row}})


def test_a_sound_run_raises_no_alarm(sound: RunFacts) -> None:
    assert set(said(sound).values()) <= {"good", "note"}
    assert tone_of(sound, "Training: converged to within 0.02 nats per epoch") == "good"
    assert tone_of(sound, "The audit passed") == "good"
    answer = properly_trained(sound)
    assert answer.tone == "good"
    assert answer.text.startswith("Yes, as far as these figures go. Training converged")


def test_a_failed_audit_is_a_problem_and_undecided_is_no_pass(sound: RunFacts) -> None:
    failed = replace(sound, audit={**sound.audit, "findings": [finding("fail"), finding("fail", "posterior"), finding()]})
    assert tone_of(failed, "The audit failed (2 findings; prior, posterior)") == "bad"
    assert properly_trained(failed).text.startswith("No. The audit failed")
    undecided = replace(sound, audit={**sound.audit, "findings": [finding("undecided"), finding()]})
    assert tone_of(undecided, "The audit left 1 hypothesis undecided") == "warn"
    assert "quick audit" in " ".join(said(replace(sound, audit={**sound.audit, "quick": True})))


def test_failed_checks_come_first(sound: RunFacts) -> None:
    failed = replace(sound, found={**sound.found, "failed": ["p(x) depends on the batch"]})
    first = remarks(failed)[0]
    assert (first.tone, first.text) == ("bad", "A check failed, so these numbers are no likelihoods: p(x) depends on the batch")


def test_heavy_tails(sound: RunFacts) -> None:
    tail = {"median": 0.9, "share_above_0.7": 0.4, "threshold": 0.7, "share_above_threshold": 0.4}
    assert tone_of(with_nll(sound, pareto_k=tail), "For 40% of the images the importance weights have too heavy a tail") == "warn"
    assert properly_trained(with_nll(sound, pareto_k=tail)).tone == "good", "that is about the number, and not about the model"
    rare = {**tail, "share_above_threshold": 0.04}
    assert not [text for text in said(with_nll(sound, pareto_k=rare)) if "heavy" in text]


def test_a_bound_that_still_rises(sound: RunFacts) -> None:
    last = {"from": 10, "to": 20, "gain": 0.25, "se": 0.01, "still_rising": True}
    assert tone_of(with_nll(sound, last_doubling=last), "From K = 10 to 20 samples the nll fell by 0.250 nats") == "note"


def test_worse_than_independent_pixels(sound: RunFacts) -> None:
    nll = sound.values["nll"]
    noise = np.resize([-1.0, 1.0], len(nll))
    worse = replace(sound, values={**sound.values, "independent_pixels": nll - 3 + noise})
    assert tone_of(worse, "Worse than independent pixels, by 3.00") == "bad"
    assert properly_trained(worse).tone == "bad"
    even = replace(sound, values={**sound.values, "independent_pixels": nll + 0.1 + noise})
    assert tone_of(even, "Not clearly better than independent pixels") == "bad"


def test_hardly_better_than_independent_pixels(sound: RunFacts) -> None:
    nll = sound.values["nll"]
    values = {**sound.values, "independent_pixels": nll + 1 + np.resize([-0.1, 0.1], len(nll))}
    hardly = replace(sound, values=values)
    assert tone_of(hardly, "Hardly better than independent pixels: by 1.00 ± 0.02 of their") == "warn"
    assert (
        tone_of(with_score(sound, "FD-classifier", 66, 3, 70), "Its images are hardly better than independent pixels") == "warn"
    )
    assert tone_of(with_score(sound, "FD-classifier", 63, 3, 70), "Sample quality") == "note"
    answer = properly_trained(replace(hardly, history=curve(np.linspace(120, 100, 5))))
    assert answer.tone == "warn"
    assert answer.text.startswith("Not as it stands. Hardly better than independent pixels")


@pytest.mark.parametrize(
    ("values", "start", "tone", "answer"),
    [
        (
            np.linspace(120, 100, EPOCHS),
            "Training: still falling by 0.51 nats per epoch",
            "warn",
            "Not to the end: still falling",
        ),
        (
            np.r_[np.linspace(110, 100, 20), np.linspace(100.5, 110, 20)],
            "Training: rising by 0.5",
            "warn",
            "Not to the end: rising",
        ),
        (np.linspace(120, 100, 5), "Training: not enough evidence", "note", "Nothing speaks against it, but"),
        (np.r_[np.linspace(120, 100, 20), np.nan], "Training: diverged after 21 epochs", "bad", "No. Training: diverged"),
        ([], "No epoch was finished", "bad", "No. No epoch"),
    ],
)
def test_training_that_was_not_done(sound: RunFacts, values: Any, start: str, tone: str, answer: str) -> None:
    run = replace(sound, history=curve(values))
    assert tone_of(run, start) == tone
    assert properly_trained(run).text.startswith(answer)


def test_an_unfinished_training_is_told(sound: RunFacts) -> None:
    run = replace(sound, about={**sound.about, "outcome": ""})
    assert tone_of(run, "Training: not finished") == "warn"


def test_spikes(sound: RunFacts) -> None:
    values = 100 + 20 * 0.5 ** np.arange(EPOCHS)
    values[30] += 15
    assert (
        tone_of(replace(sound, history=curve(values)), "Training was not steady: 1 spike, the largest of 15 nats in epoch 31")
        == "warn"
    )
    values[30] -= 14.5
    assert tone_of(replace(sound, history=curve(values)), "Validation rose by more than 3 s.e. in 1 of") == "note"


def test_overfitting_is_told_only_where_the_loss_is_a_neg_elbo(sound: RunFacts) -> None:
    run = replace(sound, history=curve(100 + 20 * 0.5 ** np.arange(EPOCHS), loss=90.0))
    start = "In the last epoch the training loss lies 10.0 nats below validation"
    assert tone_of(run, start) == "note"
    for objective in (
        Part("iwae", {"samples": 5}),
        Part("elbo", {"beta": 0.5, "warmup": 0.0}),
        Part("elbo", {"beta": 1.0, "warmup": 99.0}),
    ):
        other = replace(run, recipe=replace(run.recipe, objective=objective))
        assert not [text for text in said(other) if text.startswith("In the last epoch")]


def test_unused_latents_and_components(sound: RunFacts) -> None:
    def active(count: int) -> RunFacts:
        return replace(sound, found={**sound.found, "active_units": {"variance": count, "kl": count}})

    assert tone_of(active(0), "The latents ignore the image") == "bad"
    assert tone_of(active(1), "Only 1 of 3 latents are active") == "note"
    assert not [text for text in said(active(2)) if "latents" in text]
    dead = replace(sound, history=[{**line, "dead_components": 2} for line in sound.history])
    assert tone_of(dead, "2 prior components have next to no weight") == "note"


def test_images_that_are_no_better_than_noise_or_lack_variety_or_copy(sound: RunFacts) -> None:
    assert tone_of(sound, "Sample quality: FD-classifier 20, between 3") == "note"
    assert tone_of(with_score(sound, "FD-classifier", 80, 3, 70), "Its images are no better than independent pixels") == "bad"
    assert tone_of(with_score(sound, "coverage-classifier", 0.3, 0.9, 0.1), "Its images miss part of the variety") == "warn"
    copies = with_score(sound, "C_T-classifier", -4.2, 0.1, 5.0)
    assert tone_of(copies, "Its images lie closer to training images than new ones do (C_T = -4.2)") == "warn"
    answer = properly_trained(copies)
    assert answer.tone == "note"
    assert "But: Its images lie closer" in answer.text


def test_what_kind_of_number_it_is(sound: RunFacts) -> None:
    density = replace(sound, found={**sound.found, "kind": "density"})
    assert tone_of(density, "These are log densities, not log probabilities") == "note"
    redrawn = replace(sound, found={**sound.found, "data": {**sound.found["data"], "redrawn": True}})
    assert tone_of(redrawn, "The pixels are redrawn at every access") == "note"
    wide = replace(
        sound, found={**sound.found, "neg_elbo": {**sound.found["neg_elbo"], "value": sound.found["nll"]["value"] + 12}}
    )
    assert tone_of(wide, "−ELBO lies 12.0 nats above the nll") == "note"


def test_parts_of_the_data_and_changed_code_are_told(sound: RunFacts) -> None:
    few = replace(sound, recipe=replace(sound.recipe, data=replace(sound.recipe.data, train_limit=100)))
    assert tone_of(few, "Only a part of the data was used (data.train_limit = 100)") == "note"
    assert (
        tone_of(replace(sound, about={**sound.about, "commit": "abc+"}), "Trained by code that differs from its commit") == "note"
    )


def test_the_study_that_is_advised_surrounds_the_learning_rate(sound: RunFacts) -> None:
    assert "--grid lr=0.001,0.01,0.1 --seeds 3" in study_command(sound)


def study_said(folder: Path, values: dict[str, float] | None = None, **statuses: str) -> dict[str, str]:
    return {remark.text: remark.tone for remark in study_remarks(read_study(small_study(folder, values, **statuses).path))}


def test_a_clear_choice(tmp_path: Path) -> None:
    found = study_said(tmp_path)
    assert found["lr=0.01 is 5.000 ± 0.000 nats below lr=0.1, paired over 2 seeds: a clear choice."] == "good"
    assert not [text for text, tone in found.items() if tone == "bad"]


def test_members_that_diverged_are_named_first_and_left_out(tmp_path: Path) -> None:
    study = read_study(small_study(tmp_path, m1="diverged").path)
    found = study_remarks(study)
    assert (found[0].tone, found[0].text) == ("bad", "2 of 6 members diverged: lr=0.01,seed=0, lr=0.01,seed=1.")
    texts = {remark.text: remark.tone for remark in found}
    assert texts["Left out of the choice: lr=0.01 (2 of 2 diverged)."] == "warn"
    assert study.chosen == "lr=0.1"
    assert texts["The best lr tried is the largest one: the best of all may lie beyond."] == "note"


def test_seeds_that_cannot_tell_two_apart(tmp_path: Path) -> None:
    study = small_study(tmp_path, {"lr=0.1": 80.0, "lr=0.2": 80.0})
    run = study.member("lr=0.2,seed=1")
    lines = run.metrics()
    run.keep_metrics(0)
    for line in lines:
        run.append_metrics({**line, "neg_elbo": line["neg_elbo"] + 1})
    ledger = study.read()
    difference = {"mean": -0.5, "half": 6.35, "sd": 0.7, "seeds": 2}
    ledger.selection["runner_up"] = {"combination": "lr=0.2", "difference": difference}
    study.write(ledger)
    found = {remark.text: remark.tone for remark in study_remarks(read_study(study.path))}
    assert (
        found["lr=0.1 is 0.500 ± 6.350 nats below lr=0.2, paired over 2 seeds: these seeds cannot tell the two apart."] == "warn"
    )
    ledger.selection["runner_up"]["difference"] = {**difference, "half": None, "seeds": 1}
    study.write(ledger)
    found = {remark.text: remark.tone for remark in study_remarks(read_study(study.path))}
    assert found["lr=0.1 is 0.500 nats below lr=0.2 with the one seed that both have: other seeds may say otherwise."] == "warn"


def test_curves_that_were_still_falling(tmp_path: Path) -> None:
    study = small_study(tmp_path)
    for name in ("lr=0.01,seed=0", "lr=0.001,seed=0"):
        run = study.member(name)
        lines = run.metrics()
        run.keep_metrics(0)
        for line in lines:
            run.append_metrics({**line, "neg_elbo": line["neg_elbo"] - line["epoch"]})
    texts = [remark.text for remark in study_remarks(read_study(study.path))]
    assert (
        "The chosen combination was still falling when it stopped (1 of 2 seeds): its best is to come. Raise --epochs." in texts
    )
    assert "Still falling when stopped: lr=0.001. The ranking holds for these epochs, and not for longer ones." in texts


def test_looks_at_the_test_split_are_counted(tmp_path: Path) -> None:
    study = small_study(tmp_path)
    ledger = study.read()
    ledger.test.append({**ledger.test[0], "combination": "lr=0.1"})
    study.write(ledger)
    texts = [remark.text for remark in study_remarks(read_study(study.path))]
    assert "The test split has met 2 choices in turn (lr=0.01, lr=0.1): the last is no longer a first look." in texts
    ledger.test.clear()
    study.write(ledger)
    assert "The test split was not looked at." in [remark.text for remark in study_remarks(read_study(study.path))]
