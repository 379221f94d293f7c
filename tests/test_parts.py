"""How a name becomes a class: from a table, or from a user's file."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from vaelid.errors import PartError, SettingError
from vaelid.parts import KINDS, find, part_options
from vaelid.usercode import sha256

CODE = """
from dataclasses import dataclass

import torch
from torch import nn

from vaelid import Likelihood, MLP, Network, Objective, Posterior, Prior
from vaelid.objectives import ELBO
from vaelid.optimizers import Constant
from vaelid.settings import Positive


class MyPosterior(Posterior): pass
class MyLikelihood(Likelihood): pass
class MyNetwork(Network): pass
class MySchedule(Constant): pass
class Stranger: pass

class MyPrior(Prior):
    def __init__(self, latent: int, width: Positive = 2.0) -> None:
        super().__init__()

@dataclass(frozen=True)
class MyObjective(Objective):
    beta: Positive = 2.0
"""
OWN = {
    "posterior": "MyPosterior",
    "likelihood": "MyLikelihood",
    "prior": "MyPrior",
    "encoder": "MyNetwork",
    "decoder": "MyNetwork",
    "objective": "MyObjective",
    "schedule": "MySchedule",
}


@pytest.fixture
def code(tmp_path: Path) -> dict[str, str]:
    """A folder with the user's parts; their hash by file name."""
    (tmp_path / "own.py").write_text(CODE)
    return {"own.py": sha256(tmp_path / "own.py")}


def test_every_kind_but_the_optimizer_takes_users_classes() -> None:
    assert set(OWN) == set(KINDS) - {"optimizer"}


@pytest.mark.parametrize("kind", KINDS)
def test_names_of_the_tables_are_found(kind: str) -> None:
    for name, part in KINDS[kind].table.items():
        assert find(kind, name, {}, Path()) is part


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_names_get_a_hint(kind: str) -> None:
    name = next(iter(KINDS[kind].table))
    with pytest.raises(SettingError, match=rf"There is no {kind} named '{name}x'\.\nDid you mean .*'{name}'"):
        find(kind, f"{name}x", {}, Path())


@pytest.mark.parametrize(("kind", "name"), OWN.items())
def test_users_classes_are_found_in_their_file(kind: str, name: str, code: dict[str, str], tmp_path: Path) -> None:
    assert find(kind, f"own.py:{name}", code, tmp_path).__name__ == name
    with pytest.raises(PartError, match=rf"own.py:Stranger cannot be the {kind}: Stranger is not a subclass of vaelid"):
        find(kind, "own.py:Stranger", code, tmp_path)


def test_an_optimizer_must_be_built_in(code: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(PartError, match=r"that has to be a built-in one\.\nKnown: adam, adamax"):
        find("optimizer", "own.py:Stranger", code, tmp_path)


def test_code_without_a_hash_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("raise SystemExit('this ran')")
    with pytest.raises(PartError, match=r"has no SHA-256 of own.py under \[code\]"):
        find("prior", "own.py:MyPrior", {}, tmp_path)


def test_options_are_what_the_builder_does_not_pass(code: dict[str, str], tmp_path: Path) -> None:
    assert list(part_options("prior", find("prior", "mixture", {}, Path()))) == ["components", "init"]
    assert list(part_options("prior", find("prior", "own.py:MyPrior", code, tmp_path))) == ["width"]
    assert list(part_options("objective", find("objective", "own.py:MyObjective", code, tmp_path))) == ["beta"]
    for kind, known in KINDS.items():
        for part in known.table.values():
            assert not set(part_options(kind, part)) & {"self", "network", "latent", "shape", "levels", "inputs", "outputs"}
            assert known.base is None or issubclass(part, known.base)
            assert known.base is None or kind in ("objective", "schedule") or issubclass(known.base, nn.Module)
