"""The same weights sampled in four ways: pictures and scores side by side. The tables of README.md.

    python studies/assignment_samples/compare.py runs/assignment-as-trained-1

The run is one of recipe ``assignment`` with the prior that the assignment's density really was:

    vaelid train mnist --recipe assignment --prior factorized-mixture --binarization resampled --seed 1

Every way is kept in results/ as soon as it is scored, and is not scored again as long as weights, N and seed are the same.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import Distribution

import vaelid
from vaelid import VAE, Prior
from vaelid.errors import UserError
from vaelid.evaluation.evaluate import provenance
from vaelid.priors import FactorizedMixturePrior
from vaelid.progress import Reporter, default_reporter
from vaelid.reporting.plots import DPI, tile
from vaelid.scoring.extractors import EXTRACTORS
from vaelid.scoring.score import ScorePlan, Yardstick
from vaelid.training.surroundings import own_randomness

HERE = Path(__file__).parent
#: Whether one component is drawn for all dimensions, and whether σ² stands where σ belongs.
WAYS = {
    "right": (False, False),
    "joint component": (True, False),
    "σ² for σ": (False, True),
    "the assignment's": (True, True),
}
RIGHT, THEIRS = "right", "the assignment's"
SHOWN = 16


class Drawn(Distribution):
    """Draws from the parameters of a factorized mixture, in the right way or a wrong one.

    z_d = μ_cd + s_cd · ε_d, where c is drawn from the weights for every d (or once for all), and s is σ (or σ²). All ways take
    the same random numbers, so that what differs between their pictures is the way alone.
    """

    arg_constraints = {}  # noqa: RUF012

    def __init__(self, prior: FactorizedMixturePrior, joint: bool, squared: bool) -> None:
        self.prior, self.joint, self.squared = prior, joint, squared
        super().__init__(event_shape=prior.mean.shape[-1:], validate_args=False)

    @torch.no_grad()
    def sample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """``(*sample_shape, L)``."""
        shape = torch.Size(sample_shape) + self.event_shape
        share, noise = torch.rand(shape), torch.randn(shape)
        share = share[..., :1].expand(shape) if self.joint else share
        upper = self.prior.logits.softmax(-1).cumsum(-1)
        component = torch.searchsorted(upper, share.contiguous()).clamp(max=len(upper) - 1)
        dimension = torch.arange(shape[-1])
        scale = self.prior.scale[component, dimension]
        return self.prior.mean[component, dimension] + (scale.square() if self.squared else scale) * noise


class DrawnPrior(Prior):
    """A trained factorized mixture whose sampler is one of ``WAYS``; it has no density, and needs none to be drawn from."""

    def __init__(self, trained: FactorizedMixturePrior, joint: bool, squared: bool) -> None:
        super().__init__()
        self.trained, self.joint, self.squared = trained, joint, squared

    def forward(self) -> Drawn:
        return Drawn(self.trained, self.joint, self.squared)


def main() -> None:
    options = parse()
    run = vaelid.open_run(options.run, device="cpu")
    if not isinstance(run.model.prior, FactorizedMixturePrior):
        raise UserError(f"The prior of {options.run} is {run.recipe.prior.name}.", "Train with --prior factorized-mixture.")
    models = {
        name: VAE(run.model.posterior, run.model.likelihood, DrawnPrior(run.model.prior, *way)) for name, way in WAYS.items()
    }
    options.results.mkdir(parents=True, exist_ok=True)
    with default_reporter() as reporter:
        done = scored(run, models, options, reporter)
    draw(models, options.seed, options.results)
    text = markdown(done)
    (options.results / "scores.md").write_text(text, encoding="utf-8")
    print(text)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("-n", type=int, default=10_000, help="images per set (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="names the random numbers (default: %(default)s)")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="where to write (default: beside this file)")
    return parser.parse_args()


def scored(run: vaelid.Run, models: Mapping[str, VAE], options: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """The scores of all ways against the test split, as ``vaelid score`` makes them; those in scores.json are kept."""
    reference, file = run.split("test"), options.results / "scores.json"
    about = {
        "command": f"python studies/assignment_samples/compare.py {options.run.name} -n {options.n} --seed {options.seed}",
        "run": {
            **kept_epoch(run),
            "epochs trained": len(run.metrics),
            "seed": run.recipe.training.seed,
            "commit": run.about["commit"],
        },
        "weights": run.weights_digest,
    }
    done = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if {key: done.get(key) for key in about} != about:
        done = {**about, "ways": {}}
    missing = [name for name in models if name not in done["ways"]]
    if missing:
        extractor, plan = EXTRACTORS["classifier"](run.data, None, reporter), ScorePlan(options.n, seed=options.seed)
        yardstick = Yardstick(run.data, reference, extractor, plan, reporter)
        for name in missing:
            model = models[name]
            reporter.say(f"scoring: {name}")
            done["ways"][name] = yardstick.score(model) | provenance(model, reference, reference.images.name, run.weights_digest)
            file.write_text(json.dumps(done, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return done


def kept_epoch(run: vaelid.Run) -> dict[str, Any]:
    """Of which epoch the weights are, and their validation −ELBO, as model.safetensors itself says."""
    with safetensors.safe_open(str(run.folder.weights_file), framework="pt") as opened:
        return json.loads(opened.metadata()["about"])


def draw(models: Mapping[str, VAE], seed: int, folder: Path) -> None:
    """The first images of every way under each other, once as pixel means and once as draws."""
    shown = {}
    for name, model in models.items():
        with own_randomness(seed):
            shown[name] = model.sample(2 * SHOWN)
    for pixels in ("means", "draws"):
        figure = Figure(figsize=(8, 5.4), layout="constrained")
        for axes, (name, samples) in zip(figure.subplots(len(shown), 1), shown.items(), strict=True):
            axes.imshow(tile(getattr(samples, pixels).numpy(), columns=SHOWN), cmap="gray", vmin=0, vmax=255)
            axes.set_title(name, fontsize=10, loc="left")
            axes.set_axis_off()
        figure.savefig(folder / f"{pixels}.png", dpi=DPI)


def markdown(done: Mapping[str, Any]) -> str:
    """The table: a row per score, a column per way, the anchors, and how much of the way to real images the sampler was."""
    ways = done["ways"]
    first = ways[RIGHT]
    made, run = first["environment"], done["run"]
    lines = [
        f"| score (better) | {' | '.join(ways)} | real images | independent pixels | the sampler's share |",
        "|---" * (len(ways) + 4) + "|",
    ]
    for score, row in first["scores"].items():
        values = [ways[name]["scores"][score]["model"] for name in ways]
        cells = [*map(cell, values), cell(row["real"]), cell(row["trivial"])]
        lines.append(f"| `{score}` ({row['better']}) | {' | '.join(cells)} | {share(ways, score)} |")
    return "\n".join([*lines, "", *facts(done, first, made, run)]) + "\n"


def facts(done: Mapping[str, Any], first: Mapping[str, Any], made: Mapping[str, Any], run: Mapping[str, Any]) -> Iterator[str]:
    """What the table was made of, where, and by which command."""
    yield (
        f"{first['images_per_set']:,} images per set, {first['pixels']}, against {first['sets']['reference']['split']} images. "
        f"± is a standard error (random halves). Weights of epoch {run['epoch']} (validation −ELBO {run['neg_elbo']:.2f}) of "
        f"{run['epochs trained']} trained so far, seed {run['seed']}, SHA-256 {done['weights'][:12]}…, "
        f"trained at {run['commit']}. Features: {first['extractor']['name']}, SHA-256 {first['extractor']['sha256'][:12]}…, "
        f"{first['extractor']['test_accuracy']:.2%} of test images right as binarized."
    )
    yield ""
    yield f"`{done['command']}` at {made['commit']}, {made['processor']}, torch {made['torch']}."


def share(ways: Mapping[str, Any], score: str) -> str:
    """(assignment's − right) / (assignment's − real): 100 % if right draws are as good as real images; or nothing (–)."""
    right, theirs = (ways[name]["scores"][score]["model"]["value"] for name in (RIGHT, THEIRS))
    real = ways[RIGHT]["scores"][score]["real"]
    if real is None or ways[RIGHT]["scores"][score]["better"].startswith("near"):
        return "–"
    return f"{(theirs - right) / (theirs - real['value']):.0%}"


def cell(score: Mapping[str, Any] | None) -> str:
    """One score with its standard error."""
    return "–" if score is None else f"{score['value']:.4g} ± {score['se']:.1g}"


if __name__ == "__main__":
    main()
