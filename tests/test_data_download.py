"""Downloads, and where known files are looked for."""

from __future__ import annotations

import gzip
import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_fixtures import Server, serving
from vaelid.data.download import download, matches, matching_content
from vaelid.data.store import KnownFile, cache_folder, content, data_folder, find
from vaelid.errors import DataError, MachineError

PLAIN = bytes(range(256)) * 5000  # more than one block
PACKED = gzip.compress(PLAIN, mtime=0)
CHECKSUM = f"sha256:{hashlib.sha256(PLAIN).hexdigest()}"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("VAELID_DATA", raising=False)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving({"/plain": PLAIN, "/packed.gz": PACKED, "/wrong": b"something else", "/empty": b""}) as running:
        yield running


@pytest.fixture
def goal(tmp_path: Path) -> Path:
    return tmp_path / "new" / "file"


def part_of(goal: Path, content: bytes) -> Path:
    goal.parent.mkdir(parents=True)
    part = goal.with_name("file.part")
    part.write_bytes(content)
    return part


@pytest.mark.parametrize("path", ["/plain", "/packed.gz"])
def test_a_file_comes_whole(server: Server, goal: Path, path: str) -> None:
    download([server.url(path)], goal, CHECKSUM)
    assert goal.read_bytes() == server.files[path]
    assert not goal.with_name("file.part").exists()
    assert server.seen == [(path, None)]


def test_a_file_that_is_there_is_not_fetched(server: Server, goal: Path) -> None:
    goal.parent.mkdir()
    goal.write_bytes(PACKED)
    download([server.url("/plain")], goal, CHECKSUM)
    assert server.seen == []
    goal.write_bytes(PACKED[:-100])
    download([server.url("/plain")], goal, CHECKSUM)
    assert goal.read_bytes() == PLAIN


def test_a_partial_file_is_resumed(server: Server, goal: Path) -> None:
    part_of(goal, PLAIN[:1000])
    download([server.url("/plain")], goal, CHECKSUM)
    assert goal.read_bytes() == PLAIN
    assert server.seen == [("/plain", "bytes=1000-")]


def test_a_complete_partial_file_is_taken(server: Server, goal: Path) -> None:
    part_of(goal, PLAIN)
    download([server.url("/plain")], goal, CHECKSUM)
    assert goal.read_bytes() == PLAIN


@pytest.mark.parametrize("rest", [b"not the beginning", PLAIN + b"too much"])
def test_a_foreign_partial_file_is_dropped(server: Server, goal: Path, rest: bytes) -> None:
    part_of(goal, rest)
    download([server.url("/plain")], goal, CHECKSUM)
    assert goal.read_bytes() == PLAIN
    assert server.seen == [("/plain", f"bytes={len(rest)}-"), ("/plain", None)]


def test_servers_without_ranges_send_all_again(server: Server, goal: Path) -> None:
    server.ranges = False
    part_of(goal, PLAIN[:1000])
    download([server.url("/plain")], goal, CHECKSUM)
    assert goal.read_bytes() == PLAIN
    assert len(server.seen) == 1


def test_an_interrupted_download_goes_on_at_the_next_mirror(server: Server, goal: Path) -> None:
    server.cut = 2000
    with pytest.raises(MachineError, match="ended early"):
        download([server.url("/plain")], goal, CHECKSUM)
    assert goal.with_name("file.part").read_bytes() == PLAIN[:2000]
    server.cut = None
    download([server.url("/missing"), server.url("/plain")], goal, CHECKSUM)
    assert goal.read_bytes() == PLAIN
    assert server.seen[-2:] == [("/missing", "bytes=2000-"), ("/plain", "bytes=2000-")]


@pytest.mark.parametrize("path", ["/wrong", "/empty"])
def test_a_wrong_checksum_is_refused_and_removed(server: Server, goal: Path, path: str) -> None:
    with pytest.raises(MachineError, match="not what was expected"):
        download([server.url(path)], goal, CHECKSUM)
    assert not goal.exists()
    assert not goal.with_name("file.part").exists()


def test_the_next_mirror_is_used(server: Server, goal: Path) -> None:
    download([server.url(path) for path in ("/missing", "/wrong", "/plain", "/packed.gz")], goal, CHECKSUM)
    assert goal.read_bytes() == PLAIN
    assert [path for path, _ in server.seen] == ["/missing", "/wrong", "/plain"]


