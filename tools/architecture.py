"""Rules for a tree of source files, as functions from parsed files to a list of complaints.

Nothing is imported: every rule reads the text or the syntax tree. ``tests/test_architecture.py`` states the rules of this
project with these functions, and tries each function on small bad samples.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Source:
    """One file: its path as shown in complaints, its dotted module name, and its text."""

    path: str
    module: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        """The syntax tree, parsed once."""
        return ast.parse(self.text, self.path)

    @property
    def is_package(self) -> bool:
        """Whether this is the ``__init__`` of a package."""
        return self.path.endswith("__init__.py")

    def at(self, node: ast.AST) -> str:
        """Where a node stands: ``path:line``."""
        return f"{self.path}:{getattr(node, 'lineno', 1)}"


@dataclass(frozen=True)
class Import:
    """One import of a module: what is imported, by whom, and on which line."""

    source: Source
    target: str
    line: int

    def __str__(self) -> str:
        return f"{self.source.path}:{self.line} imports {self.target}"


def read_tree(folder: Path, relative_to: Path) -> list[Source]:
    """Every Python file below ``folder``; a module's name is its path within the parent of ``folder``."""
    return [
        Source(path.relative_to(relative_to).as_posix(), _module_name(path.relative_to(folder.parent)), path.read_text("utf-8"))
        for path in sorted(folder.rglob("*.py"))
    ]


# Imports ------------------------------------------------------------------------------------------------------------------


def imports(sources: Sequence[Source], package: str) -> list[Import]:
    """All imports of ``package``'s own modules, wherever they stand in a file, type-checking blocks included."""
    known = {source.module for source in sources}
    found = []
    for source in sources:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                targets = dict.fromkeys(_targets(source, node, known))
                found += [Import(source, target, node.lineno) for target in targets if _inside(target, package)]
    return found


def wrong_way(found: Iterable[Import], package: str, layers: Sequence[Sequence[str]]) -> list[str]:
    """Imports of a module that does not stand in an earlier layer; the package's ``__init__`` and ``__main__`` are free."""
    rank = {name: number for number, layer in enumerate(layers) for name in layer}
    complaints = []
    for each in found:
        importer, imported = top(each.source.module), top(each.target)
        if importer in ("", "__main__") or importer == imported:
            continue
        if imported == "":
            complaints.append(f"{each}: import from the module that defines the name, not from {package} itself")
        elif importer in rank and imported in rank and rank[imported] >= rank[importer]:
            complaints.append(f"{each}: {imported} does not stand before {importer} in the order of modules")
    return complaints


def unplaced(sources: Iterable[Source], layers: Sequence[Sequence[str]], where: str) -> list[str]:
    """Top-level modules that the order of modules does not know."""
    known = {name for layer in layers for name in layer} | {"", "__main__"}
    return [
        f"{source.path}: no place in the order of modules; add {top(source.module)!r} to {where}, after all that it imports"
        for source in sources
        if top(source.module) not in known
    ]


def cycles(found: Iterable[Import]) -> list[str]:
    """Files that import each other in a circle, each circle once."""
    graph: dict[str, set[str]] = defaultdict(set)
    for each in found:
        if each.source.module != each.target:
            graph[each.source.module].add(each.target)
    complaints = set()
    done: set[str] = set()

    def visit(module: str, trail: list[str]) -> None:
        if module in trail:
            circle = trail[trail.index(module) :]
            first = circle.index(min(circle))
            ordered = [*circle[first:], *circle[:first], circle[first]]
            complaints.add("import cycle: " + " -> ".join(ordered))
        elif module not in done:
            for target in sorted(graph[module]):
                visit(target, [*trail, module])
            done.add(module)

    for module in sorted(graph):
        visit(module, [])
    return sorted(complaints)


