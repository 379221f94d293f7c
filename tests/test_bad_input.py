"""Every mistake a user can make: exit code 2, one message with the reason and what to do, and nothing written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tiny_runs import TINY_OPTIONS, Program, evaluated, no_figures, pixels, trained
from vaelid.errors import MachineError
from vaelid.reporting.export import write_arrays

pytestmark = pytest.mark.usefixtures(no_figures.__name__)


@pytest.fixture
def program(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    monkeypatch.chdir(tmp_path)
    return Program(capsys)


def cases(*rows: tuple[str, str]) -> pytest.MarkDecorator:
    """Rows of a command line and what its message must say."""
    split = [(words.split(), reason) for words, reason in rows]
    return pytest.mark.parametrize(("words", "reason"), split, ids=[words for words, _ in rows])


# Settings -----------------------------------------------------------------------------------------------------------------


@cases(
    ("nonsense", "There is no data set or file named 'nonsense'. Known: binarized-mnist, digits, mnist."),
    ("digit", "Did you mean 'digits'"),
    ("./nothere.npy", "There is no file or folder"),
    ("digits --recipe digit", "There is no recipe named 'digit'. Did you mean 'digits'?"),
    ("--recipe nothere.toml", "There is no recipe file nothere.toml. Built-in recipes:"),
    ("digits --prior mixtur", "There is no prior named 'mixtur'. Did you mean 'mixture'"),
    ("digits --likelihood bernouli", "Did you mean 'bernoulli'?"),
    ("digits --posterior gauss", "Did you mean 'gaussian'?"),
    ("digits --optimizer adamx", "Did you mean 'adamax'"),
    ("digits --schedule cosin", "Did you mean 'cosine'?"),
    ("digits --set optimizr.lr=1", "There is no setting named 'optimizr.lr'. Did you mean 'optimizer.lr'"),
    ("digits --set optimizer.lrr=1", "There is no setting of optimizer named 'lrr'. Did you mean 'lr'?"),
    ("digits --set nonsense=1", "There is no setting named 'nonsense'."),
    ("digits --set optimizer.lr", "--set takes SECTION.KEY=VALUE; 'optimizer.lr' came. For example:"),
    ("digits --set code.x=1", "There is no setting named 'code.x'."),
    ("digits --lr -1", "optimizer.lr must be > 0; it is -1.0."),
    ("digits --lr nan", "optimizer.lr must be a finite number, > 0; it is nan."),
    ("digits --lr inf", "optimizer.lr must be a finite number, > 0; it is inf."),
    ("digits --epochs 0", "training.epochs must be ≥ 1; it is 0."),
    ("digits --latent 0", "model.latent must be ≥ 1; it is 0."),
    ("digits --components 0", "prior.components must be ≥ 1; it is 0."),
    ("digits --batch-size 0", "training.batch_size must be ≥ 1; it is 0."),
    ("digits --patience -1", "training.patience must be ≥ 0; it is -1."),
    ("digits --seed -1", "training.seed must be ≥ 0; it is -1."),
    ("digits --beta -1", "objective.beta must be ≥ 0; it is -1.0."),
    ("digits --hidden abc", "encoder.hidden must be list of int, each ≥ 1"),
    ("digits --hidden 8,0", "hidden must be list of int, each ≥ 1"),
    ("digits --set model.latent=2.5", "model.latent must be int ≥ 1; it is 2.5."),
    ("digits --set encoder.activation=rlu", "There is no activation named 'rlu'. Did you mean 'relu'"),
    ("digits --binarization foo", "data.binarization must be none | dynamic | resampled | threshold; it is 'foo'."),
    ("digits --set data.test_fraction=1", "data.test_fraction must be > 0 and < 1; it is 1."),
    ("digits --device tpu", "Device 'tpu' was asked for; this machine has: cpu"),
    ("digits --init-from nowhere", "nowhere is no run folder: it does not exist."),
)
def test_train_refuses(words: list[str], reason: str, program: Program) -> None:
    message = program.refuses("train", *words, "--out", "run")
    assert reason in message
    assert not Path("run").is_dir() or not list(Path("run").glob("*.*"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("this is [not toml", "mine.toml is not valid TOML"),
        ("", "The recipe has no [data] section"),
        (
            '[data]\nname = "digits"\n[optimizr]\nname = "adam"',
            "There is no section of a recipe named 'optimizr'. Did you mean 'optimizer'?",
        ),
        ('[data]\nname = "digits"\nsplitseed = 1', "There is no setting of data named 'splitseed'. Did you mean 'split_seed'"),
        ('[data]\nname = "digits"\n[training]\nepochs = "many"', "training.epochs must be int ≥ 1; it is 'many'"),
        ('[data]\nname = "digits"\n[prior]\ncomponents = 3', "[prior] needs a name"),
        ("data = 1", "[data] must be a table of settings"),
    ],
)
def test_recipe_files_that_are_none(text: str, reason: str, program: Program) -> None:
    Path("mine.toml").write_text(text)
    assert reason in program.refuses("train", "--recipe", "mine.toml", "--out", "run")
    assert not Path("run").exists()


# Data ---------------------------------------------------------------------------------------------------------------------


def save(name: str, array: np.ndarray) -> None:
    np.save(name, array)


def images_of_sizes(*sizes: int) -> None:
    Path("photos").mkdir()
    for number, size in enumerate(sizes):
        Image.fromarray(np.zeros((size, size), np.uint8)).save(f"photos/{number}.png")


def damaged_picture() -> None:
    images_of_sizes(6, 6, 6, 6)
    Path("photos/bad.png").write_bytes(b"this is no picture")


def two_arrays() -> None:
    np.savez("x.npz", first=pixels(), second=pixels())


def pickled() -> None:
    np.save("x.npy", np.array([{"code": "could run"}], dtype=object), allow_pickle=True)


DATA: list[tuple[str, Callable[[], object], str, str]] = [
    ("NaN", lambda: save("x.npy", np.where(pixels() > 200, np.nan, 0.5)), "x.npy", "finite numbers; the value at index"),
    ("empty", lambda: save("x.npy", np.zeros((0, 1, 4, 4))), "x.npy", "is empty: its shape is (0, 1, 4, 4)"),
    ("one dimension", lambda: save("x.npy", np.zeros(9)), "x.npy", "must be (N, D), (N, H, W), (N, C, H, W) or (N, H, W, C)"),
    ("two channels", lambda: save("x.npy", np.zeros((9, 2, 4, 4))), "x.npy", "with C = 1 or 3; its shape is (9, 2, 4, 4)"),
    ("too few", lambda: save("x.npy", pixels(2)), "x.npy", "leave none to train on. Each split needs at least one image"),
    ("words", lambda: save("x.npy", np.array([["a"]])), "x.npy", "must hold real numbers"),
    ("objects", pickled, "x.npy", "could run code when loaded"),
    ("cut off", lambda: Path("x.npy").write_bytes(b"\x93NUMPY\x01"), "x.npy", "x.npy cannot be read"),
    ("too large", lambda: save("x.npy", np.full((9, 4), 300)), "x.npy", "whole numbers 0 to 255; the value at index (0, 0)"),
    ("two arrays", two_arrays, "x.npz", "is unclear. Set data.array to one of: first, second."),
    ("other ending", lambda: Path("x.doc").write_text("x"), "./x.doc", "is neither a folder of images nor an array file"),
    ("no folder", lambda: None, "photos/", "There is no file or folder"),
    ("no images", lambda: Path("photos").mkdir(), "photos", "There are no images in"),
    ("mixed sizes", lambda: images_of_sizes(6, 6, 7, 6), "photos", "0.png is 6 x 6 pixels, 2.png is 7 x 7 pixels. Set data.size"),
    ("bad picture", damaged_picture, "photos", "1 of 5 image files in"),
]


@pytest.mark.parametrize(("make", "source", "reason"), [case[1:] for case in DATA], ids=[case[0] for case in DATA])
def test_data_that_are_none(make: Callable[[], object], source: str, reason: str, program: Program, tmp_path: Path) -> None:
    make()
    for command in (["train", source, "--out", "run"], ["data", "info", source]):
        assert reason in program.refuses(*command).replace(f"{tmp_path}/", "")
    assert not Path("run").exists()


def test_gray_pixels_have_no_bernoulli(program: Program) -> None:
    message = program.refuses("train", "digits", "--likelihood", "bernoulli", "--out", "run")
    assert "Pixels must be binary (0 or 1); the value at index" in message
    assert "choose a binarization (--binarization dynamic)" in message
    assert not Path("run/recipe.toml").exists()


def test_binary_pixels_cannot_be_binarized(program: Program) -> None:
    save("x.npy", (pixels() > 100).astype(np.uint8))
    message = program.refuses("train", "x.npy", "--binarization", "dynamic", "--out", "run")
    assert "are already binary; they cannot be binarized. Set data.binarization to 'none'." in message


def test_real_values_have_no_levels(program: Program) -> None:
    save("x.npy", pixels() / 100.0)
    message = program.refuses("train", "x.npy", "--likelihood", "categorical", "--out", "run")
    assert "models gray levels, but the pixels are finite real numbers. Choose --likelihood gaussian" in message


# Run folders --------------------------------------------------------------------------------------------------------------

READERS = ("evaluate", "sample", "reconstruct", "interpolate", "encode", "show")


@pytest.mark.parametrize("verb", READERS)
def test_folders_that_hold_no_run(verb: str, program: Program) -> None:
    Path("empty").mkdir()
    assert "nowhere is no run folder: it does not exist." in program.refuses(verb, "nowhere")
    assert "empty is no run folder: it has no recipe.toml" in program.refuses(verb, "empty")


@pytest.mark.parametrize("verb", [verb for verb in READERS if verb != "show"])
def test_runs_without_weights(verb: str, program: Program, tmp_path: Path) -> None:
    trained(tmp_path).folder.weights_file.unlink()
    assert "run has no trained weights yet. Run the same `vaelid train` command again" in program.refuses(verb, "run")
    assert program("show", "run").code == 0


DAMAGES: list[tuple[str, Callable[[Path], object], tuple[str, ...], str]] = [
    (
        "weights",
        lambda run: (run / "model.safetensors").write_bytes((run / "model.safetensors").read_bytes()[:999]),
        ("evaluate run", "sample run"),
        "model.safetensors is damaged",
    ),
    (
        "results",
        lambda run: (run / "results.json").write_text("{"),
        ("show run", "compare run run", "evaluate run"),
        "results.json is damaged",
    ),
    ("recipe", lambda run: (run / "recipe.toml").write_text("[["), ("show run", "sample run"), "recipe.toml is not valid TOML"),
    (
        "environment",
        lambda run: (run / "environment.json").write_text("{"),
        ("show run", "sample run"),
        "environment.json is damaged",
    ),
    ("arrays", lambda run: (run / "results" / "test.npz").write_bytes(b"PK"), ("compare run run",), "test.npz is damaged"),
    ("metrics", lambda run: (run / "metrics.jsonl").write_text("{\n{\n"), ("show run",), "metrics.jsonl is damaged"),
]


@pytest.mark.parametrize(("damage", "commands", "reason"), [case[1:] for case in DAMAGES], ids=[case[0] for case in DAMAGES])
def test_damaged_runs(
    damage: Callable[[Path], object], commands: tuple[str, ...], reason: str, program: Program, tmp_path: Path
) -> None:
    evaluated(tmp_path)
    damage(tmp_path / "run")
    arrays = (tmp_path / "run" / "results" / "test.npz").read_bytes()
    for command in commands:
        assert reason in program.refuses(*command.split())
    assert (tmp_path / "run" / "results" / "test.npz").read_bytes() == arrays, "damage must be known before any work is done"


def test_a_folder_of_other_settings(program: Program, tmp_path: Path) -> None:
    trained(tmp_path)
    message = program.refuses("train", "digits", *TINY_OPTIONS, "--set", "optimizer.lr=0.5", "--out", "run")
    assert "run holds a run with other settings: optimizer.lr is 0.01, asked 0.5. Give another --out, or --overwrite" in message


def test_a_folder_of_something_else(program: Program) -> None:
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("years of work")
    for more in ([], ["--overwrite"]):
        assert "is not empty and holds no run" in program.refuses("train", "digits", *TINY_OPTIONS, "--out", "mine", *more)
    assert Path("mine/thesis.txt").read_text() == "years of work"


def test_weights_of_another_shape(program: Program, tmp_path: Path) -> None:
    trained(tmp_path)
    options = [option for option in TINY_OPTIONS if "latent" not in option]
    message = program.refuses("train", "digits", *options, "--latent", 5, "--init-from", "run", "--out", "other")
    assert "The weights of run do not fit this model: size mismatch" in message
    assert "Give --init-from a run with the same parts" in message


@pytest.mark.parametrize("verb", ["train digits", "sample run", "reconstruct run", "interpolate run", "encode run"])
def test_places_that_cannot_be_written(verb: str, program: Program, tmp_path: Path) -> None:
    trained(tmp_path)
    Path("file").write_text("in the way")
    out = {"train": "file/run", "encode": "file/z.npz"}.get(verb.split(maxsplit=1)[0], "file/x.png")
    more = TINY_OPTIONS if verb.startswith("train") else []
    message = program.refuses(*verb.split(), *more, "--out", out)
    assert f"{out} cannot be written: " in message
    assert "Not a directory" in message or "file is not a folder" in message
    assert "another --out" in message


def test_numpys_error_of_a_full_disk_is_put_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("128000 requested and 9184 written")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(MachineError, match=r"z.npz cannot be written: the disk took only a part of it \(128000 requested"):
        write_arrays(tmp_path / "z.npz", {})


# Options of the other verbs -----------------------------------------------------------------------------------------------


@cases(
    ("evaluate run --samples 0", "samples must be at least 1; it is 0."),
    ("evaluate run --elbo-samples 0", "elbo_samples must be at least 1; it is 0."),
    ("evaluate run --limit 0", "limit must be at least 1; it is 0."),
    ("evaluate run --limit -1", "limit must be at least 1; it is -1."),
    ("evaluate run --batch 0", "images (--batch) must be at least 1; it is 0."),
    ("evaluate run --split nonsense", "There is no split 'nonsense'. Choose one of: train, validation, test."),
    ("evaluate run --device tpu", "Device 'tpu' was asked for"),
    ("evaluate run --input nothere.png", "nothere.png"),
    ("evaluate run --input nothere.npy", "There is no file or folder"),
    (
        "evaluate run --input big.npy",
        "The model was trained on images of shape (1, 8, 8); those of big.npy have shape (1, 6, 6).",
    ),
    ("evaluate run --input real.npy", "The model was trained on pixels stored as one of 17 levels"),
    ("evaluate run --input bright.npy", "must hold whole numbers 0 to 16"),
    ("sample run -n 0", "n must be at least 1; it is 0."),
    ("sample run -n -2", "n must be at least 1; it is -2."),
    ("sample run --seed 18446744073709551616", "A seed must be a whole number of 64 bits; it is 18446744073709551616."),
    ("sample run --component 99", "component must be 0 … 3; it is 99."),
    ("sample run --component -1", "component must be 0 … 3; it is -1."),
    (
        "sample run --out x.jpg",
        "What to write into x.jpg is unclear: it has the ending '.jpg'. Give a file that ends in .png or .pdf",
    ),
    ("sample run --out x", "What to write into x is unclear: it has no ending."),
    ("sample nowhere --out x.jpg", "it has the ending '.jpg'"),  # before the run is opened
    ("reconstruct run -n 0", "-n must be at least 1; it is 0."),
    ("reconstruct run --out x.gif", "it has the ending '.gif'"),
    ("reconstruct run big.npy", "The model was trained on images of shape (1, 8, 8)"),
    ("interpolate run -n -2", "-n must be at least 1; it is -2."),
    ("interpolate run --steps 1", "steps must be at least 2, the two ends; it is 1."),
    ("interpolate run one.npy", "A path needs two images; 1 came. Give two images for each path."),
    ("interpolate run --out x.txt", "it has the ending '.txt'"),
    ("encode run --out z.npy", "it has the ending '.npy'. Give a file that ends in .npz."),
    ("encode run --split nonsense", "There is no split 'nonsense'."),
    ("compare run", "A comparison needs two runs; 1 came."),
    ("compare run run --split train", "run was not evaluated on the train split. vaelid evaluate run --split train"),
    ("compare run nowhere", "nowhere is no run folder"),
    ("parts priors", "There is no kind of part named 'priors'. Did you mean 'prior'"),
    ("recipes show digit", "There is no recipe named 'digit'. Did you mean 'digits'?"),
    ("data info digit", "There is no data set or file named 'digit'. Did you mean 'digits'?"),
    ("data info digits --set data.size", "--set takes SECTION.KEY=VALUE"),
)
def test_other_verbs_refuse(words: list[str], reason: str, program: Program, tmp_path: Path) -> None:
    run = evaluated(tmp_path)
    save("big.npy", np.zeros((2, 6, 6), np.uint8))
    save("real.npy", np.full((2, 8, 8), 0.3))
    save("bright.npy", np.full((2, 8, 8), 100, np.uint8))
    save("one.npy", (run.split("test").batch(torch.arange(1)) * 16).to(torch.uint8).numpy())
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert reason in program.refuses(*words)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before, "something was written"
