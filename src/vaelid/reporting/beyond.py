"""Tables of what goes beyond the bounds: AIS, gaps, aggregate posterior, BDMC; every number with its error and its direction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from vaelid.evaluation.bdmc import BDMC
from vaelid.evaluation.precision import decoder_words
from vaelid.reporting.tables import apart, counted, simple_table, words_of_count

Results = Mapping[str, Any]
Row = tuple[str, str, str, str]
_HEAD = ("quantity", ">value", ">± s.e.", "what it is")


def beyond_tables(results: Results) -> Iterator[RenderableType]:
    """One table for each kind of number that an entry of a split has beyond its bounds."""
    for kind, table in {"ais": _ais, "gaps": _gaps, "aggregate": _aggregate}.items():
        if kind in results:
            note = f"OTHER IMAGES than the {results['images']:,} of the bounds: compare within this table only."
            yield Group(table(results[kind]), *([Text(note)] if kind in apart(results) else []))


def bdmc_tables(results: Results) -> Iterator[RenderableType]:
    """The table of BDMC, if results.json has it."""
    return (_bdmc(found) for found in [results.get(BDMC)] if found)


def _ais(found: Results) -> RenderableType:
    beside, chains, accepted = found["importance"], found["effective_chains"], found["acceptance"]
    samples = f"K = {beside['samples']}{decoder_words(beside)}"
    rows = [
        _row("ais", found, f"{found['name']}; {found['direction']}"),
        _row("nll", beside["nll"], f"importance-weighted bound of the same images, {samples}"),
        _row("nll − ais", beside["above_ais"], "paired; where positive, what the importance-weighted bound misses at least"),
    ]
    said = "not known" if found["monte_carlo_se"] is None else f"{found['monte_carlo_se']:.3f}"
    notes = [f"FAILED CHECK, so these are no likelihoods: {failure}" for failure in found["failed"]]
    notes.append(
        f"{chains['mean']:.1f} effective chains of {chains['of']} on average, {chains['least']:.1f} at least; "
        f"Monte Carlo error {said}, apart from the ± over images; seed {found['plan']['seed']}"
    )
    if accepted["mean"] is not None:
        notes.append(
            f"acceptance {accepted['mean']:.2f} on average (tuned to {accepted['target']:.2f} beforehand, then frozen), "
            f"{accepted['least']:.2f} in the worst tenth of the path of any image"
        )
    return _table(f"annealed importance sampling: {_counted(found)}", rows, notes)


def _gaps(found: Results) -> RenderableType:
    rows = [
        _row("inference gap", found["inference"], "log p(x) − ELBO[q]: all that the ELBO loses"),
        _row("  approximation", found["approximation"], f"log p(x) − ELBO[q*], q* the best {found['family']} for each image"),
        _row("  amortization", found["amortization"], "ELBO[q*] − ELBO[q]: what the encoder loses; understated"),
    ]
    notes = [f"log p(x) from {found['log_p_from']}, a lower bound in expectation"]
    return _table(f"gaps of the ELBO: {_counted(found)}", rows, notes)


def _aggregate(found: Results) -> RenderableType:
    ceiling = f"I(n; z) of image and latent, at most log N = {found['ceiling']:.3f}"
    errors = {name: {"value": found[name]["value"], "se": found[name]["monte_carlo_se"]} for name in _TERMS}
    rows = [_row(name.replace("_", " "), errors[name], ceiling if about is None else about) for name, about in _TERMS.items()]
    notes = ["± is Monte Carlo error over draws of z; the images are all there are."]
    if found["at_ceiling"]:
        notes.append(
            "The mutual information is at its ceiling: images are told apart, and what is missing stands in the marginal KL."
        )
    return _table(f"aggregate posterior: {_counted(found)}", rows, notes)


_TERMS: dict[str, str | None] = {
    "mutual_information": None,
    "marginal_kl": "KL(q(z) ‖ p(z)) of the aggregate posterior: how far the prior is from what the encoder gives in all",
    "rate": "their sum, the mean of KL(q(z|x) ‖ p(z)), sampled",
}


def _bdmc(found: Results) -> RenderableType:
    rows = [
        _row("lower", found["lower"], "AIS up the path: lower bound on log p(x) in expectation"),
        _row("upper", found["upper"], "AIS down the path from the latent itself: upper bound on log p(x) in expectation"),
        _row("upper − lower", found["gap"], found["direction"]),
    ]
    if "importance" in found:
        beside = found["importance"]
        rows.append(_row("importance", beside["bound"], f"importance-weighted lower bound, K = {beside['samples']}"))
        rows.append(_row("upper − importance", beside["below_upper"], "the same for the importance-weighted bound"))
    notes = [f"{found['name']}; largest gap of one image {found['gap']['largest']:.3f}; seed {found['plan']['seed']}"]
    title = f"bidirectional Monte Carlo, log p(x): {counted(found['images'])} drawn from the model"
    return _table(title, rows, notes)


def _row(name: str, number: Results, about: str) -> Row:
    return name, f"{number['value']:.3f}", "" if number["se"] is None else f"{number['se']:.3f}", about


def _counted(found: Results) -> str:
    data = found["data"]
    return words_of_count(found["images"], data.get("available", found["images"]), data["split"])


def _table(title: str, rows: list[Row], notes: list[str]) -> RenderableType:
    return Group(simple_table(f"{title}, nats per image", _HEAD, rows), *map(Text, notes))
