"""Whole epochs of training on a GPU, by engine, and a study of eight members beside one run alone.

    python benchmarks/gpu_epoch.py                                         # writes results/gpu_epoch.md; a few minutes
    python benchmarks/gpu_epoch.py --device cpu --synthetic --out /tmp/cpu.md    # does it run?

The recipe ``assignment``; an epoch is all its steps and the validation. The images lie on the device. The first epoch is not
counted: it chooses kernels and records. Loss and gradients alone, of several members: ``together.py --device cuda``.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import training_epoch
from contest import spread

from vaelid import build
from vaelid.data import Data
from vaelid.environment import describe_machine
from vaelid.folder import RunFolder
from vaelid.progress import Silent
from vaelid.training.engines import ENGINES
from vaelid.training.loop import Epoch, Pace, train_epoch
from vaelid.training.start import prepare
from vaelid.training.state import Training
from vaelid.training.surroundings import Generators, own_randomness
from vaelid.training.together import Joint, Member, step
from vaelid.training.validation import validate

RESULT = Path(__file__).parent / "results" / "gpu_epoch.md"
WAYS = ("eager", "graph", "compile")
MEMBERS = 8


def main() -> None:
    options = parse()
    data = training_epoch.data_of(argparse.Namespace(batch_size=max(options.batch_sizes), seed=0, synthetic=options.synthetic))
    lines = ["| batch | engine | s per epoch | s of them validation | eager : this |", "|---|---|---|---|---|"]
    for batch in options.batch_sizes:
        found = {way: epochs(ready(data, batch, way, options), options.epochs)[1:] for way in options.engines}
        eager = statistics.median(a + b for a, b in found["eager"])
        for way, turns in found.items():
            whole = [a + b for a, b in turns]
            ratio = eager / statistics.median(whole)
            lines.append(f"| {batch} | {way} | {spread(whole)} | {spread([b for _, b in turns])} | **{ratio:.2f}** |")
    lines += ["", *members(data, options)]
    page = "\n".join([*head(options), *lines, ""])
    print(page)
    options.out.write_text(page, encoding="utf-8")


def ready(data: Data, batch: int, engine: str, options: argparse.Namespace, seed: int = 0) -> Training:
    """A training that has not begun, on the device."""
    recipe = build.settle(training_epoch.assignment(argparse.Namespace(batch_size=batch, seed=seed)), data, Path())
    folder = RunFolder(Path(tempfile.gettempdir()) / "never-written")
    with own_randomness(seed):
        training = prepare(folder, recipe, data, torch.device(options.device), Path())
    training.use(ENGINES[engine](training.model, training.weights))
    return training


def epochs(training: Training, count: int) -> list[tuple[float, float]]:
    """Seconds of the steps of each epoch, and of its validation."""
    seconds = []
    for _ in range(count):
        begun = time.perf_counter()
        train_epoch(training, Silent(), lambda: False, Pace(math.inf))
        training.state.epoch, training.state.batch = training.state.epoch + 1, 0
        middle = time.perf_counter()
        validate(training.model, training.data.validation, training.settings.validation_samples, 0, 0)
        seconds.append((middle - begun, time.perf_counter() - middle))
    return seconds


def members(data: Data, options: argparse.Namespace) -> list[str]:
    """Steps of eight members together beside those of one run by every engine that replays; all a step does is in them."""
    batch = options.batch_sizes[0]
    group = [member(ready(data, batch, "vectorized", options, seed)) for seed in range(MEMBERS)]
    joint = Joint(group)
    count = group[0].training.batches - _WARM
    together = [1e3 * seconds / count for seconds in timed(group, joint, count, options.epochs - 1)]
    lines = [f"A step of {MEMBERS} members together, batch {batch}: {spread(together)} ms."]
    for engine in [way for way in options.engines if way != "eager"]:
        training = ready(data, batch, engine, options)
        alone = [1e3 * steps / training.batches for steps, _ in epochs(training, options.epochs)[1:]]
        ratio = statistics.median(together) / statistics.median(alone)
        lines.append(
            f"* Of one run by `{engine}`: {spread(alone)} ms. **{ratio:.2f}** times as long for eight (aim: 1.5); "
            f"{ratio / MEMBERS:.2f} of eight in turn (aim: 0.3)."
        )
    return lines


#: Steps that record, and are not counted.
_WARM = 5


def timed(group: Sequence[Member], joint: Joint, count: int, turns: int) -> list[float]:
    """Seconds of so many joint steps, in so many turns."""
    seconds = []
    for _ in range(turns):
        for each in group:
            each.training.state.batch, each.epoch = 0, Epoch(each.training)
        for _ in range(_WARM):
            step(group, joint)
        settle(group)
        begun = time.perf_counter()
        for _ in range(count):
            step(group, joint)
        settle(group)
        seconds.append(time.perf_counter() - begun)
    return seconds


def settle(group: Sequence[Member]) -> None:
    """Wait for the device."""
    for each in group:
        each.epoch.tally.settle()


def member(training: Training) -> Member:
    """One at the start of its first epoch."""
    return Member(training, Generators(training.weights.flat.device), Silent(), Pace(math.inf), Epoch(training))


def head(options: argparse.Namespace) -> list[str]:
    """What the page is about."""
    machine, images = describe_machine(torch.device(options.device)), "random images" if options.synthetic else "MNIST"
    sizes = " ".join(map(str, options.batch_sizes))
    return [
        "# Epochs on a GPU",
        "",
        f"Recipe `assignment`, {images}; {options.epochs - 1} epochs: median [min–max].",
        "",
        f"* Command: `python benchmarks/gpu_epoch.py --device {options.device} --batch-sizes {sizes} --epochs {options.epochs}`",
        f"* Machine: {machine['processor']}, {machine['device']}",
        f"* Software: commit {machine['commit']}, torch {machine['torch']}, Python {machine['python']}",
        "",
    ]


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[32, 512])
    parser.add_argument("--epochs", type=int, default=4, help="of each; the first is not counted (default: %(default)s)")
    parser.add_argument("--engines", nargs="+", default=WAYS, choices=WAYS, help="eager first; default: all")
    parser.add_argument("--synthetic", action="store_true", help="a few random images in place of MNIST: needs no data")
    parser.add_argument("--out", type=Path, default=RESULT)
    return parser.parse_args()


if __name__ == "__main__":
    main()
