"""From a name to what is to be audited: a run folder, a built-in part, or a class in a user's file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vaelid.data import load_data
from vaelid.errors import DataError, MachineError, PartError, SettingError
from vaelid.folder import RunFolder
from vaelid.likelihoods import Likelihood
from vaelid.networks import MLP
from vaelid.parts import KINDS
from vaelid.posteriors import Posterior
from vaelid.settings import check, options_of, unknown
from vaelid.trained import trained_model
from vaelid.usercode import is_code, load_class, sha256, split_name, trust

_IMAGES = 64
#: What a built-in part is tried with, unless settings say otherwise: small, but with more than one of everything.
_LATENT = 6
_SHAPE = (1, 4, 4)
_LEVELS = 5
_HIDDEN = (16,)


@dataclass(frozen=True)
class Named:
    """What was named: the part or model, images if they came with it, and the SHA-256 of the file that a run's model is from."""

    name: str
    part: Any
    images: Tensor | None = None
    weights: str | None = None


def named(target: str, settings: Mapping[str, Any], allow_code: bool = False) -> Named:
    """The run folder, built-in part (``mixture`` or ``prior:mixture``) or user's class (``file.py:Class``) of this name.

    Raises:
        PartError: for a class that cannot be built with these settings.
        RunError: for a folder that holds no run, or a damaged one.
        SettingError: for a name that means nothing, or settings of a run.
    """
    if is_code(target):
        return Named(target, _user_part(target, settings))
    if RunFolder(target).exists:
        if settings:
            raise SettingError(
                f"{target} is a run, whose settings stand in its recipe; {', '.join(settings)} cannot be set.",
                "Leave --set out, or name a part.",
            )
        model, digest = trained_model(RunFolder(target), allow_code)
        return Named(target, model, _test_images(RunFolder(target)), digest)
    kind, _, name = target.rpartition(":")
    places = [
        (k, KINDS[k].table[name]) for k in ("prior", "posterior", "likelihood") if name in KINDS[k].table and kind in ("", k)
    ]
    if not places and RunFolder(target).path.is_dir():
        RunFolder(target).require()  # says what is missing in it
    if not places:
        raise unknown(
            "run folder or part", target, [f"{k}:{n}" for k in ("prior", "posterior", "likelihood") for n in KINDS[k].table]
        )
    if len(places) > 1:
        raise PartError(f"{name!r} is the name of several parts.", f"Say which: {' or '.join(f'{k}:{name}' for k, _ in places)}.")
    return Named(f"{places[0][0]}:{name}", _built_in(*places[0], settings))


def _built_in(kind: str, part: Any, settings: Mapping[str, Any]) -> Any:
    """A part of a small model."""
    options = options_of(part, leave_out=("network", "shape"))
    given = check(kind, options, settings)
    latent, levels = given.get("latent", _LATENT), given.get("levels", _LEVELS)
    for name, size, least in (("latent", latent, 1), ("levels", levels, 2)):
        if size < least:
            raise SettingError(f"{kind}.{name} must be ≥ {least}; it is {size}.")
    if "latent" in options:
        given["latent"] = latent
    if kind == "prior":
        return part(**given)
    if "levels" in options:
        given["levels"] = levels
    sized = options_of(part.network_outputs)
    defaults = {name: option.default for name, option in options.items() if not option.required}
    known = {**defaults, **given, "shape": _SHAPE}
    outputs = part.network_outputs(**{name: known[name] for name in sized if name in known})
    if kind == "posterior":
        return part(MLP(_SHAPE, outputs, _HIDDEN), **given)
    return part(MLP((latent,), outputs, _HIDDEN), _SHAPE, **given)


def _user_part(target: str, settings: Mapping[str, Any]) -> Any:
    """An object of the user's class; naming the file is asking to run it."""
    file, class_name = split_name(target)
    digest = sha256(file)
    trust(digest)
    found = load_class(file, class_name, digest)
    given: Mapping[str, Any] = settings
    try:
        for kind, base in (("posterior", Posterior), ("likelihood", Likelihood)):
            if issubclass(found, base):  # the builder passes them a network
                return _built_in(kind, found, settings)
        options = options_of(found)
        given = check(class_name, options, settings)
        if "latent" in options and options["latent"].required:
            given = {"latent": _LATENT, **given}
        return found(**given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise PartError(
            f"{class_name} cannot be built with {given}: {type(error).__name__}: {error}",
            "Give constructor arguments with --set KEY=VALUE.",
        ) from error


def _test_images(folder: RunFolder) -> Tensor | None:
    """The first test images of a run, None if the data are not at hand."""
    try:
        split = load_data(folder.recipe().data).splits["test"]
    except (DataError, MachineError):  # an audit needs the model only; without the data it looks at draws of the model
        return None
    return split.batch(torch.arange(min(_IMAGES, len(split))))
