"""Downloads that can be resumed and are never believed unchecked.

A file grows as ``NAME.part`` next to its destination and takes its name only after its checksum agrees. Checksums are those of
the unpacked content, so that a mirror may compress as it likes.
"""

from __future__ import annotations

import hashlib
import http.client
import logging
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from filelock import FileLock

from vaelid.errors import MachineError

TIMEOUT = 30  # seconds without an answer
_BLOCK = 2**20
_GZIP_MAGIC = b"\x1f\x8b"
_log = logging.getLogger(__name__)


def download(urls: Sequence[str], destination: Path, checksum: str) -> None:
    """Fetch a file from the first of ``urls`` that has it, unless ``destination`` already holds it.

    ``checksum`` is that of the unpacked content, e.g. ``"sha256:ba89…"``. Processes that ask for
    the same file wait for each other.

    Raises:
        MachineError: no mirror gave the file; says why for each of them.
    """
    failures = []
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{destination}.lock"):
            if destination.is_file() and matches(destination, checksum):
                return
            for url in urls:
                failure = _fetch_checked(url, destination, checksum)
                if failure is None:
                    return
                _log.warning("%s: %s", url, failure)
                failures.append(f"  {url}: {failure}")
    except OSError as error:
        failures.append(f"  {destination.parent} cannot be written: {error}")
    reasons = "\n".join(failures)
    raise MachineError(f"{destination.name} could not be downloaded:\n{reasons}")


def matching_content(path: Path, checksum: str) -> bytes | None:
    """The unpacked content of a file, if it has this checksum; it is unpacked only once."""
    blocks: list[bytes] = []
    return b"".join(blocks) if matches(path, checksum, blocks.append) else None


def matches(path: Path, checksum: str, keep: Callable[[bytes], None] = lambda _block: None) -> bool:
    """Whether the unpacked content of a file has this checksum; ``keep`` is handed every block of it."""
    algorithm, expected = checksum.split(":")
    digest = hashlib.new(algorithm, usedforsecurity=False)
    try:
        for block in unpacked(path):
            digest.update(block)
            keep(block)
    except (zlib.error, EOFError):  # a damaged archive does not match
        return False
    return digest.hexdigest() == expected


def unpacked(path: Path) -> Iterator[bytes]:
    """The content of a file in blocks, unpacked if it is a gzip archive.

    Raises:
        zlib.error, EOFError: the archive is damaged or truncated.
    """
    with path.open("rb") as file:
        packed = file.read(2) == _GZIP_MAGIC
        file.seek(0)
        unpacker = zlib.decompressobj(wbits=31)
        while block := file.read(_BLOCK):
            yield unpacker.decompress(block) if packed else block
    if packed and not unpacker.eof:
        raise EOFError(f"{path} is truncated")


def _fetch_checked(url: str, destination: Path, checksum: str) -> str | None:
    """Put the file at ``destination``; the reason if that failed. What came is kept unless its checksum is wrong."""
    part = destination.with_name(f"{destination.name}.part")
    resumed = part.is_file() and part.stat().st_size > 0
    try:
        complete = _fetch(url, part)
        if resumed and complete and not matches(part, checksum):
            part.unlink()  # what was there before need not have come from this file: start afresh
            complete = _fetch(url, part)
    except (OSError, http.client.HTTPException) as error:
        return f"{type(error).__name__}: {error}"
    if not complete:
        return "the connection ended early; what came is kept"
    if not matches(part, checksum):
        part.unlink()
        return f"its content is not what was expected (not {checksum})"
    part.replace(destination)
    return None


def _fetch(url: str, part: Path) -> bool:
    """Append to ``part`` what it lacks of ``url``; whether all of it came."""
    have = part.stat().st_size if part.is_file() else 0
    headers = {"User-Agent": "vaelid"} | ({"Range": f"bytes={have}-"} if have else {})
    _log.info("downloading %s from byte %d", url, have)
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as answer:
            resumes = answer.status == http.HTTPStatus.PARTIAL_CONTENT
            with part.open("ab" if resumes else "wb") as file:  # a server without ranges sends everything anew
                received = _copy(answer, file)
            expected = answer.headers.get("Content-Length")
            return expected is None or received == int(expected)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return True  # nothing is missing, or too much is there: the checksum will tell
        raise


def _copy(source: http.client.HTTPResponse, target: IO[bytes]) -> int:
    received = 0
    while block := source.read(_BLOCK):
        received += target.write(block)
    return received