def hidden_imports(sources: Iterable[Source], allowed: Sequence[str] = ()) -> list[str]:
    """Imports inside functions, except in the modules ``allowed`` and for an extra that is asked for with an install hint."""
    complaints = []
    for source in sources:
        if any(_inside(source.module, name) for name in allowed):
            continue
        excused = {id(node) for block in ast.walk(source.tree) if _asks_for_extra(block) for node in ast.walk(block)}
        inside = {id(node): node for function in _functions(source.tree) for node in ast.walk(function)}
        complaints += [
            f"{source.at(node)}: import inside a function; import at the top of the file "
            "(or, for an optional extra, in a try whose ImportError says how to install it)"
            for node in inside.values()
            if isinstance(node, ast.Import | ast.ImportFrom) and id(node) not in excused
        ]
    return complaints


def _asks_for_extra(node: ast.AST) -> bool:
    return isinstance(node, ast.Try) and any(
        _names(handler.type) & {"ImportError", "ModuleNotFoundError"}
        and any(isinstance(inner, ast.Raise) for inner in ast.walk(handler))
        and any(isinstance(inner, ast.Constant) and "install" in str(inner.value) for inner in ast.walk(handler))
        for handler in node.handlers
    )


def _targets(source: Source, node: ast.Import | ast.ImportFrom, known: set[str]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    base = node.module or ""
    if node.level:
        parents = source.module.split(".")
        parents = parents[: len(parents) - node.level + source.is_package]
        base = ".".join([*parents, *filter(None, [node.module])])
    for alias in node.names:
        if alias.name == "__version__":  # a plain string that every module may show
            continue
        yield f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base


# Budgets ------------------------------------------------------------------------------------------------------------------


def long_files(sources: Iterable[Source], most: int) -> list[str]:
    """Files of more than ``most`` lines."""
    counted = [(source, len(source.text.splitlines())) for source in sources]
    return [f"{source.path}: {lines} lines, at most {most} are allowed; split it" for source, lines in counted if lines > most]


def long_functions(sources: Iterable[Source], most: int) -> list[str]:
    """Functions of more than ``most`` lines from ``def`` to the end, without the docstring."""
    complaints = []
    for source in sources:
        for function in _functions(source.tree):
            docstring = _docstring(function)
            lines = _height(function) - (_height(docstring) if docstring else 0)
            if lines > most:
                complaints.append(f"{source.at(function)}: {function.name} has {lines} lines, at most {most} are allowed")
    return complaints


def missing_hints(sources: Iterable[Source]) -> list[str]:
    """Arguments and returns without a type, in public functions and in the public and special methods of public classes."""
    complaints = []
    for source in sources:
        for function, is_method in _public_functions(source.tree):
            for argument in _untyped_arguments(function, is_method):
                complaints.append(f"{source.at(function)}: argument {argument!r} of {function.name} has no type")
            if function.returns is None:
                complaints.append(f"{source.at(function)}: {function.name} has no return type")
    return complaints


def _public_functions(tree: ast.Module | ast.ClassDef) -> Iterator[tuple[Function, bool]]:
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from _public_functions(node)
        elif isinstance(node, Function) and (not node.name.startswith("_") or node.name.startswith("__")):
            yield node, isinstance(tree, ast.ClassDef)


def _untyped_arguments(function: Function, is_method: bool) -> list[str]:
    given = function.args
    positional = [*given.posonlyargs, *given.args]
    if is_method and "staticmethod" not in {name for d in function.decorator_list for name in _names(d)}:
        positional = positional[1:]  # self or cls
    rest = [argument for argument in (given.vararg, given.kwarg) if argument is not None]
    return [argument.arg for argument in [*positional, *given.kwonlyargs, *rest] if argument.annotation is None]


# Repeated code ------------------------------------------------------------------------------------------------------------


def repeated(sources: Iterable[Source], run: int = 6) -> tuple[float, list[str]]:
    """The share of code lines that stand in a run of ``run`` lines found elsewhere too, and where such lines are.

    Code lines are those that are left without comments, docstrings, imports and blank lines; spacing does not count.
    """
    code = {source.path: _code_lines(source) for source in sources}
    seen: dict[tuple[str, ...], list[tuple[str, int]]] = defaultdict(list)
    for path, lines in code.items():
        for start in range(len(lines) - run + 1):
            seen[tuple(text for _, text in lines[start : start + run])].append((path, start))
    marked: dict[str, set[int]] = defaultdict(set)
    for places in seen.values():
        if len(places) > 1:
            for path, start in places:
                marked[path].update(number for number, _ in code[path][start : start + run])
    total = sum(len(lines) for lines in code.values())
    share = sum(len(numbers) for numbers in marked.values()) / max(total, 1)
    return share, [f"{path}: lines {_spans(numbers)} are repeated" for path, numbers in sorted(marked.items())]


def _code_lines(source: Source) -> list[tuple[int, str]]:
    """Line number and normalized text of every code line."""
    left_out: set[int] = set()
    for node in ast.walk(source.tree):
        docstring = _docstring(node)
        for gone in (docstring, node if isinstance(node, ast.Import | ast.ImportFrom) else None):
            if gone is not None:
                left_out.update(range(gone.lineno, (gone.end_lineno or gone.lineno) + 1))
    words: dict[int, list[str]] = defaultdict(list)
    for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
        if token.type not in (tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT) and token.string.strip():
            words[token.start[0]].append(token.string)
    return [(number, " ".join(words[number])) for number in sorted(words) if number not in left_out]


def _spans(numbers: Iterable[int]) -> str:
    """Line numbers, those next to each other joined.

    >>> _spans([3, 4, 5, 9])
    '3-5, 9'
    """
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(f"{low}-{high}" if high > low else f"{low}" for low, high in spans)


# Habits -------------------------------------------------------------------------------------------------------------------


def calls_of(sources: Iterable[Source], name: str) -> list[str]:
    """Calls of the function ``name``."""
    return [
        f"{source.at(node)}: calls {name}"
        for source in sources
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name
    ]


def swallowed_errors(sources: Iterable[Source]) -> list[str]:
    """Bare ``except``, and handlers of ``Exception`` or ``BaseException`` that do nothing."""
    complaints = []
    for source in sources:
        for node in ast.walk(source.tree):
            if not isinstance(node, ast.ExceptHandler):
                continue
            if node.type is None:
                complaints.append(f"{source.at(node)}: bare except; name the errors that are expected")
            elif _names(node.type) & {"Exception", "BaseException"} and all(_does_nothing(line) for line in node.body):
                complaints.append(f"{source.at(node)}: every error is swallowed; name the errors that are expected")
    return complaints


def text_matches(sources: Iterable[Source], pattern: str, reason: str) -> list[str]:
    """Lines that a regular expression finds, with the reason why they may not stand."""
    return [
        f"{source.path}:{number}: {match.group(0)!r} {reason}"
        for source in sources
        for number, line in enumerate(source.text.splitlines(), 1)
        if (match := re.search(pattern, line))
    ]


def strangers(source: Source, base: str) -> list[str]:
    """Classes of a file that do not derive, directly or not, from the class ``base`` of the same file."""
    family = {base}
    complaints = []
    for node in source.tree.body:
        if isinstance(node, ast.ClassDef) and node.name != base:
            if {name for parent in node.bases for name in _names(parent)} & family:
                family.add(node.name)
            else:
                complaints.append(f"{source.at(node)}: {node.name} does not derive from {base}")
    return complaints


# Small helpers ------------------------------------------------------------------------------------------------------------


def _module_name(path: Path) -> str:
    """``vaelid/data/__init__.py`` -> ``vaelid.data``."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def top(module: str) -> str:
    """The part after the package's name: ``vaelid.data.digits`` -> ``data``, ``vaelid`` -> the empty string."""
    return [*module.split("."), ""][1]


def _inside(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def _functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def _docstring(node: ast.AST) -> ast.Expr | None:
    if not isinstance(node, Function | ast.ClassDef | ast.Module) or ast.get_docstring(node, clean=False) is None:
        return None
    first = node.body[0]
    return first if isinstance(first, ast.Expr) else None


def _height(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def _names(node: ast.AST | None) -> set[str]:
    """All plain names in an expression and the last parts of dotted ones."""
    found = ast.walk(node) if node is not None else ()
    return {n.id if isinstance(n, ast.Name) else n.attr for n in found if isinstance(n, ast.Name | ast.Attribute)}


def _does_nothing(statement: ast.stmt) -> bool:
    constant = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return constant or isinstance(statement, ast.Pass | ast.Continue)
