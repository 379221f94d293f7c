"""A plain decoder's log p(x|z) without a call of its layers: the definition to rounding, or the definition itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Independent

from pixel_loops import binary
from vaelid import MLP, BernoulliLikelihood, kernels
from vaelid.evaluation.pixels import log_likelihood, plain_decoder


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
    decoder = plain_decoder(likelihood, x, z[:1], 4)
    assert decoder is not None
    calls.clear()
    with torch.no_grad():
        assert torch.allclose(decoder(z), likelihood(z).log_prob(x).double(), rtol=0, atol=1e-4)
    assert calls == [(4, 4, 144), (2, 4, 144)]


@pytest.mark.parametrize("color", [0.0, 1.0])
def test_a_plain_decoder_leaves_what_is_not_finite_to_the_definition(color: float, calls: list[tuple[int, ...]]) -> None:
    likelihood, (x, z) = plain(), latents()
    x[:, 0, 0, 5] = color
    decoder = plain_decoder(likelihood, x, z[:1], 4)
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
    assert plain_decoder(likelihood, x, z[:1], 4) is None


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
    assert plain_decoder(likelihood, x, z[:1], 4) is not None
    before = likelihood(z[:1]).log_prob(x)
    ALTERED[what](likelihood)
    assert torch.equal(likelihood(z[:1]).log_prob(x), before), "seen on the first latents"
    assert plain_decoder(likelihood, x, z[:1], 4) is None


def test_a_hook_of_all_modules_is_not_overlooked(calls: list[tuple[int, ...]]) -> None:
    x, z = latents()
    handle = torch.nn.modules.module.register_module_forward_pre_hook(far_input)
    try:
        assert plain_decoder(plain(), x, z[:1], 4) is None
    finally:
        handle.remove()
    assert plain_decoder(plain(), x, z[:1], 4) is not None


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
    assert plain_decoder(likelihood.eval(), x, z[:1], 4) is None


def test_what_the_class_does_otherwise_shows_on_the_first_latents(
    calls: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, z = latents()
    assert plain_decoder(plain(), x, z[:1], 4) is not None
    monkeypatch.setattr(MLP, "forward", lambda self, h: 0.999 * self.layers(h))
    assert plain_decoder(plain(), x, z[:1], 4) is None


def test_a_loop_that_is_off_decodes_nothing(loop: kernels.Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(*arrays: np.ndarray) -> None:
        loop(*arrays)
        arrays[-1][:] -= 3e-4  # less than two orders of float32 sums may differ by

    (x, z), bend = latents(), kernels.find("bend")
    module = ModuleType("loops")
    module.__dict__["LOOPS"] = {"bernoulli": other, "bend": bend}
    monkeypatch.setattr(kernels, "_loaded", [module])
    assert plain_decoder(plain(), x, z[:1], 4) is None


def test_images_or_weights_in_another_order_of_memory_are_called(calls: list[tuple[int, ...]]) -> None:
    x, z = latents()
    assert plain_decoder(plain(), x.transpose(2, 3), z[:1], 4) is None
    likelihood = plain()
    likelihood.network.layers[0].weight = torch.nn.Parameter(torch.randn(3, 9).T, requires_grad=False)
    assert plain_decoder(likelihood, x, z[:1], 4) is None


def test_with_many_threads_the_definition_is_called(loop: kernels.Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    x, z = latents()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert plain_decoder(plain(), x, z[:1], 4) is None
    decoded = binary(plain()(z).base_dist.logits.flatten(2))
    assert torch.equal(log_likelihood(decoded, x.flatten(1)), decoded.log_prob(x.flatten(1)))


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
    assert plain_decoder(likelihood, x, z[:1], 4) is None


def test_without_numba_a_plain_decoder_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_loaded", [])
    x, z = latents()
    assert plain_decoder(BernoulliLikelihood(MLP((3,), 144), (1, 12, 12)), x, z, 4) is None
