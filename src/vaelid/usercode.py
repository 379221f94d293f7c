"""A user's own parts: Python files named by path, run only when they are the ones that were trained with.

``parts.py:MyPrior`` names a class in a file. A run folder keeps a copy of the file under ``code/`` and its SHA-256 in the recipe.
A folder can come from anywhere, so its code runs only if the hash agrees *and* this user has trained with that very file before,
or says ``--allow-code``.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import types
from pathlib import Path

from vaelid.errors import MachineError, PartError

_RESTORE = "Restore the file; `vaelid show` prints the run's numbers without running code."
_MODULES: dict[str, types.ModuleType] = {}  # by hash, so that a class is one object however often its file is named


def is_code(name: str) -> bool:
    """Whether a part's name means a class in a file (``file.py:Class``)."""
    return ".py:" in name


def split_name(name: str) -> tuple[Path, str]:
    """``"dir/parts.py:MyPrior"`` -> ``(Path("dir/parts.py"), "MyPrior")``."""
    file, _, class_name = name.rpartition(":")
    return Path(file).expanduser(), class_name


def sha256(path: Path) -> str:
    """Hash of a file of code.

    Raises:
        PartError: if it cannot be read.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise PartError(f"The file of code {path} cannot be read: {error.strerror}.", "A part is named FILE.py:CLASS.") from error


def load_class(path: Path, class_name: str, digest: str) -> type:
    """The class from the file, which must have this SHA-256. Runs the file.

    Raises:
        PartError: if the file is another one, fails to run, or has no such class.
    """
    if digest not in _MODULES:
        if not path.is_file():
            raise PartError(f"{path} is missing; the run was trained with it (SHA-256 {digest[:12]}…).", _RESTORE)
        code = path.read_bytes()
        # The bytes that were hashed are the bytes that run: the file is read once.
        if hashlib.sha256(code).hexdigest() != digest:
            raise PartError(
                f"{path} is not the file that the run was trained with (SHA-256 {digest[:12]}… expected).",
                _RESTORE,
            )
        module = types.ModuleType(f"vaelid_user_{digest[:12]}")
        module.__file__ = str(path)
        sys.modules[module.__name__] = module  # dataclasses look their module up there
        try:
            exec(compile(code, str(path), "exec", dont_inherit=True), module.__dict__)
        except (Exception, SystemExit) as error:
            del sys.modules[module.__name__]
            reason = f"{type(error).__name__}: {error}"
            raise PartError(f"{path} fails to run: {reason}.", "Run it with python to see where.") from error
        _MODULES[digest] = module
    found = vars(_MODULES[digest]).get(class_name)
    if not isinstance(found, type):
        classes = [name for name, value in vars(_MODULES[digest]).items() if _is_own(value, digest)]
        raise PartError(f"{path} has no class {class_name!r}.", f"It has: {', '.join(classes) or 'no classes'}.")
    return found


def _is_own(value: object, digest: str) -> bool:
    """Whether this is a class that the file with this SHA-256 defines, and not one that it imports."""
    return isinstance(value, type) and value.__module__ == _MODULES[digest].__name__


def trust(digest: str) -> None:
    """Remember that this user asked to run this code.

    Raises:
        MachineError: if there is no place to remember it.
    """
    known = _trusted()
    if digest in known:
        return
    store = _store()
    temporary = store.with_suffix(f".{os.getpid()}")
    try:
        store.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(sorted({*known, digest})), encoding="utf-8")
        os.replace(temporary, store)
    except OSError as error:
        raise MachineError(f"{store} cannot be written: {error.strerror}.", "Set XDG_STATE_HOME to a writable folder.") from error


def require_trust(path: Path, digest: str) -> None:
    """Refuse code that this user never asked to run.

    Raises:
        PartError: with the way to allow it.
    """
    if digest not in _trusted():
        raise PartError(
            f"The run uses code of its own, {path} (SHA-256 {digest[:12]}…), which you have not trained with on this machine.",
            "Read the file; if you trust it, add --allow-code (allow_code=True). "
            "`vaelid show` prints the numbers without running it.",
        )


def _store() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "vaelid" / "trusted_code.json"


def _trusted() -> set[str]:
    store = _store()
    try:
        return set(json.loads(store.read_text(encoding="utf-8"))) if store.is_file() else set()
    except ValueError as error:
        raise MachineError(f"{store} is damaged: {error}.", "Remove it; then train with your code again to trust it.") from error
