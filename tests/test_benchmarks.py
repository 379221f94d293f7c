"""The benchmarks compare like with like, and run. Their times are not tested."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch

from vaelid import MLP, VAE, BernoulliLikelihood, FactorizedMixturePrior, GaussianPosterior

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
