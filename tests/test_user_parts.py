"""A user's own parts: trained from a file, kept in the run, and run again only where that is safe."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import vaelid
from tiny_runs import TINY, Program, no_figures
from user_code import SOURCE
from vaelid import usercode
from vaelid.errors import PartError
from vaelid.recipe import read_recipe
from vaelid.run import Run

pytestmark = pytest.mark.usefixtures(no_figures.__name__)

# kind of part, class, an option of its constructor, a value, where it stands afterwards
PARTS: list[tuple[str, str, str, float, Callable[[Run], Any]]] = [
    ("prior", "MyPrior", "width", 2.5, lambda run: run.recipe.prior.options["width"]),
    ("posterior", "MyPosterior", "", 0, lambda run: 0),
    ("likelihood", "MyLikelihood", "temperature", 2.0, lambda run: run.model.likelihood.temperature),
    ("encoder", "MyNetwork", "width", 5, lambda run: run.model.posterior.network.first.out_features),
    ("decoder", "MyNetwork", "width", 4, lambda run: run.model.likelihood.network.first.out_features),
    ("objective", "MyObjective", "weight", 0.5, lambda run: run.recipe.objective.options["weight"]),
    ("schedule", "MySchedule", "every", 2, lambda run: run.recipe.schedule.options["every"]),
]
QUICK = {**TINY, "training.epochs": 1, "data.train_limit": 40, "data.held_out_limit": 10}


def settings_for(kind: str) -> dict[str, Any]:
    """The tiny settings without those of the part that is replaced."""
    return {name: value for name, value in QUICK.items() if not name.startswith(f"{kind}.")}


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's file, in the folder that the user stands in; code that earlier tests have run is forgotten."""
    monkeypatch.setattr(usercode, "_MODULES", {})
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "parts.py"
    path.write_text(SOURCE)
    return path


@pytest.fixture
def program(capsys: pytest.CaptureFixture[str]) -> Program:
    return Program(capsys)


def trained(parts: Path) -> Run:
    settings = {**settings_for("prior"), "prior.width": 2.5}
    return vaelid.train("digits", prior="parts.py:MyPrior", out="run", device="cpu", settings=settings)


