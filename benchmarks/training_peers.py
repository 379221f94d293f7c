"""Training steps of vaelid beside those of the programs that people would use otherwise: ``make bench``.

    build/bench-venv/bin/python benchmarks/training_peers.py

At equal networks, data, optimizer and threads, without validation, logs or checkpoints, for several batch sizes, in float32 and
bfloat16. ``contest.py`` says how contestants take turns, ``training_epoch.py``, ``pythae_loop.py`` and ``lightning_loop.py`` what
each does.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from contest import Build, Steps, Turns, Watch, ratios, spread, take_turns, where
from training_epoch import EPOCH, VAELID_COMPILED, in_memory_steps, limit_steps, notebook_steps, vaelid_steps

RESULT = Path(__file__).parent / "results" / "training_peers.md"

NOTEBOOK, PYTHAE, LIGHTNING, LIGHTNING_MEMORY = "notebook loop", "pythae", "Lightning", "Lightning, batches from memory"
IN_MEMORY, VAELID, LIMIT = "plain PyTorch in memory", "vaelid", "machine's limit"
BFLOAT16 = ", bfloat16"


def peer(options: argparse.Namespace, watch: Watch, module: str, build: str, **settings: Any) -> Steps:
    """A contestant from a file of its own, imported in its process alone: it is to pay for no other's memory."""
    made: Steps = getattr(import_module(module), build)(options, watch, **settings)
    return made


CONTESTANTS: dict[str, Build] = {
    NOTEBOOK: notebook_steps,
    PYTHAE: partial(peer, module="pythae_loop", build="pythae_steps"),
    IN_MEMORY: in_memory_steps,
    LIGHTNING: partial(peer, module="lightning_loop", build="lightning_steps"),
    LIGHTNING_MEMORY: partial(peer, module="lightning_loop", build="lightning_steps", loader=False),
    VAELID: vaelid_steps,
    VAELID_COMPILED: partial(vaelid_steps, engine="compile"),
    LIMIT: limit_steps,
    IN_MEMORY + BFLOAT16: partial(in_memory_steps, precision="bfloat16"),
    LIGHTNING_MEMORY + BFLOAT16: partial(
        peer, module="lightning_loop", build="lightning_steps", loader=False, precision="bf16-mixed"
    ),
    VAELID + BFLOAT16: partial(vaelid_steps, precision="bfloat16"),
    VAELID_COMPILED + BFLOAT16: partial(vaelid_steps, precision="bfloat16", engine="compile"),
    LIMIT + BFLOAT16: partial(limit_steps, dtype=torch.bfloat16),
}


#: What is not there without ``peers.txt``.
PACKAGES = {PYTHAE: "pythae", LIGHTNING: "lightning"}


@dataclass(frozen=True)
class Size:
    """How long the contestants train at one batch size: ``--steps`` and ``--warm-up`` are for 32 images."""

    batch: int
    steps: int
    warm_up: int


@dataclass(frozen=True)
class Aim:
    """``slow`` takes at least, or at most, so many times as long as ``fast``, in float32 and with one thread."""

    batch: int
    slow: str
    fast: str
    factor: float
    at_least: bool = True

    def row(self, timings: dict[int, dict[str, Turns]]) -> str:
        """One row of the table; the median decides."""
        found = ratios(timings[self.batch], self.slow, self.fast)
        median = statistics.median(found)
        reached = median >= self.factor if self.at_least else median <= self.factor
        aim = f"{'≥' if self.at_least else '≤'} {self.factor}"
        return f"| {self.batch} | {self.slow} : {self.fast} | {aim} | {spread(found)} | {'yes' if reached else 'no'} |"


AIMS = (
    *(
        aim
        for ours in (VAELID, VAELID_COMPILED)
        for aim in (
            Aim(32, NOTEBOOK, ours, 2.5),
            Aim(32, PYTHAE, ours, 1.6),
            Aim(32, LIGHTNING, ours, 2.5),
            Aim(32, ours, LIMIT, 1.6, at_least=False),
            Aim(512, ours, LIMIT, 1.4, at_least=False),
        )
    ),
)


