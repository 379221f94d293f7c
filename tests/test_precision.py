"""A bfloat16 decoder: only its products are short, its error is measured on the same noise, and no number stands without it."""

from __future__ import annotations

import html
import io
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console, RenderableType
from torch import Tensor
from torch.distributions import Bernoulli, Independent

from exact_models import as_split, linear_gaussian
from tiny_runs import SAMPLES, Program, evaluated, no_figures
from vaelid import MLP, VAE, BernoulliLikelihood, GaussianPosterior, StandardNormalPrior, compare, report
from vaelid.beyond import Beyond
from vaelid.data import Split
from vaelid.distributions import LevelCategorical
from vaelid.errors import PartError, SettingError, UserError
from vaelid.evaluation.ais import AisPlan
from vaelid.evaluation.evaluate import Plan, evaluate_images, summarize
from vaelid.evaluation.likelihood import log_weights, weight_blocks
from vaelid.evaluation.precision import (
    BOTH_WAYS,
    checked,
    decode,
    decoder_words,
    error_of,
    error_words,
    require_known,
    require_long_density,
)
from vaelid.likelihoods import CategoricalLikelihood
from vaelid.progress import Silent
from vaelid.reporting.beyond import beyond_tables
from vaelid.reporting.tables import comparison_table, results_table

pytestmark = pytest.mark.usefixtures(no_figures.__name__)

IDS = torch.arange(6)
FEW = AisPlan(steps=2, chains=2, pilot=1)


class Short(BernoulliLikelihood):
    """Forgets to come back to float32."""

    def forward(self, z: Tensor) -> Independent[Bernoulli]:
        return Independent(Bernoulli(logits=self.network(z), validate_args=False), 1, validate_args=False)


def model_of(likelihood: type[BernoulliLikelihood] = BernoulliLikelihood) -> VAE:
    torch.manual_seed(0)
    model = VAE(GaussianPosterior(MLP((30,), 8), 4), likelihood(MLP((4,), 30), (30,)), StandardNormalPrior(4))
    with torch.no_grad():
        for layer in model.likelihood.network.layers[::2]:
            layer.weight *= 3
    return model.eval().requires_grad_(False)


def images() -> Tensor:
    return torch.bernoulli(torch.full((6, 30), 0.4), generator=torch.Generator().manual_seed(2))


def test_only_the_products_are_short() -> None:
    model, z = model_of(), torch.randn(5, 6, 4, generator=torch.Generator().manual_seed(1))
    network = model.likelihood.network
    h = z
    for layer in network.layers[:-1]:  # what bfloat16 products mean, written out
        h = layer(h) if not isinstance(layer, torch.nn.Linear) else rounded_linear(layer, h)
    expected = rounded_linear(network.layers[-1], h)
    logits = decode(model.likelihood, z, "bfloat16").base_dist.logits
    assert logits.dtype == torch.float32
    assert torch.allclose(logits, expected, rtol=2**-6, atol=0.05)
    assert not torch.equal(logits, network(z)), "nothing was short"
    assert torch.equal(decode(model.likelihood, z, "float32").base_dist.logits, network(z))


def rounded_linear(layer: torch.nn.Linear, h: Tensor) -> Tensor:
    short = torch.bfloat16
    return torch.nn.functional.linear(h.to(short).float(), layer.weight.to(short).float(), layer.bias).to(short).float()


def test_the_noise_is_the_same_and_the_error_small() -> None:
    model, x = model_of(), images()
    long = log_weights(model, x, IDS, 50, seed=0, chunk=60)
    short = torch.cat(list(weight_blocks(model, x, IDS, 50, 0, 60, "bfloat16")))
    assert short.dtype == torch.float64
    assert not torch.equal(short, long)
    assert float((short - long).abs().max()) < 1 < float(long.std()) * 10


