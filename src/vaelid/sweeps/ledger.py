"""study.json: which members a study has, how each one stands, what was selected, and when the test split was looked at."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vaelid.errors import RunError
from vaelid.folder import RunFolder, write_atomic

#: How members stand: these are ends; ``waiting``, ``running``, ``interrupted`` and ``failed`` are taken up again.
ENDS = ("finished", "diverged", "pruned")


@dataclass
class Member:
    """One training of a study; ``name`` is its run folder's.

    Attributes:
        settings: what is its own beside the study's common settings
        recipe: the identity of its resolved recipe, flat
        images: fingerprint of its validation images
        kind: of its −ELBO: ``probability`` or ``density``
        message: why it failed or diverged
    """

    name: str
    combination: str
    seed: int
    settings: dict[str, Any]
    recipe: dict[str, Any]
    images: str
    kind: str
    status: str = "waiting"
    message: str = ""


@dataclass
class Ledger:
    """The content of study.json.

    Attributes:
        grid: values of each setting that is varied, as they were asked for; of every call, if members were added
        data: fingerprint of all images, by the data's name
        selection: what :func:`vaelid.sweeps.selection.choose` found; empty before the end
        test: every look at the test split, in order
        search: of a search: space, pruner, trials that were asked for, common settings; and how many trials ended how
    """

    grid: dict[str, list[Any]] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=list)
    members: dict[str, Member] = field(default_factory=dict)
    selection: dict[str, Any] = field(default_factory=dict)
    test: list[dict[str, Any]] = field(default_factory=list)
    vaelid: str = ""
    search: dict[str, Any] = field(default_factory=dict)

    @property
    def combinations(self) -> dict[str, list[Member]]:
        """The members of each combination, in the order in which they were asked for."""
        found: dict[str, list[Member]] = {}
        for member in self.members.values():
            found.setdefault(member.combination, []).append(member)
        return found


class StudyFolder:
    """A study on disk: study.json, figures/, and one run folder per member."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.file = self.path / "study.json"
        self.figures = self.path / "figures"

    def __repr__(self) -> str:
        return f"StudyFolder({str(self.path)!r})"

    @property
    def exists(self) -> bool:
        """Whether there is a study here."""
        return self.file.is_file()

    def require_room(self) -> None:
        """Refuse a folder that holds something, but no study.

        Raises:
            RunError: names some of what is there.
        """
        if self.exists or not self.path.is_dir():
            return
        there = sorted(entry.name for entry in self.path.iterdir() if entry.name != "lock" and not entry.name.startswith("."))
        if there:
            names = ", ".join(there[:5]) + (" …" if len(there) > 5 else "")
            raise RunError(
                f"{self.path} is not empty and holds no study (it has {names}); it is left as it is.", "Give another --out."
            )

    def member(self, name: str) -> RunFolder:
        """The run folder of a member."""
        return RunFolder(self.path / name)

    def read(self) -> Ledger:
        """The ledger.

        Raises:
            RunError: if there is no study here, or study.json is damaged.
        """
        if not self.exists:
            raise RunError(f"{self.path} holds no study: it has no study.json.", "`vaelid study` makes one.")
        try:
            content = json.loads(self.file.read_bytes())
            members = {name: Member(**member) for name, member in content.pop("members").items()}
            return Ledger(members=members, **content)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise RunError(f"{self.file} is damaged: {error}.", "Restore it from a copy.") from error

    def write(self, ledger: Ledger) -> None:
        """Replace study.json in one step.

        Raises:
            MachineError: if the disk refuses; the old file is still there.
        """
        write_atomic(self.file, (json.dumps(asdict(ledger), indent=2, ensure_ascii=False) + "\n").encode())


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON gives them back: tuples become lists."""
    read: dict[str, Any] = json.loads(json.dumps(dict(settings)))
    return read


def trials_told(search: Mapping[str, Any]) -> str:
    """How many of a search's trials ended how, in words.

    >>> trials_told({"trials": 20, "ended": {"finished": 12, "pruned": 7, "running": 1}})
    'of 20 trials: 12 finished, 7 pruned, 1 running'
    """
    ended = ", ".join(f"{count} {status}" for status, count in search["ended"].items()) or "none begun"
    return f"of {search['trials']} trials: {ended}"


_MAY_CHANGE = "Members may be added: more values of the grid, more seeds; --epochs and --patience may be raised."


def require_same(stood: Mapping[str, Any], asked: Mapping[str, Any], where: Path, may_change: str = _MAY_CHANGE) -> None:
    """Refuse other settings than a study has: members may be added, but what they have in common stays.

    Raises:
        RunError: with every setting that differs, and its two values.
    """
    differing = [key for key in sorted({*stood, *asked}) if stood.get(key) != asked.get(key)]
    if differing:
        lines = "; ".join(f"{key} is {stood.get(key, 'not set')!r}, asked {asked.get(key, 'not set')!r}" for key in differing)
        raise RunError(
            f"{where} holds a study with other settings: {lines}.",
            f"Give another --out, or --overwrite to start afresh. ({may_change})",
        )
