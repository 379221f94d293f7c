"""How often an audit is wrong: false alarms on correct parts, detections of broken ones, and the power curves.

    python benchmarks/audit_power.py                 100 seeds of every part, quick audits
    python benchmarks/audit_power.py --seeds 20      fewer

Every audit adds one line to the results file, and what stands there is not done again: stop and go on at any time. Rates come
with 95 % Clopper–Pearson intervals."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections import defaultdict
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

_SCALES = (0.01, 0.02, 0.03, 0.04, 0.05, 0.1)
_WEIGHTS = (0.01, 0.02, 0.03, 0.04, 0.05, 0.1)


class Task(NamedTuple):
    """One audit: a group, a part of it, a seed."""

    group: str
    name: str
    seed: int


def tasks(seeds: int) -> Iterator[Task]:
    """All audits, one seed of everything after the other."""
    for seed in range(seeds):
        yield Task("default", "σ off by 0.05", seed)
        yield from (Task("power", f"σ off by {x}", seed) for x in _SCALES)
        yield from (Task("power", f"weight off by {x}", seed) for x in _WEIGHTS)
        yield from (Task("broken", name, seed) for name in BROKEN)
        yield from (Task("correct", name, seed) for name in [*CORRECT, *_zuko()])


def run(task: Task) -> dict[str, Any]:
    """One audit; ``hit``: an alarm for a correct part, the right test with the right name for a broken one."""
    torch.set_num_threads(1)
    Distribution.set_default_validate_args(True)  # zuko switches the checks off for everybody
    torch.manual_seed(task.seed)
    quick = task.group != "default"
    if task.group == "broken":
        entry = BROKEN[task.name]
        report = audit(entry.make(), quick=quick, seed=task.seed)
        hit = any(f.test in entry.expected and entry.guilty in f.guilty for f in report.failures)
    elif task.group == "correct":
        made = CORRECT[task.name]() if task.name in CORRECT else _zuko()[task.name]()
        report = audit(made, quick=quick, seed=task.seed)
        hit = report.verdict != "pass"
    else:
        report = audit(_off(task.name), quick=quick, seed=task.seed)
        hit = report.verdict == "fail"
    tests = sorted({f"{f.part}/{f.test}" for f in report.findings if f.verdict in ("fail", "undecided")})
    return {**task._asdict(), "hit": hit, "verdict": report.verdict, "tests": tests, "seconds": round(report.seconds, 2)}


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
    """Rates per group and part."""
    grouped: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        grouped[line["group"]][line["name"]].append(line)
    said = {"correct": "false alarms", "broken": "detections", "power": "detections", "default": "detections, default audit"}
    for group, parts in grouped.items():
        print(f"\n{group}: {said[group]}")
        for name, of_part in parts.items():
            _show_rate(name, of_part)
        if group in ("correct", "broken"):
            _show_rate("all together", [line for of_part in parts.values() for line in of_part])


def _show_rate(name: str, lines: list[dict[str, Any]]) -> None:
    hits, total = sum(line["hit"] for line in lines), len(lines)
    low, high = interval(hits, total)
    seconds = sorted(line["seconds"] for line in lines)[total // 2]
    print(f"  {name:42} {hits:5} of {total:5} = {hits / total:6.1%}  [{low:.1%}, {high:.1%}]  median {seconds:.2f} s")


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
    print(f"{len(behind)} audits done, {len(ahead)} to do; results in {given.out}", flush=True)
    with given.out.open("a") as file, ProcessPoolExecutor(given.jobs, get_context("spawn")) as pool:
        for future in as_completed([pool.submit(run, task) for task in ahead]):  # a worker that dies is an error, not a wait
            line = future.result()
            done.append(line)
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
    show([line for line in done if line["group"] in given.groups])


if __name__ == "__main__":
    main()
