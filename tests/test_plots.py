"""Figures and picture files: exact pixels, valid and reproducible files, and clear refusals."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from vaelid.reporting import plots

RNG = np.random.default_rng(0)
IMAGES = RNG.random((6, 1, 8, 8), dtype=np.float32)
EPOCHS = np.arange(1, 61)
NEG_ELBO = 90 + 500 * np.exp(-EPOCHS / 3) + np.abs(EPOCHS - 40) / 20

FIGURES: dict[str, Callable[[], Figure]] = {
    "image_grid": lambda: plots.image_grid(IMAGES, titles=list("abcdef"), heading="Six images"),
    "image_grid_color": lambda: plots.image_grid(RNG.random((3, 3, 5, 4))),
    "paired_grid": lambda: plots.paired_grid(IMAGES, 1 - IMAGES, columns=4, heading="Pairs"),
    "components_grid": lambda: plots.components_grid(IMAGES, np.full(6, 1 / 6)),
    "likeliest": lambda: plots.likeliest_and_unlikeliest(IMAGES[:3], np.arange(3), IMAGES[3:], np.arange(3) + 99.5),
    "interpolation_strip": lambda: plots.interpolation_strip(RNG.random((2, 5, 1, 8, 8))),
    "validation_curve": lambda: plots.validation_curve(EPOCHS, NEG_ELBO, 40, np.full(60, 0.3), NEG_ELBO - 2, "Curve"),
    "validation_curve_one_epoch": lambda: plots.validation_curve(EPOCHS[:1], NEG_ELBO[:1], 1),
    "latent_map": lambda: plots.latent_map(RNG.normal(size=(50, 2)), np.arange(50) % 3, ("a", "b", "$c"), np.array([0.4, 0.1])),
    "latent_map_plain": lambda: plots.latent_map(RNG.normal(size=(1200, 2))),
    "latent_map_many": lambda: plots.latent_map(RNG.normal(size=(60, 2)), np.arange(60) % 20),
    "kl_per_dimension": lambda: plots.kl_per_dimension(np.array([0.001, 2.0, 0.5, -1e-4]), heading="KL"),
    "nll_histogram": lambda: plots.nll_histogram(RNG.normal(90, 9, 300), 90.0, 0.52, "−ELBO"),
}


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def drawn(figure: Figure) -> Any:
    """The one tiled array that a grid shows."""
    (axes,) = figure.axes
    (image,) = axes.get_images()
    return np.asarray(image.get_array())


def test_tile_matches_a_tiling_made_by_hand() -> None:
    images = np.array([[[0.0, 1.0]], [[0.2, 0.4]], [[-3.0, 7.0]]])  # the last is clipped
    expected = [
        [0, 255, 255, 51, 102],
        [255, 255, 255, 255, 255],
        [0, 255, 255, 255, 255],
    ]
    tiled = plots.tile(images, columns=2, gap=1)
    assert tiled.dtype == np.uint8
    assert tiled.tolist() == expected


def test_tile_keeps_color_channels_and_magnifies() -> None:
    images = np.zeros((2, 3, 1, 1))
    images[0, 0], images[1, 2] = 1.0, 1.0  # a red and a blue pixel
    tiled = plots.tile(images, columns=2, gap=0, scale=2)
    red, blue = [255, 0, 0], [0, 0, 255]
    assert tiled.tolist() == [[red, red, blue, blue]] * 2


@pytest.mark.parametrize("shape", [(6, 1, 8, 8), (6, 8, 8), (6, 64)])
def test_all_shapes_of_one_image_look_the_same(shape: tuple[int, ...]) -> None:
    assert np.array_equal(plots.tile(IMAGES.reshape(shape)), plots.tile(IMAGES))


def test_a_row_that_is_no_square_becomes_a_strip() -> None:
    assert plots.tile(np.linspace(0, 1, 6).reshape(1, 6)).tolist() == [[0, 51, 102, 153, 204, 255]]
    assert drawn(plots.image_grid(np.zeros((1, 48)))).shape == (6, 48)  # thicker in a figure


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (2, 2), (7, 3), (10, 5), (12, 4), (16, 4)])
def test_columns_leave_no_ragged_row_where_possible(count: int, columns: int) -> None:
    assert plots.tile(np.zeros((count, 1, 1)), gap=0).shape[1] == columns


def test_image_grid_draws_one_array_with_whole_pixels() -> None:
    figure = plots.image_grid(IMAGES)
    assert np.array_equal(drawn(figure), plots.tile(IMAGES))
    assert texts(figure) == []
    figure.set_dpi(plots.DPI)
    magnified = figure.axes[0].get_window_extent().size / np.array(drawn(figure).shape[::-1])
    assert magnified == pytest.approx(np.round(magnified)), "an image pixel must be a whole number of PNG pixels"


def test_paired_grid_has_the_original_above_its_reconstruction() -> None:
    figure = plots.paired_grid(np.zeros((3, 2, 2)), np.full((3, 2, 2), 0.4), columns=2)
    shown = drawn(figure)
    assert shown[:5, :2].tolist() == [[0, 0], [0, 0], [255, 255], [102, 102], [102, 102]]
    assert texts(figure).count("original") == texts(figure).count("reconstruction") == 2  # two blocks of rows


def test_captions_carry_weights_and_nats() -> None:
    assert texts(plots.components_grid(IMAGES[:2], np.array([0.75, 0.25]))) == ["75.0%", "25.0%"]
    shown = texts(plots.likeliest_and_unlikeliest(IMAGES[:1], np.array([60.04]), IMAGES[1:2], np.array([250.0])))
    assert shown == ["likeliest", "unlikeliest", "60.0 nats", "250.0 nats"]


def test_interpolation_has_one_row_per_path() -> None:
    assert drawn(plots.interpolation_strip(np.zeros((2, 5, 1, 8, 8)))).shape == (2 * 8 + 1, 5 * 8 + 4)


def test_validation_curve_zooms_on_what_follows_the_first_epochs() -> None:
    figure = plots.validation_curve(EPOCHS, NEG_ELBO, 40, std_errors=np.full(60, 0.3))
    low, high = figure.axes[0].get_ylim()
    assert low < NEG_ELBO.min() < NEG_ELBO[20:].max() < high < 110 < NEG_ELBO[0]
    assert f"best, epoch 40\n{NEG_ELBO[39]:.2f} ± 0.30" in texts(figure)
    (inset,) = figure.axes[0].child_axes
    assert inset.get_ylim()[1] > NEG_ELBO[0]


def test_validation_curve_shows_the_whole_where_nothing_is_huge() -> None:
    figure = plots.validation_curve(EPOCHS, 90 - EPOCHS / 60, 60)
    assert not figure.axes[0].child_axes
    assert figure.axes[0].get_ylim()[1] > 90


def test_a_diverged_epoch_is_a_hole_in_the_curve() -> None:
    broken = np.where(EPOCHS == 60, np.inf, NEG_ELBO)
    figure = plots.validation_curve(EPOCHS, broken, 40)
    assert np.isfinite(figure.axes[0].get_ylim()).all()
    with pytest.raises(ValueError, match="best_epoch must be one of the epochs, with a finite"):
        plots.validation_curve(EPOCHS, broken, 60)


def test_latent_map_names_classes_near_their_medians() -> None:
    points = np.concatenate((RNG.normal(-5, 1, (40, 2)), RNG.normal(5, 1, (40, 2))))
    figure = plots.latent_map(points, np.repeat([0, 1], 40), ("left", "right"), np.array([0.5, 0.25]))
    (axes,) = figure.axes
    assert axes.get_xlabel() == "component 1 (50% of variance)"
    for name, half in (("left", points[:40]), ("right", points[40:])):
        (label,) = [text for text in axes.texts if text.get_text() == name]
        assert axes.transLimits.inverted().transform(label.xy) == pytest.approx(np.median(half, axis=0), abs=1e-3)


def test_labels_at_one_place_are_moved_apart() -> None:
    figure = plots.latent_map(np.array([[0.0, 0.0], [1.0, 1.0], [0.5, 0.5], [0.5, 0.5]]), np.array([0, 0, 1, 2]))
    heights = sorted(text.xy[1] for text in figure.axes[0].texts)
    assert np.diff(heights).min() > 0.05


def test_kl_is_sorted_and_counts_active_dimensions() -> None:
    figure = plots.kl_per_dimension(np.array([0.005, 2.0, 0.5]), threshold=0.01)
    assert [bar.get_height() for bar in figure.axes[0].containers[0]] == [2.0, 0.5, 0.005]
    assert "2 of 3 dimensions active, Σ KL_d = 2.5 nats" in texts(figure)


def test_histogram_counts_every_image() -> None:
    values = RNG.normal(90, 9, 300)
    figure = plots.nll_histogram(values, float(values.mean()), 0.5, "−ELBO")
    assert sum(bar.get_height() for bar in figure.axes[0].containers[0]) == 300
    assert figure.axes[0].get_xlabel() == "−ELBO (nats per image)"
    assert f"mean {values.mean():.2f} ± 0.50 s.e." in texts(figure)


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_saved_the_same_twice_without_a_date(name: str, tmp_path: Path) -> None:
    settings = dict(matplotlib.rcParams)
    figure = FIGURES[name]()
    once = plots.save_figure(figure, tmp_path / "once", name)
    twice = plots.save_figure(figure, tmp_path / "twice", name)
    assert [path.name for path in once] == [f"{name}.png", f"{name}.pdf"]
    assert sorted((tmp_path / "once").iterdir()) == sorted(once), "temporary files are left"
    for first, second in zip(once, twice, strict=True):
        assert first.read_bytes() == second.read_bytes()
    with Image.open(once[0]) as image:
        image.load()
        assert image.getpixel((0, 0)) == (255, 255, 255, 255)
        assert image.width == pytest.approx(figure.get_figwidth() * plots.DPI, abs=1)
    pdf = once[1].read_bytes()
    assert pdf.startswith(b"%PDF-")
    assert pdf.rstrip().endswith(b"%%EOF")
    assert b"CreationDate" not in pdf
    assert dict(matplotlib.rcParams) == settings


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_leaves_the_figure_and_no_label_covers_another(name: str) -> None:
    figure = FIGURES[name]()
    figure.set_dpi(100)
    figure.canvas.draw()
    page = figure.bbox.padded(1)
    # Names in a scatter plot may touch where classes do; tick labels are matplotlib's own.
    boxes = [text.get_window_extent() for axes in figure.axes for text in axes.texts]
    for box in boxes:
        assert page.x0 <= box.x0 <= box.x1 <= page.x1, figure
        assert page.y0 <= box.y0 <= box.y1 <= page.y1, figure
    if "latent_map" not in name:
        assert not any(a.overlaps(b) for index, a in enumerate(boxes) for b in boxes[:index])


def test_saving_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (old, _) = plots.save_figure(plots.image_grid(IMAGES), tmp_path, "grid")
    before = old.read_bytes()

    def full_disk(self: Path, content: bytes) -> int:
        self.touch()
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="no space"):
        plots.save_figure(plots.image_grid(1 - IMAGES), tmp_path, "grid")
    assert old.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["grid.pdf", "grid.png"]


@pytest.mark.parametrize("channels", [(), (3,)])
def test_gif_holds_every_frame(channels: tuple[int, ...], tmp_path: Path) -> None:
    frames = np.stack([np.full((4, 6, *channels), 50 * step, np.uint8) for step in range(5)])
    path = plots.save_gif(frames, tmp_path / "steps.gif", milliseconds=80)
    with Image.open(path) as gif:
        assert (gif.format, gif.n_frames, gif.size, gif.info["loop"]) == ("GIF", 5, (6, 4), 0)
        for step in range(5):
            gif.seek(step)
            assert gif.info["duration"] == 80
            assert np.asarray(gif.convert("RGB")).tolist() == np.full((4, 6, 3), 50 * step).tolist()
    assert path.read_bytes() == plots.save_gif(frames, tmp_path / "again.gif", milliseconds=80).read_bytes()


BAD: list[tuple[Callable[[], object], str]] = [
    (lambda: plots.tile(np.zeros((2, 4, 8, 8))), "(N, 3, H, W), (N, H, W) or (N, D); got (2, 4, 8, 8)"),
    (lambda: plots.tile(np.zeros(4)), "got (4,)"),
    (lambda: plots.tile(np.zeros((0, 8, 8))), "one at least"),
    (lambda: plots.tile(np.zeros((1, 8, 8), np.uint8)), "got uint8"),
    (lambda: plots.tile(np.full((1, 2, 2), np.nan)), "images must be finite"),
    (lambda: plots.tile(IMAGES, columns=0), "columns must be at least 1; got 0"),
    (lambda: plots.tile(IMAGES, gap=-1), "gap=-1"),
    (lambda: plots.tile(IMAGES, scale=0), "scale=0"),
    (lambda: plots.image_grid(IMAGES, titles=["only one"]), "one title per image, 6; got 1"),
    (lambda: plots.paired_grid(IMAGES, IMAGES[:2]), "same shape; got (6, 1, 8, 8) and (2, 1, 8, 8)"),
    (lambda: plots.components_grid(IMAGES, np.ones(5)), "weights must be 6 finite numbers in a row; got (5,)"),
    (lambda: plots.interpolation_strip(np.zeros((2, 5))), "images must have shape (R, S, *X)"),
    (lambda: plots.validation_curve(EPOCHS, NEG_ELBO[:9], 1), "neg_elbo must be 60 finite numbers in a row; got (9,)"),
    (lambda: plots.validation_curve(EPOCHS, NEG_ELBO, 61), "best_epoch must be one of the epochs"),
    (lambda: plots.latent_map(np.zeros((3, 3))), "shape (N, 2), N ≥ 1; got (3, 3)"),
    (lambda: plots.latent_map(np.zeros((2, 2)), np.array([0, 2]), ("a", "b")), "labels run from 0 to 2, but there are 2"),
    (lambda: plots.latent_map(np.zeros((2, 2)), explained=np.ones(3)), "explained must be 2"),
    (lambda: plots.kl_per_dimension(np.zeros((2, 2))), "kl must be some finite numbers in a row; got (2, 2)"),
    (lambda: plots.kl_per_dimension(np.ones(2), threshold=0.0), "threshold must be above 0 nats"),
    (lambda: plots.nll_histogram(np.array([1.0, np.nan]), 1.0, 0.1, "NLL"), "1 of them not"),
    (lambda: plots.save_figure(Figure(), Path(), "sub/name"), "plain file name"),
    (lambda: plots.save_gif(np.zeros((1, 2, 2)), Path("x.gif"), 100), "frames must be uint8"),
    (lambda: plots.save_gif(np.zeros((1, 2, 2), np.uint8), Path("x.gif"), 15), "multiple of 10 and at least 20"),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message for _, message in BAD])
def test_wrong_input_is_refused_with_what_was_wrong(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
