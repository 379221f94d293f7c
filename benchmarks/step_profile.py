"""Where a training step of the recipe ``assignment`` spends its time, piece by piece, on one thread.

    python benchmarks/step_profile.py --batch-size 512

The pieces are those of ``training/loop.py``, run in its order, so that each finds the caches as the one before left them.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import torch
import training_epoch

from vaelid.build import settle
from vaelid.data import load_data
from vaelid.environment import describe_machine
from vaelid.folder import RunFolder
from vaelid.randomness import permutation
from vaelid.training.start import prepare
from vaelid.training.state import Training

WARM_UP, IMAGES = 100, 9600


class Watch:
    """Milliseconds per piece; ``lap`` books what passed since the last one."""

    def __init__(self) -> None:
        self.total: defaultdict[str, float] = defaultdict(float)
        self.last = time.perf_counter()

    def lap(self, piece: str) -> None:
        """Book the time since the last lap under ``piece``."""
        now = time.perf_counter()
        self.total[piece] += 1e3 * (now - self.last)
        self.last = now


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=32, help="images per step (default: %(default)s)")
    batch = parser.parse_args().batch_size
    steps = max(10, IMAGES // batch)
    torch.set_num_threads(1)
    recipe = training_epoch.assignment(argparse.Namespace(batch_size=batch, seed=0))
    data = load_data(recipe.data)
    with tempfile.TemporaryDirectory() as scratch:
        folder = RunFolder(Path(scratch) / "run")
        training = prepare(folder, settle(recipe, data, Path()), data, torch.device("cpu"), Path())
        order = permutation(len(data.train), 0, 0)
        batches = order[: len(order) // batch * batch].split(batch)
        for number in range(WARM_UP):
            step(training, batches[number % len(batches)], Watch())
        watch = Watch()
        for number in range(WARM_UP, WARM_UP + steps):
            step(training, batches[number % len(batches)], watch)
    machine = describe_machine(torch.device("cpu"))
    print(
        f"ms per step of {batch} images, one thread, {steps} steps; {machine['processor']}, commit {machine['commit']}, ", end=""
    )
    print(f"torch {torch.__version__}")
    for piece, total in watch.total.items():
        print(f"{piece:28s} {total / steps:6.2f}")
    print(f"{'together':28s} {sum(watch.total.values()) / steps:6.2f}")


def step(training: Training, positions: torch.Tensor, watch: Watch) -> None:
    """One step of the training loop in pieces."""
    model, objective = training.model.train(), training.objective
    watch.lap("between steps")
    x = training.data.train.batch(positions, 0, 0)
    watch.lap("gather and binarize images")
    q = model.posterior(x)
    watch.lap("encoder")
    seen = model.look(x, q, q.rsample((1,)))
    watch.lap("decoder")
    loss = -objective(seen).mean()
    watch.lap("densities and objective")
    training.weights.forget_gradients()
    loss.backward()
    watch.lap("backward pass")
    float(loss.detach()), float(training.weights.gather_gradients())
    watch.lap("gather gradients, norm")
    training.optimizer.step()
    watch.lap("optimizer")


if __name__ == "__main__":
    main()
