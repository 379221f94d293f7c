"""Print the table of README.md from the run folders: what was trained, how long it took, how good it is.

python studies/assignment/table.py runs/assignment runs/assignment-as-trained runs/mnist runs/mnist-8bit
"""

from __future__ import annotations

import sys

import vaelid


def main() -> None:
    print("| run | epochs (best) | training | test −ELBO | = distortion + rate | test nll | K, images | bits/dim | commit |")
    print("|---|---|---|---|---|---|---|---|---|")
    for path in sys.argv[1:]:
        print(row(vaelid.open_run(path, device="cpu")))


def row(run: vaelid.Run) -> str:
    """One run's line; what was not evaluated says so."""
    history, results = run.metrics, run.results.get("test")
    best = min(history, key=lambda line: line["neg_elbo"])
    minutes = sum(line["train_seconds"] + line["validation_seconds"] for line in history) / 60
    trained = (
        f"| `{run.folder.path.name}` | {len(history)} ({best['epoch']}) | {minutes:.1f} min, {run.about['threads']} thread(s) |"
    )
    if results is None:
        return f"{trained} not measured | | | | | {run.about['commit']} |"
    bound, nll, bits = results["neg_elbo"], results["nll"], results["bits_per_dim"]
    columns = [
        f"{bound['value']:.2f} ± {bound['se']:.2f}",
        f"{bound['distortion']:.2f} + {bound['rate']:.2f}",
        f"{nll['value']:.2f} ± {nll['se']:.2f}",
        f"{nll['samples']}, {results['images']:,}",
        f"{bits['nll']:.3f}",
        run.about["commit"],
    ]
    return f"{trained} {' | '.join(columns)} |"


if __name__ == "__main__":
    main()
