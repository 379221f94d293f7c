"""What the figures of a run mean, in plain words: rules that read ``RunFacts`` and say one sentence each, or nothing.

Every sentence holds the figure that it follows from. A rule that finds nothing to worry about is silent, but for the few whose
good news a reader looks for (audit, convergence).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vaelid.evaluation.certificate import MANY_HEAVY
from vaelid.evaluation.collect import mean_se
from vaelid.reporting.page.facts import RunFacts
from vaelid.scoring.score import score_name
from vaelid.sweeps import words

Tone = Literal["bad", "warn", "note", "good"]
#: In the order in which a reader should meet them.
TONES: tuple[Tone, ...] = ("bad", "warn", "note", "good")
#: Mean-field posteriors of small networks lose 4 to 6 nats; more than this deserves a look.
_WIDE_GAP = 10.0
#: A gain over independent pixels of less than this share is hardly one; so is a score within this share of theirs.
_HARDLY, _HARDLY_SCORE = 0.02, 0.1
#: A difference between training and validation of at least so many nats, and this share of the value, is told.
_GAP_NATS, _GAP_SHARE = 1.0, 0.02
#: Standard deviations of C_T below which images lie too close to training images for luck.
_COPIES = -3.0
_CLEAR = 2.0  # standard errors


@dataclass(frozen=True)
class Remark:
    """A sentence, how serious it is, the section (its anchor) that shows why, and whether it is about model or numbers."""

    tone: Tone
    text: str
    see: str = ""
    about: Literal["model", "numbers"] = "model"


def remarks(run: RunFacts) -> list[Remark]:
    """Everything worth saying about a run, the most serious first."""
    found = [remark for rule in RULES for remark in rule(run)]
    return sorted(found, key=lambda remark: TONES.index(remark.tone))


def with_error(number: Mapping[str, Any], digits: int = 2) -> str:
    """``90.39 ± 0.61``; without an error where there is none."""
    se = number.get("se")
    return f"{number['value']:.{digits}f}" + (f" ± {se:.{digits}f}" if se is not None else "")


def gain_over_pixels(run: RunFacts) -> dict[str, Any] | None:
    """Independent pixels minus the model's nll, paired by image, with its standard error; None where either is not known."""
    if "independent_pixels" not in run.values:
        return None
    return mean_se(run.values["independent_pixels"] - run.values["nll"])


def _not_measured(run: RunFacts) -> list[Remark]:
    sections = {"evaluation": "likelihood", "audit": "audit", "scores": "quality"}
    by_reason: dict[str, list[str]] = {}
    for what, missing in run.missing.items():
        by_reason.setdefault(missing.why, []).append(what)
    return [Remark("warn", f"Not measured: {', '.join(them)} ({why}).", sections[them[0]]) for why, them in by_reason.items()]


def _failed_checks(run: RunFacts) -> list[Remark]:
    failed = run.found.get("failed", ())
    return [Remark("bad", f"A check failed, so these numbers are no likelihoods: {failure}", "likelihood") for failure in failed]


def _audit(run: RunFacts) -> list[Remark]:
    if not run.audit:
        return []
    failed = [finding for finding in run.audit["findings"] if finding["verdict"] == "fail"]
    open_ = [finding for finding in run.audit["findings"] if finding["verdict"] == "undecided"]
    if failed:
        parts = ", ".join(dict.fromkeys(finding["part"] for finding in failed))
        text = f"The audit failed ({_counted(len(failed), 'finding')}; {parts}): a part is not what it says it is."
        return [Remark("bad", text, "audit")]
    if open_:
        return [Remark("warn", f"The audit left {_counted(len(open_), 'hypothesis', 'hypotheses')} undecided; no pass.", "audit")]
    quick = " A quick audit: it sees less." if run.audit["quick"] else ""
    text = f"The audit passed: no test refutes that sampler, density, gradients and formulas belong together.{quick}"
    return [Remark("good", text, "audit")]


