"""What makes a run this run: written down at its first start, and held to at every later one."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from vaelid.build import describe_inputs
from vaelid.data import Data, Shades
from vaelid.environment import describe_machine
from vaelid.errors import RunError
from vaelid.folder import RunFolder, write_atomic
from vaelid.recipe import Recipe
from vaelid.training.engines import AUTO

#: A run keeps to the type and the engine that it began with, since others give other last bits.
DTYPE = "float32"
#: Training images kept in the folder to be shown.
REAL_IMAGES = 16


def require_room(folder: RunFolder) -> None:
    """Refuse a folder that holds something, but no run: training would mix its files with those that are there.

    What a start that was killed left behind is no hindrance, nor are hidden files.

    Raises:
        RunError: names some of what is there.
    """
    if "vaelid" in folder.read_json(folder.environment_file):
        return
    there = sorted(entry.name for entry in folder.path.iterdir() if entry.name != "lock" and not entry.name.startswith("."))
    if there:
        names = ", ".join(there[:5]) + (" …" if len(there) > 5 else "")
        raise RunError(
            f"{folder.path} is not empty and holds no run (it has {names}); it is left as it is.", "Give another --out."
        )


def clear(folder: RunFolder) -> None:
    """Remove what runs make, and nothing else; the caller has asked :func:`require_room`."""
    # What names the run goes last: killed on the way, this is still the old run, and not a place for a new one to mix with.
    # Checkpoints go first: without the rest they would go on with a run that has lost its history.
    first, last = (folder.checkpoints,), (folder.recipe_file, folder.environment_file)
    for entry in [*first, *(e for e in folder.own if e not in first + last), *last]:
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)


def begin(
    folder: RunFolder,
    code: Mapping[str, bytes],
    data: Data,
    device: torch.device,
    engine: Mapping[str, str],
    init_from: Path | None,
) -> None:
    """Write what never changes again, but for the recipe, with which the folder becomes a run.

    Args:
        code: the files of user code, by name
        engine: which one computes the steps, which one was asked for, and why it is this one
    """
    shades = Shades.of(data.train)
    counts = {name: {"images": len(split), "available": split.available} for name, split in data.splits.items()}
    about = {
        **describe_machine(device),
        **engine,
        "dtype": DTYPE,
        "threads": torch.get_num_threads(),
        "data": {
            "name": data.name,
            "fingerprint": data.fingerprint,
            **describe_inputs(data),
            "shades": asdict(shades),
            "images": counts,
        },
        "init_from": str(init_from.resolve()) if init_from else None,
        "outcome": "",
    }
    folder.write_json(folder.environment_file, about)
    for name, content in code.items():
        write_atomic(folder.code / name, content)
    real = data.train.batch(torch.arange(min(REAL_IMAGES, len(data.train))))
    folder.write_arrays(folder.real_file, {"images": shades.of_pixels(real).cpu().numpy()})
    folder.keep_metrics(0)


def note_outcome(folder: RunFolder, outcome: str) -> None:
    """Write into environment.json why training ended; empty while it has not."""
    about = folder.read_json(folder.environment_file)
    if about.get("outcome") != outcome:
        folder.write_json(folder.environment_file, {**about, "outcome": outcome})


def require_same(folder: RunFolder, recipe: Recipe, data: Data, engine: str, init_from: Path | None) -> None:
    """Refuse to continue a run with other settings or on other images.

    ``epochs`` and ``patience`` may be raised: the run is then the one that would have had the larger value from the start. Epochs
    may also be lowered, but not below those that are done.

    Raises:
        RunError: with every setting that differs, and its two values.
    """
    about, before = folder.read_json(folder.environment_file), folder.recipe_as_it_is()
    stood, asked = dict(before.identity()), dict(recipe.identity())
    stood["data (fingerprint)"], asked["data (fingerprint)"] = about["data"]["fingerprint"], data.fingerprint
    if engine not in (AUTO, about.get("engine_asked")):  # what was asked for then may have given way to another
        stood["--engine"], asked["--engine"] = about["engine"], engine
    if init_from is not None:
        stood["--init-from"], asked["--init-from"] = about["init_from"], str(init_from.resolve())
    if (recipe.training.patience or math.inf) < (before.training.patience or math.inf):
        stood["training.patience"], asked["training.patience"] = before.training.patience, recipe.training.patience
    if recipe.training.epochs < min(before.training.epochs, len(folder.metrics())):
        stood["training.epochs"], asked["training.epochs"] = before.training.epochs, recipe.training.epochs
    differing = [key for key in sorted({*stood, *asked}) if _comparable(stood.get(key)) != _comparable(asked.get(key))]
    if differing:
        lines = "; ".join(f"{key} is {stood.get(key, 'not set')!r}, asked {asked.get(key, 'not set')!r}" for key in differing)
        raise RunError(
            f"{folder.path} holds a run with other settings: {lines}.",
            "Give another --out, or --overwrite to start afresh. (--epochs and --patience may be raised.)",
        )


def _comparable(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value  # TOML has lists only
