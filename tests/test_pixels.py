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


def latents() -> tuple[Tensor, Tensor]:
    """Images and latents of the small model."""
    x = torch.bernoulli(torch.full((4, 1, 12, 12), 0.3), generator=torch.Generator().manual_seed(1))
    return x, torch.randn(6, 4, 3, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("hidden", [(), (9,), (8, 7, 6)])
def test_a_plain_decoder_gives_the_definition_to_rounding(hidden: tuple[int, ...], calls: list[tuple[int, ...]]) -> None:
    torch.manual_seed(0)
    likelihood = BernoulliLikelihood(MLP((3,), 144, hidden=hidden), (1, 12, 12))  # weights that ask for gradients
    for layer in likelihood.network.layers[1::2]:
        layer.negative_slope = 0.3
    x, z = latents()
    decoder = plain_decoder(likelihood, x, z[:1])
    assert decoder is not None
    calls.clear()
    with torch.no_grad():
        assert torch.allclose(decoder(z), likelihood(z).log_prob(x).double(), rtol=0, atol=1e-4)
    assert calls == [(6, 4, 144)]


@pytest.mark.parametrize("color", [0.0, 1.0])
def test_a_plain_decoder_leaves_what_is_not_finite_to_the_definition(color: float, calls: list[tuple[int, ...]]) -> None:
    likelihood, (x, z) = plain(), latents()
    x[:, 0, 0, 5] = color
    decoder = plain_decoder(likelihood, x, z[:1])
    assert decoder is not None
    hidden, last = likelihood.network.layers[-3], likelihood.network.layers[-1]
    hidden.weight.zero_()
    hidden.bias.fill_(1)
    last.weight[5] = 3e38 * (1 - 2 * color)  # of eight hidden numbers 1: logit 5 is infinite, on the side of the other color
    found, expected = decoder(z), likelihood(z).log_prob(x)
    assert found.dtype == torch.float64
    assert not expected.isfinite().any()
    torch.testing.assert_close(found, expected.double(), equal_nan=True)


def test_a_decoder_whose_first_numbers_are_not_finite_is_called(calls: list[tuple[int, ...]]) -> None:
    likelihood = BernoulliLikelihood(MLP((3,), 144, hidden=(5,)), (1, 12, 12)).requires_grad_(False)
    likelihood.network.layers[-1].bias[7] = math.nan
    x, z = latents()
    assert plain_decoder(likelihood, x, z[:1]) is None


def plain() -> BernoulliLikelihood:
    return BernoulliLikelihood(MLP((3,), 144, hidden=(9, 8)), (1, 12, 12)).requires_grad_(False)


def far(z: Tensor) -> bool:
    """Of none of the latents that a decoder is tried on."""
    return bool((z.abs() > 100).any())


def far_hook(module: torch.nn.Module, given: tuple[Tensor, ...], out: Tensor) -> Tensor:
    return out * 0.9 if far(given[0]) else out


def far_input(module: torch.nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (given[0] * 0.9,) if far(given[0]) else given


def own_forward(layer: torch.nn.Module) -> None:
    before = layer.forward
    layer.forward = lambda h: before(h * 0.9 if far(h) else h)  # type: ignore[method-assign]


#: Changes that a few latents near zero do not show.
ALTERED: dict[str, Callable[[BernoulliLikelihood], object]] = {
    "a hook of a layer": lambda p: p.network.layers[0].register_forward_hook(far_hook),
    "a hook before a layer": lambda p: p.network.layers[0].register_forward_pre_hook(far_input),
    "a hook before the layers": lambda p: p.network.layers.register_forward_pre_hook(far_input),
    "a hook before the network": lambda p: p.network.register_forward_pre_hook(far_input),
    "a hook before the likelihood": lambda p: p.register_forward_pre_hook(far_input),
    "a forward of a layer": lambda p: own_forward(p.network.layers[0]),
    "a forward of the network": lambda p: own_forward(p.network),
}


@pytest.mark.parametrize("what", ALTERED)
def test_what_acts_on_some_latents_only_is_not_overlooked(what: str, calls: list[tuple[int, ...]]) -> None:
    likelihood, (x, z) = plain(), latents()
    assert plain_decoder(likelihood, x, z[:1]) is not None
    before = likelihood(z[:1]).log_prob(x)
    ALTERED[what](likelihood)
    assert torch.equal(likelihood(z[:1]).log_prob(x), before), "seen on the first latents"
    assert plain_decoder(likelihood, x, z[:1]) is None


def test_a_hook_of_all_modules_is_not_overlooked(calls: list[tuple[int, ...]]) -> None:
    x, z = latents()
    handle = torch.nn.modules.module.register_module_forward_pre_hook(far_input)
    try:
        assert plain_decoder(plain(), x, z[:1]) is None
    finally:
        handle.remove()
    assert plain_decoder(plain(), x, z[:1]) is not None


#: Layers that are not ``nn.Linear`` with a bias and LeakyReLU in turn, beginning and ending with the first.
SURGERY: dict[str, Callable[[torch.nn.Sequential], object]] = {
    "no bias": lambda layers: layers.__setitem__(0, torch.nn.Linear(3, 9, bias=False)),
    "an activation at the end": lambda layers: layers.append(torch.nn.LeakyReLU()),
    "dropout in place of an activation": lambda layers: layers.__setitem__(1, torch.nn.Dropout(0.0)),
    "weight norm": lambda layers: torch.nn.utils.parametrizations.weight_norm(layers[0]),
    "weight norm of old": lambda layers: torch.nn.utils.spectral_norm(layers[0]),
}


@pytest.mark.parametrize("what", SURGERY)
def test_layers_of_another_kind_are_called(what: str, calls: list[tuple[int, ...]]) -> None:
    likelihood, (x, z) = plain(), latents()
    SURGERY[what](likelihood.network.layers)
    assert plain_decoder(likelihood.eval(), x, z[:1]) is None


def test_what_the_class_does_otherwise_shows_on_the_first_latents(
    calls: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, z = latents()
    assert plain_decoder(plain(), x, z[:1]) is not None
    monkeypatch.setattr(MLP, "forward", lambda self, h: 0.999 * self.layers(h))
    assert plain_decoder(plain(), x, z[:1]) is None


def test_a_loop_that_is_off_decodes_nothing(loop: kernels.Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(*arrays: np.ndarray) -> None:
        loop(*arrays)
        arrays[-1][:] -= 3e-4  # less than two orders of float32 sums may differ by

    (x, z), bend = latents(), kernels.find("bend")
    module = ModuleType("loops")
    module.__dict__["LOOPS"] = {"bernoulli": other, "bend": bend}
    monkeypatch.setattr(kernels, "_loaded", [module])
    assert plain_decoder(plain(), x, z[:1]) is None


def test_images_or_weights_in_another_order_of_memory_are_called(calls: list[tuple[int, ...]]) -> None:
    x, z = latents()
    assert plain_decoder(plain(), x.transpose(2, 3), z[:1]) is None
    likelihood = plain()
    likelihood.network.layers[0].weight = torch.nn.Parameter(torch.randn(3, 9).T, requires_grad=False)
    assert plain_decoder(likelihood, x, z[:1]) is None


def test_with_many_threads_the_definition_is_called(loop: kernels.Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    x, z = latents()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert plain_decoder(plain(), x, z[:1]) is None
    assert torch.equal(log_likelihood(binary(LOGITS), X), binary(LOGITS).log_prob(X))


def hooked(likelihood: BernoulliLikelihood) -> BernoulliLikelihood:
    likelihood.network.layers[-1].register_forward_hook(lambda layer, given, out: 0.9 * out)
    return likelihood


class Doubled(BernoulliLikelihood):
    def forward(self, z: Tensor) -> Independent[Bernoulli]:
        return super().forward(2 * z if far(z) else z)


class DoubledMLP(MLP):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(2 * x if far(x) else x)


@pytest.mark.parametrize(
    "likelihood",
    [
        hooked(BernoulliLikelihood(MLP((3,), 144), (1, 12, 12))),
        Doubled(MLP((3,), 144), (1, 12, 12)),
        BernoulliLikelihood(MLP((3,), 144, activation="tanh"), (1, 12, 12)),
        BernoulliLikelihood(DoubledMLP((3,), 144), (1, 12, 12)),
        BernoulliLikelihood(torch.nn.Linear(3, 144), (1, 12, 12)),
        BernoulliLikelihood(MLP((3,), 144), (1, 12, 12)).double(),
    ],
    ids=["hook", "forward of its own", "tanh", "MLP of its own", "no MLP", "float64"],
)
def test_a_decoder_that_is_not_plain_is_called(likelihood: BernoulliLikelihood, calls: list[tuple[int, ...]]) -> None:
    x, z = (t.to(next(likelihood.parameters()).dtype) for t in latents())
    assert plain_decoder(likelihood, x, z[:1]) is None


def test_without_numba_a_plain_decoder_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_loaded", [])
    x, z = latents()
    assert plain_decoder(BernoulliLikelihood(MLP((3,), 144), (1, 12, 12)), x, z) is None