def _against_pixels(run: RunFacts) -> list[Remark]:
    gain = gain_over_pixels(run)
    if gain is None:
        return []
    clear = _CLEAR * (gain["se"] or 0.0)
    if gain["value"] < -clear:
        worse = with_error({**gain, "value": -gain["value"]})
        return [
            Remark("bad", f"Worse than independent pixels, by {worse} nats per image: it has learned no shapes.", "likelihood")
        ]
    if gain["value"] <= clear:
        text = f"Not clearly better than independent pixels: {with_error(gain)} nats per image."
        return [Remark("bad", text, "likelihood")]
    pixels = float(run.values["independent_pixels"].mean())
    if gain["value"] < _HARDLY * abs(pixels):
        text = f"Hardly better than independent pixels: by {with_error(gain)} of their {pixels:.1f} nats per image."
        return [Remark("warn", text, "likelihood")]
    return []


def _heavy_tails(run: RunFacts) -> list[Remark]:
    tail = run.found.get("nll", {}).get("pareto_k", {})
    share, limit = tail.get("share_above_threshold"), tail.get("threshold")
    if share is None or limit is None or share < MANY_HEAVY:
        return []
    text = (
        f"For {share:.0%} of the images the importance weights have too heavy a tail (Pareto k̂ > {limit:.2f}): the nll there "
        "rests on a few lucky samples. It still errs upward on average, but its Monte Carlo error is understated."
    )
    text += " Annealing (vaelid evaluate --ais) gives a far tighter bound."
    return [Remark("warn", text, "likelihood", about="numbers")]


def _still_rising(run: RunFacts) -> list[Remark]:
    last = run.found.get("nll", {}).get("last_doubling", {})
    if not last.get("still_rising"):
        return []
    doubled = f"From K = {last['from']:,} to {last['to']:,} samples"
    text = f"{doubled} the nll fell by {last['gain']:.3f} nats: more samples would lower it."
    return [Remark("note", text, "likelihood")]


def _wide_gap(run: RunFacts) -> list[Remark]:
    if not run.found:
        return []
    gap = run.found["neg_elbo"]["value"] - run.found["nll"]["value"]
    if gap < _WIDE_GAP:
        return []
    text = f"−ELBO lies {gap:.1f} nats above the nll: the posterior fits badly (vaelid evaluate --gaps says whose fault it is)."
    return [Remark("note", text, "likelihood")]


def _kind_of_number(run: RunFacts) -> list[Remark]:
    said = []
    if run.found and not run.discrete:
        said.append("These are log densities, not log probabilities: no bits, may be negative, compare only with their like.")
    if run.found and run.found["data"]["redrawn"]:
        said.append("The pixels are redrawn at every access: the numbers compare with nothing but themselves.")
    return [Remark("note", text, "likelihood") for text in said]


def _convergence(run: RunFacts) -> list[Remark]:
    if not run.history:
        return [Remark("bad", "No epoch was finished: there is nothing to judge.", "training")]
    tones: dict[str, Tone] = {
        "converged": "good",
        "stopped by patience": "good",
        "diverged": "bad",
        "not enough evidence": "note",
    }
    tone = tones.get(run.curve.verdict, "warn")
    advice = " Train longer (--epochs)." if run.curve.verdict == "still falling" else ""
    return [Remark(tone, f"Training: {words.convergence(run.curve)}.{advice}", "training")]


def _stability(run: RunFacts) -> list[Remark]:
    steady = run.curve.stability
    if steady.spikes:
        return [Remark("warn", f"Training was not steady: {words.stability(run.curve)}.", "training")]
    return [Remark("note", f"Validation {words.stability(run.curve)}.", "training")] if steady.rises else []


def _overfitting(run: RunFacts) -> list[Remark]:
    """Only where the training loss is a −ELBO: the objective elbo with β = 1, its warm-up over."""
    options = run.recipe.objective.options
    if (
        run.recipe.objective.name != "elbo"
        or options.get("beta", 1.0) != 1.0
        or len(run.history) <= options.get("warmup", 0.0) + 1
    ):
        return []
    last = run.history[-1]
    gap = last["neg_elbo"] - last["loss"]
    if not math.isfinite(gap) or gap < max(_GAP_NATS, _GAP_SHARE * abs(last["neg_elbo"])):
        return []
    text = (
        f"In the last epoch the training loss lies {gap:.1f} nats below validation: the model knows its training images better."
    )
    return [Remark("note", text, "training")]


