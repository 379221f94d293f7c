"""The fixed validation estimator: the same images, the same noise, β = 1, at every epoch. It shows the model, not the dice."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vaelid.data import Split
from vaelid.evaluation.latents import active_by_variance, posterior_mean
from vaelid.evaluation.likelihood import elbo_terms
from vaelid.vae import VAE

#: Images per batch, and the most numbers that the likelihood may give for one. Fixed, whatever memory there is, because the last
#: bits of a float32 sum depend on the batch and a resume must be exact.
_BATCH, _MOST_NUMBERS = 1000, 2**26
#: The noise of validation is the same for every run and every seed of a study.
_NOISE_SEED = 0


@dataclass(frozen=True)
class Validation:
    """Means over the validation images, in nats per image; ``values`` holds each image's −ELBO, float64 ``(N,)`` on the CPU."""

    distortion: float
    rate: float
    rate_kind: str
    active_units: int | None  # latents with Var_x(E_q[z_d|x]) > 0.01; None where the posterior's mean is not known
    latent: int
    values: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.float64), repr=False, compare=False)

    @property
    def neg_elbo(self) -> float:
        """−ELBO = distortion + rate at β = 1; what early stopping goes by."""
        return self.distortion + self.rate

    def change_se(self, before: Tensor) -> float | None:
        """Standard error of the mean change of −ELBO since ``before``, the ``values`` of another epoch, paired by image.

        It measures how much of a change is the choice of validation images. None where there is nothing to pair: in the first
        epoch, for a single image, and after a resume from a checkpoint of a version that did not keep the values.
        """
        if len(self.values) < 2 or len(before) != len(self.values):
            return None
        return float((self.values - before).std() / math.sqrt(len(self.values)))


def validate(model: VAE, split: Split, samples: int, epoch: int, seed: int) -> Validation:
    """−ELBO of the validation split with ``samples`` fixed draws per image.

    Args:
        epoch, seed: matter only to data that are redrawn at every access
    """
    model.eval()
    distortions, rates, means = [], [], []
    numbers = samples * math.prod(split.shape) * (split.support.levels or 1)
    batch = max(1, min(_BATCH, _MOST_NUMBERS // numbers))
    for start in range(0, len(split), batch):
        positions = torch.arange(start, min(start + batch, len(split)), device=split.device)
        x = split.batch(positions, epoch, seed)
        terms = elbo_terms(model, x, split.indices[positions], samples, _NOISE_SEED, purpose="validation")
        distortions.append(terms.distortion.double())
        rates.append(terms.rate.double())
        means.append(posterior_mean(terms.q))
    known = [m for m in means if m is not None]
    active = int(active_by_variance(torch.cat(known)).sum()) if known else None
    latent = known[0].shape[-1] if known else 0
    distortion, rate = torch.cat(distortions), torch.cat(rates)
    return Validation(
        float(distortion.mean()), float(rate.mean()), terms.rate_kind, active, latent, (distortion + rate).detach().cpu()
    )
