"""Gradients through the samples: the pathwise gradient against the score-function gradient.

    ∇_θ E[f(x)] = E[∇_θ f(x_θ(ε))] = E[(f(x) − b) ∇_θ log p_θ(x)]

for a bounded smooth f and a constant b. A part that says ``has_rsample`` but detaches its samples, or lets only some parameters
through, has another left side.

References:
    Williams 1992 (score function); Kingma & Welling 2014, section 2.4 (pathwise).
"""

from __future__ import annotations

import torch
from torch import Tensor

from vaelid.auditing.adapter import Evidence
from vaelid.auditing.findings import Finding, rule, skipped
from vaelid.auditing.scores import MOST_ENTRIES, joined, projected, projections_of, steps_of
from vaelid.auditing.statistics import screen

_TEST = "reparameterization"
_HYPOTHESIS = "E[∇f(x(ε))] = E[f ∇log p]"
_ROWS = 4000


def reparameterization(evidence: Evidence) -> list[Finding]:
    """Both gradients of E[f], block by block, for every parameter."""
    face, parameters = evidence.target.face(), evidence.target.parameters
    if not face.reparameterized:
        return [skipped(_TEST, evidence.name, _HYPOTHESIS, "The part offers no reparameterized samples")]
    if not parameters:
        return [skipped(_TEST, evidence.name, _HYPOTHESIS, "The part has no parameters")]
    torch.manual_seed(evidence.plan.key(evidence.name, _TEST))
    if not face.rdraw(2).requires_grad:
        words = "rsample gives samples that are detached from the parameters: no gradient reaches them through the samples"
        return [rule(_TEST, evidence.name, _HYPOTHESIS, False, words, ", ".join(parameters))]
    names = [name for name in parameters if steps_of(evidence, name) is not None]
    if not names:
        return [
            skipped(
                _TEST, evidence.name, _HYPOTHESIS, "The support moves with every parameter: there is no score-function gradient"
            )
        ]
    return [_compared(evidence, names)]


def _compared(evidence: Evidence, names: list[str]) -> Finding:
    parameters = [evidence.target.parameters[name] for name in names]
    projections = projections_of(parameters)
    probe = _Probe(evidence)
    blocks = min(evidence.plan.blocks, 50)
    size = max(10, min(_ROWS, 2_000_000 // (evidence.dims * evidence.conditions)) // blocks * 2)
    rows = []
    for _ in range(blocks):
        path = torch.autograd.grad(probe(evidence.target.face().rdraw(size)).mean(), parameters, allow_unused=True)
        face = evidence.target.face()
        x = face.draw(size)
        score = torch.autograd.grad((probe(x) * face.log_prob(x)).mean(), parameters, allow_unused=True)
        both = [projected(list(g), parameters, projections) for g in (path, score)]
        rows.append([a - b for a, b in zip(*both, strict=True)])
    screens = {name: screen(torch.stack([row[i] for row in rows]), samples=blocks * size) for i, name in enumerate(names)}
    p_value, worst = joined(screens)
    small = evidence.target.parameters[worst].dim() > 0 and evidence.target.parameters[worst].numel() <= MOST_ENTRIES
    entry = torch.unravel_index(torch.tensor(screens[worst].worst), evidence.target.parameters[worst].shape) if small else []
    where = worst + (str([int(i) for i in entry]) if small else "")
    words = (
        f"The gradient of {where} through the samples is not the gradient of the expectation: samples are partly detached from it"
    )
    return Finding(_TEST, evidence.name, _HYPOTHESIS, "pass", words, where, screens[worst].statistic, p_value)


class _Probe:
    """A bounded smooth f: tanh and its square of random combinations of the centered, scaled coordinates, less their mean."""

    def __init__(self, evidence: Evidence) -> None:
        flat = evidence.x[:2000].flatten(2) if evidence.x.dim() > 2 else evidence.x[:2000].unsqueeze(-1)
        self.center = flat.median(0).values
        self.spread = (flat - self.center).abs().median(0).values.clamp_min(1e-9)
        self.directions = torch.randn(flat.shape[-1], 2).to(flat) / flat.shape[-1] ** 0.5
        self.baseline = 0.0
        self.baseline = float(self(evidence.x[:2000]).mean())

    def __call__(self, x: Tensor) -> Tensor:
        """``(n, B, *E) -> (n, B)``."""
        flat = x.flatten(2) if x.dim() > 2 else x.unsqueeze(-1)
        waves = torch.tanh((flat - self.center) / self.spread @ self.directions)
        return waves[..., 0] + waves[..., 1].square() - self.baseline
