"""Where a training step of the recipe ``assignment`` spends its time, piece by piece.

    python benchmarks/step_profile.py --batch-size 512 --engine compile

``train_epoch`` runs with its parts under a watch (``pieces.py``), so that each finds the caches as the one before left them.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path

import torch
import training_epoch
from contest import where
from pieces import Pieces

from vaelid.build import settle
from vaelid.data.splits import Split
from vaelid.folder import RunFolder
from vaelid.progress import Silent
from vaelid.training.engines import ENGINES, Graph
from vaelid.training.flat import FlatParameters
from vaelid.training.loop import Epoch, Pace, train_epoch
from vaelid.training.start import prepare
from vaelid.training.state import Training
from vaelid.vae import VAE


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    pieces = Pieces()
    training = start(options)
    watch(training, pieces)
    run(training, options.warm_up)
    for _ in range(options.repeats):
        pieces.turn(lambda: run(training, options.steps))
    turns = f"{options.repeats} turns of {options.steps} steps after {options.warm_up:,}: median [smallest–largest]"
    print(f"ms per step of {options.batch_size} images by --engine {options.engine}, {options.threads} thread(s); {turns}")
    print("\n".join(pieces.lines(1e3 / options.steps)))
    print("\n".join(where(options.threads)))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=32, help="images per step (default: %(default)s)")
    parser.add_argument("--engine", choices=("eager", "graph", "compile"), default="eager", help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, default=100, help="training steps per turn (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=9, help="turns (default: %(default)s)")
    parser.add_argument("--warm-up", type=int, default=1000, help="steps before the first turn (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    parser.add_argument("--synthetic", action="store_true", help="random images in place of MNIST: needs no data")
    return parser.parse_args()


def start(options: argparse.Namespace) -> Training:
    """A training at its beginning."""
    options.seed = 0
    data, recipe = training_epoch.data_of(options), training_epoch.assignment(options)
    folder = RunFolder(Path(tempfile.gettempdir()) / "never-written")
    training = prepare(folder, settle(recipe, data, Path()), data, torch.device("cpu"), Path())
    training.engine = ENGINES[options.engine](training.model, training.weights)
    return training


def watch(training: Training, pieces: Pieces) -> None:
    """Put the parts of a step under the watch."""
    engine, model = training.engine, training.model
    pieces.watch(Split, "_made", "gather and binarize images")
    pieces.watch(Training, "update", "optimizer")
    pieces.watch(Epoch, "note", "loss and norm read")
    if isinstance(engine, Graph):
        translate = engine.translate
        engine.translate = lambda *given: pieces.watched(translate(*given), "networks and densities, both passes")  # type: ignore[method-assign]
        pieces.watch(engine, "_inputs", "noise")
        pieces.watch(FlatParameters, "put", "weight gradients, norm")
        return
    pieces.watch(model.posterior, "forward", "encoder")
    pieces.watch(VAE, "look", "decoder")
    pieces.watch(type(training.objective), "__call__", "densities and objective")
    pieces.watch(torch.Tensor, "backward", "backward pass")
    pieces.watch(FlatParameters, "gather_gradients", "weight gradients, norm")


def run(training: Training, steps: int) -> None:
    """So many steps, in as many epochs as they take."""
    state, never = training.state, Pace(math.inf)  # of saving checkpoints
    end = state.step + steps
    while state.step < end:
        if train_epoch(training, Silent(), lambda: state.step >= end, never):
            state.epoch, state.batch = state.epoch + 1, 0


if __name__ == "__main__":
    main()
