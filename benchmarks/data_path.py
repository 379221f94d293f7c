"""Images that do not fit into memory: training from a memory-mapped file beside training from memory.

    python benchmarks/data_path.py --folder /some/large/disk

Makes a file of ``--gigabytes`` in ``--folder`` (removed afterwards), and lets each contestant train a part of an epoch on it, in
a process of its own: from memory; from the file, whose pages the kernel has in its cache; and from the file with an empty cache,
as after a start of the machine or with a file larger than memory. The last two also without what vaelid does for them: telling
the kernel which rows come next. Half of the columns have no model in them: batches are only handed out.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch

from vaelid.build import settle
from vaelid.data import Data, DataSettings, Images, images, split_data
from vaelid.environment import describe_machine
from vaelid.folder import RunFolder
from vaelid.progress import Silent
from vaelid.recipe import Recipe, expand, read_recipe
from vaelid.supports import BYTES
from vaelid.training.loop import Pace, train_epoch
from vaelid.training.start import prepare
from vaelid.training.state import Training

RESULT = Path(__file__).parent / "results" / "data_path.md"
SHAPE = (3, 64, 64)
ROW = math.prod(SHAPE)  # bytes of an image


@dataclass(frozen=True)
class Contestant:
    """How images are read: from memory or a file, with pages of the file in memory or not, rows announced or not."""

    memory: bool = False
    cached: bool = True
    announced: bool = True


CONTESTANTS = {
    "from memory": Contestant(memory=True),
    "from a file in the page cache": Contestant(),
    "… not announced": Contestant(announced=False),
    "from a file, cache empty": Contestant(cached=False),
    "… not announced ": Contestant(cached=False, announced=False),
}


@dataclass
class Turns:
    """Of one contestant: images per second of training, on the wall and of processor time, and of reading alone; MB."""

    training: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    reading: list[float] = field(default_factory=list)
    anonymous: list[float] = field(default_factory=list)


def main() -> None:
    options = parse()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="vaelid-data-path-") as folder:
        path = Path(folder) / "images.npy"
        write_images(path, int(options.gigabytes * 1e9 / ROW))
        found = {name: Turns() for name in CONTESTANTS}
        for turn in range(options.repeats):
            for name in CONTESTANTS:
                told, turns = in_a_process(name, path, turn, options), found[name]
                for values, value in zip((turns.reading, turns.anonymous, turns.training, turns.processor), told, strict=True):
                    values.append(value)
    page = report(found, options)
    print(page)
    options.out.write_text(page, encoding="utf-8")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=5.0, help="size of the file (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where it is put (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=128, help="images per step (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=40, help="training steps per turn (default: %(default)s)")
    parser.add_argument("--batches", type=int, default=200, help="batches per turn that are only read (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each contestant (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=RESULT, help="page to write (default: results/data_path.md)")
    return parser.parse_args()


def write_images(path: Path, count: int) -> None:
    """Random bytes: nothing that a file system could leave out or compress."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(count, *SHAPE))
    block = np.random.default_rng(0).integers(0, 256, (min(count, 4096), *SHAPE), dtype=np.uint8)
    for start in range(0, count, len(block)):
        array[start : start + len(block)] = np.roll(block, start, axis=-1)[: count - start]
    array.flush()
    with path.open("rb") as file:
        os.fsync(file.fileno())


def in_a_process(name: str, path: Path, turn: int, options: argparse.Namespace) -> tuple[float, ...]:
    """One turn of one contestant; nothing of it stays behind."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(name, path, turn, options, theirs), daemon=True)
    process.start()
    theirs.close()  # so that a contestant that dies is an error here, and not a wait
    result: tuple[float, ...] = ours.recv()
    process.join()
    return result


def serve(name: str, path: Path, turn: int, options: argparse.Namespace, pipe: Connection) -> None:
    """A contestant's process: one turn, told as ``Turns`` lists it, reading first."""
    torch.set_num_threads(options.threads)
    contestant = CONTESTANTS[name]
    if not contestant.announced:
        images.announce = lambda *_: None
    fill_or_empty_cache(path, contestant.cached)
    data = data_of(path, contestant.memory)
    reading, grown = read_only(data, turn, options)
    if not contestant.cached:
        del data  # pages that are mapped cannot be dropped
        fill_or_empty_cache(path, cached=False)
        data = data_of(path, memory=False)
    pipe.send((reading, grown, *train(data, turn, options)))


