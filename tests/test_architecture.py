"""The rules of the tree. The first half states them; the second tries every checker on a small bad sample.

A failing rule names file and line. To add a module, give it a place in LAYERS.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from tools import architecture as rules
from tools.architecture import Source
from tools.docstrings import undocumented

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "vaelid"

# A module imports only from the layers above its own; modules of one layer do not know each other.
LAYERS = (
    ("errors",),
    ("settings",),
    ("loops",),
    ("kernels",),
    ("lazy",),
    ("supports",),
    ("randomness",),
    ("progress",),
    ("distributions",),
    ("networks",),
    ("data",),
    ("posteriors", "likelihoods", "priors"),
    ("vae",),
    ("objectives",),
    ("optimizers",),
    ("usercode",),
    ("parts",),
    ("recipe",),
    ("environment",),
    ("build",),
    ("folder",),
    ("evaluation",),
    ("training",),
    ("trained",),
    ("scoring",),
    ("auditing",),
    ("sweeps",),
    ("reporting",),
    ("judging",),
    ("beyond",),
    ("run",),
    ("worker",),
    ("pool",),
    ("together",),
    ("planning",),
    ("searching",),
    ("studying",),
    ("publishing",),
    ("explorer",),
    ("cli",),
)
MOST_FILE_LINES = 400
MOST_FUNCTION_LINES = 60
MOST_PUBLIC_NAMES = 30
MOST_REPEATED = 0.05
SLOW_TO_IMPORT = ("torch", "numpy", "scipy", "sklearn", "matplotlib", "PIL")
SLOW_AND_NEEDED_LATE = ("scipy.stats", "scipy.cluster", "sklearn", "matplotlib", "numba", "optuna", "jinja2")

SOURCES = rules.read_tree(PACKAGE, ROOT)
ALL_CODE = [*SOURCES, *rules.read_tree(ROOT / "tests", ROOT), *rules.read_tree(ROOT / "tools", ROOT)]
IMPORTS = rules.imports(SOURCES, "vaelid")


def assert_none(complaints: list[str]) -> None:
    assert not complaints, "\n" + "\n".join(complaints)


# The rules ----------------------------------------------------------------------------------------------------------------


def test_there_is_a_tree_to_check() -> None:
    assert len(SOURCES) > 3
    assert (PACKAGE / "__init__.py").is_file(), "src/vaelid/__init__.py is missing: without it vaelid is no package"
    assert (PACKAGE / "py.typed").is_file(), "src/vaelid/py.typed is missing: without it type hints stay hidden from users"


def test_every_module_has_a_place_in_the_order() -> None:
    assert_none(rules.unplaced(SOURCES, LAYERS, "LAYERS in tests/test_architecture.py"))


def test_imports_go_one_way() -> None:
    assert_none(rules.wrong_way(IMPORTS, "vaelid", LAYERS))


def test_no_import_cycles() -> None:
    assert_none(rules.cycles(IMPORTS))


def test_no_imports_inside_functions() -> None:
    assert_none(rules.hidden_imports(SOURCES, allowed=["vaelid.cli", "vaelid.__main__"]))


def test_files_are_short() -> None:
    assert_none(rules.long_files(ALL_CODE, MOST_FILE_LINES))


def test_functions_are_short() -> None:
    assert_none(rules.long_functions(ALL_CODE, MOST_FUNCTION_LINES))


def test_public_functions_have_types() -> None:
    assert_none(rules.missing_hints(SOURCES))


def test_everything_public_says_what_it_is() -> None:
    assert_none(undocumented([*SOURCES, *rules.read_tree(ROOT / "tools", ROOT)]))


def test_little_code_is_repeated() -> None:
    share, where = rules.repeated(SOURCES)
    assert share < MOST_REPEATED, f"{share:.1%} of the code is repeated:\n" + "\n".join(where)


def test_no_hasattr() -> None:
    assert_none(rules.calls_of(SOURCES, "hasattr"))


def test_no_swallowed_errors() -> None:
    assert_none(rules.swallowed_errors(ALL_CODE))


def test_nothing_is_left_to_do() -> None:
    assert_none(rules.text_matches(SOURCES, r"\b(TODO|FIXME|XXX)\b", "is left: do it, or say in an issue what is missing"))


def test_no_paths_of_one_machine() -> None:
    # One letter stands in brackets so that this line does not match itself.
    pattern = r"(?<![\w.])/wor[k]\b|\bshare[d]/|/roo[t]/|/hom[e]/\w"
    assert_none(rules.text_matches(tracked_texts(), pattern, "is a path of one machine"))


def test_errors_are_one_family() -> None:
    [errors] = [source for source in SOURCES if source.module == "vaelid.errors"]
    assert_none(rules.strangers(errors, "VaelidError"))


def test_public_names() -> None:
    import vaelid

    names = list(vaelid.__all__)
    assert len(names) <= MOST_PUBLIC_NAMES
    assert len(set(names)) == len(names), "__all__ has a name twice"
    assert_none([f"vaelid.{name}: {reason}" for name in names if (reason := why_missing(vaelid, name))])
    assert set(names) <= set(dir(vaelid)), "dir(vaelid) must show the lazy names too"
    modules = {rules.top(source.module) for source in SOURCES}
    assert not modules & set(names), "a public name and a module share a name: importing the module would replace the name"
    with pytest.raises(AttributeError, match="no_such_name"):
        vaelid.no_such_name


@pytest.mark.parametrize(
    ("statement", "slow"),
    [
        ("import vaelid", SLOW_TO_IMPORT),
        ("from vaelid import train, open_run", SLOW_AND_NEEDED_LATE),
        ("import vaelid.reporting.tables", SLOW_AND_NEEDED_LATE),  # what `vaelid train` waits for
    ],
)
def test_import_is_light(statement: str, slow: tuple[str, ...]) -> None:
    code = f"{statement}; import sys; print(*[name for name in {slow} if name in sys.modules])"
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); {code}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [], f"{statement!r} also imports {done.stdout}"


def test_one_version() -> None:
    import vaelid

    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    cited = re.findall(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text("utf-8"), re.MULTILINE)
    assert [version] == cited
    assert vaelid.__version__ == version


def why_missing(module: ModuleType, name: str) -> str | None:
    """Why a name of a module cannot be had, or nothing if it can."""
    try:
        getattr(module, name)
    except (AttributeError, ImportError) as error:
        return str(error)
    return None


def tracked_texts() -> list[Source]:
    """Every text file under version control, the verification script of the project itself left out."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:  # an unpacked archive
        paths = [path for top in ("src", "docs", "tests", "tools") for path in (ROOT / top).rglob("*")] + [*ROOT.glob("*.*")]
    texts = []
    for path in sorted(paths):
        if path.is_file() and path.suffix in (
            ".py",
            ".md",
            ".toml",
            ".txt",
            ".cff",
            ".html",
            ".js",
            ".css",
            ".json",
            ".yml",
            ".ipynb",
            "",
        ):
            name = path.relative_to(ROOT).as_posix()
            if name != ".ci/run":
                texts.append(Source(name, "", path.read_text("utf-8", errors="replace")))
    return texts


