"""``vaelid score`` and ``Run.score``: anchors, names, extractors, what is written, what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import vaelid
from data_fixtures import settings
from tiny_runs import Program, no_figures, trained
from training_helpers import Notes
from vaelid.data import Data, Images, load_data, split_data
from vaelid.data.store import cache_folder
from vaelid.errors import CheckFailed, DataError, MachineError, UserError
from vaelid.progress import Reporter, Silent
from vaelid.scoring import classifier, kept
from vaelid.scoring.classifier import classifier_of
from vaelid.scoring.extractors import settle_extractor
from vaelid.scoring.features import extract
from vaelid.scoring.images import other_real, real_images, settle_count, trivial_images
from vaelid.scoring.kept import training_features
from vaelid.scoring.projection import RandomProjection
from vaelid.scoring.score import Yardstick
from vaelid.supports import REAL

pytestmark = pytest.mark.usefixtures(no_figures.__name__)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Program:
    return Program(capsys)


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A classifier in seconds."""
    monkeypatch.setattr(classifier, "_LEAST_STEPS", 60)


def features_of_training(data: Data, looks: list[int], reporter: Reporter | None = None) -> torch.Tensor:
    """The features of the training images as ``Yardstick`` asks for them; ``looks`` gets an entry when they are computed."""
    extractor = RandomProjection(data.shape)

    def look() -> torch.Tensor:
        looks.append(len(data.train))
        return extract(extractor, real_images(data.train, len(data.train))).values

    return training_features(data.train, extractor, look, reporter or Silent())


def test_features_of_the_training_images_are_computed_once_per_data_and_extractor() -> None:
    looks: list[int] = []
    data, fewer = (load_data(settings("digits", train_limit=count)) for count in (100, 99))
    first = features_of_training(data, looks)
    assert torch.equal(features_of_training(data, looks), first), "to the last bit"
    assert looks == [100]
    features_of_training(fewer, looks)
    assert looks == [100, 99], "other images have other features"
    redrawn = load_data(settings("digits", train_limit=100, binarization="resampled"))
    drawn = features_of_training(redrawn, looks)
    assert torch.equal(features_of_training(redrawn, looks), drawn)
    assert looks == [100, 99, 100], "pixels that are redrawn are those of the first access"


def test_a_damaged_file_of_features_is_named() -> None:
    data = load_data(settings("digits", train_limit=50))
    features_of_training(data, [])
    [file] = (cache_folder() / "extractors").glob("training-*.safetensors")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(MachineError, match=r"training-random-projection.* is damaged: .*\nRemove it"):
        features_of_training(data, [])


def test_a_bit_that_fell_over_in_the_kept_features_is_seen() -> None:
    data = load_data(settings("digits", train_limit=50))
    features_of_training(data, [])
    [file] = (cache_folder() / "extractors").glob("training-*.safetensors")
    raw = bytearray(file.read_bytes())
    raw[-3] ^= 1
    file.write_bytes(raw)
    with pytest.raises(MachineError, match=r"training-random-projection.* is damaged: .* another checksum"):
        features_of_training(data, [])


def test_a_cache_that_cannot_be_used_costs_time_and_no_score() -> None:
    data, looks, notes = load_data(settings("digits", train_limit=50)), list[int](), Notes()
    cache_folder().parent.mkdir(parents=True, exist_ok=True)
    cache_folder().write_text("a file where a folder must be")
    features_of_training(data, looks, notes)
    assert looks == [50]
    [said] = notes.said
    assert "are not kept" in said
    assert "VAELID_CACHE names another folder" in said


