"""Print the tables of README.md from the results that run.sh left behind. A stage without a result says so.

python studies/iwae_table1/table.py [studies/iwae_table1/results]
"""

from __future__ import annotations

import json
import sys
from itertools import accumulate
from pathlib import Path
from typing import Any

#: Burda et al. 2016, Table 1, one stochastic layer: NLL after all stages (k = 5000, 10,000 test images) and active units.
PUBLISHED = {"vae-k1": (86.76, 19), "iwae-k50": (84.78, 25)}
PASSES = list(accumulate(3**stage for stage in range(8)))  # done at the end of each stage: 1, 4, 13, 40, … 3280


def main() -> None:
    results = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "results"
    for model, (nll, units) in PUBLISHED.items():
        print(f"\n`{model}`; published after stage 7: nll {nll}, {units} active units\n")
        print(
            "| stage | passes | lr in the stage | test −ELBO | = distortion + rate | test nll | K, images "
            "| gain, last step of K | active units | made at |"
        )
        print("|---|---|---|---|---|---|---|---|---|---|")
        for stage, passes in enumerate(PASSES):
            found = sorted(results.glob(f"{model}-stage{stage}-first*.json"))
            lr = f"{1e-3 * 10 ** (-stage / 7):.2e}"
            for row in [columns(json.loads(file.read_text())["test"], about(results, model)) for file in found] or [
                "not measured" + " |" * 6
            ]:
                print(f"| {stage} | {passes:,} | {lr} | {row} |")


def columns(found: dict[str, Any], trained_at: str) -> str:
    """One evaluation: both bounds with their standard errors over images, and where training and evaluation were made."""
    bound, nll = found["neg_elbo"], found["nll"]
    before, last = nll["curve"][-2:]
    return " | ".join(
        [
            f"{bound['value']:.2f} ± {bound['se']:.2f}",
            f"{bound['distortion']:.2f} + {bound['rate']:.2f}",
            f"**{nll['value']:.2f} ± {nll['se']:.2f}**",
            f"{nll['samples']:,}, {found['images']:,}",
            f"{before['value'] - last['value']:.2f} from K = {before['samples']:,}",
            str(found["active_units"]["variance"]),
            f"{trained_at}, {found['environment']['commit'][:7]}",
        ]
    )


def about(results: Path, model: str) -> str:
    """The commit that trained the model."""
    return str(json.loads((results / f"{model}-environment.json").read_text())["commit"])[:7]


if __name__ == "__main__":
    main()
