"""What a GPU repeats. Without one, ``record`` is played by a stand-in that sees what a CUDA graph would see: only tensors, of
places that stay. Every number of Python is as it was when it recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from test_engines import needs_compiler
from test_together import COMMON, train_together
from training_helpers import RICH, Notes, assert_same_run, data_of, metrics_of, tiny_of, train
from vaelid import kernels
from vaelid.errors import PartError
from vaelid.folder import RunFolder
from vaelid.optimizers import OPTIMIZERS, LeanAdamax, fuse, take_numbers_from_the_device
from vaelid.recipe import Recipe
from vaelid.training import cuda
from vaelid.training.cuda import Pixels, Recorded, Replay, Update
from vaelid.training.engines import as_it_is, compiled, compiled_if_possible, compiling_pays
from vaelid.training.start import Conditions, train_in


def traced(function: Replay, inputs: Sequence[Tensor]) -> Replay:
    return make_fx(lambda *tensors: list(function(*tensors)))(*inputs)


def pretended(function: Replay, inputs: Sequence[Tensor], changed: Sequence[Tensor] = (), trace: Any = traced) -> Replay:
    places, before = [t.clone() for t in inputs], [t.clone() for t in changed]
    function(*places)
    recorded = trace(function, places)
    for tensor, value in zip(changed, before, strict=True):
        tensor.copy_(value)

    def replay(*now: Tensor) -> Sequence[Tensor]:
        for place, tensor in zip(places, now, strict=True):
            place.copy_(tensor)
        return recorded(*places)

    return replay


@pytest.fixture(autouse=True)
def no_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, whose tensors no compiled loop takes, whatever an earlier test has loaded: a recording does not see loops."""
    monkeypatch.setattr(kernels, "_loaded", [])
    monkeypatch.setattr(kernels, "start", lambda: None)


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A processor that can record; the names of what was recorded."""
    names: list[str] = []

    def record(function: Replay, inputs: Sequence[Tensor], changed: Sequence[Tensor] = ()) -> Replay:
        names.append(getattr(getattr(function, "func", function), "__name__", type(function).__name__))
        return pretended(function, inputs, changed)

    pretend(monkeypatch, record)
    return names


def pretend(monkeypatch: pytest.MonkeyPatch, record: Any) -> None:
    for module in ("cuda", "engines", "together"):
        monkeypatch.setattr(f"vaelid.training.{module}.record", record)
    for module in ("engines", "flat", "state", "together"):
        monkeypatch.setattr(f"vaelid.training.{module}.can_record", lambda _: True)


RUNS: dict[str, dict[str, Any]] = {
    "adamax": {"optimizer.name": "adamax"},
    "adamax, weight decay": {"optimizer.name": "adamax", "optimizer.weight_decay": 0.1},
    "everything": {**RICH, "data.binarization": "dynamic", "likelihood.name": "bernoulli", "objective.warmup": 2.0},
    "resampled, cosine": {"data.binarization": "resampled", "likelihood.name": "bernoulli", "schedule.name": "cosine"},
    "sgd, not recorded": {"optimizer.name": "sgd", "optimizer.lr": 1e-3},
}


@pytest.mark.parametrize("changes", RUNS.values(), ids=RUNS)
def test_a_recorded_run_is_the_run(changes: dict[str, Any], tmp_path: Path, recordings: list[str]) -> None:
    recipe = tiny_of({**changes, "training.epochs": 4, "data.train_limit": 100})  # the last batch has 4 images
    train(tmp_path / "eager", recipe, engine="eager")
    assert not recordings
    train(tmp_path / "graph", recipe, engine="graph")
    assert recordings == ["_replay", "_make", *(["_change"] if changes.get("optimizer.name") != "sgd" else [])]
    for ours, theirs in zip(metrics_of(tmp_path / "graph"), metrics_of(tmp_path / "eager"), strict=True):
        for quantity in ("loss", "neg_elbo", "grad_norm", "lr"):
            assert ours[quantity] == pytest.approx(theirs[quantity], rel=1e-5), quantity


@needs_compiler
def test_a_compiled_run_is_recorded_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, partial(pretended, trace=lambda function, _: function))  # what is compiled cannot be traced
    monkeypatch.setattr("vaelid.optimizers.find_spec", lambda _: True)
    calls: list[int] = []
    monkeypatch.setattr("vaelid.training.engines.compiled", lambda *args: calls.append(1) or compiled(*args))
    recipe = tiny_of({**RUNS["everything"], "training.epochs": 4, "data.train_limit": 100})
    for engine in ("eager", "compile"):
        train(tmp_path / engine, recipe, engine=engine)
    assert len(calls) == 2  # loss and gradients; pixels
    about = RunFolder(tmp_path / "compile").read_json(RunFolder(tmp_path / "compile").environment_file)
    assert about["engine"] == "compile"
    ours, theirs = metrics_of(tmp_path / "compile"), metrics_of(tmp_path / "eager")
    assert [line["neg_elbo"] for line in ours] == pytest.approx([line["neg_elbo"] for line in theirs], rel=1e-4)


def test_a_recorded_run_that_is_resumed_is_the_same(tmp_path: Path, recordings: list[str]) -> None:
    changes = {**RICH, "data.train_limit": 100}
    train(tmp_path / "whole", tiny_of({**changes, "training.epochs": 4}), engine="graph")
    train(tmp_path / "broken", tiny_of({**changes, "training.epochs": 2}), engine="graph")
    train(tmp_path / "broken", tiny_of({**changes, "training.epochs": 4}))
    assert recordings.count("_change") == 3
    assert_same_run(tmp_path / "broken", tmp_path / "whole")


@pytest.mark.usefixtures("always_together")
def test_recorded_members_are_the_runs_they_would_have_been_alone(tmp_path: Path, recordings: list[str]) -> None:
    changes = {**COMMON, "data.train_limit": 100, "training.epochs": 5, "training.clip_norm": 50.0, "objective.warmup": 2.0}
    recipes = {str(seed): tiny_of({**changes, "training.seed": seed, "optimizer.lr": 1e-3 * (1 + seed)}) for seed in range(3)}
    train_together(tmp_path / "together", recipes)
    assert sorted(recordings) == ["_change", "_compute", "_make"]
    for name, recipe in recipes.items():
        train(tmp_path / name, recipe, engine="eager")
        ours, alone = metrics_of(tmp_path / "together" / name), metrics_of(tmp_path / name)
        for quantity in ("loss", "neg_elbo", "grad_norm"):
            assert [line[quantity] for line in ours] == pytest.approx([line[quantity] for line in alone], rel=1e-3), quantity


@needs_compiler
@pytest.mark.usefixtures("always_together")
def test_compiled_members_are_recorded_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, partial(pretended, trace=lambda function, _: function))
    monkeypatch.setattr("vaelid.optimizers.find_spec", lambda _: True)
    calls: list[int] = []
    fused: list[Any] = []
    monkeypatch.setattr("vaelid.training.engines.compiled", lambda *args: calls.append(1) or compiled(*args))
    monkeypatch.setattr("vaelid.training.together.fuse", lambda optimizer: fused.append(optimizer) or fuse(optimizer))
    monkeypatch.setattr("vaelid.training.together.compiling_pays", lambda steps, _: steps == 8)
    recipes = {
        str(seed): tiny_of({**COMMON, "training.epochs": 2, "data.train_limit": 100, "training.seed": seed}) for seed in (0, 1)
    }
    train_together(tmp_path / "together", recipes)
    assert len(calls) == 2
    assert len(fused) == 2
    for name, recipe in recipes.items():
        train(tmp_path / name, recipe, engine="eager")
        ours, alone = metrics_of(tmp_path / "together" / name), metrics_of(tmp_path / name)
        assert [line["neg_elbo"] for line in ours] == pytest.approx([line["neg_elbo"] for line in alone], rel=1e-3)


def test_what_cannot_be_compiled_is_made_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise PartError("no compiler here.")

    monkeypatch.setattr("vaelid.training.engines.compiled", broken)
    with pytest.warns(RuntimeWarning, match="no compiler here. It is made operation by operation"):
        assert compiled_if_possible(pretended, []) is pretended


@pytest.mark.parametrize(("there", "steps", "pays"), [(True, 49_999, False), (True, 50_000, True), (False, 20_000, True)])
def test_compiling_pays_later_on_a_gpu(there: bool, steps: int, pays: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vaelid.training.engines.can_record", lambda _: there)
    assert compiling_pays(steps, torch.ones(1)) == pays


@pytest.mark.parametrize("translate", [as_it_is, traced], ids=["as it is", "traced"])
def test_pixels_are_those_of_the_split(translate: Any, recordings: list[str]) -> None:
    split = data_of(tiny_of({"data.binarization": "dynamic", "likelihood.name": "bernoulli"})).train
    pixels = Pixels(split, 8, translate)
    for epoch, positions in ((0, torch.arange(8)), (1, torch.arange(8)), (1, torch.arange(8, 16)), (2, torch.arange(3))):
        made = pixels(positions, torch.tensor(epoch), torch.tensor(5))
        assert torch.equal(made, split.batch(positions, epoch, 5))
    assert len(recordings) == 1


def test_images_on_a_disk_are_not_recorded(tmp_path: Path, recordings: list[str]) -> None:
    in_memory = data_of(tiny_of({"data.binarization": "dynamic", "likelihood.name": "bernoulli"}))
    np.save(tmp_path / "images.npy", in_memory.train.images.pixels.numpy())
    images = replace(in_memory.train.images, pixels=np.load(tmp_path / "images.npy", mmap_mode="r"))
    split = replace(in_memory.train, images=images)
    recorded = Recorded(Pixels(split, 8, as_it_is), lambda _: None)
    positions = torch.arange(16).split(8)
    made = list(recorded.batches(positions, 2, 5))
    assert not recordings
    for x, at in zip(made, positions, strict=True):
        assert torch.equal(x, in_memory.train.batch(at, 2, 5))
        assert torch.equal(recorded.pixels(at, torch.tensor(2), torch.tensor(5)), x)


@pytest.mark.usefixtures("recordings")
def test_an_update_that_cannot_be_recorded_is_made_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise PartError("it asks the device for a number")

    monkeypatch.setattr(cuda, "record", refuse)
    calls: list[float] = []
    update = Update(lambda norm: calls.append(float(norm)), list)
    update(torch.tensor(0.0))
    with pytest.warns(RuntimeWarning, match="operation by operation: it asks the device for a number"):
        update(torch.tensor(1.0))
    update(torch.tensor(2.0))
    assert calls == [0.0, 1.0, 2.0]


# --- optimizers that take their numbers from the device -------------------------------------------------------------------------


def steps_of(optimizer: torch.optim.Optimizer, count: int = 5) -> Tensor:
    """Makes steps with falling rates; returns the weights."""
    draw, (group,) = torch.Generator().manual_seed(3), optimizer.param_groups
    (p,) = group["params"]
    for step in range(count):
        rate = 1e-3 / (1 + step)
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
        p.grad = torch.randn(p.shape, generator=draw)
        optimizer.step()
    return p.detach()


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "sgd"])
@pytest.mark.parametrize("begun", [0, 3])
def test_numbers_from_the_device_change_nothing(name: str, begun: int) -> None:
    found = []
    for on_device in (False, True):
        optimizer = OPTIMIZERS[name]([nn.Parameter(torch.ones(50))], weight_decay=0.1)
        steps_of(optimizer, begun)
        if on_device:
            assert take_numbers_from_the_device(optimizer)
        found.append(steps_of(optimizer))
    assert torch.allclose(*found, rtol=1e-6, atol=0)
    assert not torch.equal(found[0], torch.ones(50))


def test_an_optimizer_without_that_option_is_left_alone() -> None:
    optimizer = OPTIMIZERS["sgd"]([nn.Parameter(torch.ones(3))], lr=0.5)
    assert not take_numbers_from_the_device(optimizer)
    assert optimizer.param_groups[0]["lr"] == 0.5


@needs_compiler
def test_a_fused_adamax_makes_the_same_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vaelid.optimizers.find_spec", lambda _: True)  # here it is no Triton that compiles
    found = []
    for fused in (False, True):
        optimizer = OPTIMIZERS["adamax"]([nn.Parameter(torch.ones(50))])
        assert isinstance(optimizer, LeanAdamax)
        assert take_numbers_from_the_device(optimizer)
        plain = optimizer.update_whole
        if fused:
            fuse(optimizer)
        assert (optimizer.update_whole is not plain) == fused
        found.append(steps_of(optimizer))
    assert torch.allclose(*found, rtol=1e-6, atol=0)


# --- on a GPU -------------------------------------------------------------------------------------------------------------------

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


def train_there(path: Path, recipe: Recipe, engine: str) -> list[dict[str, Any]]:
    train_in(RunFolder(path), recipe, Path(), data_of(recipe), Conditions(torch.device("cuda"), engine=engine), Notes())
    about = RunFolder(path).read_json(RunFolder(path).environment_file)
    assert about["engine"] == engine, about["engine_reason"]
    return metrics_of(path)


@needs_gpu
@pytest.mark.parametrize("changes", RUNS.values(), ids=RUNS)
@pytest.mark.parametrize("engine", ["graph", "compile"])
def test_on_a_gpu_a_run_is_close_to_eager(engine: str, changes: dict[str, Any], tmp_path: Path) -> None:
    recipe = tiny_of({**changes, "training.epochs": 12, "data.train_limit": 100})
    ours, theirs = (train_there(tmp_path / name, recipe, name) for name in (engine, "eager"))
    for quantity in ("loss", "neg_elbo", "grad_norm"):
        assert [line[quantity] for line in ours] == pytest.approx([line[quantity] for line in theirs], rel=1e-3), quantity


@needs_gpu
def test_on_a_gpu_a_resumed_run_goes_on(tmp_path: Path) -> None:
    recipes = [tiny_of({**RICH, "training.epochs": epochs, "data.train_limit": 100}) for epochs in (2, 6)]
    whole = train_there(tmp_path / "whole", recipes[1], "graph")
    train_there(tmp_path / "broken", recipes[0], "graph")
    resumed = train_there(tmp_path / "broken", recipes[1], "graph")
    assert [line["neg_elbo"] for line in resumed] == pytest.approx([line["neg_elbo"] for line in whole], rel=1e-3)


@needs_gpu
@pytest.mark.usefixtures("always_together")
@pytest.mark.parametrize("pays", [False, True], ids=["as they are", "compiled"])
def test_on_a_gpu_members_are_the_runs_they_would_have_been_alone(
    pays: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vaelid.training.together.compiling_pays", lambda *_: pays)
    changes = {**COMMON, "data.train_limit": 100, "training.epochs": 12, "objective.warmup": 2.0}
    recipes = {str(seed): tiny_of({**changes, "training.seed": seed, "optimizer.lr": 1e-3 * (1 + seed)}) for seed in range(3)}
    train_together(tmp_path / "together", recipes, device="cuda")
    for name, recipe in recipes.items():
        alone, ours = train_there(tmp_path / name, recipe, "eager"), metrics_of(tmp_path / "together" / name)
        for quantity in ("loss", "neg_elbo", "grad_norm"):
            assert [line[quantity] for line in ours] == pytest.approx([line[quantity] for line in alone], rel=1e-3), quantity


@needs_gpu
def test_on_a_gpu_what_waits_for_it_cannot_be_recorded() -> None:
    x = torch.ones(3, device="cuda")
    with pytest.raises(PartError, match="No CUDA graph can be made of it"):
        cuda.record(lambda x: [x * float(x.sum())], [x])


@needs_gpu
def test_on_a_gpu_recording_undoes_its_trials() -> None:
    x, place = torch.ones(3, device="cuda"), torch.zeros(3, device="cuda")
    replay = cuda.record(lambda x: [place.add_(x)], [x], [place])
    assert place.tolist() == [0.0, 0.0, 0.0]
    (twice,) = replay(2 * x)
    assert twice.tolist() == place.tolist() == [2.0, 2.0, 2.0]
