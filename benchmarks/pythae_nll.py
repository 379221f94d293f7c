"""pythae's ``VAE.get_nll`` with the networks and weights of ``evaluation.py``: started by it, with a Python that has pythae.

    PYTHON benchmarks/pythae_nll.py WEIGHTS.npz BATCH THREADS

Reads a line ``IMAGES SAMPLES`` for every turn, answers with a JSON line: seconds, peak memory in MB, and the mean of −log p(x).
"""

from __future__ import annotations

import json
import resource
import sys
import time
from itertools import pairwise

import numpy as np
import torch
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import Tensor, nn


def layers(weights: dict[str, np.ndarray], name: str) -> nn.Sequential:
    """Linear layers of the weights ``name.0.weight``, ``name.0.bias``, … with LeakyReLU between them."""
    count = sum(key.startswith(name) and key.endswith("weight") for key in weights)
    linear = []
    for i in range(count):
        weight, bias = (torch.from_numpy(weights[f"{name}.{i}.{kind}"]) for kind in ("weight", "bias"))
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({"weight": weight, "bias": bias})
        linear.append(layer)
    between = [module for left, _ in pairwise(linear) for module in (left, nn.LeakyReLU())]
    return nn.Sequential(*between, linear[-1])


class Encoder(BaseEncoder):
    """x -> mean and log variance."""

    def __init__(self, network: nn.Module) -> None:
        BaseEncoder.__init__(self)
        self.network = network

    def forward(self, x: Tensor) -> ModelOutput:
        mean, log_variance = self.network(x.flatten(1)).chunk(2, dim=-1)
        return ModelOutput(embedding=mean, log_covariance=log_variance)


class Decoder(BaseDecoder):
    """z -> pixel means."""

    def __init__(self, network: nn.Module) -> None:
        BaseDecoder.__init__(self)
        self.network = network

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=torch.sigmoid(self.network(z)).unflatten(1, (1, 28, 28)))


def main() -> None:
    file, batch, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    weights = dict(np.load(file))
    encoder, decoder = Encoder(layers(weights, "encoder")), Decoder(layers(weights, "decoder"))
    latent = weights["decoder.0.weight"].shape[1]
    config = VAEConfig(input_dim=(1, 28, 28), latent_dim=latent, reconstruction_loss="bce", uses_default_encoder=False)
    model = VAE(config, encoder, decoder).eval()
    images = torch.from_numpy(weights["images"])
    for line in sys.stdin:
        count, samples = map(int, line.split())
        start = time.perf_counter()
        with torch.no_grad():
            log_p = model.get_nll(images[:count], n_samples=samples, batch_size=batch)  # despite its name
        seconds = time.perf_counter() - start
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "memory": memory, "nll": -float(log_p)}), flush=True)


if __name__ == "__main__":
    main()
