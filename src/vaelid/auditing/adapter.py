"""One face for every kind of part: draws ``(n, B, *E)`` and log densities ``(n, B)`` at B fixed conditions.

A prior, a distribution or a plain module with ``log_prob`` and ``sample`` has one condition (B = 1); a posterior is looked at
for B images, a likelihood for B latents. Tests know nothing of kinds."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent
from torch.distributions.constraints import Constraint

from vaelid.auditing.domain import Declared, Domain, domain_of
from vaelid.errors import PartError
from vaelid.likelihoods import Likelihood
from vaelid.posteriors import Posterior
from vaelid.randomness import key
from vaelid.supports import Support

#: Conditions that a posterior or likelihood is looked at under.
CONDITIONS = 8
#: Numbers held in one block of draws, at most: what bounds the memory of an audit.
_MOST_NUMBERS = 5_000_000
#: Numbers that a part may hold inside for the draws it looks at together, if it makes one of each draw and parameter as a mixture
#: does; beyond the cache its time multiplies. So many draws in any case: calls have a price, too.
_MOST_INSIDE, _FEWEST_ROWS = 4_000_000, 256


@dataclass(frozen=True)
class Target:
    """A part under audit.

    Attributes:
        name: what findings call it
        source: the part itself
        make: conditions -> something with ``log_prob`` and ``sample``, built from the parameters as they are now
        module: whose parameters are tested (a private copy); None for a bare distribution
        given: the B conditions, or None
        batch_dims: dimensions that the conditions take in a draw, after the first
    """

    name: str
    source: Any
    make: Callable[[Tensor | None], Any]
    module: nn.Module | None = None
    given: Tensor | None = None
    batch_dims: int = 0

    def face(self) -> Face:
        """The distribution as it is now, under the present parameters."""
        numbers = sum(p.numel() for p in self.parameters.values())
        return Face(self.make(self.given), self.batch_dims, max(_FEWEST_ROWS, _MOST_INSIDE // max(1, numbers)))

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Trainable or not, by name; empty for a bare distribution."""
        return dict(self.module.named_parameters()) if self.module is not None else {}

    @property
    def declared(self) -> Declared:
        """The declared support: of a likelihood, of a torch distribution, or an attribute ``support``; None if there is none."""
        for owner in (self.source, self.make(self.given)):
            try:
                support = getattr(owner, "support", None)
            except NotImplementedError:
                support = None
            if isinstance(support, Support | Constraint):
                return support
        return None

    def at_condition(self, b: int) -> Target:
        """The same part under one of its conditions."""
        if self.given is None:
            return self
        index = (slice(None), slice(b, b + 1)) if self.batch_dims == 2 else (slice(b, b + 1),)
        return replace(self, given=self.given[index])

    @contextmanager
    def moved(self, moves: dict[str, Tensor]) -> Iterator[None]:
        """Add ``moves`` to parameters by name for the length of a ``with`` block."""
        kept = {name: self.parameters[name].detach().clone() for name in moves}
        try:
            with torch.no_grad():
                for name, move in moves.items():
                    self.parameters[name].add_(move)
            yield
        finally:
            with torch.no_grad():
                for name, value in kept.items():
                    self.parameters[name].copy_(value)


