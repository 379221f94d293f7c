"""The arrays that an evaluation's figures show: what the model draws, how it rebuilds images, what it finds unlikely."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vaelid.data import Shades, Split
from vaelid.distributions import GaussianMixture
from vaelid.evaluation.collect import Arrays
from vaelid.evaluation.latents import posterior_mean
from vaelid.vae import VAE, Samples

_PAIRS = 10  # images beside their reconstructions
_EXTREMES = 10  # likeliest and unlikeliest images, of each
_MOST_COMPONENTS = 100


@torch.no_grad()
def pictures(model: VAE, split: Split, nll: np.ndarray, samples: Samples, shades: Shades) -> Arrays:
    """Images by what they show, each ``(N, *X)``, with the numbers that stand beside them.

    Args:
        nll: of the split's images, ``(N,)`` nats
        samples: from the model
        shades: of all pictures of the run
    """
    originals = split.batch(torch.arange(min(_PAIRS, len(split))))
    shown, beside = {"means": samples.means, "draws": samples.draws, "originals": originals}, {}
    center = posterior_mean(model.encode(originals))
    if center is not None:
        shown["reconstructions"] = decoded_means(model, center)
    for name, positions in zip(("likeliest", "unlikeliest"), extremes(nll), strict=True):
        if len(positions):
            shown[name] = split.batch(torch.from_numpy(positions))
            beside[f"{name}_nll"] = torch.from_numpy(nll[positions])
    prior = model.prior()
    if isinstance(prior, GaussianMixture):
        order = prior.log_weights.argsort(descending=True)[:_MOST_COMPONENTS]
        shown["components"] = decoded_means(model, prior.component_mean[order])
        beside["component_weights"] = prior.log_weights.exp()[order]
    gray = {name: shades.of_pixels(images) for name, images in shown.items()}
    return {name: value.cpu().numpy() for name, value in (gray | beside).items()}


def decoded_means(model: VAE, z: Tensor) -> Tensor:
    """Pixel means of p(x|z) for latents ``(n, L)``, ``(n, *X)``; draws no random numbers."""
    return model.likelihood(z.unsqueeze(0)).mean.squeeze(0)


def extremes(nll: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the likeliest and of the unlikeliest images, equally many of both, the most extreme first."""
    order = np.argsort(nll, kind="stable")
    count = min(_EXTREMES, len(order) // 2)
    return order[:count].copy(), order[::-1][:count].copy()
