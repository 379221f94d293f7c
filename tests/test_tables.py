"""Tables for the terminal: the right numbers, their kind in words, and no markup from users' names."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType

from tiny_runs import evaluated, trained
from vaelid.evaluation.compare import Comparison, Row
from vaelid.parts import KINDS
from vaelid.reporting.tables import comparison_table, parts_table, ranking, results_table, run_summary, show, simple_table


def text(renderable: RenderableType, width: int = 200) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(renderable, highlight=False)
    return capture.get()


def row(renderable: RenderableType, name: str) -> list[str]:
    """The cells of the row that begins with this name."""
    (found,) = [line for line in text(renderable).splitlines() if line.replace("│", " ").strip().startswith(name)]
    return [cell.strip() for cell in found.strip()[1:-1].split("│")]


RESULTS: dict[str, Any] = {
    "neg_elbo": {
        "value": 98.7654,
        "se": 0.6,
        "distortion": 91.5,
        "rate": 7.2654,
        "rate_kind": "sampled",
        "samples": 10,
        "direction": "upper bound",
    },
    "nll": {
        "value": 96.5,
        "se": 0.5,
        "samples": 50,
        "name": "importance-weighted bound, K = 50",
        "direction": "upper bound",
        "curve": [{"samples": k, "value": v, "se": 0.5} for k, v in ((1, 98.8), (10, 97.1), (50, 96.5))],
    },
    "kind": "probability",
    "bits_per_dim": {"neg_elbo": 2.2256, "nll": 2.1752},
    "active_units": {"variance": 2, "kl": 3},
    "kl_per_dimension": [1.0, 0.5, 0.25],
    "images": 1234,
    "seed": 7,
    "yardsticks": {"independent_pixels": {"value": 107.7, "se": 0.5}},
    "data": {
        "name": "digits",
        "split": "test",
        "protocol": "pixels as stored",
        "redrawn": False,
        "support": "levels(17)",
        "fingerprint": "f" * 64,
    },
    "environment": {"weights": "w" * 64},
}


def changed(**entries: Any) -> dict[str, Any]:
    results = copy.deepcopy(RESULTS)
    for name, value in entries.items():
        results[name] = {**results[name], **value} if isinstance(value, dict) else value
    return results


def test_results_stand_with_error_unit_and_meaning() -> None:
    table = results_table("run", RESULTS)
    assert text(table).startswith("run: 1,234 test images, nats per image\n")
    assert row(table, "neg_elbo") == ["neg_elbo", "98.765", "0.600", "2.2256", "−ELBO, 10 draws per image; upper bound"]
    assert row(table, "distortion")[1] == "91.500"
    assert row(table, "rate")[1::3] == ["7.265", "KL(q(z|x) ‖ p(z)), sampled"]
    assert row(table, "nll") == ["nll", "96.500", "0.500", "2.1752", "importance-weighted bound, K = 50; upper bound"]
    assert row(table, "K = 1 ")[1] == "98.800"
    assert row(table, "K = 10")[1] == "97.100"
    assert row(table, "independent pixels")[1] == "107.700"
    assert "K = 50  " not in text(table), "the last point of the curve is the nll itself"


def test_notes_say_what_was_measured_on_what() -> None:
    said = text(results_table("run", RESULTS))
    assert "active units: 2 of 3 (Var_x E_q[z_d|x] > 0.01), 3 (KL_d > 0.01); Σ KL_d = 1.750" in said
    assert "pixels: levels(17), pixels as stored; images ffffffffffff…; noise seed 7\n" in said
    assert "weights wwwwwwwwwwww…\n" in said
    assert "effective samples" not in said, "results of an earlier version"
    assert "density" not in said
    assert "densities" not in said
    assert "redrawn" not in said


CERTIFICATE: dict[str, Any] = {
    "effective_samples": {"mean": 31.4, "median": 20.6, "of": 50},
    "pareto_k": {"median": 0.41, "share_above_0.7": 0.034},
    "last_doubling": {"from": 25, "to": 50, "gain": 0.1234, "se": 0.0012, "still_rising": True},
    "monte_carlo_se": 0.0456,
}


def test_the_certificate_is_told_in_words() -> None:
    by = {"dtype": "float32", "vaelid": "1.2.3", "commit": "abc"}
    said = text(results_table("run", changed(nll=CERTIFICATE, environment=by)))
    assert "nll: 31 effective samples of 50 per image (median 21); Pareto k̂ > 0.7, too heavy a tail, for 3.4% of images" in said
    assert "Monte Carlo error 0.046, apart from the ± over images" in said
    assert "from K = 25 to 50 the bound on log p(x) rose by 0.1234 ± 0.0012: it is still rising" in said
    assert "weights wwwwwwwwwwww…; float32, vaelid 1.2.3 (commit abc)" in said
    assert "few lucky samples" not in said
    heavy = {"pareto_k": {**CERTIFICATE["pareto_k"], "share_above_0.7": 0.05}}
    assert "few lucky samples, and that error is understated" in text(results_table("run", changed(nll={**CERTIFICATE, **heavy})))
    settled = {**CERTIFICATE, "last_doubling": {**CERTIFICATE["last_doubling"], "still_rising": False, "se": None}}
    assert "rose by 0.1234: it has settled" in text(results_table("run", changed(nll=settled)))
    unknown = {"pareto_k": dict.fromkeys(("median", "share_above_0.7")), "last_doubling": {"gain": None}}
    said = text(results_table("run", changed(nll={**CERTIFICATE, **unknown})))
    assert "Pareto" not in said
    assert "rose" not in said


def test_a_density_is_called_one_and_has_no_bits() -> None:
    table = results_table("run", changed(kind="density", bits_per_dim=None))
    assert "These are densities, not probabilities" in text(table)
    assert row(table, "nll")[3] == ""


def test_redrawn_pixels_are_warned_of() -> None:
    assert "compare with nothing but themselves" in text(results_table("run", changed(data={"redrawn": True})))


@pytest.mark.parametrize(("variance", "said"), [(2, "active units: 2 (Var_x E_q[z_d|x] > 0.01)\n"), (None, None)])
def test_a_posterior_without_kl_per_dimension(variance: int | None, said: str | None) -> None:
    shown = text(results_table("run", changed(kl_per_dimension=None, active_units={"variance": variance, "kl": None})))
    assert "Σ KL_d" not in shown
    assert (said in shown) if said else ("active units" not in shown)


def test_one_image_has_no_error() -> None:
    table = results_table("run", changed(images=1, nll={"se": None}))
    assert text(table).startswith("run: 1 test image, nats per image\n")
    assert row(table, "nll")[2] == ""


def test_names_are_no_markup() -> None:
    assert text(results_table("runs/[/x] [red]a", RESULTS)).startswith("runs/[/x] [red]a: 1,234")
    assert "photo[/x][red].png" in text(ranking([("photo[/x][red].png", 3.0)], "probability", most=5))
    assert "[bold]" in text(simple_table("[bold]", ("a",), []))


def comparison(**given: Any) -> Comparison:
    rows = (Row("a", 10.0, 0.5, images=359), Row("b", 11.0, 0.6, 1.0, 0.25, 200), Row("c", 9.0, None, -1.0, None, 1))
    return Comparison("test", 359, {"neg_elbo": rows, "nll": rows}, **given)


def test_comparisons() -> None:
    table = comparison_table(comparison())
    assert text(table).startswith("359 test images, nats per image, lower is better\n")
    assert row(table, "neg_elbo") == ["neg_elbo", "a", "10.000", "0.500", "reference", "", ""]
    lines = [[cell.strip() for cell in line[1:-1].split("│")] for line in text(table).splitlines() if "│ b " in line]
    assert lines == [["", "b", "11.000", "0.600", "+1.000", "0.250", "+4.0"]] * 2
    assert "-1.000" in text(table)
    assert "NOT COMPARABLE" not in text(table)


def test_what_was_waved_through_is_labeled() -> None:
    shown = text(comparison_table(comparison(warnings=("other pixels [x]",))))
    assert shown.startswith("NOT COMPARABLE: other pixels [x]\n"), "whoever reads on has been told"
    assert "do not say which model is better" in shown
    assert "a, 359 images" in shown
    assert "b, 200 images" in shown
    assert "is better." not in shown.split("─")[-1]
    assert "lower is better" not in shown


@pytest.mark.parametrize("kind", KINDS)
def test_every_part_of_a_kind_is_listed_with_its_options(kind: str) -> None:
    shown = text(parts_table(kind))
    assert all(name in shown for name in KINDS[kind].table)
    assert "()" not in shown


def test_options_show_default_and_range() -> None:
    shown = text(parts_table("prior"))
    assert "components = 16  (int ≥ 1)" in shown
    assert "init = normal  (normal | k-means)" in shown
    assert "hidden = [512, 512]  (list of int, each ≥ 1)" in text(parts_table("encoder"))


def test_ranking_shows_the_first_and_counts_all() -> None:
    pairs = [(f"image {i}", 100.0 - i) for i in range(5)]
    shown = text(ranking(pairs, "probability", most=2))
    assert shown.startswith("−log p(x) bound in nats, unlikeliest first\n")
    assert "image 1" in shown
    assert "image 2" not in shown
    assert "5 images in all (2 shown)" in shown
    assert text(ranking(pairs[:1], "density", most=2)).startswith("−log density bound")
    assert "1 image in all;" in text(ranking(pairs[:1], "density", most=2))


def test_a_summary_tells_how_a_run_went(tmp_path: Path) -> None:
    run = trained(tmp_path)
    table = run_summary(run.folder, run.recipe, run.about)
    assert row(table, "data")[1].startswith("digits, binarization none, fingerprint ")
    assert row(table, "model")[1] == "gaussian posterior, categorical likelihood, mixture prior, 3 latents"
    assert row(table, "trained")[1].startswith("2 epochs in ")
    assert row(table, "trained")[1].endswith("all 2 epochs done")
    best = min(run.metrics, key=lambda line: line["neg_elbo"])
    assert row(table, "best epoch")[1].startswith(f"{best['epoch']}: validation −ELBO {best['neg_elbo']:.3f} = distortion")
    average = "as a moving average over the steps (training.ema = 0.99)"
    assert row(table, "weights")[1] == f"those of the best epoch, {average}"
    assert row(table, "prior")[1] == "mixture components=4 init=normal"
    plain = replace(run.recipe, training=replace(run.recipe.training, ema=0.0))
    assert row(run_summary(run.folder, plain, run.about), "weights")[1] == "those of the best epoch"
    last = replace(plain, training=replace(plain.training, keep="last"))
    assert row(run_summary(run.folder, last, run.about), "weights")[1] == "those of the last epoch"
    assert "torch" in row(table, "made by")[1]
    assert row(table, "user code")[1] == "none"
    assert row(table, "images")[1] == (
        "128 train images (limited to the first of 1,168), 30 validation images (limited to the first of 270), "
        "30 test images (limited to the first of 359)"
    )
    figures = "real_images, validation_curve, generated_epoch_<n> for 2 epochs that improved, 1 to 2, progress.gif"
    assert row(table, "figures")[1] == figures
    assert "nats per image" not in text(table)


def test_runs_of_earlier_versions_tell_their_limits_from_the_recipe(tmp_path: Path) -> None:
    run = trained(tmp_path)
    about = {**run.about, "data": {name: value for name, value in run.about["data"].items() if name != "images"}}
    said = row(run_summary(run.folder, run.recipe, about), "images")[1]
    assert said == "limited by data.train_limit = 128, limited by data.held_out_limit = 30"
    free = run.recipe.override({"data.train_limit": None, "data.held_out_limit": None})
    assert row(run_summary(run.folder, free, about), "images")[1] == "all images"


def test_limits_are_said_beside_the_numbers() -> None:
    assert "LIMITED" not in text(results_table("run", RESULTS))
    whole = {"data": {"available": 1234}, "training": {"images": 50, "available": 50}}
    assert "LIMITED" not in text(results_table("run", changed(data=whole["data"]) | {"training": whole["training"]}))
    few = {"data": {"available": 5000}, "training": {"images": 50, "available": 60_000}}
    expected = (
        "LIMITED: only the first 1,234 of 5,000 test images (--limit or data.held_out_limit); "
        "the model was trained on only the first 50 of 60,000 images (data.train_limit)."
    )
    assert expected in text(results_table("run", changed(data=few["data"]) | {"training": few["training"]}), width=300)
    few["data"] = {"available": 5000, "split": "train"}
    assert "of 5,000 train images (--limit or data.train_limit)" in text(
        results_table("run", changed(data=few["data"]) | {"training": few["training"]}), width=300
    )


BESIDE = [
    (0.7, 0.2, "test", "WORSE than independent pixels by 0.700 ± 0.200 nats (nll, paired by image): train longer."),
    (0.7, 0.2, "input", "WORSE than independent pixels by 0.700 ± 0.200 nats (nll, paired by image)."),
    (0.5, 0.2, "test", "NOT TOLD APART from independent pixels, by 0.500 ± 0.200 nats (nll, paired by image): train longer."),
    (-0.5, 0.2, "test", "NOT TOLD APART from independent pixels"),
    (-0.7, 0.2, "test", "better than independent pixels by 0.700 ± 0.200 nats (nll, paired by image)."),
]


@pytest.mark.parametrize(("value", "se", "split", "said"), BESIDE)
def test_a_model_is_told_apart_from_independent_pixels(value: float, se: float, split: str, said: str) -> None:
    yardstick = {"independent_pixels": {"value": 107.7, "se": 0.5, "nll_above": {"value": value, "se": se}}}
    assert said in text(results_table("run", changed(yardsticks=yardstick, data={"split": split})))


def test_one_image_says_nothing_about_independent_pixels() -> None:
    yardstick = {"independent_pixels": {"value": 107.7, "se": None, "nll_above": {"value": 3.0, "se": None}}}
    assert "than independent pixels" not in text(results_table("run", changed(yardsticks=yardstick)))


RATES = [
    (
        True,
        "sampled",
        "Σ KL_d = 1.750 is the rate of 7.265 but for the noise of its draws: this prior factorizes over dimensions.",
    ),
    (True, "closed-form", "Σ KL_d = 1.750 is the rate of 7.265: this prior factorizes over dimensions."),
    (False, "sampled", "Σ KL_d = 1.750 is not the rate of 7.265: this prior does not factorize over dimensions."),
    (None, "sampled", "Σ KL_d = 1.750; whether that is the rate of 7.265 is not known, nor whether this prior factorizes."),
]


@pytest.mark.parametrize(("answer", "kind", "said"), RATES)
def test_whether_the_kl_of_the_dimensions_sum_to_the_rate(answer: bool | None, kind: str, said: str) -> None:
    results = changed(neg_elbo={"rate_kind": kind}) | {"prior_factorizes": answer}
    assert said in text(results_table("run", results))


@pytest.mark.parametrize(
    ("answer", "said"), [(True, "this prior factorizes"), (False, "does not factorize"), (None, "nor whether")]
)
def test_without_the_kl_of_the_dimensions_it_is_said_that_it_is_not_known(answer: bool | None, said: str) -> None:
    shown = text(results_table("run", changed(kl_per_dimension=None) | {"prior_factorizes": answer}))
    assert "KL per dimension: not known for this p" in shown
    assert said in shown


def test_a_summary_shows_the_results_there_are(tmp_path: Path) -> None:
    run = evaluated(tmp_path)
    assert "30 test images, nats per image" in text(run_summary(run.folder, run.recipe, run.about))


@pytest.mark.parametrize(("values", "best"), [([], "none yet"), ([float("nan")], "none yet"), ([float("nan"), 5.0], "2: ")])
def test_the_best_epoch_is_a_finite_one(values: list[float], best: str, tmp_path: Path) -> None:
    run = trained(tmp_path)
    line = run.metrics[0]
    shutil.rmtree(run.folder.checkpoints)  # they have seen more epochs than are told of here
    run.folder.metrics_file.unlink()
    for epoch, value in enumerate(values, 1):
        run.folder.append_metrics({**line, "epoch": epoch, "neg_elbo": value})
    assert row(run_summary(run.folder, run.recipe, {**run.about, "outcome": ""}), "best epoch")[1].startswith(best)


def test_an_unfinished_run_says_how_to_go_on(tmp_path: Path) -> None:
    run = trained(tmp_path)
    assert "the same train command goes on" in text(run_summary(run.folder, run.recipe, {**run.about, "outcome": ""}))


def test_pipes_get_wide_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    show("word " * 40)
    assert max(map(len, capsys.readouterr().out.splitlines())) > 100
    monkeypatch.setenv("COLUMNS", "50")
    show("word " * 40)
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 50
