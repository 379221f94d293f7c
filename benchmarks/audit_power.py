"""How often an audit is wrong: false alarms on correct parts, detections of broken ones, and the power curves.

    python benchmarks/audit_power.py                 100 seeds of every part, quick audits
    python benchmarks/audit_power.py --seeds 20      fewer
    python benchmarks/audit_power.py --seeds 0       the table of what is done already

Every audit adds one line to the results file, and what stands there is not done again: stop and go on at any time. Rates come
with 95 % Clopper–Pearson intervals, times as the processor's, which other work on the machine lengthens less than the clock's."""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
from scipy.stats import beta
from torch.distributions import Distribution

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # the zoo that the tests use

from broken_parts import BROKEN
from broken_priors import SamplerTooWide, WeightOff
from correct_parts import CORRECT, ZUKO
from vaelid.auditing.audit import audit
from vaelid.auditing.findings import AuditReport
from vaelid.environment import describe_machine

_SCALES = (0.01, 0.02, 0.03, 0.04, 0.05, 0.1)
_WEIGHTS = (0.01, 0.02, 0.03, 0.04, 0.05, 0.1)
_MADE = ("commit", "processor", "torch")  # where a line was made


class Task(NamedTuple):
    """One audit: a group, a part of it, a seed."""

    group: str
    name: str
    seed: int


def tasks(seeds: int) -> Iterator[Task]:
    """All audits: what an audit promises first, one seed of everything after the other; the curves last."""
    yield from (Task("default", "σ off by 0.05", seed) for seed in range(seeds))
    for seed in range(seeds):
        yield from (Task("correct", name, seed) for name in [*CORRECT, *_zuko()])
        yield from (Task("broken", name, seed) for name in BROKEN)
    for seed in range(seeds):
        yield from (Task("power", f"σ off by {x}", seed) for x in _SCALES)
        yield from (Task("power", f"weight off by {x}", seed) for x in _WEIGHTS)


def run(task: Task) -> dict[str, Any]:
    """One audit; ``hit``: an alarm for a correct part, the right test with the right name for a broken one."""
    torch.set_num_threads(1)
    Distribution.set_default_validate_args(True)  # zuko switches the checks off for everybody
    torch.manual_seed(task.seed)
    part, start = _part(task), time.process_time()
    report = audit(part, quick=task.group != "default", seed=task.seed)
    seconds = time.process_time() - start
    tests = sorted({f"{f.part}/{f.test}" for f in report.findings if f.verdict in ("fail", "undecided")})
    found = {"hit": _hit(task, report), "verdict": report.verdict, "tests": tests, "seconds": round(seconds, 2)}
    return {**task._asdict(), **found, **{key: describe_machine(torch.device("cpu"))[key] for key in _MADE}}


def _part(task: Task) -> Any:
    if task.group == "broken":
        return BROKEN[task.name].make()
    if task.group == "correct":
        return CORRECT[task.name]() if task.name in CORRECT else _zuko()[task.name]()
    return _off(task.name)


def _hit(task: Task, report: AuditReport) -> bool:
    if task.group == "broken":
        return BROKEN[task.name].is_caught(report)
    return report.verdict != "pass" if task.group == "correct" else report.verdict == "fail"


def _off(name: str) -> Any:
    size = float(name.rsplit(" ", 1)[1])
    if name.startswith("σ"):
        part = SamplerTooWide()
        part.factor = 1 + size
        return part
    mixture = WeightOff()
    mixture.off = size
    return mixture


def _zuko() -> dict[str, Any]:
    try:
        import zuko
    except ImportError:
        return {}
    Distribution.set_default_validate_args(True)
    return {name: lambda make=make: make(zuko) for name, make in ZUKO.items()}


def interval(hits: int, total: int) -> tuple[float, float]:
    """95 % Clopper–Pearson.

    >>> [round(x, 3) for x in interval(0, 100)]
    [0.0, 0.036]
    """
    low = float(beta.ppf(0.025, hits, total - hits + 1)) if hits else 0.0
    high = float(beta.ppf(0.975, hits + 1, total - hits)) if hits < total else 1.0
    return low, high


def show(lines: list[dict[str, Any]]) -> None:
    """A page with the rates of every part, group by group, and where the lines were made."""
    grouped: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        grouped[line["group"]][line["name"]].append(line)
    said = {
        "default": "Found by the default audit",
        "correct": "False alarms on correct parts, quick audits",
        "broken": "Broken parts found, by the right test and with the right name, quick audits",
        "power": "Found by quick audits, by the size of the error",
    }
    for group in [group for group in said if group in grouped]:
        print(
            f"\n## {said[group]}\n\n| part | {'alarms' if group == 'correct' else 'found'} | audits | rate | 95 % interval |",
            end="",
        )
        print(" processor s, median | … largest |\n|---|---|---|---|---|---|---|")
        for name, of_part in grouped[group].items():
            _show_rate(name, of_part)
        if group in ("correct", "broken"):
            _show_rate("**all together**", [line for of_part in grouped[group].values() for line in of_part])
    print("\nMade at:\n")
    for made, count in Counter(tuple(line[key] for key in _MADE) for line in lines).items():
        print(f"* {count:,} audits: commit {made[0]}, {made[1]}, one thread, torch {made[2]}")


def _show_rate(name: str, lines: list[dict[str, Any]]) -> None:
    hits, total = sum(line["hit"] for line in lines), len(lines)
    low, high = interval(hits, total)
    seconds = sorted(line["seconds"] for line in lines)
    spent = f"{seconds[total // 2]:.2f} | {seconds[-1]:.2f}"
    print(f"| {name} | {hits:,} | {total:,} | {hits / total:.2%} | {low:.2%} – {high:.2%} | {spent} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--groups", nargs="*", default=["default", "power", "broken", "correct"])
    parser.add_argument("--out", type=Path, default=Path("runs/audit-power.jsonl"))
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in given.out.read_text().splitlines()] if given.out.exists() else []
    behind = {(line["group"], line["name"], line["seed"]) for line in done}
    ahead = [task for task in tasks(given.seeds) if task not in behind and task.group in given.groups]
    print(f"{len(behind)} audits done, {len(ahead)} to do; results in {given.out}", file=sys.stderr, flush=True)
    with given.out.open("a") as file, ProcessPoolExecutor(given.jobs, get_context("spawn")) as pool:
        for future in as_completed([pool.submit(run, task) for task in ahead]):  # a worker that dies is an error, not a wait
            line = future.result()
            done.append(line)
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
    show([line for line in done if line["group"] in given.groups])


if __name__ == "__main__":
    main()