def test_a_disk_that_is_full_costs_time_and_no_score(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MachineError("x cannot be written: No space left on device.", "Make room or choose another folder.")

    data, looks, notes = load_data(settings("digits", train_limit=50)), list[int](), Notes()
    monkeypatch.setattr(kept, "write_atomic", full)
    assert len(features_of_training(data, looks, notes)) == looks[0] == 50
    [said] = notes.said
    assert "No space left on device" in said
    assert "--out" not in said, "a score has no such option"


def test_a_disk_that_fails_under_the_images_is_not_the_caches_fault() -> None:
    data = load_data(settings("digits", train_limit=50))

    def look() -> torch.Tensor:
        raise OSError("the images cannot be read")

    with pytest.raises(OSError, match="the images cannot be read"):
        training_features(data.train, RandomProjection(data.shape), look, Silent())


@pytest.mark.usefixtures(few_steps.__name__)
def test_scores_are_the_same_with_features_that_were_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = trained(tmp_path)
    fresh = opened.score()
    monkeypatch.setattr(Yardstick, "_look_at_training", lambda _: pytest.fail("they are kept"))
    assert opened.score()["scores"] == fresh["scores"]


def unlabeled(data: Data) -> Data:
    images = data.train.images
    bare = Images(images.name, images.pixels, images.support)
    return split_data(bare, data.train.settings)


@pytest.mark.usefixtures(few_steps.__name__)
def test_score_from_the_command_line(tmp_path: Path, run: Program) -> None:
    opened = trained(tmp_path)
    words = ["score", opened.folder.path, "--device", "cpu"]
    said = run(*words)
    assert said.code == 0, said.err
    assert "training a classifier on the labels of digits, once" in said.err
    printed = " ".join(said.out.split())
    for text in (
        "30 images per set, draws from p(x|z)",
        "FD-classifier",
        "IS-classifier",
        "coverage-classifier",
        "all against test images",
        "real: other real images (validation); independent pixels: each with its own distribution in the training images",
        "pixels ┃ better",
        "trained on 128 images",
        f"weights {opened.weights_digest[:12]}…",
    ):
        assert text in printed, text
    assert "trivial" not in printed, "one name for one thing"
    assert "FID" not in printed
    assert "KID" not in printed
    again = run(*words, "--mean", "-n", 25, "--json")
    assert "training a classifier" not in again.err, "it is in the cache"
    found = json.loads(again.out)
    assert opened.results["scores"]["test/means/classifier"] == found
    assert list(opened.results["scores"]) == ["test/draws/classifier", "test/means/classifier"]
    assert (found["images_per_set"], found["pixels"]) == (25, "means of p(x|z)")
    [file] = list((Path(classifier.cache_folder()) / "extractors").glob("classifier-*.safetensors"))
    assert found["extractor"]["sha256"] == classifier.hashlib.sha256(file.read_bytes()).hexdigest()
    assert 0 <= found["extractor"]["test_accuracy"] <= 1
    assert found["sets"]["reference"]["fingerprint"] == opened.split("test").fingerprint
    for name, row in found["scores"].items():
        for who in ("model", "real", "trivial"):
            if row[who] is not None:
                low, high = row[who]["interval"]
                assert low <= row[who]["value"] <= high, (name, who)
    shown = run("show", opened.folder.path).out
    assert "means of p(x|z)" in shown
    assert "OUT OF DATE" not in shown
    opened.folder.write_weights({name: tensor + 0.01 for name, tensor in opened.folder.weights().items()}, {})
    assert "OUT OF DATE: these scores are of other weights" in run("show", opened.folder.path).out
    assert (
        "was not evaluated on the scores split" in run("compare", opened.folder.path, opened.folder.path, "--split", "scores").err
    )


def test_real_images_score_best_and_seeds_name_the_noise(tmp_path: Path) -> None:
    opened = trained(tmp_path)
    found = opened.score(extractor="random-projection")
    assert "IS-random-projection" not in found["scores"], "no classes, no Inception Score"
    distance = found["scores"]["FD-random-projection"]
    assert distance["real"]["value"] < min(distance["model"]["value"], distance["trivial"]["value"])
    assert opened.score(extractor="random-projection")["scores"] == found["scores"]
    other = opened.score(extractor="random-projection", seed=1)["scores"]
    assert other["FD-random-projection"]["real"]["value"] == distance["real"]["value"]
    assert other["FD-random-projection"]["model"]["value"] != distance["model"]["value"]
    means = opened.score(extractor="random-projection", means=True)["scores"]["FD-random-projection"]
    assert means["trivial"] == distance["trivial"], "the trivial model always draws"
    assert means["model"] != distance["model"]
    train = opened.score("train", extractor="random-projection")
    assert (train["sets"]["reference"]["split"], train["sets"]["real"]["split"]) == ("train", "test")
    assert opened.score("validation", extractor="random-projection")["sets"]["real"]["split"] == "test"


def test_images_that_are_not_finite_are_not_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = trained(tmp_path)
    monkeypatch.setattr(RandomProjection, "__call__", lambda self, x: classifier.Features(x.flatten(1) / 0))
    with pytest.raises(CheckFailed, match="features that are not finite"):
        opened.score(extractor="random-projection")
    assert "scores" not in opened.results


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("--split tests", "There is no split 'tests'. Choose one of: train, validation, test."),
        ("-n 31", "31 images per set were asked for; test has 30 and validation, the real images to set beside it, 30."),
        ("-n 19", "Scores need at least 20 images per set; 19 are asked for or there."),
        ("-n 0", "Scores need at least 20 images per set; 0 are asked for or there."),
        ("--extractor incepton", "inception"),
        ("--extractor classifier --weights w.pth", "--weights are those of the extractor inception; classifier was asked for."),
        ("--weights w.pth", "--weights names w.pth, which is no file."),
    ],
)
def test_requests_that_cannot_be(words: str, reason: str, tmp_path: Path, run: Program) -> None:
    assert reason in run.refuses("score", trained(tmp_path).folder.path, *words.split())


