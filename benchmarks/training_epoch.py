"""Time one epoch of training at equal networks, data, batch size and threads: the notebook's loop, vaelid's, and bare products.

    python benchmarks/training_epoch.py

They take turns in one process, so that whatever else the machine does hits all of them, and the ratio is taken turn by turn.
Printed and written is the median over the turns with the smallest and largest one. Besides the time on the wall stands the time
that the process had a processor.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Literal

import notebook_loop
import torch
from torch import Tensor

from vaelid.build import settle
from vaelid.data import Data, Images, load_data
from vaelid.data.splits import split_data
from vaelid.environment import describe_machine
from vaelid.folder import RunFolder
from vaelid.progress import Silent
from vaelid.recipe import Recipe, expand, read_recipe
from vaelid.supports import BYTES
from vaelid.training.loop import Pace, train_epoch
from vaelid.training.start import prepare
from vaelid.training.state import State

EPOCH = 50_000  # training images of MNIST
RESULT = Path(__file__).parent / "results" / "training_epoch.md"
NETWORKS = ((784, 512, 512, 40), (20, 512, 512, 784))  # encoder and decoder: widths of the layers

NOTEBOOK, IN_MEMORY, PRODUCTS = "notebook loop", "its model on tensors in memory", "matrix products alone"
VAELID, VAELID_BFLOAT16 = "vaelid `train_epoch`", "vaelid `train_epoch`, bfloat16 products"

Contestant = Callable[[int], None]  # does so many training steps


@dataclass(frozen=True)
class Turns:
    """Seconds per step of one contestant, one number per turn: on the wall, and of processor time."""

    wall: list[float]
    processor: list[float]


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    with tempfile.TemporaryDirectory() as scratch:
        recipe = assignment(options)
        bfloat16 = recipe.override({"training.precision": "bfloat16"})
        needed = options.steps * options.batch_size
        data = random_images(2 * needed, recipe) if options.synthetic else load_data(recipe.data)
        if len(data.train) < needed:
            sys.exit(f"{options.steps} steps need {needed:,} images; there are {len(data.train):,}. Give fewer --steps.")
        contestants = {
            NOTEBOOK: notebook_steps(data, options.batch_size),
            IN_MEMORY: in_memory_steps(data, options.batch_size),
            VAELID: vaelid_steps(recipe, data, RunFolder(Path(scratch) / "run")),
            VAELID_BFLOAT16: vaelid_steps(bfloat16, data, RunFolder(Path(scratch) / "bfloat16")),
            PRODUCTS: product_steps(options.batch_size),
        }
        timings = take_turns(contestants, options.steps, options.repeats)
    page = report(timings, options)
    print(page)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(page, encoding="utf-8")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=32, help="images per step (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each contestant (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=400, help="training steps per turn (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and noise (default: %(default)s)")
    parser.add_argument("--synthetic", action="store_true", help="random images in place of MNIST: needs no data")
    parser.add_argument("--out", type=Path, default=RESULT, help="page to write (default: results/training_epoch.md)")
    return parser.parse_args()


def assignment(options: argparse.Namespace) -> Recipe:
    """The recipe that does what the notebook does."""
    changes = {"prior": "factorized-mixture", "binarization": "resampled", "batch_size": options.batch_size, "seed": options.seed}
    return read_recipe("assignment").override(expand(changes))


def random_images(count: int, recipe: Recipe) -> Data:
    """Random gray images of MNIST's shape; four fifths of them are training images."""
    pixels = torch.randint(256, (count, 1, 28, 28), dtype=torch.uint8)
    return split_data(Images("random", pixels, BYTES), recipe.data)


def notebook_steps(data: Data, batch_size: int) -> Contestant:
    """The notebook's loop on the training images."""
    notebook = notebook_of(data, batch_size)
    return lambda steps: notebook_loop.train(notebook, islice(notebook.loader, steps))


def in_memory_steps(data: Data, batch_size: int) -> Contestant:
    """The notebook's model, loss and optimizer, with batches cut from one tensor and binarized whole."""
    notebook = notebook_of(data, batch_size)
    pixels = data.train.images.gather(data.train.indices).flatten(1).float().div_(255)
    labels = torch.zeros(batch_size)

    def batches(steps: int) -> Iterator[tuple[Tensor, Tensor]]:
        for positions in torch.randperm(len(pixels)).split(batch_size)[:steps]:
            yield torch.bernoulli(pixels[positions]), labels

    return lambda steps: notebook_loop.train(notebook, batches(steps))


def notebook_of(data: Data, batch_size: int) -> notebook_loop.Notebook:
    """The notebook with fresh weights."""
    images = data.train.images
    everything = torch.arange(len(images))
    labels = torch.zeros(len(images)) if images.labels is None else images.labels
    return notebook_loop.prepare(images.gather(everything).squeeze(1), labels, data.train.indices.tolist(), batch_size)


