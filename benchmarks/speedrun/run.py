"""One entry of the speedrun: trains once per seed, times it, and looks at the test split once, at the end.

    python benchmarks/speedrun/run.py --seeds 0,1,2,3,4 --name mnist-fast --changed "first record"

Writes ``records/<date>-<name>.json``, all that was measured, and ``.md``, the same to read. The rules are in README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from vaelid import open_run
from vaelid.environment import describe_machine

RECORDS = Path(__file__).parent / "records"
#: Test −ELBO of the course assignment, nats per image.
TARGET = 92.07


def main() -> None:
    options = parse()
    began = datetime.now(UTC)
    with tempfile.TemporaryDirectory() as scratch:
        runs = options.runs or Path(scratch)
        runs.mkdir(parents=True, exist_ok=True)
        folders = {seed: runs / f"seed-{seed}" for seed in options.seeds}
        rows = [timed(seed, folder, options) for seed, folder in folders.items()]
        if options.train_only:
            return
        predicted = statistics.mean(row["validation_neg_elbo"] for row in rows) <= options.target
        if predicted:  # else there is no record, and the test split stays unseen
            for row, folder in zip(rows, folders.values(), strict=True):
                row["test"] = evaluate(folder, options)
        first = open_run(folders[options.seeds[0]])
        entry = {
            "date": f"{began:%Y-%m-%d}",
            "command": shlex.join(["python", "benchmarks/speedrun/run.py", *sys.argv[1:]]),
            "train": shlex.join(train_command("SEED", Path("DIR"), options)[2:]),
            "evaluate": shlex.join(evaluate_command(Path("DIR"), options)[2:]),
            "changed": options.changed,
            "target": options.target,
            "threads": options.threads,
            "machine": describe_machine(torch.device(options.device)),
            "data": first.about["data"]["images"],
            "recipe": first.recipe.to_toml(),
            "seeds": rows,
        }
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{entry['date']}-{options.name}.json"
    path.write_text(json.dumps(entry, indent=1) + "\n", encoding="utf-8")
    page = render(entry)
    path.with_suffix(".md").write_text(page, encoding="utf-8")
    print(page)


def train_command(seed: int | str, folder: Path, options: argparse.Namespace) -> list[str]:
    """The command whose time is the record."""
    settings = [word for setting in options.set for word in ("--set", setting)]
    run = ["train", options.data, "--recipe", options.recipe, *settings, "--engine", options.engine]
    return [sys.executable, "-m", "vaelid", *run, "--seed", str(seed), "--device", options.device, "--out", str(folder)]


def evaluate_command(folder: Path, options: argparse.Namespace) -> list[str]:
    """The look at the test split."""
    limit = ["--limit", str(options.limit)] if options.limit else []
    how = ["--samples", str(options.samples), *limit, "--device", options.device]
    return [sys.executable, "-m", "vaelid", "evaluate", str(folder), *how]


def timed(seed: int, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What :func:`train` measured, now or in an earlier call with the same --runs."""
    note, command = folder.with_suffix(".json"), shlex.join(train_command(seed, folder, options)[2:])
    if not note.is_file():
        note.write_text(json.dumps({"command": command, **train(seed, folder, options)}), encoding="utf-8")
    row: dict[str, Any] = json.loads(note.read_text(encoding="utf-8"))
    if row.pop("command") != command:
        raise SystemExit(f"{note} is of another command than `vaelid {command}`. Name another folder with --runs.")
    print(f"seed {seed}: {row['seconds']:.1f} s, validation −ELBO {row['validation_neg_elbo']:.2f}", flush=True)
    return row


