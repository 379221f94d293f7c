"""All scores of a model, each beside two anchors on the same scale: real images, and a trivial model.

    model    N images from the model                  real     N other real images: the best that can be hoped for
    trivial  N images of independent pixels            reference  N real images, that all three are scored against

All sets have N images, and real ones are binarized as those that the model was trained on, so that the three columns differ in
nothing but where the images come from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vaelid.data import Data, Split
from vaelid.progress import Reporter
from vaelid.scoring.features import Extractor, Features, extract
from vaelid.scoring.frechet import frechet_scores
from vaelid.scoring.images import model_images, other_real, real_images, trivial_images
from vaelid.scoring.inception_score import inception_scores
from vaelid.scoring.kernel import kernel_scores
from vaelid.scoring.memorization import Cells, HeldOut, cells_of, copying_scores, nearest_training
from vaelid.scoring.neighbors import NEAREST, neighbor_scores
from vaelid.scoring.resampling import Score, halves
from vaelid.vae import VAE

#: The entry in results.json, which is no split.
SCORES = "scores"
#: Wide features cost their third power for every half.
_REPLICATES, _WIDE, _REPLICATES_WIDE = 40, 512, 4


@dataclass(frozen=True)
class Quantity:
    """What a score is called, which way is better, what it says, and the name that only Inception's features may give it."""

    name: str
    better: str
    about: str
    with_inception: str = ""


QUANTITIES: dict[str, Quantity] = {
    "fd": Quantity("FD", "lower", "squared Fréchet distance of fitted Gaussians; too large by about b/N", "FID"),
    "fd_infinity": Quantity("FD∞", "lower", "the same, extrapolated to N → ∞", "FID∞"),
    "kernel": Quantity("KD", "lower", "unbiased MMD², cubic kernel; 0 in expectation for equal distributions", "KID"),
    "is": Quantity("IS", "higher", "exp mean KL(p(y|x) ‖ p(y)); never looks at real images", "IS"),
    "precision": Quantity("precision", "higher", "share of the images that lie in a real neighborhood"),
    "recall": Quantity("recall", "higher", "share of real images that lie in a neighborhood of these"),
    "density": Quantity("density", "higher", "real neighborhoods around an image, over k; 1 for equal distributions"),
    "coverage": Quantity("coverage", "higher", "share of real neighborhoods with an image in them"),
    "C_T": Quantity("C_T", "near 0", "data copying, in standard deviations; far below 0: copies of training images"),
    "farther_than_real": Quantity("farther", "near 0.5", "P(farther from training than a held-out image is)"),
}


def score_name(quantity: str, extractor: str) -> str:
    """The full name of a score, with its features in it; ``FID``, ``KID`` and a bare ``IS`` are Inception's alone.

    >>> score_name("fd", "classifier"), score_name("fd", "inception"), score_name("recall", "inception")
    ('FD-classifier', 'FID', 'recall-inception')
    """
    known = QUANTITIES[quantity]
    return known.with_inception if extractor == "inception" and known.with_inception else f"{known.name}-{extractor}"


@dataclass(frozen=True)
class ScorePlan:
    """``count`` images per set, ``means`` or draws from the model, ``seed`` of all noise."""

    count: int
    means: bool = False
    seed: int = 0


def score_model(
    model: VAE, data: Data, reference: Split, extractor: Extractor, plan: ScorePlan, reporter: Reporter
) -> dict[str, Any]:
    """All scores of ``model`` and of the two anchors against ``reference``, as plain values for ``results.json``.

    Raises:
        CheckFailed: if an image has features that are not finite.
    """
    real, count = other_real(data, reference), plan.count
    sets = {
        "model": (model_images(model, count, plan.seed, plan.means), count),
        "real": (real_images(real, count), count),
        "trivial": (trivial_images(data.train, count, plan.seed), count),
        "reference": (real_images(reference, count), count),
        "training": (real_images(data.train, len(data.train)), len(data.train)),
    }
    features = {name: _features(extractor, images, size, name, reporter) for name, (images, size) in sets.items()}
    found = _scores(features, _held_out(data, reference, real), plan.seed, reporter)
    scores = {
        score_name(quantity, extractor.name): {
            "better": QUANTITIES[quantity].better,
            **{who: found[who].get(quantity) for who in found},
        }
        for quantity in QUANTITIES
        if quantity in found["model"]
    }
    return {
        "scores": scores,
        "images_per_set": count,
        "pixels": "means of p(x|z)" if plan.means else "draws from p(x|z)",
        "sets": {
            "reference": _about(reference),
            "real": _about(real),
            "trivial": {"what": "independent pixels, each with its own distribution in the training images; always draws"},
            "training": {**_about(data.train), "images": len(data.train)},
        },
        "extractor": {"name": extractor.name, "sha256": extractor.digest, **extractor.about},
        "nearest": NEAREST,
        "error": f"95 % interval over sets of {count} images against this reference, from random halves",
        "seed": plan.seed,
    }


def _features(extractor: Extractor, images: Iterator[Tensor], count: int, name: str, reporter: Reporter) -> Features:
    def ticking() -> Iterator[Tensor]:
        for x in images:
            yield x
            reporter.advance(len(x))

    with reporter.bar(f"features of {name}", count):
        return extract(extractor, ticking())


def _held_out(data: Data, reference: Split, real: Split) -> str:
    """Which set tells how far new images lie from training: the reference, unless that *is* the training images."""
    return "real" if reference.name == data.train.name else "reference"


def _scores(features: dict[str, Features], held_out: str, seed: int, reporter: Reporter) -> dict[str, dict[str, Any]]:
    """The scores of the three sets, by quantity, as summaries."""
    reference, training = features["reference"].values, features["training"].values
    cells = cells_of(training, seed)
    yardstick = HeldOut(nearest_training(features[held_out].values, training)[0], cells.of(features[held_out].values))
    found = {}
    with reporter.bar("scores", 3):
        for who in ("model", "real", "trivial"):
            copying = None if who == held_out else (cells, yardstick, training)
            all_scores = _scores_of(features[who], reference, copying, seed)
            found[who] = {name: score.summary(len(features[who])) for name, score in all_scores.items()}
            reporter.advance(1, who)
    return found


def _scores_of(mine: Features, reference: Tensor, copying: tuple[Cells, HeldOut, Tensor] | None, seed: int) -> dict[str, Score]:
    replicates = _REPLICATES if reference.shape[1] <= _WIDE else _REPLICATES_WIDE
    chosen = halves(len(mine), replicates, seed)
    frechet, extrapolated = frechet_scores(mine.values, reference, chosen)
    scores = {"fd": frechet, "fd_infinity": extrapolated, "kernel": kernel_scores(mine.values, reference, chosen)}
    if mine.log_probabilities is not None:
        scores["is"] = inception_scores(mine.log_probabilities, chosen)
    scores |= neighbor_scores(mine.values, reference, chosen)
    if copying is not None:
        cells, yardstick, training = copying
        distance, _ = nearest_training(mine.values, training)
        scores |= copying_scores(distance, cells.of(mine.values), yardstick, chosen)
    return scores


def _about(split: Split) -> dict[str, str]:
    return {"split": split.name, "protocol": split.protocol, "fingerprint": split.fingerprint}
