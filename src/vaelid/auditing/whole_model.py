"""The whole model: numbers per image that depend on this image alone.

    log p(x_i|z_i), log q(z_i|x_i)   unchanged when the rest of the batch is permuted or replaced
    E_q[p(x|z) p(z)/q(z|x)] = p(x)   where p(x) is known (``log_evidence(x)``)
    rank of z* among draws of q(z|x*), (z*, x*) from the model: uniform if q is the exact posterior (reported, never a failure)

If batch statistics leak in, log p(x_i) is no log probability of x_i, and what is printed as a likelihood is none.

References:
    Talts et al. 2018, Validating Bayesian inference algorithms with simulation-based calibration.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from vaelid.auditing.adapter import Plan
from vaelid.auditing.findings import Finding, exact, rule
from vaelid.auditing.statistics import HEAVY, effective_size, pareto_shape, screen
from vaelid.vae import VAE

_TEST = "whole-model"
_SHOWN = 8
_TOLERANCE = 1e-5  # relative, in float64
_TOLERANCE_SINGLE = 1e-3
_RANKED = 200
_DRAWS = 63
_REPEATS = 200  # simulations of what an exact posterior would show
_ROUNDING = 1e-3  # nats of float32 sums over pixels
_LEAST_EFFECTIVE = 0.05  # share of the weights that must count


def guards(model: VAE, x: Tensor) -> list[Finding]:
    """The cheap checks without which no likelihood should be printed: finite weights, evaluation mode, independence of the batch.

    Args:
        x: images ``(B, *X)``, at least two; 16 are looked at
    """
    few = x[: 2 * _SHOWN]
    findings = [finite_weights(model), _evaluation_mode(model)]
    if findings[0].verdict == "pass" and len(few) > 1:
        findings += _each_alone(model, few)
    return findings


def whole_model(model: VAE, x: Tensor, plan: Plan) -> list[Finding]:
    """The guards, and what takes longer."""
    torch.manual_seed(plan.key("model"))
    findings = guards(model, x)
    findings += _causal(model, x)
    if all(f.verdict == "pass" for f in findings):
        findings += [*_evidence(model, x, plan), _calibration(model, plan)]
    return findings


def finite_weights(model: VAE) -> Finding:
    """No weight or buffer is NaN or infinite."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    bad = [name for name, value in tensors.items() if not bool(torch.isfinite(value.detach()).all())]
    words = f"Weights hold NaN or infinity: {', '.join(bad)}"
    return rule(_TEST, "model", "all weights are finite", not bad, words, ", ".join(bad))


def _evaluation_mode(model: VAE) -> Finding:
    training = [name or "model" for name, module in model.named_modules() if module.training]
    batch = [
        n for n, m in model.named_modules() if isinstance(m, _NormBase) and (m.training or m.running_mean is None) and _mixes(m)
    ]
    guilty = batch or training
    words = (
        f"{', '.join(guilty[:4])} {'uses statistics of the batch' if batch else 'is in training mode'}: log "
        "p(x_i) would depend on the other images"
    )
    return rule(_TEST, "model", "no module in training mode, no batch statistics", not guilty, words, ", ".join(guilty[:4]))


def _mixes(module: nn.Module) -> bool:
    return not isinstance(module, nn.InstanceNorm1d | nn.InstanceNorm2d | nn.InstanceNorm3d)


