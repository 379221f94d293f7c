"""Verbs that only look: ``show``, ``parts``, ``data list|info``, ``recipes list|show``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vaelid.cli.options import Set, opened_run, pairs
from vaelid.cli.program import Group

data_app = typer.Typer(help="What data there are.", cls=Group)
recipes_app = typer.Typer(help="Built-in recipes.", cls=Group)


def show(run: Annotated[Path, typer.Argument(metavar="RUN|STUDY", help="Folder of a run or a study.")]) -> None:
    """What a run or a study is, how it went, where things lie. Runs none of its code."""
    from vaelid.reporting.beyond import bdmc_tables, beyond_tables
    from vaelid.reporting.scores import score_tables
    from vaelid.reporting.studies import study_tables
    from vaelid.reporting.tables import run_summary, show as show_table
    from vaelid.sweeps.ledger import StudyFolder
    from vaelid.sweeps.summary import Summary

    if StudyFolder(run).exists:
        show_table(study_tables(Summary(run)))
        return
    opened = opened_run(run, "cpu", allow_code=False)
    further = [table for found in opened.results.values() for table in beyond_tables(found)]
    scored = score_tables(str(run), opened.results, opened.weights_digest) if "scores" in opened.results else ()
    show_table(run_summary(opened.folder, opened.recipe, opened.about), *further, *bdmc_tables(opened.results), *scored)


def parts(kind: Annotated[str | None, typer.Argument(metavar="KIND", help="Only this kind.")] = None) -> None:
    """All parts by name, with formulas, options, defaults and ranges."""
    from vaelid.parts import KINDS
    from vaelid.reporting.tables import parts_table, show
    from vaelid.settings import unknown

    if kind is not None and kind not in KINDS:
        raise unknown("kind of part", kind, KINDS)
    for name in [kind] if kind else KINDS:
        show(parts_table(name))


@data_app.command("list")
def data_list() -> None:
    """Data sets by name."""
    from vaelid.data import DATASETS
    from vaelid.reporting.tables import show, simple_table

    rows = [(name, dataset.description) for name, dataset in DATASETS.items()]
    show(simple_table("data sets", ("name", "what it is"), rows))
    print("Your own: a .npy, .npz, .pt or .safetensors file, or a folder of images.")


@data_app.command("info")
def data_info(data: Annotated[str, typer.Argument(metavar="DATA", help="A name or a path.")], set_: Set = None) -> None:
    """Sizes, shapes, pixels and fingerprints of data."""
    from vaelid.data import load_data
    from vaelid.recipe import expand
    from vaelid.reporting.tables import show, simple_table
    from vaelid.training.request import base_recipe

    loaded = load_data(base_recipe(data, None).override(expand(pairs(set_))).data)
    rows = [
        (name, f"{len(s):,}", str(s.shape), str(s.support), s.protocol, s.fingerprint[:12]) for name, s in loaded.splits.items()
    ]
    show(simple_table(loaded.name, ("split", "images", "shape", "pixels", "protocol", "fingerprint"), rows))


@recipes_app.command("list")
def recipes_list() -> None:
    """Built-in recipes."""
    from vaelid.recipe import read_about, recipe_names
    from vaelid.reporting.tables import show, simple_table

    show(simple_table("recipes", ("name", "what for"), [(name, read_about(name)) for name in recipe_names()]))


@recipes_app.command("show")
def recipes_show(name: Annotated[str, typer.Argument(metavar="NAME", help="Name or TOML file.")]) -> None:
    """A recipe with every default written out; what is not set stands there as a comment."""
    from vaelid.recipe import read_recipe
    from vaelid.usercode import require_trust

    recipe, code_from = read_recipe(name).adopt_code()
    for file, digest in recipe.code.items():
        require_trust(code_from / file, digest)  # the defaults of a part stand in its code
    print(recipe.resolve(code_from).to_toml(unset=True), end="")
