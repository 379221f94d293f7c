"""Time the importance-weighted bound with K = 5000: vaelid's, pythae's ``get_nll``, and the decoder's matrix products alone.

    python benchmarks/evaluation.py --pythae VENV/bin/python

The assignment's networks (784-512-512-2·20 and mirror, LeakyReLU, Bernoulli), a standard normal prior, for all the same weights
and images. Each contestant is a process of its own; they take turns, and ratios are taken turn by turn: median
[smallest–largest].
vaelid's part is what ``vaelid evaluate`` does for ``nll``: encoding, noise, decoding, densities, the curve over K and the
diagnostics of the weights. −ELBO (10 decodings beside 5000) and the check of a short decoder (100 images) are not in it.
pythae is installed in a virtual environment of its own; without --pythae its rows say "not measured".
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vaelid import MLP, VAE, BernoulliLikelihood, GaussianPosterior, StandardNormalPrior, kernels
from vaelid.data import Images
from vaelid.data.settings import DataSettings
from vaelid.data.splits import whole
from vaelid.environment import describe_machine
from vaelid.evaluation.evaluate import Plan, decoder_rows, importance_values
from vaelid.evaluation.precision import Precision
from vaelid.supports import BINARY

HERE = Path(__file__).parent
RESULT = HERE / "results" / "evaluation.md"
LATENT, SHAPE = 20, (1, 28, 28)

VAELID, PLAIN, SHORT = "vaelid", "vaelid without numba", "vaelid, bfloat16 decoder"
PRODUCTS, SHORT_PRODUCTS = "matrix products alone", "matrix products alone, bfloat16"
PYTHAE, PYTHAE_LARGE = "pythae get_nll, batches of 100 (its default)", "pythae get_nll, batches of 1000"
#: How many images a turn is about: some seconds for each contestant.
IMAGES = {VAELID: 50, PLAIN: 50, SHORT: 50, PRODUCTS: 50, SHORT_PRODUCTS: 50, PYTHAE: 6, PYTHAE_LARGE: 6}
BATCHES = {PYTHAE: 100, PYTHAE_LARGE: 1000}
#: What takes how many times as long as what: a row of the table each.
RATIOS = ((PYTHAE, VAELID), (PYTHAE_LARGE, VAELID), (PYTHAE, PLAIN), (PYTHAE, SHORT), (PYTHAE_LARGE, SHORT), (PLAIN, VAELID))
#: Which share of the time is products.
SHARES = ((PRODUCTS, VAELID), (PRODUCTS, PLAIN), (SHORT_PRODUCTS, SHORT))

Turn = Callable[[int, int], float | None]  # images and samples -> mean nll, where there is one


@dataclass
class Contestant:
    """A process, and what its turns took: µs per image and sample, MB, nats."""

    process: subprocess.Popen[str]
    wall: list[float] = field(default_factory=list)
    memory: float = 0.0
    nll: float | None = None

    def turn(self, images: int, samples: int) -> None:
        """Let it do its work once.

        Raises:
            RuntimeError: if the process died.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(images, samples, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{' '.join(map(str, self.process.args))} ended with exit code {self.process.wait()}.")  # type: ignore[arg-type]
        said = json.loads(answer)
        self.wall.append(1e6 * said["seconds"] / (images * samples))
        self.memory, self.nll = said["memory"], said["nll"]


def main() -> None:
    options = parse()
    if options.serve is not None:
        serve(options.serve, options)
        return
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.npz"
        np.savez(weights, **weights_and_images())
        contestants = start(options, weights)
        for turn in range(options.repeats + 1):
            for name, contestant in contestants.items():
                contestant.turn(IMAGES[name], options.samples)
                if turn == 0:  # the first turn warms up
                    contestant.wall.clear()
        for contestant in contestants.values():
            contestant.process.communicate()
    page = report(contestants, options)
    print(page)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(page, encoding="utf-8")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=5000, help="K (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=7, help="turns of each contestant that count (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    parser.add_argument("--pythae", type=Path, help="a Python interpreter that has pythae")
    parser.add_argument("--out", type=Path, default=RESULT, help="page to write (default: results/evaluation.md)")
    parser.add_argument("--serve", choices=TURNS, help=argparse.SUPPRESS)
    return parser.parse_args()


def model_of() -> VAE:
    """The assignment's networks with fresh weights, the same in every process."""
    torch.manual_seed(0)
    posterior = GaussianPosterior(MLP(SHAPE, 2 * LATENT), LATENT)
    likelihood = BernoulliLikelihood(MLP((LATENT,), int(np.prod(SHAPE))), SHAPE)
    return VAE(posterior, likelihood, StandardNormalPrior(LATENT)).eval().requires_grad_(False)


def images_of() -> torch.Tensor:
    """Random binary images, ``(50, 1, 28, 28)``."""
    return torch.bernoulli(torch.full((50, *SHAPE), 0.2), generator=torch.Generator().manual_seed(1))


def weights_and_images() -> dict[str, np.ndarray]:
    """What another program needs to do the same work."""
    model, found = model_of(), {"images": images_of().numpy()}
    for name, network in (("encoder", model.posterior.network), ("decoder", model.likelihood.network)):
        linear = [layer for layer in network.layers if isinstance(layer, torch.nn.Linear)]
        for i, layer in enumerate(linear):
            found |= {f"{name}.{i}.weight": layer.weight.numpy(), f"{name}.{i}.bias": layer.bias.numpy()}
    return found


def rows() -> int:
    """How many decodings vaelid holds at once."""
    return decoder_rows(whole(Images("random", images_of().to(torch.uint8), BINARY), DataSettings("random")))


def vaelid_turn(compiled: bool = True, decoder: Precision = "float32") -> Turn:
    """The bound, its curve and its diagnostics."""
    model, x, ids = model_of(), images_of(), torch.arange(50)
    if compiled:
        kernels.start()

    def turn(images: int, samples: int) -> float:
        found = importance_values(model, x[:images], ids[:images], Plan(samples), rows(), decoder)
        return float(found["nll"][: IMAGES[PYTHAE]].mean())

    return turn


def products_turn(number: torch.dtype = torch.float32) -> Turn:
    """Only the decoder's matrix products, as many rows at a time as vaelid takes, into memory that is there already."""
    together = rows()
    network = model_of().likelihood.network
    weights = [layer.weight.to(number).T for layer in network.layers if isinstance(layer, torch.nn.Linear)]
    z = torch.randn(together, LATENT).to(number)
    outputs = [torch.empty(together, weight.shape[1], dtype=number) for weight in weights]

    def turn(images: int, samples: int) -> None:
        for first in range(0, images * samples, together):
            count = min(together, images * samples - first)
            hidden = z[:count]
            for weight, output in zip(weights, outputs, strict=True):
                hidden = torch.mm(hidden, weight, out=output[:count])

    return turn


TURNS: dict[str, Callable[[], Turn]] = {
    VAELID: vaelid_turn,
    PLAIN: lambda: vaelid_turn(compiled=False),
    SHORT: lambda: vaelid_turn(decoder="bfloat16"),
    PRODUCTS: products_turn,
    SHORT_PRODUCTS: lambda: products_turn(torch.bfloat16),
}


def start(options: argparse.Namespace, weights: Path) -> dict[str, Contestant]:
    """Every contestant's process."""
    threads = str(options.threads)
    commands: dict[str, Sequence[str | Path]] = {
        name: (sys.executable, Path(__file__), "--threads", threads, "--serve", name) for name in TURNS
    }
    if options.pythae is not None:
        program = HERE / "pythae_nll.py"
        commands |= {name: (options.pythae, program, weights, str(batch), threads) for name, batch in BATCHES.items()}
    surroundings = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": surroundings}
    return {name: Contestant(subprocess.Popen(command, **pipes)) for name, command in commands.items()}


def serve(name: str, options: argparse.Namespace) -> None:
    """A contestant's process: a turn for every line that comes."""
    torch.set_num_threads(options.threads)
    turn = TURNS[name]()
    for line in sys.stdin:
        images, samples = map(int, line.split())
        began = time.perf_counter()
        nll = turn(images, samples)
        seconds = time.perf_counter() - began
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "memory": memory, "nll": nll}), flush=True)


