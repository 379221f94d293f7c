"""How pessimistic is the importance-weighted bound of an evaluated run? AIS on the same images, image by image.

python studies/iwae_table1/ais.py runs/iwae-table1-iwae-k50-static-stage7 100 > results/iwae-k50-static-stage7-ais.json
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace

import numpy as np

import vaelid
from vaelid.evaluation.ais import AisPlan, ais_images, summarize_ais
from vaelid.progress import default_reporter


def main() -> None:
    path, images = sys.argv[1], int(sys.argv[2])
    run = vaelid.open_run(path, device="cpu")
    known = run.results["test"]
    if images > known["images"]:
        sys.exit(f"{path} was evaluated on {known['images']} images; {images} were asked for.")
    split = run.split("test")
    plan = AisPlan()
    with default_reporter() as reporter:
        values = ais_images(run.model, replace(split, indices=split.indices[:images]), plan, reporter)
    bound = run.folder.read_arrays(run.folder.results / "test.npz")["nll"][:images]
    difference = bound - values["nll"]
    found = {
        "run": run.folder.path.name,
        "ais": summarize_ais(values, plan),
        "importance_weighted": {"samples": known["nll"]["samples"], "value": float(bound.mean())},
        "importance_weighted_minus_ais": {"value": float(difference.mean()), "se": standard_error(difference)},
    }
    print(json.dumps(found, indent=2))


def standard_error(values: np.ndarray) -> float:
    """Of a mean over images."""
    return float(values.std(ddof=1)) / math.sqrt(len(values))


if __name__ == "__main__":
    main()
