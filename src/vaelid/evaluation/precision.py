"""The decoder's products in bfloat16: K decodings of an image take a fraction of the time, and the error of that is measured.

Only the products of p(x|z)'s network are short. Densities, weights, their sums, the encoder and −ELBO stay what they are. On some
images the importance-weighted bound is computed both ways, from the same noise; the paired difference stands with the result,
and no table shows the one without the other. A bound so computed is not corrected for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from vaelid.errors import PartError
from vaelid.evaluation.collect import mean_se
from vaelid.likelihoods import Likelihood
from vaelid.randomness import permutation
from vaelid.settings import unknown

Precision = Literal["float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
#: The array of float32 values beside those of a short decoder, NaN for images that were not computed both ways.
BOTH_WAYS = "nll_float32"
_CHECKED = 100


def require_known(precision: str) -> Precision:
    """The precision of that name.

    Raises:
        SettingError: for another one.
    """
    for known in PRECISIONS:
        if precision == known:
            return known
    raise unknown("decoder precision", precision, PRECISIONS)


def decode(likelihood: Likelihood, z: Tensor, precision: Precision) -> Distribution:
    """p(x|z) for latents ``(K, B, L)``, the network's products in ``precision`` (float64 stays float64)."""
    with torch.autocast(z.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        decoded: Distribution = likelihood(z)
    return decoded


def require_long_density(likelihood: Likelihood, z: Tensor, precision: Precision) -> None:
    """Refuse a likelihood whose density would be short where its products are; a draw from p(x|z) shows its number type.

    Raises:
        PartError: names the likelihood and what to change; also where nothing can be drawn, as from probabilities that are NaN.
    """
    if precision == "float32":
        return
    with torch.random.fork_rng(devices=[z.device] if z.device.type == "cuda" else []):
        try:
            drawn = decode(likelihood, z, precision).sample().dtype
        except (RuntimeError, ValueError) as error:
            raise PartError(
                f"Nothing can be drawn from {type(likelihood).__name__} where its network multiplies in bfloat16: {error}",
                "Evaluate with --decoder-precision float32, which says whether the weights are to blame.",
            ) from error
    if torch.finfo(drawn).eps > torch.finfo(torch.float32).eps:
        raise PartError(
            f"{type(likelihood).__name__} gives a density in {drawn} where its network multiplies in bfloat16.",
            "End its forward with network(z).to(z.dtype), or evaluate with --decoder-precision float32.",
        )


def checked(count: int) -> Tensor:
    """Positions of the images, of ``count``, whose bound is computed both ways: up to 100, ascending.

    Drawn once for every ``count``: at even distances they could all be of one class where classes take turns.
    """
    return permutation(count)[:_CHECKED].sort().values


def error_of(values: Mapping[str, np.ndarray]) -> dict[str, Any] | None:
    """What the short decoder changed in ``nll``, over the images computed both ways; None where all is float32.

    NaN, as the bound itself, where it is not finite for one of them: an image is not left out because it went wrong.
    """
    if BOTH_WAYS not in values:
        return None
    both = checked(len(values["nll"])).numpy()
    difference = values["nll"][both] - values[BOTH_WAYS][both]
    with np.errstate(invalid="ignore"):  # ∞ − ∞ is NaN, and is meant to be
        return {**mean_se(difference), "images": len(difference), "largest": float(np.abs(difference).max())}


def decoder_words(bound: Mapping[str, Any]) -> str:
    """``, bfloat16 decoder`` to be put behind K; nothing for float32 (and for results of versions that knew nothing else)."""
    precision = bound.get("decoder_precision", "float32")
    return "" if precision == "float32" else f", {precision} decoder"


def error_words(bound: Mapping[str, Any]) -> str | None:
    """One sentence on what the short decoder changed; None for float32."""
    error = bound.get("precision_error")
    if error is None:
        return None
    spread = "" if error["se"] is None else f" ± {error['se']:.4f}"
    change = f"{error['value']:+z.4f}".replace("-", "−")
    return (
        f"the decoder multiplied in {bound['decoder_precision']}, which changed the bound by {change}{spread} nats "
        f"(paired mean of {error['images']} images, same noise; at most {error['largest']:.4f} for one of them)"
    )