# The checkers, each on a small bad sample ---------------------------------------------------------------------------------


def sample(module: str, text: str) -> Source:
    return Source(f"src/{module.replace('.', '/')}.py", module, text)


def package(module: str, text: str = "") -> Source:
    return Source(f"src/{module.replace('.', '/')}/__init__.py", module, text)


@pytest.mark.parametrize(
    ("module", "line", "complaint"),
    [
        ("p.low", "from p.high import f", "high does not stand before low"),
        ("p.low", "import p.high", "high does not stand before low"),
        ("p.low", "from p import high", "high does not stand before low"),
        ("p.low", "from . import high", "high does not stand before low"),
        ("p.low", "def f():\n    from p.high import g", "high does not stand before low"),
        ("p.left", "from p.right import f", "right does not stand before left"),
        ("p.left", "from p import run", "not from p itself"),
        ("p.high", "from p.low import f\nimport os\nfrom p import low, __version__", None),
        ("p.__main__", "from p.high import main", None),
    ],
)
def test_wrong_way(module: str, line: str, complaint: str | None) -> None:
    others = [package("p"), *(sample(f"p.{name}", "") for name in ("low", "left", "right", "high") if f"p.{name}" != module)]
    found = rules.wrong_way(
        rules.imports([*others, sample(module, line)], "p"), "p", [["low"], ["left", "right"], ["high"], ["__main__"]]
    )
    assert len(found) == (complaint is not None)
    assert complaint is None or complaint in found[0]


def test_unplaced() -> None:
    [complaint] = rules.unplaced([package("p"), sample("p.known", ""), sample("p.new.part", "")], [["known"]], "LAYERS in x.py")
    assert "src/p/new/part.py" in complaint
    assert "add 'new' to LAYERS in x.py" in complaint


def test_cycles() -> None:
    tree = [
        package("p"),
        package("p.data", "from p.data.a import f"),
        sample("p.data.a", "from .b import g"),
        sample("p.data.b", "from p.data import f"),
        sample("p.other", "import p.data\nfrom p.data.a import f"),
    ]
    assert rules.cycles(rules.imports(tree, "p")) == ["import cycle: p.data -> p.data.a -> p.data.b -> p.data"]
    assert rules.cycles(rules.imports([*tree[:3], sample("p.data.b", ""), tree[4]], "p")) == []


EXTRA = """
def f():
    try:
        import fancy
    except ImportError as error:
        raise RuntimeError({hint!r}) from error
"""


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("import os", 0),
        ("def f():\n    import os", 1),
        ("class A:\n    def f(self):\n        def g():\n            from os import path", 1),
        (EXTRA.format(hint="pip install 'p[fancy]'"), 0),
        (EXTRA.format(hint="it is missing"), 1),
    ],
)
def test_hidden_imports(text: str, count: int) -> None:
    assert len(rules.hidden_imports([sample("p.low", text)])) == count
    assert rules.hidden_imports([sample("p.cli", text)], allowed=["p.cli"]) == []


