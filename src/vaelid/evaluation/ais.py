"""Annealed importance sampling (AIS): log p(x) by a path of densities from a start that can be drawn from to the posterior.

    log f_β(z) = (1 − β) log q0(z) + β log p(x, z) = log q0(z) + β log w(z),     0 = β_0 < β_1 < … < β_T = 1

with q0 = q(z|x) and w = p(x, z)/q(z|x), the importance weight; or q0 = p(z) and w = p(x|z). A chain starts at z_1 ~ q0 and

    log ŵ = Σ_t (β_t − β_{t−1}) log w(z_t),     z_{t+1} from z_t by an update that leaves f_{β_t} invariant (HMC)

Then E[ŵ] = p(x) exactly, whatever T and however badly the updates mix, *provided* they do not depend on the chain itself. So
step sizes are tuned per image in a pilot run with noise of its own, and frozen. T = 1 is importance sampling from q0. The
estimate of an image is log (1/M) Σ_m ŵ_m over its M chains, a lower bound on log p(x) in expectation.

Started at an exact posterior draw and run backwards, with the same updates in the opposite order, the same sum with the opposite
sign has E[1/ŵ] = 1/p(x): an upper bound in expectation (see ``bdmc``).

Notation: M chains, B images, L latent dimensions, T steps.

References:
    Neal 2001, Annealed Importance Sampling; Wu, Burda, Salakhutdinov & Grosse 2017, On the Quantitative Analysis of Decoder-Based
    Generative Models (the path, the schedule, HMC); Grosse, Ghahramani & Adams 2015 (the way back).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from torch.distributions import Distribution

from vaelid.data import Split
from vaelid.errors import SettingError
from vaelid.evaluation.certificate import monte_carlo_se, weight_diagnostics
from vaelid.evaluation.collect import Arrays, Save, Tick, collect, mean_se, rows_at_once
from vaelid.evaluation.hmc import Point, draw_noise, update
from vaelid.evaluation.likelihood import PosteriorDraws
from vaelid.evaluation.plans import identity_of, require_at_least
from vaelid.progress import Reporter
from vaelid.randomness import key
from vaelid.vae import VAE

Drawn = TypeVar("Drawn")
Start = Literal["encoder", "prior"]
STARTS: dict[str, str] = {"encoder": "q(z|x)", "prior": "p(z)"}

#: The sigmoid schedule runs from σ(−this) to σ(this), rescaled to 0 … 1 (Wu et al. 2017).
_SHARPNESS = 4.0
#: The pilot run: updates at its first temperature, gain on log ε per unit of missed acceptance, temperatures averaged over.
_PILOT_CHAINS, _WARM_UP, _GAIN, _WINDOW = 4, 20, 0.5, 9
_TENTHS = 10


@dataclass(frozen=True)
class AisPlan:
    """How to anneal.

    Attributes:
        steps: T; the work grows with it, the error falls with it
        chains: M per image
        start: q0, the ``encoder``'s q(z|x) or the ``prior``
        leapfrog: gradients per update (Wu et al.: 10); 1 is MALA, for which ``acceptance`` 0.57 is usual
        acceptance: what the pilot run tunes the step sizes to
        pilot: temperatures of the pilot run
        seed: names the noise
        images: at most so many at once; of no influence on the numbers but for rounding
    """

    steps: int = 100
    chains: int = 16
    start: Start = "encoder"
    leapfrog: int = 3
    acceptance: float = 0.65
    pilot: int = 50
    seed: int = 0
    images: int = 100

    def __post_init__(self) -> None:
        require_at_least(self, steps=1, chains=1, leapfrog=1, pilot=1, images=1)
        if self.start not in STARTS:
            raise SettingError(f"start must be one of {', '.join(STARTS)}; it is {self.start!r}.")
        if not 0 < self.acceptance < 1:
            raise SettingError(f"acceptance must lie between 0 and 1; it is {self.acceptance:g}.")

    @property
    def pilot_updates(self) -> int:
        """Updates of the pilot run, its warm-up included; none for T = 1, which makes no update."""
        return _WARM_UP + self.pilot if self.steps > 1 else 0

    @property
    def ticks(self) -> int:
        """How often :func:`anneal` and :func:`tune` together tick on a batch."""
        return self.pilot_updates + self.steps

    def identity(self) -> dict[str, Any]:
        """What the per-image numbers depend on."""
        return identity_of(self)


def schedule(steps: int) -> list[float]:
    """β_0 … β_T: a sigmoid from 0 to 1, dense at both ends.

    >>> schedule(4)
    [0.0, 0.105, 0.5, 0.895, 1.0]
    """
    ramp = torch.sigmoid(_SHARPNESS * torch.linspace(-1, 1, steps + 1, dtype=torch.float64))
    betas: list[float] = ((ramp - ramp[0]) / (ramp[-1] - ramp[0])).tolist()
    return betas


@dataclass(frozen=True)
class AnnealingPath:
    """The densities f_β of a batch of images, and the scales of their coordinates.

    Args:
        model: in evaluation mode
        x: images ``(B, *X)``
        ids: what names each image's noise, int64 ``(B,)``
        start: q0
    """

    model: VAE
    x: Tensor
    ids: Tensor
    start: Start
    q0: Distribution = field(init=False)
    prior: Distribution = field(init=False)
    scale: Tensor = field(init=False)  # (B, L)

    @torch.no_grad()
    def __post_init__(self) -> None:
        prior = self.model.prior()
        q0 = self.model.posterior(self.x) if self.start == "encoder" else prior
        object.__setattr__(self, "prior", prior)
        object.__setattr__(self, "q0", q0)
        object.__setattr__(self, "scale", spread(q0, len(self.x)))

    def draw(self, count: int, seed: int, purpose: str) -> Tensor:
        """Draws from q0, a function of (purpose, seed, image), ``(count, B, L)``."""
        with torch.no_grad():
            if self.start == "encoder":
                return PosteriorDraws(self.model, self.x, self.ids, purpose, seed).draw(0, count)
            return torch.stack(keyed_draws(lambda: self.prior.sample((count,)), purpose, seed, self.ids), dim=1)

    def look(self, z: Tensor) -> Point:
        """Log densities and gradients at ``z`` ``(M, B, L)``: one pass through the decoder and back, to z only."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            log_start = self.q0.log_prob(z)
            rest = self.model.likelihood(z).log_prob(self.x)
            if self.start == "encoder":
                rest = rest + self.prior.log_prob(z)
            [start_gradient] = torch.autograd.grad(log_start.sum(), z)
            [gradient] = torch.autograd.grad(rest.sum(), z)
        log_start, rest = log_start.detach().double(), rest.detach().double()
        if self.start == "encoder":
            rest, gradient = rest - log_start, gradient - start_gradient
        return Point(z.detach(), log_start, rest, start_gradient, gradient)


