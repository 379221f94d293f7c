"""Beyond the bounds of a run: how far off they are, where the ELBO loses, what the latents carry.

    ais        annealed importance sampling on the split's images           results[split]["ais"]
    gaps       inference gap = approximation + amortization, log p from AIS  results[split]["gaps"]
    aggregate  mean rate = mutual information + marginal KL                  results[split]["aggregate"]
    bdmc       the measured error of AIS, on images drawn from the model     results["bdmc"]

Each is written as soon as it is done, with the arrays that it is the mean of; a call that was broken off goes on where it was,
and what is there already for the same weights, images and plan is not computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vaelid.data import Split
from vaelid.errors import SettingError
from vaelid.evaluation.aggregate import AggregatePlan, aggregate_images, summarize_aggregate
from vaelid.evaluation.ais import AisPlan, ais_images, summarize_ais
from vaelid.evaluation.bdmc import BDMC, bdmc_images, summarize_bdmc
from vaelid.evaluation.collect import Arrays, Save, mean_se
from vaelid.evaluation.evaluate import Plan, provenance
from vaelid.evaluation.floor import floor_of, least_nll
from vaelid.evaluation.gaps import GapPlan, gap_images, summarize_gaps
from vaelid.judging import Subject, kept, require_possible
from vaelid.progress import Reporter

_COLUMNS = 1  # raised when per-image values get other names or meanings


@dataclass(frozen=True)
class Beyond:
    """What is asked for beyond the bounds; ``simulated``: images that BDMC draws from the model."""

    ais: bool = False
    bdmc: bool = False
    gaps: bool = False
    aggregate: bool = False
    annealing: AisPlan = field(default_factory=AisPlan)
    simulated: int = 100

    def __post_init__(self) -> None:
        if self.simulated < 1:
            raise SettingError(f"simulated must be at least 1; it is {self.simulated}.")

    @property
    def asked(self) -> bool:
        """Whether there is anything to do."""
        return self.ais or self.bdmc or self.gaps or self.aggregate


@dataclass(frozen=True)
class _Work:
    """One subject and split, and what all kinds of work on them share."""

    subject: Subject
    split: Split
    plan: Plan
    beyond: Beyond
    reporter: Reporter
    force: bool

    def values(self, name: str, kind: str, about: Mapping[str, Any], work: Callable[[Arrays, Save], Arrays]) -> Arrays:
        """Per-image values, kept in ``results/<name>.<kind>.npz``."""
        file = self.subject.folder.results / (f"{name}.{kind}.npz" if kind else f"{name}.npz")

        def whole(start: Arrays, save: Save) -> Arrays:
            found = work(start, save)
            save(found)
            return found

        return kept(self.subject, file, {**about, "columns": _COLUMNS}, whole)

    def of_split(self, kind: str, about: Mapping[str, Any], work: Callable[[Arrays, Save], Arrays]) -> Arrays:
        """The same for the images of the split, by whose fingerprint they are known again."""
        return self.values(self.split.name, kind, {**about, "fingerprint": self.split.fingerprint}, work)

    def write(self, kind: str, found: Mapping[str, Any]) -> None:
        """Put a result beside the bounds of the split, with what it was made on."""
        folder, made = (
            self.subject.folder,
            provenance(self.subject.model, self.split, self.split.images.name, self.subject.weights),
        )
        results = folder.read_json(folder.results_file)
        results[self.split.name] = {**results[self.split.name], kind: {**found, **made}}
        folder.write_json(folder.results_file, results)


def judge_beyond(subject: Subject, split: Split, plan: Plan, beyond: Beyond, reporter: Reporter, force: bool = False) -> None:
    """Do what is asked for on ``split``, whose bounds stand in results.json for at least these images.

    Raises:
        CheckFailed: if a mean is impossible, unless ``force``.
        PartError: if the gaps are asked for and q(z|x) is no diagonal Gaussian.
    """
    work = _Work(subject, split, plan, beyond, reporter, force)
    if beyond.ais or beyond.gaps:
        annealed = _anneal(work)
        if beyond.gaps:
            _gaps(work, annealed)
    if beyond.aggregate:
        _aggregate(work)
    if beyond.bdmc:
        _both_ways(work)


def _anneal(work: _Work) -> Arrays:
    """AIS, beside the importance-weighted bound of the very same images."""
    subject, split, plan = work.subject, work.split, work.beyond.annealing
    values = work.of_split(
        "ais", plan.identity(), lambda start, save: ais_images(subject.model, split, plan, work.reporter, start, save)
    )
    least = least_nll(split, subject.model.likelihood.support.discrete)
    bounds = {"ais": values["nll"]}
    failed = require_possible(bounds, None if least is None else floor_of(bounds, least), work.force)
    importance = subject.folder.read_arrays(subject.folder.results / f"{split.name}.npz")["nll"][: len(split)]
    how = {"samples": work.plan.samples, "decoder_precision": work.plan.decoder_precision}
    beside = {**how, "nll": mean_se(importance), "above_ais": mean_se(importance - values["nll"])}
    work.write("ais", {**summarize_ais(values, plan), "importance": beside, "failed": failed})
    return values


def _gaps(work: _Work, annealed: Arrays) -> None:
    plan = GapPlan(seed=work.plan.seed)
    values = work.of_split(
        "gaps", plan.identity(), lambda start, save: gap_images(work.subject.model, work.split, plan, work.reporter, start, save)
    )
    log_p = {"log_p_from": summarize_ais(annealed, work.beyond.annealing)["name"]}
    work.write("gaps", {**summarize_gaps(values, -annealed["nll"], plan), **log_p})


def _aggregate(work: _Work) -> None:
    plan = AggregatePlan(seed=work.plan.seed)
    model, split = work.subject.model, work.split
    values = work.of_split(
        "aggregate", plan.identity(), lambda start, save: aggregate_images(model, split, plan, work.reporter, start, save)
    )
    work.write("aggregate", summarize_aggregate(values, plan))


def _both_ways(work: _Work) -> None:
    plan, count, samples = work.beyond.annealing, work.beyond.simulated, work.plan.samples
    subject, about = work.subject, {**plan.identity(), "count": count, "importance": samples}
    values = work.values(
        BDMC, "", about, lambda start, save: bdmc_images(subject.model, count, plan, work.reporter, samples, start, save)
    )
    environment = provenance(subject.model, work.split, "", subject.weights)["environment"]
    found = {**summarize_bdmc(values, plan, samples), "environment": environment}
    folder = subject.folder
    folder.write_json(folder.results_file, {**folder.read_json(folder.results_file), BDMC: found})