def test_long_files() -> None:
    assert rules.long_files([sample("p.low", "x = 1\n" * 3)], 3) == []
    assert rules.long_files([sample("p.low", "x = 1\n" * 4)], 3) == ["src/p/low.py: 4 lines, at most 3 are allowed; split it"]


def test_long_functions() -> None:
    text = 'class A:\n    def f(self):\n        """One.\n\n        Two.\n        """\n        a = 1\n        return a\n'
    assert rules.long_functions([sample("p.low", text)], 3) == []
    assert rules.long_functions([sample("p.low", text)], 2) == ["src/p/low.py:2: f has 3 lines, at most 2 are allowed"]


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("def f(a: int, *b: int, c: int = 1, **d: int) -> int: ...", []),
        ("def f(a, *b, c=1, **d) -> int: ...", ["'a'", "'c'", "'b'", "'d'"]),
        ("def f(): ...", ["f has no return type"]),
        ("class A:\n    def __init__(self, a) -> None: ...", ["'a'"]),
        ("class A:\n    @staticmethod\n    def f(a) -> None: ...", ["'a'"]),
        ("class A:\n    @classmethod\n    def f(cls) -> None: ...", []),
        ("def _f(a): ...\nclass _A:\n    def f(self, a): ...\nclass B:\n    def _f(self, a): ...", []),
    ],
)
def test_missing_hints(text: str, missing: list[str]) -> None:
    complaints = rules.missing_hints([sample("p.low", text)])
    assert len(complaints) == len(missing)
    assert all(part in complaint for part, complaint in zip(missing, complaints, strict=True))


BASE = '"""M."""\nclass Base:\n    """B."""\n    def f(self):\n        """F."""\n    def g(self): ...\n'


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("def f(): ...", ["p.py:1 has", "f has"]),
        ('"""M."""\ndef f(): ...\nclass A: ...\ndef _g(): ...\nclass _B:\n    def f(self): ...', ["f has", "A has"]),
        ('"""M."""\nclass A:\n    """A."""\n    def __len__(self): ...\n    def f(self):\n        def g(): ...', ["A.f has"]),
        (BASE, ["Base.g has"]),
        (BASE + 'class A(Base):\n    """A."""\n    def f(self): ...\n    def g(self): ...\n', ["Base.g has", "A.g has"]),
        (BASE + 'class _M(Base): ...\nclass A(_M):\n    """A."""\n    def f(self): ...\n', ["Base.g has"]),
        (BASE + 'class A(torch.Base2):\n    """A."""\n    def f(self): ...\n', ["Base.g has", "A.f has"]),
        ('"""M."""\nclass A:\n    """A."""\n    @f.setter\n    def f(self, x): ...', []),
    ],
)
def test_undocumented(text: str, names: list[str]) -> None:
    complaints = undocumented([sample("p", text)])
    assert len(complaints) == len(names), complaints
    assert all(name in complaint for name, complaint in zip(names, complaints, strict=True))
    assert undocumented([sample("p", '"""M."""\ndef f(): ...')], spoken_for=["f"]) == []


def test_repeated() -> None:
    block = "def f(x):\n    a = x\n    b = a\n    c = b\n    d = c\n    return d\n"
    respaced = '"""Doc."""\nimport os\n\n' + block.replace("b = a", "b  =  a  # why\n")
    unlike = "".join(f"x{i} = {i}\n" for i in range(12))
    assert rules.repeated([sample("p.a", block), sample("p.b", unlike)]) == (0, [])
    share, where = rules.repeated([sample("p.a", block), sample("p.b", respaced + unlike)])
    assert share == 12 / 24
    assert where == ["src/p/a.py: lines 1-6 are repeated", "src/p/b.py: lines 4-6, 8-10 are repeated"]
    assert rules.repeated([sample("p.a", block), sample("p.b", block.replace("d = c", "d = -c"))]) == (0, [])
    assert rules.repeated([]) == (0, [])


def test_calls_of() -> None:
    assert rules.calls_of([sample("p.a", "x = 1\nhasattr(x, 'y')")], "hasattr") == ["src/p/a.py:2: calls hasattr"]
    assert rules.calls_of([sample("p.a", "# hasattr(x, 'y')\nx = 'hasattr(a)'")], "hasattr") == []


@pytest.mark.parametrize(
    ("handler", "count"),
    [
        ("except:\n    raise", 1),
        ("except Exception:\n    pass", 1),
        ("except (ValueError, BaseException):\n    ...", 1),
        ("except ValueError:\n    pass", 0),
        ("except Exception as error:\n    print(error)", 0),
    ],
)
def test_swallowed_errors(handler: str, count: int) -> None:
    assert len(rules.swallowed_errors([sample("p.a", f"try:\n    f()\n{handler}")])) == count


def test_text_matches() -> None:
    assert rules.text_matches([sample("p.a", "a\n# to-do: b")], "to-do", "is left") == ["src/p/a.py:2: 'to-do' is left"]


def test_strangers() -> None:
    text = "class Base(Exception): ...\nclass A(Base): ...\nclass B(A): ...\nclass C(ValueError): ..."
    assert rules.strangers(sample("p.errors", text), "Base") == ["src/p/errors.py:4: C does not derive from Base"]
