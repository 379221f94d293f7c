"""Milliseconds of one training step of the recipe mnist-fast, by batch size, precision, components and engine.

python benchmarks/speedrun/steps.py --batches 256,512 --components 32,256
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from itertools import product
from pathlib import Path

import torch

from vaelid.build import settle
from vaelid.data import Data, load_data
from vaelid.folder import RunFolder
from vaelid.recipe import Recipe, read_recipe
from vaelid.training.engines import ENGINES
from vaelid.training.start import prepare

_WARM_UP = 4


def main() -> None:
    """Print a table."""
    options = parse()
    torch.set_num_threads(options.threads)
    base = read_recipe("mnist-fast")
    data = load_data(base.data)
    print("| batch | precision | components | engine | ms a step, median (least) |\n|---|---|---|---|---|")
    for batch, precision, components, engine in product(options.batches, options.precisions, options.components, options.engines):
        settings = {"training.batch_size": batch, "training.precision": precision, "prior.components": components}
        times = measure(settle(base.override({**settings, "prior.init": "normal"}), data, Path()), data, engine, options.steps)
        least, middle = min(times), statistics.median(times)
        print(f"| {batch} | {precision} | {components} | {engine} | {middle:.1f} ({least:.1f}) |", flush=True)


def measure(recipe: Recipe, data: Data, engine: str, steps: int) -> list[float]:
    """Milliseconds of each step: pixels, loss and gradients, optimizer."""
    with tempfile.TemporaryDirectory() as scratch:
        training = prepare(RunFolder(Path(scratch)), recipe, data, torch.device("cpu"), Path())
    size = recipe.training.batch_size
    step = ENGINES[engine](training.model, training.weights, recipe.training.precision == "bfloat16")
    objective = training.objective.at(0.5)
    training.model.train()
    times = []
    for i in range(_WARM_UP + steps):
        begun = time.perf_counter()
        step(data.train.batch(torch.arange(i * size, (i + 1) * size) % len(data.train)), objective)
        training.optimizer.step()
        times.append(1e3 * (time.perf_counter() - begun))
    return times[_WARM_UP:]


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    for name, default in {"batches": [256, 512], "components": [32, 256]}.items():
        parser.add_argument(f"--{name}", type=lambda text: [int(n) for n in text.split(",")], default=default)
    for name, default in {"precisions": ["float32", "bfloat16"], "engines": ["eager", "graph"]}.items():
        parser.add_argument(f"--{name}", type=lambda text: text.split(","), default=default)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
