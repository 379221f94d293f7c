"""Where the importance-weighted bound spends its time, piece by piece; model, images and K are those of ``evaluation.py``.

    python benchmarks/bound_profile.py

The bound is computed as ``vaelid evaluate`` does it, with functions, compiled loops and torch's matrix product under a watch
(``pieces.py``). Turns of it and of the decoder's products alone follow one another.
"""

from __future__ import annotations

import argparse

import torch
from contest import spread, where
from evaluation import IMAGES, VAELID, products_turn, vaelid_turn
from pieces import Pieces

from vaelid import kernels
from vaelid.evaluation.certificate import RunningWeights
from vaelid.evaluation.likelihood import PosteriorDraws
from vaelid.vae import Latent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=5000, help="K (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=9, help="turns (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pieces, alone, images = Pieces(), Pieces(), IMAGES[VAELID]
    watch(pieces)
    turn, products = vaelid_turn(), products_turn()
    for number in range(options.repeats + 1):
        pieces.turn(lambda: turn(images, options.samples))
        alone.turn(lambda: products(images, options.samples))
        if number == 0:
            pieces.forget()
            alone.forget()
    unit = 1e6 / (images * options.samples)
    print(
        f"µs per image and sample; K = {options.samples:,}, {images} images, {options.repeats} turns: median [smallest–largest]"
    )
    print("\n".join(pieces.lines(unit)))
    print(f"{'matrix products alone':40s} {spread(alone.turns['together'], unit)}")
    print("\n".join(where(options.threads)))


def watch(pieces: Pieces) -> None:
    """Put the parts of the bound under the watch."""
    kernels.start()
    for loop, piece in (("bend", "biases and activations"), ("bernoulli", "log p(x|z) from logits")):
        table = kernels._loaded[0].LOOPS
        table[loop] = pieces.watched(table[loop], piece)
    pieces.watch(torch, "mm", "matrix products")
    pieces.watch(PosteriorDraws, "draw", "noise and latents")
    pieces.watch(RunningWeights, "add", "sums of weights")
    for density in ("log_prior", "log_posterior"):
        setattr(Latent, density, property(pieces.watched(vars(Latent)[density].func, "log p(z), log q(z|x)")))


if __name__ == "__main__":
    main()
