"""The documentation: every snippet runs, every command is one that the program takes, every page has its place.

A ``pycon`` block of a page is a doctest, a ``python`` block is run; both share the names of their page, from top to bottom.
A ``python`` block whose first line is a comment with the name of a file, ``# my_parts.py``, is written to that file as well.
A ``console`` or ``bash`` block holds commands, which are parsed, and run where the page's own tests say so.
"""

from __future__ import annotations

import doctest
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from tiny_runs import Program, trained
from tools import reference
from tools.pages import Block, blocks, typed, unfenced
from vaelid import usercode
from vaelid.cli import app
from vaelid.parts import KINDS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in [*DOCS.rglob("*.md"), ROOT / "README.md"])
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
PYTHON, SHELL = ("python", "pycon"), ("console", "bash")
#: Languages of blocks that show something else than code.
SHOWN = ("", "text", "toml")
#: Every class, method and function of the notebook that docs/from-the-notebook.md must have a row for.
ASSIGNMENT = (
    *("log_categorical", "log_bernoulli", "log_normal_diag", "log_standard_normal"),
    *(f"Encoder{name}" for name in ("", ".reparameterization", ".encode", ".sample", ".log_prob", ".forward")),
    *(f"Decoder{name}" for name in ("", ".decode", ".sample", ".log_prob", ".forward")),
    *(f"MoGPrior{name}" for name in ("", ".get_params", ".sample", ".log_prob")),
    *("VAE", "VAE.forward", "VAE.sample"),
    *("training", "evaluation", "samples_real", "samples_generated", "plot_curve"),
)


def read(page: str) -> list[Block]:
    return blocks((ROOT / page).read_text("utf-8"))


def with_blocks_in(languages: tuple[str, ...]) -> list[str]:
    return [page for page in PAGES if any(block.language in languages for block in read(page))]


def run(page: str) -> None:
    """Run the Python blocks of a page in one namespace, and say where the page is wrong."""
    names: dict[str, Any] = {"__name__": f"docs:{page}"}
    for block in read(page):
        if block.language == "python":
            file = re.match(r"# (\w+\.py)\n", block.text)
            if file:
                Path(file[1]).write_text(block.text, encoding="utf-8")
            exec(compile("\n" * (block.line - 1) + block.text, page, "exec"), names)
        if block.language == "pycon":
            prove(page, block, names)


