"""A run: one trained model, its folder, and everything one can do with it.

>>> import vaelid  # doctest: +SKIP
>>> run = vaelid.train("digits", epochs=5)  # doctest: +SKIP
>>> run.evaluate(samples=100)["nll"]["value"]  # doctest: +SKIP
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vaelid.beyond import Beyond, judge_beyond
from vaelid.data import Data, Images, Shades, Split, load_data, load_like, whole
from vaelid.distributions import GaussianMixture
from vaelid.errors import DataError, Diverged, Interrupted, MachineError, PartError, RunError, UserError
from vaelid.evaluation.bdmc import BDMC
from vaelid.evaluation.collect import Arrays
from vaelid.evaluation.compare import Comparison, compare_results
from vaelid.evaluation.evaluate import Plan, provenance
from vaelid.evaluation.latents import posterior_mean
from vaelid.folder import DIVERGED, RunFolder
from vaelid.judging import Subject, covered, judge, look_first
from vaelid.lazy import Lazy
from vaelid.progress import Reporter, Silent
from vaelid.recipe import Recipe
from vaelid.reporting.pictures import decoded_means
from vaelid.scoring.extractors import AUTO, EXTRACTORS, settle_extractor
from vaelid.scoring.images import other_real, settle_count
from vaelid.settings import at_least_one
from vaelid.trained import trained_model
from vaelid.training.request import Request, request
from vaelid.training.start import Conditions, choose_device, train_in
from vaelid.training.surroundings import own_randomness
from vaelid.training.tracking import trackers_of
from vaelid.vae import VAE, Samples

if TYPE_CHECKING:
    from vaelid.reporting import figures
    from vaelid.scoring import score as scores
else:  # they bring matplotlib and scikit-learn, which most verbs never use or use last
    figures, scores = Lazy("vaelid.reporting.figures"), Lazy("vaelid.scoring.score")


class Run:
    """A run folder, opened.

    Args:
        path: the run folder
        device: where the model is put, ``auto`` for the best there is
        allow_code: run the user code that the folder brings along, wherever it came from
    """

    def __init__(self, path: Path | str, device: str = "auto", allow_code: bool = False) -> None:
        self.folder = RunFolder(path).require()
        self.device = choose_device(device)
        self.allow_code = allow_code

    def __repr__(self) -> str:
        return f"Run({str(self.folder.path)!r}: {self.recipe.data.name}, {len(self.metrics)} epochs)"

    @cached_property
    def recipe(self) -> Recipe:
        """All settings, resolved, as recipe.toml has them."""
        return self.folder.recipe()

    @cached_property
    def about(self) -> dict[str, Any]:
        """environment.json: versions, machine, data fingerprint, how training ended."""
        return self.folder.read_json(self.folder.environment_file)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """One dictionary per epoch."""
        return self.folder.metrics()

    @property
    def results(self) -> dict[str, Any]:
        """results.json: what ``evaluate`` found, keyed by split; ``bdmc`` is about the model alone."""
        return self.folder.read_json(self.folder.results_file)

    @cached_property
    def model(self) -> VAE:
        """The model with the weights that were kept, ready to be evaluated.

        Raises:
            PartError: if the run uses code that may not run here.
            RunError: if there are no weights yet, or those of another model.
        """
        model, self.weights_digest = trained_model(self.folder, self.allow_code)  # a training under way may replace the file
        return model.to(self.device)

    @property
    def shades(self) -> Shades:
        """Which pixel values its pictures show as black and as white."""
        return Shades(**self.about["data"].get("shades", {}))  # runs from before they were kept show [0, 1]

    @cached_property
    def data(self) -> Data:
        """The data that the run was trained on.

        Raises:
            DataError: if the images are not those of the training any more.
        """
        data = load_data(self.recipe.data)
        if data.fingerprint != self.about["data"]["fingerprint"]:
            raise DataError(
                f"The images of {self.recipe.data.name!r} are not the ones this run was trained on: fingerprint "
                f"{data.fingerprint[:12]}… instead of {self.about['data']['fingerprint'][:12]}….",
                "Restore the files, or train again.",
            )
        return data.to(self.device)

    def split(self, name: str) -> Split:
        """A split of the run's data by name.

        Raises:
            UserError: if there is no such split.
        """
        if name not in self.data.splits:
            raise UserError(f"There is no split {name!r}.", f"Choose one of: {', '.join(self.data.splits)}.")
        return self.data.splits[name]

    def evaluate(
        self,
        split: str = "test",
        samples: int = 5000,
        *,
        elbo_samples: int = 10,
        limit: int | None = None,
        seed: int = 0,
        images: int = 50,
        decoder_precision: str = "float32",
        force: bool = False,
        beyond: Beyond | None = None,
        reporter: Reporter | None = None,
    ) -> dict[str, Any]:
        """Bounds on log p(x) over a split, written to results.json, results/<split>.npz, samples/ and figures/.

        Args:
            split: ``train``, ``validation`` or ``test``
            samples: K of the importance-weighted bound
            elbo_samples: S, draws per image for −ELBO
            limit: only the first images of the split
            seed: names the noise
            images: looked at together; of no influence on the numbers
            decoder_precision: ``bfloat16`` makes the importance-weighted bound faster where the processor multiplies in it; what
                that changes is measured on some images, and stands beside it
            force: go on where a check fails; the failure then stands beside the numbers
            beyond: AIS, BDMC, gaps, aggregate posterior: ``Beyond(ais=True)``; the bounds are then taken from results.json
                where they stand there for these images or more

        Raises:
            CheckFailed: if the model's numbers are no likelihoods, or impossible ones; nothing is written then.
        """
        whole = self.split(split)
        count = len(whole) if limit is None else min(at_least_one(limit, "limit"), len(whole))
        plan = Plan.checked(samples, elbo_samples, seed, images, decoder_precision)
        return self._judge(whole, count, plan, force, beyond or Beyond(), reporter or Silent())

    def evaluate_files(
        self,
        paths: Sequence[str | Path],
        samples: int = 5000,
        *,
        elbo_samples: int = 10,
        seed: int = 0,
        images: int = 50,
        decoder_precision: str = "float32",
        force: bool = False,
        beyond: Beyond | None = None,
        reporter: Reporter | None = None,
    ) -> list[tuple[str, float]]:
        """−log p(x) of new images (nats, importance-weighted bound), unlikeliest first; checked against the training contract."""
        plan, reporter = Plan.checked(samples, elbo_samples, seed, images, decoder_precision), reporter or Silent()
        split = self.open_files(paths)
        for skipped in split.images.skipped:
            reporter.say(f"left out (data.skip_bad): {skipped}")
        self._judge(split, len(split), plan, force, beyond or Beyond(), reporter)
        nll = self.folder.read_arrays(self.folder.results / f"{split.name}.npz")["nll"]
        names = split.images.files or tuple(f"{split.images.name}[{i}]" for i in range(len(split)))
        return sorted(zip(names, nll.tolist(), strict=True), key=lambda pair: -pair[1])

    def _judge(self, whole: Split, count: int, plan: Plan, force: bool, beyond: Beyond, reporter: Reporter) -> dict[str, Any]:
        """Judge the first ``count`` images."""
        # First of all: what would fail at the end of a long evaluation, and code that may not run.
        model, _ = self.model, self.results
        split = whole.first(count)
        subject = Subject(self.folder, model, self.weights_digest, self.data.train, self.shades)
        if beyond.asked and covered(subject, whole, count, plan):
            look_first(subject, split, force)
            reporter.say(f"the bounds of the {split.name} images stand in {self.folder.results_file} already")
        else:
            judge(subject, split, plan, reporter, force)
        judge_beyond(subject, split, plan, beyond, reporter, force)
        return self.results[split.name]

    @cached_property
    def weights_digest(self) -> str:
        """SHA-256 of the weights' file: as the model was read from it, if it was."""
        return hashlib.sha256(self.folder.weights_file.read_bytes()).hexdigest()

    def score(
        self,
        split: str = "test",
        n: int | None = None,
        *,
        extractor: str = AUTO,
        weights: Path | str | None = None,
        means: bool = False,
        seed: int = 0,
        reporter: Reporter | None = None,
    ) -> dict[str, Any]:
        """Sample quality beside real data and independent pixels, written to results.json under ``scores``.

        Args:
            split: the reference: ``train``, ``validation`` or ``test``
            n: images per set; without it 10,000, or as many as there are real ones
            extractor: ``classifier``, ``random-projection`` or ``inception``; ``auto``: by whether there are labels
            weights: the published Inception weights
            means: score pixel means instead of draws
            seed: names the noise

        Raises:
            UserError: for a split, extractor or number of images that cannot be had.
            CheckFailed: if the model's images are not finite.
        """
        data, reference, reporter = self.data, self.split(split), reporter or Silent()
        name = settle_extractor(extractor, data, None if weights is None else Path(weights))
        count = settle_count(n, reference, other_real(data, reference))
        model, results = self.model, self.results
        features = EXTRACTORS[name](data, None if weights is None else Path(weights), reporter).to(self.device)
        found = scores.score_model(model, data, reference, features, scores.ScorePlan(count, means, seed), reporter)
        found |= provenance(model, reference, reference.images.name, self.weights_digest)
        entry = f"{split}/{'means' if means else 'draws'}/{name}"
        among = {**results.get(scores.SCORES, {}), entry: found}
        self.folder.write_json(self.folder.results_file, {**results, scores.SCORES: among})
        return found

    def sample(self, n: int = 16, *, seed: int = 0, component: int | None = None) -> Samples:
        """``n`` images from the model (pixel means and draws), or from one component of its mixture prior.

        Raises:
            UserError: if there is no such component.
        """
        at_least_one(n, "n")
        with own_randomness(seed):
            if component is None:
                return self.model.sample(n)
            prior = self.model.prior()
            if not isinstance(prior, GaussianMixture):
                raise UserError(
                    f"The prior {self.recipe.prior.name!r} has no components to draw from.", "Only the prior 'mixture' has."
                )
            count = len(prior.log_weights)
            if not 0 <= component < count:
                raise UserError(f"component must be 0 … {count - 1}; it is {component}.")
            return self.model.decode(prior.component(component).sample((n,)))

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """Pixel means of p(x|z) at the posterior mean of images ``(B, *X)``, same shape."""
        return decoded_means(self.model, self._posterior_means(x))

    @torch.no_grad()
    def interpolate(self, start: Tensor, end: Tensor, steps: int = 10) -> Tensor:
        """Pixel means along straight lines between posterior means, ``(R, *X)`` twice -> ``(R, steps, *X)``."""
        if steps < 2:
            raise UserError(f"steps must be at least 2, the two ends; it is {steps}.")
        a, b = self._posterior_means(start), self._posterior_means(end)
        share = torch.linspace(0, 1, steps, device=a.device).view(1, -1, 1)
        path = a.unsqueeze(1) * (1 - share) + b.unsqueeze(1) * share
        return decoded_means(self.model, path.flatten(0, 1)).unflatten(0, path.shape[:2])

    @torch.no_grad()
    def encode(self, split: Split, batch: int = 1000) -> Arrays:
        """``mean`` and ``log_variance`` of q(z|x), ``(N, L)``, for all images of a split; ``labels`` ``(N,)`` where known."""
        pieces = [self.model.encode(split.batch(positions)) for positions in torch.arange(len(split)).split(batch)]
        try:
            found = {"mean": [q.mean for q in pieces], "log_variance": [q.variance.log() for q in pieces]}
        except NotImplementedError as error:
            raise self._no_moments() from error
        arrays = {name: torch.cat(values).cpu().numpy() for name, values in found.items()}
        if split.labels is not None:
            arrays["labels"] = split.labels.cpu().numpy()
        return arrays

    def _posterior_means(self, x: Tensor) -> Tensor:
        mean = posterior_mean(self.model.encode(x.to(self.device)))
        if mean is None:
            raise self._no_moments()
        return mean

    def _no_moments(self) -> PartError:
        problem = f"The posterior {self.recipe.posterior.name!r} gives distributions whose mean or variance is not known."
        return PartError(problem, "Give its distribution the properties mean and variance.")

    def open_files(self, paths: Sequence[str | Path]) -> Split:
        """New images as a split named ``input``, held to what the model was trained on.

        Raises:
            DataError: for images of another shape or support, or unreadable ones.
        """
        images: Images = load_like(paths, self.data, self.recipe.data)
        return whole(images, self.recipe.data).to(self.device)


