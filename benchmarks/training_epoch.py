"""Time training steps at equal networks, data, batch size and threads: the notebook's loop, vaelid's, and the machine's limit.

    python benchmarks/training_epoch.py

``contest.py`` says how they take turns. Before its first turn each makes ``--warm-up`` steps: an optimizer that has seen few
batches has other numbers in its moments (few denormal ones) and is faster than in the rest of the training. Printed and written
is the median over the turns with the smallest and largest one. Besides the time on the wall stands the time that the process had
a processor.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Iterator
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import notebook_loop
import torch
from contest import Build, Steps, Turns, Watch, ratios, spread, take_turns, where
from torch import Tensor
from torch.utils.data import DataLoader

from vaelid import kernels
from vaelid.build import settle
from vaelid.data import Data, Images, load_data
from vaelid.data.splits import split_data
from vaelid.folder import RunFolder
from vaelid.progress import Silent
from vaelid.recipe import Recipe, expand, read_recipe
from vaelid.supports import BYTES
from vaelid.training.engines import ENGINES
from vaelid.training.loop import Pace, train_epoch
from vaelid.training.start import prepare

EPOCH = 50_000  # training images of MNIST
RESULT = Path(__file__).parent / "results" / "training_epoch.md"
NETWORKS = ((784, 512, 512, 40), (20, 512, 512, 784))  # encoder and decoder: widths of the layers

NOTEBOOK, IN_MEMORY = "notebook loop", "its model on tensors in memory"
VAELID, VAELID_PLAIN, VAELID_BFLOAT16 = "vaelid", "vaelid without numba", "vaelid, bfloat16 products"
VAELID_EAGER, VAELID_COMPILED = "vaelid, --engine eager", "vaelid, --engine compile"
LIMIT, PRODUCTS = "machine's limit", "matrix products alone"


def main() -> None:
    options = parse()
    timings = take_turns(CONTESTANTS, options)
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


def notebook_steps(options: argparse.Namespace, _: Watch) -> Steps:
    """The notebook's loop on the training images."""
    notebook = notebook_of(data_of(options), options.batch_size)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from notebook.loader

    endless = batches()
    return lambda steps: notebook_loop.train(notebook, islice(endless, steps))


def in_memory_steps(options: argparse.Namespace, _: Watch, precision: str = "float32") -> Steps:
    """The notebook's model, loss and optimizer, with batches cut from one tensor and binarized whole."""
    data = data_of(options)
    notebook = notebook_of(data, options.batch_size)
    if precision == "bfloat16":
        notebook.model.forward = torch.autocast("cpu", torch.bfloat16)(notebook.model.forward)  # type: ignore[method-assign]
    endless = batches_in_memory(data, options.batch_size)
    return lambda steps: notebook_loop.train(notebook, islice(endless, steps))


def batches_in_memory(data: Data, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled batches without end, cut from one float tensor and binarized whole; with labels that nobody reads."""
    pixels = data.train.images.gather(data.train.indices).flatten(1).float().div_(255)
    labels = torch.zeros(batch_size)
    while True:
        for positions in torch.randperm(len(pixels)).split(batch_size):
            yield torch.bernoulli(pixels[positions]), labels


class Endless:
    """Stands for a loader: every loop over it takes the next ``steps`` batches of an endless shuffle."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader, self.dataset, self.steps = loader, loader.dataset, 1
        self.batches = self._endless()

    def _endless(self) -> Iterator[Any]:
        while True:
            yield from self.loader

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Any]:
        return islice(self.batches, self.steps)


def notebook_of(data: Data, batch_size: int) -> notebook_loop.Notebook:
    """The notebook with fresh weights."""
    images = data.train.images
    everything = torch.arange(len(images))
    labels = torch.zeros(len(images)) if images.labels is None else images.labels
    return notebook_loop.prepare(images.gather(everything).squeeze(1), labels, data.train.indices.tolist(), batch_size)


def vaelid_steps(
    options: argparse.Namespace, _: Watch, precision: str = "float32", loops: bool = True, engine: str = "graph"
) -> Steps:
    """vaelid's ``train_epoch``, broken off after the steps asked for and taken up again at the next turn.

    Args:
        loops: whether numba may be used
        engine: ``graph`` has the bits of eager; ``compile`` is what ``--engine auto`` tries for 20,000 steps or more
    """
    recipe, data = assignment(options).override({"training.precision": precision}), data_of(options)
    folder = RunFolder(Path(tempfile.gettempdir()) / "never-written")
    training = prepare(folder, settle(recipe, data, Path()), data, torch.device("cpu"), Path())
    training.engine = ENGINES[engine](training.model, training.weights, precision == "bfloat16")
    if not loops:
        kernels._loaded.clear()
    never = Pace(math.inf)  # of saving checkpoints: the notebook saves none within an epoch either
    state = training.state

    def run(steps: int) -> None:
        end = state.step + steps
        while state.step < end:
            if train_epoch(training, Silent(), lambda: state.step >= end, never):
                state.epoch, state.batch = state.epoch + 1, 0

    return run


