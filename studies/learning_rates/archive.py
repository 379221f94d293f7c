"""Put the small files of a study's finished members aside, and back: it can then be trained on several machines in turn.

    python studies/learning_rates/archive.py save runs/learning-rates         # study folder -> studies/learning_rates/results
    python studies/learning_rates/archive.py restore runs/learning-rates      # and back: `vaelid study` then trains the others

Of every member that finished or diverged: recipe, environment, metrics (compressed) and results. No weights: what the curves say
and the choice by validation need none, but to meet the test split a member needs them. ``--heavy FOLDER``, a place outside the
repository that outlives the machine, keeps the weights too, and the checkpoints of members that are under way, which then go on.
"""

from __future__ import annotations

import argparse
import gzip
import shutil
from dataclasses import replace
from pathlib import Path

from vaelid.errors import RunError
from vaelid.folder import RunFolder
from vaelid.sweeps.ledger import ENDS, Ledger, StudyFolder

RESULTS = Path(__file__).parent / "results"
_METRICS = "metrics.jsonl.gz"


def main() -> None:
    options = parse()
    act = {"save": save, "restore": restore}[options.action]
    print("\n".join(act(StudyFolder(options.study), StudyFolder(options.archive), options.heavy)))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("save", "restore"))
    parser.add_argument("study", type=Path)
    parser.add_argument("--archive", type=Path, default=RESULTS, help="default: results/ beside this file")
    parser.add_argument("--heavy", type=Path, help="weights, and checkpoints of members that are under way")
    return parser.parse_args()


def save(study: StudyFolder, archive: StudyFolder, heavy: Path | None = None) -> list[str]:
    """Copy what is small from a study to the archive; says what it did, a line for each member.

    Raises:
        RunError: if the archive knows an end of a member that the study does not: it would be lost.
    """
    ledger = study.read()
    before = archive.read().members if archive.exists else {}
    lost = [name for name, member in before.items() if member.status in ENDS and not _ended(ledger, name)]
    if lost:
        raise RunError(f"{archive.path} has ends that {study.path} lacks: {', '.join(lost)}.", "Restore first, then save.")
    said = []
    for name, member in ledger.members.items():
        run = study.member(name)
        if member.status in ENDS:
            _copy_small(run, archive.member(name).path)
        if heavy is not None and run.exists:
            _copy_heavy(run, heavy / name, member.status in ENDS)
        said.append(f"{name}: {member.status}" + (" (saved)" if member.status in ENDS else ""))
    # What is under way here is nothing that another machine could go on with, unless it gets the heavy files, too.
    members = {name: m if m.status in ENDS else replace(m, status="waiting", message="") for name, m in ledger.members.items()}
    archive.path.mkdir(parents=True, exist_ok=True)
    archive.write(replace(ledger, members=members))
    return said


def restore(study: StudyFolder, archive: StudyFolder, heavy: Path | None = None) -> list[str]:
    """Put back what the archive has and the study has not; says what it did, a line for each member."""
    kept = archive.read()
    ledger = study.read() if study.exists else replace(kept, members={})
    said = []
    for name, member in kept.members.items():
        run = study.member(name)
        if run.exists:
            said.append(f"{name}: left as it is")
            continue
        if member.status in ENDS:
            _put_back(archive.member(name).path, run)
        if heavy is not None and (heavy / name).is_dir():
            shutil.copytree(heavy / name, run.path, dirs_exist_ok=True)
        ledger.members[name] = member
        weights = "with weights" if run.weights_file.is_file() else "without weights"
        said.append(f"{name}: {f'{member.status}, {weights}' if run.exists else 'to be trained'}")
    study.path.mkdir(parents=True, exist_ok=True)
    study.write(ledger)
    return said


def _ended(ledger: Ledger, name: str) -> bool:
    return name in ledger.members and ledger.members[name].status in ENDS


def _small(run: RunFolder) -> tuple[Path, ...]:
    return (run.recipe_file, run.environment_file, run.results_file)


def _copy_small(run: RunFolder, to: Path) -> None:
    to.mkdir(parents=True, exist_ok=True)
    for file in _small(run):
        if file.is_file():
            shutil.copyfile(file, to / file.name)
    # Without a time in it: equal curves are equal files.
    (to / _METRICS).write_bytes(gzip.compress(run.metrics_file.read_bytes(), mtime=0))


def _put_back(kept: Path, run: RunFolder) -> None:
    run.path.mkdir(parents=True, exist_ok=True)
    run.metrics_file.write_bytes(gzip.decompress((kept / _METRICS).read_bytes()))
    for file in reversed(_small(run)):  # the recipe last: with it the folder is a run
        if (kept / file.name).is_file():
            shutil.copyfile(kept / file.name, file)


def _copy_heavy(run: RunFolder, to: Path, ended: bool) -> None:
    """The weights of a member that ended; the whole run of one that is under way, so that it can go on."""
    if to.is_dir():
        shutil.rmtree(to)
    if not ended:
        shutil.copytree(run.path, to)
    elif run.weights_file.is_file():
        to.mkdir(parents=True)
        shutil.copyfile(run.weights_file, to / run.weights_file.name)


if __name__ == "__main__":
    main()
