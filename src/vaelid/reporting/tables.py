"""Tables for the terminal: every number with its unit, its error, and what kind of number it is."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from vaelid.evaluation.compare import Comparison
from vaelid.folder import RunFolder
from vaelid.parts import KINDS, part_options
from vaelid.recipe import Recipe

Results = Mapping[str, Any]


def show(*renderables: RenderableType) -> None:
    """Print to standard output."""
    Console().print(*renderables, highlight=False)


def results_table(name: str, results: Results) -> RenderableType:
    """The certificate of an evaluation: bounds with errors, and what they were measured on."""
    density = results["kind"] == "density"
    table = Table(title=f"{name}: {results['images']:,} {results['data']['split']} images, nats per image", title_justify="left")
    for column, justify in (("quantity", "left"), ("value", "right"), ("± s.e.", "right"), ("bits/dim", "right"), ("what it is", "left")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    bound, nll = results["neg_elbo"], results["nll"]
    bits = results["bits_per_dim"] or {}
    table.add_row("neg_elbo", *_value(bound), _bits(bits.get("neg_elbo")), f"−ELBO, {bound['samples']} draws per image; {bound['direction']}")
    table.add_row("  distortion", f"{bound['distortion']:.3f}", "", "", Text("−E_q[log p(x|z)]"))
    table.add_row("  rate", f"{bound['rate']:.3f}", "", "", f"KL(q(z|x) ‖ p(z)), {bound['rate_kind']}")
    table.add_row("nll", *_value(nll), _bits(bits.get("nll")), f"{nll['name']}; {nll['direction']}")
    for point in nll["curve"][:-1]:
        table.add_row(f"  K = {point['samples']}", *_value(point), "", "the same weights")
    for yardstick, number in results.get("yardsticks", {}).items():
        table.add_row(yardstick.replace("_", " "), *_value(number), "", "yardstick: knows each pixel's own distribution, exact")
    return Group(table, *_notes(results, density))


def comparison_table(comparison: Comparison) -> RenderableType:
    """Runs beside the first of them, with paired errors."""
    table = Table(title=f"{comparison.images:,} {comparison.split} images, nats per image, lower is better", title_justify="left")
    for column, justify in (("quantity", "left"), ("run", "left"), ("value", "right"), ("± s.e.", "right"), ("difference", "right"), ("± paired s.e.", "right"), ("in s.e.", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for quantity, rows in comparison.rows.items():
        for i, row in enumerate(rows):
            difference = "reference" if row.difference is None else f"{row.difference:+.3f}"
            error = "" if row.difference_se is None else f"{row.difference_se:.3f}"
            sigmas = "" if row.sigmas is None else f"{row.sigmas:+.1f}"
            table.add_row(quantity if i == 0 else "", row.name, f"{row.value:.3f}", f"{row.se:.3f}", difference, error, sigmas)
        table.add_section()
    notes = ["A positive difference: the reference (first row) is better. 'independent pixels' has no latents: one value for both."]
    return Group(table, *(Text(line) for line in [*notes, *(f"NOT COMPARABLE: {w}" for w in comparison.warnings)]))


def parts_table(kind: str) -> RenderableType:
    """All parts of a kind with their first line of documentation, options, defaults and ranges."""
    table = Table(title=f"{kind}  (the builder passes: {', '.join(KINDS[kind].builder_passes) or 'nothing'})", title_justify="left", show_lines=True)
    table.add_column("name", no_wrap=True)
    table.add_column("what it is")
    table.add_column("options: default, allowed")
    for name, part in KINDS[kind].table.items():
        options = part_options(kind, part).values()
        lines = [f"{o.name} = {_plain(o.default)}  ({o.allowed})" for o in options]
        table.add_row(name, _first_paragraph(part), Text("\n".join(lines)))
    return table


def run_summary(folder: RunFolder, recipe: Recipe, about: Mapping[str, Any]) -> RenderableType:
    """What a run is, how it went, where things lie. Runs none of its code and loads no weights."""
    history = folder.metrics()
    best = min(history, key=lambda line: line["neg_elbo"]) if history else None
    rows = [
        ("data", f"{recipe.data.name}, binarization {recipe.data.binarization}, fingerprint {about['data']['fingerprint'][:12]}…"),
        ("model", f"{recipe.posterior.name} posterior, {recipe.likelihood.name} likelihood, {recipe.prior.name} prior, {recipe.model.latent} latents"),
        ("objective", f"{recipe.objective.name} {_settings(recipe.objective.options)}"),
        ("optimizer", f"{recipe.optimizer.name} {_settings(recipe.optimizer.options)}, {recipe.schedule.name} schedule, batch {recipe.training.batch_size}"),
        ("trained", f"{len(history)} epochs in {sum(line['train_seconds'] for line in history):.0f} s; {about.get('outcome') or 'not finished: the same train command goes on'}"),
        ("best epoch", "none yet" if best is None else f"{best['epoch']}: validation −ELBO {best['neg_elbo']:.3f} = distortion {best['distortion']:.3f} + rate {best['rate']:.3f} nats"),
        ("made by", f"vaelid {about['vaelid']} (commit {about['commit']}), torch {about['torch']}, {about['device']}, {about['processor']}"),
        ("user code", ", ".join(f"{name} (SHA-256 {digest[:12]}…)" for name, digest in recipe.code.items()) or "none"),
        ("files", _files(folder)),
    ]
    table = Table(title=str(folder.path), title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    for row in rows:
        table.add_row(row[0], Text(row[1]))
    results = folder.read_json(folder.results_file)
    return Group(table, *(results_table(str(folder.path), found) for found in results.values()))


def ranking(pairs: Iterable[tuple[str, float]], most: int) -> RenderableType:
    """New images, the unlikeliest first."""
    table = Table(title="−log p(x) bound in nats, unlikeliest first", title_justify="left")
    table.add_column("image")
    table.add_column("nats", justify="right")
    pairs = list(pairs)
    for name, value in pairs[:most]:
        table.add_row(Text(name), f"{value:.3f}")
    return Group(table, Text(f"{len(pairs)} images in all; every value stands in results/input.npz."))


def simple_table(title: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> Table:
    """A plain table of words."""
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _notes(results: Results, density: bool) -> list[Text]:
    units, data = results["active_units"], results["data"]
    lines = []
    if density:
        lines.append("These are densities, not probabilities: they may be negative, have no bits/dim, and compare only with densities on the same scale.")
    if results["kl_per_dimension"] is not None:
        total = sum(results["kl_per_dimension"])
        lines.append(
            f"active units: {units['variance']} of {len(results['kl_per_dimension'])} (Var_x E_q[z_d|x] > 0.01), {units['kl']} (KL_d > 0.01); "
            f"Σ KL_d = {total:.3f}, which is the rate only if the prior factorizes over dimensions."
        )
    lines.append(f"pixels: {data['support']}, {data['protocol']}; images {data['fingerprint'][:12]}…; noise seed {results['seed']}; weights {results['environment']['weights'][:12]}…")
    if data["redrawn"]:
        lines.append("The pixels are redrawn at every access: these numbers vary between accesses and compare with nothing but themselves.")
    return [Text(line) for line in lines]


def _value(number: Results) -> tuple[str, str]:
    return f"{number['value']:.3f}", "" if number["se"] is None else f"{number['se']:.3f}"


def _bits(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _plain(default: Any) -> str:
    return "required" if default is inspect.Parameter.empty else str(list(default) if isinstance(default, tuple) else default)


def _settings(options: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in options.items())


def _first_paragraph(part: Callable[..., Any]) -> Text:
    return Text(" ".join((inspect.getdoc(part) or "").split("\n\n")[0].split()))


def _files(folder: RunFolder) -> str:
    figures = sorted(p.name for p in folder.figures.glob("*.png")) if folder.figures.is_dir() else []
    names = [p.name for p in sorted(folder.path.iterdir()) if p.name != "lock"]
    return f"{', '.join(names)}; {len(figures)} figures"