def product_steps(options: argparse.Namespace, _: Watch, dtype: torch.dtype = torch.float32) -> Steps:
    """Only the matrix products of a step, forward and backward, into memory that is there already."""
    layers = [Layer(options.batch_size, *widths, dtype) for network in NETWORKS for widths in pairwise(network)]

    def run(steps: int) -> None:
        for _ in range(steps):
            for layer in layers:
                layer.multiply()

    return run


def limit_steps(options: argparse.Namespace, _: Watch, dtype: torch.dtype = torch.float32) -> Steps:
    """The products, and the least traffic of the optimizer: gradient, two moments, weights read; all but the first written."""
    products = product_steps(options, _, dtype)
    count = sum(layer_in * layer_out for network in NETWORKS for layer_in, layer_out in pairwise(network))
    gradient, *written = (torch.randn(count) for _ in range(4))

    def run(steps: int) -> None:
        for _ in range(steps):
            products(1)
            for vector in written:
                vector.neg_()
            gradient.sum()

    return run


CONTESTANTS: dict[str, Build] = {
    NOTEBOOK: notebook_steps,
    IN_MEMORY: in_memory_steps,
    VAELID: vaelid_steps,
    VAELID_EAGER: partial(vaelid_steps, engine="eager"),
    VAELID_COMPILED: partial(vaelid_steps, engine="compile"),
    VAELID_PLAIN: partial(vaelid_steps, loops=False),
    VAELID_BFLOAT16: partial(vaelid_steps, precision="bfloat16"),
    LIMIT: limit_steps,
    PRODUCTS: product_steps,
}
#: What takes how many times as long as what: a row of the table each.
RATIOS = (
    (NOTEBOOK, VAELID),
    (NOTEBOOK, VAELID_COMPILED),
    (VAELID_EAGER, VAELID),
    (NOTEBOOK, VAELID_PLAIN),
    (NOTEBOOK, VAELID_BFLOAT16),
    (IN_MEMORY, VAELID),
    (VAELID, LIMIT),
    (VAELID_COMPILED, LIMIT),
    (VAELID_PLAIN, LIMIT),
    (NOTEBOOK, LIMIT),
)


class Layer:
    """The three products of a linear layer: outputs, gradient of the weights, gradient of the inputs."""

    def __init__(self, batch_size: int, width_in: int, width_out: int, dtype: torch.dtype) -> None:
        self.x, self.y = torch.randn(batch_size, width_in).to(dtype), torch.randn(batch_size, width_out).to(dtype)
        self.weight = torch.randn(width_out, width_in).to(dtype)
        self.x_out, self.y_out, self.weight_out = map(torch.empty_like, (self.x, self.y, self.weight))
        self.is_first = width_in == NETWORKS[0][0]  # nobody asks for the gradient of the pixels

    def multiply(self) -> Tensor:
        torch.mm(self.x, self.weight.T, out=self.y_out)
        torch.mm(self.y.T, self.x, out=self.weight_out)
        return self.y_out if self.is_first else torch.mm(self.y, self.weight, out=self.x_out)


def report(timings: dict[str, Turns], options: argparse.Namespace) -> str:
    """The page with table, machine and command."""
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
            f"| **{slow} : {fast}** | **{spread(ratios(timings, slow, fast))}** | "
            f"| {spread(ratios(timings, slow, fast, 'processor'))} | |"
            for slow, fast in RATIOS
        ),
        "",
        f"* Command: `{command(options)}`",
        *where(options.threads),
    ]
    return "\n".join(lines) + "\n"


def command(options: argparse.Namespace) -> str:
    """The command that gives this page again."""
    given = f"--batch-size {options.batch_size} --repeats {options.repeats} --steps {options.steps}"
    given += f" --warm-up {options.warm_up} --threads {options.threads}"
    return f"python benchmarks/training_epoch.py {given}{' --synthetic' if options.synthetic else ''}"


if __name__ == "__main__":
    main()
