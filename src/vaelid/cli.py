"""The command line: one thin function per verb. Imports wait inside the verbs, so that ``--help`` answers at once."""

from __future__ import annotations

import io
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from vaelid.errors import Interrupted, MachineError, UserError, VaelidError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from matplotlib.figure import Figure

    from vaelid.run import Run


class Verbs(TyperGroup):
    """All verbs; Ctrl-C and a reader that goes away become errors of our own, which typer leaves alone."""

    def invoke(self, ctx: Any) -> Any:
        """Run the verb; Ctrl-C becomes ``Interrupted``."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except KeyboardInterrupt as error:
            raise Interrupted(
                "Interrupted.", "Training and evaluation go on where they were: run the same command again."
            ) from error
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the last flush would complain
            raise typer.Exit from None


app = typer.Typer(
    name="vaelid",
    cls=Verbs,
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
Picture = Annotated[Path, typer.Option(metavar="FILE", help="A .png, .pdf or .npy file.")]
Seed = Annotated[int, typer.Option(help="Names the random numbers.")]
Split = Annotated[str, typer.Option(help="train, validation or test.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any setting; repeatable.")]


@app.callback(invoke_without_command=True)
def program(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error; at any place.")] = False,
) -> None:
    """Options before the verb; ``main`` has taken ``--debug`` out."""
    if version:
        from vaelid import __version__

        print(f"vaelid {__version__}")
        raise typer.Exit


@app.command()
def train(
    data: Annotated[
        str | None, typer.Argument(metavar="DATA", help="A name (`data list`), array file or folder of images.")
    ] = None,
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
    patience: Annotated[int | None, typer.Option(metavar="N", help="Epochs without improvement; 0: no limit.")] = None,
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
    given = dict(locals())  # the short options are called like the short names of settings
    from vaelid.recipe import SHORTCUTS
    from vaelid.training.request import request

    settings = {name: given[name] for name in SHORTCUTS if given[name] is not None}
    settings |= {"data.skip_bad": True} if skip_bad else {}
    settings |= _pairs(set_)
    asked = request(data, recipe, out, settings)
    if dry_run:
        print(asked.recipe.to_toml(), end="")
        print(f"# would train in {asked.folder.path}", file=sys.stderr)
        return
    from vaelid.progress import default_reporter
    from vaelid.reporting.tables import run_summary, show
    from vaelid.run import carry_out
    from vaelid.training.start import Conditions, choose_device

    conditions = Conditions(choose_device(device), overwrite, init_from)
    pixels = f"{len(asked.data.train):,} training images, pixels {asked.data.support}"
    with default_reporter() as reporter:
        reporter.say(f"{asked.data.name}: {pixels}; likelihood {asked.recipe.likelihood.name}; run folder {asked.folder.path}")
        for skipped in asked.data.train.images.skipped:
            reporter.say(f"left out (--skip-bad): {skipped}")
        run = carry_out(asked, conditions, reporter)
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
    batch: Annotated[int, typer.Option(metavar="N", help="Images looked at together; of no influence on the numbers.")] = 50,
    input_: Annotated[list[Path] | None, typer.Option("--input", metavar="FILE", help="New images instead; repeatable.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print results.json's entry instead of a table.")] = False,
    device: Device = "auto",
    allow_code: AllowCode = False,
) -> None:
    """Bounds on log p(x) with their errors, on a split or on new images; writes results and figures."""
    from vaelid.progress import default_reporter
    from vaelid.reporting.figures import figures_folder
    from vaelid.reporting.tables import ranking, results_table, show

    opened, name = _open(run, device, allow_code), "input" if input_ else split
    ranked: list[tuple[str, float]] = []
    with default_reporter() as reporter:
        if input_:
            ranked = opened.evaluate_files(input_, samples, elbo_samples=elbo_samples, seed=seed, images=batch, reporter=reporter)
        else:
            opened.evaluate(split, samples, elbo_samples=elbo_samples, limit=limit, seed=seed, images=batch, reporter=reporter)
    results = opened.results[name]
    if as_json:
        images = {"ranking": [{"image": image, "nll": value} for image, value in ranked]} if ranked else {}
        print(json.dumps({name: {**results, **images}}, indent=2))
        return
    show(results_table(str(run), results))
    if ranked:
        show(ranking(ranked, results["kind"], most=20))
    print(f"results: {opened.folder.results_file}   figures: {figures_folder(opened.folder, name)}")


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
    out: Picture = Path("samples.png"),
    draw: Annotated[bool, typer.Option("--draw/--mean", help="Pixels drawn from p(x|z), or its means.")] = False,
    component: Annotated[int | None, typer.Option(metavar="C", help="Only from this component of the mixture prior.")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    allow_code: AllowCode = False,
) -> None:
    """New images from the model."""
    from vaelid.reporting import plots

    opened = _open(run, device, allow_code, out)
    drawn = opened.sample(n, seed=seed, component=component)
    _write_images(opened, drawn.draws if draw else drawn.means, out, plots.image_grid)


@app.command()
def reconstruct(
    run: RunArgument,
    files: Annotated[list[Path] | None, typer.Argument(metavar="FILE", help="Images; default: of the test split.")] = None,
    n: Annotated[int, typer.Option("-n", metavar="N", help="How many images.")] = 10,
    out: Picture = Path("reconstructions.png"),
    device: Device = "auto",
    allow_code: AllowCode = False,
) -> None:
    """Images above their reconstructions."""
    import torch

    from vaelid.reporting import plots

    opened = _open(run, device, allow_code, out)
    originals = _some_images(opened, files, n)
    pairs = torch.stack((originals, opened.reconstruct(originals)), dim=1)
    _write_images(opened, pairs, out, lambda shown: plots.paired_grid(shown[:, 0], shown[:, 1]))


@app.command()
def interpolate(
    run: RunArgument,
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="FILE", help="Images, two for each path; default: of the test split.")
    ] = None,
    paths: Annotated[int, typer.Option("-n", metavar="N", help="How many paths.")] = 4,
    steps: Annotated[int, typer.Option(metavar="N", help="Images on each path.")] = 10,
    out: Picture = Path("interpolation.png"),
    device: Device = "auto",
    allow_code: AllowCode = False,
) -> None:
    """Straight lines between the latents of two images, decoded."""
    from vaelid.reporting import plots

    opened = _open(run, device, allow_code, out)
    images = _some_images(opened, files, paths, each=2)
    if len(images) < 2 or (files and len(images) % 2):
        raise UserError(f"A path needs two images; {len(images)} came.", "Give two images for each path.")
    ends = len(images) // 2 * 2
    found = opened.interpolate(images[0:ends:2], images[1:ends:2], steps)
    _write_images(opened, found, out, plots.interpolation_strip)


@app.command()
def encode(
    run: RunArgument,
    files: Annotated[list[Path] | None, typer.Argument(metavar="FILE", help="Images; default: a split.")] = None,
    out: Annotated[Path, typer.Option(metavar="FILE.npz", help="For mean, log_variance (N, L), labels.")] = Path("z.npz"),
    split: Split = "test",
    device: Device = "auto",
    allow_code: AllowCode = False,
) -> None:
    """Posterior means and log variances of images."""
    from vaelid.reporting.export import require_ending, write_arrays

    require_ending(out, (".npz",))
    opened = _open(run, device, allow_code)
    arrays = opened.encode(opened.open_files(files) if files else opened.split(split))
    write_arrays(out, arrays)
    print(f"{out}: {', '.join(f'{name} {a.shape}' for name, a in arrays.items())}")


@app.command()
def show(run: RunArgument) -> None:
    """What a run is, how it went, where things lie. Runs none of its code."""
    from vaelid.reporting.tables import run_summary, show as show_table

    opened = _open(run, "cpu", allow_code=False)
    show_table(run_summary(opened.folder, opened.recipe, opened.about))


@app.command()
def parts(kind: Annotated[str | None, typer.Argument(metavar="KIND", help="Only this kind.")] = None) -> None:
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
def data_info(data: Annotated[str, typer.Argument(metavar="DATA", help="A name or a path.")], set_: Set = None) -> None:
    """Sizes, shapes, pixels and fingerprints of data."""
    from vaelid.data import load_data
    from vaelid.recipe import expand
    from vaelid.reporting.tables import show, simple_table
    from vaelid.training.request import base_recipe

    loaded = load_data(base_recipe(data, None).override(expand(_pairs(set_))).data)
    rows = [
        (name, f"{len(s):,}", str(s.shape), str(s.support), s.protocol, s.fingerprint[:12]) for name, s in loaded.splits.items()
    ]
    show(simple_table(loaded.name, ("split", "images", "shape", "pixels", "protocol", "fingerprint"), rows))


@recipes_app.command("list")
def recipes_list() -> None:
    """Built-in recipes."""
    from vaelid.recipe import read_about, recipe_names
    from vaelid.reporting.tables import show, simple_table

    show(simple_table("recipes", ("name", "what for"), [(name, read_about(name)) for name in recipe_names()]))


@recipes_app.command("show")
def recipes_show(name: Annotated[str, typer.Argument(metavar="NAME", help="Name or TOML file.")]) -> None:
    """A recipe with every default written out."""
    from vaelid.recipe import read_recipe
    from vaelid.usercode import require_trust

    recipe, code_from = read_recipe(name).adopt_code()
    for file, digest in recipe.code.items():
        require_trust(code_from / file, digest)  # the defaults of a part stand in its code
    print(recipe.resolve(code_from).to_toml(), end="")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: errors become one clear message and an exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without Greek letters is no reason to stop
    try:
        app([argument for argument in given if argument != "--debug"], prog_name="vaelid")
    except Exception as error:  # noqa: BLE001 - the border: nothing passes but a message and a code
        if debug:
            traceback.print_exception(error)
        message, code = _explain(error)
        print(f"vaelid: {message}", file=sys.stderr)
        sys.exit(code)


def _explain(error: Exception) -> tuple[str, int]:
    """What to say, and the exit code: a VaelidError knows both; the machine's refusals are not our fault; all else is."""
    if isinstance(error, VaelidError):
        return str(error), error.exit_code
    reason = f"{type(error).__name__}: {error}"
    if isinstance(error, OSError):
        return f"The machine refused: {reason}.\n--debug shows where.", MachineError.exit_code
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "allocate memory" in reason:  # torch's
        return f"Memory ran out: {reason}\nTry less at once: a smaller --batch-size, --batch or -n.", MachineError.exit_code
    return f"internal error: {reason}\nThis is our fault; --debug shows where.", 1


