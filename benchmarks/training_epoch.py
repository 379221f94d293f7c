"""Time training steps at equal networks, data, batch size and threads: the notebook's loop, vaelid's, and the machine's limit.

    python benchmarks/training_epoch.py

Each contestant has a process of its own, so that no setting of one reaches another and its peak memory can be told. They take
turns, so that whatever else the machine does hits all of them, and the ratio is taken turn by turn. Before its first turn each
makes ``--warm-up`` steps: an optimizer that has seen few batches has other numbers in its moments (few denormal ones) and is
faster than in the rest of the training. Printed and written is the median over the turns with the smallest and largest one.
Besides the time on the wall stands the time that the process had a processor.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice, pairwise
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

import notebook_loop
import torch
from torch import Tensor

from vaelid import kernels
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

EPOCH = 50_000  # training images of MNIST
RESULT = Path(__file__).parent / "results" / "training_epoch.md"
NETWORKS = ((784, 512, 512, 40), (20, 512, 512, 784))  # encoder and decoder: widths of the layers

NOTEBOOK, IN_MEMORY = "notebook loop", "its model on tensors in memory"
VAELID, VAELID_PLAIN, VAELID_BFLOAT16 = "vaelid", "vaelid without numba", "vaelid, bfloat16 products"
LIMIT, PRODUCTS = "machine's limit", "matrix products alone"

Steps = Callable[[int], None]  # does so many training steps


@dataclass
class Turns:
    """Seconds per step of one contestant, one number per turn, on the wall and of processor time; and its peak memory in MB."""

    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    memory: float = 0.0


def main() -> None:
    options = parse()
    timings = take_turns(options)
    page = report(timings, options)
    print(page)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(page, encoding="utf-8")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=32, help="images per step (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each contestant (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=200, help="training steps per turn (default: %(default)s)")
    parser.add_argument("--warm-up", type=int, default=1500, help="steps before the first turn (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and noise (default: %(default)s)")
    parser.add_argument("--synthetic", action="store_true", help="random images in place of MNIST: needs no data")
    parser.add_argument("--out", type=Path, default=RESULT, help="page to write (default: results/training_epoch.md)")
    return parser.parse_args()


def assignment(options: argparse.Namespace) -> Recipe:
    """The recipe that does what the notebook does."""
    changes = {"prior": "factorized-mixture", "binarization": "resampled", "batch_size": options.batch_size, "seed": options.seed}
    return read_recipe("assignment").override(expand(changes))


def data_of(options: argparse.Namespace) -> Data:
    """MNIST, or random gray images of its shape; four fifths of those are training images."""
    recipe = assignment(options)
    if not options.synthetic:
        return load_data(recipe.data)
    pixels = torch.randint(256, (8 * options.batch_size, 1, 28, 28), dtype=torch.uint8)
    return split_data(Images("random", pixels, BYTES), recipe.data)


def notebook_steps(options: argparse.Namespace) -> Steps:
    """The notebook's loop on the training images."""
    notebook = notebook_of(data_of(options), options.batch_size)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from notebook.loader

    endless = batches()
    return lambda steps: notebook_loop.train(notebook, islice(endless, steps))


def in_memory_steps(options: argparse.Namespace) -> Steps:
    """The notebook's model, loss and optimizer, with batches cut from one tensor and binarized whole."""
    data = data_of(options)
    notebook = notebook_of(data, options.batch_size)
    pixels = data.train.images.gather(data.train.indices).flatten(1).float().div_(255)
    labels = torch.zeros(options.batch_size)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            for positions in torch.randperm(len(pixels)).split(options.batch_size):
                yield torch.bernoulli(pixels[positions]), labels

    endless = batches()
    return lambda steps: notebook_loop.train(notebook, islice(endless, steps))


def notebook_of(data: Data, batch_size: int) -> notebook_loop.Notebook:
    """The notebook with fresh weights."""
    images = data.train.images
    everything = torch.arange(len(images))
    labels = torch.zeros(len(images)) if images.labels is None else images.labels
    return notebook_loop.prepare(images.gather(everything).squeeze(1), labels, data.train.indices.tolist(), batch_size)


def vaelid_steps(options: argparse.Namespace, precision: str = "float32", compiled: bool = True) -> Steps:
    """vaelid's ``train_epoch``, broken off after the steps asked for and taken up again at the next turn."""
    recipe, data = assignment(options).override({"training.precision": precision}), data_of(options)
    folder = RunFolder(Path(tempfile.gettempdir()) / "never-written")
    training = prepare(folder, settle(recipe, data, Path()), data, torch.device("cpu"), Path())
    if not compiled:
        kernels._loaded.clear()
    never = Pace(math.inf)  # of saving checkpoints: the notebook saves none within an epoch either
    state = training.state

    def run(steps: int) -> None:
        end = state.step + steps
        while state.step < end:
            if train_epoch(training, Silent(), lambda: state.step >= end, never):
                state.epoch, state.batch = state.epoch + 1, 0

    return run


