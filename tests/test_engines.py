"""Engines: whatever computes a step, it is the step that eager defines."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from training_helpers import CPU, RICH, Notes, assert_same_run, data_of, metrics_of, tiny, tiny_of, train
from vaelid.distributions import diagonal_normal
from vaelid.errors import Diverged, PartError, RunError, SettingError
from vaelid.folder import RunFolder
from vaelid.objectives import ELBO, IWAE, Objective
from vaelid.priors import Prior
from vaelid.recipe import Recipe
from vaelid.training import engines
from vaelid.training.capture import capture, numbers_of, shape_of
from vaelid.training.engines import TOLERANCE, Compile, Eager, Graph, choose, disagreement
from vaelid.training.loop import Tally
from vaelid.training.start import Conditions, prepare
from vaelid.training.state import Training
from vaelid.training.surroundings import own_randomness

RECIPES: dict[str, dict[str, Any]] = {
    "categorical, mixture": {},
    "gaussian, standard normal": {"likelihood.name": "gaussian", "prior.name": "standard-normal"},
    "discretized, factorized": {"likelihood.name": "discretized-gaussian", "prior.name": "factorized-mixture"},
    "bernoulli, warm-up": {"data.binarization": "dynamic", "likelihood.name": "bernoulli", "objective.warmup": 2.0},
    "per-pixel scale, 3 samples": {"likelihood.name": "gaussian", "likelihood.scale": "per-pixel", "objective.samples": 3},
    "sampled KL": {"prior.name": "standard-normal", "objective.kl": "sampled"},
    "importance weighted": {"objective.name": "iwae", "objective.samples": 5},
    "short products": {"training.precision": "bfloat16"},
    "no hidden layer": {"encoder.hidden": [], "decoder.hidden": []},
}


def training_of(recipe: Recipe, tmp_path: Path) -> tuple[Training, Tensor]:
    with own_randomness(1):
        training = prepare(RunFolder(tmp_path / "run"), recipe, data_of(recipe), CPU, Path())
    training.model.train()
    return training, training.data.train.batch(torch.arange(recipe.training.batch_size))


def graph_of(eager: Eager) -> Graph:
    return Graph(eager.model, eager.weights, eager.bfloat16)


@pytest.mark.parametrize("changes", RECIPES.values(), ids=RECIPES)
def test_a_replay_gives_the_bits_of_eager(changes: dict[str, Any], tmp_path: Path) -> None:
    training, x = training_of(tiny_of(changes), tmp_path)
    eager, graph, states, seen = training.engine, graph_of(training.engine), [], []
    graph.record(x, training.objective.at(0))
    for engine in (eager, graph):
        with own_randomness(2):
            for step in range(3):  # other noise, other pixels, another β
                other = training.data.train.batch(torch.arange(32) + 32 * step)
                loss, norm = engine(other, training.objective.at(step / 2))
                seen.append(torch.cat([loss.view(1), norm.view(1), training.weights.grad.clone()]))
            states.append(torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(seen[:3], seen[3:], strict=True))
    assert torch.equal(*states), "the replay drew other noise"
    assert not torch.equal(seen[0], seen[1])


def test_a_whole_run_is_the_same_by_graph_and_by_eager(tmp_path: Path) -> None:
    recipe = tiny_of({**RICH, "training.epochs": 4, "data.train_limit": 100})  # the last batch has 4 images
    train(tmp_path / "eager", recipe, engine="eager")
    train(tmp_path / "graph", recipe, engine="graph")
    assert_same_run(tmp_path / "graph", tmp_path / "eager")
    about = RunFolder(tmp_path / "graph").read_json(RunFolder(tmp_path / "graph").environment_file)
    assert (about["engine"], about["engine_reason"]) == ("graph", "asked for")
    assert "engine: graph (asked for)" in (tmp_path / "graph" / "log.txt").read_text()


def test_a_resumed_run_keeps_its_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []
    original = Eager.__call__

    def spy(self: Eager, x: Tensor, objective: Objective) -> tuple[Tensor, Tensor]:
        used.append(self.name)
        return original(self, x, objective)

    train(tmp_path / "whole", tiny(training__epochs=4), engine="graph")
    train(tmp_path / "broken", tiny(training__epochs=2), engine="graph")
    monkeypatch.setattr(Eager, "__call__", spy)
    monkeypatch.setattr(Graph, "__call__", lambda self, x, o: used.append("graph") or Eager.__call__(self, x, o))
    train(tmp_path / "broken", tiny(training__epochs=4))
    assert used.count("graph") > 12
    monkeypatch.undo()
    assert metrics_of(tmp_path / "broken") == metrics_of(tmp_path / "whole")
    with pytest.raises(RunError, match="--engine is 'graph', asked 'eager'"):
        train(tmp_path / "broken", tiny(training__epochs=5), engine="eager")


def test_an_engine_that_gives_other_digits_must_be_there_to_go_on(tmp_path: Path) -> None:
    train(tmp_path, tiny(training__epochs=1))
    folder = RunFolder(tmp_path)
    folder.write_json(folder.environment_file, {**folder.read_json(folder.environment_file), "engine": "compile"})

    def broken(*_: Any) -> Any:
        raise PartError("no compiler")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Compile, "translate", broken)
        with pytest.raises(RunError, match="begun with --engine compile, but compile cannot be used: no compiler"):
            train(tmp_path, tiny(training__epochs=2))


def test_the_command_whose_engine_gave_way_to_eager_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise PartError("no compiler")

    monkeypatch.setattr(Compile, "translate", broken)
    for epochs in (1, 2):
        train(tmp_path, tiny(training__epochs=epochs), engine="compile")
    about = RunFolder(tmp_path).read_json(RunFolder(tmp_path).environment_file)
    assert (about["engine"], about["engine_asked"]) == ("eager", "compile")
    assert len(metrics_of(tmp_path)) == 2
    with pytest.raises(RunError, match="--engine is 'eager', asked 'graph'"):
        train(tmp_path, tiny(training__epochs=3), engine="graph")


needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler here")


@needs_compiler
def test_a_compiled_run_stays_close_to_eager_over_100_steps(tmp_path: Path) -> None:
    changes = {"data.binarization": "dynamic", "likelihood.name": "bernoulli", "objective.warmup": 3.0, "training.epochs": 17}
    recipe = tiny_of(changes)
    train(tmp_path / "eager", recipe, engine="eager")
    train(tmp_path / "compile", recipe, engine="compile")
    about = RunFolder(tmp_path / "compile").read_json(RunFolder(tmp_path / "compile").environment_file)
    assert (about["engine"], about["engine_reason"]) == ("compile", "asked for")
    ours, theirs = metrics_of(tmp_path / "compile"), metrics_of(tmp_path / "eager")
    assert ours[-1]["step"] == 102
    assert [line["neg_elbo"] for line in ours] == pytest.approx([line["neg_elbo"] for line in theirs], rel=1e-4)


def test_an_objective_that_moves_is_recorded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(engines, "capture", lambda *args: calls.append(1) or capture(*args))
    train(tmp_path, tiny(objective__warmup=2.0), engine="graph")
    assert len(calls) == 1


def test_what_moves_in_an_objective() -> None:
    assert [float(n) for n in numbers_of(ELBO(beta=0.25, samples=3), CPU)] == [0.25, 0.0]
    assert numbers_of(IWAE(samples=3), CPU) == []
    assert shape_of(ELBO(beta=0.25, warmup=2.0)) == shape_of(ELBO(beta=1.0))
    assert shape_of(ELBO(samples=2)) != shape_of(ELBO(samples=1))


def test_a_batch_or_an_objective_of_another_shape_is_eagers(tmp_path: Path) -> None:
    training, x = training_of(tiny(), tmp_path)
    graph = graph_of(training.engine)
    graph.record(x, ELBO())
    for batch, objective in ((x[:5], ELBO()), (x, ELBO(samples=2)), (x, IWAE(samples=2))):
        with own_randomness(0):
            loss, _ = graph(batch, objective)
        with own_randomness(0):
            expected, _ = training.engine(batch, objective)
        assert torch.equal(loss, expected)


# --- what cannot be recorded ---------------------------------------------------------------------------------------------------


class _Branching(Prior):
    """Asks for the value of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(3))

    def forward(self) -> Independent[Normal]:
        mean = self.shift if self.shift.sum() > 0 else 2 * self.shift
        return diagonal_normal(mean, torch.ones(3))