def carry_out(asked: Request, conditions: Conditions, reporter: Reporter) -> Run:
    """Train what was asked for, and draw the training's figures, also when it was stopped on the way."""
    try:
        train_in(asked.folder, asked.recipe, asked.code_from, asked.data, conditions, reporter)
    except (Diverged, Interrupted):
        with suppress(MachineError):  # what stopped the training is the news, not a disk that refuses pictures of it
            figures.training_figures(asked.folder)
        raise
    figures.training_figures(asked.folder)
    return Run(asked.folder.path, str(conditions.device))


def train(
    data: str | Path | None = None,
    *,
    recipe: str | Recipe | None = None,
    out: Path | str | None = None,
    overwrite: bool = False,
    init_from: Path | str | None = None,
    device: str = "auto",
    engine: str = "auto",
    checkpoint_seconds: float = 10.0,
    track: Sequence[str] = (),
    reporter: Reporter | None = None,
    settings: Mapping[str, Any] | None = None,
    **shortcuts: Any,
) -> Run:
    """Train a VAE, or go on with a training that was interrupted: the same call resumes.

    Args:
        data: a data set's name, an array file, or a folder of images
        recipe: a built-in recipe's name, a TOML file, or a Recipe; without it the recipe named like the data
        out: the run folder; without it ``runs/<data>-<hash of the settings>``
        overwrite: start afresh in a folder that holds a run
        init_from: a run folder whose trained weights to start from
        device: ``auto``, ``cpu``, ``cuda``, ``mps``
        engine: how steps are computed: ``auto``, ``eager``, ``graph``, ``compile``
        checkpoint_seconds: at least so long between checkpoints
        track: trackers that are told of every epoch: ``["tensorboard"]``, ``wandb``, ``mlflow``
        settings: ``{"section.key": value}``
        shortcuts: settings by short name: ``prior="mixture"``, ``latent=8``, ``epochs=50``, ``lr=1e-3`` …

    Raises:
        VaelidError: see ``vaelid.errors``; what was saved before stays.
    """
    trackers = trackers_of(track)
    asked = request(data, recipe, out, {**shortcuts, **(settings or {})})
    start_from = Path(init_from) if init_from is not None else None
    conditions = Conditions(choose_device(device), overwrite, engine, start_from, checkpoint_seconds, trackers)
    return carry_out(asked, conditions, reporter or Silent())


