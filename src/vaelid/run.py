"""A run: one trained model, its folder, and everything one can do with it.

>>> import vaelid  # doctest: +SKIP
>>> run = vaelid.train("digits", epochs=5)  # doctest: +SKIP
>>> run.evaluate(samples=100)["nll"]["value"]  # doctest: +SKIP
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vaelid.build import build_model, read_inputs, settle
from vaelid.data import DATASETS, Data, Images, Split, load_data, load_like, whole
from vaelid.distributions import GaussianMixture
from vaelid.environment import describe_machine
from vaelid.errors import DataError, RunError, UserError
from vaelid.evaluation.compare import Comparison, compare_results
from vaelid.evaluation.evaluate import Arrays, Plan, evaluate_images, summarize
from vaelid.evaluation.likelihood import elbo_terms
from vaelid.evaluation.yardsticks import IndependentPixels
from vaelid.folder import RunFolder
from vaelid.progress import Reporter, Silent
from vaelid.recipe import Recipe, expand, from_dict, read_recipe, recipe_names
from vaelid.reporting.figures import evaluation_figures, extremes, training_figures
from vaelid.training.start import Conditions, choose_device, own_randomness, train_in
from vaelid.usercode import require_trust, trust
from vaelid.vae import VAE, Samples

DEFAULT_DATA = "digits"
OWN_DATA_RECIPE = "images"
_SHOWN = 16
_PAIRS = 10


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
        """results.json: what ``evaluate`` found, keyed by split."""
        return self.folder.read_json(self.folder.results_file)

    @cached_property
    def model(self) -> VAE:
        """The model with its best weights, ready to be evaluated.

        Raises:
            PartError: if the run uses code that may not run here.
            RunError: if there are no weights yet.
        """
        for name, digest in self.recipe.code.items():
            if self.allow_code:
                trust(digest)
            require_trust(self.folder.code / name, digest)
        weights = self.folder.weights()
        with own_randomness(0):
            model = build_model(self.recipe, *read_inputs(self.about["data"]), self.folder.code)
        model.load_state_dict(weights)
        return model.to(self.device).eval().requires_grad_(False)

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
        images: int = 200,
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
        """
        whole_split = self.split(split)
        chosen = replace(whole_split, indices=whole_split.indices[:limit])
        plan = Plan(_at_least_one(samples, "samples"), _at_least_one(elbo_samples, "elbo_samples"), seed, images)
        return self._evaluate(chosen, split, plan, reporter or Silent())

    def evaluate_files(
        self, paths: Sequence[str | Path], samples: int = 5000, *, seed: int = 0, reporter: Reporter | None = None
    ) -> list[tuple[str, float]]:
        """−log p(x) of new images (nats, importance-weighted bound), likeliest last; checked against the training contract."""
        images = load_like(paths, self.data, self.recipe.data)
        found = self._evaluate(whole(images, self.recipe.data).to(self.device), "input", Plan(samples, seed=seed), reporter or Silent())
        nll = self.folder.read_arrays(self.folder.results / "input.npz")["nll"]
        names = images.files or tuple(f"image {i}" for i in range(found["images"]))
        return sorted(zip(names, nll.tolist(), strict=True), key=lambda pair: -pair[1])

    def _evaluate(self, split: Split, name: str, plan: Plan, reporter: Reporter) -> dict[str, Any]:
        key = json.dumps({**plan.identity(), "weights": self.weights_digest, "fingerprint": split.fingerprint}, sort_keys=True)
        partial = self.folder.results / f"{name}.partial.npz"
        start = self.folder.read_arrays(partial)
        if start and str(start.pop("key")) != key:
            start = {}
        yardstick = IndependentPixels(self.data.train)
        values = evaluate_images(
            self.model,
            split,
            yardstick,
            plan,
            reporter,
            start,
            save=lambda done: self.folder.write_arrays(partial, {**done, "key": np.array(key)}),
        )
        if split.labels is not None:
            values["labels"] = split.labels.cpu().numpy()
        results = self._results(split, name, plan, values)
        self.folder.write_arrays(self.folder.results / f"{name}.npz", values)
        self.folder.write_json(self.folder.results_file, {**self.results, name: results})
        partial.unlink(missing_ok=True)
        self.folder.write_arrays(self.folder.samples / f"{name}.npz", self._pictures(split, values))
        evaluation_figures(self.folder, name, split.images.label_names)
        return results

    def _results(self, split: Split, name: str, plan: Plan, values: Arrays) -> dict[str, Any]:
        with own_randomness(0):
            x = split.batch(torch.arange(1))
            rate_kind = elbo_terms(self.model, x, split.indices[:1], 1, 0).rate_kind
        discrete = self.model.likelihood.support.discrete
        return {
            **summarize(values, plan, rate_kind, discrete, int(np.prod(split.shape))),
            "data": {
                "name": self.data.name,
                "split": name,
                "protocol": split.protocol,
                "redrawn": split.settings.binarization == "resampled",
                "support": split.support.name,
                "fingerprint": split.fingerprint,
            },
            "environment": {
                **describe_machine(self.device),
                "dtype": str(next(self.model.parameters()).dtype).removeprefix("torch."),
                "weights": self.weights_digest,
            },
        }

    def _pictures(self, split: Split, values: Arrays) -> Arrays:
        """The arrays that the figures are drawn from."""
        samples = self.sample(_SHOWN)
        originals = split.batch(torch.arange(min(_PAIRS, len(split))))
        low, high = extremes(values["nll"])
        arrays = {
            "means": samples.means,
            "draws": samples.draws,
            "originals": originals,
            "reconstructions": self.model.reconstruct(originals),
        }
        if len(low):
            arrays["likeliest"], arrays["unlikeliest"] = (split.batch(torch.from_numpy(p.copy())) for p in (low, high))
            arrays["likeliest_nll"], arrays["unlikeliest_nll"] = (torch.from_numpy(values["nll"][p]) for p in (low, high))
        prior = self.model.prior()
        if isinstance(prior, GaussianMixture):
            order = prior.log_weights.argsort(descending=True)
            arrays["components"] = self.model.decode(prior.component_mean[order]).means
            arrays["component_weights"] = prior.log_weights.exp()[order]
        return {name: value.cpu().numpy() for name, value in arrays.items()}

    @cached_property
    def weights_digest(self) -> str:
        """SHA-256 of the weights' file."""
        return hashlib.sha256(self.folder.weights_file.read_bytes()).hexdigest()

    def sample(self, n: int = 16, *, seed: int = 0, component: int | None = None) -> Samples:
        """``n`` images from the model (pixel means and draws), or from one component of its mixture prior."""
        with own_randomness(seed):
            if component is None:
                return self.model.sample(_at_least_one(n, "n"))
            prior = self.model.prior()
            if not isinstance(prior, GaussianMixture):
                raise UserError(f"--component needs the mixture prior; this run has {self.recipe.prior.name!r}.")
            count = len(prior.log_weights)
            if not 0 <= component < count:
                raise UserError(f"component must be 0 … {count - 1}; it is {component}.")
            return self.model.decode(prior.component(component).sample((n,)))

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """Pixel means of p(x|z) at the posterior mean of images ``(B, *X)``, same shape."""
        return self.model.reconstruct(x.to(self.device))

    @torch.no_grad()
    def interpolate(self, start: Tensor, end: Tensor, steps: int = 10) -> Tensor:
        """Pixel means along straight lines between posterior means, ``(R, *X)`` twice -> ``(R, steps, *X)``."""
        a, b = (self.model.encode(x.to(self.device)).mean for x in (start, end))
        share = torch.linspace(0, 1, _at_least_one(steps, "steps"), device=a.device).view(1, -1, 1)
        path = a.unsqueeze(1) * (1 - share) + b.unsqueeze(1) * share
        return self.model.decode(path.flatten(0, 1)).means.unflatten(0, path.shape[:2])

    @torch.no_grad()
    def encode(self, split: Split, batch: int = 1000) -> Arrays:
        """Posterior means and log variances ``(N, L)`` of all images of a split, and their labels where known."""
        pieces = [self.model.encode(split.batch(positions)) for positions in torch.arange(len(split)).split(batch)]
        arrays = {
            "mean": torch.cat([q.mean for q in pieces]).cpu().numpy(),
            "log_variance": torch.cat([q.variance.log() for q in pieces]).cpu().numpy(),
        }
        if split.labels is not None:
            arrays["labels"] = split.labels.cpu().numpy()
        return arrays

    def open_files(self, paths: Sequence[str | Path]) -> Split:
        """New images as a split like those of the training."""
        images: Images = load_like(paths, self.data, self.recipe.data)
        return whole(images, self.recipe.data).to(self.device)