@torch.no_grad()
def tune(path: AnnealingPath, plan: AisPlan, tick: Tick | None = None) -> Tensor:
    """Step sizes ε for the updates at β_1 … β_{T−1}, ``(T − 1, B)``: a pilot run steers each image to ``plan.acceptance``.

    Its noise is used for nothing else. The step sizes of few temperatures are smoothed and interpolated to all.
    """
    if plan.steps == 1:
        return path.scale.new_empty(0, len(path.x))
    betas, chains, purpose = schedule(plan.pilot + 1)[1:-1], min(plan.chains, _PILOT_CHAINS), "ais pilot"
    point = path.look(path.draw(chains, plan.seed, purpose))
    log_step = torch.full_like(path.scale[:, 0], -0.25 * math.log(path.scale.shape[-1]))  # about right for a Gaussian
    visited = []
    for number, beta in enumerate([betas[0]] * _WARM_UP + betas):
        noise = draw_noise(purpose, plan.seed, number, path.ids, chains, path.scale)
        point, acceptance = update(path.look, point, beta, log_step.exp(), path.scale, noise, plan.leapfrog)
        log_step = log_step + _GAIN * (acceptance.mean(0) - plan.acceptance).to(log_step.dtype)
        visited.append(log_step)
        if tick is not None:
            tick()
    return _stretched(_smoothed(torch.stack(visited[_WARM_UP:])), plan.steps - 1).exp()


@torch.no_grad()
def anneal(
    path: AnnealingPath, z: Tensor, plan: AisPlan, steps: Tensor, purpose: str, reverse: bool = False, tick: Tick | None = None
) -> tuple[Tensor, Tensor]:
    """Run chains from ``z`` ``(M, B, L)`` along the path; with ``reverse`` from β = 1 down, the same updates in opposite order.

    Args:
        steps: frozen step sizes, ``(T − 1, B)``

    Returns:
        log ŵ of the way up, or log 1/ŵ of the way down, ``(M, B)`` float64; and mean acceptance per update, ``(T − 1, B)``.
    """
    betas = schedule(plan.steps)
    if reverse:
        betas, steps = betas[::-1], steps.flip(0)
    point = path.look(z)
    log_weight = torch.zeros_like(point.log_weight)
    accepted = []
    for number in range(plan.steps):
        log_weight = log_weight + (betas[number + 1] - betas[number]) * point.log_weight
        if number < plan.steps - 1:
            noise = draw_noise(purpose, plan.seed, number, path.ids, len(z), path.scale)
            beta, step = betas[number + 1], steps[number]
            point, acceptance = update(path.look, point, beta, step, path.scale, noise, plan.leapfrog)
            accepted.append(acceptance.mean(0))
        if tick is not None:
            tick()
    return log_weight, torch.stack(accepted) if accepted else log_weight.new_empty(0, len(path.x))