def open_run(path: Path | str, *, device: str = "auto", allow_code: bool = False) -> Run:
    """Open a run folder."""
    return Run(path, device, allow_code)


def compare(*paths: Path | str, split: str = "test", anyway: bool = False) -> Comparison:
    """Paired per-image differences of evaluated runs; the first is the reference.

    Raises:
        RunError: if a run was not evaluated on the split.
        UserError: if the runs' numbers do not belong together (other images, another protocol, densities against probabilities).
    """
    runs = [Run(path, "cpu") for path in paths]
    if len(runs) < 2:
        raise UserError(f"A comparison needs two runs; {len(runs)} came.", "Give two or more run folders.")
    values = [run.folder.read_arrays(run.folder.results / f"{split}.npz") for run in runs]
    for run, found in zip(runs, values, strict=True):
        if split == BDMC or split not in run.results or not found:
            raise RunError(
                f"{run.folder.path} was not evaluated on the {split} split.", f"vaelid evaluate {run.folder.path} --split {split}"
            )
    compared = compare_results(
        [str(run.folder.path) for run in runs], [run.results[split] for run in runs], values, split, anyway
    )
    diverged = [run for run in runs if str(run.about.get("outcome") or "").startswith(DIVERGED)]
    notes = [f"{run.folder.path} diverged in training: its numbers are of the weights kept before that." for run in diverged]
    return replace(compared, notes=(*compared.notes, *notes))
