"""Recipes: files and back, changes, hints, identity, and files of user code."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from vaelid.data import DataSettings
from vaelid.errors import PartError, SettingError
from vaelid.parts import KINDS, part_options
from vaelid.recipe import SECTIONS, SHORTCUTS, Part, Recipe, expand, from_dict, from_toml, read_about, read_recipe, recipe_names
from vaelid.settings import CommandText
from vaelid.usercode import sha256

IWAE_TABLE_1 = Path(__file__).parent.parent / "studies" / "iwae_table1"
STUDIES = sorted(IWAE_TABLE_1.parent.glob("*/*.toml"))
PLAIN = Recipe(DataSettings("digits"), likelihood=Part("categorical"))
MINIMAL = '[data]\nname = "digits"\n'


# Files and back -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", recipe_names())
def test_built_in_recipes_survive_writing(name: str) -> None:
    resolved = read_recipe(name).resolve(Path())
    text = resolved.to_toml()
    again = from_toml(text).resolve(Path())
    assert again == resolved
    assert again.to_toml() == text
    assert again.digest() == resolved.digest() == from_toml(text).digest()
    assert tomllib.loads(text)["training"]["epochs"] == resolved.training.epochs


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.stem)
def test_recipes_of_studies_are_still_understood(file: Path) -> None:
    assert read_recipe(str(file)).resolve(Path()).training.epochs > 0


def test_the_recipes_of_iwae_table_1_differ_in_the_objective_alone() -> None:
    vae, iwae, static = (read_recipe(str(IWAE_TABLE_1 / f"{name}.toml")) for name in ("vae-k1", "iwae-k50", "iwae-k50-static"))
    assert replace(iwae, objective=vae.objective) == vae
    assert replace(static, data=iwae.data) == iwae


@pytest.mark.parametrize("name", recipe_names())
def test_built_in_recipes_say_what_they_are_for(name: str) -> None:
    assert len(read_about(name)) > 20
    assert read_about(name)[0] not in "# ["


def test_a_resolved_recipe_has_every_option() -> None:
    sections = PLAIN.resolve(Path()).to_dict()
    assert set(sections) == set(SECTIONS)
    for kind, known in KINDS.items():
        assert set(sections[kind]) - {"name"} == set(part_options(kind, known.table[sections[kind]["name"]]))
    assert PLAIN.to_dict()["prior"] == {"name": "mixture"}
    assert sections["prior"] == {"name": "mixture", "components": 16, "init": "normal"}


def test_a_recipe_needs_only_its_data() -> None:
    assert from_toml(MINIMAL) == Recipe(DataSettings("digits"))


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.text(st.characters(exclude_categories=("Cs",))), st.floats(allow_nan=False, min_value=0), st.integers(0), st.booleans())
def test_any_value_survives_writing(text: str, number: float, whole: int, flag: bool) -> None:
    options = {"text": text, "number": number, "whole": whole, "flag": flag, "list": (text, text), "é": whole, "a b": flag}
    recipe = replace(PLAIN, prior=Part(text, options), data=DataSettings(text, skip_bad=flag), code={text: text})
    again = from_toml(recipe.to_toml())
    assert again == replace(recipe, prior=Part(text, {**options, "list": [text, text]}))


def test_recipes_are_read_from_files(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(MINIMAL, encoding="utf-8")
    assert read_recipe(str(path)).data.name == "digits"
    path.write_text("[data", encoding="utf-8")
    with pytest.raises(SettingError, match=r"mine.toml is not valid TOML"):
        read_recipe(str(path))
    path.write_bytes(b"\xff")
    with pytest.raises(SettingError, match=r"mine.toml cannot be read"):
        read_recipe(str(path))
    with pytest.raises(SettingError, match=r"no recipe file .*none.toml.*\nBuilt-in recipes: assignment, .*digits"):
        read_recipe(str(tmp_path / "none.toml"))
    with pytest.raises(SettingError, match=r"no recipe named 'digit'.\nDid you mean 'digits'"):
        read_recipe("digit")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[dta]\n", r"no section of a recipe named 'dta'.\nDid you mean 'data'"),
        ("[data]\nnme = 'digits'\n", r"\[data\] needs name"),
        ("[model]\nlatent = 3\n", r"has no \[data\] section"),
        (MINIMAL + "binarisation = 'none'\n", r"no setting of data named 'binarisation'.\nDid you mean 'binarization'"),
        (MINIMAL + "levels = 1\n", r"data.levels must be ≥ 2 and ≤ 256; it is 1"),
        (MINIMAL + "[model]\nlatent = 0\n", r"model.latent must be ≥ 1; it is 0"),
        (MINIMAL + "[training]\nema = 1.0\n", r"training.ema must be ≥ 0 and < 1; it is 1.0"),
        (MINIMAL + "[training]\nprecision = 'half'\n", r"training.precision must be float32 | bfloat16; it is 'half'"),
        (MINIMAL + "[prior]\ncomponents = 3\n", r"\[prior\] needs a name"),
        (MINIMAL + "[prior]\nname = 3\n", r"prior.name must be text; it is 3"),
        (MINIMAL + "[code]\n'a.py' = 3\n", r"code.'a.py' must be the SHA-256 of that file; it is 3"),
        ("data = 3\n", r"\[data\] must be a table of settings; it is 3"),
    ],
)
def test_wrong_files_are_refused(text: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        from_toml(text)


def test_what_is_wrong_in_a_file_is_said_with_its_name(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(MINIMAL + "binarisation = 'none'\n")
    with pytest.raises(SettingError, match=r"mine.toml: There is no setting of data named 'binarisation'.\nDid you mean"):
        read_recipe(str(file))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (Part("mixtures"), r"no prior named 'mixtures'.\nDid you mean 'mixture'"),
        (Part("mixture", {"componentz": 3}), r"no setting of prior named 'componentz'.\nDid you mean 'components'"),
        (Part("mixture", {"components": 0}), r"prior.components must be ≥ 1; it is 0"),
        (Part("mixture", {"init": "kmeans"}), r"prior.init must be normal | k-means; it is 'kmeans'"),
    ],
)
def test_wrong_parts_are_refused_when_resolved(part: Part, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        replace(PLAIN, prior=part).resolve(Path())


def test_what_is_not_set_is_written_as_a_comment() -> None:
    recipe = PLAIN.override({"data.size": 28}).resolve(Path())
    unset = {name for name, value in vars(recipe.data).items() if value is None}
    assert "train_limit" in unset
    text = recipe.to_toml(unset=True)
    assert all(f"\n# {name} = (not set): " in text for name in unset)
    assert "# train_limit = (not set): all images of the split\n" in text
    assert "# size" not in text
    assert from_toml(text) == from_toml(recipe.to_toml())
    mine = replace(PLAIN, prior=Part("standard-normal", {"share": None, "two words": None}))
    assert '# share = (not set)\n# "two words" = (not set)\n' in mine.to_toml(unset=True)
    assert "(not set)" not in recipe.to_toml()


# Changes ------------------------------------------------------------------------------------------------------------------


def test_overrides_change_one_setting_each() -> None:
    changed = PLAIN.override(
        {"training.epochs": CommandText("7"), "model.latent": 3, "encoder.hidden": CommandText("5,6"), "data.threshold": 1}
    )
    assert (changed.training.epochs, changed.model.latent, changed.data.threshold) == (7, 3, 1.0)
    assert changed.resolve(Path()).encoder.options["hidden"] == (5, 6)
    assert changed.prior == PLAIN.prior
    assert PLAIN.training.epochs == 1000


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("training.epoch", 3, r"no setting of training named 'epoch'.\nDid you mean 'epochs'"),
        ("train.epochs", 3, r"no setting named 'train.epochs'.\nDid you mean 'training.epochs'"),
        ("training", 3, r"no setting named 'training'.\nDid you mean .*\? `vaelid train --dry-run` lists all \d+\.$"),
        ("code.x", "a", r"no setting named 'code.x'"),
        ("training.epochs", CommandText("0"), r"training.epochs must be ≥ 1; it is 0"),
        ("prior.name", "mixtur", r"no prior named 'mixtur'.\nDid you mean 'mixture'"),
        ("prior.name", "auto", r"no prior named 'auto'"),
    ],
)
def test_wrong_overrides_are_refused(key: str, value: object, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        PLAIN.override({key: value})


def test_a_renamed_part_keeps_the_options_it_accepts() -> None:
    recipe = replace(PLAIN, optimizer=Part("adam", {"lr": 0.1, "beta1": 0.5}), prior=Part("mixture", {"components": 3}))
    assert recipe.override({"optimizer.name": "sgd"}).optimizer == Part("sgd", {"lr": 0.1})
    assert recipe.override({"optimizer.name": "adamw"}).optimizer.options == {"lr": 0.1, "beta1": 0.5}
    assert recipe.override({"prior.name": "factorized-mixture"}).prior == Part("factorized-mixture", {"components": 3})
    assert recipe.override({"prior.name": "standard-normal"}).prior == Part("standard-normal", {})
    assert recipe.override({"prior.name": "own.py:Mine"}).prior == Part("own.py:Mine", {})
    assert recipe.override({"likelihood.name": "auto"}).likelihood == Part("auto")


def test_options_given_with_a_name_belong_to_the_new_part() -> None:
    changed = PLAIN.override({"optimizer.momentum": 0.5, "optimizer.name": "sgd"}).resolve(Path())
    assert changed.optimizer.options == {"lr": 1e-3, "momentum": 0.5, "weight_decay": 0.0}
    with pytest.raises(SettingError, match="no setting of prior named 'components'"):
        PLAIN.override({"prior.components": 3, "prior.name": "standard-normal"}).resolve(Path())


@pytest.mark.parametrize(
    ("hidden", "mirrored"),
    [
        *[
            (CommandText(one), CommandText(other))
            for one, other in (("512,256", "256,512"), ("[512, 256]", " 256,512"), ("5", "5"))
        ],
        *[((512, 256), (256, 512)), ([3], (3,)), (512, 512)],
    ],
)
def test_hidden_widths_serve_the_decoder_in_reverse(hidden: Any, mirrored: Any) -> None:
    assert expand({"hidden": hidden}) == {"encoder.hidden": hidden, "decoder.hidden": mirrored}
    resolved = PLAIN.override(expand({"hidden": hidden})).resolve(Path())
    assert resolved.decoder.options["hidden"] == tuple(reversed(resolved.encoder.options["hidden"]))


def test_short_names_stand_for_settings_that_exist() -> None:
    sections = PLAIN.override({"prior.name": "mixture"}).resolve(Path()).to_dict()
    for name, keys in SHORTCUTS.items():
        for section, key in (full.split(".") for full in keys):
            assert key in sections[section], name
    assert expand({"lr": 1, "data.size": 2}) == {"optimizer.lr": 1, "data.size": 2}
    with pytest.raises(SettingError, match=r"no setting named 'latents'.\nDid you mean 'latent'"):
        expand({"latents": 3})


# Identity -----------------------------------------------------------------------------------------------------------------


def test_identity_is_everything_but_how_long() -> None:
    one = PLAIN.resolve(Path())
    assert one.identity() == one.override({"training.epochs": 5, "training.patience": 0}).identity()
    assert one.digest() == one.override({"training.epochs": 5, "training.patience": 0}).digest()
    for change in (
        {"training.seed": 1},
        {"optimizer.lr": 0.1},
        {"data.split_seed": 1},
        {"prior.components": 3},
        {"encoder.hidden": (3,)},
    ):
        assert one.override(change).digest() != one.digest()


@pytest.mark.parametrize(
    ("schedule", "counts"), [("constant", False), ("plateau", False), ("staged", False), ("cosine", True), ("own.py:Mine", True)]
)
def test_epochs_count_where_the_schedule_is_stretched_over_them(schedule: str, counts: bool) -> None:
    one = replace(PLAIN, schedule=Part(schedule))
    assert (one.digest() != one.override({"training.epochs": 5}).digest()) == counts
    assert one.digest() == one.override({"training.patience": 5}).digest()


def test_the_digest_is_stable() -> None:
    """It depends neither on the order of settings nor on lists standing for tuples."""
    resolved = PLAIN.resolve(Path())
    backwards = {section: dict(reversed(items.items())) for section, items in reversed(resolved.to_dict().items())}
    assert from_dict(backwards).digest() == resolved.digest()
    assert re.fullmatch("[0-9a-f]{8}", resolved.digest())
    listed = from_dict({**PLAIN.to_dict(), "encoder": {"name": "mlp", "hidden": [5]}})
    assert listed.digest() == replace(PLAIN, encoder=Part("mlp", {"hidden": (5,)})).digest()


# User code ----------------------------------------------------------------------------------------------------------------

CODE = """
from vaelid.priors import StandardNormalPrior

