"""Whole epochs of training on a GPU, by engine, and a study of eight members beside one run.

    python benchmarks/gpu_epoch.py                                         # writes results/gpu_epoch.md; a few minutes
    python benchmarks/gpu_epoch.py --device cpu --synthetic --out /tmp/cpu.md    # does it run?

The recipe ``assignment``; an epoch is all its steps and the validation. The images lie on the device. The first epoch is not
counted: it chooses kernels and records. Joint steps of several members: ``together.py --device cuda``.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from pathlib import Path

import torch
import training_epoch
from contest import spread

from vaelid.build import settle
from vaelid.data import Data
from vaelid.environment import describe_machine
from vaelid.folder import RunFolder
from vaelid.progress import Silent
from vaelid.training.engines import ENGINES
from vaelid.training.loop import Epoch, Pace, train_epoch
from vaelid.training.start import prepare
from vaelid.training.state import Training
from vaelid.training.surroundings import own_randomness
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
    recipe = settle(training_epoch.assignment(argparse.Namespace(batch_size=batch, seed=seed)), data, Path())
    folder = RunFolder(Path(tempfile.gettempdir()) / "never-written")
    with own_randomness(seed):
        training = prepare(folder, recipe, data, torch.device(options.device), Path())
    training.engine = ENGINES[engine](training.model, training.weights)
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
    """A joint step of eight members beside a step of one recorded run, pixels and optimizer included."""
    batch = options.batch_sizes[0]
    group = [member(ready(data, batch, "vectorized", options, seed)) for seed in range(MEMBERS)]
    alone = [member(ready(data, batch, "graph", options))]
    joint, steps = Joint(group), alone[0].training.batches - 2
    seconds = {}
    for name, run in (("joint", lambda: step(group, joint)), ("alone", lambda: by_itself(alone[0]))):
        run()
        begun = time.perf_counter()
        for _ in range(steps):
            run()
        for each in [*group, *alone]:
            each.epoch.tally.settle()  # waits for the device
        seconds[name] = (time.perf_counter() - begun) / steps
    return [
        f"A step of {MEMBERS} members together, batch {batch}: {1e3 * seconds['joint']:.2f} ms; of one run by graph: "
        f"{1e3 * seconds['alone']:.2f} ms. **{seconds['joint'] / seconds['alone']:.2f}** times as long (aim: 1.5)."
    ]


def member(training: Training) -> Member:
    """One at the start of its first epoch."""
    return Member(training, torch.get_rng_state(), Silent(), Pace(math.inf), Epoch(training))


def by_itself(one: Member) -> None:
    """What ``train_epoch`` does for a batch."""
    training, epoch = one.training, one.epoch
    x = training.data.train.batch(epoch.positions, training.state.epoch, training.settings.seed)
    epoch.update(*training.engine(x, epoch.objective), len(x))


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