def prove(page: str, block: Block, names: dict[str, Any]) -> None:
    """Run a block as a doctest whose failures name the page and the line."""
    example = doctest.DocTestParser().get_doctest(block.text, names, page, page, block.line - 1)
    assert example.examples, f"{page}:{block.line}: a pycon block without >>>"
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=FLAGS, verbose=False)
    runner.run(example, out=said.append, clear_globs=False)
    names.update(example.globs)
    assert not runner.failures, "".join(said)


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder with runs/demo, as ``make demo`` leaves it (only smaller). What a page adds to tables goes when it is read."""
    trained(tmp_path / "runs", "demo")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(usercode, "_MODULES", {})
    tables = {id(kind.table): (kind.table, dict(kind.table)) for kind in KINDS.values()}
    yield
    for table, before in tables.values():
        table.clear()
        table.update(before)


# README's Python shows a session with placeholders; its commands are run by .ci/run.
@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("page", [page for page in with_blocks_in(PYTHON) if page != "README.md"])
def test_snippets_run(page: str) -> None:
    run(page)


@pytest.mark.usefixtures("reader")
def test_a_part_of_one_class_works_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    """The commands of the page on extending, and those that its last lines speak of."""
    program, page = Program(capsys), "docs/extending.md"
    [source] = [block.text for block in read(page) if block.text.startswith("# my_parts.py\n")]
    Path("my_parts.py").write_text(source, encoding="utf-8")
    said = [program(*shlex.split(command)[1:]) for block in read(page) if block.language == "console" for command in typed(block)]
    assert len(said) == 3
    assert {answer.code for answer in said} == {0}
    assert "HeavyPrior" in said[-1].out
    names: dict[str, Any] = {}
    exec(source, names)
    KINDS["prior"].table["heavy-tailed"] = names["HeavyPrior"]  # type: ignore[index]
    assert "heavy-tailed" in program("parts", "prior").out
    assert "### `heavy-tailed`" in reference.parts()
    settings = ("--prior", "heavy-tailed", "--epochs", "1", "--set", "prior.df=4", "--out", "runs/everybody")
    assert program("train", "digits", *settings).code == 0


@pytest.mark.parametrize("page", with_blocks_in(SHELL))
def test_commands_are_those_of_the_program(page: str) -> None:
    for block in read(page):
        for command in typed(block) if block.language in SHELL else []:
            words = shlex.split(command)
            if words and Path(words[0]).name == "vaelid":
                parse(words[1:])


@pytest.mark.parametrize("wrong", ["practice digits", "train digits --no-such-option", "score", "train digits --epochs many"])
def test_a_command_that_the_program_does_not_have_is_seen(wrong: str) -> None:
    with pytest.raises(Exception, match=r"no verb|No such option|[Mm]issing|valid integer"):
        parse(wrong.split())


def test_a_snippet_that_says_something_else_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    (tmp_path / "page.md").write_text("```pycon\n>>> 1 + 1\n3\n```\n")
    with pytest.raises(AssertionError, match=r"Expected:\s+3\s+Got:\s+2"):
        run("page.md")


def parse(words: list[str]) -> None:
    """Refuse a verb or an option that the program does not have."""
    command: Any = typer.main.get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    if words == ["--help"]:
        return
    assert not getattr(command, "commands", {}), f"vaelid has no verb {words[:1]}"
    command.make_context(command.name, list(words))


@pytest.mark.parametrize("page", PAGES)
def test_blocks_say_what_they_are(page: str) -> None:
    for block in read(page):
        place = f"{page}:{block.line}"
        assert block.language in (*PYTHON, *SHELL, *SHOWN), f"{place}: no test knows what {block.language!r} is"
        assert block.language in PYTHON or ">>> " not in block.text, f"{place}: call it pycon"
        if block.language == "toml":
            tomllib.loads(block.text)
    loose = unfenced((ROOT / page).read_text("utf-8"))
    assert not loose, f"{page}: put these lines into fences: {loose}"


def rows(page: str) -> list[str]:
    """The first cell of every row about code in the page's tables, without its quotes."""
    return re.findall(r"^\| `([^`]+)` \|", (ROOT / page).read_text("utf-8"), re.MULTILINE)


def test_every_row_about_the_notebook_is_computed() -> None:
    page = "docs/from-the-notebook.md"
    computed = [line for block in read(page) if block.language == "pycon" for line in block.text.splitlines()]
    missing = [row for row in rows(page) if f">>> # {row}" not in computed]
    assert not missing
    assert {row.partition("(")[0] for row in rows(page)} >= set(ASSIGNMENT)


def test_every_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r"[\w/.-]+\.md", yaml.safe_dump(navigation())))
    written = {
        path.relative_to(DOCS).with_suffix(".md").as_posix() for path in DOCS.rglob("*.*") if path.suffix in (".md", ".ipynb")
    }
    assert written <= listed


def navigation() -> Any:
    """The table of contents of the site."""
    lines = (ROOT / "mkdocs.yml").read_text("utf-8").splitlines(keepends=True)
    start = lines.index("nav:\n")
    return yaml.safe_load("".join(lines[start:]))["nav"]


# The checkers, each on a small bad sample ----------------------------------------------------------------------------------


def test_a_wrong_result_is_found() -> None:
    with pytest.raises(AssertionError, match=r'"a.md", line 7'):
        prove("a.md", Block("pycon", 7, ">>> 1 + 1\n3\n"), {})


@pytest.mark.parametrize("command", ["traim mnist", "data lost", "train --no-such-option", "evaluate runs/a --samples many"])
def test_a_wrong_command_is_found(command: str) -> None:
    with pytest.raises((AssertionError, typer.BadParameter, typer.BadParameter.__base__)):
        parse(command.split())
