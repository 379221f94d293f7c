"""The run folder on disk: writes in one step, damage said plainly, nothing unpickled, one process at a time."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from training_helpers import assert_not_called, flip, tear, tiny, train
from vaelid.errors import MachineError, RunError, VaelidError
from vaelid.folder import RunFolder, write_atomic


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (assert_not_called, ("a file was unpickled",))


@pytest.fixture
def pickled() -> bytes:
    content = pickle.dumps(Bomb())
    with pytest.raises(AssertionError, match="unpickled"):
        pickle.loads(content)  # the bomb works
    return content


def test_no_file_of_a_run_is_unpickled(tmp_path: Path, pickled: bytes) -> None:
    whole, path = tmp_path / "whole", tmp_path / "spoiled"
    train(whole, tiny(training__epochs=1))
    names = [file.relative_to(whole) for file in whole.rglob("*") if file.is_file() and file.name not in ("lock", "log.txt")]
    assert len(names) == 8
    for name in names:
        shutil.copytree(whole, path)
        folder, file = RunFolder(path), path / name
        if file.parent == folder.checkpoints:  # under a name that vouches for the content
            file = file.with_name(f"step-999999999999-epoch-00000001-{hashlib.sha256(pickled).hexdigest()[:16]}.safetensors")
        file.write_bytes(pickled)
        for read in (folder.weights, folder.recipe, folder.metrics):
            attempt(read)
        attempt(folder.read_arrays, file)
        attempt(folder.read_json, file)
        attempt(train, path, tiny(training__epochs=2))
        shutil.rmtree(path)


def attempt(read: Callable[..., Any], *given: Any) -> None:
    """It may fail, but in our own words."""
    try:
        read(*given)
    except VaelidError:
        return


# Writes -------------------------------------------------------------------------------------------------------------------


def refuse(number: int) -> Callable[..., None]:
    def refusing(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    return refusing


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "What was saved before is intact. Make room or"),
        (errno.EACCES, "What was saved before is intact. See that the folder can be written to or"),
    ],
)
def test_a_write_that_the_disk_refuses_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, number: int, remedy: str
) -> None:
    file = tmp_path / "file"
    write_atomic(file, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, function, refuse(number))
        with pytest.raises(MachineError, match=rf"{os.strerror(number)} \(3 bytes\)") as caught:
            write_atomic(file, b"new")
    assert caught.value.remedy.startswith(remedy)
    assert file.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_write_that_cannot_even_clean_up_says_the_first_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", refuse(errno.EIO))
    monkeypatch.setattr(Path, "unlink", refuse(errno.EROFS))
    with pytest.raises(MachineError, match=os.strerror(errno.EIO)):
        write_atomic(tmp_path / "file", b"new")


def test_a_write_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        order.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", lambda old, new: (order.append("rename"), replace(old, new)))
    write_atomic(tmp_path / "a" / "file", b"content")
    assert order == ["file", "rename", "folder"]
    assert (tmp_path / "a" / "file").read_bytes() == b"content"


def test_equal_weights_are_equal_bytes(tmp_path: Path) -> None:
    folder, weights = RunFolder(tmp_path), {"b": torch.arange(3.0), "a": torch.ones(2, 2)}
    contents = set()
    for _ in range(5):
        folder.write_weights(weights, {"epoch": 3, "neg_elbo": 1.5})
        contents.add(folder.weights_file.read_bytes())
    assert len(contents) == 1
    assert {name: tensor.tolist() for name, tensor in folder.weights().items()} == {"a": [[1, 1], [1, 1]], "b": [0, 1, 2]}


# Damage -------------------------------------------------------------------------------------------------------------------


def test_weights_that_are_missing_or_damaged(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with pytest.raises(RunError, match="no trained weights yet"):
        folder.weights()
    folder.write_weights({"a": torch.ones(9)}, {})
    tear(folder.weights_file)
    with pytest.raises(RunError, match=r"model.safetensors is damaged") as caught:
        folder.weights()
    assert "anew from the checkpoint" in caught.value.remedy


def test_a_torn_last_line_of_metrics_is_left_out(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.metrics() == []
    folder.append_metrics({"epoch": 1})
    folder.append_metrics({"epoch": 2})
    folder.metrics_file.write_bytes(folder.metrics_file.read_bytes() + '{"epoch": 3, "−ELBO'.encode()[:-2])
    assert folder.metrics() == [{"epoch": 1}, {"epoch": 2}]
    folder.keep_metrics(2)
    folder.append_metrics({"epoch": 3})
    assert folder.metrics() == [{"epoch": 1}, {"epoch": 2}, {"epoch": 3}]
    folder.keep_metrics(1)
    assert folder.metrics() == [{"epoch": 1}]


def test_metrics_that_need_no_cut_are_not_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path)
    folder.keep_metrics(0)
    folder.append_metrics({"epoch": 1})
    monkeypatch.setattr("vaelid.folder.write_atomic", assert_not_called)
    folder.keep_metrics(1)
    assert folder.metrics() == [{"epoch": 1}]


def test_damage_in_the_middle_of_metrics_is_an_error(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics_file.write_text('{"epoch": 1}\n{"epo\n{"epoch": 3}\n')
    with pytest.raises(RunError, match=r"metrics.jsonl is damaged"):
        folder.metrics()


@pytest.mark.parametrize("line", ["3", '{"loss": 1.0}'])
def test_lines_of_metrics_that_tell_of_no_epoch_are_an_error(line: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics_file.write_text('{"epoch": 1}\n' + line + "\n")
    with pytest.raises(RunError, match=r"metrics.jsonl is damaged: line 2 tells of no epoch"):
        folder.metrics()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{}", "it has no vaelid, commit, torch, device, processor, engine, threads, data.shape, data.support, data.fingerprint"),
        ('{"vaelid": "1", "data": 3}', "it has no commit, torch, .*, data.fingerprint"),
        ('{"vaelid": ', "Expecting value"),
    ],
)
def test_a_run_needs_a_whole_environment(content: str, reason: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.recipe_file.write_text("")
    folder.environment_file.write_text(content)
    with pytest.raises(RunError, match=rf"environment.json is damaged: {reason}.*\nRestore it from a copy"):
        folder.require()


def test_a_file_is_no_run_folder(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(RunError, match=r"a.txt is no run folder: it is a file\."):
        RunFolder(tmp_path / "a.txt").require()


@pytest.mark.parametrize("content", ["[]", '{"test": 3}'])
def test_results_are_tables(content: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.results_file.write_text(content)
    with pytest.raises(RunError, match=r"results.json is damaged: it holds no table"):
        folder.read_json(folder.results_file)


def test_results_of_a_split_that_lack_what_all_have_are_damaged(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.results_file.write_text('{"test": {"nll": {}, "kind": "density", "images": 3, "data": {}}}')
    expected = r"results.json is damaged: it has no test.neg_elbo, test.environment\.\nRemove it and evaluate again"
    with pytest.raises(RunError, match=expected):
        folder.read_json(folder.results_file)


def test_json(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.read_json(folder.results_file) == {}
    folder.write_json(folder.results_file, {"scores": {"word": "−ELBO", "number": 0.1}})
    assert folder.read_json(folder.results_file) == {"scores": {"word": "−ELBO", "number": 0.1}}
    tear(folder.results_file)
    with pytest.raises(RunError, match=r"results.json is damaged: (.|\n)*\nRemove it and evaluate again."):
        folder.read_json(folder.results_file)
    folder.results_file.write_text("[1, 2]")
    with pytest.raises(RunError, match=r"results.json is damaged: it holds no table"):
        folder.read_json(folder.results_file)


@pytest.mark.parametrize("damage", [tear, flip, lambda file: file.write_bytes(b"")])
def test_arrays(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    folder, file = RunFolder(tmp_path), tmp_path / "results" / "test.npz"
    assert folder.read_arrays(file) == {}
    arrays = {"nll": np.random.default_rng(0).random(200), "key": np.array("text")}
    folder.write_arrays(file, arrays)
    read = folder.read_arrays(file)
    assert read.keys() == arrays.keys()
    assert all(np.array_equal(read[name], arrays[name]) for name in arrays)
    damage(file)
    with pytest.raises(RunError, match=r"test.npz is damaged"):
        folder.read_arrays(file)


def test_arrays_of_objects_are_refused(tmp_path: Path, pickled: bytes) -> None:
    file = tmp_path / "objects.npz"
    np.savez(file, objects=np.array([Bomb()], dtype=object))
    with pytest.raises(RunError, match="allow_pickle=False"):
        RunFolder(tmp_path).read_arrays(file)


def test_a_recipe_that_is_damaged(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.recipe_file.write_bytes(b"[data]\nname = \xff\xfe")
    with pytest.raises(RunError, match=r"recipe.toml is damaged"):
        folder.recipe()


# The folder ---------------------------------------------------------------------------------------------------------------


def test_what_is_a_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(RunError, match="it does not exist"):
        folder.require()
    about = dict.fromkeys(("vaelid", "commit", "torch", "device", "processor", "engine", "threads"), "")
    data = dict.fromkeys(("shape", "support", "fingerprint"), "")
    folder.write_json(folder.environment_file, {**about, "data": data})
    with pytest.raises(RunError, match=r"it has no recipe.toml\."):
        folder.require()
    write_atomic(folder.recipe_file, b"")
    assert folder.require() is folder
    folder.environment_file.unlink()
    with pytest.raises(RunError, match=r"it has no environment.json\."):
        folder.require()
    assert repr(folder) == f"RunFolder({str(tmp_path / 'run')!r})"


def test_leftovers_of_killed_writers_are_removed_and_others_are_not(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    gone = [
        ".model.safetensors.7.tmp",
        "checkpoint/.step-1.safetensors.7.tmp",
        "samples/.progress.npz.7.tmp",
        ".metrics.jsonl.7.tmp",
    ]
    stay = [".results.json.7.tmp", "results/.test.npz.7.tmp", "samples/.test.npz.7.tmp", ".mine", "checkpoint/step-1.safetensors"]
    for name in [*gone, *stay]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    folder.remove_leftovers()
    assert {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()} == set(stay)


def test_the_lock(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "new" / "run")
    with folder.lock(), pytest.raises(RunError, match=rf"in use by another process \(pid {os.getpid()}\)"), folder.lock():
        pytest.fail("locked twice")
    with folder.lock():
        pass


def test_what_comes_to_nothing_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("")

    def refused(path: Path, *files: str) -> None:
        with RunFolder(path).lock():
            assert (path / "lock").is_file()
            for name in files:
                (path / name).write_text("")
            raise ZeroDivisionError

    for path, files in ((tmp_path / "new" / "run", ()), (tmp_path / "mine", ()), (tmp_path / "mine" / "a", ("a.txt",))):
        with pytest.raises(ZeroDivisionError):
            refused(path, *files)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")} == {
        "mine",
        "mine/notes.txt",
        "mine/a",
        "mine/a/a.txt",
    }


def test_a_lock_that_was_taken_away_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its holder was refused between our look at the file and our hold of it: another may hold a new file of that name."""
    flock, lock = fcntl.flock, tmp_path / "lock"
    for left in (lock.unlink, lambda: (lock.rename(tmp_path / "old"), lock.write_text("7"))):
        monkeypatch.setattr(fcntl, "flock", lambda file, how, left=left: (left(), flock(file, how)))
        with pytest.raises(RunError, match="in use"), RunFolder(tmp_path).lock():
            pytest.fail("not locked")