def product_steps(options: argparse.Namespace) -> Steps:
    """Only the matrix products of a step, forward and backward, into memory that is there already."""
    layers = [Layer(options.batch_size, *widths) for network in NETWORKS for widths in pairwise(network)]

    def run(steps: int) -> None:
        for _ in range(steps):
            for layer in layers:
                layer.multiply()

    return run


def limit_steps(options: argparse.Namespace) -> Steps:
    """The products, and the least traffic of the optimizer: gradient, two moments, weights read; all but the first written."""
    products = product_steps(options)
    count = sum(layer_in * layer_out for network in NETWORKS for layer_in, layer_out in pairwise(network))
    gradient, *written = (torch.randn(count) for _ in range(4))

    def run(steps: int) -> None:
        for _ in range(steps):
            products(1)
            for vector in written:
                vector.neg_()
            gradient.sum()

    return run


CONTESTANTS: dict[str, Callable[[argparse.Namespace], Steps]] = {
    NOTEBOOK: notebook_steps,
    IN_MEMORY: in_memory_steps,
    VAELID: vaelid_steps,
    VAELID_PLAIN: lambda options: vaelid_steps(options, compiled=False),
    VAELID_BFLOAT16: lambda options: vaelid_steps(options, "bfloat16"),
    LIMIT: limit_steps,
    PRODUCTS: product_steps,
}
#: What takes how many times as long as what: a row of the table each.
RATIOS = (
    (NOTEBOOK, VAELID),
    (NOTEBOOK, VAELID_PLAIN),
    (NOTEBOOK, VAELID_BFLOAT16),
    (IN_MEMORY, VAELID),
    (VAELID, LIMIT),
    (VAELID_PLAIN, LIMIT),
    (NOTEBOOK, LIMIT),
)


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


def take_turns(options: argparse.Namespace) -> dict[str, Turns]:
    """Let the contestants run one after the other, ``repeats`` times, each in its own process."""
    context, timings, pipes, processes = get_context("spawn"), {}, {}, []
    for name in CONTESTANTS:
        pipes[name], theirs = context.Pipe()
        processes.append(context.Process(target=serve, args=(name, options, theirs), daemon=True))
        processes[-1].start()
        theirs.close()  # so that a contestant that dies is an error here, and not a wait
        pipes[name].recv()  # it is ready
        timings[name] = Turns()
    for _ in range(options.repeats):
        for name, pipe in pipes.items():
            pipe.send(options.steps)
            wall, processor, timings[name].memory = pipe.recv()
            timings[name].wall.append(wall)
            timings[name].processor.append(processor)
    for pipe, process in zip(pipes.values(), processes, strict=True):
        pipe.send(0)
        process.join()
    return timings


def serve(name: str, options: argparse.Namespace, pipe: Connection) -> None:
    """A contestant's process: so many steps whenever a number comes; answers with seconds per step and peak memory."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    run = CONTESTANTS[name](options)
    run(options.warm_up)
    pipe.send("ready")
    while steps := pipe.recv():
        wall, processor = time.perf_counter(), time.process_time()
        run(steps)
        wall, processor = (time.perf_counter() - wall) / steps, (time.process_time() - processor) / steps
        pipe.send((wall, processor, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def report(timings: dict[str, Turns], options: argparse.Namespace) -> str:
    """The page with table, machine and command."""
    machine = describe_machine(torch.device("cpu"))
    images = "random images" if options.synthetic else "MNIST"
    epoch = math.ceil(EPOCH / options.batch_size)
    lines = [
        "# One epoch of training on the CPU",
        "",
        f"{images}, batch {options.batch_size}, float32; {options.repeats} turns of {options.steps} steps, after "
        f"{options.warm_up:,} steps: median [min–max].",
        "",
        f"| | ms per step | s per epoch ({epoch:,} steps) | processor ms per step | peak memory, MB |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {spread(t.wall, 1e3)} | {spread(t.wall, epoch)} | {spread(t.processor, 1e3)} | {t.memory:.0f} |"
            for name, t in timings.items()
        ),
        *(
            f"| **{slow} : {fast}** | **{ratio(timings, slow, fast, 'wall')}** | | {ratio(timings, slow, fast, 'processor')} | |"
            for slow, fast in RATIOS
        ),
        "",
        f"* Command: `{command(options)}`",
        f"* Machine: {machine['processor']}, {options.threads} of {os.cpu_count()} cores used (threads of torch); "
        f"load average at the end {os.getloadavg()[0]:.1f}",
        f"* Software: commit {machine['commit']}, torch {machine['torch']}, Python {machine['python']}, "
        f"numba {'installed' if importlib.util.find_spec('numba') else 'not installed: `vaelid` is `vaelid without numba`'}",
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
    given = f"--batch-size {options.batch_size} --repeats {options.repeats} --steps {options.steps}"
    given += f" --warm-up {options.warm_up} --threads {options.threads}"
    return f"python benchmarks/training_epoch.py {given}{' --synthetic' if options.synthetic else ''}"


if __name__ == "__main__":
    main()