def report(contestants: dict[str, Contestant], options: argparse.Namespace) -> str:
    """The page with table, machine and command."""
    machine = describe_machine(torch.device("cpu"))
    numba = "installed" if find_spec("numba") else "not installed: `vaelid` is `vaelid without numba`"
    given = f"--samples {options.samples} --repeats {options.repeats} --threads {options.threads}"
    lines = [
        "# The importance-weighted bound on the CPU",
        "",
        f"K = {options.samples:,} samples per image, decoder 20-512-512-784, Bernoulli, {options.threads} thread(s); "
        f"{options.repeats} turns each, median [smallest–largest].",
        "",
        "| | µs per image and sample | peak memory, MB | mean nll found, nats |",
        "|---|---|---|---|",
        *(row(name, contestants.get(name)) for name in IMAGES),
        *(f"| **{slow} : {fast}** | **{ratio(contestants, slow, fast)}** | | |" for slow, fast in RATIOS),
        *(f"| **share of products: {part} : {all_}** | **{ratio(contestants, part, all_)}** | | |" for part, all_ in SHARES),
        "",
        f"* Mean nll of {IMAGES[PYTHAE]} random images under fresh weights, other noise in pythae: a check that all compute the "
        "same thing, nothing else.",
        f"* Command: `python benchmarks/evaluation.py {given}{' --pythae PYTHON' if options.pythae else ''}`",
        f"* Machine: {machine['processor']}, {options.threads} of {os.cpu_count()} cores used (threads of torch); "
        f"load average at the end {os.getloadavg()[0]:.1f}",
        f"* Software: commit {machine['commit']}, torch {machine['torch']}, Python {machine['python']}, numba {numba}",
    ]
    return "\n".join(lines) + "\n"


def row(name: str, contestant: Contestant | None) -> str:
    """What one contestant took."""
    if contestant is None:
        return f"| {name} | not measured | | |"
    found = "" if contestant.nll is None else f"{contestant.nll:.3f}"
    return f"| {name}, {IMAGES[name]} images a turn | {middle(contestant.wall)} | {contestant.memory:.0f} | {found} |"


def ratio(contestants: dict[str, Contestant], slow: str, fast: str) -> str:
    """How many times as long one contestant takes as the other, turn by turn."""
    if slow not in contestants or fast not in contestants:
        return "not measured"
    return middle([s / f for s, f in zip(contestants[slow].wall, contestants[fast].wall, strict=True)])


def middle(values: list[float]) -> str:
    """Median, smallest and largest."""
    return f"{statistics.median(values):.2f} [{min(values):.2f}–{max(values):.2f}]"


if __name__ == "__main__":
    main()
