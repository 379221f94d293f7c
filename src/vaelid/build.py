"""From a recipe and data to objects: the one place where parts are put together."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from vaelid.data import Data
from vaelid.errors import MachineError, PartError, VaelidError
from vaelid.objectives import Objective
from vaelid.optimizers import Schedule
from vaelid.parts import find
from vaelid.recipe import AUTO, Part, Recipe
from vaelid.supports import Support, parse_support
from vaelid.vae import VAE

#: The most levels for which a softmax over levels is the default; above, it would need hundreds of outputs per pixel.
MOST_CATEGORICAL_LEVELS = 32


def settle(recipe: Recipe, data: Data, folder: Path) -> Recipe:
    """The recipe with the likelihood that follows from the data where it says ``auto``, and every default written out."""
    if recipe.likelihood.name == AUTO:
        chosen = Part(likelihood_for(data.support), {"start": "data", **recipe.likelihood.options})
        recipe = replace(recipe, likelihood=chosen)
    return recipe.resolve(folder)


def likelihood_for(support: Support) -> str:
    """The likelihood that fits a support without further thought."""
    if support.levels is None:
        return "gaussian"
    if support.levels == 2:
        return "bernoulli"
    return "categorical" if support.levels <= MOST_CATEGORICAL_LEVELS else "discretized-gaussian"


def build_model(recipe: Recipe, shape: tuple[int, ...], support: Support, folder: Path) -> VAE:
    """The model of a resolved recipe for images of this shape and support.

    Args:
        folder: where files of user code lie

    Raises:
        PartError: if a part cannot be built; names the part, its settings and the reason.
    """
    latent = recipe.model.latent
    posterior_class = find("posterior", recipe.posterior.name, recipe.code, folder)
    likelihood_class = find("likelihood", recipe.likelihood.name, recipe.code, folder)

    posterior_settings = {"latent": latent, **recipe.posterior.options}
    encoder = _network(recipe, "encoder", shape, _network_outputs(posterior_class, posterior_settings), folder)
    levels = _levels(likelihood_class, recipe.likelihood.name, support)
    likelihood_settings = {"shape": shape, **levels, **recipe.likelihood.options}
    decoder = _network(recipe, "decoder", (latent,), _network_outputs(likelihood_class, likelihood_settings), folder)

    return VAE(
        posterior=_make("posterior", recipe.posterior, posterior_class, network=encoder, **posterior_settings),
        likelihood=_make("likelihood", recipe.likelihood, likelihood_class, network=decoder, **likelihood_settings),
        prior=_make(
            "prior", recipe.prior, find("prior", recipe.prior.name, recipe.code, folder), latent=latent, **recipe.prior.options
        ),
    )


def build_objective(recipe: Recipe, folder: Path) -> Objective:
    """The objective of a resolved recipe."""
    return _simple("objective", recipe.objective, recipe, folder)


def build_optimizer(recipe: Recipe, parameters: list[nn.Parameter], folder: Path) -> Optimizer:
    """The optimizer of a resolved recipe."""
    return _simple("optimizer", recipe.optimizer, recipe, folder, parameters=parameters)


def build_schedule(recipe: Recipe, folder: Path) -> Schedule:
    """The learning-rate schedule of a resolved recipe."""
    return _simple("schedule", recipe.schedule, recipe, folder)


def describe_inputs(data: Data) -> dict[str, Any]:
    """What has to be known about the data to build the model again: plain values for a JSON file."""
    return {"shape": list(data.shape), "support": data.support.name}


def read_inputs(described: dict[str, Any]) -> tuple[tuple[int, ...], Support]:
    """Shape and support from :func:`describe_inputs`."""
    return tuple(described["shape"]), parse_support(described["support"])


def _simple(kind: str, part: Part, recipe: Recipe, folder: Path, **passed: Any) -> Any:
    return _make(kind, part, find(kind, part.name, recipe.code, folder), **passed, **part.options)


def _network(recipe: Recipe, kind: str, inputs: tuple[int, ...], outputs: int, folder: Path) -> nn.Module:
    return _simple(kind, getattr(recipe, kind), recipe, folder, inputs=inputs, outputs=outputs)


def _network_outputs(part: Any, settings: dict[str, Any]) -> int:
    """Ask the class how many numbers it needs, with those of its settings that it declares to matter for that."""
    ask = getattr(part, "network_outputs", None)
    if ask is None:
        raise PartError(
            f"{part.__name__} has no class method network_outputs, so how large its network must be is unknown.",
            "Give it one that returns the number of outputs that it needs; built-in parts show how.",
        )
    declared = inspect.signature(ask).parameters
    return int(ask(**{name: value for name, value in settings.items() if name in declared}))


def _levels(part: Callable[..., Any], name: str, support: Support) -> dict[str, int]:
    if "levels" not in inspect.signature(part).parameters:
        return {}
    if support.levels is None:
        raise PartError(
            f"The likelihood {name!r} models gray levels, but the pixels are {support}.",
            "Choose --likelihood gaussian (a density), or give integer data.",
        )
    return {"levels": support.levels}


def _make(kind: str, part: Part, factory: Callable[..., Any], **arguments: Any) -> Any:
    try:
        return factory(**arguments)
    except VaelidError:
        raise
    except Exception as error:  # whatever a user's own part may raise
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            raise MachineError(
                f"There is not enough memory to build the {kind} {part.name!r}.", "Make the model smaller: --hidden, --latent."
            ) from error
        raise PartError(
            f"The {kind} {part.name!r} cannot be built with {', '.join(sorted(arguments))}: {type(error).__name__}: {error}",
            "`vaelid parts` shows what the builder passes to each kind of part.",
        ) from error
