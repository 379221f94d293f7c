"""Formulas against samples: mean, variance and entropy methods, and every KL divergence that torch knows for the part.

    E_p[x − mean] = 0     E_p[(x − mean)² − variance] = 0     E_p[−log p − entropy] = 0     E_q[log q − log p − KL(q‖p)] = 0

A formula that gives infinity or NaN says that the moment does not exist, and is not tested. Nor is one whose samples have
so heavy a tail that their mean may have no standard error (k̂ ≥ 0.4 in either tail): StudentT(3) has a variance, but no n makes
the mean of its squares normal. Such dimensions are left out, and the finding says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from vaelid.auditing.adapter import Evidence, Face
from vaelid.auditing.findings import Finding, exact, skipped
from vaelid.auditing.statistics import HEAVY, batched, batched_name, screen, tail_shapes
from vaelid.distributions import closed_form_kl, diagonal_normal

_TEST = "closed-forms"
_ROUNDING = 1e-4  # nats that float32 may be off by


def closed_forms(evidence: Evidence) -> list[Finding]:
    """Each formula that the part offers."""
    inner = evidence.target.face().inner
    formulas: dict[str, Callable[[], Any]] = {
        "mean": lambda: inner.mean,
        "variance": lambda: inner.variance,
        "entropy": lambda: inner.entropy(),  # noqa: PLW0108 (an object without the method must fail when asked, not before)
    }
    values = {name: _asked(formula) for name, formula in formulas.items()} if isinstance(inner, Distribution) else {}
    findings = [
        _against_samples(evidence, name, value, values.get("mean")) for name, value in values.items() if value is not None
    ]
    return [f for f in findings if f is not None] + _divergence(evidence)


@torch.no_grad()
def _asked(formula: Callable[[], Any]) -> Tensor | None:
    try:
        value = formula()
    except (NotImplementedError, AttributeError, ValueError, RuntimeError):
        return None
    return value if isinstance(value, Tensor) and bool(torch.isfinite(value).all()) else None


def _against_samples(evidence: Evidence, name: str, value: Tensor, mean: Tensor | None) -> Finding | None:
    """None where the formula is not for one event of the part (a shape of its own), or has nothing to be compared with."""
    x = evidence.x.flatten(2) if evidence.x.dim() > 2 else evidence.x.unsqueeze(-1)
    conditions, dims = x.shape[1:]
    if name == "entropy":
        if value.numel() % conditions:
            return None
        columns = (-evidence.log_prob.double() - value.reshape(conditions, -1).sum(-1)).unsqueeze(-1)
    elif value.numel() != conditions * dims or (name == "variance" and mean is None):
        return None
    elif name == "mean":
        columns = x.double() - value.reshape(conditions, dims)
    else:
        center = x.double() - mean.reshape(conditions, dims)  # type: ignore[union-attr]
        columns = center.square() - value.reshape(conditions, dims)
    return _judged(evidence, name, f"{name}() is that of the samples", columns)


def _judged(evidence: Evidence, formula: str, hypothesis: str, columns: Tensor) -> Finding:
    largest = float(columns.abs().max())
    if formula not in ("mean", "variance") and not evidence.domain.discrete and float(columns.max() - columns.min()) <= _ROUNDING:
        # Constant for a density that varies nowhere, such as the uniform: no statistics, and no rare events to wait for.
        words = f"The formula for the {formula} disagrees with the part's own samples and log_prob"
        return exact(_TEST, evidence.name, hypothesis, largest, _ROUNDING, words, formula)
    shape = tail_shapes(columns.flatten(1)).reshape(columns.shape[1:]).mean(0)  # of each dimension: less noisy than per condition
    # Where most dimensions are heavy, one that looks light is a sample whose large values are still to come.
    light = (shape < HEAVY) & (shape.median() < HEAVY)
    if not bool(light.any()):
        words = (
            f"The samples' tails are too heavy to test the {formula} (k̂ = {float(shape.median()):.2f}; from 0.5 on their mean "
            "has no standard error)"
        )
        return skipped(_TEST, evidence.name, hypothesis, words)
    if not bool(light.all()):
        hypothesis += f" ({int(light.sum())} of {len(light)} dimensions; the others' tails are too heavy to tell)"
    tested = screen(batched(columns[..., light]))
    names = [f"dimension {i}" for i in light.nonzero().flatten().tolist()] if len(light) > 1 else [""]
    where = f"{formula} {batched_name(tested.worst, names, evidence.conditions)}".strip()
    words = f"The formula for the {formula} disagrees with the part's own samples and log_prob ({where})"
    return Finding(_TEST, evidence.name, hypothesis, "pass", words, where, tested.statistic, tested.p_value)


@torch.no_grad()
def _divergence(evidence: Evidence) -> list[Finding]:
    """KL between the part and a diagonal normal, both ways, where both live on the same space and torch has a formula for
    the pair.
    """
    face = evidence.target.face()
    if not isinstance(face.inner, Distribution) or evidence.domain.bounded or len(face.inner.event_shape) != 1:
        return []
    try:
        center, spread = face.inner.mean, face.inner.stddev
    except NotImplementedError:
        return []
    if not bool((torch.isfinite(center) & torch.isfinite(spread) & (spread > 0)).all()):
        return []
    other = diagonal_normal(center + 0.3 * spread, 0.8 * spread)
    findings = []
    for q, p, x, words in (
        (face.inner, other, evidence.x, "KL(part‖normal)"),
        (other, face.inner, Face(other, face.batch_dims).draw(len(evidence.x)), "KL(normal‖part)"),
    ):
        value = closed_form_kl(q, p)
        if value is not None and value.numel() == evidence.conditions:
            gap = Face(q, face.batch_dims).log_prob(x).double() - Face(p, face.batch_dims).log_prob(x).double()
            findings.append(
                _judged(evidence, words, "the registered KL is E_q[log q − log p]", (gap - value.reshape(-1)).unsqueeze(-1))
            )
    return findings
