"""The run folder on disk: the contract between training, evaluation, studies and reports.

    recipe.toml  model.safetensors  checkpoint/  metrics.jsonl  results.json  results/<split>.npz  samples/  figures/
    environment.json  code/  tracking/  log.txt  lock

Every file is replaced in one step (written beside, flushed to disk, renamed), so a kill at any moment leaves the old or the new
one; metrics.jsonl and log.txt grow by lines. Nothing in it is ever unpickled.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from vaelid.errors import MachineError, RunError
from vaelid.recipe import Recipe, from_toml

#: What environment.json says of every run, and of its data.
_ABOUT = ("vaelid", "commit", "torch", "device", "processor", "engine", "threads")
_ABOUT_DATA = ("shape", "support", "fingerprint")
#: What results.json says of every split.
_SPLITS = ("train", "validation", "test", "input")
_ABOUT_RESULTS = ("neg_elbo", "nll", "kind", "images", "data", "environment")

#: How the outcome in environment.json of a training that diverged begins.
DIVERGED = "diverged"

#: Entries of a split in results.json beside its bounds; each says of how many images it is.
BEYOND = ("ais", "gaps", "aggregate")
#: How the figures of the epochs that improved begin; the epoch follows.
EPOCH_FIGURE = "generated_epoch_"


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
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise _refused(path, error, f" ({len(content):,} bytes)") from error


class RunFolder:
    """One run's files, by name; ``own`` are all entries that a run makes."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.recipe_file = self.path / "recipe.toml"
        self.weights_file = self.path / "model.safetensors"
        self.metrics_file = self.path / "metrics.jsonl"
        self.results_file = self.path / "results.json"
        self.environment_file = self.path / "environment.json"
        self.audit_file = self.path / "audit.json"
        self.report_file = self.path / "report.html"
        self.log_file = self.path / "log.txt"
        self.checkpoints = self.path / "checkpoint"
        self.results = self.path / "results"
        self.samples = self.path / "samples"
        self.progress_file = self.samples / "progress.npz"
        self.real_file = self.samples / "real.npz"
        self.figures = self.path / "figures"
        self.code = self.path / "code"
        self.tracking = self.path / "tracking"
        files = (self.recipe_file, self.weights_file, self.metrics_file, self.results_file, self.environment_file, self.log_file)
        reports = (self.report_file, self.report_file.with_suffix(".pdf"))
        kept = (self.checkpoints, self.results, self.samples, self.figures, self.code, self.tracking)
        self.own = (*files, *reports, self.audit_file, *kept)

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    @property
    def exists(self) -> bool:
        """Whether this is a run: both files are needed, since a recipe.toml can also be one that a user wrote."""
        return self.recipe_file.is_file() and self.environment_file.is_file()

    def require(self) -> RunFolder:
        """This folder, if it holds a run.

        Raises:
            RunError: if it does not, or if environment.json lacks what every run's has.
        """
        if not self.exists:
            missing = [file.name for file in (self.recipe_file, self.environment_file) if not file.is_file()]
            reason = f"has no {' and no '.join(missing)}" if self.path.is_dir() else "does not exist"
            reason = "is a file" if self.path.is_file() else reason
            raise RunError(f"{self.path} is no run folder: it {reason}.", "`vaelid train` makes one and prints where it lies.")
        about = self.read_json(self.environment_file)
        data = about.get("data")
        lost = [name for name in _ABOUT if name not in about]
        lost += [f"data.{name}" for name in _ABOUT_DATA if not isinstance(data, dict) or name not in data]
        if lost:
            raise RunError(f"{self.environment_file} is damaged: it has no {', '.join(lost)}.", "Restore it from a copy.")
        return self

    def recipe(self) -> Recipe:
        """The resolved recipe of the run.

        Raises:
            RunError: if the file is damaged, or says something else than the recipe that the weights were trained by; or
                SettingError, where it is text but no recipe.
        """
        found = self.recipe_as_it_is()
        trained_by, now = self._about_weights().get("recipe", {}), found.flat()
        both = sorted(trained_by.keys() & now.keys())  # settings of later versions were not known then
        changed = [f"{key} was {trained_by[key]!r} and is {now[key]!r}" for key in both if trained_by[key] != _plain(now[key])]
        if changed:
            problem = f"{self.recipe_file} is not what {self.weights_file.name} was trained by: {'; '.join(changed)}."
            raise RunError(problem, "Restore recipe.toml; or, were the weights changed, run the `vaelid train` command again.")
        return found

    def recipe_as_it_is(self) -> Recipe:
        """The recipe in the folder, whatever the weights were trained by; raises as :meth:`recipe` does."""
        try:
            text = self.recipe_file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise RunError(f"{self.recipe_file} is damaged: {error}.", "Restore it from a copy.") from error
        return from_toml(text, where=str(self.recipe_file))

    def write_weights(self, weights: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Save the weights that the run keeps, with their SHA-256 and a few facts about them.

        Args:
            about: under ``recipe`` the settings, flat, that may not change in recipe.toml while these weights are here
        """
        # One metadata key: safetensors writes several in random order, and equal weights shall be equal bytes.
        known = json.dumps({**about, "sha256": _digest(weights)})
        write_atomic(self.weights_file, safetensors.torch.save(dict(weights), metadata={"about": known}))

    def weights(self) -> dict[str, Tensor]:
        """The weights that the run keeps; raises as :meth:`weights_and_digest` does."""
        return self.weights_and_digest()[0]

    def weights_and_digest(self) -> tuple[dict[str, Tensor], str]:
        """The weights that the run keeps, and the SHA-256 of the file that they were read from: training may replace it any time.

        Raises:
            RunError: if there are none yet, or the file is damaged.
        """
        if not self.weights_file.is_file():
            raise RunError(f"{self.path} has no trained weights yet.", "Run the same `vaelid train` command again to go on.")
        remedy = "Run the same `vaelid train` command again: it writes them anew from the checkpoint."
        content = self.weights_file.read_bytes()
        try:
            found = safetensors.torch.load(content)
            header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
            about = json.loads(header.get("__metadata__", {}).get("about", "{}"))
        except (ValueError, safetensors.SafetensorError) as error:
            raise RunError(f"{self.weights_file} is damaged: {error}.", remedy) from error
        if "sha256" in about and about["sha256"] != _digest(found):  # earlier versions wrote none
            raise RunError(f"{self.weights_file} is damaged: its SHA-256 is not the one it was saved with.", remedy)
        return found, hashlib.sha256(content).hexdigest()

    def _about_weights(self) -> dict[str, Any]:
        """What was saved with the weights; nothing where there are none, or :meth:`weights` will say that they are damaged."""
        with suppress(OSError, ValueError, safetensors.SafetensorError), safetensors.safe_open(self.weights_file, "pt") as file:
            return dict(json.loads((file.metadata() or {}).get("about", "{}")))
        return {}

    def checkpoint_files(self) -> list[Path]:
        """All checkpoints, newest first; their names are ``step-<step>-epoch-<epoch>-<digest>.safetensors``."""
        return sorted(self.checkpoints.glob("step-*-epoch-*.safetensors"), reverse=True)

    def metrics(self) -> list[dict[str, Any]]:
        """One dictionary per finished epoch; a torn last line (after a kill) is left out.

        Raises:
            RunError: if any other line is damaged, or lines are lost: an epoch is in a checkpoint only if its line is on disk.
        """
        due = max((int(file.name.split("-")[3]) for file in self.checkpoint_files()), default=0)  # first: training may go on
        found = self._lines_of_metrics()
        remedy = "Restore it from a copy, or start afresh with --overwrite (this deletes the weights that are there)."
        for number, line in enumerate(found, 1):
            if line["epoch"] != number:
                raise RunError(f"{self.metrics_file} is damaged: line {number} tells of epoch {line['epoch']}.", remedy)
        if len(found) < due:
            told = f"it tells of {len(found)} of the {due} epochs that the newest checkpoint has seen"
            raise RunError(f"{self.metrics_file} is damaged: {told}.", remedy)
        return found

    def _lines_of_metrics(self) -> list[dict[str, Any]]:
        if not self.metrics_file.is_file():
            return []
        lines = self.metrics_file.read_bytes().split(b"\n")[:-1]  # a whole line ends with a newline
        remedy = "Restore it from a copy."
        try:
            found = [json.loads(line) for line in lines]
        except ValueError as error:
            raise RunError(f"{self.metrics_file} is damaged: {error}.", remedy) from error
        odd = [number for number, line in enumerate(found, 1) if not isinstance(line, dict) or "epoch" not in line]
        if odd:
            raise RunError(f"{self.metrics_file} is damaged: line {odd[0]} tells of no epoch.", remedy)
        return found

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        """Add one epoch's line."""
        try:
            with open(self.metrics_file, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise _refused(self.metrics_file, error) from error

    def sync_metrics(self) -> None:
        """Bring the lines written so far to the disk: a checkpoint that knows of an epoch must never outlive its line."""
        try:
            with open(self.metrics_file, "ab") as file:
                os.fsync(file.fileno())
        except OSError as error:
            raise _refused(self.metrics_file, error) from error

    def keep_metrics(self, epochs: int) -> None:
        """Cut back to the first ``epochs`` lines: those that the checkpoint being resumed knows of."""
        lines = [json.dumps(line) + "\n" for line in self.metrics() if line["epoch"] <= epochs]
        kept = "".join(lines).encode()
        if not self.metrics_file.is_file() or self.metrics_file.read_bytes() != kept:
            write_atomic(self.metrics_file, kept)

    def read_json(self, file: Path) -> dict[str, Any]:
        """A JSON file of this folder, or an empty dictionary if there is none.

        Raises:
            RunError: if it is damaged.
        """
        remedy = "Remove it and evaluate again." if file == self.results_file else "Restore it from a copy."
        try:
            content = json.loads(file.read_bytes()) if file.is_file() else {}
        except ValueError as error:
            raise RunError(f"{file} is damaged: {error}.", remedy) from error
        # Every entry of results.json is a table, too: that of a split.
        if not isinstance(content, dict) or (
            file == self.results_file and not all(isinstance(v, dict) for v in content.values())
        ):
            raise RunError(f"{file} is damaged: it holds no table of names and values.", remedy)
        lost = _lost_results(content) if file == self.results_file else []
        if lost:
            raise RunError(f"{file} is damaged: it has no {', '.join(lost)}.", remedy)
        return content

    def write_json(self, file: Path, content: Mapping[str, Any]) -> None:
        """Replace a JSON file in one step.

        Raises:
            MachineError: if the disk refuses; the old file is still there.
        """
        write_atomic(file, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())

    def write_arrays(self, file: Path, arrays: Mapping[str, np.ndarray]) -> None:
        """Save named arrays as .npz (no pickled objects)."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **dict[str, Any](arrays))
        write_atomic(file, buffer.getvalue())

    def read_arrays(self, file: Path) -> dict[str, np.ndarray]:
        """Named arrays from .npz, or an empty dictionary if there is no such file.

        Raises:
            RunError: if it is damaged, or holds pickled objects, which are never loaded.
        """
        if not file.is_file():
            return {}
        try:
            with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except (ValueError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
            raise RunError(f"{file} is damaged: {error}.", "Remove it; it is made again where that is possible.") from error

    def log(self, text: str) -> None:
        """Add a line to log.txt."""
        try:
            with open(self.log_file, "a", encoding="utf-8") as file:
                file.write(text + "\n")
        except OSError as error:
            raise _refused(self.log_file, error) from error

    def remove_leftovers(self) -> None:
        """Remove what a killed training left half written; the caller holds the lock."""
        # Only training's files: an evaluation writes without the lock.
        mine = (self.recipe_file, self.weights_file, self.metrics_file, self.environment_file, self.progress_file, self.real_file)
        for file in (self.checkpoints / "*", *mine):
            for leftover in file.parent.glob(f".{file.name}.*.tmp"):
                leftover.unlink(missing_ok=True)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for one process. The kernel drops the lock of a dead process, so none goes stale.

        What this call made is removed again where nothing came of it: the lock file, and folders that are still empty.

        Raises:
            RunError: if another process holds it; says which.
            MachineError: if the folder cannot be made, or its disk knows no locks.
        """
        made = [path for path in (self.path / "lock", self.path, *self.path.parents) if not path.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = open(self.path / "lock", "a+b", buffering=0)  # noqa: SIM115 - closed below, which drops the lock
        except OSError as error:
            raise _refused(self.path, error) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not (self.path / "lock").exists() or not os.path.samestat(os.fstat(file.fileno()), os.stat(file.name)):
                    raise BlockingIOError  # between open and flock its holder removed it, and came to nothing
            except BlockingIOError as error:
                file.seek(0)
                raise RunError(
                    f"{self.path} is in use by another process (pid {file.read().decode() or 'unknown'}).",
                    "Wait for it, or give another --out.",
                ) from error
            except OSError as error:
                raise _refused(self.path / "lock", error) from error
            with suppress(OSError):  # on a full disk the number is missing in the message, and no more
                file.truncate(0)
                file.write(str(os.getpid()).encode())
            try:
                yield
            except BaseException:
                if not self.exists:  # while the lock is held: nobody else can have made a run of it
                    _unmake(made)
                raise


def _digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and values."""
    found = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value  # as JSON has it


def _lost_results(content: Mapping[str, Any]) -> list[str]:
    """What the entries of splits in results.json lack of what every one has."""
    return [f"{split}.{key}" for split in _SPLITS for key in _ABOUT_RESULTS if split in content and key not in content[split]]


def _refused(path: Path, error: OSError, what: str = "") -> MachineError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    remedy = "Make room" if full else "See that the folder can be written to"
    remedy = f"{remedy} or choose another folder (for a training another --out), then run the same command again."
    return MachineError(
        f"{path} cannot be written: {error.strerror or error}{what}.", f"What was saved before is intact. {remedy}"
    )


def _unmake(made: Sequence[Path]) -> None:
    """Remove a lock file and folders, innermost first; a folder that others have put something into stays."""
    for path in made:
        with suppress(OSError):
            path.rmdir() if path.is_dir() else path.unlink()


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)  # the rename itself must reach the disk, too
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
