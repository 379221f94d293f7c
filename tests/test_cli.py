"""The program: what every verb writes and prints, its exit codes, and that errors are one clear message."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

import vaelid
import vaelid.run
from tiny_runs import TINY_OPTIONS, Program, evaluated, no_figures, pixels, trained
from vaelid import __main__
from vaelid.data import DATASETS
from vaelid.recipe import from_toml, read_about, recipe_names

pytestmark = pytest.mark.usefixtures(no_figures.__name__)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Program:
    return Program(capsys)


# Help and version ---------------------------------------------------------------------------------------------------------


def test_version(run: Program) -> None:
    said = run("--version")
    assert (said.code, said.out) == (0, f"vaelid {vaelid.__version__}\n")


VERBS = [
    "train",
    "study",
    "evaluate",
    "compare",
    "audit",
    "score",
    "sample",
    "reconstruct",
    "interpolate",
    "encode",
    "show",
    "parts",
    "data",
    "recipes",
]


def test_help_names_every_verb(run: Program) -> None:
    said = run("--help")
    assert said.code == 0
    assert all(re.search(rf"\b{verb}\b", said.out) for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, run: Program) -> None:
    for option in ("--help", "-h"):
        assert run(verb, option).code == 0


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["evaluate", "--help"], ["--version"], ["nonsense"]])
def test_help_answers_without_torch(arguments: list[str]) -> None:
    slow = ("torch", "numpy", "scipy", "sklearn", "matplotlib", "PIL", "safetensors", "numba", "optuna", "jinja2", "latex2mathml")
    code = (
        "import sys\nfrom vaelid.cli import main\n"
        f"try:\n    main({arguments!r})\nfinally:\n    print(*[m for m in {slow!r} if m in sys.modules], file=sys.stderr)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(vaelid.__file__).parents[1]), "COVERAGE_PROCESS_START": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.stderr.splitlines()[-1] == "", done.stderr


@pytest.mark.parametrize(("group", "listed"), [([], "evaluate"), (["data"], "info"), (["recipes"], "show")])
def test_without_a_verb_there_is_help(group: list[str], listed: str, run: Program) -> None:
    said = run(*group)
    assert (said.code, said.err) == (0, "")
    assert "Usage:" in said.out
    assert listed in said.out


# Training -----------------------------------------------------------------------------------------------------------------


def test_train_says_what_it_does_and_where(tmp_path: Path, run: Program) -> None:
    said = run("train", "digits", *TINY_OPTIONS, "--device", "cpu", "--out", tmp_path / "run")
    assert said.code == 0
    assert "digits: 128 training images (limited to the first of 1,168), pixels one of 17 levels" in said.err
    assert "likelihood categorical" in said.err
    assert "epoch    1" in said.err
    assert "2 epochs in" in said.out
    assert f"next: vaelid evaluate {tmp_path / 'run'}" in said.out
    again = run("train", "digits", *TINY_OPTIONS, "--out", tmp_path / "run")
    assert "is finished" in again.err


def test_short_options_reach_the_recipe(run: Program) -> None:
    options = {
        "--prior": "factorized-mixture",
        "--latent": 5,
        "--components": 7,
        "--hidden": "9,8",
        "--epochs": 4,
        "--batch-size": 16,
        "--lr": 0.25,
        "--optimizer": "sgd",
        "--schedule": "plateau",
        "--beta": 0.5,
        "--patience": 2,
        "--seed": 6,
    }
    said = run("train", "digits", "--dry-run", *(word for pair in options.items() for word in pair))
    recipe = from_toml(said.out)
    assert recipe.prior.name == "factorized-mixture"
    assert recipe.prior.options["components"] == 7
    assert recipe.model.latent == 5
    assert recipe.encoder.options["hidden"] == [9, 8]
    assert recipe.decoder.options["hidden"] == [8, 9]
    assert (recipe.optimizer.name, recipe.optimizer.options["lr"], recipe.schedule.name) == ("sgd", 0.25, "plateau")
    assert recipe.objective.options["beta"] == 0.5
    training = recipe.training
    assert (training.epochs, training.batch_size, training.patience, training.seed) == (4, 16, 2, 6)


def test_set_beats_short_options_and_knows_them(run: Program) -> None:
    said = run("train", "digits", "--dry-run", "--lr", 0.5, "--set", "optimizer.lr=0.25", "--set", "latent=3")
    assert "lr = 0.25" in said.out
    assert "latent = 3" in said.out


def test_dry_run_prints_the_resolved_recipe_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Program
) -> None:
    monkeypatch.chdir(tmp_path)
    said = run("train", "digits", "--dry-run", "--out", "here")
    recipe = from_toml(said.out)
    assert said.err == "# would train in here\n"
    assert recipe.likelihood.options["start"] == "data"
    assert recipe.optimizer.options["eps"] == 1e-8, "defaults are written out"
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_file_from_show_trains(tmp_path: Path, run: Program) -> None:
    shown = run("recipes", "show", "digits")
    assert shown.code == 0
    (tmp_path / "mine.toml").write_text(shown.out)
    said = run("train", "--recipe", tmp_path / "mine.toml", "--dry-run")
    assert said.out == run("train", "digits", "--dry-run").out


def test_a_dry_run_refuses_what_a_training_would(run: Program) -> None:
    for wrong in (("--engine", "fast"), ("--device", "gpu")):
        said = run("train", "digits", "--dry-run", *wrong)
        assert said.code == 2
        assert wrong[1] in said.err
        assert not said.out


class Interrupting(ModuleType):
    """A module that is being imported when Ctrl-C comes."""

    def __getattr__(self, name: str) -> None:
        raise KeyboardInterrupt


def test_ctrl_c_while_the_program_is_loading(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "vaelid.cli", Interrupting("vaelid.cli"))
    with pytest.raises(SystemExit) as ended:
        __main__.main()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "vaelid: Interrupted before anything was done.\n"


# Evaluation ---------------------------------------------------------------------------------------------------------------


def test_evaluate_prints_a_table_and_the_places(tmp_path: Path, run: Program) -> None:
    path = trained(tmp_path).folder.path
    said = run("evaluate", path, "--samples", 12, "--elbo-samples", 2, "--batch", 7)
    assert said.code == 0
    assert "30 test images, nats per image" in said.out
    assert "importance-weighted bound, K = 12" in " ".join(said.out.split())
    assert f"results: {path / 'results.json'}   figures: {path / 'figures'}" in said.out
    stored = json.loads((path / "results.json").read_text())["test"]
    assert (stored["nll"]["samples"], stored["neg_elbo"]["samples"]) == (12, 2)


def test_json_is_the_entry_of_results_json(tmp_path: Path, run: Program) -> None:
    path = trained(tmp_path).folder.path
    said = run("evaluate", path, "--samples", 3, "--split", "validation", "--limit", 4, "--seed", 5, "--json")
    printed = json.loads(said.out)
    assert printed == json.loads((path / "results.json").read_text())
    assert (printed["validation"]["images"], printed["validation"]["seed"]) == (4, 5)


def test_new_images_are_ranked(tmp_path: Path, run: Program) -> None:
    opened = trained(tmp_path)
    np.save(tmp_path / "a.npy", (opened.split("test").batch(torch.arange(25)) * 16).to(torch.uint8).numpy())
    said = run("evaluate", opened.folder.path, "--input", tmp_path / "a.npy", "--samples", 3)
    assert "25 input images" in said.out
    assert "unlikeliest first" in said.out
    assert "25 images in all (20 shown)" in said.out
    assert f"figures: {opened.folder.figures / 'input'}" in said.out
    printed = json.loads(run("evaluate", opened.folder.path, "--input", tmp_path / "a.npy", "--samples", 3, "--json").out)
    ranking = [entry["nll"] for entry in printed["input"]["ranking"]]
    assert len(ranking) == 25
    assert ranking == sorted(ranking, reverse=True)


def test_compare_prints_paired_differences(tmp_path: Path, run: Program) -> None:
    one, two = evaluated(tmp_path, "one"), evaluated(tmp_path, "two")
    said = run("compare", one.folder.path, two.folder.path)
    assert said.code == 0
    assert "+0.000" in said.out
    assert "independent pixels" in said.out
    two.evaluate(samples=5, limit=10)
    assert run("compare", one.folder.path, two.folder.path).code == 2
    said = run("compare", one.folder.path, two.folder.path, "--anyway")
    assert said.code == 0
    assert "NOT COMPARABLE" in said.out


# Pictures -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["png", "pdf", "npy"])
def test_pictures_are_what_their_ending_says(ending: str, tmp_path: Path, run: Program) -> None:
    path = trained(tmp_path).folder.path
    starts = {"png": b"\x89PNG", "pdf": b"%PDF", "npy": b"\x93NUMPY"}
    for number, command in enumerate((["sample"], ["reconstruct", "-n", 3], ["interpolate", "-n", 2, "--steps", 3])):
        out = tmp_path / "new" / "folder" / f"{number}.{ending}"
        said = run(command[0], path, *command[1:], "--out", out)
        assert said.code == 0
        assert said.out.startswith(str(out))
        assert out.read_bytes().startswith(starts[ending])


def test_arrays_have_the_shapes_that_are_told(tmp_path: Path, run: Program) -> None:
    opened = trained(tmp_path)
    path, out = opened.folder.path, tmp_path / "x.npy"
    assert run("sample", path, "-n", 5, "--out", out).out == f"{out}: (5, 1, 8, 8)\n"
    np.testing.assert_array_equal(np.load(out), opened.sample(5).means.numpy())
    run("sample", path, "-n", 5, "--out", out, "--draw", "--seed", 3)
    np.testing.assert_array_equal(np.load(out), opened.sample(5, seed=3).draws.numpy())
    run("sample", path, "-n", 5, "--out", out, "--component", 2)
    np.testing.assert_array_equal(np.load(out), opened.sample(5, component=2).means.numpy())
    assert run("reconstruct", path, "-n", 3, "--out", out).out == f"{out}: (3, 2, 1, 8, 8)\n"
    x = opened.split("test").batch(torch.arange(3))
    np.testing.assert_array_equal(np.load(out)[:, 0], x.numpy())
    np.testing.assert_allclose(np.load(out)[:, 1], opened.reconstruct(x).numpy(), atol=1e-6)
    assert run("interpolate", path, "-n", 2, "--steps", 3, "--out", out).out == f"{out}: (2, 3, 1, 8, 8)\n"
    x = opened.split("test").batch(torch.arange(4))
    np.testing.assert_allclose(np.load(out), opened.interpolate(x[0::2], x[1::2], 3).numpy(), atol=1e-6)


def test_pictures_of_the_users_own_files(tmp_path: Path, run: Program) -> None:
    np.save(tmp_path / "data.npy", pixels())
    small = ["--hidden", "8", "--latent", 2, "--components", 2, "--epochs", 1, "--set", "prior.init=normal"]
    assert run("train", tmp_path / "data.npy", *small, "--out", tmp_path / "run").code == 0
    for number, image in enumerate(pixels(3)):
        Image.fromarray(image[0]).save(tmp_path / f"{number}.png")
    files, out = [tmp_path / f"{number}.png" for number in range(3)], tmp_path / "x.npy"
    run("reconstruct", tmp_path / "run", *files, "--out", out)
    np.testing.assert_allclose(np.load(out)[:, 0] * 255, pixels(3), atol=1e-3)
    run("interpolate", tmp_path / "run", *files[:2], "--steps", 4, "--out", out)
    assert np.load(out).shape == (1, 4, 1, 6, 6)
    assert "A path needs two images; 3 came" in run.refuses("interpolate", tmp_path / "run", *files, "--out", out)
    said = run("encode", tmp_path / "run", *files, "--out", tmp_path / "z.npz")
    assert said.out == f"{tmp_path / 'z.npz'}: mean (3, 2), log_variance (3, 2)\n"


def test_encode_writes_means_variances_and_labels(tmp_path: Path, run: Program) -> None:
    opened = trained(tmp_path)
    said = run("encode", opened.folder.path, "--split", "validation", "--out", tmp_path / "z.npz")
    assert said.out == f"{tmp_path / 'z.npz'}: mean (30, 3), log_variance (30, 3), labels (30,)\n"
    with np.load(tmp_path / "z.npz") as stored:
        expected = opened.encode(opened.split("validation"))
        assert set(stored.files) == set(expected)
        for name, array in expected.items():
            np.testing.assert_array_equal(stored[name], array)


def test_real_values_are_stretched_in_pictures_only(tmp_path: Path, run: Program) -> None:
    np.save(tmp_path / "real.npy", (pixels().astype(np.float32) - 100) / 20)
    small = ["--hidden", "8", "--latent", 2, "--components", 2, "--epochs", 1, "--set", "prior.init=normal"]
    assert "likelihood gaussian" in run("train", tmp_path / "real.npy", *small, "--out", tmp_path / "run").err
    run("reconstruct", tmp_path / "run", "-n", 2, "--out", tmp_path / "x.npy")
    assert np.load(tmp_path / "x.npy").min() < -1
    run("reconstruct", tmp_path / "run", "-n", 2, "--out", tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as picture:
        grays = np.asarray(picture.convert("L"))[:, picture.width // 3 :]
        assert len(np.unique(grays)) > 20, "clipped values would be black"


# Looking ------------------------------------------------------------------------------------------------------------------


def test_show(tmp_path: Path, run: Program) -> None:
    said = run("show", evaluated(tmp_path).folder.path)
    assert said.code == 0
    assert "mixture prior, 3 latents" in said.out
    assert "30 test images" in said.out


def test_lists(tmp_path: Path, run: Program) -> None:
    assert all(name in run("data", "list").out for name in DATASETS)
    assert all(name in run("recipes", "list").out for name in ("digits", "mnist", "assignment"))
    assert "factorized-mixture" in run("parts", "prior").out
    assert "categorical" not in run("parts", "prior").out
    every = run("parts").out
    assert all(word in every for word in ("factorized-mixture", "categorical", "adamax", "cosine", "iwae", "mlp"))


@pytest.mark.parametrize("columns", [50, 120])
def test_recipes_are_described_to_the_last_word(columns: int, run: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    words = [line.split("│")[2] for line in run("recipes", "list").out.splitlines() if line.startswith("│")]
    printed = " ".join(" ".join(words).split())
    for name in recipe_names():
        assert read_about(name) in printed


def test_data_info(tmp_path: Path, run: Program) -> None:
    said = run("data", "info", "digits", "--set", "data.train_limit=100")
    assert said.code == 0
    assert re.search(r"train +│ 100 +│ \(1, 8, 8\) │ one of 17 levels", said.out)
    np.save(tmp_path / "mine.npy", pixels())
    assert "one of 256 levels" in run("data", "info", tmp_path / "mine.npy").out