def data_of(path: Path, memory: bool) -> Data:
    """Nearly all images of the file as training images, copied to memory or mapped."""
    mapped = np.lib.format.open_memmap(path, mode="r")
    pixels = torch.from_numpy(np.array(mapped)) if memory else mapped
    return split_data(Images(str(path), pixels, BYTES), DataSettings(str(path), validation_images=1, test_fraction=1e-9))


def fill_or_empty_cache(path: Path, cached: bool) -> None:
    """Have all pages of the file in memory, or none."""
    with path.open("rb", buffering=0) as file:
        if not cached:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            return
        room = bytearray(2**24)
        while file.readinto(room):
            pass


def read_only(data: Data, turn: int, options: argparse.Namespace) -> tuple[float, float]:
    """Images per second when batches are only handed out, and by how many MB anonymous memory grew in the second half."""
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(100 + turn))
    positions = order.split(options.batch_size)[: options.batches]
    begun, half = time.perf_counter(), 0.0
    for number, _ in enumerate(data.train.batches(positions)):
        if number == len(positions) // 2:
            half = anonymous_megabytes()
    return sum(map(len, positions)) / (time.perf_counter() - begun), anonymous_megabytes() - half


def train(data: Data, turn: int, options: argparse.Namespace) -> tuple[float, float]:
    """Images per second of vaelid's loop, on the wall and of processor time."""
    recipe = recipe_of(options).override({"training.seed": turn})
    folder = RunFolder(Path(tempfile.gettempdir()) / "never-written")
    training = prepare(folder, settle(recipe, data, Path()), data, torch.device("cpu"), Path())
    run, images_seen = stepper(training), options.steps * options.batch_size
    run(10)
    wall, processor = time.perf_counter(), time.process_time()
    run(options.steps)
    return images_seen / (time.perf_counter() - wall), images_seen / (time.process_time() - processor)


def stepper(training: Training) -> Callable[[int], None]:
    """Does so many steps of ``train_epoch``, and breaks off."""
    state, never = training.state, Pace(math.inf)

    def run(steps: int) -> None:
        end = state.step + steps
        train_epoch(training, Silent(), lambda: state.step >= end, never)

    return run


def recipe_of(options: argparse.Namespace) -> Recipe:
    """Small networks: the quicker the step, the more its images count."""
    changes = {"hidden": [64, 64], "latent": 20, "likelihood": "gaussian", "binarization": "none"}
    return read_recipe("images").override(expand({**changes, "batch_size": options.batch_size}))


def anonymous_megabytes() -> float:
    """Memory of this process that no file backs (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024


def report(found: dict[str, Turns], options: argparse.Namespace) -> str:
    """The page with table, machine and command."""
    machine = describe_machine(torch.device("cpu"))
    memory = found["from memory"]
    rows = (
        f"| {name.strip()} | {spread(t.training)} | {ratios(t.training, memory.training)} "
        f"| {ratios(t.processor, memory.processor)} | {spread(t.reading)} | {ratios(t.reading, memory.reading)} "
        f"| {max(t.anonymous):+.1f} |"
        for name, t in found.items()
    )
    lines = [
        "# Images that do not fit into memory",
        "",
        f"A file of {options.gigabytes:g} GB, random images {SHAPE} of one byte per number; batches of {options.batch_size} in "
        f"shuffled order. {options.repeats} turns, each of {options.steps} training steps (64-64 hidden units) and of "
        f"{options.batches} batches that are only handed out: median [smallest–largest].",
        "",
        "| | training, images/s | : from memory | … of processor time | only reading, images/s | : from memory | growth, MB |",
        "|---|---|---|---|---|---|---|",
        *rows,
        "",
        "* Not announced: rows are touched when they are asked for, as a mapped array does by itself.",
        "* Growth: of anonymous memory, the largest growth in the second half of the batches that are only handed out.",
        f"* Command: `python benchmarks/data_path.py --gigabytes {options.gigabytes:g} --batch-size {options.batch_size} --steps "
        f"{options.steps} --batches {options.batches} --repeats {options.repeats} --threads {options.threads}`",
        f"* Machine: {machine['processor']}; load average at the end {os.getloadavg()[0]:.1f}",
        f"* Software: commit {machine['commit']}, torch {machine['torch']}, Python {machine['python']}",
    ]
    return "\n".join(lines) + "\n"


def ratios(ours: list[float], theirs: list[float]) -> str:
    """Turn by turn."""
    return spread([a / b for a, b in zip(ours, theirs, strict=True)], 2)


def spread(values: list[float], digits: int = 0) -> str:
    """Median, smallest and largest."""
    median, low, high = (f"{f(values):,.{digits}f}" for f in (statistics.median, min, max))
    return f"{median} [{low}–{high}]"


if __name__ == "__main__":
    main()
