"""Members of a study: their steps made together, against one after the other by eager and by graph.

    python benchmarks/together.py                     # writes results/together.md; 2 minutes
    python benchmarks/together.py --device cuda

Loss and gradients only: what comes before and after (pixels, optimizer) is each member's own either way.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from vaelid.build import settle
from vaelid.data import Data, load_data
from vaelid.environment import describe_machine
from vaelid.folder import RunFolder
from vaelid.progress import Silent
from vaelid.recipe import Recipe, read_recipe
from vaelid.training.engines import Eager, Graph
from vaelid.training.loop import Pace
from vaelid.training.start import prepare
from vaelid.training.surroundings import Generators, own_randomness
from vaelid.training.together import Joint, Member

#: Hidden widths of the networks, by their name on the page.
NETWORKS = {f"64-{'-'.join(str(w) for w in hidden)}": list(hidden) for hidden in ((32,), (128, 128), (512, 512))}
WAYS = ("together", "graph, in turn", "eager, in turn")


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    rows = [
        row(name, members, measure(recipe_of(hidden), members, options))
        for name, hidden in NETWORKS.items()
        for members in options.members
    ]
    page = render(rows, options)
    print(page)
    options.out.write_text(page)


def recipe_of(hidden: list[int]) -> Recipe:
    """Digits with binary pixels, a mixture of 16, batches of 32."""
    changes = {"data.binarization": "dynamic", "likelihood.name": "bernoulli", "training.batch_size": 32}
    return read_recipe("digits").override({**changes, "encoder.hidden": hidden, "decoder.hidden": hidden})


def measure(recipe: Recipe, count: int, options: argparse.Namespace) -> dict[str, list[float]]:
    """Milliseconds per member and step for each way, one number a turn."""
    data = load_data(recipe.data)
    with tempfile.TemporaryDirectory() as scratch:
        members = [member(Path(scratch) / str(seed), recipe, data, seed, options.device) for seed in range(count)]
        joint = Joint(members)
        graphs = [Graph(m.training.model, m.training.weights) for m in members]
        examples = [m.example() for m in members]

        def together() -> None:
            joint(*zip(*examples, strict=True))[0].tolist()

        def in_turn(engines: Sequence[Eager]) -> None:
            for engine, example in zip(engines, examples, strict=True):
                float(engine(*example)[0])

        ways: list[Callable[[], None]] = [
            together,
            lambda: in_turn(graphs),
            lambda: in_turn([m.training.engine for m in members]),
        ]
        found: dict[str, list[float]] = {name: [] for name in WAYS}
        for turn in range(options.repeats + 1):
            for name, way in zip(WAYS, ways, strict=True):
                begun = time.perf_counter()
                for _ in range(options.steps):
                    way()
                if turn:  # the first warms up
                    found[name].append(1e3 * (time.perf_counter() - begun) / options.steps / count)
    return found


def member(path: Path, recipe: Recipe, data: Data, seed: int, device: str) -> Member:
    """One that has not begun."""
    with own_randomness(seed):
        training = prepare(RunFolder(path), settle(recipe, data, Path()), data, torch.device(device), Path())
        return Member(training, Generators(training.weights.flat.device), Silent(), Pace(1e9))


def row(name: str, members: int, found: dict[str, list[float]]) -> str:
    """One line of the table."""
    times = [spread(found[way]) for way in WAYS]
    ratios = [spread([slow / fast for slow, fast in zip(found[way], found["together"], strict=True)]) for way in WAYS[1:]]
    return f"| {name} | {members} | {' | '.join(times)} | **{ratios[0]}** | **{ratios[1]}** |"


def spread(values: list[float]) -> str:
    """Median, minimum and maximum."""
    return "{:.2f} [{:.2f}–{:.2f}]".format(*(f(values) for f in (statistics.median, min, max)))


def render(rows: list[str], options: argparse.Namespace) -> str:
    """The page of results."""
    machine = describe_machine(torch.device(options.device))
    return "\n".join(
        [
            "# Members of a study, trained together",
            "",
            "Digits, batches of 32: loss and gradients, ms per member and step; "
            f"{options.repeats} turns of {options.steps} steps, median [min–max].",
            "",
            "| networks | members | together | graph, in turn | eager, in turn | graph : together | eager : together |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
            f"* Command: `python benchmarks/together.py --device {options.device} --threads {options.threads} "
            f"--repeats {options.repeats} --steps {options.steps}`",
            f"* Machine: {machine['processor']}, {options.device}, {options.threads} threads of torch",
            f"* Software: commit {machine['commit']}, torch {machine['torch']}, Python {machine['python']}",
            "",
        ]
    )


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "together.md")
    return parser.parse_args()


if __name__ == "__main__":
    main()