def forward_values(path: AnnealingPath, plan: AisPlan, steps: Tensor, tick: Tick | None = None) -> dict[str, Tensor]:
    """The counted run of a batch: per-image ``nll``, ``log_weight`` ``(B, M)``, ``ess``, ``variance`` and acceptances."""
    z = path.draw(plan.chains, plan.seed, "ais")
    log_weight, acceptance = anneal(path, z, plan, steps, "ais", tick=tick)
    diagnostics = weight_diagnostics(log_weight)
    found = {
        "nll": math.log(plan.chains) - torch.logsumexp(log_weight, 0),
        "log_weight": log_weight.T,
        "ess": diagnostics["ess"],
        "variance": diagnostics["variance"],
    }
    if len(acceptance):
        found["acceptance"] = acceptance.mean(0)
        found["least_acceptance"] = torch.stack([part.mean(0) for part in acceptance.tensor_split(_TENTHS) if len(part)]).amin(0)
    return found


def ais_images(
    model: VAE, split: Split, plan: AisPlan, reporter: Reporter, start: Arrays | None = None, save: Save | None = None
) -> Arrays:
    """AIS of every image of ``split``, in its order.

    Args:
        start: what an earlier, interrupted call had saved
        save: called now and then with what is done so far

    Returns:
        ``nll`` (N,) nats, ``log_weight`` (N, M), ``ess``, ``variance`` (of the log estimate; NaN for one chain), and for T > 1
        ``acceptance`` and ``least_acceptance`` (of the worst tenth of the path), each (N,).
    """
    model.eval()

    def work(positions: Tensor, tick: Tick) -> dict[str, Tensor]:
        x = split.batch(positions).to(next(model.parameters()).dtype)
        path = AnnealingPath(model, x, split.indices[positions.to(split.device)], plan.start)
        return forward_values(path, plan, tune(path, plan, tick), tick)

    together = batch_of(model, plan)
    return collect(len(split), together, plan.ticks, work, reporter, f"annealing {split.name}", start, save)


def summarize_ais(values: Arrays, plan: AisPlan) -> dict[str, Any]:
    """Means over images with standard errors, for ``results.json``."""
    ess, variance = values["ess"], values["variance"]
    return {
        **mean_se(values["nll"]),
        "name": f"annealed importance sampling from {STARTS[plan.start]}, {plan.steps} steps, {plan.chains} chains",
        "direction": "upper bound on the true NLL in expectation",
        "monte_carlo_se": monte_carlo_se(variance),
        "effective_chains": {"mean": float(ess.mean()), "least": float(ess.min()), "of": plan.chains},
        "acceptance": {
            "mean": float(values["acceptance"].mean()) if "acceptance" in values else None,
            "least": float(values["least_acceptance"].min()) if "acceptance" in values else None,
            "target": plan.acceptance,
        },
        "plan": plan.identity(),
        "images": len(ess),
    }


def batch_of(model: VAE, plan: AisPlan) -> int:
    """How many images to anneal together."""
    return max(1, min(plan.images, rows_at_once(model) // plan.chains))


@torch.no_grad()
def keyed_draws(draw: Callable[[], Drawn], purpose: str, seed: int, ids: Tensor) -> list[Drawn]:
    """``draw()`` once per image, a function of (purpose, seed, image); the global random state is left as it was."""
    drawn = []
    with torch.random.fork_rng(devices=[ids.device] if ids.device.type == "cuda" else []):
        for i in ids.tolist():
            torch.manual_seed(int(key(purpose, seed, i)) & (2**63 - 1))
            drawn.append(draw())
    return drawn


def spread(q0: Distribution, batch: int) -> Tensor:
    """Standard deviations of q0 per coordinate, ``(batch, L)``; ones where it does not know them."""
    try:
        scale = q0.stddev
    except NotImplementedError:
        scale = q0.sample().new_ones(q0.event_shape)
    return scale.expand(batch, -1)


def _smoothed(rows: Tensor) -> Tensor:
    """Means over up to ``_WINDOW`` neighboring rows."""
    half = _WINDOW // 2
    return torch.stack([rows[max(0, i - half) : i + half + 1].mean(0) for i in range(len(rows))])


def _stretched(rows: Tensor, count: int) -> Tensor:
    """``rows`` at positions u = i/(P + 1), linearly interpolated at u = t/(count + 1); the ends are continued flat."""
    at = torch.arange(1, count + 1, device=rows.device, dtype=rows.dtype) * ((len(rows) + 1) / (count + 1)) - 1
    at = at.clamp(0, len(rows) - 1)
    lower = at.floor().long().clamp_max(max(0, len(rows) - 2))
    upper = (lower + 1).clamp_max(len(rows) - 1)
    return torch.lerp(rows[lower], rows[upper], (at - lower).unsqueeze(1))