def test_all_failures_are_told(server: Server, goal: Path) -> None:
    with serving({}) as gone:
        closed = gone.url("/plain")
    with pytest.raises(MachineError) as caught:
        download([server.url("/missing"), server.url("/wrong"), closed], goal, CHECKSUM)
    message = str(caught.value)
    assert "file could not be downloaded" in message
    assert f"{server.url('/missing')}: HTTPError: HTTP Error 404" in message
    assert f"{server.url('/wrong')}: its content is not what was expected (not {CHECKSUM})" in message
    assert f"{closed}: URLError" in message


def test_a_folder_that_cannot_be_written_is_told(server: Server, tmp_path: Path) -> None:
    (tmp_path / "new").write_text("a file where a folder must be")
    with pytest.raises(MachineError, match="cannot be written"):
        download([server.url("/plain")], tmp_path / "new" / "file", CHECKSUM)


def test_two_at_once_fetch_once(server: Server, goal: Path) -> None:
    threads = [threading.Thread(target=download, args=([server.url("/plain")], goal, CHECKSUM)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert goal.read_bytes() == PLAIN
    assert server.seen == [("/plain", None)]


@pytest.mark.parametrize(
    ("raw", "same"),
    [(PLAIN, True), (PACKED, True), (PLAIN[:-1], False), (PACKED[:-9], False), (PACKED[:50] + b"?" + PACKED[51:], False)],
)
def test_checksums_are_those_of_the_unpacked_content(tmp_path: Path, raw: bytes, same: bool) -> None:
    (tmp_path / "file").write_bytes(raw)
    assert matches(tmp_path / "file", CHECKSUM) is same
    assert matches(tmp_path / "file", f"md5:{hashlib.md5(PLAIN).hexdigest()}") is same
    assert matching_content(tmp_path / "file", CHECKSUM) == (PLAIN if same else None)


# Known files --------------------------------------------------------------------------------------------------------------


def known(*urls: str) -> KnownFile:
    return KnownFile("set/file.gz", CHECKSUM, urls)


@pytest.fixture
def owned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place for a file in the user's own folder."""
    monkeypatch.setenv("VAELID_DATA", str(tmp_path / "own"))
    (tmp_path / "own" / "set").mkdir(parents=True)
    return tmp_path / "own" / "set" / "file.gz"


def test_folders_follow_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert data_folder() is None
    monkeypatch.setenv("VAELID_CACHE", "/somewhere")
    assert cache_folder() == Path("/somewhere")
    monkeypatch.delenv("VAELID_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder() == Path("/xdg/vaelid")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "vaelid"
    monkeypatch.setenv("VAELID_DATA", "~/data")
    assert data_folder() == tmp_path / "data"


def test_the_users_file_comes_first(server: Server, owned: Path) -> None:
    owned.write_bytes(PACKED)
    assert content(known(server.url("/plain"))) == PLAIN
    assert server.seen == []
    assert find("set/file.gz") == owned
    assert not cache_folder().exists()


def test_the_users_file_may_be_unpacked(owned: Path) -> None:
    owned.with_name("file").write_bytes(PLAIN)
    assert content(known()) == PLAIN


def test_a_damaged_file_of_the_users_is_refused(server: Server, owned: Path) -> None:
    owned.write_bytes(PACKED[:-50])
    with pytest.raises(DataError, match=rf"{owned} is damaged or another file"):
        content(known(server.url("/plain")))
    assert server.seen == []


def test_downloads_go_to_the_cache_once(server: Server) -> None:
    file = known(server.url("/packed.gz"))
    assert [content(file), content(file)] == [PLAIN, PLAIN]
    assert len(server.seen) == 1
    assert find("set/file.gz") == cache_folder() / "set" / "file.gz"
    (cache_folder() / "set" / "file.gz").write_bytes(b"damaged")
    assert content(file) == PLAIN
    assert len(server.seen) == 2


def test_a_missing_file_is_explained(server: Server, owned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find("set/file.gz") is None
    with pytest.raises(MachineError) as caught:
        content(known(server.url("/missing")))
    for text in ("set/file.gz is missing", f"{owned.parents[1]} (VAELID_DATA)", str(cache_folder()), "404"):
        assert text in caught.value.problem
    assert "set VAELID_DATA to a folder that holds set/file.gz" in caught.value.remedy
    monkeypatch.delenv("VAELID_DATA")
    with pytest.raises(MachineError, match=r"VAELID_DATA \(not set\)"):
        content(known(server.url("/missing")))
