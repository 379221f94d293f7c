"""What must hold before a likelihood is printed: sound models, and numbers that are possible."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vaelid
import vaelid.judging
from data_fixtures import settings
from tiny_runs import SAMPLES, Program, evaluated, no_figures, trained
from vaelid.data import DataSettings, Images, Split, load_data
from vaelid.errors import CheckFailed, UserError
from vaelid.evaluation.floor import below_floor, floor_of, least_nll
from vaelid.run import Run
from vaelid.supports import BYTES, REAL

pytestmark = pytest.mark.usefixtures(no_figures.__name__)

MIXING = """
from vaelid import GaussianPosterior

class Mixing(GaussianPosterior):
    \"\"\"Batch statistics, the mistake of a BatchNorm that is left in training mode.\"\"\"

    def forward(self, x):
        return super().forward((x - x.mean(0)).clamp(0, 1) if len(x) > 1 else x)
"""


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Program:
    return Program(capsys)


# Sound models -------------------------------------------------------------------------------------------------------------


def test_a_sound_model_says_what_was_checked(tmp_path: Path) -> None:
    found = evaluated(tmp_path).results["test"]
    assert found["failed"] == []
    assert {guard["verdict"] for guard in found["guards"]} == {"pass"}
    assert len(found["guards"]) == 5
    assert "log q(z_i|x_i) depends on example i alone" in {guard["hypothesis"] for guard in found["guards"]}


def test_a_model_that_mixes_images_gets_no_likelihood(tmp_path: Path, run: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("parts.py").write_text(MIXING)
    options = ["--epochs", 1, "--posterior", "parts.py:Mixing", "--set", "data.train_limit=40", "--hidden", "4", "--latent", 2]
    assert run("train", "digits", *options, "--set", "data.held_out_limit=20", "--out", "mixed").code == 0
    said = run("evaluate", "mixed", "--samples", 3)
    assert (said.code, said.out) == (3, "")
    assert "log q(z_i|x_i) changes with the rest of the batch" in said.err
    assert "--force" in said.err
    assert not Path("mixed/results.json").exists()
    assert not Path("mixed/results").exists()
    forced = run("evaluate", "mixed", "--samples", 3, "--force")
    assert forced.code == 0
    assert "FAILED CHECK, so these are no likelihoods: log q(z_i|x_i) changes with the rest" in " ".join(forced.out.split())
    stored = json.loads(Path("mixed/results.json").read_text())["test"]
    assert stored["failed"] == ["log q(z_i|x_i) changes with the rest of the batch"]
    [guard] = [guard for guard in stored["guards"] if guard["verdict"] == "fail"]
    assert (guard["guilty"], guard["error"] > guard["tolerance"]) == ("posterior", True)
    np.save("new.npy", (Run("mixed").split("test").batch(torch.arange(1)) * 16).to(torch.uint8).numpy())
    assert "rest of the batch" in run.refuses("evaluate", "mixed", "--input", "new.npy", "--samples", 3, code=3)


def test_weights_that_are_no_numbers_get_no_likelihood(tmp_path: Path) -> None:
    opened = evaluated(tmp_path)
    before = opened.folder.results_file.read_bytes()
    weights = opened.folder.weights()
    name = next(name for name in weights if name.startswith("likelihood"))
    weights[name].view(-1)[0] = math.nan
    opened.folder.write_weights(weights, {})
    with pytest.raises(CheckFailed, match=f"Weights hold NaN or infinity: {name}"):
        Run(opened.folder.path, "cpu").evaluate(samples=2)
    assert opened.folder.results_file.read_bytes() == before


def test_numbers_that_failed_a_check_are_not_compared(tmp_path: Path) -> None:
    one, two = evaluated(tmp_path, "one"), evaluated(tmp_path, "two")
    results = two.results
    results["test"]["failed"] = ["images leak"]
    two.folder.write_json(two.folder.results_file, results)
    with pytest.raises(UserError, match="two failed a check, so that its numbers are no likelihoods: images leak"):
        vaelid.compare(one.folder.path, two.folder.path)
    assert "images leak" in vaelid.compare(one.folder.path, two.folder.path, anyway=True).warnings[0]


# Possible numbers ---------------------------------------------------------------------------------------------------------


def gray(binarization: str, pixels: torch.Tensor) -> Split:
    return Split("test", Images("gray", pixels, BYTES), torch.arange(len(pixels)), settings(binarization=binarization))


def test_the_floor_of_drawn_pixels_is_their_entropy() -> None:
    pixels = torch.tensor([[0, 255, 51, 51], [0, 0, 0, 255]], dtype=torch.uint8)
    entropy = -(0.2 * math.log(0.2) + 0.8 * math.log(0.8))
    for drawn in ("dynamic", "resampled"):
        assert least_nll(gray(drawn, pixels), True) == pytest.approx([2 * entropy, 0])
    for fixed in ("threshold", "none"):
        assert least_nll(gray(fixed, pixels), True) == pytest.approx([0, 0])
    real = Split("test", Images("real", torch.randn(3, 2), REAL), torch.arange(3), settings())
    assert least_nll(real, False) is None


@pytest.mark.usefixtures("vaelid_data")
def test_the_floor_of_binarized_mnist() -> None:
    least = least_nll(load_data(DataSettings("mnist", binarization="dynamic")).test, True)
    assert least is not None
    assert len(least) == 10_000
    assert least.mean() == pytest.approx(45.53, abs=0.005)


def test_the_true_model_reaches_the_floor_and_nothing_may_be_below() -> None:
    generator = torch.Generator().manual_seed(0)
    split = gray("dynamic", torch.randint(0, 256, (500, 60), dtype=torch.uint8, generator=generator))
    positions = torch.arange(500)
    probability, x = split.gray(positions).double(), split.batch(positions).double()
    true = -torch.distributions.Bernoulli(probs=probability).log_prob(x).sum(1).numpy()  # it knows each gray value
    least = least_nll(split, True)
    assert least is not None
    floor = floor_of({"nll": true}, least)
    assert abs(floor["above"]["nll"]["value"]) < 4 * floor["above"]["nll"]["se"]
    assert below_floor(floor) == []
    [complaint] = below_floor(floor_of({"nll": true - 5 * floor["above"]["nll"]["se"] - 1, "neg_elbo": true}, least))
    assert f"The mean nll of {true.mean() - 1 - 5 * floor['above']['nll']['se']:.3f} nats is impossible" in complaint
    assert f"below {least.mean():.3f} (mean pixel entropy of these images), which no model can beat" in complaint


def test_one_image_and_rounding_are_not_judged() -> None:
    assert below_floor(floor_of({"nll": np.array([-3.0])}, np.zeros(1))) == []
    assert below_floor(floor_of({"nll": np.array([-1e-5, -1e-5])}, np.zeros(2))) == []
    assert len(below_floor(floor_of({"nll": np.array([-3.0, -3.0])}, np.zeros(2)))) == 1
    # Five standard errors: of two images that happens to one in sixteen by luck (Student's t with one degree of freedom).
    assert below_floor(floor_of({"nll": np.array([-4.0, -6.0])}, np.zeros(2))) == []
    many = np.tile([-0.5, 0.4], 5000)  # mean −0.05, eleven standard errors
    assert len(below_floor(floor_of({"nll": many}, np.zeros(10_000)))) == 1


def test_an_impossible_mean_is_an_error_and_no_record(tmp_path: Path, run: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = trained(tmp_path)
    monkeypatch.setattr(vaelid.judging, "least_nll", lambda split, discrete: np.full(len(split), 1e4))
    said = run("evaluate", opened.folder.path, "--samples", SAMPLES)
    assert (said.code, said.out) == (3, "")
    assert "nats is impossible" in said.err
    assert not opened.folder.results_file.exists()
    work: list[int] = []
    evaluate_images = vaelid.judging.evaluate_images
    monkeypatch.setattr(
        vaelid.judging, "evaluate_images", lambda *given: work.append(len(given[5]["nll"])) or evaluate_images(*given)
    )
    forced = run("evaluate", opened.folder.path, "--samples", SAMPLES, "--force", "--json")
    assert forced.code == 0
    assert work == [30], "what was computed is not computed again"
    found = json.loads(forced.out)["test"]
    assert len(found["failed"]) == 2, "nll and neg_elbo"
    assert found["floor"]["value"] == 1e4
    assert found["floor"]["above"]["nll"]["value"] == pytest.approx(found["nll"]["value"] - 1e4)


@pytest.mark.parametrize("name", ["nll", "neg_elbo"])
def test_a_bound_that_is_no_number_is_an_error_and_no_record(
    name: str, tmp_path: Path, run: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, evaluate_images = trained(tmp_path), vaelid.judging.evaluate_images

    def broken(*given: Any) -> dict[str, np.ndarray]:
        values = evaluate_images(*given)
        values[name][[3, 7]] = np.nan
        return values

    monkeypatch.setattr(vaelid.judging, "evaluate_images", broken)
    said = run("evaluate", opened.folder.path, "--samples", SAMPLES)
    assert (said.code, said.out) == (3, "")
    assert f"The {name} of 2 of 30 images is not a number (NaN), first that of image 4" in said.err
    assert not opened.folder.results_file.exists()


def test_infinite_bounds_are_numbers_and_densities_may_not_be_nan_either() -> None:
    assert vaelid.judging.require_possible({"nll": np.array([1.0, np.inf])}, None) == []
    with pytest.raises(CheckFailed, match="The ais of 1 of 2 images is not a number"):
        vaelid.judging.require_possible({"ais": np.array([1.0, np.nan])}, None)


def test_the_floor_stands_with_the_results(tmp_path: Path, run: Program) -> None:
    opened = evaluated(tmp_path)
    assert opened.results["test"]["floor"]["value"] == 0
    assert "no model can be below 0.000 nats (0, as these are probabilities)" in run("show", opened.folder.path).out