def _latents(run: RunFacts) -> list[Remark]:
    active, latent = run.found.get("active_units", {}).get("variance"), run.recipe.model.latent
    if active is None or 2 * active >= latent:
        return []
    if active == 0:
        return [Remark("bad", "The latents ignore the image (posterior collapse): none of them is active.", "latents")]
    return [Remark("note", f"Only {active} of {latent} latents are active: the others carry nothing.", "latents")]


def _components(run: RunFacts) -> list[Remark]:
    dead = run.history[-1].get("dead_components") if run.history else 0
    if not dead:
        return []
    have = "component has" if dead == 1 else "components have"
    return [Remark("note", f"{dead} prior {have} next to no weight: fewer would do.", "latents")]


def _quality(run: RunFacts) -> list[Remark]:
    if not run.scores:
        return []
    name = score_name("fd", run.scores["extractor"]["name"])
    row = run.scores["scores"][name]
    model, real, trivial = (row[who]["value"] for who in ("model", "real", "trivial"))
    where = f"{name} {model:.3g}, between {real:.3g} (other real images) and {trivial:.3g} (independent pixels)"
    if model >= trivial:
        text = f"Its images are no better than independent pixels: {name} {model:.3g} against {trivial:.3g} (real: {real:.3g})."
        return [Remark("bad", text, "quality")]
    if model > trivial - _HARDLY_SCORE * (trivial - real):
        return [Remark("warn", f"Its images are hardly better than independent pixels: {where}; lower is better.", "quality")]
    return [Remark("note", f"Sample quality: {where}; lower is better.", "quality")]


def _variety(run: RunFacts) -> list[Remark]:
    if not run.scores:
        return []
    name = score_name("coverage", run.scores["extractor"]["name"])
    row = run.scores["scores"].get(name)
    if row is None or not row["real"]["value"] or row["model"]["value"] >= 0.5 * row["real"]["value"]:
        return []
    found, real = row["model"]["value"], row["real"]["value"]
    text = f"Its images miss part of the variety: coverage {found:.2f} against {real:.2f} of real ones."
    return [Remark("warn", text, "quality")]


def _copies(run: RunFacts) -> list[Remark]:
    if not run.scores:
        return []
    row = run.scores["scores"].get(score_name("C_T", run.scores["extractor"]["name"]), {})
    if not row.get("model") or row["model"]["value"] > _COPIES:
        return []
    text = f"Its images lie closer to training images than new ones do (C_T = {row['model']['value']:.1f}): it may copy."
    return [Remark("warn", text, "quality")]


def _few_images(run: RunFacts) -> list[Remark]:
    limits = [name for name in ("train_limit", "held_out_limit") if getattr(run.recipe.data, name) is not None]
    if not limits:
        return []
    said = " and ".join(f"data.{name} = {getattr(run.recipe.data, name):,}" for name in limits)
    return [Remark("note", f"Only a part of the data was used ({said}): not comparable with results on all of it.", "settings")]


def _changed_code(run: RunFacts) -> list[Remark]:
    if not str(run.about.get("commit") or "").endswith("+"):
        return []
    return [Remark("note", f"Trained by code that differs from its commit ({run.about['commit']}).", "provenance")]


Rule = Callable[[RunFacts], Sequence[Remark]]
RULES: tuple[Rule, ...] = (
    *(
        _failed_checks,
        _audit,
        _against_pixels,
        _not_measured,
        _heavy_tails,
        _convergence,
        _stability,
        _quality,
        _variety,
        _copies,
    ),
    *(_kind_of_number, _still_rising, _wide_gap, _overfitting, _latents, _components, _few_images, _changed_code),
)


def _counted(number: int, thing: str, things: str = "") -> str:
    return f"{number:,} {thing if number == 1 else things or thing + 's'}"