@dataclass(frozen=True)
class Face:
    """A distribution seen as draws ``(n, B, *E)`` and log densities ``(n, B)`` nats.

    Attributes:
        inner: the distribution, or what has ``log_prob`` and ``sample`` like one
        batch_dims: of the conditions
        at_once: draws whose densities are computed together where no gradient is asked for
    """

    inner: Any
    batch_dims: int
    at_once: int = 1_000_000

    def draw(self, n: int) -> Tensor:
        """``(n, B, *E)`` without gradient."""
        with torch.no_grad():
            return self._folded(self._call("sample", n)).detach()

    def rdraw(self, n: int) -> Tensor:
        """``(n, B, *E)`` that carry gradients to the parameters."""
        return self._folded(self._call("rsample", n))

    def raw_log_prob(self, x: Tensor) -> Tensor:
        """What the part itself says about draws ``(n, B, *E)``, in whatever shape."""
        return self.inner.log_prob(x.reshape(len(x), *self._batch, *x.shape[2:]))

    def log_prob(self, x: Tensor) -> Tensor:
        """``(n, B)`` nats; values per dimension are summed (the contract test complains about them)."""
        if not torch.is_grad_enabled() and len(x) > self.at_once:
            return torch.cat([self.log_prob(some) for some in x.split(self.at_once)])
        raw = self.raw_log_prob(x)
        if raw.shape[: 1 + self.batch_dims] != (len(x), *self._batch):
            raise PartError(
                f"log_prob of {len(x)} draws came with shape {tuple(raw.shape)}.", f"It must be {(len(x), *self._batch)}."
            )
        return raw.reshape(len(x), x.shape[1], -1).sum(-1)

    @property
    def reparameterized(self) -> bool:
        """Whether :meth:`rdraw` can be asked for: the part says that it has ``rsample``."""
        return bool(getattr(self.inner, "has_rsample", False))

    @cached_property
    def _batch(self) -> tuple[int, ...]:
        return tuple(getattr(self.inner, "batch_shape", ())[: self.batch_dims])

    def _call(self, method: str, n: int) -> Tensor:
        drawn = getattr(self.inner, method)(n if isinstance(self.inner, Plain) else (n,))
        if drawn.dim() < 1 + self.batch_dims or len(drawn) != n:
            raise PartError(f"{method} of {n} draws came with shape {tuple(drawn.shape)}.", f"The first dimension must be {n}.")
        return drawn

    def _folded(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), -1, *x.shape[1 + self.batch_dims :]) if self.batch_dims else x.unsqueeze(1)


