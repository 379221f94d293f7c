"""Evaluation of a model on a split: per-image values first, then their means with standard errors.

A long evaluation is saved as it goes and taken up again where it stood: every image's numbers depend on that image alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vaelid import kernels
from vaelid.data import Split
from vaelid.environment import describe_machine
from vaelid.errors import MachineError
from vaelid.evaluation.certificate import RunningWeights, certificate, monte_carlo_se
from vaelid.evaluation.collect import Arrays, Save, Tick, collect, mean_se
from vaelid.evaluation.latents import ACTIVE, active_by_variance, kl_of_dimensions, posterior_mean
from vaelid.evaluation.likelihood import curve_points, elbo_terms, weight_blocks
from vaelid.evaluation.pixels import PAYS
from vaelid.evaluation.precision import BOTH_WAYS, Precision, checked, decoder_words, error_of, require_known
from vaelid.evaluation.yardsticks import IndependentPixels
from vaelid.progress import Reporter
from vaelid.settings import at_least_one
from vaelid.vae import VAE

_CPU_BYTES = 3 * 2**24  # about 1,000 decodings of 784 binary pixels
_KEPT = 2**25 - 2**16  # just below the most that glibc takes for its threshold
_DIRECTION = "upper bound on the true NLL in expectation"


@dataclass(frozen=True)
class Plan:
    """How to evaluate.

    ``samples``: K of the importance-weighted bound; ``elbo_samples``: S draws per image for −ELBO; ``seed`` names the noise;
    ``images`` are looked at together (of no influence on the numbers). ``decoder_precision``: in what the decoder multiplies for
    the importance-weighted bound.
    """

    samples: int = 5000
    elbo_samples: int = 10
    seed: int = 0
    images: int = 50
    decoder_precision: Precision = "float32"

    @classmethod
    def checked(cls, samples: int, elbo_samples: int, seed: int, images: int, decoder_precision: str) -> Plan:
        """A plan from numbers that a user gave.

        Raises:
            UserError: for a number below 1, or an unknown precision.
        """
        counted = {"samples": samples, "elbo_samples": elbo_samples, "images (--batch)": images}
        samples, elbo_samples, images = (at_least_one(value, name) for name, value in counted.items())
        return cls(samples, elbo_samples, seed, images, require_known(decoder_precision))

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
    save: Save | None = None,
) -> Arrays:
    """Per-image values of every image of ``split``, in its order (nats, float64).

    Args:
        yardstick: independent pixels, if they are wanted beside
        start: what an earlier, interrupted call had saved
        save: called now and then with what is done so far

    Returns:
        ``neg_elbo, distortion, rate, nll`` (N,), ``curve`` (N, points), ``mean`` and ``kl`` (N, L) where known,
        ``independent_pixels`` (N,); of the importance weights ``ess, pareto_k, gain, variance``, and ``elbo_variance``, (N,);
        with a short decoder ``nll_float32`` (N,), NaN but for the images computed both ways.

    However it is broken off, ``save`` gets what was done until then.
    """
    model.eval()
    if len(split) * plan.samples >= PAYS:
        kernels.start()
    chunk = decoder_rows(split)

    def work(positions: Tensor, _: Tick) -> dict[str, Tensor]:
        nonlocal chunk
        found, chunk = with_smaller_chunks(partial(_look, model, split, positions, plan), chunk)
        if yardstick is not None:
            found["independent_pixels"] = yardstick.nll(split.batch(positions))
        return found

    return collect(len(split), plan.images, 0, work, reporter, f"evaluating {split.name}", start, save)


def summarize(values: Arrays, plan: Plan, rate_kind: str, discrete: bool, dimensions: int) -> dict[str, Any]:
    """Means over images with standard errors, as they stand in ``results.json``.

    Args:
        discrete: whether the numbers are probabilities (else densities, which have no bits/dim)
        dimensions: D, pixels of an image
    """
    curve = [{"samples": k, **mean_se(values["curve"][:, j])} for j, k in enumerate(curve_points(plan.samples))]
    images = {"images": len(values["nll"])}
    neg_elbo: dict[str, Any] = {
        **mean_se(values["neg_elbo"]),
        "distortion": float(values["distortion"].mean()),
        "rate": float(values["rate"].mean()),
        "rate_kind": rate_kind,
        "samples": plan.elbo_samples,
        **images,
        "name": f"−ELBO, {plan.elbo_samples} draws per image",
        "direction": _DIRECTION,
        "monte_carlo_se": monte_carlo_se(values["elbo_variance"]),
    }
    nll: dict[str, Any] = {
        **mean_se(values["nll"]),
        "samples": plan.samples,
        **images,
        "decoder_precision": plan.decoder_precision,
        "precision_error": error_of(values),
        "direction": _DIRECTION,
        "curve": curve,
        **certificate(values, plan.samples),
    }
    nll["name"] = f"importance-weighted bound, K = {plan.samples}{decoder_words(nll)}, proposal q(z|x)"
    bits = {name: number["value"] / (dimensions * math.log(2)) for name, number in (("neg_elbo", neg_elbo), ("nll", nll))}
    results: dict[str, Any] = {
        "neg_elbo": neg_elbo,
        "nll": nll,
        "kind": "probability" if discrete else "density",
        "bits_per_dim": bits if discrete else None,
        "active_units": {"variance": None, "kl": None},
        "kl_per_dimension": None,
        **images,
        "seed": plan.seed,
    }
    if "mean" in values:
        results["active_units"]["variance"] = int(active_by_variance(torch.from_numpy(values["mean"])).sum())
    if "kl" in values:
        kl = values["kl"].mean(0)
        results["active_units"]["kl"] = int((kl > ACTIVE).sum())
        results["kl_per_dimension"] = [float(v) for v in kl]
    if "independent_pixels" in values:
        yardstick = values["independent_pixels"]
        # How far the model is above it, image by image: with far less noise than the two means have.
        results["yardsticks"] = {
            "independent_pixels": {**mean_se(yardstick), **images, "nll_above": mean_se(values["nll"] - yardstick)}
        }
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
            "available": split.available,
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


@torch.no_grad()
def importance_values(model: VAE, x: Tensor, ids: Tensor, plan: Plan, chunk: int, decoder: Precision) -> dict[str, Tensor]:
    """The importance-weighted bound of each image, its curve, and how far to believe it.

    Args:
        x, ids: images ``(B, *X)`` and what names the noise of each, int64 ``(B,)``
        plan: of it ``samples`` and ``seed``
        chunk: how many decoder rows (samples × images) to hold at once
        decoder: in what p(x|z)'s network multiplies

    Returns:
        ``nll, ess, pareto_k, gain, variance`` ``(B,)`` and ``curve`` ``(B, points)``, nats.
    """
    _keep_memory()
    parts = []
    for group in _groups(len(x), chunk):
        weights = RunningWeights(plan.samples, curve_points(plan.samples))
        for block in weight_blocks(model, x[group], ids[group], plan.samples, plan.seed, chunk, decoder):
            weights.add(block)
        curve = -weights.curve
        parts.append({"nll": curve[:, -1], "curve": curve, **weights.diagnostics()})
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def with_smaller_chunks(work: Callable[[int], dict[str, Tensor]], chunk: int) -> tuple[dict[str, Tensor], int]:
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
def _look(model: VAE, split: Split, positions: Tensor, plan: Plan, chunk: int) -> dict[str, Tensor]:
    x, ids = _images(model, split, positions), split.indices[positions.to(split.device)]
    per_image = max(1, chunk // plan.elbo_samples)
    pieces = [elbo_terms(model, x[g], ids[g], plan.elbo_samples, plan.seed) for g in _groups(len(x), per_image)]
    weighed = importance_values(model, x, ids, plan, chunk, plan.decoder_precision)
    found = {
        "distortion": torch.cat([p.distortion for p in pieces]),
        "rate": torch.cat([p.rate for p in pieces]),
        "neg_elbo": torch.cat([p.neg_elbo for p in pieces]),
        "elbo_variance": torch.cat([p.variance for p in pieces]),
        **weighed,
    }
    if plan.decoder_precision != "float32":
        both = torch.isin(positions, checked(len(split)))
        found[BOTH_WAYS] = torch.full_like(found["nll"], math.nan)
        if both.any():
            found[BOTH_WAYS][both] = importance_values(model, x[both], ids[both], plan, chunk, "float32")["nll"]
    q = model.posterior(x)
    for name, value in (("mean", posterior_mean(q)), ("kl", kl_of_dimensions(q, model.prior()))):
        if value is not None:
            found[name] = value
    return found


def _keep_memory() -> None:
    """Let the C library keep what one chunk frees for the next one.

    glibc gives large blocks back to the system, and every page of the next chunk is a fault: a tenth of the time. When a block
    is freed, its size becomes the threshold for that (mallopt(3), M_MMAP_THRESHOLD). This one is never written, so it takes no
    memory; elsewhere it does nothing.
    """
    torch.empty(_KEPT, dtype=torch.uint8)


def _groups(count: int, most: int) -> list[slice]:
    return [slice(first, first + most) for first in range(0, count, most)]


def _images(model: VAE, split: Split, positions: Tensor) -> Tensor:
    return split.batch(positions).to(next(model.parameters()).dtype)


def _is_lack_of_memory(error: RuntimeError) -> bool:
    # The CPU allocator raises a plain RuntimeError; anything else is not ours to swallow.
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in str(error) for words in ("allocate memory", "not enough memory", "out of memory")
    )