@torch.no_grad()
def _each_alone(model: VAE, x: Tensor) -> list[Finding]:
    """Compare a batch with itself turned round, and with its second half replaced; in float64, where rounding cannot hide
    anything.
    """
    judge, tolerance = _precise(model, x)
    x = x.to(next(judge.parameters(), x).dtype)
    half = len(x) // 2
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        q = judge.posterior(x)
        z = q.sample((1,))
    replaced = torch.cat([x[:half], x[:1].expand_as(x[half:])])  # what is left of the batch has other statistics
    turned = x.flip(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # whatever the networks draw inside, they draw it for each call alike
        gaps: dict[str, float] = {}
        of_x = q.log_prob(z)[0]
        gaps["posterior"] = max(
            _apart(of_x, judge.posterior(turned).log_prob(z.flip(1))[0].flip(0)),
            _apart(of_x[:half], judge.posterior(replaced).log_prob(z)[0][:half]),
        )
        of_z = judge.likelihood(z).log_prob(x)[0]
        other_z = torch.cat([z[:, :half], z[:, half:] + 1], dim=1)
        gaps["likelihood"] = max(
            _apart(of_z, judge.likelihood(z.flip(1)).log_prob(turned)[0].flip(0)),
            _apart(of_z[:half], judge.likelihood(other_z).log_prob(x)[0][:half]),
        )
        of_prior = judge.prior().log_prob(z)[0]
        gaps["prior"] = _apart(of_prior, judge.prior().log_prob(z.flip(1))[0].flip(0))
    said = {"posterior": "log q(z_i|x_i)", "likelihood": "log p(x_i|z_i)", "prior": "log p(z_i)"}
    return [
        exact(
            _TEST,
            "model",
            f"{said[part]} depends on example i alone",
            gap,
            tolerance,
            f"{said[part]} changes with the rest of the batch",
            part,
        )
        for part, gap in gaps.items()
    ]


def _precise(model: VAE, x: Tensor) -> tuple[VAE, float]:
    """A float64 copy if the model works as one, else the model as it is."""
    double = copy.deepcopy(model).double()
    try:
        double(x[:2].double())
    except (RuntimeError, TypeError):
        return model, _TOLERANCE_SINGLE
    return double, _TOLERANCE


def _apart(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        return math.inf
    return float(((a - b).abs() / (1 + a.abs())).nan_to_num(math.inf).max()) if a.numel() else 0.0


@torch.no_grad()
def _causal(model: VAE, x: Tensor) -> list[Finding]:
    """Parts that give ``log_conditionals``: log p(x_d | x_<d, …) per dimension must not change with later dimensions."""
    findings = []
    for name, part, condition, value in (
        ("prior", model.prior, (), model.prior().sample((_SHOWN,))),
        ("likelihood", model.likelihood, (model.prior().sample((_SHOWN,)),), x[:_SHOWN]),
    ):
        conditionals = getattr(part, "log_conditionals", None)
        if conditionals is not None:
            leak, at = _leak(lambda v, c=conditionals, k=condition: c(v, *k), value)
            words = (
                f"log p(x_d | x_<d) changes with later dimensions, first at dimension {at}: the product of "
                "conditionals is no density"
            )
            findings.append(
                exact(
                    _TEST,
                    name,
                    "each conditional sees earlier dimensions only",
                    leak,
                    _TOLERANCE_SINGLE,
                    words,
                    f"dimension {at}",
                )
            )
    return findings


def _leak(conditionals: object, value: Tensor) -> tuple[float, int]:
    assert callable(conditionals)
    flat = value.flatten(1)
    before, worst, at = conditionals(value).flatten(1), 0.0, 0
    for d in range(1, flat.shape[1], max(1, flat.shape[1] // 64)):
        changed = flat.clone()
        changed[:, d:] = changed[:, d:].roll(1, 0) if len(flat) > 1 else 1 - changed[:, d:]
        gap = _apart(before[:, : d + 1][:, :d], conditionals(changed.reshape(value.shape)).flatten(1)[:, :d])
        if gap > max(worst, _TOLERANCE_SINGLE):
            worst, at = gap, at or d - 1
    return worst, at


@torch.no_grad()
def _evidence(model: VAE, x: Tensor, plan: Plan) -> list[Finding]:
    """E[p̂(x)/p(x)] = 1 for one importance weight p̂ at a time, where the model knows log p(x)."""
    oracle = getattr(model, "log_evidence", None)
    if oracle is None:
        return []
    few = x[:_SHOWN]
    ratio = model(few, plan.samples // 10).log_weight.double() - oracle(few).double()
    hypothesis = "E_q[w / p(x)] = 1"
    words = (
        "The importance weights do not average to the known p(x): some density in log w is not that of its "
        "samples, or a term is missing"
    )
    if (
        float((ratio.amax(0) - ratio.amin(0)).max()) < _ROUNDING
    ):  # q is the exact posterior: each weight is p(x), but for rounding
        return [exact(_TEST, "model", hypothesis, float(ratio.abs().max()), _ROUNDING, words, "log w")]
    shapes = [pareto_shape(column) for column in ratio.T]
    light = [i for i, k in enumerate(shapes) if k < HEAVY and effective_size(ratio[:, i]) > _LEAST_EFFECTIVE]
    middle = sorted(shapes)[len(shapes) // 2]
    if not light or middle >= HEAVY:  # where most are heavy, one that looks light has not shown its large weights yet
        open_ = f"The importance weights' tails are too heavy to test their mean (median k̂ = {middle:.2f}): q is too far off"
        return [Finding(_TEST, "model", hypothesis, "undecided", open_, "log w", detail={"k_hat": shapes})]
    tested = screen(ratio[:, light].exp() - 1)
    where = f"image {light[tested.worst]}"
    detail = {"images": light, "k_hat": shapes}
    return [Finding(_TEST, "model", hypothesis, "pass", words, where, tested.statistic, tested.p_value, detail=detail)]


@torch.no_grad()
def _calibration(model: VAE, plan: Plan) -> Finding:
    """Simulation-based calibration: says how far q(z|x) is from the true posterior, dimension by dimension.

    An exact posterior shows a distance, too: that of a finite sample, the largest over dimensions. It is simulated, and said.
    """
    made = model.sample(_RANKED // 4 if plan.quick else _RANKED)
    draws = model.posterior(made.draws).sample((_DRAWS,))
    distance = _from_uniform((draws < made.z).double().mean(0))  # ranks (n, L), uniform if q is exact
    exactly = torch.stack([_from_uniform(torch.randint(_DRAWS + 1, made.z.shape) / _DRAWS).max() for _ in range(_REPEATS)])
    expected, usual = float(exactly.mean()), float(torch.quantile(exactly, 0.95))
    worst = int(distance.argmax())
    words = (
        "Simulation-based calibration (reported, not judged): the ranks of the true latents are off by up to "
        f"{float(distance[worst]):.2f} "
        f"(dimension {worst}); for an exact posterior it would be {expected:.2f} on average, below {usual:.2f} in 95 %"
    )
    detail: dict[str, Any] = {"distance": [round(float(d), 4) for d in distance], "simulations": len(made.z)}
    detail |= {"expected_if_exact": round(expected, 4), "quantile_95_if_exact": round(usual, 4)}
    return Finding(_TEST, "posterior", "ranks of z* are uniform", "skipped", words, f"dimension {worst}", detail=detail)


def _from_uniform(rank: Tensor) -> Tensor:
    """Kolmogorov distance of ranks in [0, 1] from uniform ones, ``(n, L) -> (L,)``."""
    ordered = rank.double().sort(0).values
    return (ordered - torch.linspace(0, 1, len(rank), dtype=torch.float64)[:, None]).abs().max(0).values
