"""Print the commands that a Markdown page promises to work, as one shell script.

A fenced ``bash`` or ``console`` block counts if the line before it is the comment ``<!-- ci -->``. Of a ``console`` block only
the lines after a ``$ `` prompt (and their ``\\`` continuations) are commands; the rest is output.

    python tools/readme_commands.py README.md | bash -eux
"""

from __future__ import annotations

import sys
from pathlib import Path

MARK = "<!-- ci -->"
FENCE = "```"


class PageError(Exception):
    """The page has no commands to run, or a mark that is not followed by a block of commands."""


def commands(page: str) -> list[str]:
    r"""The lines of shell code in the marked blocks of a page, in order.

    >>> commands("Try:\n<!-- ci -->\n```console\n$ make demo\nIt works.\n```\n")
    ['make demo']
    >>> commands("```bash\nmake demo\n```\n")
    Traceback (most recent call last):
        ...
    tools.readme_commands.PageError: No block is marked with <!-- ci -->.
    >>> commands("<!-- ci -->\n\n```bash\nmake demo\n```\n")
    Traceback (most recent call last):
        ...
    tools.readme_commands.PageError: Line 2 must open a bash or console block; it is ''.
    >>> commands("<!-- ci -->\n```console\nIt works.\n```\n")
    Traceback (most recent call last):
        ...
    tools.readme_commands.PageError: The block marked on line 1 holds no command.
    >>> commands("<!-- ci -->\n```bash\nmake demo\n")
    Traceback (most recent call last):
        ...
    tools.readme_commands.PageError: The block opened on line 2 is never closed.
    """
    lines = page.splitlines()
    found: list[str] = []
    marks = [number for number, line in enumerate(lines) if line.strip() == MARK]
    if not marks:
        raise PageError(f"No block is marked with {MARK}.")
    for mark in marks:
        language, block = _block_after(lines, mark)
        lines_to_run = _typed(block) if language == "console" else block
        if not any(line.strip() for line in lines_to_run):
            raise PageError(f"The block marked on line {mark + 1} holds no command.")
        found += lines_to_run
    return found


def _block_after(lines: list[str], mark: int) -> tuple[str, list[str]]:
    """Language and content of the fenced block whose first line follows line ``mark`` (counted from 0)."""
    opening = lines[mark + 1].strip() if mark + 1 < len(lines) else ""
    language = opening.removeprefix(FENCE)
    if not opening.startswith(FENCE) or language not in ("bash", "console"):
        raise PageError(f"Line {mark + 2} must open a bash or console block; it is {opening!r}.")
    indent = len(lines[mark + 1]) - len(lines[mark + 1].lstrip())
    block: list[str] = []
    for line in lines[mark + 2 :]:
        if line.strip() == FENCE:
            return language, block
        block.append(line[indent:])
    raise PageError(f"The block opened on line {mark + 2} is never closed.")


def _typed(block: list[str]) -> list[str]:
    r"""What a person types in a console block.

    >>> _typed(["$ echo a \\", "    b", "a b", "$ ls"])
    ['echo a \\', '    b', 'ls']
    """
    typed: list[str] = []
    for line in block:
        if line.startswith("$ "):
            typed.append(line[2:])
        elif typed and typed[-1].endswith("\\"):
            typed.append(line.removeprefix("> "))
        else:
            continue
    return typed


def main(arguments: list[str]) -> int:
    """Print the commands of the page named on the command line; 1 if it has none."""
    if len(arguments) != 1:
        print("usage: readme_commands.py PAGE.md", file=sys.stderr)
        return 2
    try:
        print("\n".join(commands(Path(arguments[0]).read_text(encoding="utf-8"))))
    except (OSError, PageError) as error:
        print(f"{arguments[0]}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
