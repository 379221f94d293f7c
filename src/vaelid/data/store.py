"""Where the files of known data sets are: a folder of the user's, the cache, or the net.

``VAELID_DATA`` names a folder that is only read, with one subfolder per data set. What is downloaded goes to ``VAELID_CACHE``,
else to the user's cache folder.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from vaelid.data.download import download, matching_content, unpacked
from vaelid.errors import DataError, MachineError


@dataclass(frozen=True)
class KnownFile:
    """A file that is the same for everyone: its place below a data folder, the checksum of its unpacked content, its mirrors."""

    place: str
    checksum: str
    urls: tuple[str, ...]

    @property
    def places(self) -> tuple[str, ...]:
        """Where it may stand: packed or unpacked."""
        return tuple(dict.fromkeys((self.place, self.place.removesuffix(".gz"))))


def data_folder() -> Path | None:
    """The folder that ``VAELID_DATA`` names, if it names one."""
    named = os.environ.get("VAELID_DATA")
    return Path(named).expanduser() if named else None


def cache_folder() -> Path:
    """The folder that downloads go to."""
    named = os.environ.get("VAELID_CACHE")
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "vaelid"


def find(place: str) -> Path | None:
    """The file at ``place`` below the data folder or the cache, if it is there."""
    folders = [folder for folder in (data_folder(), cache_folder()) if folder is not None]
    return next((folder / place for folder in folders if (folder / place).is_file()), None)


def content(file: KnownFile) -> bytes:
    """The unpacked content of a known file, downloaded if need be.

    Raises:
        DataError: the file in the user's data folder is not the known one.
        MachineError: the file is nowhere to be had; says where it was looked for and how to supply it.
    """
    owned, cached = data_folder(), cache_folder() / file.place
    for path in [owned / place for place in file.places] if owned else []:
        if path.is_file():
            return _checked(path, file)
    for path in [cache_folder() / place for place in file.places]:
        found = matching_content(path, file.checksum) if path.is_file() else None
        if found is not None:  # a damaged file in the cache is fetched again
            return found
    try:
        download(file.urls, cached, file.checksum)
    except MachineError as error:
        looked = f"{owned} (VAELID_DATA)" if owned else "VAELID_DATA (not set)"
        raise MachineError(
            f"{file.place} is missing. It is neither in {looked} nor in {cache_folder()}, and {error.problem}",
            f"Connect to the internet, or set VAELID_DATA to a folder that holds {file.place} (the original file).",
        ) from error
    return b"".join(unpacked(cached))


def _checked(path: Path, file: KnownFile) -> bytes:
    found = matching_content(path, file.checksum)
    if found is None:
        raise DataError(
            f"{path} is damaged or another file: its unpacked content does not have the checksum {file.checksum}.",
            "Replace it by the original file, or unset VAELID_DATA to download it.",
        )
    return found
