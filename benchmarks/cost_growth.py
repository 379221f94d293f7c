"""How time and memory grow with images N, latent dimensions L, components C of the prior, and importance samples K.

    python benchmarks/cost_growth.py

Every point has a process of its own, so that its peak memory can be told, and is measured as processor time of one thread, which
other programs on the machine disturb less than the time on the wall; the median of ``--repeats`` is taken. Images are random
bytes of MNIST's shape, networks are small (64-64 hidden units), so that what grows is not hidden behind them.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vaelid.build import settle
from vaelid.data import Data, DataSettings, Images, split_data
from vaelid.environment import describe_machine
from vaelid.evaluation.evaluate import Plan, evaluate_images
from vaelid.folder import RunFolder
from vaelid.progress import Silent
from vaelid.recipe import expand, read_recipe
from vaelid.supports import BYTES
from vaelid.training.loop import Pace, train_epoch
from vaelid.training.start import prepare
from vaelid.training.state import Training

RESULT = Path(__file__).parent / "results" / "cost_growth.md"
BATCH, STEPS, JUDGED = 128, 60, 20
PIXELS = 784

#: What grows, its values, and what is timed.
AXES: dict[str, tuple[tuple[int, ...], str]] = {
    "N": ((10_000, 100_000, 1_000_000), "an epoch of training"),
    "L": ((8, 32, 128, 512), "a training step"),
    "C": ((16, 64, 256, 1000), "a training step"),
    "K": ((100, 1000, 10_000), f"evaluating {JUDGED} images"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="of every measurement (default: %(default)s)")
    parser.add_argument("--largest", type=int, default=10**6, help="leave out larger values (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=RESULT, help="page to write (default: results/cost_growth.md)")
    options = parser.parse_args()
    found: dict[str, dict[int, tuple[float, float]]] = {}
    with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for axis, (values, _) in AXES.items():
            asked = [(axis, value, options.repeats) for value in values if value <= options.largest]
            measured = pool.starmap(measure, asked, chunksize=1)
            found[axis] = {value: point for (_, value, _), point in zip(asked, measured, strict=True)}
            print("\n".join(table(axis, found[axis])), flush=True)
    options.out.write_text("\n".join(page(found, options)) + "\n", encoding="utf-8")


def measure(axis: str, value: int, repeats: int) -> tuple[float, float]:
    """Processor seconds, and peak memory beyond the stored pixels in MB, of one point."""
    torch.set_num_threads(1)
    data = random_data(value if axis == "N" else 2000)
    training = training_of(data, latent=value if axis == "L" else 20, components=value if axis == "C" else 16)
    timed = MEASURES[axis]
    seconds = statistics.median(timed(training, value) for _ in range(repeats))
    stored = len(data.train.images) * PIXELS
    return seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - stored) / 1e6


def random_data(count: int) -> Data:
    """Random gray images, nearly all of them for training; made in place, so that the peak of memory is not their making."""
    pixels = torch.empty((count + 200, 1, 28, 28), dtype=torch.uint8).random_(0, 256)
    share = 100 / (count + 200)
    settings = DataSettings("random", "dynamic", validation_fraction=share, test_fraction=share)
    return split_data(Images("random", pixels, BYTES), settings)


def training_of(data: Data, latent: int, components: int) -> Training:
    """A training that has made its first steps."""
    changes = {"hidden": [64, 64], "latent": latent, "components": components, "batch_size": BATCH, "binarization": "dynamic"}
    recipe = read_recipe("assignment").override(expand(changes))
    folder = RunFolder(Path(tempfile.gettempdir()) / "never-written")
    training = prepare(folder, settle(recipe, data, Path()), data, torch.device("cpu"), Path())
    steps(training, 5)
    return training


def steps(training: Training, count: int) -> float:
    """Processor seconds of the beginning of an epoch: its order, and so many steps."""
    training.state.batch = 0
    end, begun = training.state.step + count, time.process_time()
    train_epoch(training, Silent(), lambda: training.state.step >= end, Pace(math.inf))
    return time.process_time() - begun


def epoch(training: Training, count: int) -> float:
    """Seconds of an epoch: what it costs until the first step is done, and that many times the share of one more step."""
    few, more = steps(training, 1), steps(training, 1 + STEPS)
    return few + (more - few) / STEPS * (training.batches - 1)


def step(training: Training, _: int) -> float:
    """Seconds of a step."""
    return (steps(training, 1 + STEPS) - steps(training, 1)) / STEPS


def judging(training: Training, samples: int) -> float:
    """Seconds of the importance-weighted bound of a few images."""
    begun = time.process_time()
    evaluate_images(training.model, training.data.test.first(JUDGED), None, Plan(samples, 1), Silent())
    return time.process_time() - begun


MEASURES: dict[str, Callable[[Training, int], float]] = {"N": epoch, "L": step, "C": step, "K": judging}


def line(points: dict[int, tuple[float, float]]) -> tuple[float, float, float]:
    """Cost per unit b and fixed cost a of time = a + b · value (least relative squares); and the largest relative deviation."""
    values, seconds = np.array(list(points), dtype=float), np.array([s for s, _ in points.values()])
    design = np.stack([1 / seconds, values / seconds], axis=1)
    (fixed, per_unit), *_ = np.linalg.lstsq(design, np.ones(len(values)), rcond=None)
    return float(per_unit), float(fixed), float(np.abs((fixed + per_unit * values) / seconds - 1).max())


def exponent(points: dict[int, tuple[float, float]]) -> float:
    """Slope of log time over log value between the two largest: 1 where time is linear, less where a fixed part is left."""
    (low, (before, _)), (high, (after, _)) = list(points.items())[-2:]
    return math.log(after / before) / math.log(high / low)


def table(axis: str, points: dict[int, tuple[float, float]]) -> Iterator[str]:
    """One axis."""
    yield f"## {axis}: {AXES[axis][1]}"
    yield ""
    yield f"| {axis} | processor ms | µs per unit of {axis} | peak memory beyond the images, MB |"
    yield "|---|---|---|---|"
    for value, (seconds, memory) in points.items():
        yield f"| {value:,} | {seconds * 1e3:,.2f} | {seconds / value * 1e6:,.3g} | {memory:,.0f} |"
    if len(points) > 1:
        per_unit, fixed, deviation = line(points)
        memories = [memory for _, memory in points.values()]
        yield ""
        yield (
            f"Exponent between the two largest: {exponent(points):.2f}. Fitted line: {fixed * 1e3:.3g} ms + "
            f"{per_unit * 1e6:.3g} µs · {axis}, off by at most {deviation:.0%}. Memory from smallest to largest: "
            f"{memories[-1] - memories[0]:+,.0f} MB."
        )


def page(found: dict[str, dict[int, tuple[float, float]]], options: argparse.Namespace) -> Iterator[Any]:
    """All lines."""
    machine = describe_machine(torch.device("cpu"))
    yield "# How cost grows"
    yield ""
    yield f"Processor time of one thread, median of {options.repeats}; random 28×28 images, 64-64 hidden units, batch {BATCH};"
    yield "L = 20 and C = 16 where they do not grow. Time is linear where the exponent is near 1; below 1 a fixed part is left."
    for axis, points in found.items():
        yield ""
        yield from table(axis, points)
    yield ""
    yield f"* Command: `python benchmarks/cost_growth.py --repeats {options.repeats}`"
    yield f"* Machine: {machine['processor']}, one thread; load average at the end {os.getloadavg()[0]:.1f}"
    yield f"* Software: commit {machine['commit']}, torch {machine['torch']}, Python {machine['python']}"


if __name__ == "__main__":
    main()