def _pairs(assignments: list[str] | None) -> dict[str, str]:
    for assignment in assignments or []:
        if "=" not in assignment:
            raise UserError(f"--set takes SECTION.KEY=VALUE; {assignment!r} came.", "For example: --set optimizer.lr=1e-3")
    return dict(assignment.split("=", 1) for assignment in assignments or [])


def _open(path: Path, device: str, allow_code: bool, out: Path | None = None) -> Run:
    """The run; where pictures are to be written to ``out``, its ending is checked first."""
    from vaelid.reporting.export import PICTURES, require_ending
    from vaelid.run import open_run

    if out is not None:
        require_ending(out, (*PICTURES, ".npy"))
    return open_run(path, device=device, allow_code=allow_code)


def _some_images(run: Run, files: list[Path] | None, count: int, each: int = 1) -> torch.Tensor:
    """All images of the files, or the first of the test split, so many for ``each`` of ``-n`` shown."""
    import torch

    if count < 1:
        raise UserError(f"-n must be at least 1; it is {count}.")
    split = run.open_files(files) if files else run.split("test")
    return split.batch(torch.arange(len(split) if files else min(count * each, len(split))))


def _write_images(run: Run, images: torch.Tensor, out: Path, draw: Callable[[np.ndarray], Figure]) -> None:
    from vaelid.reporting.export import write_images

    array = images.cpu().numpy()
    write_images(out, array, draw, run.shades)
    print(f"{out}: {array.shape}" if out.suffix == ".npy" else out)
