"""Scores of features against closed forms, naive re-implementations, and torchmetrics as a second opinion."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import linalg, stats
from torch import Tensor, nn

from vaelid.errors import CheckFailed
from vaelid.scoring.features import Extractor, Features, extract
from vaelid.scoring.frechet import Moments, extrapolated, frechet_between, frechet_distance, frechet_scores, parts_of
from vaelid.scoring.inception_score import inception_score, inception_scores
from vaelid.scoring.kernel import kernel_distance, kernel_distance_of_subsets, kernel_scores
from vaelid.scoring.memorization import Cells, HeldOut, cells_of, copying_scores, nearest_training
from vaelid.scoring.neighbors import neighbor_scores, neighborhoods
from vaelid.scoring.resampling import Score, halves, mean_score

EXACT = 1e-6  # relative


def some(count: int, features: int = 5, seed: int = 0, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    return torch.randn(count, features, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale + shift


# Halves -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [100, 101])
def test_halves_give_the_error_of_a_mean(count: int) -> None:
    values, chosen = some(count, 1)[:, 0], halves(count, 4000, seed=0)
    assert chosen.sum(1).unique().tolist() == [count // 2]
    found = mean_score(values, chosen).summary(count)
    assert found["value"] == pytest.approx(float(values.mean()))
    assert found["se"] == pytest.approx(float(values.std()) / math.sqrt(count), rel=0.05)
    assert found["interval"] == pytest.approx([found["value"] - 1.959964 * found["se"], found["value"] + 1.959964 * found["se"]])
    assert halves(count, 3, seed=0).equal(chosen[:3])
    assert not halves(count, 3, seed=1).equal(chosen[:3])


# Fréchet distance ---------------------------------------------------------------------------------------------------------


def test_frechet_distance_of_known_gaussians() -> None:
    def gaussian(mean: list[float], scales: list[float], turn: float = 0.0) -> Moments:
        rotation = torch.tensor([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]], dtype=torch.float64)
        root = rotation @ torch.diag(torch.tensor(scales, dtype=torch.float64)) @ rotation.T
        return Moments(torch.tensor(mean, dtype=torch.float64), root, (root @ root).trace())

    a, b = gaussian([0, 1], [1, 2]), gaussian([3, 5], [4, 0])
    assert float(frechet_between(a, b)) == pytest.approx(9 + 16 + (1 - 4) ** 2 + (2 - 0) ** 2)
    turned = gaussian([0, 0], [1, 2], turn=math.pi / 2)  # the axes change places
    assert float(frechet_between(gaussian([0, 0], [1, 2]), turned)) == pytest.approx((1 - 2) ** 2 + (2 - 1) ** 2)
    # Covariances that do not commute: tr (Σ₁ Σ₂)^½ of a 2 × 2 matrix is √(tr Σ₁Σ₂ + 2 √det Σ₁Σ₂).
    oblique = gaussian([0, 0], [1, 3], turn=0.7)
    product = (a.root @ a.root) @ (oblique.root @ oblique.root)
    overlap = (product.trace() + 2 * product.det().sqrt()).sqrt()
    assert float(frechet_between(a, oblique)) == pytest.approx(float(1 + 5 + 10 - 2 * overlap))


def test_frechet_distance_against_a_general_matrix_root() -> None:
    x, y = some(300), some(200, seed=1, scale=1.5, shift=0.3)
    (cx, cy), difference = (np.cov(v.numpy(), rowvar=False) for v in (x, y)), x.mean(0) - y.mean(0)
    expected = float(difference @ difference) + np.trace(cx + cy - 2 * linalg.sqrtm(cx @ cy).real)
    assert float(frechet_distance(x, y)) == pytest.approx(expected, rel=EXACT)
    flat = torch.cat((x, x[:, :2]), 1)  # singular covariance
    assert abs(float(frechet_distance(flat, flat))) < 1e-12
    assert float(frechet_distance(flat, flat + 2)) == pytest.approx(4 * 7, rel=EXACT)


def test_extrapolation_takes_the_bias_away() -> None:
    both = [frechet_scores(some(400, 8, seed=2 * r), some(400, 8, seed=2 * r + 1), halves(400, 2, 0)) for r in range(30)]
    biased, corrected = (torch.stack([pair[i].value for pair in both]) for i in (0, 1))
    assert biased.mean() > 0.08, "two sets of one distribution: the bias is all there is"
    assert abs(corrected.mean()) < 3 * corrected.std() / math.sqrt(30)
    # A line in 1/N goes through exactly.
    means = [[Moments(torch.tensor([math.sqrt(3 + 2 * j)]), torch.zeros(1, 1), torch.tensor(0.0))] for j in (1, 2, 3)]
    origin = [[Moments(torch.zeros(1), torch.zeros(1, 1), torch.tensor(0.0))]] * 3
    assert float(extrapolated(means, origin)) == pytest.approx(3, rel=1e-5)


def test_frechet_scores_are_those_of_the_functions() -> None:
    x, y, chosen = some(60), some(50, seed=1, shift=1), halves(60, 3, 0)
    distance, infinite = frechet_scores(x, y, chosen)
    assert float(distance.value) == pytest.approx(float(frechet_distance(x, y)))
    assert float(distance.on_halves[2]) == pytest.approx(float(frechet_distance(x[chosen[2]], y)))
    assert float(infinite.value) == pytest.approx(float(extrapolated(parts_of(x), parts_of(y))))


# Inception Score ----------------------------------------------------------------------------------------------------------


def test_inception_score_of_known_cases() -> None:
    undecided = torch.full((50, 10), -math.log(10))
    assert inception_score(undecided).tolist() == pytest.approx([1.0])
    decided = torch.where(torch.eye(10, dtype=torch.bool), 0.0, -math.inf).repeat(5, 1)
    assert inception_score(decided).tolist() == pytest.approx([10.0])
    assert inception_score(decided, splits=5).tolist() == pytest.approx([10.0] * 5)
    one_class = decided[:1].expand(50, -1)
    assert inception_score(one_class).tolist() == pytest.approx([1.0])
    # Two kinds of images, p = (0.9, 0.1) and (0.1, 0.9): log 2 minus the entropy of either.
    p = torch.tensor([[0.9, 0.1], [0.1, 0.9]], dtype=torch.float64).repeat(10, 1)
    expected = 2 * math.exp(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    assert inception_score(p.log()).tolist() == pytest.approx([expected])


def test_inception_scores_average_over_splits() -> None:
    log_p = some(200, 4).log_softmax(-1)
    chosen = halves(200, 3, 0)
    found = inception_scores(log_p, chosen)
    assert float(found.value) == pytest.approx(float(torch.stack([inception_score(part)[0] for part in log_p.split(20)]).mean()))
    assert float(found.on_halves[1]) == pytest.approx(float(inception_score(log_p[chosen[1]], 10).mean()))


# Kernel distance ----------------------------------------------------------------------------------------------------------


def naive_mmd(x: Tensor, y: Tensor) -> float:
    def k(a: Tensor, b: Tensor) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    within = [
        sum(k(s[i], s[j]) for i in range(len(s)) for j in range(len(s)) if i != j) / (len(s) * (len(s) - 1)) for s in (x, y)
    ]
    return within[0] + within[1] - 2 * sum(k(a, b) for a in x for b in y) / (len(x) * len(y))


def test_kernel_distance_against_loops() -> None:
    x, y, chosen = some(14), some(9, seed=1, shift=0.5), halves(14, 2, 0)
    assert float(kernel_distance(x, y)) == pytest.approx(naive_mmd(x, y), rel=EXACT)
    found = kernel_scores(x, y, chosen)
    assert float(found.value) == pytest.approx(naive_mmd(x, y), rel=EXACT)
    assert found.on_halves.tolist() == pytest.approx([naive_mmd(x[half], y) for half in chosen], rel=EXACT)


def test_kernel_distance_is_unbiased() -> None:
    pairs = torch.stack([kernel_distance(some(20, 3, seed=2 * r), some(20, 3, seed=2 * r + 1)) for r in range(400)])
    assert abs(pairs.mean()) < 3 * pairs.std() / 20
    x, y = some(300), some(300, seed=1, shift=0.5)
    subsets = kernel_distance_of_subsets(x, y, subsets=60, size=50)
    assert float(subsets.mean()) == pytest.approx(float(kernel_distance(x, y)), abs=4 * float(subsets.std()) / math.sqrt(60))


# Neighbors ----------------------------------------------------------------------------------------------------------------


def naive_prdc(x: Tensor, y: Tensor, k: int) -> dict[str, float]:
    """The published definitions, one pair at a time."""

    def distance(a: Tensor, b: Tensor) -> float:
        return math.dist(a.tolist(), b.tolist())

    def radii(points: Tensor) -> list[float]:
        return [sorted(distance(p, q) for j, q in enumerate(points) if j != i)[k - 1] for i, p in enumerate(points)]

    rx, ry = radii(x), radii(y)
    in_real = [[distance(a, b) < r for b, r in zip(y, ry, strict=True)] for a in x]
    in_fake = [[distance(a, b) < r for a, r in zip(x, rx, strict=True)] for b in y]
    return {
        "precision": sum(any(row) for row in in_real) / len(x),
        "recall": sum(any(row) for row in in_fake) / len(y),
        "density": sum(map(sum, in_real)) / (k * len(x)),
        "coverage": sum(any(row[j] for row in in_real) for j in range(len(y))) / len(y),
    }


@pytest.mark.parametrize(("shift", "k"), [(0.0, 5), (1.0, 3)])
def test_neighbors_against_loops(shift: float, k: int) -> None:
    x, y, chosen = some(40, 2, shift=shift), some(30, 2, seed=1), halves(40, 2, 0)
    found = neighbor_scores(x, y, chosen, k)
    for name, expected in naive_prdc(x, y, k).items():
        assert float(found[name].value) == pytest.approx(expected, rel=EXACT), name
    for r, half in enumerate(chosen):
        for name, expected in naive_prdc(x[half], y, k).items():
            assert float(found[name].on_halves[r]) == pytest.approx(expected, rel=EXACT), (name, "of a half")


def test_neighbors_of_known_sets() -> None:
    x, chosen = some(60, 3), halves(60, 2, 0)
    far = {name: float(s.value) for name, s in neighbor_scores(x + 100, x, chosen).items()}
    assert far == {"precision": 0, "recall": 0, "density": 0, "coverage": 0}
    same = {name: float(s.value) for name, s in neighbor_scores(x, x, chosen).items()}
    assert same["precision"] == same["recall"] == same["coverage"] == 1
    # Collapsed to one mode: precise, and nothing else.
    collapsed = {name: float(s.value) for name, s in neighbor_scores(x[:1] + 1e-3 * some(60, 3, seed=1), x, chosen).items()}
    assert collapsed["precision"] == 1
    assert collapsed["recall"] < 0.1 > collapsed["coverage"]


def test_a_radius_needs_enough_chosen_neighbors() -> None:
    line = torch.tensor([[0.0], [1.0], [3.0], [7.0]], dtype=torch.float64)
    near = neighborhoods(line)
    everyone, without = torch.ones(4, dtype=torch.bool), torch.tensor([True, False, True, True])
    assert near.squared_radius(everyone, 1).tolist() == [1, 1, 4, 16]
    assert near.squared_radius(without, 1).tolist() == [9, 1, 9, 16]
    assert near.squared_radius(without, 3).tolist() == [49, 36, 16, 49], "the last there is"


# Memorization -------------------------------------------------------------------------------------------------------------


def test_nearest_training_images() -> None:
    training, x = some(200, 4, shift=50), some(20, 4, seed=1, shift=50)
    copies = torch.cat((x, training[7:9]))
    distance, at = nearest_training(copies, training)
    expected = torch.cdist(copies, training, compute_mode="donot_use_mm_for_euclid_dist").min(1)
    assert at.equal(expected.indices)
    assert distance.tolist() == pytest.approx(expected.values.tolist(), rel=1e-9)
    assert distance[-2:].tolist() == [0, 0], "a copy is at no distance, whatever cancels"


def test_one_cell_is_the_mann_whitney_test() -> None:
    mine, theirs = some(70, 1)[:, 0].abs(), some(50, 1, seed=1, shift=0.3)[:, 0].abs()
    mine[:5] = theirs[:5]  # ties
    zeros = [torch.zeros(count, dtype=torch.long) for count in (70, 50)]
    found = copying_scores(mine, zeros[0], HeldOut(theirs, zeros[1]), halves(70, 3, 0))
    u = float(stats.mannwhitneyu(mine.numpy(), theirs.numpy()).statistic)
    expected = (u - 70 * 50 / 2) / math.sqrt(70 * 50 * (70 + 50 + 1) / 12)
    assert float(found["C_T"].value) == pytest.approx(expected, rel=EXACT)
    assert float(found["farther_than_real"].value) == pytest.approx(u / (70 * 50), rel=EXACT)


def test_cells_are_weighed_by_held_out_images_and_small_ones_left_out() -> None:
    cell = torch.tensor([0] * 30 + [1] * 30 + [2] * 5)
    held_out = HeldOut(torch.ones(125, dtype=torch.float64), torch.tensor([0] * 75 + [1] * 25 + [2] * 25))
    distance = torch.where(cell == 0, 2.0, 0.0).double()  # farther in the first cell, nearer in the second
    found = copying_scores(distance, cell, held_out, halves(65, 2, 0))
    assert float(found["farther_than_real"].value) == pytest.approx(75 / 100)
    z = [0.5 / math.sqrt((n + 30 + 1) / (12 * n * 30)) for n in (75, 25)]
    assert float(found["C_T"].value) == pytest.approx(0.75 * z[0] - 0.25 * z[1])
    assert copying_scores(distance[-5:], cell[-5:], held_out, halves(5, 2, 0)) == {}


def test_copies_are_found_out() -> None:
    training, held_out, fresh = some(500, 3), some(400, 3, seed=1), some(400, 3, seed=2)
    cells = cells_of(training, seed=0)
    assert len(cells.centers) == 6
    yardstick = HeldOut(nearest_training(held_out, training)[0], cells.of(held_out))

    def c_t(x: Tensor) -> float:
        found = copying_scores(nearest_training(x, training)[0], cells.of(x), yardstick, halves(len(x), 2, 0))
        return float(found["C_T"].value)

    assert c_t(training[:400] + 0.01 * fresh) < -5
    assert abs(c_t(fresh)) < 3
    assert c_t(fresh * 3) > 3
    assert Cells(torch.tensor([[0.0], [10.0]]).double()).of(torch.tensor([[4.0], [6.0]])).tolist() == [0, 1]


# Features -----------------------------------------------------------------------------------------------------------------


class Flat(Extractor):
    """The pixels themselves."""

    name, digest = "flat", "0"
    about: dict[str, Any] = {}  # noqa: RUF012

    def __call__(self, x: Tensor) -> Features:
        return Features(x.flatten(1), x.flatten(1).log_softmax(-1))

    def to(self, device: torch.device) -> Flat:
        return self


def test_features_of_all_batches() -> None:
    found = extract(Flat(), [torch.zeros(2, 1, 2, 2), torch.ones(3, 1, 2, 2)])
    assert found.values.dtype == torch.float64
    assert found.values.tolist() == [[0.0] * 4] * 2 + [[1.0] * 4] * 3
    assert found.log_probabilities is not None
    assert len(found) == len(found.log_probabilities) == 5
    with pytest.raises(CheckFailed, match=r"1 of 2 images have features that are not finite"):
        extract(Flat(), [torch.tensor([[0.0, math.nan], [1.0, 1.0]])])


def test_a_score_in_words() -> None:
    assert Score(torch.tensor(2.0), torch.tensor([1.0, 3.0])).summary(3)["se"] == pytest.approx(math.sqrt(2) * math.sqrt(1 / 2))


# A second opinion ---------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_torchmetrics_agrees() -> None:
    why = "torchmetrics, a second opinion, is not installed: pip install torchmetrics"
    fid = pytest.importorskip("torchmetrics.image.fid", reason=why)
    kid = pytest.importorskip("torchmetrics.image.kid", reason=why)
    inception = pytest.importorskip("torchmetrics.image.inception", reason=why)

    class Pixels(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1).double()

    real, fake = (some(300, 12, seed=s, shift=s).view(-1, 3, 2, 2) for s in (0, 1))
    distance = fid.FrechetInceptionDistance(feature=Pixels(), input_img_size=(3, 2, 2)).set_dtype(torch.float64)
    kernel = kid.KernelInceptionDistance(feature=Pixels(), subsets=1, subset_size=300)
    score = inception.InceptionScore(feature=Pixels(), splits=1)
    for metric in (distance, kernel):
        metric.update(real, real=True)
        metric.update(fake, real=False)
    score.update(fake)
    x, y = fake.flatten(1), real.flatten(1)
    assert float(frechet_distance(x, y)) == pytest.approx(float(distance.compute()), rel=EXACT)
    assert float(kernel_distance(x, y)) == pytest.approx(float(kernel.compute()[0]), rel=EXACT)
    assert float(inception_score(x.log_softmax(-1))[0]) == pytest.approx(float(score.compute()[0]), rel=EXACT)


@pytest.mark.parametrize("k", [3, 5])
def test_prdc_agrees(k: int, capsys: pytest.CaptureFixture[str]) -> None:
    prdc = pytest.importorskip("prdc", reason="prdc, a second opinion, is not installed: pip install prdc")
    real, fake = some(200, 8), some(150, 8, seed=1, scale=0.8, shift=0.3)
    theirs = prdc.compute_prdc(real_features=real.numpy(), fake_features=fake.numpy(), nearest_k=k)
    ours = neighbor_scores(fake, real, halves(150, 2, 0), k)
    assert {name: float(score.value) for name, score in ours.items()} == pytest.approx(theirs, rel=EXACT)
    assert 0.1 < theirs["recall"] < theirs["precision"] < 1, "values that an error would move"
