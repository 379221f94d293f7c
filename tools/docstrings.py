"""The rule that everything public says what it is, as a function from parsed files to a list of complaints."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence

from tools.architecture import Function, Source

Classes = Mapping[str, ast.ClassDef]


def undocumented(sources: Sequence[Source], spoken_for: Sequence[str] = ()) -> list[str]:
    """Public modules, classes, functions, methods and properties without a docstring.

    Free are private names (``_name``, and all that stands in them), special methods, whose class speaks for them, setters,
    functions within functions, and a method of which a base class *of these files* says already what it promises.

    Args:
        spoken_for: full names of what the docstring of its class explains
    """
    classes = {node.name: node for source in sources for node in ast.walk(source.tree) if isinstance(node, ast.ClassDef)}
    complaints = []
    for source in sources:
        if not ast.get_docstring(source.tree):
            complaints.append(f"{source.path}:1 has no docstring")
        for node, name, within in _public(source.tree):
            promised = within is not None and any(_documents(base, node.name, classes) for base in _bases(within, classes))
            if not ast.get_docstring(node) and not promised and name not in spoken_for:
                complaints.append(f"{source.at(node)} {name} has no docstring")
    return complaints


def _public(tree: ast.Module) -> Iterator[tuple[Function | ast.ClassDef, str, ast.ClassDef | None]]:
    """Public definitions with their full names, and the class that they stand in, if any."""
    for node in tree.body:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            yield node, node.name, None
            if isinstance(node, ast.ClassDef):
                for member in node.body:
                    if isinstance(member, Function) and not member.name.startswith("_") and not _is_setter(member):
                        yield member, f"{node.name}.{member.name}", node


def _is_setter(function: Function) -> bool:
    return any(isinstance(d, ast.Attribute) and d.attr == "setter" for d in function.decorator_list)


def _bases(node: ast.ClassDef, classes: Classes) -> Iterator[ast.ClassDef]:
    """The direct bases of a class that are defined in these files, found by name."""
    for base in node.bases:
        name = ast.unparse(base).rpartition(".")[2]
        if name in classes and classes[name] is not node:
            yield classes[name]


def _documents(node: ast.ClassDef, method: str, classes: Classes) -> bool:
    """Whether the class, or one that it derives from, has this method with a docstring."""
    own = (member for member in node.body if isinstance(member, Function) and member.name == method)
    return any(ast.get_docstring(member) for member in own) or any(
        _documents(base, method, classes) for base in _bases(node, classes)
    )
