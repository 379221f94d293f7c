"""Evaluation of a model on a split: per-image values first, then their means with standard errors.

A long evaluation is saved as it goes and taken up again where it stood: every image's numbers depend on that image alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vaelid.data import Split
from vaelid.environment import describe_machine
from vaelid.errors import MachineError
from vaelid.evaluation.latents import ACTIVE, active_by_variance, kl_of_dimensions, posterior_mean
from vaelid.evaluation.likelihood import curve_points, elbo_terms, importance_bound, log_weights
from vaelid.evaluation.yardsticks import IndependentPixels
from vaelid.progress import Reporter
from vaelid.vae import VAE

Arrays = dict[str, np.ndarray]
_SAVE_EVERY = 30.0  # seconds
_CPU_BYTES = 2**25


@dataclass(frozen=True)
class Plan:
    """How to evaluate.

    ``samples``: K of the importance-weighted bound; ``elbo_samples``: S draws per image for −ELBO; ``seed`` names the noise;
    ``images`` are looked at together (of no influence on the numbers).
    """

    samples: int = 5000
    elbo_samples: int = 10
    seed: int = 0
    images: int = 50

    def identity(self) -> dict[str, Any]:
        """What the per-image numbers depend on."""
        return {key: value for key, value in asdict(self).items() if key != "images"}


def evaluate_images(
    model: VAE,
    split: Split,
    yardstick: IndependentPixels | None,
    plan: Plan,
    reporter: Reporter,
    start: Arrays | None = None,
    save: Callable[[Arrays], None] | None = None,
) -> Arrays:
    """Per-image values of every image of ``split``, in its order (nats, float64).

    Args:
        yardstick: independent pixels, if they are wanted beside
        start: what an earlier, interrupted call had saved
        save: called now and then with what is done so far

    Returns:
        ``neg_elbo, distortion, rate, nll`` (N,), ``curve`` (N, points), ``mean`` and ``kl`` (N, L) where known,
        ``independent_pixels`` (N,).

    However it is broken off, ``save`` gets what was done until then.
    """
    model.eval()
    parts = [start] if start else []
    done = len(start["nll"]) if start else 0
    chunk = decoder_rows(split)
    saved = time.monotonic()
    try:
        with reporter.bar(f"evaluating {split.name}", len(split), done):
            for first in range(done, len(split), plan.images):
                positions = torch.arange(first, min(first + plan.images, len(split)))
                found, chunk = with_smaller_chunks(partial(_look, model, split, positions, plan), chunk)
                if yardstick is not None:
                    found["independent_pixels"] = yardstick.nll(split.batch(positions)).cpu().numpy()
                parts.append(found)
                reporter.advance(len(positions), f"image {int(positions[-1]) + 1:,} of {len(split):,}")
                if save is not None and time.monotonic() - saved > _SAVE_EVERY:
                    parts = [_joined(parts)]
                    save(parts[0])
                    saved = time.monotonic()
    except BaseException:
        if save is not None and parts:
            save(_joined(parts))
        raise
    return _joined(parts)


def summarize(values: Arrays, plan: Plan, rate_kind: str, discrete: bool, dimensions: int) -> dict[str, Any]:
    """Means over images with standard errors, as they stand in ``results.json``.

    Args:
        discrete: whether the numbers are probabilities (else densities, which have no bits/dim)
        dimensions: D, pixels of an image
    """
    curve = [
        {"samples": k, "value": _mean(values["curve"][:, j]), "se": _se(values["curve"][:, j])}
        for j, k in enumerate(curve_points(plan.samples))
    ]
    neg_elbo: dict[str, Any] = {
        "value": _mean(values["neg_elbo"]),
        "se": _se(values["neg_elbo"]),
        "distortion": _mean(values["distortion"]),
        "rate": _mean(values["rate"]),
        "rate_kind": rate_kind,
        "samples": plan.elbo_samples,
        "direction": "upper bound on the true NLL in expectation",
    }
    nll: dict[str, Any] = {
        "value": _mean(values["nll"]),
        "se": _se(values["nll"]),
        "samples": plan.samples,
        "name": f"importance-weighted bound, K = {plan.samples}, proposal q(z|x)",
        "direction": "upper bound on the true NLL in expectation",
        "curve": curve,
    }
    bits = {name: number["value"] / (dimensions * math.log(2)) for name, number in (("neg_elbo", neg_elbo), ("nll", nll))}
    results: dict[str, Any] = {
        "neg_elbo": neg_elbo,
        "nll": nll,
        "kind": "probability" if discrete else "density",
        "bits_per_dim": bits if discrete else None,
        "active_units": {"variance": None, "kl": None},
        "kl_per_dimension": None,
        "images": len(values["nll"]),
        "seed": plan.seed,
    }
    if "mean" in values:
        results["active_units"]["variance"] = int(active_by_variance(torch.from_numpy(values["mean"])).sum())
    if "kl" in values:
        kl = values["kl"].mean(0)
        results["active_units"]["kl"] = int((kl > ACTIVE).sum())
        results["kl_per_dimension"] = [float(v) for v in kl]
    if "independent_pixels" in values:
        pixels = values["independent_pixels"]
        results["yardsticks"] = {"independent_pixels": {"value": _mean(pixels), "se": _se(pixels)}}
    return results


def provenance(model: VAE, split: Split, name: str, weights: str) -> dict[str, Any]:
    """Which images, under which protocol, by which weights (SHA-256), where: it stands beside the numbers in ``results.json``."""
    return {
        "data": {
            "name": name,
            "split": split.name,
            "protocol": split.protocol,
            "redrawn": split.settings.binarization in (("resampled",) if split.held_out else ("resampled", "dynamic")),
            "support": split.support.name,
            "fingerprint": split.fingerprint,
        },
        "environment": {
            **describe_machine(split.device),
            "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
            "weights": weights,
        },
    }


def rate_kind(model: VAE, split: Split) -> str:
    """How the model's rate is computed: ``closed-form`` or ``sampled``."""
    return elbo_terms(model, _images(model, split, torch.arange(1)), split.indices[:1], 1, 0).rate_kind


