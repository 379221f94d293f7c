"""How far annealing moves the bound, setting by setting, on one trained run: the table of docs/ais.md.

    python studies/ais/settings.py runs/assignment --images 20

Every row is kept in results/settings.json as soon as it is done, and is not computed again; remove the file to start afresh.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

import vaelid
from vaelid.environment import describe_machine
from vaelid.evaluation.ais import AisPlan, ais_images, summarize_ais
from vaelid.evaluation.bdmc import bdmc_images, summarize_bdmc
from vaelid.evaluation.collect import mean_se
from vaelid.evaluation.gaps import GapPlan, gap_images, summarize_gaps
from vaelid.evaluation.likelihood import importance_bound, log_weights
from vaelid.progress import Silent

RESULTS = Path(__file__).parent / "results"
SAMPLES = 5000
PLANS = [
    AisPlan(steps=10, leapfrog=10),
    AisPlan(steps=10),
    AisPlan(steps=50, leapfrog=10),
    AisPlan(steps=166),
    AisPlan(steps=500, leapfrog=1),
    AisPlan(),
    AisPlan(steps=1000),
    AisPlan(steps=1000, start="prior"),
]


def main() -> None:
    options = parse()
    run = vaelid.open_run(options.run, device="cpu")
    test = run.split("test")
    few, many = (replace(test, indices=test.indices[:count]) for count in (options.images, options.more))
    jobs: dict[str, Callable[[], dict[str, Any]]] = {f"IW bound, K = {SAMPLES}": partial(weighted, run.model, few)}
    jobs |= {label(plan): partial(annealed, run.model, few, plan) for plan in PLANS}
    jobs |= {
        f"on {options.more} images": partial(everything, run.model, many),
        "BDMC, default": partial(both_ways, run.model, options.more, AisPlan()),
        "BDMC, T = 10": partial(both_ways, run.model, options.images, AisPlan(steps=10)),
    }
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / "settings.json"
    done = json.loads(file.read_text()) if file.exists() else {}
    for name, job in jobs.items():
        if name not in done:
            begun = time.process_time()
            done[name] = {**job(), "processor_seconds": round(time.process_time() - begun, 1)}
            done["made by"] = {**describe_machine(torch.device("cpu")), "weights of": run.about["commit"]}
            file.write_text(json.dumps(done, indent=1) + "\n")
        print(name, {k: v for k, v in done[name].items() if not isinstance(v, dict)}, flush=True)
    print(table(done, options.images))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, default=20, help="test images of the table (default: %(default)s)")
    parser.add_argument("--more", type=int, default=100, help="images of the default setting (default: %(default)s)")
    return parser.parse_args()


def label(plan: AisPlan) -> str:
    """A row's name."""
    default = " (default)" if plan == AisPlan() else ""
    return f"AIS{' from the prior' if plan.start == 'prior' else ''}, T = {plan.steps}, leapfrog {plan.leapfrog}{default}"


def weighted(model: vaelid.VAE, split: Any) -> dict[str, Any]:
    """The importance-weighted bound, mean over the images in nats."""
    return {"nll": float(-importance(model, split).mean())}


def importance(model: vaelid.VAE, split: Any) -> Any:
    """The same per image, ``(N,)``: a lower bound on log p(x)."""
    weights = log_weights(model, split.batch(torch.arange(len(split))), split.indices, SAMPLES, seed=0, chunk=2000)
    return importance_bound(weights, SAMPLES).cpu().numpy()


def annealed(model: vaelid.VAE, split: Any, plan: AisPlan) -> dict[str, Any]:
    """AIS under one plan."""
    values = ais_images(model, split, plan, Silent())
    gradients = plan.chains * max(0, plan.steps - 1) * plan.leapfrog
    return {"nll": float(values["nll"].mean()), "gradients": gradients, **summarize_ais(values, plan)}


def everything(model: vaelid.VAE, split: Any) -> dict[str, Any]:
    """AIS, importance sampling and the best q on the same images: how far apart, with paired standard errors."""
    values, bound = ais_images(model, split, AisPlan(), Silent()), importance(model, split)
    gaps = summarize_gaps(gap_images(model, split, GapPlan(), Silent()), -values["nll"], GapPlan())
    return {"ais": mean_se(values["nll"]), "importance": mean_se(-bound), "apart": mean_se(-bound - values["nll"]), "gaps": gaps}


def both_ways(model: vaelid.VAE, count: int, plan: AisPlan) -> dict[str, Any]:
    """BDMC on images drawn from the model."""
    return summarize_bdmc(bdmc_images(model, count, plan, Silent(), samples=SAMPLES), plan, SAMPLES)


def table(done: dict[str, Any], images: int) -> str:
    """The rows as Markdown."""
    first = next(iter(done))
    lines = [
        f"| on {images} test images | −log p̂(x) | s.e. of Monte Carlo | effective chains | gradients per image |",
        "|---|---|---|---|---|",
        f"| {first} | {done[first]['nll']:.2f} | | | ({SAMPLES} decodings) |",
    ]
    for plan in PLANS:
        row = done[label(plan)]
        error, chains = row["monte_carlo_se"], row["effective_chains"]["mean"]
        lines.append(f"| {label(plan)} | {row['nll']:.2f} | {error:.2f} | {chains:.1f} of {plan.chains} | {row['gradients']:,} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
