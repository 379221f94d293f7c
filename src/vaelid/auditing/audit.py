"""The audit: every test on every part, judged as one family.

target ──> parts with one face (adapter) ──> draws ──> TESTS ──> findings ──Holm──> report
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vaelid.auditing.adapter import CONDITIONS, Evidence, Plan, Target, as_target, gather
from vaelid.auditing.closed_forms import closed_forms
from vaelid.auditing.contract import contract, structure
from vaelid.auditing.domain import domain_of
from vaelid.auditing.exchange import exchange
from vaelid.auditing.findings import AuditReport, Finding, judged
from vaelid.auditing.normalization import normalization
from vaelid.auditing.reparameterization import reparameterization
from vaelid.auditing.scores import scores
from vaelid.auditing.stein import stein
from vaelid.auditing.support import inside, support
from vaelid.auditing.targets import Named, named
from vaelid.auditing.whole_model import finite_weights, whole_model
from vaelid.errors import SettingError, VaelidError
from vaelid.vae import VAE

SAMPLES = 20_000
_FEWEST = 1000
_QUICK = 0.65  # share of the draws in a quick audit of a part
_QUICK_MODEL = 0.3  # … and of each part of a whole model


@dataclass(frozen=True)
class Test:
    """One group of hypotheses, and what it can and cannot see."""

    run: Callable[[Evidence], list[Finding]]
    sees: str
    blind: str


TESTS: dict[str, Test] = {
    "contract": Test(
        contract, "shapes, number types, seeds, NaN, batch dependence, missing gradients", "any wrong but well-formed number"
    ),
    "support": Test(
        support,
        "draws outside the support, values that should be refused, clamped probabilities",
        "wrong mass inside the support",
    ),
    "scores": Test(
        scores, "which parameter the sampler uses differently from the density", "errors without a parameter; bounds that move"
    ),
    "stein": Test(
        stein,
        "location, scale, shape, dependence per dimension",
        "constants in log p; weights of separated modes; discrete parts",
    ),
    "exchange": Test(
        exchange, "mass in the wrong place, weights of modes, discrete parts", "fine detail that no bounded feature follows"
    ),
    "normalization": Test(normalization, "a density that does not integrate to one", "a sampler of another distribution"),
    "reparameterization": Test(reparameterization, "samples detached from parameters", "parts without rsample or parameters"),
    "closed-forms": Test(closed_forms, "wrong mean, variance, entropy or KL formulas", "formulas that are not offered"),
}


def audit(
    target: Any,
    *,
    quick: bool = False,
    seed: int = 0,
    samples: int | None = None,
    given: Tensor | None = None,
    shake: bool | None = None,
    settings: Mapping[str, Any] | None = None,
    allow_code: bool = False,
) -> AuditReport:
    """Test statistically whether a part's sampler, density, gradients and formulas agree.

    Args:
        target: a prior, posterior, likelihood, VAE, distribution, or any object with ``log_prob(z)`` and ``sample(n)``;
            or a name: a run folder, a built-in part, or ``file.py:Class``
        quick: fewer draws, for a first answer within a second a part
        seed: names the random numbers
        samples: draws per part
        given: images for a posterior or a VAE, latents for a likelihood
        shake: change every trained parameter a little beforehand, so that what is only equal at the start is told apart
            (default: for bare parts, not for trained models)
        settings: constructor arguments of a part that is named
        allow_code: run the user code that a run folder brings along

    Raises:
        PartError: for something that cannot be audited.
        SettingError: for too few draws, or settings of something that takes none.

    >>> import vaelid
    >>> audit(vaelid.StandardNormalPrior(latent=2), quick=True).verdict
    'pass'
    """
    if samples is not None and samples < _FEWEST:
        raise SettingError(f"samples must be at least {_FEWEST}, or the tests have no power; it is {samples}.")
    start = time.perf_counter()
    plan = Plan(samples or SAMPLES, seed=seed, quick=quick)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(plan.key("build"))
        found = (
            named(str(target), settings or {}, allow_code)
            if isinstance(target, str | Path)
            else Named(type(target).__name__, target)
        )
        images = found.images if given is None else given
        shaken = plan.key("shake") if (shake if shake is not None else not isinstance(found.part, VAE)) else None
        if quick and samples is None:
            plan = replace(plan, samples=int(SAMPLES * (_QUICK_MODEL if isinstance(found.part, VAE) else _QUICK)))
        findings = _findings(found.part, images, shaken, plan)
    return AuditReport(found.name, judged(findings), seed, quick, time.perf_counter() - start, weights=found.weights)


def audit_part(target: Target, plan: Plan) -> list[Finding]:
    """All tests of one part; what breaks a test is a finding, too."""
    findings = structure(target, plan)
    if any("cannot be drawn from" in f.meaning for f in findings if f.verdict == "fail"):
        return findings + _drawn_inside(target)
    evidence = gather(target, plan)
    for name, test in TESTS.items():
        torch.manual_seed(plan.key(target.name, name))
        findings += _attempt(name, test, evidence)
        if name == "contract" and any(f.verdict == "fail" and "finite" in f.hypothesis for f in findings):
            return findings  # NaN in, NaN out: the other tests would only repeat it
    return findings


def _drawn_inside(target: Target) -> list[Finding]:
    """Draws that log_prob breaks on may simply lie outside the support."""
    try:
        x = target.face().draw(200)
        return [inside(target, x, domain_of(x, target.declared, x.dim() - 2))]
    except (VaelidError, RuntimeError, ValueError, TypeError, IndexError, AttributeError, NotImplementedError):
        return []


def _attempt(name: str, test: Test, evidence: Evidence) -> list[Finding]:
    try:
        return test.run(evidence)
    except (RuntimeError, ValueError, TypeError, NotImplementedError, ArithmeticError) as error:
        words = f"The test broke off: {type(error).__name__}: {error}"
        return [Finding(name, evidence.name, "the test can be carried out", "undecided", words, name)]


def _findings(part: Any, images: Tensor | None, shaken: int | None, plan: Plan) -> list[Finding]:
    if not isinstance(part, VAE):
        return audit_part(as_target(part, given=images, shake=shaken), plan)
    weights = finite_weights(part)
    if weights.verdict == "fail":
        return [weights]  # everything else would only repeat it
    x = _images(part, images)
    return [f for each in _targets(part, x) for f in audit_part(each, plan)] + whole_model(part, x, plan)


def _targets(model: VAE, x: Tensor) -> list[Target]:
    x = x[:CONDITIONS]
    with torch.no_grad():
        z = model.posterior(x).sample()
    return [as_target(model.prior), as_target(model.posterior, given=x), as_target(model.likelihood, given=z)]


def _images(model: VAE, given: Tensor | None) -> Tensor:
    """Images for a model that came with none: draws of its own."""
    return model.sample(4 * CONDITIONS).draws if given is None else given
