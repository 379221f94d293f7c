"""log p(x|z) in one pass over the logits: the number of the definition to rounding, or the definition itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent, Normal

from exact_models import as_split
from pixel_loops import binary
from vaelid import MLP, VAE, BernoulliLikelihood, GaussianPosterior, MixturePrior, kernels
from vaelid.evaluation import evaluate, pixels
from vaelid.evaluation.likelihood import PosteriorDraws, log_weights
from vaelid.evaluation.pixels import ROUNDING, log_likelihood
from vaelid.progress import Silent


class Tempered(Bernoulli):
    """A density of its own."""

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value) / 2


def small_model() -> VAE:
    torch.manual_seed(0)
    parts = GaussianPosterior(MLP((1, 12, 12), 6), 3), BernoulliLikelihood(MLP((3,), 144), (1, 12, 12)), MixturePrior(3, 2)
    return VAE(*parts).eval().requires_grad_(False)


@pytest.mark.parametrize("shape", [(1,), (7,), (112,), (113,), (2, 8, 8), (1, 28, 28)])
@pytest.mark.parametrize("scale", [0.1, 4.0, 60.0])
def test_the_loop_gives_the_exact_value_to_rounding(shape: tuple[int, ...], scale: float, calls: list[tuple[int, ...]]) -> None:
    torch.manual_seed(0)
    logits, x = scale * torch.randn(5, 3, *shape), torch.bernoulli(torch.full((3, *shape), 0.3))
    found, dims = log_likelihood(binary(logits, len(shape)), x), len(shape)
    sign = 2 * x.double() - 1
    exact = -torch.log1p(torch.exp(-sign * logits.double())).flatten(2).sum(-1)  # −Σ log(1 + e^∓l)
    assert calls == [(5, 3, math.prod(shape))]
    assert found.shape == (5, 3)
    allowed = ROUNDING * (1 + logits.double().abs()).flatten(2).sum(-1)
    assert ((found - exact).abs() <= allowed).all()
    torchs = binary(logits, dims).log_prob(x).double()
    assert ((found - torchs).abs() <= 2 * allowed).all()


@pytest.mark.parametrize("scale", [1.0, 5.0, 20.0])
def test_over_many_pixels_the_loop_is_nearer_to_the_exact_value(scale: float, calls: list[tuple[int, ...]]) -> None:
    torch.manual_seed(0)
    logits = scale * torch.randn(200, 1, 784)
    x = torch.bernoulli(torch.sigmoid(logits[0]))
    exact = binary(logits.double()).log_prob(x.double())
    loops, torchs = ((found - exact).square().mean() for found in (log_likelihood(binary(logits), x), binary(logits).log_prob(x)))
    assert calls
    assert loops < torchs


@pytest.mark.parametrize("width", [1, 5, 112, 113, 300])
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("color", [0.0, 1.0])
def test_what_is_not_finite_is_as_the_definition_has_it(
    width: int, value: float, color: float, calls: list[tuple[int, ...]]
) -> None:
    for position in {0, width // 2, width - 1}:
        logits, x = torch.zeros(2, 1, width), torch.full((1, width), color)
        logits[1, 0, position] = value
        found = log_likelihood(binary(logits), x)
        assert torch.equal(found.isnan(), binary(logits).log_prob(x).isnan())
        assert found.isfinite().flatten().tolist() == [True, False]
    assert calls


def test_the_loop_takes_logits_of_any_size(calls: list[tuple[int, ...]]) -> None:
    found = log_likelihood(binary(torch.tensor([[[1e30, -1e30, 0.0]], [[3e38, 87.5, -200.0]]])), torch.tensor([[1.0, 0.0, 1.0]]))
    assert found.flatten().tolist() == pytest.approx([-math.log(2), -87.5 - 200], rel=1e-6)
    assert math.isnan(float(log_likelihood(binary(torch.tensor([[[math.nan, 1.0, 0.0]]])), torch.zeros(1, 3))))
    assert len(calls) == 2


@pytest.mark.parametrize("checks", [True, False])
def test_pixels_are_checked_where_the_distribution_checks_them(checks: bool, calls: list[tuple[int, ...]]) -> None:
    gray = Independent(Bernoulli(logits=LOGITS, validate_args=checks), 1)
    log_likelihood(gray, X)
    assert len(calls) == 1, "checked or not, the loop does the work"
    if not checks:
        assert log_likelihood(gray, X / 2).isfinite().all()
        return
    with pytest.raises(ValueError, match="within the support"):
        log_likelihood(gray, X / 2)


LOGITS = torch.linspace(-3, 3, 24).reshape(2, 3, 4)
X = (torch.arange(12) % 3 == 0).float().reshape(3, 4)


@pytest.mark.parametrize(
    ("distribution", "x"),
    [
        (binary(LOGITS.double()), X.double()),
        (binary(LOGITS.transpose(0, 1).contiguous().transpose(0, 1)), X),  # not contiguous
        (binary(LOGITS), X.T.contiguous().T),
        (binary(LOGITS[0]), X),
        (binary(LOGITS), X[:1]),  # one image for all, by broadcasting
        (Independent(Tempered(logits=LOGITS), 1), X),
        (Independent(Normal(LOGITS, 1.0), 1), X),
        (Bernoulli(logits=LOGITS[..., 0]), X[:, 0]),
    ],
)
def test_all_else_is_the_definition(distribution: Distribution, x: Tensor, calls: list[tuple[int, ...]]) -> None:
    assert torch.equal(log_likelihood(distribution, x), distribution.log_prob(x))
    assert not calls


def test_without_numba_it_is_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_loaded", [])
    assert torch.equal(log_likelihood(binary(LOGITS), X), binary(LOGITS).log_prob(X))


def clipped(logits: np.ndarray, least: float, most: float) -> np.ndarray:
    return np.clip(logits, np.float32(least), np.float32(most))


#: What may be wrong with a loop: (logits, images, log p) -> logits, images and what to add to log p.
WRONG: dict[str, Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, float]]] = {
    "a constant": lambda logits, x: (logits, x, -3e-4),
    "large logits clipped": lambda logits, x: (clipped(logits, -100, 100), x, 0),
    "huge logits clipped": lambda logits, x: (clipped(logits, -2e4, 2e4), x, 0),
    "logits clipped below": lambda logits, x: (clipped(logits, -15, np.inf), x, 0),
    "probabilities clamped": lambda logits, x: (clipped(logits, -15.9, 15.9), x, 0),
    "small logits dropped": lambda logits, x: (np.where(abs(logits) < 0.001, np.float32(0), logits), x, 0),
    "ink a little lighter": lambda logits, x: (logits, x * np.float32(1 - 1e-5), 0),
    "the last pixel": lambda logits, x: (np.where(np.arange(logits.shape[-1]) < 400, logits, np.float32(0)), x, 0),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_loop_that_is_off_is_not_used(wrong: str, loop: kernels.Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(logits: np.ndarray, bias: np.ndarray, x: np.ndarray, log_p: np.ndarray) -> None:
        logits, x, more = WRONG[wrong](logits, x)
        loop(logits, bias, x, log_p)
        log_p += more

    assert pixels._agrees(loop)
    module = ModuleType("loops")
    module.__dict__["LOOPS"] = {"bernoulli": other}
    monkeypatch.setattr(kernels, "_loaded", [module])
    assert torch.equal(log_likelihood(binary(LOGITS), X), binary(LOGITS).log_prob(X))


def test_it_is_tried_in_float32_whatever_the_default(loop: kernels.Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.dtype] = []

    def noted(*arrays: np.ndarray) -> None:
        seen.extend(a.dtype for a in arrays[:-1])
        loop(*arrays)

    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        assert pixels._agrees(noted)
    finally:
        torch.set_default_dtype(before)
    assert set(seen) == {np.dtype(np.float32)}


def test_weights_are_those_of_the_pass_to_rounding(calls: list[tuple[int, ...]]) -> None:
    model, ids, x = small_model(), torch.arange(5), torch.bernoulli(torch.full((5, 1, 12, 12), 0.3))
    draws = PosteriorDraws(model, x, ids, "importance", seed=3)
    expected = model.look(x, draws.q, draws.draw(0, 60)).log_weight.double()
    for chunk in (1, 13, 50, 1000):
        found = log_weights(model, x, ids, 60, seed=3, chunk=chunk)
        assert torch.allclose(found, expected, rtol=0, atol=2e-4), chunk
        assert calls, "not compiled"
        assert all(draws * images <= chunk for draws, images, _ in calls), "more rows than a chunk"
        calls.clear()


def test_numba_is_loaded_only_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[bool] = []
    monkeypatch.setattr(kernels, "start", lambda: started.append(True))
    monkeypatch.setattr(evaluate, "collect", lambda *args: {})
    model = small_model()
    for images, samples, loads in ((10, 100, 0), (10, 10**5, 1)):
        started.clear()
        evaluate.evaluate_images(model, as_split(torch.zeros(images, 1, 12, 12)), None, evaluate.Plan(samples), Silent())
        assert len(started) == loads
