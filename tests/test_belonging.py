"""Files of a run that do not belong together: changed weights, an edited recipe, lost lines, weights that training replaces."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch

from tiny_runs import no_figures, trained
from training_helpers import tiny, train
from vaelid import audit
from vaelid.errors import RunError
from vaelid.folder import RunFolder
from vaelid.recipe import from_dict
from vaelid.reporting.audits import audit_document
from vaelid.run import Run

pytestmark = pytest.mark.usefixtures(no_figures.__name__)


def test_one_bit_of_the_weights(tmp_path: Path) -> None:
    train(tmp_path, tiny(training__epochs=1))
    folder, content = RunFolder(tmp_path), (tmp_path / "model.safetensors").read_bytes()
    tensors = folder.weights()
    folder.weights_file.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])  # a mantissa: a plausible weight
    with pytest.raises(RunError, match=r"model.safetensors is damaged: its SHA-256") as caught:
        folder.weights()
    assert "anew from the checkpoint" in caught.value.remedy
    train(tmp_path, tiny(training__epochs=1))
    assert folder.weights_file.read_bytes() == content
    safetensors.torch.save_file(tensors, folder.weights_file)  # as of a version that kept no SHA-256
    assert folder.weights().keys() == tensors.keys()


def test_a_recipe_that_the_weights_were_not_trained_by(tmp_path: Path) -> None:
    recipe = tiny(training__epochs=1)
    train(tmp_path / "run", recipe)
    folder = RunFolder(tmp_path / "run")
    changed = {"data.name": "moved.npy", "encoder.activation": "tanh", "encoder.hidden": (13,), "training.epochs": 9}
    sections = {section: dict(settings) for section, settings in recipe.to_dict().items()}
    for name, value in changed.items():
        section, key = name.split(".")
        sections[section][key] = value
    folder.recipe_file.write_text(from_dict(sections).to_toml())
    with pytest.raises(
        RunError, match=r"recipe.toml is not what model.safetensors was trained by: encoder.act.*'tanh'; enc"
    ) as caught:
        folder.recipe()
    for name in ("data.name", "training.epochs"):  # data may move, and epochs be raised
        assert name not in caught.value.problem
    folder.weights_file.unlink()
    assert folder.recipe().encoder.options["activation"] == "tanh", "there is nothing that it could belie"


def test_weights_of_another_run_of_the_same_make(tmp_path: Path) -> None:
    recipe = tiny(training__epochs=1)
    train(tmp_path / "run", recipe)
    train(tmp_path / "other", tiny(training__epochs=1, training__seed=7))
    folder = RunFolder(tmp_path / "run")
    content = folder.weights_file.read_bytes()
    shutil.copy(tmp_path / "other" / "model.safetensors", folder.weights_file)
    with pytest.raises(RunError, match=r"training.seed was 7 and is 0\.\n.* run the `vaelid train` command again"):
        folder.recipe()
    train(tmp_path / "run", recipe)
    assert folder.weights_file.read_bytes() == content


@pytest.mark.parametrize(
    ("kept", "reason"),
    [
        ((1,), "it tells of 1 of the 3 epochs that the newest checkpoint has seen"),
        ((), "it tells of 0 of the 3 epochs"),
        ((1, 3), "line 2 tells of epoch 3"),
        ((2, 3), "line 1 tells of epoch 2"),
    ],
)
def test_lines_of_metrics_that_are_lost_are_an_error(kept: tuple[int, ...], reason: str, tmp_path: Path) -> None:
    train(tmp_path, tiny())
    folder = RunFolder(tmp_path)
    lines = folder.metrics_file.read_bytes().splitlines(keepends=True)
    folder.metrics_file.write_bytes(b"".join(lines[epoch - 1] for epoch in kept))
    with pytest.raises(RunError, match=f"metrics.jsonl is damaged: {reason}"):
        folder.metrics()
    with pytest.raises(RunError, match="--overwrite"):
        train(tmp_path, tiny(training__epochs=4))
    train(tmp_path, tiny(), overwrite=True)
    assert len(folder.metrics()) == 3


def test_numbers_name_the_weights_that_they_are_of_though_training_replaces_the_file(tmp_path: Path) -> None:
    run = trained(tmp_path)
    first = run.weights_digest
    later = {name: tensor + 0.01 for name, tensor in run.folder.weights().items()}
    fresh = Run(run.folder.path, "cpu")
    assert fresh.model is not None  # read before the file is replaced, and before anyone asks for its digest
    run.folder.write_weights(later, {})
    assert fresh.evaluate(samples=3, limit=5)["environment"]["weights"] == first
    assert run.model is not None
    assert run.weights_digest != first, "this model was read after its digest had been asked for"


def test_an_audit_names_the_weights_that_it_looked_at_though_training_replaces_the_file(tmp_path: Path) -> None:
    run = trained(tmp_path)
    read, first = audit(str(run.folder.path), quick=True), run.weights_digest
    run.folder.write_weights({name: tensor + 0.01 for name, tensor in run.folder.weights().items()}, {})
    assert json.loads(audit_document(read))["environment"]["weights"] == read.weights == first
    assert audit("prior:standard-normal", quick=True).weights is None