def forget(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Another process of another user."""
    monkeypatch.setattr(usercode, "_MODULES", {})
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "of another user"))


@pytest.mark.parametrize(("kind", "name", "option", "value", "found"), PARTS, ids=[kind for kind, *_ in PARTS])
def test_every_kind_of_part_trains_and_is_found_again(
    kind: str, name: str, option: str, value: float, found: Callable[[Run], Any], parts: Path
) -> None:
    settings = {**settings_for(kind), f"{kind}.name": f"parts.py:{name}", **({f"{kind}.{option}": value} if option else {})}
    run = vaelid.train("digits", out="run", device="cpu", settings=settings)
    assert found(run) == value
    assert getattr(run.recipe, kind).name == f"parts.py:{name}"
    assert (run.folder.code / "parts.py").read_text() == SOURCE
    assert run.recipe.code == {"parts.py": usercode.sha256(parts)}
    parts.unlink()  # the run has its own copy
    opened = vaelid.open_run("run", device="cpu")
    assert opened.evaluate(samples=3)["images"] == 10
    assert torch.equal(opened.sample(2).draws, run.sample(2).draws)


def test_a_class_is_as_good_as_its_name(parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("parts", parts)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "parts", module)
    spec.loader.exec_module(module)
    run = vaelid.train("digits", prior=module.MyPrior, out="run", device="cpu", settings=settings_for("prior"))
    assert run.recipe.prior.name == "parts.py:MyPrior"
    assert type(run.model.prior).__name__ == "MyPrior"


def test_a_built_in_class_becomes_its_name(parts: Path) -> None:
    settings = settings_for("prior")
    run = vaelid.train("digits", prior=vaelid.StandardNormalPrior, out="run", device="cpu", settings=settings)
    assert (run.recipe.prior.name, run.recipe.code) == ("standard-normal", {})


def test_a_class_without_a_file_is_refused(parts: Path) -> None:
    homeless = type("Homeless", (vaelid.Prior,), {"__module__": "nowhere"})
    with pytest.raises(PartError, match=r"The source of the class Homeless cannot be found\.\nPut it into a file"):
        vaelid.train("digits", prior=homeless, out="run", settings=settings_for("prior"))


def test_a_class_inside_a_function_is_refused(parts: Path) -> None:
    class Local(vaelid.StandardNormalPrior):
        pass

    with pytest.raises(PartError, match="has no class"):
        vaelid.train("digits", prior=Local, out="run", settings=settings_for("prior"))


def test_the_command_line_takes_parts_and_their_options(parts: Path, program: Program) -> None:
    options = [
        f"--set={name}={list(value) if isinstance(value, tuple) else value}" for name, value in settings_for("prior").items()
    ]
    said = program("train", "digits", *options, "--prior", "parts.py:MyPrior", "--set", "prior.width=3", "--out", "run")
    assert said.code == 0
    assert "parts.py:MyPrior prior" in said.out
    assert "user code" in said.out
    assert vaelid.open_run("run").recipe.prior.options == {"width": 3.0}
    assert program("evaluate", "run", "--samples", 3).code == 0
    assert program("train", "digits", *options, "--prior", "parts.py:MyPrior", "--set", "prior.width=3", "--out", "run").code == 0


WRONG: list[tuple[list[str], str]] = [
    (["--prior", "parts.py:MyPrior", "--set", "prior.width=-1"], "prior.width must be > 0; it is -1"),
    (["--prior", "parts.py:MyPrior", "--set", "prior.width=wide"], "prior.width must be float > 0; it is 'wide'"),
    (["--prior", "parts.py:MyPrior", "--set", "prior.wdth=1"], "Did you mean 'width'?"),
    (["--prior", "parts.py:Nope"], "has no class 'Nope'. It has:"),
    (["--prior", "nofile.py:Nope"], "nofile.py cannot be read"),
    (["--prior", "parts.py:MyObjective"], "MyObjective is not a subclass of vaelid.Prior"),
    (["--optimizer", "parts.py:MyPrior"], "has to be a built-in one"),
]


@pytest.mark.parametrize(("options", "reason"), WRONG, ids=[reason for _, reason in WRONG])
def test_parts_that_cannot_be(options: list[str], reason: str, parts: Path, program: Program) -> None:
    assert reason in program.refuses("train", "digits", *options, "--out", "run")
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("line", "reason"), [("1/0", "ZeroDivisionError"), ("def", "SyntaxError"), ("import no_such", "ModuleNotFoundError")]
)
def test_a_file_that_does_not_run(line: str, reason: str, parts: Path, program: Program) -> None:
    parts.write_text(f"{SOURCE}\n{line}\n")
    assert f"fails to run: {reason}" in program.refuses("train", "digits", "--prior", "parts.py:MyPrior", "--out", "run")


# Trust --------------------------------------------------------------------------------------------------------------------


def test_code_of_strangers_does_not_run(parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: Program) -> None:
    trained(parts)
    forget(monkeypatch, tmp_path)
    for command in (["evaluate"], ["sample"], ["reconstruct"], ["interpolate"], ["encode"]):
        message = program.refuses(*command, "run")
        assert "which you have not trained with on this machine" in message
        assert "--allow-code" in message
    with pytest.raises(PartError, match="allow_code=True"):
        vaelid.open_run("run").sample(1)
    assert not usercode._MODULES, "nothing ran"
    assert "MyPrior" in program("show", "run").out
    assert not usercode._MODULES, "show runs no code"


def test_allow_code_is_remembered(parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: Program) -> None:
    trained(parts)
    forget(monkeypatch, tmp_path)
    assert program("evaluate", "run", "--samples", 2, "--allow-code").code == 0
    monkeypatch.setattr(usercode, "_MODULES", {})
    assert program("sample", "run").code == 0


@pytest.mark.parametrize("allow", [False, True])
def test_tampered_code_does_not_run(
    allow: bool, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: Program
) -> None:
    run = trained(parts)
    forget(monkeypatch, tmp_path)
    copy = run.folder.code / "parts.py"
    copy.write_text(f"{SOURCE}\nopen({str(tmp_path / 'ran')!r}, 'w')\n")
    usercode.trust(run.recipe.code["parts.py"])
    message = program.refuses("sample", "run", *(["--allow-code"] if allow else []))
    assert "is not the file that the run was trained with" in message
    assert not (tmp_path / "ran").exists()
    copy.unlink()
    assert "parts.py is missing; the run was trained with it" in program.refuses("sample", "run")


def test_a_recipe_of_strangers_is_shown_without_running_its_code(parts: Path, tmp_path: Path, program: Program) -> None:
    recipe = read_recipe("digits").override({"prior.name": "parts.py:MyPrior"})
    Path("recipe.toml").write_text(recipe.to_toml())
    assert "which you have not trained with" in program.refuses("recipes", "show", "recipe.toml")
    assert not usercode._MODULES
    usercode.trust(usercode.sha256(parts))
    assert "width = 1.0" in program("recipes", "show", "recipe.toml").out


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("return 3", "AttributeError: 'int' object has no attribute 'log_prob'"),
        ("raise KeyError('oops')", "KeyError: 'oops'"),
    ],
)
def test_a_part_that_breaks_at_work_is_the_users_and_makes_no_run(body: str, reason: str, parts: Path, program: Program) -> None:
    with parts.open("a") as file:
        file.write("\n\nclass Odd(Prior):\n    def __init__(self, latent: int) -> None:\n        super().__init__()\n\n")
        file.write(f"    def forward(self):\n        {body}\n")
    options = [f"--set={name}={value}" for name, value in settings_for("prior").items() if "hidden" not in name]
    message = program.refuses("train", "digits", *options, "--prior", "parts.py:Odd", "--out", "odd")
    assert f"your own parts fails on training images: {reason}" in message
    assert not (Path("odd") / "recipe.toml").exists()


def test_a_file_that_ends_the_program_is_refused(parts: Path) -> None:
    parts.write_text("import sys\nsys.exit(7)\n")
    with pytest.raises(PartError, match=r"parts.py fails to run: SystemExit: 7"):
        usercode.load_class(parts, "P", usercode.sha256(parts))


def test_a_file_that_is_gone_is_called_missing(tmp_path: Path) -> None:
    with pytest.raises(PartError, match=r"parts.py is missing; the run was trained with it \(SHA-256 abc…\)\.\nRestore the file"):
        usercode.load_class(tmp_path / "parts.py", "P", "abc")