def test_the_lock_of_a_run_stays(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)

    def broken_off() -> None:
        with folder.lock():
            folder.recipe_file.write_text("")
            folder.environment_file.write_text("{}")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken_off()
    assert (tmp_path / "lock").is_file()


def test_a_lock_on_a_full_disk_still_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lock").symlink_to("/dev/full")
    flock = fcntl.flock
    held: list[int] = []
    monkeypatch.setattr(fcntl, "flock", lambda file, how: (held.append(how), flock(file, how)))
    with RunFolder(tmp_path).lock():
        assert held == [fcntl.LOCK_EX | fcntl.LOCK_NB]


def test_a_disk_without_locks_is_said_plainly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", refuse(errno.ENOLCK))
    with pytest.raises(MachineError, match=os.strerror(errno.ENOLCK)), RunFolder(tmp_path).lock():
        pytest.fail("not locked")


def test_metrics_reach_the_disk_or_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path)
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    folder.append_metrics({"epoch": 1})
    folder.sync_metrics()
    assert synced == [str(folder.metrics_file)]
    assert json.loads(folder.metrics_file.read_text()) == {"epoch": 1}
    monkeypatch.setattr(os, "fsync", refuse(errno.ENOSPC))
    with pytest.raises(MachineError, match=r"metrics.jsonl cannot be written"):
        folder.sync_metrics()
