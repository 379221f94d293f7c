"""What an audit says and how it is asked: verdicts and exit codes, names, guards, oracles, and the answer *undecided*."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import (
    Normal,
)

from broken_parts import BatchStatistics, CenteredBatch, model
from broken_priors import Gaussian
from own_posteriors import ByFunction
from vaelid.auditing.adapter import Plan
from vaelid.auditing.audit import audit
from vaelid.auditing.findings import AuditReport, Finding, exact, judged, rule
from vaelid.auditing.whole_model import guards, whole_model
from vaelid.distributions import diagonal_normal
from vaelid.errors import PartError, SettingError
from vaelid.likelihoods import GaussianLikelihood
from vaelid.networks import MLP
from vaelid.posteriors import GaussianPosterior
from vaelid.priors import MixturePrior, StandardNormalPrior
from vaelid.vae import VAE

IMAGES = torch.tensor([[0.0, 1.0] * 8, [1.0, 0.0] * 8] * 8).reshape(16, 1, 4, 4)


def report(*verdicts: str) -> AuditReport:
    return AuditReport("x", tuple(Finding("t", "p", "h", v) for v in verdicts), 0, True)  # type: ignore[arg-type]


def test_a_failure_beats_undecided_and_undecided_beats_a_pass() -> None:
    assert report("pass", "undecided", "fail").exit_code == 3
    assert report("pass", "undecided").exit_code == 4
    assert report("pass", "skipped").exit_code == 0
    assert report("skipped").exit_code == 4
    assert report().verdict == "undecided"


def test_holm_decides_over_the_family() -> None:
    findings = [Finding("t", "p", "h", "pass", p_value=p) for p in (1e-5, 4e-4, 0.5)]
    assert [f.verdict for f in judged(findings, 1e-3)] == ["fail", "fail", "pass"]
    assert [f.verdict for f in judged(findings, 5e-4)] == ["fail", "pass", "pass"]
    undecided = Finding("t", "p", "h", "undecided", p_value=1e-9)
    assert judged([undecided])[0].verdict == "undecided"


def test_a_p_value_that_is_no_number_is_undecided_and_stops_no_other() -> None:
    findings = [Finding("t", "p", "h", "pass", "words", "column 3", math.nan, p) for p in (math.nan, 1e-9, 0.5)]
    open_, wrong, right = judged(findings, 1e-3)
    assert (open_.verdict, wrong.verdict, right.verdict) == ("undecided", "fail", "pass")
    assert "Not tested" in open_.words
    assert "column 3" in open_.words
    assert open_.evidence == "no number"
    assert json.loads(AuditReport("x", (open_,), 0, True).to_json())["findings"][0]["p_value"] is None


def test_exact_findings() -> None:
    assert exact("t", "p", "h", 0.1, 0.2, "words", "who").guilty == ""
    assert exact("t", "p", "h", math.nan, 0.2, "words", "who").verdict == "fail"
    assert rule("t", "p", "h", False, "words", "who").guilty == "who"


def test_json_and_table() -> None:
    found = audit(StandardNormalPrior(2), quick=True)
    content = json.loads(found.to_json())
    assert content["verdict"] == "pass"
    assert {f["test"] for f in content["findings"]} >= {"contract", "stein", "exchange", "normalization", "closed-forms"}
    head, rows = found.table()
    assert len(rows) == len(found.findings)
    assert all(len(row) == len(head) for row in rows)
    assert "pass" in str(found)


def test_an_audit_repeats_itself_and_leaves_everything_as_it_was() -> None:
    prior = MixturePrior(3, components=2)
    before = {name: p.clone() for name, p in prior.named_parameters()}
    state = torch.get_rng_state()
    first, second = audit(prior, quick=True), audit(prior, quick=True)
    assert torch.equal(state, torch.get_rng_state())
    assert [f.p_value for f in first.findings] == [f.p_value for f in second.findings]
    assert all(torch.equal(p, before[name]) for name, p in prior.named_parameters())
    assert prior.training


def test_names() -> None:
    assert audit("mixture", quick=True, settings={"latent": 2, "components": 3}).target == "prior:mixture"
    with pytest.raises(SettingError, match="mixtur"):
        audit("mixtur", quick=True)
    with pytest.raises(PartError, match="posterior:gaussian or likelihood:gaussian"):
        audit("gaussian", quick=True)
    with pytest.raises(PartError, match="cannot be audited"):
        audit(3)


def test_a_users_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import torch\nfrom torch import nn\n"
        "class Mine(nn.Module):\n"
        "    def __init__(self, latent: int, width: float = 1.0) -> None:\n"
        "        super().__init__()\n        self.latent, self.width = latent, width\n"
        "    def log_prob(self, z):\n        return torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)\n"
        "    def sample(self, n):\n        return self.width * torch.randn(n, self.latent)\n"
    )
    assert audit(f"{file}:Mine", quick=True, settings={"latent": 3}).verdict == "pass"
    assert audit(f"{file}:Mine", quick=True, settings={"latent": 3, "width": 1.2}).verdict == "fail"
    with pytest.raises(SettingError, match="width"):
        audit(f"{file}:Mine", quick=True, settings={"widths": 1.2})


def test_guards_pass_on_a_sound_model() -> None:
    assert {f.verdict for f in guards(model(), IMAGES)} == {"pass"}
    assert {f.verdict for f in guards(model(), IMAGES[:1])} == {"pass"}


def test_guards_name_what_is_wrong() -> None:
    def guilty(broken: VAE) -> set[str]:
        return {f.guilty for f in guards(broken, IMAGES) if f.verdict == "fail"}

    assert "posterior" in guilty(model(encoder=BatchStatistics(16, 6)))
    assert guilty(model(decoder=CenteredBatch(3, 16))) == {"likelihood"}
    trained = model()
    trained.train()
    assert "model" in str(guilty(trained))
    trained.eval()
    trained.prior.one[0] = math.inf
    assert guilty(trained) == {"prior.one"}


class _Exact(VAE):
    """Linear-Gaussian: x = z + noise, z ~ N(0, 1); the posterior N(x/2, 1/2) and p(x) = N(0, 2) are known."""

    def __init__(self, posterior_scale: float = math.sqrt(0.5), width: float = 1.0) -> None:
        likelihood = GaussianLikelihood(nn.Identity(), (2,), scale="fixed", sigma=width)
        posterior = ByFunction(lambda x: diagonal_normal(x / 2, torch.full_like(x, posterior_scale)))
        super().__init__(posterior, likelihood, StandardNormalPrior(2))

    def log_evidence(self, x: Tensor) -> Tensor:
        return Normal(0.0, math.sqrt(2.0)).log_prob(x).sum(-1)


def test_oracle_and_calibration() -> None:
    x = torch.randn(16, 2)
    sound = whole_model(_Exact(0.9).eval(), x, Plan(4000))
    [evidence] = [f for f in sound if "E_q[w" in f.hypothesis]
    assert evidence.p_value is not None
    assert evidence.p_value > 1e-3
    [wrong] = [f for f in whole_model(_Exact(0.9, width=1.2).eval(), x, Plan(4000)) if "E_q[w" in f.hypothesis]
    assert wrong.p_value is not None
    assert wrong.p_value < 1e-6
    [sure, ranks] = whole_model(_Exact().eval(), x, Plan(4000))[-2:]
    assert (sure.verdict, sure.p_value) == ("pass", None), "each weight is p(x) itself"
    # Kolmogorov's statistic of 200 uniform numbers is 0.061 on average in one dimension, and 0.07 the larger of two.
    assert ranks.detail["expected_if_exact"] == pytest.approx(0.07, abs=0.01)
    assert "for an exact posterior it would be 0.07" in ranks.meaning
    assert max(ranks.detail["distance"]) < 0.15
    [narrow] = [f for f in whole_model(_Exact(0.2).eval(), x, Plan(4000)) if "ranks" in f.hypothesis]
    assert max(narrow.detail["distance"]) > 0.2
    assert narrow.verdict == "skipped"


def test_weights_with_heavy_tails_leave_the_evidence_open() -> None:
    """Half as wide as the posterior: w has no variance, and its mean over 400 draws is mostly too small."""
    found = whole_model(_Exact(0.3).eval(), torch.randn(16, 2), Plan(4000))
    [evidence] = [f for f in judged(found) if "E_q[w" in f.hypothesis]
    assert evidence.verdict == "undecided"
    assert "too heavy" in evidence.meaning


class _Bits(StandardNormalPrior):
    def __init__(self, leak: bool) -> None:
        super().__init__(3)
        self.leak = leak

    def log_conditionals(self, z: Tensor) -> Tensor:
        before = torch.cumsum(z, -1) if self.leak else torch.cumsum(z, -1) - z
        return before.roll(-1, -1) if self.leak else before


def test_causality() -> None:
    for leak in (False, True):
        checked = model()
        checked.prior = _Bits(leak)
        [finding] = [f for f in whole_model(checked, IMAGES, Plan(1000)) if "conditional" in f.hypothesis]
        assert (finding.verdict == "fail") == leak
        assert finding.guilty.startswith("dimension") == leak


def test_conditions_can_be_given() -> None:
    part = GaussianPosterior(MLP((1, 2, 2), 4, (8,)), 2)
    assert audit(part, quick=True, given=torch.rand(5, 1, 2, 2)).verdict == "pass"
    with pytest.raises(PartError, match="given"):
        audit(ByFunction(lambda x: diagonal_normal(x, x)))


def test_shaking_tells_apart_what_is_equal_at_the_start() -> None:
    class Cached(Gaussian):
        def __init__(self) -> None:
            super().__init__()
            self.cached = self.mean.detach().clone()

        def sample(self, n: int) -> Tensor:
            return self.cached + self.log_scale.exp() * torch.randn(n, len(self.mean))

    assert audit(Cached(), quick=True, shake=False).verdict == "pass"
    assert "mean" in {f.guilty.split("[")[0] for f in audit(Cached(), quick=True).failures if f.test == "scores"}