def train(seed: int, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Train with one seed; seconds from the start of the process, and what validation says.

    The run's environment.json is written last when training begins and when it has ended, so its time stamp is that end;
    what comes after it are figures and a summary.
    """
    used, load = resource.getrusage(resource.RUSAGE_CHILDREN), os.getloadavg()[0]
    begun = time.time()
    call(train_command(seed, folder, options), options)
    whole = time.time() - begun
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    run = open_run(folder)
    lines = run.metrics
    kept = lines[-1] if run.recipe.training.keep == "last" else min(lines, key=lambda line: float(line["neg_elbo"]))
    return {
        "seed": seed,
        "seconds": (folder / "environment.json").stat().st_mtime - begun,
        "seconds_of_process": whole,
        "seconds_of_steps": sum(line["train_seconds"] for line in lines),
        "seconds_of_validation": sum(line["validation_seconds"] for line in lines),
        "cpu_seconds": now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime,
        "load_before": load,
        "load_after": os.getloadavg()[0],
        "validation_neg_elbo": kept["neg_elbo"],
        "validation_epoch": kept["epoch"],
        "epochs": len(lines),
        "active_units": kept["active_units"],
    }


def evaluate(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Look at the test split."""
    call(evaluate_command(folder, options), options)
    found = open_run(folder).results["test"]
    kept = ("value", "se", "samples", "monte_carlo_se")
    return {
        "images": found["images"],
        **{name: {key: found[name].get(key) for key in kept} for name in ("neg_elbo", "nll")},
    }


def call(command: list[str], options: argparse.Namespace) -> None:
    """Run a command with so many threads; its output is shown if it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "COLUMNS": "120"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)} failed:\n{done.stdout}{done.stderr}")


def render(entry: dict[str, Any]) -> str:
    """The page of a record."""
    rows, machine = entry["seeds"], entry["machine"]
    head = (
        "| seed | seconds to the end of training | of these: steps, validation | to the end of the process | CPU seconds "
        "| load before, after | validation −ELBO (epoch of the kept weights, of all) | test −ELBO | test nll |"
    )
    lines = [
        f"| {r['seed']} | {r['seconds']:.1f} | {r['seconds_of_steps']:.1f}, {r['seconds_of_validation']:.1f} "
        f"| {r['seconds_of_process']:.1f} | {r['cpu_seconds']:.0f} | {r['load_before']:.1f}, {r['load_after']:.1f} "
        f"| {r['validation_neg_elbo']:.2f} ({r['validation_epoch']} of {r['epochs']}) | {looked(r)} |"
        for r in rows
    ]
    times, validation = [r["seconds"] for r in rows], [r["validation_neg_elbo"] for r in rows]
    verdict = f"Validation {statistics.mean(validation):.2f} in the mean; target {entry['target']}."
    if "test" in rows[0]:
        mean = statistics.mean(r["test"]["neg_elbo"]["value"] for r in rows)
        verdict += f" **Test −ELBO {mean:.2f} in the mean: {'reached' if mean <= entry['target'] else 'missed'}.**"
    else:
        verdict += " **Not predicted, so the test split was not looked at.**"
    images = ", ".join(f"{count['images']:,} {name}" for name, count in entry["data"].items())
    return "\n".join(
        [
            f"# {entry['date']}: {statistics.median(times):.1f} s",
            "",
            f"{entry['changed']}",
            "",
            f"Seconds: mean {statistics.mean(times):.1f}, median {statistics.median(times):.1f}, "
            f"{min(times):.1f} to {max(times):.1f} over {len(times)} seeds. {verdict}",
            "",
            head,
            f"|{'---|' * (head.count(' |'))}",
            *lines,
            "",
            f"* Training: `{entry['train']}`; test: `{entry['evaluate']}`",
            f"* All of it: `{entry['command']}`",
            f"* Machine: {machine['processor']}, {entry['threads']} threads, {machine['device']}; images: {images}",
            f"* Software: commit {machine['commit']}, torch {machine['torch']}, Python {machine['python']}",
            "",
            "```toml",
            entry["recipe"].strip(),
            "```",
            "",
        ]
    )


def looked(row: dict[str, Any]) -> str:
    """The two test numbers of a row."""
    if "test" not in row:
        return "not looked at | not looked at"
    elbo, nll = row["test"]["neg_elbo"], row["test"]["nll"]
    of = f", {row['test']['images']:,} images"
    return f"{elbo['value']:.2f} ± {elbo['se']:.2f} | {nll['value']:.2f} ± {nll['se']:.2f} (K = {nll['samples']:,}{of})"


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0])
    parser.add_argument("--recipe", default="mnist-fast")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting on top of the recipe")
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--target", type=float, default=TARGET, help="nats; the test split is looked at if validation is below")
    parser.add_argument("--samples", type=int, default=10, help="K of the nll")
    parser.add_argument("--limit", type=int, help="test images; without it all")
    parser.add_argument("--runs", type=Path, help="where the run folders are kept; a seed that is there is not trained again")
    parser.add_argument("--train-only", action="store_true", help="train and time; call again without it for the test split")
    parser.add_argument("--name", default="mnist-fast", help="of the record's files")
    parser.add_argument("--out", type=Path, default=RECORDS, help="where the two files go")
    parser.add_argument("--changed", required=True, help="what is new, in a sentence")
    return parser.parse_args()


if __name__ == "__main__":
    main()
