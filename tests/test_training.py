"""The loop itself: what it minimizes, when it stops, what it refuses, and what it leaves behind in the process around it."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch

from training_helpers import CPU, Notes, assert_not_called, data_of, gray_data, metrics_of, ready, scripted, tiny, tiny_of, train
from vaelid.build import build_model
from vaelid.data import Images, Split
from vaelid.data.settings import DataSettings
from vaelid.data.splits import split_data
from vaelid.errors import Diverged, MachineError, SupportError
from vaelid.folder import RunFolder
from vaelid.optimizers import Plateau
from vaelid.supports import REAL, levels
from vaelid.training import loop, start
from vaelid.training.checkpoint import load_checkpoint
from vaelid.training.loop import LEGEND, Pace
from vaelid.training.start import choose_device
from vaelid.training.state import average_of, update_average
from vaelid.training.surroundings import own_randomness

# The loop -----------------------------------------------------------------------------------------------------------------


def test_the_metrics_have_one_line_per_epoch_with_all_figures(tmp_path: Path) -> None:
    train(tmp_path, tiny())
    lines = RunFolder(tmp_path).metrics()
    assert [(line["epoch"], line["step"]) for line in lines] == [(1, 6), (2, 12), (3, 18)]
    for line in lines:
        assert line["neg_elbo"] == line["rate"] + line["distortion"]
        assert line["best"] == min(other["neg_elbo"] for other in lines[: line["epoch"]])
        assert line["lr"] == 1e-3
        assert all(line[key] > 0 for key in ("loss", "rate", "grad_norm", "train_seconds", "validation_seconds"))
        assert (line["rate_kind"], line["latent"], line["dead_components"]) == ("sampled", 3, 0)
        assert 0 <= line["active_units"] <= 3


def test_the_loss_is_the_mean_of_the_bound_over_the_images(tmp_path: Path) -> None:
    """With no step taken to speak of, no noise and batches of unequal size, the epoch's loss is the model's −ELBO."""
    recipe = tiny(
        optimizer__name="sgd", optimizer__lr=1e-12, training__batch_size=100, training__epochs=1, prior__name="standard-normal"
    )
    training = ready(tmp_path / "model", recipe)
    start.first_look(training.model, training.data)
    x = training.data.train.batch(torch.arange(192))
    # Distortion depends on the noise: average it away here, and allow for its spread there.
    expected = -training.model.elbo(x, samples=300).detach()
    noise = torch.stack([-training.model.elbo(x).detach().mean() for _ in range(30)]).std()
    train(tmp_path / "run", recipe)
    assert metrics_of(tmp_path / "run")[0]["loss"] == pytest.approx(float(expected.mean()), abs=5 * float(noise))


def test_training_learns(tmp_path: Path) -> None:
    train(tmp_path, tiny(optimizer__lr=0.01, training__epochs=10, likelihood__start="network"))
    lines = metrics_of(tmp_path)
    assert lines[0]["loss"] < 64 * math.log(17)  # what a uniform guess of every pixel costs
    assert lines[-1]["neg_elbo"] < lines[0]["neg_elbo"] - 20
    assert lines[-1]["loss"] < lines[0]["loss"] - 20


def test_one_step_is_the_optimizers_own(tmp_path: Path) -> None:
    """One batch, plain gradient descent: every weight moves by −lr · gradient of the mean negative bound."""
    recipe = tiny(
        optimizer__name="sgd", optimizer__lr=0.01, training__batch_size=192, training__epochs=1, training__clip_norm=0.5
    )
    ours, data = ready(tmp_path, recipe), data_of(recipe)
    with own_randomness(recipe.training.seed):
        model = build_model(recipe, data.shape, data.support, Path())  # as nothing of training has touched it
    torch.manual_seed(5)
    loop.train_epoch(ours, Notes(), lambda: False, Pace(1000.0))
    torch.manual_seed(5)
    order = loop.permutation(192, recipe.training.seed, 0)
    seen = model(data.train.batch(order, 0, 0))
    (-ours.objective(seen).mean()).backward()
    parameters = list(model.parameters())
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in parameters if p.grad is not None))
    assert norm > 0.5
    for mine, theirs in zip(ours.model.parameters(), parameters, strict=True):
        expected = theirs - 0.01 * 0.5 / norm * theirs.grad
        torch.testing.assert_close(mine, expected, atol=1e-7, rtol=1e-5)
    assert ours.state.norm_sum == pytest.approx(norm, rel=1e-5)


def test_with_code_of_a_users_own_autograd_keeps_every_gradient(tmp_path: Path) -> None:
    """It may use the weights of a layer in any way; where only our own parts do, the gradients of layers are multiplied later."""
    recipe = tiny()
    for code, kept in (({}, False), ({"mine.py": "0" * 64}, True)):
        training = ready(tmp_path, dataclasses.replace(recipe, code=code))
        layers = [m for m in training.model.modules() if isinstance(m, torch.nn.Linear)]
        assert [layer.weight.requires_grad for layer in layers] == [kept] * 4
        assert len(training.weights.parameters) == len(list(training.model.parameters()))


def test_the_order_of_images_changes_from_epoch_to_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []
    batches = Split.batches

    def noted(split: Split, positions: Sequence[torch.Tensor], epoch: int = 0, seed: int = 0) -> Iterator[torch.Tensor]:
        if split.name == "train":
            seen.append(torch.cat(list(positions)).tolist())
        return batches(split, positions, epoch, seed)

    training = ready(tmp_path, tiny(training__batch_size=64, training__epochs=2))
    monkeypatch.setattr(Split, "batches", noted)
    loop.fit(training, Notes(), lambda: False, 1000.0)
    first, second = seen
    assert sorted(first) == sorted(second) == list(range(192))
    assert first != second


def test_the_objective_is_warmed_up_batch_by_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = ready(tmp_path, tiny(objective__warmup=1.5, objective__beta=4.0, training__epochs=2))
    asked: list[float] = []
    at = type(training.objective).at
    monkeypatch.setattr(type(training.objective), "at", lambda self, epoch: (asked.append(epoch), at(self, epoch))[1])
    loop.fit(training, Notes(), lambda: False, 1000.0)
    assert asked == pytest.approx([i / 6 for i in range(12)])


def test_the_average_of_weights_follows_them(tmp_path: Path) -> None:
    model = build_model(tiny(), (1, 8, 8), levels(17), Path())
    model.register_buffer("statistic", torch.tensor([1.0, 2.0]))
    average = average_of(model, 0.9)
    before = [p.clone() for p in average.parameters()]
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
        model.statistic.fill_(7.0)
    update_average(average, model, 0.9)
    for kept, old in zip(average.parameters(), before, strict=True):
        torch.testing.assert_close(kept, old + 0.1)
        assert not kept.requires_grad
    assert average.statistic.tolist() == [7.0, 7.0]
    assert average_of(model, 0.0) is model


def test_the_average_is_what_is_validated_and_kept(tmp_path: Path) -> None:
    train(tmp_path / "frozen", tiny(training__ema=0.999999, optimizer__lr=0.05))
    lines = metrics_of(tmp_path / "frozen")
    assert lines[-1]["neg_elbo"] == pytest.approx(lines[0]["neg_elbo"], abs=0.01)
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.5
    tensors = load_checkpoint(RunFolder(tmp_path / "frozen"), assert_not_called).group("model")
    best = RunFolder(tmp_path / "frozen").weights()
    assert not torch.allclose(best["prior.mean"], tensors["prior.mean"], atol=0.01)


# Stopping -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patience", "warmup", "values", "epochs", "outcome"),
    [
        (2, 0.0, [5, 4, 4, 6, 5, 1, 1, 1], 5, "no improvement for 3 epochs"),  # equal is not better; more than two in a row
        (2, 0.0, [5, 4, 5, 5, 3, 5, 5, 5], 8, "no improvement for 3 epochs"),  # an improvement sets the count back
        (1, 4.0, [5, 6, 6, 6, 6, 6, 6, 6], 6, "no improvement for 2 epochs"),  # counted from the fifth epoch on
        (1, 0.5, [5, 6, 6, 6, 6, 6, 6, 6], 3, "no improvement for 2 epochs"),
        (0, 0.0, [5, 6, 6, 6, 6, 6, 6, 6], 8, "all 8 epochs done"),  # no patience asked for
    ],
)
def test_patience(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    patience: int,
    warmup: float,
    values: list[float],
    epochs: int,
    outcome: str,
) -> None:
    scripted(monkeypatch, values)
    recipe = tiny(training__patience=patience, objective__warmup=warmup, training__epochs=8, data__train_limit=32)
    assert train(tmp_path, recipe) == outcome
    assert len(metrics_of(tmp_path)) == epochs
    assert RunFolder(tmp_path).read_json(RunFolder(tmp_path).environment_file)["outcome"] == outcome


def test_the_best_weights_are_kept_not_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        scripted(patch, [5.0, 4.0, 6.0, 7.0])
        train(tmp_path / "four", tiny(training__epochs=4))
    with monkeypatch.context() as patch:
        scripted(patch, [5.0, 4.0])
        train(tmp_path / "two", tiny(training__epochs=2))
    four, two = RunFolder(tmp_path / "four"), RunFolder(tmp_path / "two")
    assert four.weights_file.read_bytes() == two.weights_file.read_bytes()
    assert four.read_arrays(four.progress_file)["epochs"].tolist() == [1, 2]
    last = load_checkpoint(four, assert_not_called).group("model")
    assert any(not torch.equal(tensor, last[name]) for name, tensor in four.weights().items())


def test_the_last_weights_are_kept_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, [5.0, 4.0, 6.0, 7.0])
    train(tmp_path, tiny(training__epochs=4, training__keep="last"))
    folder = RunFolder(tmp_path)
    last = load_checkpoint(folder, assert_not_called)
    for name, tensor in folder.weights().items():
        assert torch.equal(tensor, last.group("model")[name]), name
    with safetensors.safe_open(folder.weights_file, "pt") as file:
        assert json.loads(file.metadata()["about"]).items() >= {"epoch": 4, "neg_elbo": 7.0}.items()
    assert last.facts["state"]["best_epoch"] == 2  # patience and pictures still follow the best
    assert folder.read_arrays(folder.progress_file)["epochs"].tolist() == [1, 2]


def test_a_plateau_is_not_looked_for_during_warm_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    monkeypatch.setattr(Plateau, "observe", lambda self, neg_elbo: seen.append(neg_elbo))
    scripted(monkeypatch, [5.0, 6.0, 7.0, 8.0])
    train(tmp_path, tiny(objective__warmup=2.0, schedule__name="plateau", training__epochs=4))
    assert seen == [7.0, 8.0]


# When to save -------------------------------------------------------------------------------------------------------------


def test_the_pace_of_saving(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    class Slow:
        def checkpoint(self) -> None:
            now[0] += 3.0

    pace = Pace(10.0)
    now[0] += 9.0
    assert not pace.due()
    now[0] += 1.0
    assert pace.due()
    pace.save(Slow())
    now[0] += 59.0
    assert not pace.due()  # saving took 3 seconds: the next one is due after 60
    now[0] += 1.0
    assert pace.due()
    always = Pace(0.0)
    always.save(Slow())
    assert always.due()


def test_long_epochs_are_saved_in_between_and_their_seconds_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = ready(tmp_path, tiny(training__epochs=1))
    now, stands = [0.0], []
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def slow_save() -> None:
        stands.append((training.state.batch, training.state.seconds))
        now[0] += 1000.0

    def step(steps: int) -> None:
        now[0] += 1.0

    monkeypatch.setattr(training, "checkpoint", slow_save)
    loop.fit(training, Notes(step), lambda: False, 0.0)
    assert stands == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0), (5, 5.0), (0, 0.0)]
    assert training.history[0]["train_seconds"] == 6.0


# What is refused before training ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_pixels_outside_the_support_are_refused_with_value_index_and_remedy(tmp_path: Path, split: str) -> None:
    position = 1
    source = int(gray_data(REAL).splits[split].indices[position])
    data = gray_data(REAL, spoiled=source)
    recipe = tiny(likelihood__name="bernoulli")
    with pytest.raises(SupportError, match=rf"own, {split} image {position}: .*index \(0, 1, 0\) is 0.3\d* ") as caught:
        train(tmp_path, recipe, data=data)
    assert "binarization" in caught.value.remedy
    assert not RunFolder(tmp_path).exists
    assert list(tmp_path.iterdir()) == []


def test_real_pixels_that_all_fit_are_accepted(tmp_path: Path) -> None:
    train(tmp_path, tiny(likelihood__name="bernoulli", training__epochs=1), data=gray_data(REAL))
    assert len(metrics_of(tmp_path)) == 1


def test_devices() -> None:
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type in ("cpu", "cuda", "mps")
    with pytest.raises(MachineError, match=r"'tpu:1' was asked for; this machine has: .*cpu"):
        choose_device("tpu:1")


def test_the_seed_is(tmp_path: Path) -> None:
    train(tmp_path / "one", tiny(training__epochs=1))
    train(tmp_path / "two", tiny(training__epochs=1, training__seed=1))
    assert metrics_of(tmp_path / "one")[0]["loss"] != metrics_of(tmp_path / "two")[0]["loss"]


def test_the_environment_says_what_the_numbers_depend_on(tmp_path: Path) -> None:
    train(tmp_path, tiny(training__epochs=1))
    about = json.loads((tmp_path / "environment.json").read_text())
    assert about["data"] == {
        "name": "digits",
        "fingerprint": data_of(tiny()).fingerprint,
        "shape": [1, 8, 8],
        "support": "levels(17)",
        "shades": {"black": 0.0, "white": 1.0},
        "images": {name: {"images": len(s), "available": s.available} for name, s in data_of(tiny()).splits.items()},
    }
    assert about["data"]["images"]["train"] == {"images": 192, "available": 1437}
    assert (about["engine"], about["dtype"], about["threads"]) == ("eager", "float32", torch.get_num_threads())
    assert (about["torch"], about["device"], about["init_from"]) == (torch.__version__, "cpu", None)
    folder = RunFolder(tmp_path)
    real = data_of(tiny()).train.batch(torch.arange(16))
    assert torch.equal(torch.from_numpy(folder.read_arrays(folder.real_file)["images"]), real)


def test_parts_with_dropout_look_at_the_data_without_it(tmp_path: Path) -> None:
    training = ready(tmp_path, tiny())
    modes: list[bool] = []
    training.model.posterior.register_forward_hook(lambda *_: modes.append(training.model.training))
    start.first_look(training.model, training.data)
    assert modes
    assert not any(modes)


def test_words_beside_the_bar(tmp_path: Path) -> None:
    texts: list[str] = []
    notes = Notes()
    notes.advance = lambda units, text="": texts.append(text)  # type: ignore[method-assign]
    train(tmp_path, tiny(training__patience=5, training__epochs=2), notes)
    assert texts[0].startswith("epoch 1 loss ")
    assert "−ELBO" not in texts[0]
    assert texts[-1].endswith(" patience 5")
    assert " = " in texts[-1]
    assert notes.said[0] == LEGEND
    assert notes.said[1].startswith("epoch    1  loss")
    assert notes.said[1].endswith(" *")
    first, *rest = (tmp_path / "log.txt").read_text().splitlines()
    assert first == "engine: eager (for 12 steps a recording does not pay)"
    assert rest == notes.said[1:]


def test_trouble_is_said_and_logged(tmp_path: Path) -> None:
    notes = Notes()
    recipe = tiny_of({"objective.beta": 1000.0, "prior.name": "standard-normal", "training.epochs": 25, "optimizer.lr": 0.02})
    train(tmp_path, recipe, notes)
    warnings = [text for text in notes.said if text.startswith("warning")]
    assert [text for text in warnings if "collapse" in text]
    assert set(warnings) < set((tmp_path / "log.txt").read_text().splitlines())


@pytest.mark.parametrize(("scale", "told"), [(255.0, "from 0 to 255"), (1.0, "")])
def test_real_pixels_far_from_the_usual_scale_are_told_before_training(scale: float, told: str, tmp_path: Path) -> None:
    values = np.tile([-0.5 if scale == 1 else 0.0, 0.3, 0.7, 1.0], 30).reshape(30, 1, 2, 2) * scale
    data = split_data(Images("own", torch.from_numpy(values).float(), REAL), DataSettings("own"))
    notes = Notes()
    with suppress(Diverged):  # as it may on that scale: then the warning was right
        train(tmp_path, tiny(likelihood__name="gaussian", training__epochs=1), notes, data=data)
    warnings = [said for said in notes.said if said.startswith("warning: pixels are real numbers")]
    assert len(warnings) == bool(told)
    if told:
        assert told in warnings[0]
        assert "Scale them to [0, 1]" in warnings[0]
        assert notes.said.index(warnings[0]) < notes.said.index(LEGEND)
