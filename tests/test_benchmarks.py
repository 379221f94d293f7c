"""The benchmarks compare like with like, and run. Their times are not tested."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.utils.data import DataLoader

from vaelid import MLP, VAE, BernoulliLikelihood, FactorizedMixturePrior, GaussianPosterior, kernels, open_run

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def notebook_loop(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    return import_module("notebook_loop")


def test_the_notebook_has_the_same_loss(notebook_loop: ModuleType) -> None:
    theirs = notebook_loop.NotebookVAE(pixels=12, hidden=8, latent=3, components=4)
    ours = VAE(
        posterior=GaussianPosterior(MLP((1, 3, 4), 6, hidden=(8, 8)), latent=3),
        likelihood=BernoulliLikelihood(MLP((3,), 12, hidden=(8, 8)), shape=(1, 3, 4)),
        prior=FactorizedMixturePrior(latent=3, components=4),
    )
    with torch.no_grad():
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            other.copy_(mine.view_as(other)).add_(torch.randn_like(other), alpha=0.1)
            mine.copy_(other.view_as(mine))
    x = torch.bernoulli(torch.full((5, 1, 3, 4), 0.5))

    def loss_and_gradients(model: torch.nn.Module, loss: Callable[[], torch.Tensor]) -> list[torch.Tensor]:
        torch.manual_seed(1)  # the same noise: both draw (5, 3) numbers
        value = loss()
        return [value, *torch.autograd.grad(value, list(model.parameters()))]

    found = loss_and_gradients(theirs, lambda: theirs(x.flatten(1)))
    expected = loss_and_gradients(ours, lambda: ours.neg_elbo(x))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b.view_as(a), rtol=1e-4, atol=1e-5)


def test_pictures_become_binary_vectors(notebook_loop: ModuleType) -> None:
    pixels = torch.stack([torch.full((4, 3), gray, dtype=torch.uint8) for gray in (0, 255)])
    (dark, zero), (bright, one) = notebook_loop.BinarizedPictures(pixels, torch.tensor([0, 1]))
    torch.testing.assert_close(torch.stack([dark, bright]), torch.tensor([[0.0] * 12, [1.0] * 12]))
    assert (zero, one) == (0, 1)


def test_training_epoch_runs(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    arguments = ["--steps", "9", "--repeats", "1", "--warm-up", "1", "--threads", "1", "--synthetic", "--out", page]
    done = subprocess.run([sys.executable, FOLDER / "training_epoch.py", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = ("notebook loop : vaelid**", "vaelid : machine's limit", "matrix products alone")
    for words in (*rows, "1,563 steps", "torch " + torch.__version__):
        assert words in page.read_text(encoding="utf-8")


@pytest.fixture
def training_peers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    return import_module("training_peers")


def test_training_peers_runs_without_the_peers(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    sizes = ["--batch-sizes", "32", "64", "--steps", "5", "--repeats", "1", "--warm-up", "1"]
    only = ["--only", "vaelid", "machine's limit", "vaelid, bfloat16", "machine's limit, bfloat16"]
    command = [sys.executable, FOLDER / "training_peers.py", *sizes, "--synthetic", "--out", page, *only]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for words in (
        "## Batch 32",
        "## Batch 64",
        "| machine's limit, bfloat16 |",
        "| 32 | vaelid : machine's limit | ≤ 1.6 |",
        "--only",
    ):
        assert words in page.read_text(encoding="utf-8")


def test_an_aim_is_judged_by_the_median_in_its_direction(training_peers: ModuleType) -> None:
    timings = {32: {name: training_peers.Turns(wall=wall) for name, wall in {"a": [2.0, 4.0, 9.0], "b": [1.0, 2.0, 3.0]}.items()}}
    rows = [
        training_peers.Aim(32, "a", "b", factor, at_least).row(timings) for factor in (1.9, 2.1) for at_least in (True, False)
    ]
    assert [row.split(" | ")[-1] for row in rows] == ["yes |", "no |", "no |", "yes |"]
    assert "| 2.00 [2.00–3.00] |" in rows[0]


def test_an_endless_loader_goes_on_where_it_was(training_peers: ModuleType) -> None:
    endless = import_module("training_epoch").Endless(DataLoader(range(6), batch_size=2))
    endless.steps = 2
    assert [batch.tolist() for batch in endless] == [[0, 1], [2, 3]]
    endless.steps = 3
    assert [batch.tolist() for batch in endless] == [[4, 5], [0, 1], [2, 3]]
    assert len(endless) == 3


def test_a_watch_keeps_its_first_stop(training_peers: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = training_peers.Watch()
    times = iter([(5.0, 1.0), (7.0, 1.5), (50.0, 9.0)])
    monkeypatch.setattr(training_peers.Watch, "_now", lambda *_: next(times))
    watch.start()
    watch.stop()
    assert watch.read() == (2.0, 0.5)


@pytest.fixture
def cost_growth(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    return import_module("cost_growth")


def test_growth_is_told_by_exponent_and_line(cost_growth: ModuleType) -> None:
    square = {value: (3e-6 * value**2, 0.0) for value in (10, 100, 1000)}
    assert cost_growth.exponent(square) == pytest.approx(2)
    line = {value: (0.5 + 2e-3 * value, 0.0) for value in (10, 100, 1000)}
    assert cost_growth.line(line) == pytest.approx((2e-3, 0.5, 0.0), abs=1e-9)
    assert cost_growth.line(square)[2] > 0.3


def test_cost_growth_runs(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    command = [sys.executable, FOLDER / "cost_growth.py", "--repeats", "1", "--largest", "32", "--out", page]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for words in ("## L: a training step", "| 32 |", "Exponent between the two largest", "## C: a training step", "| 16 |"):
        assert words in page.read_text(encoding="utf-8")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="empties the page cache and reads /proc")
def test_data_path_runs(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    few = ["--gigabytes", "0.02", "--batch-size", "16", "--steps", "3", "--batches", "4", "--repeats", "1"]
    command = [sys.executable, FOLDER / "data_path.py", *few, "--folder", tmp_path, "--out", page]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for words in ("| from memory |", "| from a file, cache empty |", "| … not announced |", "1.00 [1.00–1.00]"):
        assert words in page.read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [page], "the large file is still there"


def test_start_up_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    start_up = import_module("start_up")
    monkeypatch.setattr(start_up, "STARTS", {"Python alone": ("-c", "pass")})
    monkeypatch.setattr(sys, "argv", ["start_up.py", "--repeats", "2", "--out", str(tmp_path / "page.md")])
    start_up.main()
    assert "| Python alone | 0." in (tmp_path / "page.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("target", "looked"), [(1e6, True), (1e-6, False)])
def test_speedrun_looks_at_the_test_split_only_where_validation_predicts_it(tmp_path: Path, target: float, looked: bool) -> None:
    what = ["--data", "digits", "--recipe", "digits", "--set", "training.epochs=2", "--set", "data.train_limit=100"]
    how = ["--seeds", "3", "--threads", "1", "--samples", "2", "--target", str(target), "--changed", "a trial"]
    where = ["--runs", tmp_path / "runs", "--out", tmp_path, "--name", "trial"]
    program = [sys.executable, FOLDER / "speedrun" / "run.py"]
    done = subprocess.run([*program, *what, *how, *where], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (record,) = [json.loads(file.read_text(encoding="utf-8")) for file in tmp_path.glob("*-trial.json")]
    (row,) = record["seeds"]
    run = open_run(tmp_path / "runs" / "seed-3")
    assert row["validation_neg_elbo"] == min(line["neg_elbo"] for line in run.metrics)
    assert 0 < row["seconds_of_steps"] < row["seconds"] < row["seconds_of_process"]
    assert ("test" in row) is looked is bool(run.results)
    (page,) = tmp_path.glob("*-trial.md")
    assert ("not looked at" in page.read_text(encoding="utf-8")) is not looked
    if looked:
        assert row["test"]["neg_elbo"]["value"] == run.results["test"]["neg_elbo"]["value"]


def test_gpu_epoch_runs_also_on_a_cpu(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    few = ["--device", "cpu", "--synthetic", "--batch-sizes", "16", "--epochs", "2", "--engines", "eager", "graph"]
    done = subprocess.run(
        [sys.executable, FOLDER / "gpu_epoch.py", *few, "--out", page], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for words in ("| 16 | eager |", "| 16 | graph |", "A step of 8 members together, batch 16:"):
        assert words in page.read_text(encoding="utf-8")


def test_members_together_runs(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    few = ["--members", "2", "--repeats", "1", "--steps", "1", "--out", page]
    done = subprocess.run([sys.executable, FOLDER / "together.py", *few], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for words in ("| 64-32 | 2 |", "| 64-512-512 | 2 |", "eager : together"):
        assert words in page.read_text(encoding="utf-8")


@pytest.fixture
def evaluation(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    return import_module("evaluation")


def test_contestants_of_the_evaluation_bound_the_same(evaluation: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[bool] = []
    monkeypatch.setattr(kernels, "_loaded", [])
    monkeypatch.setattr(kernels, "start", lambda: started.append(True))
    long, plain, short = (evaluation.TURNS[name]()(2, 30) for name in (evaluation.VAELID, evaluation.PLAIN, evaluation.SHORT))
    assert len(started) == 2, "all but the plain one have compiled loops"
    assert plain == long  # without a loop that could be loaded
    assert short == pytest.approx(long, abs=0.5)
    assert short != long, "nothing was short"
    assert long == pytest.approx(784 * math.log(2), rel=0.01)  # fresh weights say nothing about pixels
    for name in (evaluation.PRODUCTS, evaluation.SHORT_PRODUCTS):
        assert evaluation.TURNS[name]()(2, 30) is None


def test_products_alone_are_those_of_all_decodings(evaluation: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    multiplied: list[tuple[int, int]] = []
    mm = torch.mm
    monkeypatch.setattr(torch, "mm", lambda a, b, out: multiplied.append((len(a), b.shape[1])) or mm(a, b, out=out))
    turn = evaluation.TURNS[evaluation.PRODUCTS]()
    turn(3, evaluation.rows())
    widths = [width for _, width in multiplied]
    assert widths == [512, 512, 784] * 3
    assert sum(rows for rows, width in multiplied if width == 784) == 3 * evaluation.rows()


def test_evaluation_runs_and_compares_turn_by_turn(
    evaluation: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "TURNS", {name: evaluation.TURNS[name] for name in (evaluation.VAELID, evaluation.PRODUCTS)})
    page = tmp_path / "page.md"
    monkeypatch.setattr(sys, "argv", ["evaluation.py", "--samples", "3", "--repeats", "1", "--out", str(page)])
    evaluation.main()
    words = page.read_text(encoding="utf-8")
    for found in (
        "| vaelid without numba | not measured |",
        "K = 3 samples per image",
        "pythae get_nll, batches of 1000 : vaelid**",
    ):
        assert found in words
    (vaelid,) = re.findall(r"\| vaelid, 50 images a turn \| (\S+) \[(\S+)–(\S+)\]", words)
    assert len(set(vaelid)) == 1, "a turn that warmed up was counted"
    assert re.search(r"products: matrix products alone : vaelid\*\* \| \*\*[\d.]+ \[", words)
    times = {evaluation.VAELID: [2.0, 3.0, 8.0], evaluation.PLAIN: [4.0, 9.0, 8.0]}
    process = subprocess.Popen([sys.executable, "-c", ""])
    contestants = {name: evaluation.Contestant(process, wall) for name, wall in times.items()}
    process.wait()
    assert evaluation.ratio(contestants, evaluation.PLAIN, evaluation.VAELID) == "2.00 [1.00–3.00]"
    assert evaluation.ratio(contestants, evaluation.PYTHAE, evaluation.VAELID) == "not measured"


@pytest.mark.parametrize(
    ("program", "arguments", "pieces"),
    [
        ("step_profile.py", ["--synthetic", "--steps", "3", "--warm-up", "1"], ("encoder", "backward pass", "optimizer")),
        ("step_profile.py", ["--synthetic", "--steps", "3", "--warm-up", "1", "--engine", "graph"], ("both passes", "noise")),
        ("bound_profile.py", ["--samples", "40"], ("matrix products", "log p(x|z) from logits", "biases and activations")),
    ],
)
def test_profiles_run_and_their_pieces_add_up(program: str, arguments: list[str], pieces: tuple[str, ...]) -> None:
    if program == "bound_profile.py":
        pytest.importorskip("numba")
    done = subprocess.run(
        [sys.executable, FOLDER / program, *arguments, "--repeats", "1"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = {name.strip(): float(value) for name, value in re.findall(r"^(\S.*?)\s{2,}([\d.]+) \[", done.stdout, re.MULTILINE)}
    assert all(any(piece in name for name in found) for piece in (*pieces, "all else")), done.stdout
    together = found.pop("together")
    found.pop("matrix products alone", None)
    assert sum(found.values()) == pytest.approx(together, abs=0.01 * len(found))
    assert max(found.values()) < together
