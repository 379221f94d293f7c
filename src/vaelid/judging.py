"""Judging a trained model on images: first whether its numbers can be likelihoods at all, then the numbers.

guards ──> bounds per image ──> floor ──> results/<split>.npz, results.json, samples/, figures/

A failed guard, a number below the floor, or none at all (NaN) stops the evaluation: nothing is printed or written, unless it is
forced; then the failure is stored beside the numbers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vaelid import __version__
from vaelid.auditing.findings import Finding
from vaelid.auditing.whole_model import guards
from vaelid.data import Shades, Split
from vaelid.distributions import factorizes
from vaelid.errors import CheckFailed
from vaelid.evaluation.bdmc import BDMC
from vaelid.evaluation.collect import Arrays, Save
from vaelid.evaluation.evaluate import Plan, evaluate_images, provenance, rate_kind, summarize
from vaelid.evaluation.floor import below_floor, floor_of, least_nll, not_numbers
from vaelid.evaluation.precision import decoder_words
from vaelid.evaluation.yardsticks import IndependentPixels
from vaelid.folder import BEYOND, RunFolder
from vaelid.lazy import Lazy
from vaelid.progress import Reporter
from vaelid.reporting.pictures import pictures
from vaelid.training.surroundings import own_randomness
from vaelid.vae import VAE

if TYPE_CHECKING:
    from vaelid.reporting import figures
else:  # they bring matplotlib, which a script that only wants numbers need not wait for at its start
    figures = Lazy("vaelid.reporting.figures")

_SHOWN = 16  # images drawn from the model for the figures
_INPUT = "input"  # the split of new images: each call's are others, so nothing is replaced
_GUARDED = 16  # images that the guards look at
_COLUMNS = 2  # raised when per-image values get other names or meanings: what was saved under the old ones is left out
_FORCE = "Repair the model (`vaelid audit` says more), or add --force (force=True): the failure then stands beside the numbers."


@dataclass(frozen=True)
class Subject:
    """The trained model of a run.

    Attributes:
        weights: SHA-256 of its weights' file
        train: what it was trained on
        shades: which pixel values pictures show as black and as white
    """

    folder: RunFolder
    model: VAE
    weights: str
    train: Split
    shades: Shades


def judge(subject: Subject, split: Split, plan: Plan, reporter: Reporter, force: bool = False) -> None:
    """Bounds on log p(x) of every image of ``split``, with all that is needed to believe them, written to the run folder.

    Raises:
        CheckFailed: if a guard fails or a mean is impossible, unless ``force``.
    """
    guarded = look_first(subject, split, force)
    again = why_again(subject, split, plan)
    if again:
        reporter.say(again)
    about = {**plan.identity(), "fingerprint": split.fingerprint, "columns": _COLUMNS}
    file = _partial(subject.folder, split)
    values = kept(subject, file, about, lambda start, save: _bounds(subject, split, plan, reporter, start, save))
    discrete, pixels = subject.model.likelihood.support.discrete, int(np.prod(split.shape))
    least = least_nll(split, discrete)
    bounds = {name: values[name] for name in ("nll", "neg_elbo")}
    floor = None if least is None else floor_of(bounds, least)
    failed = [f.meaning for f in guarded if f.verdict == "fail"] + require_possible(bounds, floor, force)
    if split.labels is not None:
        values["labels"] = split.labels.cpu().numpy()
    if split.images.files:
        values["files"] = np.array([split.images.files[i] for i in split.indices.tolist()])
    results = {
        **summarize(values, plan, rate_kind(subject.model, split), discrete, pixels),
        "prior_factorizes": factorizes(subject.model.prior()),
        "training": {"images": len(subject.train), "available": subject.train.available},
        "floor": floor,
        "guards": [_noted(finding) for finding in guarded],
        "failed": failed,
        **provenance(subject.model, split, split.images.name, subject.weights),
    }
    _put_aside(subject, split, results, reporter)
    _write(subject, split, values, results)


def why_again(subject: Subject, split: Split, plan: Plan) -> str:
    """Why images that were evaluated before are evaluated again, in one sentence; empty where there is nothing earlier."""
    folder = subject.folder
    before = folder.read_json(folder.results_file).get(split.name, {})
    if split.name == _INPUT or "guards" not in before:
        return ""
    precision = before["nll"].get("decoder_precision", "float32")
    made, now = before["environment"], {"weights": subject.weights, "vaelid": __version__, "fingerprint": split.fingerprint}
    differs = {
        "other weights": made["weights"] != now["weights"],
        f"another version of vaelid ({made['vaelid']})": made["vaelid"] != now["vaelid"],
        f"other images ({before['images']:,})": before["data"]["fingerprint"] != now["fingerprint"],
        f"K = {before['nll']['samples']:,}": before["nll"]["samples"] != plan.samples,
        f"{before['neg_elbo']['samples']:,} draws for −ELBO": before["neg_elbo"]["samples"] != plan.elbo_samples,
        f"seed {before['seed']}": before["seed"] != plan.seed,
        f"a {precision} decoder": precision != plan.decoder_precision,
    }
    reasons = [reason for reason, holds in differs.items() if holds]
    if reasons:
        return f"the {split.name} split is evaluated again: the earlier result is of {', '.join(reasons)}"
    return (
        f"the {split.name} split is evaluated again; its result stands in {folder.results_file} already (vaelid show prints it): "
        "same weights, images and samples, so it comes out the same, but for last digits where threads or device are others"
    )


def look_first(subject: Subject, split: Split, force: bool = False) -> list[Finding]:
    """The cheap checks without which a number is no likelihood: finite weights, evaluation mode, each image by itself.

    Raises:
        CheckFailed: if one fails, unless ``force``.
    """
    source = split if len(split) > 1 else subject.train  # whether images mix cannot be seen on one
    with own_randomness(0):
        x = source.batch(torch.arange(min(_GUARDED, len(source)))).to(next(subject.model.parameters()).dtype)
        findings = guards(subject.model, x)
    failed = [finding.meaning for finding in findings if finding.verdict == "fail"]
    if failed and not force:
        raise CheckFailed(f"The model gives no likelihoods, so none is printed. {'. '.join(failed)}.", _FORCE)
    return findings


def require_possible(bounds: Arrays, floor: dict[str, Any] | None, force: bool = False) -> list[str]:
    """What is impossible about bounds, by name and image, or their means, in words, if that is forced through.

    Raises:
        CheckFailed: if something is, unless ``force``.
    """
    impossible = not_numbers(bounds) + (below_floor(floor) if floor is not None else [])
    if impossible and not force:
        raise CheckFailed(" ".join(impossible), _FORCE)
    return impossible


def _bounds(subject: Subject, split: Split, plan: Plan, reporter: Reporter, start: Arrays, save: Save) -> Arrays:
    values = evaluate_images(subject.model, split, IndependentPixels(subject.train), plan, reporter, start, save)
    save(values)  # should they turn out to be impossible, --force need not compute them again
    return values


def kept(subject: Subject, file: Path, plan: Mapping[str, Any], work: Callable[[Arrays, Save], Arrays]) -> Arrays:
    """What ``work(start, save)`` gives, taken up where a call for the same numbers was broken off.

    Args:
        file: holds what is done
        plan: all that the numbers depend on besides weights and version
    """
    key = json.dumps({**plan, "weights": subject.weights, "vaelid": __version__}, sort_keys=True)
    start = subject.folder.read_arrays(file)
    if start and str(start.pop("key")) != key:
        start = {}
    return work(start, lambda done: subject.folder.write_arrays(file, {**done, "key": np.array(key)}))


def covered(subject: Subject, whole: Split, count: int, plan: Plan) -> bool:
    """Whether results.json has sound bounds of the first ``count`` images of ``whole`` or more, as ``plan`` wants them."""
    found = subject.folder.read_json(subject.folder.results_file).get(whole.name, {})
    if "guards" not in found or found["failed"] or not count <= found["images"] <= len(whole):
        return False
    there = whole.first(found["images"])
    made = found["environment"]
    return (
        found["nll"].get("decoder_precision", "float32") == plan.decoder_precision
        and (found["nll"]["samples"], found["neg_elbo"]["samples"], found["seed"]) == (plan.samples, plan.elbo_samples, plan.seed)
        and (made["weights"], made["vaelid"]) == (subject.weights, __version__)
        and found["data"]["fingerprint"] == there.fingerprint
        and (subject.folder.results / f"{whole.name}.npz").is_file()
    )


def _still_true(earlier: Mapping[str, Any], results: Mapping[str, Any]) -> dict[str, Any]:
    """What an earlier evaluation found beyond the bounds, where it is about the same weights and data."""

    def about(entry: Mapping[str, Any]) -> tuple[Any, ...]:
        # On the first images of a split, maybe: how many is another matter.
        return entry["environment"]["weights"], *(entry["data"][name] for name in ("name", "split", "protocol", "support"))

    return {kind: earlier[kind] for kind in BEYOND if kind in earlier and about(earlier[kind]) == about(results)}


def _put_aside(subject: Subject, split: Split, results: Mapping[str, Any], reporter: Reporter) -> None:
    """Keep the entry about to be replaced, where it has more images, samples or digits: a quick look must not cost hours."""
    folder, name = subject.folder, split.name
    before = folder.read_json(folder.results_file).get(name)
    if before is None or name == _INPUT or before["environment"]["weights"] != subject.weights:
        return
    count, samples = before["images"], before["nll"]["samples"]
    rougher = bool(decoder_words(results["nll"])) and not decoder_words(before["nll"])
    if count <= results["images"] and samples <= results["nll"]["samples"] and not rougher:
        return
    short = f"-{before['nll']['decoder_precision']}" if decoder_words(before["nll"]) else ""
    place = folder.results / f"{name}-{count}-images-K{samples}{short}"
    folder.write_arrays(place.with_suffix(".npz"), folder.read_arrays(folder.results / f"{name}.npz"))
    folder.write_json(place.with_suffix(".json"), before)
    reporter.say(f"the earlier result of {count:,} {name} images with K = {samples:,} is kept as {place}.json and .npz")


def _write(subject: Subject, split: Split, values: Arrays, results: dict[str, Any]) -> None:
    folder = subject.folder
    folder.write_arrays(folder.results / f"{split.name}.npz", values)
    all_results = folder.read_json(folder.results_file)
    results = {**results, **_still_true(all_results.get(split.name, {}), results)}
    if all_results.get(BDMC, results)["environment"]["weights"] != subject.weights:
        del all_results[BDMC]
    folder.write_json(folder.results_file, {**all_results, split.name: results})
    _partial(folder, split).unlink(missing_ok=True)
    with own_randomness(0):
        shown = pictures(subject.model, split, values["nll"], subject.model.sample(_SHOWN), subject.shades)
    folder.write_arrays(folder.samples / f"{split.name}.npz", shown)
    figures.evaluation_figures(folder, split.name, split.images.label_names)


def _partial(folder: RunFolder, split: Split) -> Path:
    return folder.results / f"{split.name}.partial.npz"


def _noted(finding: Finding) -> dict[str, Any]:
    """A guard as it stands in results.json."""
    kept = ("hypothesis", "verdict", "error", "tolerance") + (("meaning", "guilty") if finding.verdict == "fail" else ())
    return {name: value for name, value in asdict(finding).items() if name in kept}
