"""All scores of a model, each beside two anchors on the same scale: real images, and independent pixels.

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
from vaelid.scoring.kept import training_features
from vaelid.scoring.kernel import kernel_scores
from vaelid.scoring.memorization import Cells, HeldOut, cells_of, copying_scores, nearest_training
from vaelid.scoring.neighbors import NEAREST, neighbor_scores
from vaelid.scoring.resampling import Score, halves
from vaelid.vae import VAE

#: The entry in results.json, which is no split.
SCORES = "scores"
#: Wide features cost their third power for every half.
_REPLICATES, _WIDE, _REPLICATES_WIDE = 40, 512, 4
#: What words call a set that results.json names otherwise.
_SAID = {"trivial": "independent pixels"}


@dataclass(frozen=True)
class Quantity:
    """What a score is called, which way is better, what it says, and the name that only Inception's features may give it."""

    name: str
    better: str
    about: str
    with_inception: str = ""


QUANTITIES: dict[str, Quantity] = {
    "fd": Quantity("FD", "lower", "squared Fréchet distance of fitted Gaussians; too large by a bias that falls as 1/N", "FID"),
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
    return Yardstick(data, reference, extractor, plan, reporter).score(model)


class Yardstick:
    """The reference and the two anchors, looked at once; any number of models can then be scored against them.

    Args:
        reference: the real images that everything is scored against

    Raises:
        CheckFailed: if an image has features that are not finite.
    """

    def __init__(self, data: Data, reference: Split, extractor: Extractor, plan: ScorePlan, reporter: Reporter) -> None:
        self.data, self.reference, self.extractor, self.plan, self.reporter = data, reference, extractor, plan, reporter
        self.real, count = other_real(data, reference), plan.count
        sets = {
            "real": (real_images(self.real, count), count),
            "trivial": (trivial_images(data.train, count, plan.seed), count),
            "reference": (real_images(reference, count), count),
        }
        self._features = {name: self._look(images, size, name) for name, (images, size) in sets.items()}
        training = self._training = training_features(data.train, extractor, self._look_at_training, reporter)
        # Which set tells how far new images lie from training: the reference, unless that *is* the training images.
        self._held_out = "real" if reference.name == data.train.name else "reference"
        held_out, self._cells = self._features[self._held_out].values, cells_of(training, plan.seed)
        self._distances = HeldOut(nearest_training(held_out, training)[0], self._cells.of(held_out))
        self._anchors = {who: self._score(who, self._features[who]) for who in ("real", "trivial")}

    def score(self, model: VAE) -> dict[str, Any]:
        """All scores of ``model`` beside the anchors', as plain values for ``results.json``."""
        plan, images = self.plan, model_images(model, self.plan.count, self.plan.seed, self.plan.means)
        found = {"model": self._score("model", self._look(images, plan.count, "model")), **self._anchors}
        scores = {
            score_name(quantity, self.extractor.name): {
                "better": QUANTITIES[quantity].better,
                **{who: found[who].get(quantity) for who in found},
            }
            for quantity in QUANTITIES
            if quantity in found["model"]
        }
        return {
            "scores": scores,
            "images_per_set": plan.count,
            "pixels": "means of p(x|z)" if plan.means else "draws from p(x|z)",
            "sets": {
                "reference": _about(self.reference),
                "real": _about(self.real),
                "trivial": {"what": "independent pixels, each with its own distribution in the training images; always draws"},
                "training": {**_about(self.data.train), "images": len(self.data.train)},
            },
            "extractor": {"name": self.extractor.name, "sha256": self.extractor.digest, **self.extractor.about},
            "nearest": NEAREST,
            "error": f"95 % interval over sets of {plan.count} images against this reference, from random halves",
            "seed": plan.seed,
        }

    def _look_at_training(self) -> Tensor:
        train = self.data.train
        return self._look(real_images(train, len(train)), len(train), "training").values

    def _look(self, images: Iterator[Tensor], count: int, name: str) -> Features:
        def ticking() -> Iterator[Tensor]:
            for x in images:
                yield x
                self.reporter.advance(len(x))

        with self.reporter.bar(f"features of {_SAID.get(name, name)}", count):
            return extract(self.extractor, ticking())

    def _score(self, who: str, features: Features) -> dict[str, Any]:
        """The scores of one set, by quantity, as summaries."""
        copying = None if who == self._held_out else (self._cells, self._distances, self._training)
        with self.reporter.bar(f"scores of {_SAID.get(who, who)}", 1):
            scores = _scores_of(features, self._features["reference"].values, copying, self.plan.seed)
            self.reporter.advance(1)
        return {name: score.summary(len(features)) for name, score in scores.items()}


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
