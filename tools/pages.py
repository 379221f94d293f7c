"""Fenced blocks of a Markdown page, each with its language and place, so that tests can run what a page shows."""

from __future__ import annotations

import re
from dataclasses import dataclass

_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,})(?P<language>[\w+-]*)")
_LOOSE = re.compile(r"( {4,}| *\$ +)(>>> |vaelid |python |pip |make )")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language (empty if none is named), the number of its first line (from 1), and its text."""

    language: str
    line: int
    text: str


class PageError(Exception):
    """A page that cannot be read as Markdown with fenced blocks."""


def blocks(page: str) -> list[Block]:
    r"""The fenced blocks of a page, in order.

    >>> blocks("Try:\n```python\nx = 1\n```\n")
    [Block(language='python', line=3, text='x = 1\n')]
    >>> blocks("```python\nx = 1\n")
    Traceback (most recent call last):
        ...
    tools.pages.PageError: The block opened on line 1 is never closed.
    """
    found: list[Block] = []
    opening: re.Match[str] | None = None
    start, lines = 0, list[str]()
    for number, line in enumerate(page.splitlines(), start=1):
        if opening is None:
            opening, start, lines = _FENCE.match(line), number, []
        elif line.strip() == opening["fence"]:
            found.append(Block(opening["language"], start + 1, "".join(f"{text}\n" for text in lines)))
            opening = None
        else:
            lines.append(line[len(opening["indent"]) :])
    if opening is not None:
        raise PageError(f"The block opened on line {start} is never closed.")
    return found


def unfenced(page: str) -> list[tuple[int, str]]:
    r"""Lines of Python or shell that stand outside of fences, where no test would run them, with their numbers from 1.

    >>> unfenced("Try:\n\n    vaelid parts\n\n    >>> 1 + 1\n    2\n")
    [(3, '    vaelid parts'), (5, '    >>> 1 + 1')]
    >>> unfenced("```console\n$ vaelid parts\n```\n")
    []
    """
    inside = {block.line + offset for block in blocks(page) for offset in range(block.text.count("\n"))}
    return [(n, line) for n, line in enumerate(page.splitlines(), start=1) if n not in inside and _LOOSE.match(line)]


def typed(block: Block) -> list[str]:
    r"""The shell commands of a block, without prompts, comments and output; a line that ends in a backslash goes on.

    >>> typed(Block("console", 1, "$ vaelid parts\npriors …\n$ vaelid train a \\\n    --epochs 3  # or more\n"))
    ['vaelid parts', 'vaelid train a --epochs 3']
    >>> typed(Block("bash", 1, "# first\nvaelid parts\n"))
    ['vaelid parts']
    """
    lines = re.sub(r" *\\\n *(> )?", " ", block.text).splitlines()
    prompted = [line[2:] for line in lines if line.startswith("$ ")]
    commands = (re.sub(r"(^|\s+)#\s.*$", "", line).strip() for line in prompted or lines)
    return [command for command in commands if command]
