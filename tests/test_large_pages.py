"""Large pages: asked for in time, a user's own setting stands, and no number depends on them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vaelid.memory import LARGE_PAGES, ask_for_large_pages


@pytest.mark.parametrize(("before", "after"), [(None, "1"), ("0", "0")])
def test_a_setting_of_the_users_stands(before: str | None, after: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", before or "")
    if before is None:
        monkeypatch.delenv("THP_MEM_ALLOC_ENABLE")
    ask_for_large_pages()
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == after


def test_weights_are_the_same_bits(tmp_path: Path) -> None:
    wide = ("--hidden", "1024,1024", "--epochs", "1", "--set", "data.train_limit=200", "--engine", "graph")  # vectors beyond 2 MB
    weights = []
    for asked in ("0", "1"):
        command = [sys.executable, "-m", "vaelid", "train", "digits", *wide, "--out", str(tmp_path / asked)]
        environment = {**os.environ, **dict.fromkeys(LARGE_PAGES, asked)}
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=300)
        weights.append((tmp_path / asked / "model.safetensors").read_bytes())
    assert len(weights[0]) > 2**21
    assert weights[0] == weights[1]