def main() -> None:
    options = parse()
    timings, sizes = {}, [size_of(batch, options) for batch in options.batch_sizes]
    for size in sizes:
        asked = argparse.Namespace(**{**vars(options), "batch_size": size.batch, "steps": size.steps, "warm_up": size.warm_up})
        timings[size.batch] = take_turns({name: CONTESTANTS[name] for name in options.only}, asked)
        print("\n".join(table(size, timings[size.batch])), flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text("\n".join(page(sizes, timings, options)) + "\n", encoding="utf-8")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[32, 128, 512, 2048], help="default: 32 128 512 2048")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each contestant (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=80, help="steps per turn at batch 32, else fewer (default: %(default)s)")
    parser.add_argument("--warm-up", type=int, default=1000, help="steps before, at batch 32, else fewer (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, default=[*CONTESTANTS], metavar="NAME", help="default: all")
    parser.add_argument("--seed", type=int, default=0, help="of weights and noise (default: %(default)s)")
    parser.add_argument("--synthetic", action="store_true", help="random images in place of MNIST: needs no data")
    parser.add_argument("--out", type=Path, default=RESULT, help="page to write (default: results/training_peers.md)")
    options = parser.parse_args()
    for name, package in PACKAGES.items():
        if any(contestant.startswith(name) for contestant in options.only) and find_spec(package) is None:
            parser.error(f"{name} is not installed; `make bench` does it. Or name what is to be compared: --only vaelid …")
    return options


def size_of(batch: int, options: argparse.Namespace) -> Size:
    """A step takes longer with more images, though not in proportion. As many images come before the first turn at every size."""
    share = min(1.0, 32 / batch)
    return Size(batch, max(5, round(options.steps * share**0.75)), max(5, round(options.warm_up * share)))


def page(sizes: list[Size], timings: dict[int, dict[str, Turns]], options: argparse.Namespace) -> Iterator[str]:
    """All lines."""
    images = "random images" if options.synthetic else "MNIST"
    yield "# Training beside other programs, on the CPU"
    yield ""
    yield f"{images}, the networks of the recipe `assignment`, Adamax, no validation; {options.repeats} turns: median [min–max]."
    yield "Ratios are taken turn by turn, beside vaelid in the same precision: above 1 where vaelid is faster."
    for size in sizes:
        yield ""
        yield from table(size, timings[size.batch])
    aims = [aim for aim in AIMS if {aim.slow, aim.fast} <= timings.get(aim.batch, {}).keys()]
    if aims and options.threads == 1:
        yield from ("", "## Aims", "", "| batch | | aim | measured | reached |", "|---|---|---|---|---|")
        yield from (aim.row(timings) for aim in aims)
        yield from ("", "Where a step of vaelid spends its time, at batch 32 and 512: [step_profile.txt](step_profile.txt).")
    yield ""
    yield f"* Command: `python benchmarks/training_peers.py {given(options)}`; `make bench` makes the environment and starts it"
    yield from where(options.threads)
    for name, package in PACKAGES.items():
        if name in options.only:
            yield f"* {name} {version(package)}"


def table(size: Size, timings: dict[str, Turns]) -> Iterator[str]:
    """One batch size."""
    epoch = -(-EPOCH // size.batch)
    yield f"## Batch {size.batch}"
    yield ""
    yield f"{size.steps} steps a turn, after {size.warm_up:,} steps."
    yield ""
    yield f"| | ms per step | s per epoch ({epoch:,} steps) | … : vaelid | peak memory, MB |"
    yield "|---|---|---|---|---|"
    for name, t in timings.items():
        ours = VAELID + BFLOAT16 if name.endswith(BFLOAT16) else VAELID
        ratio = "" if name == ours or ours not in timings else spread(ratios(timings, name, ours))
        yield f"| {name} | {spread(t.wall, 1e3)} | {spread(t.wall, epoch)} | {ratio} | {t.memory:.0f} |"


def given(options: argparse.Namespace) -> str:
    """The options that give this page again."""
    sizes = " ".join(map(str, options.batch_sizes))
    only = "" if options.only == [*CONTESTANTS] else " --only " + " ".join(map(shlex.quote, options.only))
    return (
        f"--batch-sizes {sizes} --repeats {options.repeats} --steps {options.steps} --warm-up {options.warm_up} "
        f"--threads {options.threads}{' --synthetic' if options.synthetic else ''}{only}"
    )


if __name__ == "__main__":
    main()
