"""vaelid: variational autoencoders whose numbers can be trusted.

Names are resolved when first used, so that ``import vaelid`` and ``vaelid --help`` do not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "VaelidError": "errors",
    "MLP": "networks",
    "Network": "networks",
    "load_data": "data",
    "Posterior": "posteriors",
    "GaussianPosterior": "posteriors",
    "Likelihood": "likelihoods",
    "BernoulliLikelihood": "likelihoods",
    "CategoricalLikelihood": "likelihoods",
    "GaussianLikelihood": "likelihoods",
    "DiscretizedGaussianLikelihood": "likelihoods",
    "Prior": "priors",
    "StandardNormalPrior": "priors",
    "MixturePrior": "priors",
    "FactorizedMixturePrior": "priors",
    "VAE": "vae",
    "Pass": "vae",
    "Objective": "objectives",
    "ELBO": "objectives",
    "IWAE": "objectives",
    "Recipe": "recipe",
    "Beyond": "beyond",
    "Run": "run",
    "train": "run",
    "open_run": "run",
    "compare": "run",
    "audit": "auditing.audit",
    "study": "studying",
    "report": "publishing",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'vaelid' has no attribute {name!r}")
    return getattr(import_module(f"vaelid.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
