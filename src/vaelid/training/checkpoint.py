"""Checkpoints: everything an exact resume needs, in one safetensors file whose name carries its SHA-256.

A file is written beside, flushed, and renamed, so a kill leaves the previous one. Should a file be torn all the same (a disk that
lied), its hash disagrees with its name and the one before it is used; the last two are kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from vaelid.errors import RunError
from vaelid.folder import RunFolder, write_atomic

_KEPT = 2


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, and plain facts."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]

    def group(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose name starts with ``prefix.``, without it."""
        return {name.removeprefix(f"{prefix}."): t for name, t in self.tensors.items() if name.startswith(f"{prefix}.")}


def save_checkpoint(folder: RunFolder, checkpoint: Checkpoint, step: int, epoch: int) -> None:
    """Write a checkpoint, then remove all but the last two.

    Raises:
        MachineError: if the disk refuses; the earlier checkpoints are still there.
    """
    tensors = {name: t.detach().cpu().clone() for name, t in checkpoint.tensors.items()}  # safetensors refuses shared storage
    content = safetensors.torch.save(tensors, metadata={"facts": json.dumps(dict(checkpoint.facts))})
    # The epoch stands in the name because two checkpoints can share a step: before and after an epoch's validation.
    written = folder.checkpoints / f"step-{step:012d}-epoch-{epoch:08d}-{_digest(content)}.safetensors"
    write_atomic(written, content)
    for old in [file for file in folder.checkpoint_files() if file != written][_KEPT - 1 :]:
        old.unlink(missing_ok=True)


def load_checkpoint(folder: RunFolder, say: Callable[[str], None]) -> Checkpoint:
    """The newest checkpoint whose content agrees with its name; those passed over are named to ``say``.

    Raises:
        RunError: if there is none.
    """
    files, damaged = folder.checkpoint_files(), []
    for file in files:
        try:
            found = _read(file)
        except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
            say(f"warning: the checkpoint {file} is damaged and left aside ({error})")
            damaged.append(file)
            continue
        for torn in damaged:  # or it would count among the last two, and a second damage could leave none that is whole
            torn.rename(torn.with_suffix(".damaged"))
        return found
    problem = f"None of the {len(files)} checkpoints in" if files else "There is no checkpoint in"
    raise RunError(
        f"{problem} {folder.checkpoints}{' is whole' if files else ''}, so training cannot go on.",
        "Restore that folder from a copy, or start afresh with --overwrite (this deletes the weights that are there).",
    )


def _read(file: Path) -> Checkpoint:
    content = file.read_bytes()
    if _digest(content) != file.stem.rsplit("-", 1)[1]:
        raise ValueError("its SHA-256 disagrees with its name")
    # The bytes that were hashed are the bytes that are read: eight bytes of length, a header in JSON, the tensors.
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return Checkpoint(safetensors.torch.load(content), json.loads(header["__metadata__"]["facts"]))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
