"""Answers that a page gives in sentences: what was trained on what, how good it is, and whether it was properly trained."""

from __future__ import annotations

import shlex

from vaelid.evaluation.precision import decoder_words
from vaelid.reporting.page.facts import RunFacts
from vaelid.reporting.page.remarks import Remark, gain_over_pixels, remarks, with_error
from vaelid.scoring.score import score_name
from vaelid.sweeps import words


def what_it_is(run: RunFacts) -> str:
    """What was trained on what, for how long, by what."""
    recipe, shape = run.recipe, run.about["data"]["shape"]
    size = "×".join(map(str, shape[1:] if shape[0] == 1 else shape))
    seconds = sum(line.get("train_seconds") or 0.0 for line in run.history)
    lr = recipe.optimizer.options.get("lr")
    rate = f" at learning rate {lr:g}" if lr is not None else ""
    size += f" pixels ({support_words(run)})"
    epochs = f"{len(run.history):,} epoch{'' if len(run.history) == 1 else 's'} ({_duration(seconds)})"
    kept = f", weights of epoch {run.curve.best_epoch}" if run.curve.best is not None and recipe.training.keep == "best" else ""
    return (
        f"A variational autoencoder with {recipe.model.latent} latents ({recipe.posterior.name} posterior, {recipe.prior.name} "
        f"prior, {recipe.likelihood.name} likelihood), trained on {recipe.data.name}, images of {size}, "
        f"for {epochs} with {recipe.optimizer.name}{rate}{kept}."
    )


def support_words(run: RunFacts) -> str:
    """Which values the pixels can take, in words."""
    support = str(run.about["data"]["support"])
    levels = support.removeprefix("levels(").removesuffix(")")
    known = {
        "binary": "binary: 0 or 1",
        "bytes": "256 gray levels",
        "unit": "real numbers from 0 to 1",
        "real": "real numbers",
    }
    return known.get(support, f"{levels} gray levels" if levels.isdigit() else support)


def properly_trained(run: RunFacts) -> Remark:
    """The answer to "was the model properly trained?", as far as the figures go."""
    found = [remark for remark in remarks(run) if remark.see in ("likelihood", "audit", "training", "latents", "quality")]
    bad = [remark.text for remark in found if remark.tone == "bad"]
    if bad:
        return Remark("bad", f"No. {' '.join(bad)}")
    if run.curve.verdict in ("still falling", "rising", "not finished"):
        return Remark("warn", f"Not to the end: {words.convergence(run.curve)}. Longer training may change the images.")
    if run.missing:
        lacking = ", ".join(run.missing)
        return Remark("warn", f"That cannot be said yet: not measured are {lacking}. Training: {words.convergence(run.curve)}.")
    caution = " ".join(remark.text for remark in found if remark.tone == "warn" and remark.about == "model")
    if run.curve.verdict == "not enough evidence":
        doubt = f"whether it had come to rest is open: {words.convergence(run.curve)}."
        if caution:
            return Remark("warn", f"Not as it stands. {caution} And {doubt}")
        return Remark("note", f"Nothing speaks against it, but {doubt}")
    reasons = f"Training {words.convergence(run.curve)}; the audit found nothing."
    if caution:
        return Remark("note", f"In part. {reasons} But: {caution}")
    return Remark("good", f"Yes, as far as these figures go. {reasons} It is clearly better than independent pixels.")


def study_command(run: RunFacts) -> str:
    """The command that would tell whether the learning rate matters."""
    lr = run.recipe.optimizer.options.get("lr", 1e-3)
    values = ",".join(f"{lr * factor:.3g}" for factor in (0.1, 1, 10))
    return f"vaelid study --recipe {shlex.quote(str(run.folder.recipe_file))} --grid lr={values} --seeds 3 --out studies/lr"


def how_good(run: RunFacts) -> list[str]:
    """How good the model is, in figures: bound, yardstick, gap, floor."""
    if not run.found:
        return []
    nll, bound, images = run.found["nll"], run.found["neg_elbo"], run.found["images"]
    unit = "log p(x)" if run.discrete else "the log density of an image"
    bits = f" ({run.found['bits_per_dim']['nll']:.3f} bits per dimension)" if run.discrete else ""
    said = [
        f"On {images:,} test images it reaches {with_error(nll)} nats per image{bits}: an importance-weighted bound on −{unit} "
        f"with K = {nll['samples']:,}{decoder_words(nll)}, which errs upward on average, so the true value is lower if anything. "
        f"Its −ELBO is {with_error(bound)} nats."
    ]
    gain = gain_over_pixels(run)
    if gain is not None and gain["value"] > 0:
        said.append(f"That is {with_error(gain)} nats better than independent pixels, the model that knows no shapes.")
    floor = run.found.get("floor")
    if floor and floor["value"] > 0:
        said.append(
            f"No model can be expected to get below {floor['value']:.2f} nats on these pixels, which are drawn at random."
        )
    return said


def audited(run: RunFacts, part: str) -> str:
    """What the audit found about a part, in one sentence; nothing without an audit."""
    found = [finding for finding in run.audit.get("findings", ()) if finding["part"] == part]
    failed = [finding for finding in found if finding["verdict"] == "fail"]
    if not found:
        return ""
    if failed:
        return f"The audit of this {part} failed: {failed[0]['meaning']}."
    passed = sum(finding["verdict"] == "pass" for finding in found)
    return f"The audit compared this {part}'s sampler with its density: {passed} of {len(found)} hypotheses passed, none failed."


def quality_words(run: RunFacts) -> str:
    """Fréchet distance and Inception Score between their anchors, in a sentence each; nothing without scores."""
    if not run.scores:
        return ""
    name = run.scores["extractor"]["name"]
    rows = {quantity: run.scores["scores"].get(score_name(quantity, name)) for quantity in ("fd", "is")}
    said = [
        f"{score_name(quantity, name)}: {row['model']['value']:.3g} for the model, {row['real']['value']:.3g} for other real "
        f"images, {row['trivial']['value']:.3g} for independent pixels ({row['better']} is better)."
        for quantity, row in rows.items()
        if row
    ]
    return " ".join(said)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
