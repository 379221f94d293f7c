"""Verbs that make images and codes from a run: ``sample``, ``reconstruct``, ``interpolate``, ``encode``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vaelid.cli.options import AllowCode, Device, Picture, RunArgument, Seed, Split, opened_run
from vaelid.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from matplotlib.figure import Figure

    from vaelid.run import Run


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

    opened = opened_run(run, device, allow_code, out)
    drawn = opened.sample(n, seed=seed, component=component)
    _write_images(opened, drawn.draws if draw else drawn.means, out, plots.image_grid)


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

    opened = opened_run(run, device, allow_code, out)
    originals = _some_images(opened, files, n)
    pairs = torch.stack((originals, opened.reconstruct(originals)), dim=1)
    _write_images(opened, pairs, out, lambda shown: plots.paired_grid(shown[:, 0], shown[:, 1]))


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

    opened = opened_run(run, device, allow_code, out)
    images = _some_images(opened, files, paths, each=2)
    if len(images) < 2 or (files and len(images) % 2):
        raise UserError(f"A path needs two images; {len(images)} came.", "Give two images for each path.")
    ends = len(images) // 2 * 2
    found = opened.interpolate(images[0:ends:2], images[1:ends:2], steps)
    _write_images(opened, found, out, plots.interpolation_strip)


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
    opened = opened_run(run, device, allow_code)
    arrays = opened.encode(opened.open_files(files) if files else opened.split(split))
    write_arrays(out, arrays)
    print(f"{out}: {', '.join(f'{name} {a.shape}' for name, a in arrays.items())}")


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