class Plain:
    """A module that has nothing but ``log_prob(z)`` and ``sample(n)``, as many people write priors."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.has_rsample = False

    def log_prob(self, x: Tensor) -> Tensor:
        """What the module says about draws ``(n, *E)``: ``(n,)`` nats, if it keeps to the contract."""
        return self.module.log_prob(x)

    def sample(self, n: int) -> Tensor:
        """``n`` draws, ``(n, *E)``; a count, where torch distributions take a shape."""
        return self.module.sample(n)


@dataclass(frozen=True)
class Plan:
    """How much work an audit may do."""

    samples: int = 20_000
    blocks: int = 100
    seed: int = 0
    quick: bool = False

    def key(self, *words: str) -> int:
        """A seed for each purpose."""
        return int(key("/".join(("audit", *words)), self.seed)) & (2**63 - 1)


@dataclass(frozen=True)
class Evidence:
    """A target with one set of draws that all tests look at."""

    target: Target
    plan: Plan
    x: Tensor  # (n, B, *E)
    log_prob: Tensor  # (n, B)
    domain: Domain
    kept: dict[Any, Any] = field(default_factory=dict)  # what several tests need and one of them has made

    @property
    def name(self) -> str:
        """Of the target, as findings call it."""
        return self.target.name

    @property
    def conditions(self) -> int:
        """B: 1 for a prior or a distribution, the number of images or latents else."""
        return self.x.shape[1]

    @property
    def dims(self) -> int:
        """D, numbers in one event."""
        return max(1, self.x[0, 0].numel())


def gather(target: Target, plan: Plan) -> Evidence:
    """Draw what the tests look at; fewer draws where an event is large."""
    face = target.face()
    torch.manual_seed(plan.key(target.name, "draws"))
    one = face.draw(2)
    fit = max(300, _MOST_NUMBERS // (3 if plan.quick else 1) // max(1, one[0].numel()))
    n = min(fit, max(1, plan.samples // min(4, one.shape[1])))
    x = face.draw(n)
    with torch.no_grad():
        log_prob = face.log_prob(x)
    return Evidence(target, plan, x, log_prob, domain_of(x, target.declared, x.dim() - 2))


def as_target(part: Any, name: str | None = None, given: Tensor | None = None, shake: int | None = None) -> Target:
    """The face of any part: a prior, posterior or likelihood, a distribution, or a module with ``log_prob`` and ``sample``.

    Args:
        given: images ``(B, *X)`` for a posterior, latents ``(B, L)`` for a likelihood; random ones by default
        shake: seed of a small change of every trained parameter, so that what is equal at the start only is told apart;
        None leaves all as it is

    Raises:
        PartError: for an object that is nothing of the kind.
    """
    module = copy.deepcopy(part).eval().requires_grad_(True) if isinstance(part, nn.Module) else None
    label = name or _kind(part)
    if isinstance(part, Distribution):
        whole = Independent(part, len(part.batch_shape), validate_args=False) if part.batch_shape else part
        return Target(label, whole, lambda _: whole)
    subject = part if module is None else module
    if isinstance(part, Posterior | Likelihood):
        batch_dims = 1 if isinstance(part, Posterior) else 2
        conditions = _conditions(part) if given is None else given
        conditions = conditions.unsqueeze(0) if batch_dims == 2 else conditions
        target = Target(label, part, subject, module, conditions, batch_dims)
    elif callable(getattr(part, "log_prob", None)) and callable(getattr(part, "sample", None)):
        target = Target(label, part, lambda _: Plain(subject), module)
    elif isinstance(part, nn.Module):
        target = Target(label, part, lambda _: subject(), module)
    else:
        raise PartError(
            f"{type(part).__name__} cannot be audited: it is no distribution and has no log_prob and sample.",
            "Give a Prior, Posterior, Likelihood, VAE, torch distribution, or an object with log_prob(z) and sample(n).",
        )
    return target if shake is None else _shaken(target, shake)


def _kind(part: Any) -> str:
    kinds = {Posterior: "posterior", Likelihood: "likelihood", Distribution: type(part).__name__}
    return next((label for kind, label in kinds.items() if isinstance(part, kind)), "prior")


def _conditions(part: Posterior | Likelihood) -> Tensor:
    """Random conditions of the size that the first linear layer takes."""
    linear = next((m for m in part.modules() if isinstance(m, nn.Linear)), None)
    if linear is None:
        raise PartError(
            f"What {type(part).__name__} is conditioned on cannot be seen from its layers.", "Give it: audit(part, given=…)."
        )
    generator = torch.Generator().manual_seed(0)
    size = (CONDITIONS, linear.in_features) if isinstance(part, Likelihood) else (CONDITIONS, 1, 1, linear.in_features)
    noise = torch.randn(size, generator=generator).to(linear.weight)
    return noise if isinstance(part, Likelihood) else torch.sigmoid(noise)


def _shaken(target: Target, seed: int) -> Target:
    """Every trained parameter changed by up to a quarter of what is usual for it, or of itself, or not at all: the most
    that it stands.
    """
    before = {name: p.detach().clone() for name, p in target.parameters.items()}
    for least in (1.0, 0.0):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, p in target.parameters.items():
                usual = least / (p.shape[-1] ** 0.5 if p.dim() > 1 else 1.0)  # a unit's many weights share the change
                noise = 0.5 * torch.rand(p.shape, generator=generator, dtype=torch.float64) - 0.25
                p.copy_(before[name] + noise.to(p) * before[name].abs().clamp_min(usual))
        if _stands(target):
            return target
    with torch.no_grad():
        for name, p in target.parameters.items():
            p.copy_(before[name])
    return target


@torch.no_grad()
def _stands(target: Target) -> bool:
    try:
        face = target.face()
        return bool(torch.isfinite(face.log_prob(face.draw(100))).all())
    except (PartError, ValueError, RuntimeError):
        return False
