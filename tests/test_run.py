"""The Python interface: train, open, look, draw, encode; and what a run refuses."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vaelid
import vaelid.run
from tiny_runs import TINY, Program, evaluated, no_figures, pixels, trained
from training_helpers import Notes
from vaelid.errors import DataError, Diverged, Interrupted, MachineError, PartError, RunError, SettingError, UserError
from vaelid.posteriors import GaussianPosterior
from vaelid.recipe import read_recipe
from vaelid.run import Run, carry_out
from vaelid.training.begin import note_outcome
from vaelid.training.request import base_recipe, request
from vaelid.vae import VAE

pytestmark = pytest.mark.usefixtures(no_figures.__name__)

QUICK = {**TINY, "training.epochs": 1, "data.train_limit": 40, "data.held_out_limit": 10}


def test_train_gives_an_opened_run(tmp_path: Path) -> None:
    run = vaelid.train("digits", out=tmp_path / "a", device="cpu", settings=QUICK, lr=0.5, hidden=(6, 4), prior="standard-normal")
    assert isinstance(run, Run)
    assert run.recipe.optimizer.options["lr"] == 0.01, "settings beat short names"
    assert (list(run.recipe.encoder.options["hidden"]), run.recipe.prior.name) == ([12], "mixture")
    run = vaelid.train("digits", out=tmp_path / "b", device="cpu", lr=0.5, hidden=(6, 4), epochs=1, latent=2)
    assert run.recipe.optimizer.options["lr"] == 0.5
    assert list(run.recipe.encoder.options["hidden"]) == [6, 4]
    assert list(run.recipe.decoder.options["hidden"]) == [4, 6]
    assert len(run.metrics) == 1
    assert isinstance(run.model, VAE)
    assert not run.model.training
    assert not any(p.requires_grad for p in run.model.parameters())
    assert repr(run) == f"Run({str(tmp_path / 'b')!r}: digits, 1 epochs)"


def test_the_same_call_resumes(tmp_path: Path) -> None:
    first = vaelid.train("digits", out=tmp_path / "run", device="cpu", settings=QUICK).metrics
    again = vaelid.train("digits", out=tmp_path / "run", device="cpu", settings={**QUICK, "training.epochs": 2})
    assert [line["epoch"] for line in again.metrics] == [1, 2]
    assert again.metrics[:1] == first
    fresh = vaelid.train("digits", out=tmp_path / "run", device="cpu", settings=QUICK, overwrite=True)
    assert [line["epoch"] for line in fresh.metrics] == [1]


def test_the_default_folder_is_named_by_data_and_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked = request("digits", None, None, QUICK)
    assert asked.folder.path == Path("runs") / f"digits-{asked.recipe.digest()}"
    np.save("my.photos.npy", pixels())
    assert request("my.photos.npy", None, None, {}).folder.path.name.startswith("my.photos-")
    assert request(Path("my.photos.npy"), None, None, {}).recipe.data.name == str(tmp_path / "my.photos.npy")
    assert not (tmp_path / "runs").exists()


def test_init_from_takes_the_weights_of_a_run(tmp_path: Path) -> None:
    first = trained(tmp_path)
    settings = {**TINY, "training.epochs": 1, "optimizer.lr": 1e-12}
    second = vaelid.train("digits", out=tmp_path / "second", device="cpu", init_from=first.folder.path, settings=settings)
    for name, tensor in first.folder.weights().items():
        torch.testing.assert_close(second.folder.weights()[name], tensor, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("data", "recipe", "source", "optimizer"),
    [
        (None, None, "digits", "adam"),
        ("digits", None, "digits", "adam"),
        ("mnist", "assignment", "mnist", "adamax"),
        (None, "assignment", "mnist", "adamax"),
        ("photos", None, "photos", "adam"),
        (None, read_recipe("digits"), "digits", "adam"),
    ],
)
def test_base_recipe(data: str | None, recipe: Any, source: str, optimizer: str) -> None:
    base = base_recipe(data, recipe)
    assert (base.data.name, base.optimizer.name) == (source, optimizer)


# Stopped trainings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [Diverged, Interrupted])
@pytest.mark.parametrize("disk", ["good", "full"])
def test_a_stopped_training_has_its_figures(
    error: type[Exception], disk: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []

    def stop(*_: Any) -> None:
        raise error("stopped")

    def draw(folder: Any) -> None:
        drawn.append(folder)
        if disk == "full":
            raise MachineError("no room for pictures")

    monkeypatch.setattr(vaelid.run, "train_in", stop)
    monkeypatch.setattr(vaelid.run.figures, "training_figures", draw)
    with pytest.raises(error, match="stopped"):
        vaelid.train("digits", out=tmp_path / "run", device="cpu", settings=QUICK)
    assert len(drawn) == 1


def test_a_refused_training_draws_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(tmp_path)
    monkeypatch.setattr(
        vaelid.run.figures, "training_figures", lambda folder: pytest.fail("figures of a run that another may be writing")
    )
    with pytest.raises(RunError, match="other settings"):
        vaelid.train("digits", out=run.folder.path, device="cpu", settings={**TINY, "optimizer.lr": 0.02})


def test_divergence_leaves_a_run_that_can_be_shown(tmp_path: Path) -> None:
    settings = {**QUICK, "optimizer.name": "sgd", "optimizer.lr": 1e30, "training.epochs": 5}
    with pytest.raises(Diverged, match="learning rate"):
        vaelid.train("digits", out=tmp_path / "run", device="cpu", settings=settings)
    assert vaelid.open_run(tmp_path / "run").about["outcome"].startswith("diverged: Training stopped at step ")


def test_show_report_and_compare_say_that_a_run_diverged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, other = evaluated(tmp_path, "run"), evaluated(tmp_path, "other")
    note_outcome(run.folder, "diverged: Training stopped at step 9 (epoch 3, lr 1): the loss became nan.")
    program = Program(capsys)
    assert "2 epochs in 0 s; diverged: Training stopped at step 9" in " ".join(program("show", run.folder.path).out.split())
    compared = " ".join(program("compare", other.folder.path, run.folder.path).out.split())
    assert f"{run.folder.path} diverged in training: its numbers are of the weights kept before that." in compared
    assert f"{other.folder.path} diverged" not in compared
    page = vaelid.report(run.folder.path, as_is=True).read_text("utf-8")
    assert "Training: diverged after 2 epochs" in page
    assert "not finished" not in page


def test_carry_out_trains_on_the_device_asked_for(tmp_path: Path) -> None:
    asked = request("digits", None, tmp_path / "run", QUICK)
    conditions = vaelid.run.Conditions(torch.device("cpu"))
    run = carry_out(asked, conditions, vaelid.run.Silent())
    assert run.device == torch.device("cpu")


# What a run offers --------------------------------------------------------------------------------------------------------


def test_samples_are_those_of_the_seed_and_leave_the_generator_alone(tmp_path: Path) -> None:
    run = trained(tmp_path)
    before = torch.get_rng_state()
    one, same, other = run.sample(5), run.sample(5, seed=0), run.sample(5, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert one.means.shape == one.draws.shape == (5, 1, 8, 8)
    assert torch.equal(one.z, same.z)
    assert torch.equal(one.draws, same.draws)
    assert not torch.equal(one.z, other.z)
    run.model.check(one.draws)


def test_one_component_can_be_drawn_from(tmp_path: Path) -> None:
    run = trained(tmp_path)
    prior = run.model.prior()
    z = run.sample(4000, component=2).z
    assert torch.allclose(z.mean(0), prior.component_mean[2], atol=0.3)  # type: ignore[attr-defined]
    assert torch.allclose(z.std(0), prior.component_scale[2], rtol=0.1)  # type: ignore[attr-defined]


def test_reconstruct_and_interpolate(tmp_path: Path) -> None:
    run = trained(tmp_path)
    x = run.split("test").batch(torch.arange(4))
    found = run.reconstruct(x)
    assert torch.allclose(found, run.model.reconstruct(x), atol=1e-6)
    paths = run.interpolate(x[:2], x[2:], steps=5)
    assert paths.shape == (2, 5, 1, 8, 8)
    assert torch.allclose(paths[:, 0], found[:2], atol=1e-5)
    assert torch.allclose(paths[:, -1], found[2:], atol=1e-5)
    middle = (run.model.encode(x[:2]).mean + run.model.encode(x[2:]).mean) / 2
    assert torch.allclose(paths[:, 2], run.model.decode(middle).means, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_encode(batch: int, tmp_path: Path) -> None:
    run = trained(tmp_path)
    split = run.split("test")
    q = run.model.encode(split.batch(torch.arange(30)))
    arrays = run.encode(split, batch)
    np.testing.assert_allclose(arrays["mean"], q.mean.numpy(), atol=1e-5)
    np.testing.assert_allclose(np.exp(arrays["log_variance"]), q.variance.numpy(), rtol=1e-4)
    assert split.labels is not None
    np.testing.assert_array_equal(arrays["labels"], split.labels.numpy())


def test_a_posterior_without_moments_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(tmp_path)
    x = run.split("test").batch(torch.arange(2))
    monkeypatch.setattr(GaussianPosterior, "forward", lambda self, x: torch.distributions.Distribution(validate_args=False))
    asked: list[Callable[[], Any]] = [
        lambda: run.reconstruct(x),
        lambda: run.encode(run.split("test")),
        lambda: run.interpolate(x, x),
    ]
    for ask in asked:
        with pytest.raises(PartError, match="mean or variance is not known"):
            ask()


def test_evaluate_keeps_the_results_of_other_splits(tmp_path: Path) -> None:
    run = evaluated(tmp_path)
    before = run.results["test"]
    found = run.evaluate("validation", samples=5)
    assert run.results == {"test": before, "validation": json.loads(json.dumps(found))}
    assert {path.name for path in run.folder.results.iterdir()} == {"test.npz", "validation.npz"}
    assert found["data"]["split"] == "validation"
    assert found["data"]["fingerprint"] != before["data"]["fingerprint"]


def test_limit_takes_the_first_images(tmp_path: Path) -> None:
    run = evaluated(tmp_path)
    whole = run.folder.read_arrays(run.folder.results / "test.npz")
    assert run.evaluate(samples=20, elbo_samples=3, limit=7)["images"] == 7
    np.testing.assert_allclose(run.folder.read_arrays(run.folder.results / "test.npz")["nll"], whole["nll"][:7], atol=1e-3)


def test_a_second_evaluation_says_why(tmp_path: Path) -> None:
    run, notes = evaluated(tmp_path), Notes()
    kept = run.folder.results_file.read_bytes()
    for words, how in {
        "its result stands in": {},
        "of K = 20": {"samples": 5},
        "of other images (30)": {"limit": 7},
        "of 3 draws for −ELBO, seed 0": {"elbo_samples": 4, "seed": 1},
        "of a float32 decoder": {"decoder_precision": "bfloat16"},
    }.items():
        notes.said.clear()
        run.evaluate(**{"samples": 20, "elbo_samples": 3, **how}, reporter=notes)  # type: ignore[arg-type]
        [said] = [said for said in notes.said if "evaluated again" in said]
        assert words in said
        run.folder.results_file.write_bytes(kept)
    notes.said.clear()
    run.evaluate("validation", samples=5, elbo_samples=2, reporter=notes)
    assert not [said for said in notes.said if "again" in said], "this one is the first"


def test_a_quick_look_costs_no_better_result(tmp_path: Path) -> None:
    run = evaluated(tmp_path)
    before, per_image = run.results["test"], run.folder.read_arrays(run.folder.results / "test.npz")
    run.evaluate(samples=before["nll"]["samples"] - 1, elbo_samples=2)
    assert run.results["test"]["nll"]["samples"] == before["nll"]["samples"] - 1
    place = run.folder.results / f"test-{before['images']}-images-K{before['nll']['samples']}"
    assert json.loads(place.with_suffix(".json").read_text())["nll"] == before["nll"]
    np.testing.assert_array_equal(run.folder.read_arrays(place.with_suffix(".npz"))["nll"], per_image["nll"])
    files = sorted(run.folder.results.iterdir())
    run.evaluate(samples=before["nll"]["samples"], elbo_samples=2)
    assert sorted(run.folder.results.iterdir()) == files, "the poorer result is not worth keeping"


def test_new_images_are_ranked_by_their_own_numbers(tmp_path: Path) -> None:
    run = evaluated(tmp_path)
    test = run.split("test")
    known = run.folder.read_arrays(run.folder.results / "test.npz")
    x = (test.batch(torch.arange(5)) * 16).round().to(torch.uint8).numpy()
    strange = np.random.default_rng(0).integers(0, 17, (1, 1, 8, 8)).astype(np.uint8)
    np.savez(tmp_path / "new.npz", images=np.concatenate([x, strange]), labels=np.arange(6))
    ranked = run.evaluate_files([tmp_path / "new.npz"], samples=20, elbo_samples=3)
    values = [value for _, value in ranked]
    assert values == sorted(values, reverse=True)
    assert ranked[0][0].endswith("[5]"), "noise is the unlikeliest"
    by_name = dict(ranked)
    # The noise of an image is that of its place in its source, so these are other draws of the same bound.
    for place in range(5):
        (name,) = [name for name in by_name if name.endswith(f"[{place}]")]
        assert by_name[name] == pytest.approx(known["nll"][place], abs=3)
    stored = run.folder.read_arrays(run.folder.results / "input.npz")
    assert sorted(stored["nll"]) == pytest.approx(sorted(values))
    assert run.results["input"]["images"] == 6
    assert run.results["input"]["data"]["name"] == str(tmp_path / "new.npz")
    assert set(run.results) == {"test", "input"}


def test_ranked_files_of_folders_are_told_apart(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", pixels())
    run = vaelid.train(tmp_path / "data.npy", out=tmp_path / "run", device="cpu", settings={**SMALL, "training.epochs": 1})
    for number, image in enumerate(pixels(4)):
        place = tmp_path / ("one", "two")[number // 2] / ("a", "b")[number % 2]
        place.mkdir(parents=True)
        Image.fromarray(image[0]).save(place / "same.png")
    ranked = run.evaluate_files([tmp_path / "one"], samples=2)
    assert {name for name, _ in ranked} == {str(tmp_path / "one" / place / "same.png") for place in "ab"}
    stored = run.folder.read_arrays(run.folder.results / "input.npz")
    assert dict(zip(stored["files"].tolist(), stored["nll"].tolist(), strict=True)) == dict(ranked)
    both = run.evaluate_files([tmp_path / "one", tmp_path / "two"], samples=2)
    assert {name for name, _ in both} == {str(tmp_path / f"{top}/{sub}/same.png") for top in ("one", "two") for sub in "ab"}


# What a run refuses -------------------------------------------------------------------------------------------------------

REFUSED: list[tuple[str, Callable[[Run], Any], type[Exception], str]] = [
    ("samples", lambda run: run.evaluate(samples=0), UserError, "samples must be at least 1; it is 0"),
    ("elbo samples", lambda run: run.evaluate(elbo_samples=-1), UserError, "elbo_samples must be at least 1; it is -1"),
    ("limit", lambda run: run.evaluate(limit=0), UserError, "limit must be at least 1; it is 0"),
    ("limit below zero", lambda run: run.evaluate(limit=-3), UserError, "limit must be at least 1; it is -3"),
    ("batch", lambda run: run.evaluate(images=0), UserError, "images (--batch) must be at least 1; it is 0"),
    ("split", lambda run: run.evaluate("tset"), UserError, "Choose one of: train, validation, test"),
    ("n", lambda run: run.sample(0), UserError, "n must be at least 1; it is 0"),
    ("n of a component", lambda run: run.sample(0, component=1), UserError, "n must be at least 1"),
    ("component", lambda run: run.sample(1, component=4), UserError, "component must be 0 … 3; it is 4"),
    ("component below zero", lambda run: run.sample(1, component=-1), UserError, "component must be 0 … 3; it is -1"),
    ("steps", lambda run: run.interpolate(torch.zeros(1), torch.zeros(1), 1), UserError, "steps must be at least 2"),
    ("shape", lambda run: run.reconstruct(torch.zeros(1, 1, 9, 9)), DataError, "images of shape (1, 8, 8)"),
    ("support", lambda run: run.reconstruct(torch.full((1, 1, 8, 8), 0.3)), DataError, "one of 17 levels"),
    ("no files", lambda run: run.evaluate_files([]), DataError, "No input images were named"),
]


@pytest.mark.parametrize(("ask", "error", "reason"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_requests_that_cannot_be(ask: Callable[[Run], Any], error: type[Exception], reason: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=re.escape(reason)):
        ask(trained(tmp_path))


@pytest.mark.parametrize("prior", ["standard-normal", "factorized-mixture"])
def test_only_a_mixture_has_components(prior: str, tmp_path: Path) -> None:
    settings = {**{name: value for name, value in QUICK.items() if not name.startswith("prior")}, "prior.name": prior}
    run = vaelid.train("digits", out=tmp_path / "run", device="cpu", settings=settings)
    assert "prior_components" not in run.evaluate(samples=2)
    with pytest.raises(UserError, match=f"The prior '{prior}' has no components"):
        run.sample(1, component=0)


def test_folders_that_hold_no_run(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(RunError, match="is no run folder"):
            vaelid.open_run(path)


def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="Device 'tpu' was asked for"):
        vaelid.open_run(trained(tmp_path).folder.path, device="tpu")


def test_a_run_without_weights(tmp_path: Path) -> None:
    run = trained(tmp_path)
    run.folder.weights_file.unlink()
    for ask in (lambda: run.model, lambda: run.evaluate(samples=2)):
        with pytest.raises(RunError, match="has no trained weights yet"):
            ask()


def test_weights_of_another_model(tmp_path: Path) -> None:
    run = trained(tmp_path)
    run.folder.write_weights(run.folder.weights(), {})  # as of a version that did not note what they were trained by
    text = run.folder.recipe_file.read_text().replace("latent = 3", "latent = 5")
    run.folder.recipe_file.write_text(text)
    with pytest.raises(RunError, match=r"model.safetensors does not belong to recipe.toml: size mismatch for"):
        _ = vaelid.open_run(run.folder.path).model


def test_data_that_changed_since_the_training(tmp_path: Path) -> None:
    source = tmp_path / "images.npy"
    np.save(source, pixels())
    run = vaelid.train(source, out=tmp_path / "run", device="cpu", settings={**SMALL, "training.epochs": 1})
    changed = pixels()
    changed[0, 0, 0, 0] ^= 1
    np.save(source, changed)
    with pytest.raises(DataError, match="are not the ones this run was trained on"):
        vaelid.open_run(run.folder.path).evaluate(samples=2)
    source.unlink()
    with pytest.raises(DataError, match="There is no file or folder"):
        vaelid.open_run(run.folder.path).evaluate(samples=2)
    assert vaelid.open_run(run.folder.path).sample(2).means.shape == (2, 1, 6, 6), "drawing needs no data"


SMALL = {"encoder.hidden": (8,), "decoder.hidden": (8,), "model.latent": 2, "prior.components": 2, "prior.init": "normal"}


def test_settings_are_checked_before_a_folder_is_made(tmp_path: Path) -> None:
    for wrong in ({"optimizer.lr": -1.0}, {"nonsense": 1}, {"prior.name": "nonsense"}):
        with pytest.raises(SettingError):
            vaelid.train("digits", out=tmp_path / "run", settings=wrong)
    with pytest.raises(TypeError):
        vaelid.train("digits", "assignment")  # type: ignore[misc]
    assert not (tmp_path / "run").exists()


def test_a_copied_run_is_the_same_run(tmp_path: Path) -> None:
    run = evaluated(tmp_path)
    moved = Run(shutil.copytree(run.folder.path, tmp_path / "elsewhere"), "cpu")
    assert moved.weights_digest == run.weights_digest
    assert torch.equal(moved.sample(3).draws, run.sample(3).draws)
