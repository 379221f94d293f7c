"""What the plans of all evaluations share: which of their numbers name a result, and how wrong ones are refused."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from vaelid.errors import SettingError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def identity_of(plan: DataclassInstance) -> dict[str, Any]:
    """What the per-image numbers depend on: all but ``images``, which only says how many are looked at together."""
    return {name: value for name, value in asdict(plan).items() if name != "images"}


def require_at_least(plan: DataclassInstance, **least: int) -> None:
    """Refuse numbers below the ``least`` that they may be, by name.

    Raises:
        SettingError: names the first of them.
    """
    for name, bound in least.items():
        if getattr(plan, name) < bound:
            raise SettingError(f"{name} must be at least {bound}; it is {getattr(plan, name)}.")
