"""The command line: one thin function per verb. Imports wait inside the verbs, so that ``--help`` answers at once."""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import torch
    from vaelid.run import Run

app = typer.Typer(
    name="vaelid",
    help="Train variational autoencoders on images, and know exactly how good they are.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="What data there are.", no_args_is_help=True)
recipes_app = typer.Typer(help="Built-in recipes.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(recipes_app, name="recipes")

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
AllowCode = Annotated[bool, typer.Option("--allow-code", help="Run the user code that the folder brings along.")]
Seed = Annotated[int, typer.Option(help="Names the random numbers.")]
Split = Annotated[str, typer.Option(help="train, validation or test.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any setting of the recipe; repeatable.")]


@app.callback(invoke_without_command=True)
def program(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options before the verb."""
    if version:
        from vaelid import __version__

        print(f"vaelid {__version__}")
        raise typer.Exit


@app.command()
def train(
    data: Annotated[str | None, typer.Argument(metavar="[DATA]", help="digits, mnist, binarized-mnist, an array file, or a folder of images.")] = None,
    recipe: Annotated[str | None, typer.Option(help="Built-in recipe or TOML file; default: the one named like DATA.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; default: runs/DATA-HASH.")] = None,
    prior: Annotated[str | None, typer.Option(help="Name, or FILE.py:CLASS.")] = None,
    likelihood: Annotated[str | None, typer.Option(help="Name, or FILE.py:CLASS.")] = None,
    posterior: Annotated[str | None, typer.Option(help="Name, or FILE.py:CLASS.")] = None,
    latent: Annotated[int | None, typer.Option(metavar="N", help="Latent dimensions.")] = None,
    components: Annotated[int | None, typer.Option(metavar="N", help="Components of a mixture prior.")] = None,
    hidden: Annotated[str | None, typer.Option(metavar="N,N", help="Hidden widths; the decoder gets them in reverse.")] = None,
    epochs: Annotated[int | None, typer.Option(metavar="N", help="At most so many epochs.")] = None,
    batch_size: Annotated[int | None, typer.Option(metavar="N", help="Images per step.")] = None,
    lr: Annotated[float | None, typer.Option(metavar="X", help="Learning rate.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="adamax, adam, adamw or sgd.")] = None,
    schedule: Annotated[str | None, typer.Option(help="constant, cosine or plateau.")] = None,
    beta: Annotated[float | None, typer.Option(metavar="X", help="Weight of the KL.")] = None,
    patience: Annotated[int | None, typer.Option(metavar="N", help="Stop after more than N epochs without improvement; 0: never.")] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Seed of weights, order and noise.")] = None,
    binarization: Annotated[str | None, typer.Option(help="dynamic, resampled, threshold or none.")] = None,
    set_: Set = None,
    device: Device = "auto",
    init_from: Annotated[Path | None, typer.Option(metavar="RUN", help="Start from the weights of a trained run.")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Go on without unreadable image files.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start afresh in a folder that holds a run.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved recipe and train nothing.")] = False,
) -> None:
    """Train a VAE. The same command again goes on where it was interrupted."""
    named = {
        "prior": prior, "likelihood": likelihood, "posterior": posterior, "latent": latent, "components": components, "hidden": hidden,
        "epochs": epochs, "batch_size": batch_size, "lr": lr, "optimizer": optimizer, "schedule": schedule, "beta": beta,
        "patience": patience, "seed": seed, "binarization": binarization, "data.skip_bad": skip_bad or None,
    }  # fmt: skip
    settings = {**{name: value for name, value in named.items() if value is not None}, **_pairs(set_)}
    from vaelid.run import request, train as train_run

    asked = request(data, recipe, out, settings)
    if dry_run:
        print(asked.recipe.to_toml(), end="")
        print(f"# would train in {asked.folder.path}", file=sys.stderr)
        return
    from vaelid.progress import default_reporter
    from vaelid.reporting.tables import run_summary, show

    with default_reporter() as reporter:
        reporter.say(f"{asked.data.name}: {len(asked.data.train):,} training images, pixels {asked.data.support}; likelihood {asked.recipe.likelihood.name}; run folder {asked.folder.path}")
        for skipped in asked.data.train.images.skipped:
            reporter.say(f"left out (--skip-bad): {skipped}")
        run = train_run(data, recipe=recipe, out=out, overwrite=overwrite, init_from=init_from, device=device, reporter=reporter, settings=settings)
    show(run_summary(run.folder, run.recipe, run.about))
    print(f"next: vaelid evaluate {run.folder.path}")


@app.command()
def evaluate(
    run: RunArgument,
    split: Split = "test",
    samples: Annotated[int, typer.Option(metavar="K", help="Samples of the importance-weighted bound.")] = 5000,
    elbo_samples: Annotated[int, typer.Option(metavar="S", help="Draws per image for −ELBO.")] = 10,
    limit: Annotated[int | None, typer.Option(metavar="N", help="Only the first N images of the split.")] = None,
    seed: Seed = 0,
    batch: Annotated[int, typer.Option(metavar="N", help="Images looked at together; of no influence on the numbers.")] = 200,
    input_: Annotated[list[Path] | None, typer.Option("--input", metavar="FILE", help="Judge new images instead; repeatable.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print results.json's entry instead of a table.")] = False,
    device: Device = "auto",
    allow_code: AllowCode = False,
) -> None:
    """Bounds on log p(x) with their errors, on a split or on new images; writes results and figures."""
    from vaelid.progress import default_reporter
    from vaelid.reporting.tables import ranking, results_table, show

    opened = _open(run, device, allow_code)
    with default_reporter() as reporter:
        if input_:
            ranked = opened.evaluate_files(input_, samples, seed=seed, reporter=reporter)
            if as_json:
                print(json.dumps(dict(ranked), indent=2))
            else:
                show(results_table(str(run), opened.results["input"]), ranking(ranked, most=20))
            return
        results = opened.evaluate(split, samples, elbo_samples=elbo_samples, limit=limit, seed=seed, images=batch, reporter=reporter)
    if as_json:
        print(json.dumps({split: results}, indent=2))
    else:
        show(results_table(str(run), results))
        print(f"results: {opened.folder.results_file}   figures: {opened.folder.figures}")


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN…", help="Evaluated runs; the first is the reference.")],
    split: Split = "test",
    anyway: Annotated[bool, typer.Option("--anyway", help="Compare what is not comparable, labeled so.")] = False,
) -> None:
    """Paired per-image differences between evaluated runs, with their standard errors."""
    from vaelid.reporting.tables import comparison_table, show
    from vaelid.run import compare as compare_runs

    show(comparison_table(compare_runs(*runs, split=split, anyway=anyway)))


@app.command()
def sample(
    run: RunArgument,
    n: Annotated[int, typer.Option("-n", metavar="N", help="How many images.")] = 16,
    out: Annotated[Path, typer.Option(metavar="FILE", help="A .png, .pdf or .npy file; its ending decides.")] = Path("samples.png"),
    draw: Annotated[bool, typer.Option("--draw/--mean", help="Pixels drawn from p(x|z), or its means.")] = False,
    component: Annotated[int | None, typer.Option(metavar="C", help="Only from this component of the mixture prior.")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    allow_code: AllowCode = False,
) -> None:
    """New images from the model."""
    drawn = _open(run, device, allow_code).sample(n, seed=seed, component=component)
    _save_images(drawn.draws if draw else drawn.means, out)


@app.command()
def reconstruct(
    run: RunArgument,
    files: Annotated[list[Path] | None, typer.Argument(help="Images; default: the first of the test split.")] = None,
    n: Annotated[int, typer.Option("-n", metavar="N", help="How many images.")] = 10,
    out: Annotated[Path, typer.Option(metavar="FILE", help="A .png, .pdf or .npy file.")] = Path("reconstructions.png"),
    device: Device = "auto",
    allow_code: AllowCode = False,
) -> None:
    """Images above their reconstructions."""
    opened = _open(run, device, allow_code)
    originals = _some_images(opened, files, n)
    found = opened.reconstruct(originals)
    if out.suffix == ".npy":
        _save_images(found, out)
        return
    from vaelid.reporting import plots

    _save_figure(plots.paired_grid(originals.cpu().numpy(), found.cpu().numpy()), out)


@app.command()
def interpolate(
    run: RunArgument,
    files: Annotated[list[Path] | None, typer.Argument(help="Images, two for each path; default: from the test split.")] = None,
    paths: Annotated[int, typer.Option("-n", metavar="N", help="How many paths.")] = 4,
    steps: Annotated[int, typer.Option(metavar="N", help="Images on each path.")] = 10,
    out: Annotated[Path, typer.Option(metavar="FILE", help="A .png, .pdf or .npy file.")] = Path("interpolation.png"),
    device: Device = "auto",
    allow_code: AllowCode = False,
) -> None:
    """Straight lines between the latents of two images, decoded."""
    opened = _open(run, device, allow_code)
    images = _some_images(opened, files, 2 * paths)
    if len(images) < 2:
        _refuse("A path needs two images.", "Name at least two files.")
    pairs = len(images) // 2
    found = opened.interpolate(images[0 : 2 * pairs : 2], images[1 : 2 * pairs : 2], steps)
    if out.suffix == ".npy":
        _save_images(found, out)
        return
    from vaelid.reporting import plots

    _save_figure(plots.interpolation_strip(found.cpu().numpy()), out)


@app.command()
def encode(
    run: RunArgument,
    files: Annotated[list[Path] | None, typer.Argument(help="Images; default: a split.")] = None,
    out: Annotated[Path, typer.Option(metavar="FILE.npz", help="Where to put mean, log_variance (N, L) and labels.")] = Path("z.npz"),
    split: Split = "test",
    device: Device = "auto",
    allow_code: AllowCode = False,
) -> None:
    """Posterior means and log variances of images."""
    import numpy as np

    opened = _open(run, device, allow_code)
    arrays = opened.encode(opened.open_files(files) if files else opened.split(split))
    with _writing(out):
        np.savez(out, **arrays)  # type: ignore[arg-type]
    print(f"{out}: {', '.join(f'{name} {a.shape}' for name, a in arrays.items())}")


@app.command()
def show(run: RunArgument) -> None:
    """What a run is, how it went, where things lie. Runs none of its code."""
    from vaelid.folder import RunFolder
    from vaelid.reporting.tables import run_summary, show as show_table

    folder = RunFolder(run).require()
    show_table(run_summary(folder, folder.recipe(), folder.read_json(folder.environment_file)))


@app.command()
def parts(kind: Annotated[str | None, typer.Argument(help="Only this kind.")] = None) -> None:
    """All parts by name, with formulas, options, defaults and ranges."""
    from vaelid.parts import KINDS
    from vaelid.reporting.tables import parts_table, show
    from vaelid.settings import unknown

    if kind is not None and kind not in KINDS:
        raise unknown("kind of part", kind, KINDS)
    for name in [kind] if kind else KINDS:
        show(parts_table(name))


@data_app.command("list")
def data_list() -> None:
    """Data sets by name."""
    from vaelid.data import DATASETS
    from vaelid.reporting.tables import show, simple_table

    rows = [(name, dataset.description) for name, dataset in DATASETS.items()]
    show(simple_table("data sets", ("name", "what it is"), rows))
    print("Your own: a .npy, .npz, .pt or .safetensors file, or a folder of images.")


@data_app.command("info")
def data_info(data: Annotated[str, typer.Argument(help="A name or a path.")], set_: Set = None) -> None:
    """Sizes, shapes, pixels and fingerprints of data."""
    from vaelid.data import load_data
    from vaelid.recipe import expand
    from vaelid.reporting.tables import show, simple_table
    from vaelid.run import base_recipe

    loaded = load_data(base_recipe(data, None).override(expand(_pairs(set_))).data)
    rows = [(name, f"{len(s):,}", str(s.shape), str(s.support), s.protocol, s.fingerprint[:12]) for name, s in loaded.splits.items()]
    show(simple_table(loaded.name, ("split", "images", "shape", "pixels", "protocol", "fingerprint"), rows))


@recipes_app.command("list")
def recipes_list() -> None:
    """Built-in recipes."""
    from vaelid.recipe import read_about, recipe_names
    from vaelid.reporting.tables import show, simple_table

    show(simple_table("recipes", ("name", "what for"), [(name, read_about(name)) for name in recipe_names()]))


@recipes_app.command("show")
def recipes_show(name: Annotated[str, typer.Argument(help="Name or TOML file.")]) -> None:
    """A recipe with every default written out."""
    from vaelid.recipe import read_recipe

    recipe = read_recipe(name).adopt_code()
    print(recipe[0].resolve(recipe[1]).to_toml(), end="")


def main() -> None:
    """Entry point: errors become one clear message and an exit code."""
    from vaelid.errors import VaelidError

    try:
        app()
    except VaelidError as error:
        _end(error, f"vaelid: {error}", error.exit_code)
    except KeyboardInterrupt as error:
        _end(error, "vaelid: interrupted.", 130)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output went away; nobody is left to tell
        sys.exit(0)
    except Exception as error:
        _end(error, f"vaelid: internal error: {type(error).__name__}: {error}\nThis is our fault; --debug shows where.", 1)


def _end(error: BaseException, message: str, code: int) -> None:
    if "--debug" in sys.argv:
        traceback.print_exception(error)
    print(message, file=sys.stderr)
    sys.exit(code)


def _refuse(problem: str, remedy: str) -> None:
    from vaelid.errors import UserError

    raise UserError(problem, remedy)


def _pairs(assignments: list[str] | None) -> dict[str, str]:
    for assignment in assignments or []:
        if "=" not in assignment:
            _refuse(f"--set takes SECTION.KEY=VALUE; {assignment!r} came.", "For example: --set optimizer.lr=1e-3")
    return dict(assignment.split("=", 1) for assignment in assignments or [])


def _open(path: Path, device: str, allow_code: bool) -> Run:
    from vaelid.run import open_run

    return open_run(path, device=device, allow_code=allow_code)


def _some_images(run: Run, files: list[Path] | None, count: int) -> torch.Tensor:
    import torch

    split = run.open_files(files) if files else run.split("test")
    return split.batch(torch.arange(len(split) if files else min(count, len(split))))


def _save_images(images: torch.Tensor, out: Path) -> None:
    import numpy as np

    array = images.cpu().numpy()
    if out.suffix == ".npy":
        with _writing(out):
            np.save(out, array)
        print(f"{out}: {array.shape}")
        return
    from vaelid.reporting import plots

    _save_figure(plots.image_grid(array), out)


def _save_figure(figure: Any, out: Path) -> None:
    if out.suffix not in (".png", ".pdf"):
        _refuse(f"{out} has an ending that says nothing: {out.suffix!r}.", "Give a file that ends in .png, .pdf or .npy.")
    with _writing(out):
        figure.savefig(out, dpi=150)
    print(out)


class _writing:
    """Turns the disk's refusal into a clear error."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, OSError):
            from vaelid.errors import MachineError

            raise MachineError(f"{self.path} cannot be written: {error.strerror}.", "Choose another --out.") from error


if __name__ == "__main__":
    main()