def test_no_run_no_scores(tmp_path: Path, run: Program) -> None:
    assert "is no run folder" in run.refuses("score", tmp_path / "none")


# Extractors ---------------------------------------------------------------------------------------------------------------


def test_the_classifier_learns_digits() -> None:
    data = load_data(settings("digits"))
    found = classifier_of(data, Silent())
    assert found.about["test_accuracy"] > 0.95
    assert found.about["trained_on"] == len(data.train)
    features = found(data.test.batch(torch.arange(7)))
    assert features.values.shape == (7, 64)
    assert features.log_probabilities is not None
    assert features.log_probabilities.shape == (7, 10)
    assert classifier_of(data, Silent()).digest == found.digest


@pytest.mark.usefixtures(few_steps.__name__)
def test_a_damaged_classifier_is_told() -> None:
    data = load_data(settings("digits", train_limit=100, held_out_limit=20))
    classifier_of(data, Silent())
    [file] = list((classifier.cache_folder() / "extractors").glob("classifier-*.safetensors"))
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(MachineError, match=r"is damaged: .*\nRemove it; the classifier is then trained again"):
        classifier_of(data, Silent())
    shutil.rmtree(file.parent)
    file.parent.write_text("a file where a folder must be")
    with pytest.raises(MachineError, match="Set VAELID_CACHE"):
        classifier_of(data, Silent())


def test_which_extractor_fits(tmp_path: Path) -> None:
    data = load_data(settings("digits"))
    assert settle_extractor("auto", data, None) == "classifier"
    assert settle_extractor("auto", data, tmp_path / "w.pth") == "inception"
    assert settle_extractor("auto", unlabeled(data), None) == "random-projection"
    with pytest.raises(DataError, match=r"digits has no labels to train a classifier on"):
        classifier_of(unlabeled(data), Silent())


def test_random_projections_are_orthonormal_and_the_same_for_everyone() -> None:
    one, two = RandomProjection((1, 12, 12)), RandomProjection((1, 12, 12))
    assert torch.allclose(one.matrix.T @ one.matrix, torch.eye(64, dtype=torch.float64))
    assert one.digest == two.digest != RandomProjection((1, 13, 13)).digest
    x = torch.rand(3, 1, 5, 5)  # fewer pixels than features: distances stay as they are
    assert torch.pdist(RandomProjection((1, 5, 5))(x).values).tolist() == pytest.approx(torch.pdist(x.flatten(1)).tolist())


# Images -------------------------------------------------------------------------------------------------------------------


def test_the_trivial_model_has_the_marginals_of_the_training_images() -> None:
    data = load_data(settings("digits"))
    drawn = torch.cat(list(trivial_images(data.train, 3000, seed=0)))
    real = data.train.batch(torch.arange(len(data.train)))
    assert drawn.shape == (3000, 1, 8, 8)
    data.support.check(drawn)
    assert torch.allclose(drawn.mean(0), real.mean(0), atol=0.05)
    assert torch.allclose(drawn.std(0), real.std(0), atol=0.05)
    pixels = drawn.flatten(1)[:, [27, 28]]
    assert abs(torch.corrcoef(pixels.T)[0, 1]) < 0.08 < abs(torch.corrcoef(real.flatten(1)[:, [27, 28]].T)[0, 1])


def test_the_trivial_model_of_real_values() -> None:
    images = Images("real", torch.randn(500, 1, 2, 2) * 3 + 7, REAL)
    drawn = torch.cat(list(trivial_images(split_data(images, settings()).train, 2000, seed=0)))
    assert drawn.mean().item() == pytest.approx(7, abs=0.3)
    assert drawn.std().item() == pytest.approx(3, abs=0.3)


def test_sets_have_one_size() -> None:
    data = load_data(settings("digits"))
    assert settle_count(None, data.test, other_real(data, data.test)) == min(len(data.test), len(data.validation))
    assert settle_count(20, data.test, data.validation) == 20
    with pytest.raises(UserError, match="Ask for at most"):
        settle_count(100_000, data.test, data.validation)


def test_score_is_a_public_verb() -> None:
    assert callable(vaelid.Run.score)
