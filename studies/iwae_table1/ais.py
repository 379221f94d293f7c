"""How pessimistic is the importance-weighted bound of an evaluated run? AIS on the same images, image by image.

    python studies/iwae_table1/ais.py RUN 100 studies/iwae_table1/results/iwae-k50-static-stage7-ais.json

The number of steps is doubled, so that the last doubling says whether annealing has converged; and bidirectional Monte Carlo with
the last number measures its error, on half as many images of the model's own. The file is written after each of them."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import vaelid
from vaelid.evaluation.ais import AisPlan, ais_images, summarize_ais
from vaelid.evaluation.bdmc import bdmc_images, summarize_bdmc
from vaelid.progress import default_reporter

STEPS = (100, 200)


def main() -> None:
    path, images, out = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    run = vaelid.open_run(path, device="cpu")
    known = run.results["test"]
    if images > known["images"]:
        sys.exit(f"{path} was evaluated on {known['images']} images; {images} were asked for.")
    split = run.split("test")
    split = replace(split, indices=split.indices[:images])
    samples = known["nll"]["samples"]
    bound = run.folder.read_arrays(run.folder.results / "test.npz")["nll"][:images]
    found: dict[str, Any] = {
        "run": run.folder.path.name,
        "importance_weighted": {"samples": samples, "value": float(bound.mean()), "environment": known["environment"]},
        "ais": [],
    }
    before = None
    with default_reporter() as reporter:
        for steps in STEPS:
            plan = AisPlan(steps=steps)
            nll = (values := ais_images(run.model, split, plan, reporter))["nll"]
            difference = {"importance_weighted_minus_this": mean_se(bound - nll)}
            if before is not None:
                difference["half_the_steps_minus_this"] = mean_se(before - nll)
            before = nll
            found["ais"].append({**summarize_ais(values, plan), **difference})
            write(out, found)
        both = bdmc_images(run.model, images // 2, plan, reporter, samples=samples)
    found["bdmc"] = summarize_bdmc(both, plan, samples)
    write(out, found)


def mean_se(values: np.ndarray) -> dict[str, float]:
    """Over images, paired."""
    return {"value": float(values.mean()), "se": float(values.std(ddof=1)) / math.sqrt(len(values))}


def write(out: Path, found: dict[str, Any]) -> None:
    """What is known so far."""
    out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
