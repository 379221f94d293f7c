"""Tables for the terminal: every number with its unit, its error, and what kind of number it is.

Cells are plain text: brackets in a file's name are no markup.
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from vaelid.evaluation.bdmc import BDMC
from vaelid.evaluation.certificate import MANY_HEAVY
from vaelid.evaluation.compare import Comparison
from vaelid.evaluation.precision import error_words
from vaelid.folder import BEYOND, EPOCH_FIGURE, RunFolder
from vaelid.parts import KINDS, part_options
from vaelid.recipe import Recipe
from vaelid.scoring.score import SCORES

Results = Mapping[str, Any]
_WITHOUT_KL = {
    True: "KL per dimension: not known for this posterior; this prior factorizes over dimensions.",
    False: "KL per dimension: not known for this posterior; this prior does not factorize over dimensions.",
    None: "KL per dimension: not known for this prior or posterior, nor whether this prior factorizes over dimensions.",
}
_NO_SPLITS = (BDMC, SCORES)  # entries of results.json that are about the model
_PIPE_WIDTH = 120  # of lines that go to a file or another program


def show(*renderables: RenderableType) -> None:
    """Print to standard output."""
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(width=_PIPE_WIDTH)
    console.print(*renderables, highlight=False)


def simple_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], lines: bool = False) -> Group:
    """A table of words; a column whose name begins with ``>`` is set to the right, an empty row draws a line."""
    table = Table(show_header=any(columns), show_lines=lines)
    for column in columns:
        table.add_column(Text(column.removeprefix(">")), justify="right" if column.startswith(">") else "left")
    for row in rows:
        if row:
            table.add_row(*map(Text, row))
        else:
            table.add_section()
    return Group(Text(title, style="bold"), table)  # a table's own title would be folded to the width of its columns


def results_table(name: str, results: Results) -> RenderableType:
    """The certificate of an evaluation: bounds with errors, and what they were measured on."""
    bound, nll, bits = results["neg_elbo"], results["nll"], results["bits_per_dim"] or {}
    about_bound = f"−ELBO, {bound['samples']} draws per image; {bound['direction']}"
    about_rate = f"KL(q(z|x) ‖ p(z)), {bound['rate_kind']}"
    rows = [
        ("neg_elbo", *_value(bound), _bits(bits.get("neg_elbo")), about_bound),
        ("  distortion", f"{bound['distortion']:.3f}", "", "", "−E_q[log p(x|z)]"),
        ("  rate", f"{bound['rate']:.3f}", "", "", about_rate),
        ("nll", *_value(nll), _bits(bits.get("nll")), f"{nll['name']}; {nll['direction']}"),
        *((f"  K = {point['samples']}", *_value(point), "", "the same weights") for point in nll["curve"][:-1]),
    ]
    for yardstick, number in results.get("yardsticks", {}).items():
        about = "yardstick: knows each pixel's own distribution, exact"
        rows.append((yardstick.replace("_", " "), *_value(number), "", about))
    title = f"{name}: {counted(results['images'], results['data']['split'])}, nats per image"
    return Group(simple_table(title, ("quantity", ">value", ">± s.e.", ">bits/dim", "what it is"), rows), *_notes(results))


def comparison_table(comparison: Comparison) -> RenderableType:
    """Runs beside the first of them, with paired errors; what is not comparable is labeled so before anything else."""
    rows: list[Sequence[str]] = []
    labels = [Text(f"NOT COMPARABLE: {warning}", style="bold") for warning in comparison.warnings]
    for quantity, compared in comparison.rows.items():
        for i, row in enumerate(compared):
            difference = "reference" if row.difference is None else f"{row.difference:+.3f}"
            sigmas = "" if row.sigmas is None else f"{row.sigmas:+.1f}"
            numbers = (f"{row.value:.3f}", _error(row.se), difference, _error(row.difference_se), sigmas)
            name = f"{row.name}, {counted(row.images)}" if labels else row.name
            rows.append((quantity if i == 0 else "", name, *numbers))
        rows.append(())
    columns = ("quantity", "run", ">value", ">± s.e.", ">difference", ">± paired s.e.", ">in s.e.")
    yardstick = "'independent pixels' has no latents: one value for both."
    if labels:
        labels.append(Text("The differences are shown because of --anyway; they do not say which model is better."))
        table = simple_table(f"{comparison.split} split, nats per image", columns, rows)
        return Group(*labels, table, Text(yardstick), *map(Text, comparison.notes))
    title = f"{counted(comparison.images, comparison.split)}, nats per image, lower is better"
    meaning = (
        f"A positive difference: the reference (first row) is better. {yardstick} The paired error is about the choice of "
        "images: other seeds of training move each value, too (vaelid study --seeds), and bounds may lie unequally far above "
        "the truth."
    )
    return Group(simple_table(title, columns, rows), Text(meaning), *map(Text, comparison.notes))


def parts_table(kind: str) -> RenderableType:
    """All parts of a kind with their first line of documentation, options, defaults and ranges."""
    rows = []
    for name, part in KINDS[kind].table.items():
        options = (f"{o.name} = {_plain(o.default)}  ({o.allowed})" for o in part_options(kind, part).values())
        rows.append((name, _first_paragraph(part), "\n".join(options)))
    title = f"{kind}  (the builder passes: {', '.join(KINDS[kind].builder_passes) or 'nothing'})"
    return simple_table(title, ("name", "what it is", "options: default, allowed"), rows, lines=True)


def run_summary(folder: RunFolder, recipe: Recipe, about: Mapping[str, Any]) -> RenderableType:
    """What a run is, how it went, where things lie. Runs none of its code and loads no weights."""
    history = folder.metrics()
    seconds = sum(line["train_seconds"] for line in history)
    outcome = about.get("outcome") or "not finished: the same train command goes on"
    schedule = f"{recipe.schedule.name} schedule, batch {recipe.training.batch_size}"
    code = ", ".join(f"{name} (SHA-256 {digest[:12]}…)" for name, digest in recipe.code.items())
    parts = f"{recipe.posterior.name} posterior, {recipe.likelihood.name} likelihood, {recipe.prior.name} prior"
    data = f"{recipe.data.name}, binarization {recipe.data.binarization}, fingerprint {about['data']['fingerprint'][:12]}…"
    made_by = f"vaelid {about['vaelid']} (commit {about['commit']}), torch {about['torch']}, {about['device']}"
    rows = [
        ("data", data),
        ("images", _images(recipe, about)),
        ("model", f"{parts}, {recipe.model.latent} latents"),
        *([("prior", f"{recipe.prior.name} {_settings(recipe.prior.options)}")] if recipe.prior.options else []),
        ("objective", f"{recipe.objective.name} {_settings(recipe.objective.options)}"),
        ("optimizer", f"{recipe.optimizer.name} {_settings(recipe.optimizer.options)}, {schedule}"),
        ("trained", f"{len(history)} epoch{'' if len(history) == 1 else 's'} in {seconds:.0f} s; {outcome}"),
        ("best epoch", _best_epoch(history)),
        ("weights", f"those of the {recipe.training.keep} epoch{_averaged(recipe)}"),
        ("made by", f"{made_by}, {about['processor']}"),
        ("user code", code or "none"),
        ("files", _files(folder)),
        ("figures", _figures(folder)),
    ]
    table = simple_table(str(folder.path), ("", ""), rows)
    results = folder.read_json(folder.results_file)
    return Group(table, *(results_table(str(folder.path), found) for split, found in results.items() if split not in _NO_SPLITS))


def ranking(pairs: Sequence[tuple[str, float]], kind: str, most: int) -> RenderableType:
    """New images with their values, in the given order; ``kind`` is ``probability`` or ``density``."""
    quantity = "−log p(x)" if kind == "probability" else "−log density"
    title = f"{quantity} bound in nats, unlikeliest first"
    table = simple_table(title, ("image", ">nats"), [(name, f"{value:.3f}") for name, value in pairs[:most]])
    left_out = f" ({most} shown)" if len(pairs) > most else ""
    return Group(table, Text(f"{counted(len(pairs))} in all{left_out}; every value stands in results/input.npz."))


def _notes(results: Results) -> list[Text]:
    units, data = results["active_units"], results["data"]
    lines = [f"FAILED CHECK, so these are no likelihoods: {failure}" for failure in results.get("failed", ())]
    lines += _limits(results)
    others = [f"{kind} ({counted(count)})" for kind, count in apart(results).items()]
    if others:
        lines.append(f"OTHER IMAGES: {', '.join(others)} below, not of these {results['images']:,}: compare within a table only.")
    lines += _beside_yardstick(results)
    shortened = error_words(results["nll"])
    lines += [f"nll: {shortened}"] if shortened is not None else []
    lines += _certificate(results["nll"])
    if results["kind"] == "density":
        lines.append(
            "These are densities, not probabilities: they may be negative, have no bits/dim, "
            "and compare only with densities on the same scale."
        )
    if results["kl_per_dimension"] is not None:
        lines.append(
            f"active units: {units['variance']} of {len(results['kl_per_dimension'])} (Var_x E_q[z_d|x] > 0.01), "
            f"{units['kl']} (KL_d > 0.01); {_kl_and_rate(results)}"
        )
    elif units["variance"] is not None:
        lines.append(f"active units: {units['variance']} (Var_x E_q[z_d|x] > 0.01)")
    if results["kl_per_dimension"] is None and "prior_factorizes" in results:
        lines.append(_WITHOUT_KL[results["prior_factorizes"]])
    lines.append(
        f"pixels: {data['support']}, {data['protocol']}; images {data['fingerprint'][:12]}…; noise seed {results['seed']}"
    )
    made = results["environment"]
    by = f"; {made['dtype']}, vaelid {made['vaelid']} (commit {made['commit']})" if "dtype" in made else ""
    lines.append(f"weights {made['weights'][:12]}…{by}")
    if results.get("floor"):
        floor = results["floor"]
        lines.append(f"no model can be below {floor['value']:.3f} nats ({floor['what']})")
    if data["redrawn"]:
        lines.append(
            "The pixels are redrawn at every access: these numbers vary between accesses and compare with nothing but themselves."
        )
    return [Text(line) for line in lines]


def _certificate(nll: Results) -> list[str]:
    """How far to believe the importance-weighted bound; nothing for results of a version that did not look."""
    if "effective_samples" not in nll:
        return []
    ess, tail, last = nll["effective_samples"], nll["pareto_k"], nll["last_doubling"]
    said = f"nll: {ess['mean']:.0f} effective samples of {ess['of']} per image (median {ess['median']:.0f})"
    # Results of earlier versions know one threshold only.
    limit, share = tail.get("threshold", 0.7), tail.get("share_above_threshold", tail["share_above_0.7"])
    if share is not None:
        said += f"; Pareto k̂ > {limit:.2g}, too heavy a tail, for {share:.1%} of images"
        said += f" (median {tail['median']:.2f})"
    lines = [f"{said}; Monte Carlo error {_error(nll['monte_carlo_se']) or 'not known'}, apart from the ± over images"]
    if (share or 0.0) >= MANY_HEAVY:
        lines.append("nll: it rests on a few lucky samples, and that error is understated; --ais gives a tighter bound")
    if last["gain"] is not None:
        verdict = "is still rising, more samples give a visibly tighter bound" if last["still_rising"] else "has settled"
        error = f" ± {last['se']:.4f}" if last["se"] is not None else ""
        lines.append(
            f"nll: from K = {last['from']} to {last['to']} the bound on log p(x) rose by {last['gain']:.4f}{error}: it {verdict}"
        )
    return lines


def counted(images: int, split: str = "") -> str:
    """``1 image``, ``30 test images``."""
    return f"{images:,} {split}{' ' if split else ''}image{'' if images == 1 else 's'}"


def words_of_count(images: int, available: int, split: str) -> str:
    """``30 test images``, or ``30 test images (limited to the first of 359)``."""
    return counted(images, split) + (f" (limited to the first of {available:,})" if images < available else "")


def apart(results: Results) -> dict[str, int]:
    """How many images each kind of number beyond the bounds is about, where they are not those of the bounds."""
    found = {kind: results[kind] for kind in BEYOND if kind in results}
    return {kind: b["images"] for kind, b in found.items() if b["data"]["fingerprint"] != results["data"]["fingerprint"]}


def _limits(results: Results) -> list[str]:
    """Where a limit left only some of the images: whoever reads the numbers must know. Earlier versions did not note it."""
    images, data, training = results["images"], results["data"], results.get("training")
    said = []
    if images < data.get("available", images):
        option = "data.train_limit" if data["split"] == "train" else "data.held_out_limit"
        said.append(f"only the first {images:,} of {data['available']:,} {data['split']} images (--limit or {option})")
    if training and training["images"] < training["available"]:
        count = f"{training['images']:,} of {training['available']:,}"
        said.append(f"the model was trained on only the first {count} images (data.train_limit)")
    return [f"LIMITED: {'; '.join(said)}."] if said else []


def _beside_yardstick(results: Results) -> list[str]:
    """Whether the model beats independent pixels, in one sentence: below it nothing was learned."""
    above = results.get("yardsticks", {}).get("independent_pixels", {}).get("nll_above")
    if above is None or not above["se"]:
        return []
    difference, error = f"{abs(above['value']):.3f} ± {above['se']:.3f} nats (nll, paired by image)", 3 * above["se"]
    advice = "" if results["data"]["split"] == "input" else ": train longer"  # of new images the model may know nothing
    if above["value"] > error:
        return [f"WORSE than independent pixels by {difference}{advice}."]
    if above["value"] < -error:
        return [f"better than independent pixels by {difference}."]
    return [f"NOT TOLD APART from independent pixels, by {difference}{advice}."]


def _kl_and_rate(results: Results) -> str:
    """Σ_d KL_d beside the rate: whether they are one number for this prior."""
    total, rate = sum(results["kl_per_dimension"]), results["neg_elbo"]["rate"]
    if "prior_factorizes" not in results:  # earlier versions did not look
        return f"Σ KL_d = {total:.3f}, which is the rate only if the prior factorizes over dimensions."
    noise = " but for the noise of its draws" if results["neg_elbo"]["rate_kind"] == "sampled" else ""
    return {
        True: f"Σ KL_d = {total:.3f} is the rate of {rate:.3f}{noise}: this prior factorizes over dimensions.",
        False: f"Σ KL_d = {total:.3f} is not the rate of {rate:.3f}: this prior does not factorize over dimensions.",
        None: f"Σ KL_d = {total:.3f}; whether that is the rate of {rate:.3f} is not known, nor whether this prior factorizes.",
    }[results["prior_factorizes"]]


def _best_epoch(history: Sequence[Mapping[str, Any]]) -> str:
    finite = [line for line in history if math.isfinite(line["neg_elbo"])]
    if not finite:
        return "none yet"
    best = min(finite, key=lambda line: line["neg_elbo"])
    terms = f"distortion {best['distortion']:.3f} + rate {best['rate']:.3f} nats"
    return f"{best['epoch']}: validation −ELBO {best['neg_elbo']:.3f} = {terms}"


def _value(number: Results) -> tuple[str, str]:
    return f"{number['value']:.3f}", _error(number["se"])


def _error(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _bits(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _plain(default: Any) -> str:
    return "required" if default is inspect.Parameter.empty else str(list(default) if isinstance(default, tuple) else default)


def _settings(options: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in options.items())


def _averaged(recipe: Recipe) -> str:
    ema = recipe.training.ema
    return f", as a moving average over the steps (training.ema = {ema:g})" if ema else ""


def _first_paragraph(part: Callable[..., Any]) -> str:
    return " ".join((inspect.getdoc(part) or "").split("\n\n")[0].split())


def _images(recipe: Recipe, about: Mapping[str, Any]) -> str:
    """How many images of each split, and which of them a limit left."""
    counts = about["data"].get("images")
    if counts is not None:
        return ", ".join(words_of_count(count["images"], count["available"], split) for split, count in counts.items())
    limits = {name: getattr(recipe.data, name) for name in ("train_limit", "held_out_limit")}  # made by an earlier version
    return ", ".join(f"limited by data.{name} = {limit:,}" for name, limit in limits.items() if limit) or "all images"


def _files(folder: RunFolder) -> str:
    return ", ".join(entry.name for entry in sorted(folder.path.iterdir()) if entry.name != "lock")


def _figures(folder: RunFolder) -> str:
    """The figures by name, each as PNG and PDF; those of the epochs, of which there are many, as one."""
    names = sorted(path.relative_to(folder.figures).with_suffix("").as_posix() for path in folder.figures.rglob("*.png"))
    epochs = [name.removeprefix(EPOCH_FIGURE) for name in names if name.startswith(EPOCH_FIGURE)]
    named = [name for name in names if not name.startswith(EPOCH_FIGURE)]
    if epochs:
        named.append(f"{EPOCH_FIGURE}<n> for {len(epochs)} epochs that improved, {int(epochs[0])} to {int(epochs[-1])}")
    animations = [path.name for path in sorted(folder.figures.rglob("*.gif"))]
    return ", ".join([*named, *animations]) or "none"
