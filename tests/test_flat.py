"""All weights as one vector: the same numbers, seen twice."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from vaelid.errors import PartError
from vaelid.training.flat import FlatParameters


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))


def test_the_vector_and_the_parameters_are_the_same_memory() -> None:
    module = net()
    before = [p.clone() for p in module.parameters()]
    flat = FlatParameters(module)
    assert all(torch.equal(p, old) for p, old in zip(module.parameters(), before, strict=True))
    flat.flat.data += 1
    assert all(torch.equal(p, old + 1) for p, old in zip(module.parameters(), before, strict=True))
    module.load_state_dict({name: torch.zeros_like(t) for name, t in module.state_dict().items()})
    assert not any(p.any() for p in module.parameters())
    assert all(p.data_ptr() % 64 == flat.flat.data_ptr() % 64 for p in module.parameters()), "weights are not aligned"


def test_gradients_are_gathered_with_their_norm() -> None:
    module = net()
    twin = copy.deepcopy(module)
    flat = FlatParameters(module)
    x = torch.randn(4, 3)
    for copied in (module, twin):
        copied(x).square().sum().backward()
    norm = flat.gather_gradients()
    gradients = [p.grad for p in twin.parameters()]
    assert norm == pytest.approx(float(torch.cat([g.flatten() for g in gradients]).norm()), rel=1e-5)
    torch.optim.SGD([flat.flat], lr=0.1).step()
    torch.optim.SGD(twin.parameters(), lr=0.1).step()
    for mine, theirs in zip(module.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_forgotten_gradients_do_not_add_up() -> None:
    module = net()
    flat = FlatParameters(module)
    norms = []
    for _ in range(2):
        flat.forget_gradients()
        module(torch.ones(1, 3)).sum().backward()
        norms.append(float(flat.gather_gradients()))
    assert norms[0] == norms[1] > 0


def test_a_part_that_took_no_part_has_gradient_zero() -> None:
    module = net()
    flat = FlatParameters(module)
    module(torch.ones(1, 3)).sum().backward()
    flat.gather_gradients()
    flat.forget_gradients()
    module[2](torch.ones(1, 5)).sum().backward()
    assert flat.gather_gradients() == pytest.approx(12**0.5)
    flat.flat.data.zero_()
    torch.optim.SGD([flat.flat], lr=1.0).step()
    assert not module[0].weight.any()
    assert module[2].weight.unique().tolist() == [-1.0]


class Twice(nn.Module):
    """One layer called twice, one weight in two layers, one layer frozen, one not used."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.other = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.other.weight = self.again.weight
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.add_module("idle", nn.Linear(4, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.again(self.first(x).tanh()).tanh()
        return self.frozen(self.other(self.first(x).tanh())).square().sum()


@pytest.mark.parametrize("shape", [(4,), (7, 4), (3, 2, 4)])
@pytest.mark.parametrize("short", [False, True])
def test_products_of_layers_are_the_gradients_of_autograd(shape: tuple[int, ...], short: bool) -> None:
    module = Twice()
    twin = copy.deepcopy(module)
    flat = FlatParameters(module, [m for m in module.modules() if isinstance(m, nn.Linear)])
    expected = FlatParameters(twin)
    for seed in range(2):  # nothing is left over from the loss before
        x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        for copied, vector in ((module, flat), (twin, expected)):
            vector.forget_gradients()
            with torch.autocast("cpu", torch.bfloat16, enabled=short):
                loss = copied(x)
            loss.backward()
        norms = flat.gather_gradients(), expected.gather_gradients()
        assert all(p.grad is None for name, p in module.named_parameters() if name.endswith("weight")), "computed twice"
        tolerance = {"rtol": 0.02, "atol": 0.02} if short else {}
        torch.testing.assert_close(flat.grad, expected.grad, **tolerance)
        torch.testing.assert_close(*norms, **tolerance)
    assert flat.grad.count_nonzero() > 40


def test_a_layer_called_once_has_the_very_bits_of_autograd() -> None:
    module = net()
    twin = copy.deepcopy(module)
    flat, expected = FlatParameters(module, [module[0], module[2]]), FlatParameters(twin)
    x = torch.randn(32, 3)
    for copied in (module, twin):
        copied(x).square().sum().backward()
    assert flat.gather_gradients() == expected.gather_gradients() > 0
    assert torch.equal(flat.grad, expected.grad)


def test_without_gradients_nothing_is_kept() -> None:
    module = net()
    flat = FlatParameters(module, [module[0], module[2]])
    with torch.no_grad():
        module(torch.randn(2, 3))
    assert flat.gather_gradients() == 0


def test_frozen_parameters_stay_out() -> None:
    module = net()
    module[0].requires_grad_(False)
    flat = FlatParameters(module)
    before = module[0].weight.clone()
    flat.flat.data.fill_(9.0)
    assert torch.equal(module[0].weight, before)
    assert module[2].bias.tolist() == [9.0, 9.0]


def test_a_parameter_that_is_used_twice_stands_once() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    module[1].weight = module[0].weight
    flat = FlatParameters(module)
    assert len(flat.flat) == 16 + 16 + 16
    assert module[1].weight is module[0].weight


def test_what_cannot_be_trained_is_refused() -> None:
    with pytest.raises(PartError, match="no parameters to train"):
        FlatParameters(nn.Identity())
    with pytest.raises(PartError, match="these are float32, float64"):
        FlatParameters(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double()))