@dataclass(frozen=True)
class Request:
    """A training that was asked for: resolved recipe, its data, where user code lies, and the folder."""

    recipe: Recipe
    data: Data
    code_from: Path
    folder: RunFolder


def request(data: str | None, recipe: str | Recipe | None, out: Path | str | None, settings: Mapping[str, Any]) -> Request:
    """What ``train`` would do, without doing it: everything checked and every default written out."""
    base = base_recipe(data, recipe).override(expand({name: _named(value) for name, value in settings.items()}))
    base, code_from = base.adopt_code()
    for digest in base.code.values():
        trust(digest)  # naming a file is asking to run it
    loaded = load_data(base.data)
    resolved = from_dict(settle(base, loaded, code_from).to_dict())
    build_model_once(resolved, loaded, code_from)
    name = loaded.name if base.data.name in DATASETS else Path(base.data.name).stem
    path = Path(out) if out is not None else Path("runs") / f"{name}-{resolved.digest()}"
    return Request(resolved, loaded, code_from, RunFolder(path))


def build_model_once(recipe: Recipe, data: Data, code_from: Path) -> None:
    """Build and forget, so that a part that cannot be built is known before a folder is made."""
    with own_randomness(0):
        build_model(recipe, data.shape, data.support, code_from)


def train(
    data: str | None = None,
    *,
    recipe: str | Recipe | None = None,
    out: Path | str | None = None,
    overwrite: bool = False,
    init_from: Path | str | None = None,
    device: str = "auto",
    checkpoint_seconds: float = 10.0,
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
        checkpoint_seconds: at least so long between checkpoints
        settings: ``{"section.key": value}``
        shortcuts: settings by short name: ``prior="mixture"``, ``latent=8``, ``epochs=50``, ``lr=1e-3`` …

    Raises:
        VaelidError: see ``vaelid.errors``; what was saved before stays.
    """
    asked = request(data, recipe, out, {**shortcuts, **(settings or {})})
    start_from = Path(init_from) if init_from is not None else None
    conditions = Conditions(choose_device(device), overwrite, start_from, checkpoint_seconds)
    with figures_at_the_end(asked.folder):
        train_in(asked.folder, asked.recipe, asked.code_from, asked.data, conditions, reporter or Silent())
    return Run(asked.folder.path, device)


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
    if not runs:
        raise UserError("No runs were named.", "Give two or more run folders.")
    for run in runs:
        if split not in run.results:
            raise RunError(f"{run.folder.path} was not evaluated on the {split} split.", f"vaelid evaluate {run.folder.path}")
    values = [run.folder.read_arrays(run.folder.results / f"{split}.npz") for run in runs]
    return compare_results([str(run.folder.path) for run in runs], [run.results[split] for run in runs], values, split, anyway)


@contextmanager
def figures_at_the_end(folder: RunFolder) -> Iterator[None]:
    """Draw the training's figures however it ends, if there is anything to draw."""
    try:
        yield
    finally:
        if folder.exists and folder.metrics():
            training_figures(folder)


def base_recipe(data: str | None, recipe: str | Recipe | None) -> Recipe:
    """The recipe to start from: the one asked for, else the one named like the data, else the one for one's own images."""
    source = None if data is None else _source(data)
    if isinstance(recipe, Recipe):
        base = recipe
    elif recipe is not None:
        base = read_recipe(recipe)
    else:
        name = source or DEFAULT_DATA
        base = read_recipe(name if name in recipe_names() else OWN_DATA_RECIPE)
    return base if source is None else base.override({"data.name": source})


def _source(data: str) -> str:
    """A data set's name as it is; a path made absolute, so that the run finds its images from anywhere."""
    path = Path(data).expanduser()
    return str(path.resolve()) if data not in DATASETS and path.exists() else data


def _named(value: Any) -> Any:
    """A user's class becomes its name ``file.py:Class``."""
    if not inspect.isclass(value):
        return value
    return f"{inspect.getsourcefile(value)}:{value.__name__}"


def _at_least_one(value: int, name: str) -> int:
    if value < 1:
        raise UserError(f"{name} must be at least 1; it is {value}.")
    return value
