"""Naming data, and new images for a trained model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_fixtures import save_gray, settings
from vaelid.data import DATASETS, Data, DataSettings, load_data, load_like, whole
from vaelid.errors import DataError, SettingError
from vaelid.supports import BINARY, BYTES, REAL, UNIT


def test_unknown_names_get_a_hint() -> None:
    with pytest.raises(SettingError, match=r"'minst'(.|\n)*Did you mean 'mnist'"):
        load_data(DataSettings("minst"))
    with pytest.raises(SettingError, match=rf"Known: {', '.join(sorted(DATASETS))}"):
        load_data(DataSettings("quite another"))


@pytest.mark.parametrize("name", ["nowhere/at/all", "nowhere.npy", "~/nowhere.pt"])
def test_missing_paths_are_named(name: str) -> None:
    with pytest.raises(DataError, match=r"no file or folder /[^~]*nowhere"):
        load_data(DataSettings(name))


@pytest.mark.parametrize("name", ["a.csv", "a.png", "plain"])
def test_other_files_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("1,2")
    with pytest.raises(DataError, match=r"neither a folder of images nor an array file\.\n.*\.npy, \.npz, \.pt, \.safetensors"):
        load_data(DataSettings(str(tmp_path / name)))


def test_a_path_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_gray(tmp_path / "pictures" / "0.png", 0)
    save_gray(tmp_path / "pictures" / "1.png", 1)
    save_gray(tmp_path / "pictures" / "2.png", 2)
    monkeypatch.chdir(tmp_path)
    assert len(load_data(DataSettings("pictures")).train) == 1


@pytest.mark.parametrize(
    "given",
    [
        {"threshold": 1.5},
        {"binarization": "random"},
        {"validation_fraction": 0.0},
        {"test_fraction": 1.0},
        {"train_limit": 0},
        {"levels": 257},
        {"binarization_seed": -1},
        {"size": 2.5},
    ],
)
def test_settings_out_of_range_are_refused(given: dict[str, object]) -> None:
    with pytest.raises(SettingError, match=f"data.{next(iter(given))} must be"):
        load_data(settings("digits", **given))


def saved(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def trained_on(tmp_path: Path, array: np.ndarray, **given: object) -> Data:
    return load_data(settings(str(saved(tmp_path / "trained.npy", array)), **given))


BYTE_ARRAY = np.arange(5 * 36, dtype=np.uint8).reshape(5, 6, 6)


def test_files_folders_and_arrays_go_together_in_order(tmp_path: Path) -> None:
    given = settings(skip_bad=True)
    data = trained_on(tmp_path, BYTE_ARRAY)
    first, second = save_gray(tmp_path / "z.png", 1), save_gray(tmp_path / "a.png", 2)
    inside = save_gray(tmp_path / "folder" / "b.png", 3)
    (tmp_path / "folder" / "bad.png").write_bytes(b"")
    array = saved(tmp_path / "new.npy", BYTE_ARRAY[:2])
    images = load_like([str(tmp_path / "z.png"), tmp_path / "a.png", array, tmp_path / "folder"], data, given)
    assert np.array_equal(np.asarray(images.pixels)[:, 0], np.stack([first, second, *BYTE_ARRAY[:2], inside]))
    assert [Path(name).name for name in images.files] == ["z.png", "a.png", "new.npy[0]", "new.npy[1]", "b.png"]
    assert images.skipped == ("bad.png",)
    alone = load_like([tmp_path / "folder"], data, given)
    assert alone.files == images.files[-1:] == (str(tmp_path / "folder" / "b.png"),), "a folder alone is named, too"
    assert (images.shape, images.support) == (data.shape, BYTES)


def test_new_images_are_binarized_by_the_held_out_draw(tmp_path: Path) -> None:
    given = settings(binarization="dynamic", binarization_seed=4)
    data = trained_on(tmp_path, BYTE_ARRAY, binarization="dynamic", binarization_seed=4)
    split = whole(load_like([saved(tmp_path / "new.npy", BYTE_ARRAY)], data, given), given)
    assert (split.name, len(split), split.support, split.held_out) == ("input", 5, BINARY, True)
    assert torch.equal(split.batch(torch.arange(5)), split.batch(torch.arange(5), epoch=3, seed=8))
    position = int(data.test.indices[0])
    assert torch.equal(split.batch(torch.tensor([position])), data.test.batch(torch.tensor([0])))


@pytest.mark.parametrize("array", [BYTE_ARRAY, BYTE_ARRAY % 2, BYTE_ARRAY / 255, BYTE_ARRAY / 100, -1.0 * BYTE_ARRAY])
def test_new_images_take_the_support_that_was_trained(tmp_path: Path, array: np.ndarray) -> None:
    """Zeros alone could be anything; they are what the training images were."""
    data = trained_on(tmp_path, array)
    new = load_like([saved(tmp_path / "new.npy", 0 * array[:1])], data, settings())
    assert new.support == data.train.images.support
    assert isinstance(new.pixels, torch.Tensor)
    assert torch.equal(whole(new, settings()).batch(torch.tensor([0])), torch.zeros(1, 1, 6, 6))


def test_levels_of_new_images_are_those_that_were_trained(tmp_path: Path) -> None:
    data = trained_on(tmp_path, BYTE_ARRAY % 4, levels=4)
    new = load_like([saved(tmp_path / "new.npy", BYTE_ARRAY % 2)], data, settings())
    assert float(whole(new, settings()).batch(torch.arange(5)).max()) == float(torch.tensor(1 / 3))
    with pytest.raises(DataError, match=r"0 to 3; the value at index \(0, 0, 0, 4\)"):
        load_like([saved(tmp_path / "new.npy", BYTE_ARRAY)], data, settings())


@pytest.mark.parametrize(
    ("array", "trained", "came"),
    [
        (BYTE_ARRAY / 255, BYTES, UNIT),
        (BYTE_ARRAY, UNIT, BYTES),
        (BYTE_ARRAY / 100, UNIT, REAL),
        (BYTE_ARRAY / 255, BINARY, UNIT),
    ],
)
def test_another_support_is_refused(tmp_path: Path, array: np.ndarray, trained: object, came: object) -> None:
    sources = {BYTES: BYTE_ARRAY, UNIT: BYTE_ARRAY / 255, BINARY: BYTE_ARRAY % 2}
    data = trained_on(tmp_path, sources[trained])  # type: ignore[index]
    with pytest.raises(DataError) as caught:
        load_like([saved(tmp_path / "new.npy", array)], data, settings())
    assert f"trained on pixels stored as {trained}; those of {tmp_path / 'new.npy'} are {came}" in str(caught.value)


def test_another_shape_is_refused(tmp_path: Path) -> None:
    data = trained_on(tmp_path, BYTE_ARRAY)
    with pytest.raises(DataError, match=r"trained on images of shape \(1, 6, 6\); those of .* have shape \(1, 6, 5\)"):
        load_like([saved(tmp_path / "new.npy", BYTE_ARRAY[:, :, :5])], data, settings())
    Image.new("RGB", (6, 6)).save(tmp_path / "color.png")
    with pytest.raises(DataError, match=r"those of the input have shape \(3, 6, 6\)"):
        load_like([tmp_path / "color.png"], data, settings())


def test_gray_input_becomes_color_where_color_was_trained(tmp_path: Path) -> None:
    data = trained_on(tmp_path, np.arange(5 * 108, dtype=np.uint16).reshape(5, 3, 6, 6) % 256)
    pixels = save_gray(tmp_path / "a.png")
    assert np.array_equal(np.asarray(load_like([tmp_path / "a.png"], data, settings()).pixels)[0], np.stack([pixels] * 3))


def test_missing_and_no_input_is_refused(tmp_path: Path) -> None:
    data = trained_on(tmp_path, BYTE_ARRAY)
    with pytest.raises(DataError, match="No input images were named"):
        load_like([], data, settings())
    with pytest.raises(DataError, match=r"1 of 1 image files(.|\n)*nowhere\.png: FileNotFoundError"):
        load_like([tmp_path / "nowhere.png"], data, settings())
    with pytest.raises(DataError, match="no file or folder"):
        load_like([tmp_path / "nowhere"], data, settings())
