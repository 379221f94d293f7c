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
from vaelid.evaluation.compare import Comparison
from vaelid.folder import RunFolder
from vaelid.parts import KINDS, part_options
from vaelid.recipe import Recipe

Results = Mapping[str, Any]
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
    title = f"{name}: {_counted(results['images'], results['data']['split'])}, nats per image"
    return Group(simple_table(title, ("quantity", ">value", ">± s.e.", ">bits/dim", "what it is"), rows), *_notes(results))


def comparison_table(comparison: Comparison) -> RenderableType:
    """Runs beside the first of them, with paired errors."""
    rows: list[Sequence[str]] = []
    for quantity, compared in comparison.rows.items():
        for i, row in enumerate(compared):
            difference = "reference" if row.difference is None else f"{row.difference:+.3f}"
            sigmas = "" if row.sigmas is None else f"{row.sigmas:+.1f}"
            numbers = (f"{row.value:.3f}", _error(row.se), difference, _error(row.difference_se), sigmas)
            rows.append((quantity if i == 0 else "", row.name, *numbers))
        rows.append(())
    columns = ("quantity", "run", ">value", ">± s.e.", ">difference", ">± paired s.e.", ">in s.e.")
    title = f"{_counted(comparison.images, comparison.split)}, nats per image, lower is better"
    notes = [
        "A positive difference: the reference (first row) is better. 'independent pixels' has no latents: one value for both."
    ]
    notes += [f"NOT COMPARABLE: {warning}" for warning in comparison.warnings]
    return Group(simple_table(title, columns, rows), *map(Text, notes))


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
        ("model", f"{parts}, {recipe.model.latent} latents"),
        ("objective", f"{recipe.objective.name} {_settings(recipe.objective.options)}"),
        ("optimizer", f"{recipe.optimizer.name} {_settings(recipe.optimizer.options)}, {schedule}"),
        ("trained", f"{len(history)} epochs in {seconds:.0f} s; {outcome}"),
        ("best epoch", _best_epoch(history)),
        ("weights", f"those of the {recipe.training.keep} epoch"),
        ("made by", f"{made_by}, {about['processor']}"),
        ("user code", code or "none"),
        ("files", _files(folder)),
    ]
    table = simple_table(str(folder.path), ("", ""), rows)
    results = folder.read_json(folder.results_file)
    return Group(table, *(results_table(str(folder.path), found) for split, found in results.items() if split != BDMC))


def ranking(pairs: Sequence[tuple[str, float]], kind: str, most: int) -> RenderableType:
    """New images with their values, in the given order; ``kind`` is ``probability`` or ``density``."""
    quantity = "−log p(x)" if kind == "probability" else "−log density"
    title = f"{quantity} bound in nats, unlikeliest first"
    table = simple_table(title, ("image", ">nats"), [(name, f"{value:.3f}") for name, value in pairs[:most]])
    left_out = f" ({most} shown)" if len(pairs) > most else ""
    return Group(table, Text(f"{_counted(len(pairs))} in all{left_out}; every value stands in results/input.npz."))


def _notes(results: Results) -> list[Text]:
    units, data = results["active_units"], results["data"]
    lines = [f"FAILED CHECK, so these are no likelihoods: {failure}" for failure in results.get("failed", ())]
    lines += _certificate(results["nll"])
    if results["kind"] == "density":
        lines.append(
            "These are densities, not probabilities: they may be negative, have no bits/dim, "
            "and compare only with densities on the same scale."
        )
    if results["kl_per_dimension"] is not None:
        total = sum(results["kl_per_dimension"])
        lines.append(
            f"active units: {units['variance']} of {len(results['kl_per_dimension'])} (Var_x E_q[z_d|x] > 0.01), "
            f"{units['kl']} (KL_d > 0.01); Σ KL_d = {total:.3f}, which is the rate only if the prior factorizes over dimensions."
        )
    elif units["variance"] is not None:
        lines.append(f"active units: {units['variance']} (Var_x E_q[z_d|x] > 0.01)")
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
    if tail["share_above_0.7"] is not None:
        # Results of earlier versions know one threshold only.
        limit, share = tail.get("threshold", 0.7), tail.get("share_above_threshold", tail["share_above_0.7"])
        said += f"; Pareto k̂ > {limit:.2g}, too heavy a tail, for {share:.1%} of images"
        said += f" (median {tail['median']:.2f})"
    lines = [f"{said}; Monte Carlo error {_error(nll['monte_carlo_se']) or 'not known'}, apart from the ± over images"]
    if last["gain"] is not None:
        verdict = "is still rising, more samples give a visibly tighter bound" if last["still_rising"] else "has settled"
        error = f" ± {last['se']:.4f}" if last["se"] is not None else ""
        lines.append(
            f"nll: from K = {last['from']} to {last['to']} the bound on log p(x) rose by {last['gain']:.4f}{error}: it {verdict}"
        )
    return lines


def _counted(images: int, split: str = "") -> str:
    return f"{images:,} {split}{' ' if split else ''}image{'' if images == 1 else 's'}"


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


def _first_paragraph(part: Callable[..., Any]) -> str:
    return " ".join((inspect.getdoc(part) or "").split("\n\n")[0].split())


def _files(folder: RunFolder) -> str:
    figures = list(folder.figures.rglob("*.png"))
    names = [p.name for p in sorted(folder.path.iterdir()) if p.name != "lock"]
    return f"{', '.join(names)}; {len(figures)} figures"
