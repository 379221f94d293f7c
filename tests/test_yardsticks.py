"""The yardstick of independent pixels, against counts made by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from data_fixtures import settings
from vaelid.data import Images, Split
from vaelid.evaluation.yardsticks import IndependentPixels
from vaelid.supports import BINARY, BYTES, REAL, Support, levels


def split(pixels: Tensor, support: Support, name: str = "train", **given: object) -> Split:
    return Split(name, Images("hand", pixels, support), torch.arange(len(pixels)), settings(**given))


def test_binary_pixels() -> None:
    train = split(torch.tensor([[0, 1], [0, 1], [1, 1]], dtype=torch.uint8), BINARY)
    # One pseudo-observation, half for each level: P(1) = (1 + ½)/4 and (3 + ½)/4.
    ones = (1.5 / 4, 3.5 / 4)
    nll = IndependentPixels(train).nll(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    expected = [-math.log(1 - ones[0]) - math.log(1 - ones[1]), -math.log(ones[0]) - math.log(ones[1])]
    assert nll.tolist() == pytest.approx(expected)


def test_gray_levels_and_shapes() -> None:
    pixels = torch.tensor([0, 2, 2, 1], dtype=torch.uint8).view(4, 1, 1, 1)
    nll = IndependentPixels(split(pixels, levels(3))).nll(torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1))
    third = 1 / 3
    assert nll.tolist() == pytest.approx([-math.log((count + third) / 5) for count in (1, 1, 2)])


def test_probabilities_of_all_levels_sum_to_one() -> None:
    pixels = torch.randint(0, 256, (50, 1, 1, 1)).to(torch.uint8)
    every = torch.arange(256).view(256, 1, 1, 1) / 255
    assert float((-IndependentPixels(split(pixels, BYTES)).nll(every)).exp().sum()) == pytest.approx(1)


@pytest.mark.parametrize("protocol", ["dynamic", "resampled"])
def test_images_binarized_at_random_need_no_draw(protocol: str) -> None:
    gray = torch.tensor([[51], [102]], dtype=torch.uint8)  # 0.2 and 0.4 of 255
    nll = IndependentPixels(split(gray, BYTES, binarization=protocol)).nll(torch.tensor([[1.0], [0.0]]))
    assert nll.tolist() == pytest.approx([-math.log(1.1 / 3), -math.log(1.9 / 3)])


def test_a_threshold_is_applied() -> None:
    gray = torch.tensor([[51], [204], [250]], dtype=torch.uint8)
    nll = IndependentPixels(split(gray, BYTES, binarization="threshold")).nll(torch.tensor([[1.0]]))
    assert nll.tolist() == pytest.approx([-math.log(2.5 / 4)])


def test_real_values_have_a_gaussian_for_each_pixel() -> None:
    train = split(torch.tensor([[1.0, 5.0], [3.0, 5.0]]), REAL)
    nll = IndependentPixels(train).nll(torch.tensor([[2.0, 5.0]]))
    # N(2, 1²), and the pixel that never changes N(5, 0.001²).
    assert float(nll) == pytest.approx(math.log(2 * math.pi) + math.log(1e-3))


def test_one_training_image_is_enough() -> None:
    nll = IndependentPixels(split(torch.tensor([[1.0]]), REAL)).nll(torch.tensor([[1.0]]))
    assert torch.isfinite(nll).all()


def test_batches_of_training_images_add_up() -> None:
    pixels = torch.randint(0, 3, (2500, 2)).to(torch.uint8)
    nll = IndependentPixels(split(pixels, levels(3))).nll(torch.zeros(1, 2))
    zeros = (pixels == 0).sum(0)
    assert float(nll) == pytest.approx(float(-((zeros + 1 / 3) / 2501).log().sum()))


def test_it_is_taken_from_the_training_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vaelid.evaluation.yardsticks._MOST_IMAGES", 2)
    train = split(torch.tensor([[0], [0], [1]], dtype=torch.uint8), BINARY)
    assert float(IndependentPixels(train).nll(torch.tensor([[0.0]]))) == pytest.approx(-math.log(2.5 / 3))
