"""The reference pages of the documentation, as Markdown, from the tables and docstrings of the package."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import typer.main

import vaelid
from vaelid.cli import app
from vaelid.parts import KINDS, part_options
from vaelid.recipe import read_about, read_recipe, recipe_names
from vaelid.settings import Option

_SECTION = re.compile(r"^(Args|Attributes|Raises|References|Returns):\n((?:[ \t]+.*\n?|\n)*)", re.MULTILINE)
_ROLE = re.compile(r":(?:class|meth|attr|func|mod):(?=`)")


def pages() -> dict[str, str]:
    """Every page by its name."""
    return {"parts": parts(), "recipes": recipes(), "commands": commands(), "python": python()}


def parts() -> str:
    """All tables of parts, with formulas, options and ranges."""
    sections = ["# Parts", "What `vaelid parts` prints: every part by the name that a recipe or an option gives it."]
    for kind, about in KINDS.items():
        sections.append(f"## {kind.capitalize()}")
        for name, part in about.table.items():
            sections += [f"### `{name}` {{ #{kind}-{name} }}", *_described(part, part_options(kind, part))]
    return "\n\n".join(sections) + "\n"


def recipes() -> str:
    """Built-in recipes, as TOML with every default written out."""
    sections = ["# Recipes", "`vaelid train DATA --recipe NAME`; `vaelid recipes show NAME` prints what stands here."]
    for name in recipe_names():
        recipe, code_from = read_recipe(name).adopt_code()
        toml = recipe.resolve(code_from).to_toml()
        sections += [f"## {name}", read_about(name), f'??? note "All settings"\n\n{_indented(_fenced("toml", toml))}']
    return "\n\n".join(sections) + "\n"


def commands() -> str:
    """All verbs of the command line, with their arguments and options."""
    sections = ["# Command line", "`vaelid VERB --help` says the same."]
    for words, command in _verbs((), typer.main.get_command(app)):
        context = command.make_context(words[-1], [], resilient_parsing=True)
        usage = " ".join(("vaelid", *words, *command.collect_usage_pieces(context)))
        rows = [_parameter(parameter) for parameter in command.params if parameter.name != "help"]
        sections += [f"## {' '.join(words)}", _prose(command.help or ""), _fenced("text", usage)]
        sections += [_table(("argument", "meaning", "default"), rows)] if rows else []
    return "\n\n".join(sections) + "\n"


def python() -> str:
    """The public names; mkdocstrings fills in signatures and docstrings."""
    names = [name for name in vaelid.__all__ if not name.startswith("__")]
    listed = (f"::: {getattr(vaelid, name).__module__}.{getattr(vaelid, name).__qualname__}" for name in names)
    return "\n\n".join(["# Python", "The public names of `import vaelid`.", *listed]) + "\n"


def _described(part: Callable[..., Any], options: dict[str, Option]) -> list[str]:
    text = inspect.cleandoc(inspect.getdoc(part) or "") + "\n"
    sections = _sections(text)
    body = [_prose(_SECTION.sub("", text).strip())]
    if options:
        meanings = _meanings(part)
        rows = [
            (f"`{name}`", _allowed(option), _default(option.default), meanings.get(name, "")) for name, option in options.items()
        ]
        width = 4 if any(row[3] for row in rows) else 3
        body.append(_table(("option", "allowed", "default", "meaning")[:width], [row[:width] for row in rows]))
    if "References" in sections:
        body.append(f"*{' '.join(sections['References'].split())}*")
    return body


def _sections(docstring: str) -> dict[str, str]:
    return {match[1]: inspect.cleandoc(match[2]) for match in _SECTION.finditer(docstring)}


def _meanings(part: Callable[..., Any]) -> dict[str, str]:
    """What the ``Args`` sections of a part and its base classes say, by argument; lines that go on are joined."""
    found: dict[str, str] = {}
    for owner in reversed(inspect.getmro(part)) if inspect.isclass(part) else [part]:
        section = _sections(inspect.cleandoc(owner.__doc__ or "") + "\n").get("Args", "")
        pairs = (entry.partition(": ") for entry in re.split(r"\n(?=\S)", section) if ": " in entry)
        found |= {name.strip(): " ".join(text.split()) for names, _, text in pairs for name in names.split(",")}
    return found


def _allowed(option: Option) -> str:
    return ", ".join(f"`{choice}`" for choice in option.choices) or option.allowed


def _verbs(words: tuple[str, ...], command: Any) -> Iterable[tuple[tuple[str, ...], Any]]:
    for name, inner in getattr(command, "commands", {}).items():
        yield from _verbs((*words, name), inner)
    if words and not getattr(command, "commands", {}):
        yield words, command


def _parameter(parameter: Any) -> tuple[str, str, str]:
    names = [*parameter.opts, *parameter.secondary_opts]
    shown = " ".join(f"`{name}`" for name in names) if parameter.param_type_name == "option" else f"`{parameter.metavar}`"
    return shown, _prose(parameter.help or ""), "" if parameter.default in (None, False) else _default(parameter.default)


def _default(value: Any) -> str:
    if value is inspect.Parameter.empty:
        return "*required*"
    return f"`{list(value) if isinstance(value, tuple) else value}`"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _fenced(language: str, text: str) -> str:
    return f"```{language}\n{text.rstrip()}\n```"


def _indented(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.splitlines())


def _prose(text: str) -> str:
    return _ROLE.sub("", text.replace("\b", "").strip())
