"""From images to numbers, on the command line: digits, real MNIST, and the user's own data of every kind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import vaelid
from data_fixtures import needs_real_data
from tiny_runs import TINY_OPTIONS, Program, no_figures, pixels

QUICK = ["--hidden", "8", "--latent", "2", "--components", "2", "--epochs", "1", "--set", "prior.init=normal"]


@pytest.fixture
def program(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    monkeypatch.chdir(tmp_path)
    return Program(capsys)


def results(run: str, split: str = "test") -> dict[str, Any]:
    return json.loads((Path(run) / "results.json").read_text())[split]


def test_digits_from_training_to_comparison(program: Program) -> None:
    """Train both priors, evaluate, compare, draw: with all figures."""
    other = [option for option in TINY_OPTIONS if "prior" not in option]
    assert program("train", "digits", *TINY_OPTIONS, "--out", "a").code == 0
    assert program("train", "digits", *other, "--prior", "standard-normal", "--out", "b").code == 0
    for run in ("a", "b"):
        assert program("evaluate", run, "--samples", 20).code == 0
    said = program("compare", "a", "b")
    difference = results("b")["nll"]["value"] - results("a")["nll"]["value"]
    assert f"{difference:+.3f}" in said.out
    assert program("sample", "a", "--out", "a.png").code == 0
    for run in ("a", "b"):
        found = results(run)
        assert found["nll"]["value"] < found["neg_elbo"]["value"] + 0.5
        assert (Path(run) / "figures" / "generated_images.png").is_file()
        assert (Path(run) / "figures" / "prior_components.png").exists() == (run == "a")
    assert results("a")["neg_elbo"]["rate_kind"] == "sampled"
    assert results("b")["neg_elbo"]["rate_kind"] == "closed-form"


def test_training_makes_a_better_model_than_independent_pixels(tmp_path: Path) -> None:
    run = vaelid.train("digits", out=tmp_path / "run", device="cpu", epochs=12, hidden=(64,), latent=8, lr=0.005)
    found = run.evaluate(samples=100, limit=100)
    assert found["nll"]["value"] < found["yardsticks"]["independent_pixels"]["value"] - 3
    assert found["active_units"]["variance"] >= 4


# Real MNIST ---------------------------------------------------------------------------------------------------------------

MNIST = ["--set", "data.train_limit=300", "--set", "data.held_out_limit=40", "--epochs", "1", "--hidden", "16", "--latent", "4"]


@needs_real_data
@pytest.mark.usefixtures(no_figures.__name__)
class TestMnist:
    def test_the_recipe(self, program: Program) -> None:
        said = program("train", "mnist", *MNIST, "--out", "run")
        assert said.code == 0
        assert "mnist: 300 training images (limited to the first of 50,000), pixels binary (0 or 1)" in said.err
        assert program("evaluate", "run", "--samples", 10).code == 0
        found = results("run")
        assert found["data"]["protocol"] == "binarized once with seed 0, the same for every model"
        assert found["data"]["redrawn"] is False
        assert found["images"] == 40
        assert found["bits_per_dim"]["nll"] == pytest.approx(found["nll"]["value"] / (784 * np.log(2)))

    @pytest.mark.parametrize("prior", ["mixture", "factorized-mixture"])
    @pytest.mark.parametrize("binarization", ["dynamic", "resampled"])
    def test_the_assignment(self, prior: str, binarization: str, program: Program) -> None:
        options = ["--recipe", "assignment", "--prior", prior, "--binarization", binarization]
        assert program("train", *options, *MNIST, "--out", "run").code == 0
        said = program("evaluate", "run", "--samples", 10)
        assert said.code == 0
        assert results("run")["data"]["redrawn"] is (binarization == "resampled")
        assert ("compare with nothing but themselves" in said.out) == (binarization == "resampled")
        assert len(results("run")["kl_per_dimension"]) == 4

    def test_protocols_are_not_compared(self, program: Program) -> None:
        for binarization in ("dynamic", "threshold"):
            assert program("train", "mnist", *MNIST, "--binarization", binarization, "--out", binarization).code == 0
            assert program("evaluate", binarization, "--samples", 2).code == 0
        assert "not evaluated on the same pixel protocol" in program.refuses("compare", "dynamic", "threshold")

    @pytest.mark.parametrize(("likelihood", "kind"), [("gaussian", "density"), ("discretized-gaussian", "probability")])
    def test_gray_levels(self, likelihood: str, kind: str, program: Program) -> None:
        options = ["--binarization", "none", "--likelihood", likelihood, "--set", "likelihood.scale=per-pixel"]
        assert program("train", "mnist", *MNIST, *options, "--out", "run").code == 0
        said = program("evaluate", "run", "--samples", 10)
        found = results("run")
        assert (found["kind"], found["data"]["support"]) == (kind, "bytes")
        assert (found["bits_per_dim"] is None) == (kind == "density")
        assert ("These are densities, not probabilities" in said.out) == (kind == "density")

    def test_binarized_mnist(self, program: Program) -> None:
        assert program("train", "binarized-mnist", *MNIST, "--out", "run").code == 0
        assert program("evaluate", "run", "--samples", 5).code == 0
        assert results("run")["data"]["support"] == "binary"


# The user's own data ------------------------------------------------------------------------------------------------------


def folder_of_classes(name: str, channels: int = 3) -> None:
    for number, image in enumerate(pixels(30, channels)):
        place = Path(name) / ("left" if number % 2 else "right")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0) if channels == 3 else image[0]).save(place / f"{number}.png")


MODES = {
    "1": "png",
    "L": "png",
    "LA": "png",
    "P": "gif",
    "RGB": "bmp",
    "RGBA": "png",
    "CMYK": "jpg",
    "YCbCr": "tif",
    "I;16": "png",
}


def folder_of_every_mode(name: str) -> None:
    Path(name).mkdir()
    for number, image in enumerate(pixels(36)):
        mode = list(MODES)[number % len(MODES)]
        if mode == "I;16":
            picture = Image.fromarray(image[0].astype(np.uint16) * 257)
        else:
            picture = Image.fromarray(image[0]).convert("RGB").convert(mode)
        assert picture.mode == mode
        picture.save(Path(name) / f"{number}.{MODES[mode]}")


SOURCES: dict[str, tuple[Callable[[], object], str, str, str]] = {
    # how it is made, what is named, the pixels that are found, the likelihood that follows
    "bytes": (lambda: np.save("x.npy", pixels()), "x.npy", "one of 256 levels", "discretized-gaussian"),
    "rgb": (lambda: np.save("x.npy", pixels(channels=3)), "x.npy", "one of 256 levels", "discretized-gaussian"),
    "rgb last": (
        lambda: np.savez("x.npz", x=pixels(channels=3).transpose(0, 2, 3, 1), y=np.arange(40) % 3),
        *("x.npz", "one of 256 levels", "discretized-gaussian"),
    ),
    "binary": (lambda: np.save("x.npy", (pixels() > 100).astype(np.uint8)), "x.npy", "binary (0 or 1)", "bernoulli"),
    "unit": (lambda: np.save("x.npy", pixels() / 255.0), "x.npy", "in [0, 1]", "gaussian"),
    "real": (lambda: np.save("x.npy", pixels() / 50.0), "x.npy", "finite real numbers", "gaussian"),
    "flat": (lambda: np.save("x.npy", pixels().reshape(40, -1) / 255.0), "x.npy", "in [0, 1]", "gaussian"),
    "torch": (
        lambda: torch.save({"images": torch.from_numpy(pixels()), "labels": torch.arange(40)}, "x.pt"),
        *("x.pt", "one of 256 levels", "discretized-gaussian"),
    ),
    "safetensors": (
        lambda: safetensors.torch.save_file({"x": torch.from_numpy(pixels())}, "x.safetensors"),
        *("x.safetensors", "one of 256 levels", "discretized-gaussian"),
    ),
    "folder": (lambda: folder_of_classes("photos"), "photos", "one of 256 levels", "discretized-gaussian"),
    "gray folder": (lambda: folder_of_classes("photos", 1), "photos", "one of 256 levels", "discretized-gaussian"),
    "every mode": (lambda: folder_of_every_mode("photos"), "photos", "one of 256 levels", "discretized-gaussian"),
}


@pytest.mark.usefixtures(no_figures.__name__)
@pytest.mark.parametrize("name", SOURCES)
def test_own_data(name: str, program: Program) -> None:
    make, source, found, likelihood = SOURCES[name]
    make()
    said = program("train", source, *QUICK, "--out", "run")
    assert said.code == 0
    assert f"pixels {found}" in said.err
    assert f"likelihood {likelihood};" in said.err
    assert program("evaluate", "run", "--samples", 3).code == 0
    assert program("evaluate", "run", "--samples", 3, "--input", source).code == 0
    assert results("run")["kind"] == ("density" if likelihood == "gaussian" else "probability")
    assert results("run", "input")["images"] in (30, 36, 40)


def test_levels_decide_the_likelihood(program: Program) -> None:
    np.save("x.npy", pixels() // 64)
    said = program("train", "x.npy", *QUICK, "--set", "data.levels=4", "--out", "run", "--dry-run")
    assert 'name = "categorical"' in said.out


def test_a_folder_of_color_classes_has_all_figures(program: Program) -> None:
    folder_of_classes("photos")
    (Path("photos") / "left" / "bad.png").write_bytes(b"this is no picture")
    assert "left/bad.png" in program.refuses("train", "photos", *QUICK, "--out", "run")
    said = program("train", "photos", *QUICK, "--skip-bad", "--out", "run")
    assert "left out (--skip-bad): left/bad.png" in said.err
    assert program("evaluate", "run", "--samples", 3).code == 0
    opened = vaelid.open_run("run")
    assert opened.split("test").images.label_names == ("left", "right")
    assert opened.sample(2).means.shape == (2, 3, 6, 6)
    with Image.open("run/figures/generated_images.png") as picture:
        assert len({tuple(color) for color in np.asarray(picture.convert("RGB")).reshape(-1, 3)}) > 10
    said = program("evaluate", "run", "--samples", 3, "--input", "photos")
    assert "left out (data.skip_bad): left/bad.png" in said.err
    assert "right/0.png" in said.out


def test_images_are_brought_to_one_size(program: Program) -> None:
    Path("photos").mkdir()
    for number, side in enumerate([6, 7, 12, 9, 6, 30]):
        Image.fromarray(pixels(1, 3, side)[0].transpose(1, 2, 0)).save(f"photos/{number}.png")
    assert program("train", "photos", *QUICK, "--set", "data.size=5", "--out", "run").code == 0
    assert vaelid.open_run("run").data.shape == (3, 5, 5)
    Image.fromarray(pixels(1, 1, 50)[0, 0]).save("new.png")  # gray, where color was trained
    assert program("evaluate", "run", "--samples", 3, "--input", "new.png").code == 0
