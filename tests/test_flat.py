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
