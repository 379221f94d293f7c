"""``vaelid audit``: what it prints and writes, its exit codes, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import vaelid
from tiny_runs import Program, no_figures, trained
from vaelid.auditing.findings import AuditReport, Finding
from vaelid.run import Run

pytestmark = pytest.mark.usefixtures(no_figures.__name__)

PRIOR = """
import torch
from torch import nn

class Mine(nn.Module):
    def __init__(self, latent: int, width: float = 1.0) -> None:
        super().__init__()
        self.latent, self.width = latent, width

    def log_prob(self, z):
        return torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)

    def sample(self, n):
        return self.width * torch.randn(n, self.latent)
"""

POSTERIOR = """
from torch.distributions import Independent, Normal
from vaelid import Posterior

class Mine(Posterior):
    def __init__(self, network, latent: int, floor: float = 0.1) -> None:
        super().__init__()
        self.network, self.latent, self.floor = network, latent, floor

    @classmethod
    def network_outputs(cls, latent: int, floor: float) -> int:
        return 2 * latent

    def forward(self, x):
        mean, log_scale = self.network(x).chunk(2, dim=-1)
        return Independent(Normal(mean, log_scale.exp() + self.floor), 1)
"""


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(PRIOR)
    Path("posterior.py").write_text(POSTERIOR)
    return Program(capsys)


def test_a_built_in_part_passes_and_nothing_is_written(run: Program) -> None:
    before = set(Path().iterdir())
    said = run("audit", "prior:standard-normal", "--quick", "--set", "latent=2", "--seed", 3)
    assert said.code == 0
    assert re.match(r"audit of prior:standard-normal: pass \(\d+ pass, \d+ skipped\)\nNo test refutes", said.out)
    assert "Holm" in said.out
    assert "seed 3, quick" in said.out
    assert "not written: name a file with --out" in said.out
    assert set(Path().iterdir()) == before


def test_a_run_is_audited_with_its_weights_into_its_folder(tmp_path: Path, run: Program) -> None:
    opened = trained(tmp_path)
    said = run("audit", opened.folder.path, "--quick")
    stored = json.loads(opened.folder.audit_file.read_text())
    assert said.code == stored["exit_code"] == 0
    assert f"written: {opened.folder.audit_file}" in said.out
    assert {finding["part"] for finding in stored["findings"]} == {"prior", "posterior", "likelihood", "model"}
    assert stored["environment"]["weights"] == opened.weights_digest
    assert stored["environment"]["vaelid"] == vaelid.__version__
    assert opened.folder.audit_file in opened.folder.own, "an overwritten run must not keep the audit of another"


def test_a_users_failure_is_explained_and_exits_3(run: Program) -> None:
    said = run("audit", "mine.py:Mine", "--set", "latent=3", "--set", "width=1.2", "--quick", "--out", "new/audit.json")
    stored = json.loads(Path("new/audit.json").read_text())
    assert said.code == stored["exit_code"] == 3
    assert "The part is not what it says it is" in said.out
    failed = [finding for finding in stored["findings"] if finding["verdict"] == "fail"]
    assert failed
    assert all(finding["meaning"] for finding in failed)
    words = " ".join(said.out.replace("│", " ").split())
    assert "do not follow the slope of log p" in words
    assert "In dimension" in words


def test_a_users_posterior_gets_a_network(run: Program) -> None:
    said = run("audit", "posterior.py:Mine", "--quick", "--json", "--set", "floor=0.2", "--samples", 4000)
    assert json.loads(said.out)["verdict"] == "pass", said.out
    assert said.code == 0


def test_json_is_the_file(run: Program) -> None:
    said = run("audit", "mine.py:Mine", "--set", "latent=1", "--quick", "--json", "--out", "audit.json")
    assert said.out == Path("audit.json").read_text()


@pytest.mark.parametrize(("verdicts", "code"), [(("pass", "undecided"), 4), (("undecided", "fail"), 3), (("pass", "skipped"), 0)])
def test_exit_codes(verdicts: tuple[str, ...], code: int, monkeypatch: pytest.MonkeyPatch, run: Program) -> None:
    findings = tuple(Finding("t", "p", "h", verdict, "words", "who") for verdict in verdicts)  # type: ignore[arg-type]
    monkeypatch.setattr("vaelid.auditing.audit.audit", lambda *_, **__: AuditReport("x", findings, 0, True))
    said = run("audit", "x")
    assert said.code == code
    assert f"1 {verdicts[0]}" in said.out
    assert ("words (who)" in said.out) == (code != 0), "what passed or does not apply is counted"
    assert "words (who)" in run("audit", "x", "--verbose").out


def test_the_verdict_comes_first_then_what_failed_then_a_line_for_each_test(
    monkeypatch: pytest.MonkeyPatch, run: Program
) -> None:
    passed = [Finding("stein", "prior", f"hypothesis {i}", "pass", p_value=p) for i, p in enumerate((0.5, 0.02, 0.9))]
    exact = [Finding("contract", "prior", f"rule {i}", "pass", error=e, tolerance=1.0) for i, e in enumerate((0.1, 0.7))]
    failed = Finding("stein", "posterior", "hypothesis", "fail", "it leans", "latent 3", p_value=1e-9)
    unclear = Finding("support", "prior", "inside", "undecided", "no draws")
    findings = (*passed, *exact, failed, unclear, Finding("support", "prior", "outside", "skipped", "declares none"))
    monkeypatch.setattr("vaelid.auditing.audit.audit", lambda *_, **__: AuditReport("x", findings, 0, True))
    out = run("audit", "x").out
    assert out.startswith("audit of x: fail (1 fail, 1 undecided, 5 pass, 1 skipped)\nThe part is not")
    rows = [tuple(cell.strip() for cell in line.split("│")[1:-1]) for line in out.splitlines() if line.startswith("│")]
    assert rows == [
        ("posterior", "stein", "fail", "p = 1e-09", "it leans (latent 3)"),
        ("prior", "support", "undecided", "", "no draws"),
        ("prior", "stein", "3 pass", "p = 0.02"),
        ("prior", "contract", "2 pass", "error 0.7 (at most 1)"),
        ("posterior", "stein", "1 fail", "p = 1e-09"),
        ("prior", "support", "1 undecided, 1 skipped", "skipped: declares none"),
    ]
    everything = run("audit", "x", "--verbose").out
    assert everything.startswith("audit of x: fail")
    assert all(finding.hypothesis in everything for finding in passed)
    assert "declares none" in everything


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("mixtur", "There is no run folder or part named 'mixtur'. Did you mean"),
        ("gaussian", "'gaussian' is the name of several parts. Say which: posterior:gaussian or likelihood:gaussian."),
        ("objective:elbo", "There is no run folder or part named 'objective:elbo'"),
        ("empty", "empty is no run folder: it has no recipe.toml"),
        ("nothere.py:Mine", "The file of code nothere.py cannot be read"),
        ("mine.py:Yours", "mine.py has no class 'Yours'. It has: Mine."),
        ("mine.py:Mine --set widths=1", "There is no setting of Mine named 'widths'. Did you mean 'width'"),
        ("mine.py:Mine --set width=wide", "Mine.width must be float"),
        ("prior:mixture --set latent", "--set takes KEY=VALUE; 'latent' came. For example: --set latent=8"),
        ("prior:mixture --set latent=0", "prior.latent must be ≥ 1; it is 0."),
        ("prior:mixture --samples 10", "samples must be at least 1000, or the tests have no power; it is 10."),
        ("prior:mixture --samples many", "--samples"),
        ("prior:mixture --out empty", "--out takes a file; empty is a folder. For example: --out empty/audit.json"),
        ("", "TARGET"),
    ],
)
def test_requests_that_cannot_be(words: str, reason: str, run: Program) -> None:
    Path("empty").mkdir()
    assert reason in run.refuses("audit", *words.split(), *(["--quick"] if words else []))


def test_a_run_takes_no_settings_and_its_code_needs_leave(tmp_path: Path, run: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = trained(tmp_path)
    assert "whose settings stand in its recipe; prior.components cannot be set" in run.refuses(
        "audit", opened.folder.path, "--set", "prior.components=3"
    )
    Path("parts.py").write_text("from vaelid import StandardNormalPrior\nclass Mine(StandardNormalPrior): ...\n")
    options = ["--epochs", 1, "--prior", "parts.py:Mine", "--set", "data.train_limit=40", "--hidden", "4", "--latent", 2]
    assert run("train", "digits", *options, "--out", "coded").code == 0
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "someone else"))
    assert "--allow-code" in run.refuses("audit", "coded", "--quick")
    assert not Run("coded").folder.audit_file.exists()
    assert run("audit", "coded", "--quick", "--allow-code", "--samples", 2000).code in (0, 4)