def vaelid_steps(recipe: Recipe, data: Data, folder: RunFolder) -> Contestant:
    """vaelid's ``train_epoch``, broken off after the steps asked for."""
    training = prepare(folder, settle(recipe, data, Path()), data, torch.device("cpu"), Path())
    never = Pace(math.inf)  # of saving checkpoints: the notebook saves none within an epoch either

    def run(steps: int) -> None:
        training.state = State()
        train_epoch(training, Silent(), lambda: training.state.step >= steps, never)

    return run


def product_steps(batch_size: int) -> Contestant:
    """Only the matrix products of a step, forward and backward, into memory that is there already."""
    layers = [Layer(batch_size, *widths) for network in NETWORKS for widths in pairwise(network)]

    def run(steps: int) -> None:
        for _ in range(steps):
            for layer in layers:
                layer.multiply()

    return run


class Layer:
    """The three products of a linear layer: outputs, gradient of the weights, gradient of the inputs."""

    def __init__(self, batch_size: int, width_in: int, width_out: int) -> None:
        self.x, self.y = torch.randn(batch_size, width_in), torch.randn(batch_size, width_out)
        self.weight = torch.randn(width_out, width_in)
        self.x_out, self.y_out, self.weight_out = map(torch.empty_like, (self.x, self.y, self.weight))
        self.is_first = width_in == NETWORKS[0][0]  # nobody asks for the gradient of the pixels

    def multiply(self) -> Tensor:
        torch.mm(self.x, self.weight.T, out=self.y_out)
        torch.mm(self.y.T, self.x, out=self.weight_out)
        return self.y_out if self.is_first else torch.mm(self.y, self.weight, out=self.x_out)


def take_turns(contestants: dict[str, Contestant], steps: int, repeats: int) -> dict[str, Turns]:
    """Let the contestants run one after the other, ``repeats`` times, after a short warm-up."""
    timings = {name: Turns([], []) for name in contestants}
    for run in contestants.values():
        run(min(steps, 20))
    for _ in range(repeats):
        for name, run in contestants.items():
            wall, processor = time.perf_counter(), time.process_time()
            run(steps)
            timings[name].wall.append((time.perf_counter() - wall) / steps)
            timings[name].processor.append((time.process_time() - processor) / steps)
    return timings


def report(timings: dict[str, Turns], options: argparse.Namespace) -> str:
    """The page with table, machine and command."""
    machine = describe_machine(torch.device("cpu"))
    images = "random images" if options.synthetic else "MNIST"
    epoch = math.ceil(EPOCH / options.batch_size)
    lines = [
        "# One epoch of training on the CPU",
        "",
        f"{images}, batch {options.batch_size}, float32; {options.repeats} turns of {options.steps} steps: median [min–max].",
        "",
        f"| | ms per step | s per epoch ({epoch:,} steps) | processor ms per step |",
        "|---|---|---|---|",
        *(
            f"| {name} | {spread(t.wall, 1e3)} | {spread(t.wall, epoch)} | {spread(t.processor, 1e3)} |"
            for name, t in timings.items()
        ),
        *(
            f"| **{slow} : {fast}** | **{ratio(timings, slow, fast, 'wall')}** | | {ratio(timings, slow, fast, 'processor')} |"
            for slow, fast in [(NOTEBOOK, VAELID), (NOTEBOOK, VAELID_BFLOAT16), (IN_MEMORY, VAELID), (VAELID, PRODUCTS)]
        ),
        "",
        f"* Command: `{command(options)}`",
        f"* Machine: {machine['processor']}, {options.threads} of {os.cpu_count()} cores used (threads of torch); "
        f"load average at the end {os.getloadavg()[0]:.1f}",
        f"* Software: commit {machine['commit']}, torch {machine['torch']}, Python {machine['python']}",
    ]
    return "\n".join(lines) + "\n"


def ratio(timings: dict[str, Turns], slow: str, fast: str, clock: Literal["wall", "processor"]) -> str:
    """How many times as long one contestant takes as the other, turn by turn."""
    pairs = zip(getattr(timings[slow], clock), getattr(timings[fast], clock), strict=True)
    return spread([s / f for s, f in pairs])


def spread(values: list[float], unit: float = 1.0) -> str:
    """Median, minimum and maximum, in units of 1/``unit``."""
    return "{:.2f} [{:.2f}–{:.2f}]".format(*(unit * f(values) for f in (statistics.median, min, max)))


def command(options: argparse.Namespace) -> str:
    """The command that gives this page again."""
    given = f"--batch-size {options.batch_size} --repeats {options.repeats} --steps {options.steps} --threads {options.threads}"
    return f"python benchmarks/training_epoch.py {given}{' --synthetic' if options.synthetic else ''}"


if __name__ == "__main__":
    main()
