"""Where a number was made."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

import vaelid
from vaelid import environment
from vaelid.environment import describe_machine


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    for cached in (environment._commit, environment._processor):
        cached.cache_clear()
    yield
    for cached in (environment._commit, environment._processor):
        cached.cache_clear()


def test_it_is_what_this_machine_says() -> None:
    about = describe_machine(torch.device("cpu"))
    assert json.loads(json.dumps(about)) == about
    assert (about["vaelid"], about["torch"], about["numpy"]) == (vaelid.__version__, torch.__version__, numpy.__version__)
    assert about["python"] == platform.python_version()
    assert about["device"] == "cpu"
    assert about["processor"]


def test_a_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Fast {device.index}")
    assert describe_machine(torch.device("cuda:1"))["device"] == "cuda:1 (Fast 1)"


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "init.defaultBranch=main"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    package = tmp_path / "src" / "vaelid"
    package.mkdir(parents=True)
    (package / "code.py").write_text("1\n")
    monkeypatch.setattr(environment, "_HERE", package)
    return tmp_path


def test_the_commit_of_a_checkout(checkout: Path) -> None:
    git(checkout, "init")
    git(checkout, "add", ".")
    git(checkout, "commit", "-m", "first")
    head = git(checkout, "rev-parse", "HEAD")[:12]
    assert environment._commit() == head
    (checkout / "new.txt").write_text("files beside the code do not matter")
    environment._commit.cache_clear()
    assert environment._commit() == head
    (checkout / "src" / "vaelid" / "code.py").write_text("2\n")
    environment._commit.cache_clear()
    assert environment._commit() == f"{head}+"


def test_no_checkout_has_no_commit(checkout: Path) -> None:
    assert environment._commit() is None


@pytest.mark.parametrize(
    "error", [FileNotFoundError("git"), subprocess.CalledProcessError(128, "git"), subprocess.TimeoutExpired("git", 10)]
)
def test_a_git_that_does_not_answer_is_no_error(checkout: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    (checkout / ".git").mkdir()

    def failing(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(subprocess, "run", failing)
    assert environment._commit() is None


def test_a_machine_without_cpuinfo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "is_file", lambda self: False)
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    assert describe_machine(torch.device("cpu"))["processor"] == "arm"
