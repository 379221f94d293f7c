"""What makes a run this run: other settings, other images and other folders are refused; starting afresh; first weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from training_helpers import Notes, assert_same_run, data_of, metrics_of, tiny, tiny_of, train
from vaelid.errors import MachineError, RunError
from vaelid.folder import RunFolder
from vaelid.training import start


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"training.seed": 1}, "training.seed is 0, asked 1"),
        ({"optimizer.lr": 0.5, "model.latent": 4}, "model.latent is 3, asked 4; optimizer.lr is 0.001, asked 0.5"),
        ({"training.patience": 3}, "training.patience is 5, asked 3"),
        ({"schedule.name": "cosine"}, "schedule.name is 'constant', asked 'cosine'"),
        ({"encoder.hidden": (12, 12)}, r"encoder.hidden is \[12\], asked \(12, 12\)"),
        ({"data.train_limit": 100}, "data.train_limit is 192, asked 100"),
    ],
)
def test_other_settings_are_refused(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    train(tmp_path, tiny(training__epochs=1, training__patience=5))
    with pytest.raises(RunError, match=sentence) as caught:
        train(tmp_path, tiny_of({"training.epochs": 1, "training.patience": 5, **changes}))
    assert "--overwrite" in caught.value.remedy
    assert caught.value.exit_code == 2


def test_epochs_belong_to_a_schedule_that_is_stretched_over_them(tmp_path: Path) -> None:
    train(tmp_path, tiny(schedule__name="cosine", training__epochs=1))
    with pytest.raises(RunError, match=r"training.epochs is 1, asked 2"):
        train(tmp_path, tiny(schedule__name="cosine", training__epochs=2))


def test_other_images_are_refused(tmp_path: Path) -> None:
    recipe = tiny(training__epochs=1)
    train(tmp_path, recipe)
    other = data_of(tiny(data__split_seed=3))
    with pytest.raises(RunError, match="fingerprint"):
        train(tmp_path, recipe, data=other)


def test_an_engine_of_another_version_is_refused(tmp_path: Path) -> None:
    recipe, folder = tiny(training__epochs=1), RunFolder(tmp_path)
    train(tmp_path, recipe)
    folder.write_json(folder.environment_file, {**folder.read_json(folder.environment_file), "engine": "graphs"})
    with pytest.raises(RunError, match="begun with engine 'graphs', which this version does not know"):
        train(tmp_path, tiny(training__epochs=2))


def test_overwrite_starts_afresh_and_touches_only_what_runs_make(tmp_path: Path) -> None:
    train(tmp_path / "old", tiny(training__seed=1))
    (tmp_path / "old" / "notes.txt").write_text("mine")
    (tmp_path / "old" / "results").mkdir()
    (tmp_path / "old" / "results.json").write_text("{}")
    train(tmp_path / "old", tiny(), overwrite=True)
    train(tmp_path / "new", tiny())
    assert_same_run(tmp_path / "old", tmp_path / "new")
    assert (tmp_path / "old" / "notes.txt").read_text() == "mine"
    assert not (tmp_path / "old" / "results").exists()
    assert not (tmp_path / "old" / "results.json").exists()


def test_a_start_afresh_that_is_killed_never_leaves_a_run_without_its_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tmp_path, tiny(training__epochs=1))
    folder, unlink = RunFolder(tmp_path), Path.unlink

    def killed(path: Path, missing_ok: bool = False) -> None:
        unlink(path, missing_ok)
        if path == folder.metrics_file:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, tiny(), overwrite=True)
    assert folder.metrics() == []
    with pytest.raises(RunError, match=r"There is no checkpoint in .*\n.*--overwrite"):
        train(tmp_path, tiny())


@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize("name", ["thesis.tex", "recipe.toml", "code/main.py", "checkpoint/step-1.safetensors"])
def test_a_folder_that_is_no_run_is_left_alone(tmp_path: Path, name: str, overwrite: bool) -> None:
    mine = tmp_path / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    (tmp_path / ".hidden").write_text("no matter")
    with pytest.raises(RunError, match=f"holds no run.*{Path(name).parts[0]}"):
        train(tmp_path, tiny(), overwrite=overwrite)
    assert mine.read_text() == "mine"
    assert {entry.name for entry in tmp_path.iterdir()} == {Path(name).parts[0], ".hidden"}


def test_two_files_of_the_right_names_are_not_enough(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text("mine")
    (tmp_path / "environment.json").write_text('{"production": true}')
    (tmp_path / "code").mkdir()
    with pytest.raises(RunError, match=r"holds no run.*code, environment.json, recipe.toml"):
        train(tmp_path, tiny(), overwrite=True)
    assert (tmp_path / "code").is_dir()


def test_what_is_refused_leaves_the_old_run(tmp_path: Path) -> None:
    train(tmp_path, tiny(training__epochs=1))
    before = RunFolder(tmp_path).weights_file.read_bytes()
    with pytest.raises(RunError, match="no run folder"):
        train(tmp_path, tiny(), overwrite=True, init_from=tmp_path / "missing")
    assert RunFolder(tmp_path).weights_file.read_bytes() == before
    assert RunFolder(tmp_path).exists


def test_init_from_starts_a_new_training_from_trained_weights(tmp_path: Path) -> None:
    train(tmp_path / "first", tiny())
    source = RunFolder(tmp_path / "first").weights()
    recipe = tiny(optimizer__lr=1e-9, training__epochs=1)
    train(tmp_path / "second", recipe, init_from=tmp_path / "first")
    weights = RunFolder(tmp_path / "second").weights()
    assert all(torch.allclose(weights[name], source[name], atol=1e-6) for name in source)
    assert len(metrics_of(tmp_path / "second")) == 1
    # The same command again, the same from elsewhere, and another source.
    train(tmp_path / "second", recipe, init_from=tmp_path / "second" / ".." / "first")
    train(tmp_path / "second", recipe)
    with pytest.raises(RunError, match=r"--init-from is '.*first', asked '.*third'"):
        train(tmp_path / "second", recipe, init_from=tmp_path / "third")


def test_init_from_a_model_of_another_make_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    train(tmp_path / "first", tiny(training__epochs=1))
    with pytest.raises(RunError, match="do not fit this model") as caught:
        train(tmp_path / "second", tiny(model__latent=5), init_from=tmp_path / "first")
    assert "size mismatch" in caught.value.problem
    assert not RunFolder(tmp_path / "second").exists
    train(tmp_path / "second", tiny(model__latent=5, training__epochs=1))


def test_a_run_can_start_from_its_own_weights(tmp_path: Path) -> None:
    train(tmp_path, tiny(training__epochs=1))
    best = metrics_of(tmp_path)[0]["best"]
    train(tmp_path, tiny(training__epochs=1), overwrite=True, init_from=tmp_path)
    assert metrics_of(tmp_path)[0]["best"] < best


def test_user_code_is_copied_once_and_used_from_there(tmp_path: Path) -> None:
    text = "import torch, vaelid\n\n\nclass Unit(vaelid.StandardNormalPrior):\n    pass\n"
    (tmp_path / "parts.py").write_text(text)
    recipe = tiny(training__epochs=1).override({"prior.name": f"{tmp_path / 'parts.py'}:Unit"})
    recipe, code_from = recipe.adopt_code()
    recipe = recipe.resolve(code_from)
    folder, conditions = RunFolder(tmp_path / "run"), start.Conditions(torch.device("cpu"))
    start.train_in(folder, recipe, code_from, data_of(recipe), conditions, Notes())
    assert (folder.code / "parts.py").read_text() == text
    (tmp_path / "parts.py").unlink()
    longer = replace(recipe, training=replace(recipe.training, epochs=2))
    start.train_in(folder, longer, code_from, data_of(recipe), conditions, Notes())
    assert len(folder.metrics()) == 2
    # Afresh, with the folder's own copy as the source: it is read before it is cleared away.
    again = replace(conditions, overwrite=True)
    start.train_in(folder, recipe, folder.code, data_of(recipe), again, Notes())
    assert (folder.code / "parts.py").read_text() == text


def test_an_unwritable_place_is_said_plainly(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match="cannot be written"):
        train(tmp_path / "file" / "run", tiny())
