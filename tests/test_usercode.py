"""A user's own parts: found, refused, trusted."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import pytest

from vaelid.errors import MachineError, PartError
from vaelid.usercode import is_code, load_class, require_trust, sha256, split_name, trust


def write(folder: Path, text: str, name: str = "parts.py") -> tuple[Path, str]:
    """A file of code and its hash."""
    path = folder / name
    path.write_text(text)
    return path, hashlib.sha256(text.encode()).hexdigest()


def test_names() -> None:
    assert is_code("dir/parts.py:MyPrior")
    assert not is_code("mixture")
    assert split_name("dir/parts.py:MyPrior") == (Path("dir/parts.py"), "MyPrior")
    assert split_name("~/parts.py:MyPrior")[0] == Path.home() / "parts.py"


def test_a_class_is_one_object_however_often_it_is_loaded(tmp_path: Path) -> None:
    path, digest = write(tmp_path, "class A: pass\nclass B(A): pass\n")
    assert sha256(path) == digest
    found = load_class(path, "A", digest)
    assert found.__name__ == "A"
    assert load_class(path, "B", digest).__bases__ == (found,)
    copied, _ = write(tmp_path, path.read_text(), "copy.py")
    assert load_class(copied, "A", digest) is found


def test_dataclasses_and_deferred_hints_work(tmp_path: Path) -> None:
    """A dataclass looks its module up by name; hints stay objects unless the file itself defers them."""
    plain, one = write(tmp_path, "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass A:\n    beta: float = 1.0\n")
    assert load_class(plain, "A", one).__annotations__ == {"beta": float}
    text = "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n    beta: float = 2.0\n"
    deferred, other = write(tmp_path, text, "deferred.py")
    assert load_class(deferred, "A", other).__annotations__ == {"beta": "float"}
    assert load_class(deferred, "A", other)().beta == 2.0


def test_another_file_is_never_run(tmp_path: Path) -> None:
    path, digest = write(tmp_path, "raise SystemExit('this ran')\n")
    with pytest.raises(PartError, match="is not the file that the run was trained with"):
        load_class(path, "A", digest[::-1])
    with pytest.raises(PartError, match=r"none\.py is missing"):
        load_class(tmp_path / "none.py", "A", digest)


def test_a_missing_class_is_named(tmp_path: Path) -> None:
    path, digest = write(tmp_path, "class A: pass\nB = 3\n")
    for name in ("B", "C"):
        with pytest.raises(PartError, match=rf"has no class '{name}'\.\nIt has: A"):
            load_class(path, name, digest)
    empty, other = write(tmp_path, "# nothing\n", "empty.py")
    with pytest.raises(PartError, match="It has: no classes"):
        load_class(empty, "A", other)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
        ("class A(:\n", "SyntaxError"),
        ("import nowhere_at_all\n", "ModuleNotFoundError"),
    ],
)
def test_a_file_that_fails_is_reported_and_forgotten(tmp_path: Path, text: str, reason: str) -> None:
    path, digest = write(tmp_path, text)
    for _ in range(2):
        with pytest.raises(PartError, match=f"parts.py fails to run: {reason}"):
            load_class(path, "A", digest)
    assert f"vaelid_user_{digest[:12]}" not in sys.modules


def test_an_unreadable_file_has_no_hash(tmp_path: Path) -> None:
    with pytest.raises(PartError, match=r"none.py cannot be read: No such file or directory"):
        sha256(tmp_path / "none.py")


def test_trust_is_remembered_per_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with pytest.raises(PartError, match="have not trained with on this machine"):
        require_trust(Path("parts.py"), "a" * 64)
    trust("b" * 64)
    trust("a" * 64)
    trust("a" * 64)
    require_trust(Path("parts.py"), "a" * 64)
    require_trust(Path("parts.py"), "b" * 64)
    with pytest.raises(PartError, match=r"SHA-256 cccccccccccc….*\n.*--allow-code"):
        require_trust(Path("parts.py"), "c" * 64)
    assert [p.name for p in (tmp_path / "vaelid").iterdir()] == ["trusted_code.json"]
    assert json.loads((tmp_path / "vaelid" / "trusted_code.json").read_text()) == ["a" * 64, "b" * 64]


def test_without_xdg_the_store_is_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    trust("a" * 64)
    assert (tmp_path / ".local/state/vaelid/trusted_code.json").is_file()


def test_a_damaged_or_unwritable_store_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    (tmp_path / "vaelid").mkdir()
    (tmp_path / "vaelid" / "trusted_code.json").write_text("[")
    with pytest.raises(MachineError, match=r"trusted_code.json is damaged"):
        require_trust(Path("parts.py"), "a" * 64)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with pytest.raises(MachineError, match=r"trusted_code.json cannot be written: Not a directory"):
        trust("a" * 64)
