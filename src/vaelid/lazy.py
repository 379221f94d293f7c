"""Modules that wait until they are used: what only some verbs need does not slow down the start of the others."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any


class Lazy(ModuleType):
    """Stands for the module of that name, which is imported at the first look at one of its names.

    >>> Lazy("math").gcd(12, 18)
    6
    """

    def __getattr__(self, name: str) -> Any:
        """The module's own attribute."""
        return getattr(import_module(self.__name__), name)