def with_smaller_chunks(work: Callable[[int], Arrays], chunk: int) -> tuple[Arrays, int]:
    """``work(chunk)``, with half the chunk as often as memory runs out; gives the chunk that fitted, too.

    Raises:
        MachineError: if not even one row fits.
    """
    while True:
        try:
            return work(chunk), chunk
        except RuntimeError as error:
            if not _is_lack_of_memory(error):
                raise
            if chunk == 1:
                raise MachineError(
                    "Memory ran out even with one image and one sample at a time.", "Free memory, or use --device cpu."
                ) from error
        chunk = max(1, chunk // 2)  # outside of the handler, where the error holds on to the tensors of the failed attempt


def decoder_rows(split: Split) -> int:
    """How many decodings to hold at once: what fits the cache of a CPU core, or a tenth of a GPU's free memory."""
    numbers = 8 * math.prod(split.shape) * (split.support.levels or 2)
    if split.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(split.device)
        return max(1, free // (10 * 4 * numbers))
    return max(64, min(4096, _CPU_BYTES // (4 * numbers)))


@torch.no_grad()
def _look(model: VAE, split: Split, positions: Tensor, plan: Plan, chunk: int) -> Arrays:
    x, ids = _images(model, split, positions), split.indices[positions.to(split.device)]
    per_image = max(1, chunk // plan.elbo_samples)
    groups = [slice(i, i + per_image) for i in range(0, len(x), per_image)]
    pieces = [elbo_terms(model, x[group], ids[group], plan.elbo_samples, plan.seed) for group in groups]
    weights = log_weights(model, x, ids, plan.samples, plan.seed, chunk)
    curve = torch.stack([importance_bound(weights, k) for k in curve_points(plan.samples)], dim=1)
    found = {
        "distortion": torch.cat([p.distortion for p in pieces]),
        "rate": torch.cat([p.rate for p in pieces]),
        "neg_elbo": torch.cat([p.neg_elbo for p in pieces]),
        "nll": -curve[:, -1],
        "curve": -curve,
    }
    q = model.posterior(x)
    for name, value in (("mean", posterior_mean(q)), ("kl", kl_of_dimensions(q, model.prior()))):
        if value is not None:
            found[name] = value
    return {name: value.detach().double().cpu().numpy() for name, value in found.items()}


def _images(model: VAE, split: Split, positions: Tensor) -> Tensor:
    return split.batch(positions).to(next(model.parameters()).dtype)


def _is_lack_of_memory(error: RuntimeError) -> bool:
    # The CPU allocator raises a plain RuntimeError; anything else is not ours to swallow.
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in str(error) for words in ("allocate memory", "not enough memory", "out of memory")
    )


def _joined(parts: list[Arrays]) -> Arrays:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _mean(values: np.ndarray) -> float:
    return float(values.mean())


def _se(values: np.ndarray) -> float | None:
    """Standard error of the mean over images; none for one image."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
