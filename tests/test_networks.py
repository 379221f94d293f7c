"""The multilayer perceptron; what holds for every network is in test_contract.py."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from vaelid.errors import SettingError
from vaelid.networks import ACTIVATIONS, MLP


def test_an_mlp_is_affine_maps_with_the_activation_between_them() -> None:
    network = MLP((2, 3), 4, hidden=(5,), activation="tanh")
    (w1, b1, w2, b2), x = network.parameters(), torch.randn(7, 2, 3)
    expected = torch.tanh(x.flatten(1) @ w1.T + b1) @ w2.T + b2
    torch.testing.assert_close(network(x), expected)
    assert network.output_bias is b2


def test_without_hidden_layers_an_mlp_is_one_affine_map() -> None:
    network, x = MLP((3,), 2, hidden=()), torch.randn(7, 3)
    torch.testing.assert_close(network(x), F.linear(x, *network.parameters()))
    assert network.extra_repr() == "3-2"


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_is_used(name: str) -> None:
    network = MLP((3,), 2, hidden=(4, 5), activation=name)
    assert [type(layer).__name__ for layer in network.layers] == ["Linear", ACTIVATIONS[name].__name__] * 2 + ["Linear"]
    assert network.extra_repr() == "3-4-5-2"


def test_unknown_activations_get_a_hint() -> None:
    with pytest.raises(SettingError, match=r"no activation named 'leakyrelu'\.\nDid you mean 'leaky-relu'"):
        MLP((3,), 2, activation="leakyrelu")