class _Counting(Prior):
    """Does in Python what no recording sees."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self) -> Independent[Normal]:
        self.calls += 1
        return diagonal_normal(torch.zeros(3), torch.full((3,), float(self.calls)))


def with_part(training: Training, **parts: nn.Module) -> Eager:
    for name, part in parts.items():
        setattr(training.model, name, part)
    return Eager(training.model, type(training.weights)(training.model))


def test_a_part_that_branches_on_values_is_left_to_eager(tmp_path: Path) -> None:
    training, x = training_of(tiny(), tmp_path)
    eager = with_part(training, prior=_Branching())
    choice = choose("graph", eager, x, training.objective, 5000, own_code=True)
    assert choice.engine is eager
    assert choice.reason.startswith("graph cannot be used: The step cannot be recorded: ")


def test_a_part_whose_python_code_matters_is_left_to_eager(tmp_path: Path) -> None:
    training, x = training_of(tiny(), tmp_path)
    eager = with_part(training, prior=_Counting())
    choice = choose("graph", eager, x, training.objective, 5000, own_code=True)
    assert choice.engine is eager
    assert choice.reason == "graph differs from eager by inf of the largest gradient"


def test_dropout_is_left_to_eager(tmp_path: Path) -> None:
    training, x = training_of(tiny(), tmp_path)
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 6))
    training.model.posterior.network = network
    eager = with_part(training)
    choice = choose("graph", eager, x, training.objective, 5000, own_code=True)
    assert choice.engine is eager
    assert "draws with numbers that were computed before" in choice.reason


@pytest.mark.parametrize(
    ("asked", "steps", "own_code", "milliseconds", "name", "reason"),
    [
        ("eager", 10**6, False, (1, 2), "eager", "asked for"),
        ("graph", 10, False, (2, 1), "graph", "asked for"),
        ("auto", 999, False, (1, 2), "eager", "for 999 steps a recording does not pay"),
        ("auto", 10**6, True, (1, 2), "eager", "parts of your own may do what a recording does not see"),
        ("auto", 1000, False, (1, 2), "graph", "loss and gradients take 1.00 ms by graph, 2.00 ms by eager"),
        ("auto", 1000, False, (2, 1), "eager", "loss and gradients take 2.00 ms by graph, 1.00 ms by eager"),
        ("auto", 19_999, False, (1, 2), "graph", "loss and gradients take 1.00 ms by graph, 2.00 ms by eager"),
        (
            "auto",
            20_000,
            False,
            (2, 1, 3),
            "compile",
            "loss and gradients take 2.00 ms by graph, 1.00 ms by compile, 3.00 ms by eager",
        ),
        (
            "auto",
            20_000,
            False,
            (1, 2, 3),
            "graph",
            "loss and gradients take 1.00 ms by graph, 2.00 ms by compile, 3.00 ms by eager",
        ),
    ],
)
def test_which_engine_is_chosen(
    asked: str,
    steps: int,
    own_code: bool,
    milliseconds: tuple[int, ...],
    name: str,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    training, x = training_of(tiny(), tmp_path)
    monkeypatch.setattr(engines, "timed", lambda *_: [m / 1000 for m in milliseconds])
    monkeypatch.setattr(Compile, "translate", Graph.translate)  # compiled or not is another test's concern
    state, weights = torch.get_rng_state(), training.weights.flat.clone()
    choice = choose(asked, training.engine, x, training.objective, steps, own_code)
    assert (choice.engine.name, choice.reason) == (name, reason)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(training.weights.flat, weights)


def test_what_cannot_be_compiled_leaves_the_others_to_choose_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise PartError("no compiler")

    training, x = training_of(tiny(), tmp_path)
    monkeypatch.setattr(Compile, "translate", broken)
    monkeypatch.setattr(engines, "timed", lambda *_: [0.001, 0.002])
    choice = choose("auto", training.engine, x, training.objective, 10**6, own_code=False)
    assert choice.engine.name == "graph"
    assert choice.reason.endswith("2.00 ms by eager; compile cannot be used: no compiler")


def test_engines_are_timed_with_all_they_do(tmp_path: Path) -> None:
    training, x = training_of(tiny(), tmp_path)
    seconds = engines.timed([training.engine, graph_of(training.engine)], x, training.objective)
    assert len(seconds) == 2
    assert all(s > 0 for s in seconds)


def test_a_disagreement_is_seen(tmp_path: Path) -> None:
    training, x = training_of(tiny(), tmp_path)

    class Off(Eager):
        def __call__(self, x: Tensor, objective: Objective) -> tuple[Tensor, Tensor]:
            loss, norm = super().__call__(x, objective)
            self.weights.grad[7] += 0.01
            return loss, norm

    off = Off(training.model, training.weights)
    assert disagreement(off, training.engine, x, training.objective) > 10 * TOLERANCE
    assert disagreement(training.engine, training.engine, x, training.objective) == 0


def test_who_asked_for_an_engine_that_cannot_be_had_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise PartError("no compiler")

    monkeypatch.setattr(Compile, "translate", broken)
    notes = Notes()
    train(tmp_path, tiny(training__epochs=1), notes, engine="compile")
    assert "warning: engine: eager (compile cannot be used: no compiler)" in notes.said


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(SettingError, match="engine"):
        Conditions(CPU, engine="graf")


# --- sums that are read now and then -------------------------------------------------------------------------------------------


def test_a_device_is_read_only_now_and_then_and_the_sums_are_the_same(tmp_path: Path) -> None:
    training, _ = training_of(tiny(), tmp_path)
    tally = Tally(training)
    tally.patience = 3
    for step in range(5):
        tally.add(torch.tensor([float(step), 1.0]), 10)
        assert math.isnan(tally.loss) == (step < 2)
        training.state.step += 1
    assert training.state.loss_sum == 10 * (0 + 1 + 2)
    tally.settle()
    assert (training.state.loss_sum, training.state.norm_sum, tally.loss) == (100.0, 5.0, 4.0)


@pytest.mark.parametrize(("loss", "norm", "quantity"), [(math.nan, 1.0, "the loss"), (1.0, math.inf, "the gradient norm")])
def test_the_step_that_went_wrong_is_named_also_when_it_is_read_later(
    loss: float, norm: float, quantity: str, tmp_path: Path
) -> None:
    training, _ = training_of(tiny(), tmp_path)
    tally = Tally(training)
    tally.patience = 100
    for step in range(5):
        wrong = step == 2
        tally.add(torch.tensor([loss, norm] if wrong else [1.0, 1.0]), 10)
        training.state.step += 1
    with pytest.raises(Diverged, match=f"at step 3 .*{quantity}"):
        tally.settle()
