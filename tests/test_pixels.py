"""log p(x|z) in one pass over the logits: the number of the definition to rounding, or the definition itself."""

from __future__ import annotations

import math
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent, Normal

from exact_models import as_split
from vaelid import MLP, VAE, BernoulliLikelihood, GaussianPosterior, MixturePrior, kernels
from vaelid.evaluation import evaluate, pixels
from vaelid.evaluation.likelihood import PosteriorDraws, log_weights
from vaelid.evaluation.pixels import ROUNDING, log_likelihood, plain_decoder
from vaelid.progress import Silent


class Tempered(Bernoulli):
    """A density of its own."""

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value) / 2


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> kernels.Kernel:
    kernels.start()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    found = kernels.find("bernoulli")
    if found is None:
        pytest.skip("numba is not installed")
    return found


@pytest.fixture
def calls(loop: kernels.Kernel, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the logits that the loop was given."""
    assert pixels._agrees(loop)
    seen: list[tuple[int, ...]] = []

    def noted(logits: np.ndarray, *others: np.ndarray) -> None:
        seen.append(logits.shape)
        loop(logits, *others)

    module = ModuleType("loops")
    module.__dict__["LOOPS"] = {"bernoulli": noted, "bend": kernels.find("bend")}
    monkeypatch.setattr(kernels, "_loaded", [module])
    monkeypatch.setattr(pixels, "_agrees", lambda kernel: True)
    return seen


def binary(logits: Tensor, dims: int = 1) -> Independent[Bernoulli]:
    return Independent(Bernoulli(logits=logits, validate_args=False), dims, validate_args=False)


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


def test_the_loop_takes_logits_of_any_size(calls: list[tuple[int, ...]]) -> None:
    found = log_likelihood(binary(torch.tensor([[[1e30, -1e30, 0.0]], [[3e38, 87.5, -200.0]]])), torch.tensor([[1.0, 0.0, 1.0]]))
    assert found.flatten().tolist() == pytest.approx([-math.log(2), -87.5 - 200], rel=1e-6)
    assert math.isnan(float(log_likelihood(binary(torch.tensor([[[math.nan, 1.0, 0.0]]])), torch.zeros(1, 3))))
    assert len(calls) == 2


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


def test_a_loop_that_is_off_is_not_used(loop: kernels.Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(*arrays: np.ndarray) -> None:
        loop(*arrays)
        arrays[-1][:] -= 0.1

    module = ModuleType("loops")
    module.__dict__["LOOPS"] = {"bernoulli": other}
    monkeypatch.setattr(kernels, "_loaded", [module])
    assert torch.equal(log_likelihood(binary(LOGITS), X), binary(LOGITS).log_prob(X))


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


def latents() -> tuple[Tensor, Tensor]:
    """Images and latents of the small model."""
    x = torch.bernoulli(torch.full((4, 1, 12, 12), 0.3), generator=torch.Generator().manual_seed(1))
    return x, torch.randn(6, 4, 3, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("hidden", [(), (9,), (8, 7, 6)])
def test_a_plain_decoder_gives_the_definition_to_rounding(hidden: tuple[int, ...], calls: list[tuple[int, ...]]) -> None:
    torch.manual_seed(0)
    likelihood = BernoulliLikelihood(MLP((3,), 144, hidden=hidden), (1, 12, 12))  # weights that ask for gradients
    x, z = latents()
    decoder = plain_decoder(likelihood, x, z[:1])
    assert decoder is not None
    calls.clear()
    with torch.no_grad():
        assert torch.allclose(decoder(z), likelihood(z).log_prob(x).double(), rtol=0, atol=1e-4)
    assert calls == [(6, 4, 144)]


def hooked(likelihood: BernoulliLikelihood) -> BernoulliLikelihood:
    likelihood.network.layers[-1].register_forward_hook(lambda layer, given, out: 0.9 * out)
    return likelihood


class Doubled(BernoulliLikelihood):
    def forward(self, z: Tensor) -> Independent[Bernoulli]:
        return super().forward(2 * z)


@pytest.mark.parametrize(
    "likelihood",
    [
        hooked(BernoulliLikelihood(MLP((3,), 144), (1, 12, 12))),
        Doubled(MLP((3,), 144), (1, 12, 12)),
        BernoulliLikelihood(MLP((3,), 144, activation="tanh"), (1, 12, 12)),
        BernoulliLikelihood(torch.nn.Linear(3, 144), (1, 12, 12)),
        BernoulliLikelihood(MLP((3,), 144), (1, 12, 12)).double(),
    ],
    ids=["hook", "forward of its own", "tanh", "no MLP", "float64"],
)
def test_a_decoder_that_is_not_plain_is_called(likelihood: BernoulliLikelihood, calls: list[tuple[int, ...]]) -> None:
    x, z = (t.to(next(likelihood.parameters()).dtype) for t in latents())
    assert plain_decoder(likelihood, x, z[:1]) is None


def test_without_numba_a_plain_decoder_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_loaded", [])
    x, z = latents()
    assert plain_decoder(BernoulliLikelihood(MLP((3,), 144), (1, 12, 12)), x, z) is None
