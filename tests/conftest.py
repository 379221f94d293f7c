"""What every test and docstring example starts from: fixed seeds, one thread, and no trace of the user's own files."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from pixel_loops import calls, loop  # noqa: F401 (fixtures of all tests)

torch.set_num_threads(1)
os.environ.setdefault("MPLBACKEND", "Agg")
# Matplotlib's list of fonts takes seconds to build: this one cache stays where it is.
_USER_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
os.environ.setdefault("MPLCONFIGDIR", str(_USER_CACHE / "matplotlib"))


class Everywhere:
    """Automatic fixtures for the tests *and* for the docstring examples in ``src``, which stand outside this folder."""

    @pytest.fixture(autouse=True)
    def seeded(self) -> None:
        """The same random numbers in every test, whatever ran before it."""
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002 - scikit-learn and scipy fall back on the global state
        torch.manual_seed(0)

    @pytest.fixture(autouse=True)
    def interruptible(self) -> Iterator[None]:
        """Ctrl-C means something: a script's background job starts with the signal ignored, and training respects that."""
        before = signal.getsignal(signal.SIGINT)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
        signal.signal(signal.SIGINT, before)

    @pytest.fixture(autouse=True)
    def isolated(self, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
        """Caches and state go to a fresh folder, never to the user's."""
        state = tmp_path_factory.mktemp("state")
        for variable in ("VAELID_CACHE", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
            monkeypatch.setenv(variable, str(state / variable.lower()))
        monkeypatch.setenv("COLUMNS", "160")  # tables wrap by the width of the terminal that the tests happen to run in


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Everywhere(), "vaelid-everywhere")


@pytest.fixture(scope="session")
def vaelid_data() -> Path:
    """The folder of real data sets that the environment variable VAELID_DATA names; without it the test is skipped."""
    named = os.environ.get("VAELID_DATA")
    if not named:
        pytest.skip("needs real data: set VAELID_DATA to a folder with mnist/ and binarized_mnist/")
    folder = Path(named)
    if not folder.is_dir():
        pytest.fail(f"VAELID_DATA names {named!r}, which is not a folder")
    return folder


@pytest.fixture
def always_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Members of a study trained together whether or not that pays, which is a matter of time."""
    monkeypatch.setattr("vaelid.training.together.Joint.pays", lambda _: True)