def test_a_density_that_would_be_short_is_refused() -> None:
    model, before = model_of(Short), torch.get_rng_state()
    with pytest.raises(PartError, match=r"Short gives a density in torch\.bfloat16"):
        list(weight_blocks(model, images(), IDS, 50, 0, 60, "bfloat16"))
    assert torch.equal(torch.get_rng_state(), before)
    assert list(weight_blocks(model, images(), IDS, 50, 0, 60))


class Spoilt(CategoricalLikelihood):
    """Probabilities that are NaN, as of weights that have diverged."""

    def forward(self, z: Tensor) -> LevelCategorical:
        return LevelCategorical(super().forward(z).logits * math.nan, len(self.shape))


def test_what_cannot_be_drawn_from_is_refused_in_words() -> None:
    z = torch.zeros(1, 2, 4)
    likelihood = Spoilt(MLP((4,), 18), (6,), levels=3)
    with pytest.raises(PartError, match=r"(?s)Nothing can be drawn from Spoilt.*--decoder-precision float32"):
        require_long_density(likelihood, z, "bfloat16")
    require_long_density(likelihood, z, "float32")


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (7, 7), (100, 100), (991, 100), (10_000, 100)])
def test_images_to_check_are_spread_over_the_split(count: int, expected: int) -> None:
    positions = checked(count)
    assert len(positions) == expected == len(positions.unique())
    assert positions.equal(checked(count))
    assert positions.equal(positions.sort().values)
    assert 0 <= int(positions[0]) <= int(positions[-1]) < count
    assert torch.bincount(positions * 2 // count, minlength=1).min() >= min(30, count // 2), "both halves, at chance: p < 1e-4"


@pytest.mark.parametrize("classes", [2, 3, 7, 10])
def test_images_to_check_are_not_all_of_one_class_where_classes_take_turns(classes: int) -> None:
    for count in (991, 694, 1_000, 10_000):  # at even distances of 10 and 7, they would be
        assert torch.bincount(checked(count) % classes, minlength=classes).min() > 0


def test_the_error_is_the_paired_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vaelid.evaluation.precision._CHECKED", 2)
    bound, exact = np.full(3, 3.0), np.full(3, np.nan)
    bound[checked(3)], exact[checked(3)] = [5.0, 2.0], [4.0, 3.5]
    values = {"nll": bound, BOTH_WAYS: exact}
    error = error_of(values)
    assert error is not None
    assert (error["value"], error["images"], error["largest"]) == (-0.25, 2, 1.5)
    assert error["se"] == pytest.approx(1.25)
    assert error_of({"nll": values["nll"]}) is None


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
@pytest.mark.parametrize("which", ["nll", BOTH_WAYS])
def test_an_image_whose_bound_is_not_finite_is_not_left_out_of_the_error(which: str, wrong: float) -> None:
    values = {"nll": np.array([5.0, 3.0]), BOTH_WAYS: np.array([4.0, 3.5])}
    values[which][1] = wrong
    error = error_of(values)
    assert error is not None
    assert error["images"] == 2
    assert not math.isfinite(error["value"])
    assert not math.isfinite(error["largest"])


def both(plan: Plan, split: Split, model: VAE) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    values = evaluate_images(model, split, None, plan, Silent())
    return values, summarize(values, plan, "closed-form", True, 30)


def test_the_error_stands_with_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vaelid.evaluation.precision._CHECKED", 3)
    model, split = model_of(), as_split(images())
    long, _ = both(Plan(40, 2), split, model)
    short, found = both(Plan(40, 2, decoder_precision="bfloat16", images=4), split, model)
    nll = found["nll"]
    known = np.isfinite(short[BOTH_WAYS])
    assert np.flatnonzero(known).tolist() == checked(6).tolist()
    assert known.sum() == 3
    np.testing.assert_allclose(short[BOTH_WAYS][known], long["nll"][known], rtol=0, atol=1e-4)
    np.testing.assert_array_equal(short["neg_elbo"], long["neg_elbo"])
    assert (np.abs(short["nll"] - long["nll"]) > 1e-3).any(), "no bound was short"
    assert nll["precision_error"]["value"] == pytest.approx((short["nll"] - long["nll"])[known].mean(), abs=1e-4)
    assert nll["precision_error"]["value"] != 0
    assert "K = 40, bfloat16 decoder" in nll["name"]
    assert error_words(nll).startswith("the decoder multiplied in bfloat16, which changed the bound by ")  # type: ignore[union-attr]
    assert (decoder_words(nll), decoder_words({})) == (", bfloat16 decoder", "")


def test_float64_stays_float64() -> None:
    exact = linear_gaussian(latent=2)
    x = exact.images(3)
    long, short = (torch.cat(list(weight_blocks(exact.model, x, IDS[:3], 20, 0, 99, p))) for p in ("float32", "bfloat16"))  # type: ignore[arg-type]
    assert torch.equal(short, long)


def printed(*tables: RenderableType) -> str:
    """What a wide terminal shows."""
    console = Console(file=io.StringIO(), width=400)
    console.print(*tables)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_short_result_says_so_everywhere(tmp_path: Path) -> None:
    long, short = evaluated(tmp_path, "long"), evaluated(tmp_path, "short")
    found = short.evaluate(samples=SAMPLES, elbo_samples=3, decoder_precision="bfloat16", beyond=Beyond(ais=True, annealing=FEW))
    assert found["nll"]["precision_error"]["images"] == found["images"]
    said = error_words(found["nll"])
    assert said is not None
    table = printed(results_table("short", found), *beyond_tables(found))
    assert f"K = {SAMPLES}, bfloat16 decoder, proposal" in table
    assert f"nll: {said}" in table
    assert f"of the same images, K = {SAMPLES}, bfloat16 decoder" in table
    page = html.unescape(report(short.folder.path, as_is=True).read_text(encoding="utf-8"))
    assert page.count("bfloat16 decoder") >= 4
    assert said in page
    assert "bfloat16" not in printed(results_table("long", long.results["test"]))


def test_the_long_result_is_kept_aside_and_its_samples_not_taken_for_short_ones(tmp_path: Path) -> None:
    run = evaluated(tmp_path)
    before = run.results["test"]["nll"]["value"]
    run.evaluate(samples=SAMPLES, elbo_samples=3, decoder_precision="bfloat16", beyond=Beyond(aggregate=True))
    assert run.results["test"]["nll"]["decoder_precision"] == "bfloat16", "taken for covered"
    (kept,) = run.folder.results.glob(f"test-*-images-K{SAMPLES}.json")
    assert run.folder.read_json(kept)["nll"]["value"] == before
    run.evaluate(samples=SAMPLES, elbo_samples=3, beyond=Beyond(aggregate=True))
    assert run.results["test"]["nll"]["value"] == before


def test_short_and_long_results_are_not_compared(tmp_path: Path) -> None:
    long, short = evaluated(tmp_path, "long"), evaluated(tmp_path, "short")
    short.evaluate(samples=SAMPLES, elbo_samples=3, decoder_precision="bfloat16")
    with pytest.raises(UserError, match=r"short has nll with a bfloat16 decoder, .*long with a float32 one: .* error in it"):
        compare(long.folder.path, short.folder.path)
    again = shutil.copytree(short.folder.path, tmp_path / "again")
    table = printed(comparison_table(compare(short.folder.path, again)))
    assert table.count("the decoder multiplied in bfloat16, which changed the bound by") == 2


def test_the_option_is_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program, run = Program(capsys), evaluated(tmp_path).folder.path
    said = program.refuses("evaluate", run, "--decoder-precision", "bfloat61")
    assert "There is no decoder precision named 'bfloat61'. Did you mean 'bfloat16'" in said
    assert program("evaluate", run, "--samples", 5, "--limit", 3, "--decoder-precision", "bfloat16").code == 0
    with pytest.raises(SettingError):
        require_known("float16")
