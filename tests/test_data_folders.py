"""Folders of image files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_fixtures import gray_pixels, save_gray, settings
from vaelid.data import DataSettings, load_data
from vaelid.data.folders import CROPS, read_folder
from vaelid.errors import DataError
from vaelid.supports import BYTES

GRAY = gray_pixels()
COLOR = np.random.default_rng(1).integers(0, 256, (6, 6, 3), dtype=np.uint8)
ALPHA = np.tile(np.array([0, 255, 51], dtype=np.uint8), (6, 2))


def pixels_of(
    tmp_path: Path, name: str, picture: Image.Image, given: dict[str, object] | None = None, **save: object
) -> np.ndarray:
    """The stored pixels (C, H, W) of one picture."""
    picture.save(tmp_path / name, **save)  # type: ignore[arg-type]
    images = read_folder(tmp_path, settings(**(given or {})))
    assert isinstance(images.pixels, torch.Tensor)
    assert (images.support, images.pixels.dtype, images.files) == (BYTES, torch.uint8, (name,))
    return images.pixels[0].numpy()


def on_white(values: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return values * (alpha / 255.0) + 255 * (1 - alpha / 255.0)


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.pgm", "a.tif", "A.PNG"])
def test_gray_pixels_are_exact(tmp_path: Path, name: str) -> None:
    assert np.array_equal(pixels_of(tmp_path, name, Image.fromarray(GRAY)), GRAY[None])


@pytest.mark.parametrize("name", ["a.png", "a.ppm"])
def test_color_pixels_are_exact(tmp_path: Path, name: str) -> None:
    assert np.array_equal(pixels_of(tmp_path, name, Image.fromarray(COLOR)), np.moveaxis(COLOR, 2, 0))


def test_one_bit_pictures_are_black_and_white(tmp_path: Path) -> None:
    picture = Image.fromarray(GRAY > 127)
    assert picture.mode == "1"
    assert np.array_equal(pixels_of(tmp_path, "a.png", picture), 255 * (GRAY > 127)[None])


def test_palettes(tmp_path: Path) -> None:
    palette = Image.fromarray(np.arange(36, dtype=np.uint8).reshape(6, 6))
    palette.putpalette(COLOR.reshape(-1).tolist())
    assert palette.mode == "P"
    assert np.array_equal(pixels_of(tmp_path, "a.png", palette), np.moveaxis(COLOR, 2, 0))


def test_palettes_of_grays_are_gray(tmp_path: Path) -> None:
    palette = Image.fromarray(np.arange(36, dtype=np.uint8).reshape(6, 6))
    palette.putpalette(np.repeat(GRAY.reshape(-1), 3).tolist())
    assert np.array_equal(pixels_of(tmp_path, "a.png", palette), GRAY[None])


def test_transparent_palettes_lie_on_white(tmp_path: Path) -> None:
    palette = Image.fromarray(np.zeros((6, 6), dtype=np.uint8))
    palette.putpalette([10, 20, 30])
    assert (pixels_of(tmp_path, "a.png", palette, transparency=0) == 255).all()


@pytest.mark.parametrize(("values", "channels"), [(GRAY[..., None], 1), (COLOR, 3)])
def test_transparent_pictures_lie_on_white(tmp_path: Path, values: np.ndarray, channels: int) -> None:
    picture = Image.fromarray(np.concatenate((values, ALPHA[..., None]), axis=2))
    assert picture.mode == {1: "LA", 3: "RGBA"}[channels]
    stored = np.moveaxis(pixels_of(tmp_path, "a.png", picture), 0, 2)
    expected = on_white(values, ALPHA[..., None])
    assert stored.shape == (6, 6, channels)
    assert np.abs(stored - expected).max() <= 1
    opaque = ALPHA == 255
    assert np.array_equal(stored[opaque], values[opaque])


def test_a_transparent_gray_value_lies_on_white(tmp_path: Path) -> None:
    expected = np.where(GRAY[0, 0] == GRAY, 255, GRAY)[None]
    assert np.array_equal(pixels_of(tmp_path, "a.png", Image.fromarray(GRAY), transparency=int(GRAY[0, 0])), expected)


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr"])
def test_print_and_video_colors(tmp_path: Path, mode: str) -> None:
    flat = Image.new("RGB", (6, 6), (200, 100, 50))
    stored = pixels_of(tmp_path, "a.tif", flat.convert(mode))
    assert np.abs(stored.astype(int) - np.array([200, 100, 50])[:, None, None]).max() <= 2


def test_sixteen_bits_become_eight(tmp_path: Path) -> None:
    deep = GRAY.astype(np.uint16) * 257
    for name in ("a.png", "a.tif"):
        assert np.array_equal(pixels_of(tmp_path, name, Image.fromarray(deep)), GRAY[None])
        (tmp_path / name).unlink()
    between = np.array([[128, 129, 65535, 0]], dtype=np.uint16)
    assert pixels_of(tmp_path, "a.png", Image.fromarray(between)).tolist() == [[[0, 1, 255, 0]]]


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.array([[70000, 0]], dtype=np.int32), "do not fit 16 bits"),
        (np.array([[-1, 0]], dtype=np.int32), "do not fit 16 bits"),
        (np.array([[0.5, 0]], dtype=np.float32), "floating-point"),
    ],
)
def test_deeper_pixels_are_refused(tmp_path: Path, array: np.ndarray, reason: str) -> None:
    Image.fromarray(array).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=rf"a\.tif: .*{reason}"):
        read_folder(tmp_path, settings())


@pytest.mark.parametrize(("orientation", "turn"), [(3, 2), (6, -1), (8, 1)])
def test_pictures_stand_upright(tmp_path: Path, orientation: int, turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = pixels_of(tmp_path, "a.png", Image.fromarray(GRAY[:, :4]), exif=exif)
    assert np.array_equal(stored[0], np.rot90(GRAY[:, :4], turn))


def test_animations_give_their_first_frame(tmp_path: Path) -> None:
    first, second = Image.fromarray(GRAY), Image.fromarray(255 - GRAY)
    assert np.array_equal(pixels_of(tmp_path, "a.gif", first, save_all=True, append_images=[second]), GRAY[None])


def test_files_are_sorted_by_path(tmp_path: Path) -> None:
    saved = {name: save_gray(tmp_path / name, seed) for seed, name in enumerate(["b.png", "a/c.png", "a.png", "c/a/b.png"])}
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "folder.png").mkdir()
    save_gray(tmp_path / ".hidden.png")
    images = read_folder(tmp_path, settings())
    assert images.files == ("a.png", "a/c.png", "b.png", "c/a/b.png")
    assert np.array_equal(np.asarray(images.pixels)[:, 0], np.stack([saved[name] for name in images.files]))
    assert (images.labels, images.label_names) == (None, ())


def test_subfolders_are_labels(tmp_path: Path) -> None:
    for seed, name in enumerate(["zebra/1.png", "ant/1.png", "ant/young/2.png", "mole/1.png"]):
        save_gray(tmp_path / name, seed)
    images = read_folder(tmp_path, settings())
    assert images.label_names == ("ant", "mole", "zebra")
    assert images.labels is not None
    assert dict(zip(images.files, images.labels.tolist(), strict=True)) == {
        "ant/1.png": 0,
        "ant/young/2.png": 0,
        "mole/1.png": 1,
        "zebra/1.png": 2,
    }


def test_one_subfolder_is_no_label(tmp_path: Path) -> None:
    save_gray(tmp_path / "all" / "1.png")
    assert read_folder(tmp_path, settings()).labels is None


def test_one_color_picture_makes_all_color(tmp_path: Path) -> None:
    save_gray(tmp_path / "a.png")
    Image.fromarray(COLOR).save(tmp_path / "b.png")
    stored = np.asarray(read_folder(tmp_path, settings()).pixels)
    assert np.array_equal(stored[0], np.stack([GRAY] * 3))
    assert np.array_equal(stored[1], np.moveaxis(COLOR, 2, 0))
    gray = np.asarray(read_folder(tmp_path, settings(channels="gray")).pixels)
    assert np.array_equal(gray[0], GRAY[None])
    assert np.abs(gray[1, 0] - COLOR @ [0.299, 0.587, 0.114]).max() <= 1
    (tmp_path / "b.png").unlink()
    assert np.array_equal(np.asarray(read_folder(tmp_path, settings(channels="rgb")).pixels)[0], np.stack([GRAY] * 3))


@pytest.mark.parametrize("crop", list(CROPS))
def test_the_right_size_is_left_alone(tmp_path: Path, crop: str) -> None:
    stored = pixels_of(tmp_path, "a.png", Image.fromarray(GRAY), given={"size": 6, "crop": crop})
    assert np.array_equal(stored, GRAY[None])


def test_crops(tmp_path: Path) -> None:
    """A black bar on the left quarter of a 12 x 6 picture: cut off, kept with white margins, or kept."""
    wide = np.full((6, 12), 200, dtype=np.uint8)
    wide[:, :3] = 0
    center, stretched, padded = (
        pixels_of(tmp_path, "a.png", Image.fromarray(wide), given={"size": 4, "crop": crop})[0]
        for crop in ("center", "stretch", "pad")
    )
    assert np.abs(center.astype(int) - 200).max() < 10  # the filter reaches one black column
    assert stretched.shape == (4, 4)
    assert stretched[0, 0] < 30
    assert stretched[0, 3] > 170
    assert (padded[[0, 3]] == 255).all()
    assert padded[1, 0] < 60


def test_resizing_is_antialiased(tmp_path: Path) -> None:
    stripes = np.tile(np.array([0, 255], dtype=np.uint8), (64, 32))
    stored = pixels_of(tmp_path, "a.png", Image.fromarray(stripes), given={"size": 8})
    assert np.abs(stored[0, 2:-2, 2:-2].astype(int) - 127).max() <= 8


def test_mixed_sizes_are_refused_with_two_examples(tmp_path: Path) -> None:
    save_gray(tmp_path / "a.png", rows=6, columns=8)
    save_gray(tmp_path / "b.png", rows=6, columns=8)
    save_gray(tmp_path / "c.png", rows=5, columns=7)
    with pytest.raises(DataError, match=r"a\.png is 8 x 6 pixels, c\.png is 7 x 5 pixels\.\nSet data\.size"):
        read_folder(tmp_path, settings())
    assert read_folder(tmp_path, settings(size=4)).shape == (1, 4, 4)


def broken(tmp_path: Path) -> Path:
    save_gray(tmp_path / "good.png", 3)
    whole = (tmp_path / "good.png").read_bytes()
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "bits.png").write_bytes(whole[:20] + bytes(8) + whole[28:])
    return tmp_path


def test_all_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="4 of 5 image files") as caught:
        read_folder(broken(tmp_path), settings())
    assert all(f"  {name}: " in str(caught.value) for name in ("empty.png", "text.jpg", "cut.png", "bits.png"))
    assert "good.png" not in str(caught.value)
    assert "data.skip_bad" in caught.value.remedy


def test_unreadable_files_may_be_skipped(tmp_path: Path) -> None:
    images = read_folder(broken(tmp_path), settings(skip_bad=True))
    assert images.files == ("good.png",)
    assert images.skipped == ("bits.png", "cut.png", "empty.png", "text.jpg")
    assert np.array_equal(np.asarray(images.pixels)[0, 0], gray_pixels(3))


def test_nothing_readable_is_an_error_in_any_case(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match="1 of 1 image files"):
        read_folder(tmp_path, settings(skip_bad=True))


def test_huge_pictures_are_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_gray(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(DataError, match="DecompressionBombError"):
        read_folder(tmp_path, settings())


def test_folders_without_images_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(DataError, match=r"There are no images in .*\n.*\.png"):
        read_folder(tmp_path, settings())


def test_a_folder_is_data(tmp_path: Path) -> None:
    for seed in range(10):
        save_gray(tmp_path / ("even" if seed % 2 == 0 else "odd") / f"{seed}.png", seed)
    data = load_data(DataSettings(str(tmp_path), binarization="dynamic"))
    assert (data.name, data.shape, str(data.support)) == (str(tmp_path), (1, 6, 6), "binary (0 or 1)")
    assert sum(len(split) for split in data.splits.values()) == 10
    assert data.test.labels is not None
    source = data.test.images.files[int(data.test.indices[0])]
    assert data.test.images.label_names[int(data.test.labels[0])] == source.split("/")[0]
