"""The site: links that hold, formulas that browsers render, a reference that names everything, a tutorial that runs."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from mkdocs.exceptions import PluginError
from nbclient import NotebookClient

import vaelid
from tools import reference, site_hooks
from tools.site_hooks import _FORMULA, adopted, mathml, notebook_page, relinked
from vaelid.parts import KINDS, part_options
from vaelid.recipe import recipe_names

ROOT = Path(__file__).parents[1]
TUTORIAL = ROOT / "docs" / "tutorial.ipynb"


@pytest.mark.parametrize(
    ("source", "uri", "link", "there"),
    [
        ("docs/ais.md", "ais.md", "[a](numbers.md)", "[a](numbers.md)"),
        ("docs/ais.md", "ais.md", "[a](numbers.md#the-bounds)", "[a](numbers.md#the-bounds)"),
        ("docs/theory/elbo.md", "theory/elbo.md", "[a](../numbers.md)", "[a](../numbers.md)"),
        ("docs/theory/elbo.md", "theory/elbo.md", "[a](../../studies/assignment/README.md)", "[a](../measured/assignment.md)"),
        ("docs/index.md", "index.md", "[a](tutorial.ipynb)", "[a](tutorial.md)"),
        ("studies/assignment/README.md", "measured/assignment.md", "[a](../../docs/ais.md)", "[a](../ais.md)"),
        ("benchmarks/README.md", "measured/benchmarks.md", "[a](training_epoch.py)", "a"),
        ("docs/ais.md", "ais.md", "[a](https://example.org/b.md)", "[a](https://example.org/b.md)"),
        ("docs/ais.md", "ais.md", "[a](#gaps)", "[a](#gaps)"),
        ("docs/ais.md", "ais.md", "[a](../no/such.md)", "[a](../no/such.md)"),
        ("docs/index.md", "index.md", "![x[1]](images/samples.png)", "![x[1]](images/samples.png)"),
    ],
)
def test_links_hold_in_the_site(source: str, uri: str, link: str, there: str) -> None:
    assert relinked(link, source, uri, adopted()) == there


def formula(page: str) -> str:
    return _FORMULA.sub(lambda match: mathml(match, "a.md"), page)


def test_formulas_become_mathml() -> None:
    inline = formula(r'so <span class="arithmatex">\(\log p(x) &lt; 0\)</span>.')
    assert inline.startswith('so <math xmlns="http://www.w3.org/1998/Math/MathML" display="inline">')
    assert "<mi>log</mi><mspace" in inline
    assert "<mo>&#x0003C;</mo>" in inline
    block = formula('<div class="arithmatex">\\[\n\\frac{a}{b}\n\\]</div>')
    assert block.startswith('<div class="formula"><math')
    assert "<mfrac>" in block


@pytest.mark.parametrize("latex", [r"\nosuchcommand{x}", "a^b^c"])
def test_a_formula_that_cannot_be_converted_stops_the_build(latex: str) -> None:
    with pytest.raises(PluginError, match=r"a\.md: "):
        formula(rf'<span class="arithmatex">\({latex}\)</span>')


def test_studies_come_into_the_navigation() -> None:
    config = SimpleNamespace(nav=[{"Home": "index.md"}, {"Measured": ["measured/benchmarks.md"]}])
    [_, measured] = site_hooks.on_config(config).nav
    assert "measured/assignment.md" in measured["Measured"]
    assert measured["Measured"][-1] == "measured/benchmarks.md"


def test_the_reference_names_every_part_and_option() -> None:
    page = reference.parts()
    for kind, about in KINDS.items():
        for name, part in about.table.items():
            section = page.partition(f"### `{name}` {{ #{kind}-{name} }}")[2].partition("\n### ")[0]
            assert section, f"{kind} {name} is missing"
            assert all(f"| `{option}` |" in section for option in part_options(kind, part))
    assert "| `init` | `normal`, `k-means` | `normal` | ``normal`` starts means and log variances from N(0, 1)" in page


def test_the_reference_names_every_verb_recipe_and_public_name() -> None:
    page = reference.commands()
    for verb in ("train", "evaluate", "data list", "recipes show"):
        assert f"\n## {verb}\n" in page
    assert "| `--patience` | Stop after more than N epochs in a row without improvement" in page
    assert all(f"\n## {name}\n" in reference.recipes() for name in recipe_names())
    assert all(f".{name}\n" in reference.python() for name in vaelid.__all__ if name != "__version__")


def test_the_tutorial_is_a_page_with_pictures() -> None:
    page = notebook_page(TUTORIAL)
    assert str(page["tutorial.md"]).startswith("# From data to results")
    pictures = [content for name, content in page.items() if name.startswith("tutorial/")]
    assert len(pictures) > 5
    assert all(isinstance(content, bytes) and content.startswith(b"\x89PNG") for content in pictures)
    assert TUTORIAL.stat().st_size < 300_000


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From top to bottom in a kernel of its own; the outputs stay short, however many epochs there are."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    committed = nbformat.read(TUTORIAL, as_version=4)
    notebook = nbformat.read(TUTORIAL, as_version=4)
    NotebookClient(notebook, timeout=1200, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    for cell, before in zip(notebook.cells, committed.cells, strict=True):
        made = [output.output_type for output in cell.get("outputs", [])]
        assert made == [output.output_type for output in before.get("outputs", [])]
        for output in cell.get("outputs", []):
            assert output.get("name") != "stderr"
            assert len(str(output.get("text", output.get("data", {}).get("text/plain", "")))) < 5000
    assert (tmp_path / "runs" / "tutorial" / "results.json").is_file()
