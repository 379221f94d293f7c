"""Time from the start of a process to the first thing that vaelid does, beside what Python and PyTorch take by themselves.

    python benchmarks/start_up.py

The statements take turns, so that whatever else the machine does hits all of them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from vaelid.environment import describe_machine

RESULT = Path(__file__).parent / "results" / "start_up.md"
STARTS = {
    "Python alone": ("-c", "pass"),
    "`import vaelid`": ("-c", "import vaelid"),
    "`vaelid --help`": ("-m", "vaelid", "--help"),
    "`vaelid train --help`": ("-m", "vaelid", "train", "--help"),
    "`vaelid --version`": ("-m", "vaelid", "--version"),
    "`import torch`": ("-c", "import torch"),
    "`from vaelid import VAE`": ("-c", "from vaelid import VAE"),
    "`from vaelid import train`": ("-c", "from vaelid import train"),
    "every public name: `from vaelid import *`": ("-c", "from vaelid import *"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7, help="starts of each (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=RESULT, help="page to write (default: results/start_up.md)")
    options = parser.parse_args()
    for arguments in STARTS.values():
        seconds(arguments)  # compiles to bytecode and fills the page cache: neither belongs to a usual start
    times: dict[str, list[float]] = {name: [] for name in STARTS}
    for _ in range(options.repeats):
        for name, arguments in STARTS.items():
            times[name].append(seconds(arguments))
    page = report(times, options)
    print(page)
    options.out.write_text(page, encoding="utf-8")


def seconds(arguments: tuple[str, ...]) -> float:
    """Wall time of one process of this Python."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begun


def report(times: dict[str, list[float]], options: argparse.Namespace) -> str:
    """The page with table, machine and command."""
    machine = describe_machine(torch.device("cpu"))
    rows = (f"| {name} | {statistics.median(t):.3f} | {min(t):.3f} | {max(t):.3f} |" for name, t in times.items())
    lines = [
        "# Start-up: from the start of a process to its end",
        "",
        f"{options.repeats} starts of each in turn, after one that is not counted. Seconds on the wall.",
        "",
        "| | median | smallest | largest |",
        "|---|---|---|---|",
        *rows,
        "",
        f"* Command: `python benchmarks/start_up.py --repeats {options.repeats}`",
        f"* Machine: {machine['processor']}; load average at the end {os.getloadavg()[0]:.1f}",
        f"* Software: commit {machine['commit']}, torch {machine['torch']}, Python {machine['python']}",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
