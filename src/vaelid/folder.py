"""The run folder on disk: the contract between training, evaluation, studies and reports.

    recipe.toml  model.safetensors  checkpoint/  metrics.jsonl  results.json  results/<split>.npz  samples/  figures/
    environment.json  code/  log.txt  lock

Every file is replaced in one step (written beside, flushed to disk, renamed), so a kill at any moment leaves the old or the new one.
Nothing in it is ever unpickled.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
from torch import Tensor

from vaelid.errors import MachineError, RunError
from vaelid.recipe import Recipe, from_toml


def write_atomic(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content`` in one step.

    Raises:
        MachineError: if the disk refuses; the old file is still there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise MachineError(
            f"{path} cannot be written: {error.strerror} ({len(content):,} bytes).",
            "What was saved before is intact. Make room or choose another --out, then run the same command again.",
        ) from error


class RunFolder:
    """One run's files, by name."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.recipe_file = self.path / "recipe.toml"
        self.weights_file = self.path / "model.safetensors"
        self.metrics_file = self.path / "metrics.jsonl"
        self.results_file = self.path / "results.json"
        self.environment_file = self.path / "environment.json"
        self.log_file = self.path / "log.txt"
        self.checkpoints = self.path / "checkpoint"
        self.results = self.path / "results"
        self.samples = self.path / "samples"
        self.figures = self.path / "figures"
        self.code = self.path / "code"

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    @property
    def exists(self) -> bool:
        return self.recipe_file.is_file()

    def require(self) -> RunFolder:
        """This folder, if it holds a run.

        Raises:
            RunError: if it does not.
        """
        if not self.exists:
            reason = "has no recipe.toml" if self.path.is_dir() else "does not exist"
            raise RunError(f"{self.path} is no run folder: it {reason}.", "`vaelid train` makes one and prints where it lies.")
        return self

    def recipe(self) -> Recipe:
        """The resolved recipe of the run."""
        return from_toml(self.recipe_file.read_text(encoding="utf-8"), where=str(self.recipe_file))

    def write_weights(self, weights: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Save the best weights with a few facts about them."""
        # One metadata key: safetensors writes several in random order, and equal weights shall be equal bytes.
        write_atomic(self.weights_file, safetensors.torch.save(dict(weights), metadata={"about": json.dumps(about)}))

    def weights(self) -> dict[str, Tensor]:
        """The best weights.

        Raises:
            RunError: if there are none yet, or the file is damaged.
        """
        if not self.weights_file.is_file():
            raise RunError(f"{self.path} has no trained weights yet.", "Run the same `vaelid train` command again to go on.")
        try:
            return safetensors.torch.load(self.weights_file.read_bytes())
        except safetensors.SafetensorError as error:
            raise RunError(f"{self.weights_file} is damaged: {error}.", "Train again with --overwrite, or restore the file.") from error

    def metrics(self) -> list[dict[str, Any]]:
        """One dictionary per finished epoch; a torn last line (after a kill) is left out."""
        if not self.metrics_file.is_file():
            return []
        lines = self.metrics_file.read_text(encoding="utf-8").split("\n")[:-1]  # a whole line ends with a newline
        return [json.loads(line) for line in lines]

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        """Add one epoch's line."""
        try:
            with open(self.metrics_file, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise MachineError(f"{self.metrics_file} cannot be written: {error.strerror}.", "Make room, then run again.") from error

    def keep_metrics(self, epochs: int) -> None:
        """Cut back to the first ``epochs`` lines: those that the checkpoint being resumed knows of."""
        lines = [json.dumps(line) + "\n" for line in self.metrics() if line["epoch"] <= epochs]
        write_atomic(self.metrics_file, "".join(lines).encode())

    def read_json(self, file: Path) -> dict[str, Any]:
        """A JSON file of this folder, or an empty dictionary if there is none."""
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

    def write_json(self, file: Path, content: Mapping[str, Any]) -> None:
        write_atomic(file, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())

    def write_arrays(self, file: Path, arrays: Mapping[str, np.ndarray]) -> None:
        """Save named arrays as .npz (no pickled objects)."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        write_atomic(file, buffer.getvalue())

    def read_arrays(self, file: Path) -> dict[str, np.ndarray]:
        """Named arrays from .npz, or an empty dictionary if there is no such file."""
        if not file.is_file():
            return {}
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}

    def log(self, text: str) -> None:
        """Add a line to log.txt."""
        with open(self.log_file, "a", encoding="utf-8") as file:
            file.write(text + "\n")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for one process. The kernel drops the lock of a dead process, so none goes stale.

        Raises:
            RunError: if another process holds it; says which.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self.path / "lock", "a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                raise RunError(
                    f"{self.path} is in use by another process (pid {file.read().strip() or 'unknown'}).",
                    "Wait for it, or give another --out.",
                ) from error
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)  # the rename itself must reach the disk, too
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
