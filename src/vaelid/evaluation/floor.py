"""What no model can beat: the least mean NLL that the pixels allow. A number below it is an error in the evaluation, no record.

    pixels drawn from gray values g    E[−log p(x)] ≥ Σ_d H(g_d),  H(g) = −g log g − (1 − g) log(1 − g)
    other discrete pixels              −log p(x) ≥ 0
    densities                          no limit

The first is Gibbs' inequality for each image, on average over the draw of its pixels, for every p that has not seen the draw.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy
import torch

from vaelid.data import Split
from vaelid.evaluation.collect import mean_se

#: So many standard errors below the limit are no luck any more; of few images it takes more, by Student's t, for the same chance.
_SIGMAS = 4
#: Rounding of float32 likelihoods, in nats: a limit that is reached exactly is not broken by it.
_ROUNDING = 1e-3
_BATCH = 1000


def least_nll(split: Split, discrete: bool) -> np.ndarray | None:
    """The least expected −log p(x) of every image, ``(N,)`` nats; None for densities, which have no limit.

    Args:
        discrete: whether the model gives probabilities
    """
    if not discrete:
        return None
    if split.settings.binarization not in ("dynamic", "resampled"):
        return np.zeros(len(split))
    pieces = []
    for positions in torch.arange(len(split)).split(_BATCH):
        gray = split.gray(positions).flatten(1).double()
        pieces.append((torch.special.entr(gray) + torch.special.entr(1 - gray)).sum(1).cpu().numpy())
    return np.concatenate(pieces)


def floor_of(values: dict[str, np.ndarray], least: np.ndarray) -> dict[str, Any]:
    """The limit, and how far each mean of ``values`` (name -> ``(N,)`` nats) is above it, with the paired standard error."""
    drawn = bool(least.any())
    return {
        "value": float(least.mean()),
        "images": len(least),
        "what": "mean pixel entropy of these images" if drawn else "0, as these are probabilities",
        "above": {name: mean_se(found - least) for name, found in values.items()},
    }


def not_numbers(values: Mapping[str, np.ndarray]) -> list[str]:
    """Which of the bounds ``values`` (name -> ``(N,)`` nats) are NaN, in words. (An infinite one says that p(x) = 0.)"""
    missing = {name: np.flatnonzero(np.isnan(found)) for name, found in values.items()}
    return [
        f"The {name} of {len(where):,} of {len(values[name]):,} images is not a number (NaN), first that of image "
        f"{where[0] + 1:,}: the network's numbers, or their sums, are beyond its number type."
        for name, where in missing.items()
        if len(where)
    ]


def below_floor(floor: dict[str, Any]) -> list[str]:
    """What is wrong with these numbers, in words; empty if nothing is. One image, which has no error, is not judged."""
    complaints: list[str] = []
    if floor.get("images", 0) == 1:
        return complaints
    # Results of earlier versions do not say how many images there were: many.
    limit = float(scipy.stats.t.isf(scipy.stats.norm.sf(_SIGMAS), floor["images"] - 1)) if "images" in floor else _SIGMAS
    for name, above in floor["above"].items():
        if above["se"] is not None and above["value"] < -(limit * above["se"] + _ROUNDING):
            complaints.append(
                f"The mean {name} of {floor['value'] + above['value']:.3f} nats is impossible: it is {-above['value']:.3f} ± "
                f"{above['se']:.3f} below {floor['value']:.3f} ({floor['what']}), which no model can beat. "
                "Sampler, density or evaluation are in error."
            )
    return complaints
