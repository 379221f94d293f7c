"""Checkpoints: everything an exact resume needs, in one safetensors file whose name carries its SHA-256.

A file is written beside, flushed, and renamed, so a kill leaves the previous one. Should a file be torn all the same (a disk that
lied), its hash disagrees with its name and the one before it is used; the last two are kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import safe_open
from torch import Tensor

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


def save_checkpoint(folder: RunFolder, checkpoint: Checkpoint, step: int) -> None:
    """Write a checkpoint, then remove all but the last two."""
    tensors = {name: t.detach().cpu().clone() for name, t in checkpoint.tensors.items()}  # safetensors refuses shared storage
    content = safetensors.torch.save(tensors, metadata={"facts": json.dumps(dict(checkpoint.facts))})
    digest = hashlib.sha256(content).hexdigest()[:16]
    written = folder.checkpoints / f"step-{step:012d}-{digest}.safetensors"
    write_atomic(written, content)
    for old in [file for file in _newest_first(folder) if file != written][_KEPT - 1 :]:
        old.unlink()


def load_checkpoint(folder: RunFolder) -> Checkpoint | None:
    """The newest checkpoint whose content agrees with its name, or None."""
    for file in _newest_first(folder):
        content = file.read_bytes()
        if hashlib.sha256(content).hexdigest()[:16] == file.stem.rsplit("-", 1)[1]:
            with safe_open(file, framework="pt") as opened:
                facts = json.loads(opened.metadata()["facts"])
            return Checkpoint(safetensors.torch.load(content), facts)
    return None


def _newest_first(folder: RunFolder) -> list[Path]:
    return sorted(folder.checkpoints.glob("step-*.safetensors"), reverse=True)
