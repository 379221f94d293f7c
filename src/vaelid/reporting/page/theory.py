"""The theory of this run's own parts, from ``templates/theory.toml``, and formulas as MathML, which needs no script."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources

from latex2mathml.converter import convert
from markupsafe import Markup


@dataclass(frozen=True)
class Theory:
    """A part: what it is for, its log density, how it is sampled, and what often goes wrong; formulas in LaTeX."""

    about: str
    density: str
    sampling: str
    sampler: str = ""
    trap: str = ""


#: What can be said about a user's own part.
OWN = Theory(
    about="This is a part of the user's own; its docstring and its file in the run's folder say what it is.",
    density="",
    sampling="Its distribution draws by its own sample method; the audit tests whether sampler and density belong together.",
)


@cache
def known() -> dict[str, dict[str, Theory]]:
    """The theory of the built-in parts, by kind and name."""
    text = (resources.files("vaelid.reporting.page") / "templates" / "theory.toml").read_text(encoding="utf-8")
    return {kind: {name: Theory(**told) for name, told in table.items()} for kind, table in tomllib.loads(text).items()}


def theory_of(kind: str, name: str) -> Theory:
    """What is known about a part by its kind and name; ``OWN`` for one of the user's."""
    return known()[kind].get(name, OWN)


def inline(latex: str) -> Markup:
    """A formula in the line, as MathML.

    >>> print(inline("z_d"))
    <math display="inline"><mrow><msub><mi>z</mi><mi>d</mi></msub></mrow></math>
    """
    return _mathml(latex, "inline")


def block(latex: str) -> Markup:
    """A formula on a line of its own, as MathML."""
    return _mathml(latex, "block")


def _mathml(latex: str, display: str) -> Markup:
    # The formulas are ours, and the converter escapes what it reads.
    return Markup(convert(latex, display=display).replace(' xmlns="http://www.w3.org/1998/Math/MathML"', ""))