class Mine(StandardNormalPrior):
    def __init__(self, latent: int, size: float, some: int | None = 5) -> None:
        super().__init__(latent)
"""


def own(folder: Path, name: str = "own.py") -> str:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(CODE)
    return f"{folder / name}:Mine"


def test_code_is_adopted_with_its_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = own(tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    for given_as in (name, "a/own.py:Mine"):
        recipe, folder = PLAIN.override({"prior.name": given_as, "prior.size": 2}).adopt_code()
        assert recipe.prior == Part("own.py:Mine", {"size": 2})
        assert recipe.code == {"own.py": sha256(tmp_path / "a/own.py")}
        assert folder == tmp_path / "a"
        assert recipe.resolve(folder).prior.options == {"size": 2.0, "some": 5}
        assert from_toml(recipe.to_toml()) == recipe
    assert PLAIN.adopt_code() == (PLAIN, Path())


def test_code_that_is_no_longer_named_is_forgotten(tmp_path: Path) -> None:
    recipe, _ = PLAIN.override({"prior.name": own(tmp_path)}).adopt_code()
    assert recipe.override({"prior.name": "mixture"}).adopt_code() == (PLAIN, Path())


def test_code_must_lie_in_one_folder(tmp_path: Path) -> None:
    two = replace(PLAIN, prior=Part(own(tmp_path / "a")), posterior=Part(own(tmp_path / "b")))
    with pytest.raises(PartError, match=r"must lie in one folder; they lie in .*/a, .*/b\."):
        two.adopt_code()


def test_changed_and_missing_code_are_refused(tmp_path: Path) -> None:
    recipe = replace(PLAIN, prior=Part(own(tmp_path)))
    with pytest.raises(
        SettingError,
        match=r"own.py is not the file that the recipe was made with: its SHA-256 is [0-9a-f]{12}…, not aaaaaaaaaaaa…",
    ):
        replace(recipe, code={"own.py": "a" * 64}).adopt_code()
    with pytest.raises(PartError, match=r"none.py cannot be read"):
        replace(PLAIN, prior=Part("none.py:Mine")).adopt_code()


def test_options_of_users_parts_are_checked(tmp_path: Path) -> None:
    recipe, folder = replace(PLAIN, prior=Part(own(tmp_path))).adopt_code()
    with pytest.raises(SettingError, match=r"needs prior.size.\nGive it with --set prior.size=VALUE"):
        recipe.resolve(folder)
    with pytest.raises(SettingError, match=r"prior.some cannot be None in a recipe, since its default is 5"):
        recipe.override({"prior.size": 1, "prior.some": CommandText("")}).resolve(folder)
