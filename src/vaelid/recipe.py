"""A recipe holds every setting of a run: frozen dataclass <-> TOML file.

    text / file ──> Recipe ──override(key=value)──> Recipe ──resolve()──> Recipe with every default written out

Unknown keys are errors with the nearest known name.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from importlib import resources
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal, get_type_hints

from vaelid.data import DataSettings
from vaelid.errors import PartError, SettingError
from vaelid.optimizers import SCHEDULES
from vaelid.parts import KINDS, find, part_options
from vaelid.settings import CommandText, Count, Fraction, NonNegative, NonNegativeInt, check, options_of, unknown
from vaelid.usercode import is_code, sha256, split_name


@dataclass(frozen=True)
class Part:
    """A part by name, with its options."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelSettings:
    """``latent``: number of latent dimensions L."""

    latent: Count = 20


@dataclass(frozen=True)
class TrainingSettings:
    """How long, how fast, and how carefully.

    ``patience``: stop after more than this many epochs in a row without improvement (0: never); ``keep``: which weights are
    the run's, those of the ``best`` epoch by validation −ELBO or those of the ``last``; ``clip_norm``: largest gradient
    norm (0: no limit); ``ema``: decay of the moving average of the weights (0: off); ``validation_samples``: S, latent draws per
    image of the fixed validation estimator; ``precision``: of the networks' products, densities are always float32.
    """

    epochs: Count = 1000
    batch_size: Count = 32
    patience: NonNegativeInt = 20
    keep: Literal["best", "last"] = "best"
    seed: NonNegativeInt = 0
    clip_norm: NonNegative = 0.0
    ema: Fraction = 0.0
    validation_samples: Count = 1
    precision: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True)
class Recipe:
    """All settings of a run. ``code`` holds the SHA-256 of each file of user code, by file name."""

    data: DataSettings
    model: ModelSettings = field(default_factory=ModelSettings)
    posterior: Part = field(default_factory=lambda: Part("gaussian"))
    likelihood: Part = field(default_factory=lambda: Part(AUTO))
    prior: Part = field(default_factory=lambda: Part("mixture"))
    encoder: Part = field(default_factory=lambda: Part("mlp"))
    decoder: Part = field(default_factory=lambda: Part("mlp"))
    objective: Part = field(default_factory=lambda: Part("elbo"))
    optimizer: Part = field(default_factory=lambda: Part("adamax"))
    schedule: Part = field(default_factory=lambda: Part("constant"))
    training: TrainingSettings = field(default_factory=TrainingSettings)
    code: Mapping[str, str] = field(default_factory=dict)

    def override(self, changes: Mapping[str, Any]) -> Recipe:
        """The recipe with ``{"section.key": value}`` changed.

        A part that gets another name keeps those of its options that the new part takes as well; an option given in
        ``changes`` itself must fit.

        Raises:
            SettingError: for an unknown section or key (with the nearest known one), or a value out of range.
        """
        recipe = self
        # Names first: an option is checked against the part it is meant for.
        for key, value in sorted(changes.items(), key=lambda item: not item[0].endswith(".name")):
            recipe = recipe._changed(key, value)
        return recipe

    def adopt_code(self) -> tuple[Recipe, Path]:
        """The recipe with the SHA-256 of every file of user code that it names by path, and the folder they lie in.

        Names are cut to ``file.py:Class``, so that a recipe does not depend on where it was written.

        Raises:
            PartError: for a file that cannot be read or lies apart from the others.
            SettingError: if the recipe already knows the file by another hash.
        """
        recipe, code, folders = self, dict[str, str](), set[Path]()
        for kind in KINDS:
            part = getattr(self, kind)
            if not is_code(part.name):
                continue
            file, class_name = split_name(part.name)
            code[file.name] = sha256(file)
            folders.add(file.resolve().parent)
            recipe = recipe._with(kind, replace(part, name=f"{file.name}:{class_name}"))
        if len(folders) > 1:
            places = ", ".join(map(str, sorted(folders)))
            raise PartError(f"Files of user code must lie in one folder; they lie in {places}.", "Put them side by side.")
        for name, digest in code.items():
            known = self.code.get(name, digest)
            if known != digest:
                raise SettingError(
                    f"{name} is not the file that the recipe was made with: its SHA-256 is {digest[:12]}…, not {known[:12]}….",
                    f"Restore the file, or take {name!r} out of [code] to train with it as it is now.",
                )
        return replace(recipe, code=code), folders.pop() if folders else Path()

    def resolve(self, folder: Path) -> Recipe:
        """Every option checked and every default written out; files of user code are looked for in ``folder``."""
        recipe = self
        for kind in KINDS:
            recipe = recipe._with(kind, self._resolved_part(kind, folder))
        return recipe

    def _with(self, section: str, value: Any) -> Recipe:
        changes: dict[str, Any] = {section: value}
        return replace(self, **changes)

    def _changed(self, key: str, value: Any) -> Recipe:
        section, _, name = key.partition(".")
        if section not in SECTIONS or section == "code" or not name:
            known = [f"{s}.{o}" for s in SECTIONS for o in _keys(s, getattr(self, s))]
            raise unknown("setting", key, known, listing="vaelid train --dry-run")
        current = getattr(self, section)
        if not isinstance(current, Part):
            given = check(section, options_of(SECTIONS[section]), {name: value})
            return self._with(section, replace(current, **given))
        if name == "name":
            return self._renamed(section, str(value))
        return self._with(section, Part(current.name, {**current.options, name: value}))

    def _renamed(self, kind: str, name: str) -> Recipe:
        if is_code(name):
            return self._with(kind, Part(name))  # ``adopt_code`` looks at the file
        if name == AUTO and kind == "likelihood":
            return replace(self, likelihood=Part(AUTO))
        accepted = part_options(kind, find(kind, name, {}, Path()))
        kept = {key: value for key, value in getattr(self, kind).options.items() if key in accepted}
        return self._with(kind, Part(name, kept))

    def _resolved_part(self, kind: str, folder: Path) -> Part:
        part = getattr(self, kind)
        if part.name == AUTO:
            return part
        options = part_options(kind, find(kind, part.name, self.code, folder))
        given = check(kind, options, part.options)
        missing = [name for name, option in options.items() if option.required and name not in given]
        if missing:
            key = f"{kind}.{missing[0]}"
            raise SettingError(f"The {kind} {part.name!r} needs {key}.", f"Give it with --set {key}=VALUE.")
        lost = [name for name, value in given.items() if value is None and options[name].default is not None]
        if lost:  # TOML has no word for None: read again, the recipe would say something else
            raise SettingError(f"{kind}.{lost[0]} cannot be None in a recipe, since its default is {options[lost[0]].default!r}.")
        return Part(part.name, {name: given.get(name, option.default) for name, option in options.items()})

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Plain nested dictionaries, as in the TOML file; settings that are None are left out."""
        sections = {}
        for name in SECTIONS:
            value = getattr(self, name)
            plain = {"name": value.name, **value.options} if isinstance(value, Part) else _plain(value)
            sections[name] = {key: item for key, item in plain.items() if item is not None}
        return sections

    def to_toml(self, unset: bool = False) -> str:
        """The recipe as a TOML file; with ``unset`` each setting that is not set stands there too, as a comment."""
        blocks = []
        for section, settings in self.to_dict().items():
            lines = [f"{_toml_key(key)} = {_toml_value(value)}" for key, value in settings.items()]
            lines += _comments(getattr(self, section)) if unset else []
            if lines:
                blocks.append("\n".join([f"[{section}]", *lines]))
        return "\n\n".join(blocks) + "\n"

    def flat(self) -> dict[str, Any]:
        """All settings by full name: ``{"section.key": value}``."""
        return {f"{section}.{key}": value for section, settings in self.to_dict().items() for key, value in settings.items()}

    def identity(self) -> dict[str, Any]:
        """The settings that make a run this run and no other, flat: ``{"section.key": value}``.

        ``patience`` may be raised on a run that stands, and so may ``epochs`` unless the schedule is stretched over them (or may
        be: a user's own schedule).
        """
        flat = self.flat()
        del flat["training.patience"]
        if self.schedule.name in SCHEDULES and not SCHEDULES[self.schedule.name].needs_total:
            del flat["training.epochs"]
        return flat

    def digest(self) -> str:
        """Eight hex digits that name the identity."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True, default=list).encode()).hexdigest()[:8]


AUTO = "auto"  # a likelihood of this name follows from the data's support
SECTIONS: dict[str, Any] = get_type_hints(Recipe)
SHORTCUTS: dict[str, tuple[str, ...]] = {  # short names of settings, for the command line and for Python
    "prior": ("prior.name",),
    "likelihood": ("likelihood.name",),
    "posterior": ("posterior.name",),
    "latent": ("model.latent",),
    "components": ("prior.components",),
    "hidden": ("encoder.hidden", "decoder.hidden"),
    "epochs": ("training.epochs",),
    "batch_size": ("training.batch_size",),
    "lr": ("optimizer.lr",),
    "optimizer": ("optimizer.name",),
    "schedule": ("schedule.name",),
    "patience": ("training.patience",),
    "seed": ("training.seed",),
    "binarization": ("data.binarization",),
    "beta": ("objective.beta",),
}


def from_toml(text: str, where: str = "") -> Recipe:
    """A recipe from TOML text.

    Raises:
        SettingError: for text that is no TOML, unknown sections or keys, and values out of range.
    """
    try:
        return from_dict(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise SettingError(f"{where or 'The recipe'} is not valid TOML: {error}.") from error
    except SettingError as error:
        raise SettingError(f"{where}: {error.problem}" if where else error.problem, error.remedy) from error


def from_dict(sections: Mapping[str, Any]) -> Recipe:
    """A recipe from nested dictionaries as :meth:`Recipe.to_dict` gives them."""
    values: dict[str, Any] = {}
    for section, settings in sections.items():
        if section not in SECTIONS:
            raise unknown("section of a recipe", section, SECTIONS)
        if not isinstance(settings, Mapping):
            raise SettingError(f"[{section}] must be a table of settings; it is {settings!r}.")
        values[section] = _section(section, dict(settings))
    if "data" not in values:
        raise SettingError("The recipe has no [data] section.", 'Add [data] with name = "digits", "mnist" or a path.')
    return Recipe(**values)


def read_recipe(name: str) -> Recipe:
    """A recipe by built-in name or from a TOML file.

    Raises:
        SettingError: if it is neither.
    """
    path = Path(name).expanduser()
    if path.suffix == ".toml":
        if not path.is_file():
            raise SettingError(f"There is no recipe file {path}.", f"Built-in recipes: {', '.join(recipe_names())}.")
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SettingError(f"{path} cannot be read: {error}.", "A recipe is a text file in UTF-8.") from error
        return from_toml(text, where=str(path))
    if name not in recipe_names():
        raise unknown("recipe", name, recipe_names())
    return from_toml((_BUILT_IN / f"{name}.toml").read_text(encoding="utf-8"), where=f"recipe {name}")


def recipe_names() -> list[str]:
    """Names of the built-in recipes."""
    return sorted(Path(entry.name).stem for entry in _BUILT_IN.iterdir() if entry.name.endswith(".toml"))


def read_about(name: str) -> str:
    """The comment at the head of a built-in recipe: what it is for."""
    lines = (_BUILT_IN / f"{name}.toml").read_text(encoding="utf-8").splitlines()
    return " ".join(line.removeprefix("# ") for line in takewhile(lambda line: line.startswith("#"), lines))


def expand(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Short names to full ones: ``{"lr": 1e-3}`` -> ``{"optimizer.lr": 1e-3}``; full ones stay.

    A network given once serves both ways: the decoder gets the hidden widths in reverse.
    """
    full: dict[str, Any] = {}
    for name, value in settings.items():
        if "." not in name and name not in SHORTCUTS:
            raise unknown("setting", name, SHORTCUTS)
        for key in SHORTCUTS.get(name, (name,)):
            full[key] = _mirrored(value) if name == "hidden" and key.startswith("decoder") else value
    return full


_BUILT_IN = resources.files("vaelid") / "recipes"


def _section(section: str, settings: dict[str, Any]) -> Any:
    kind = SECTIONS[section]
    if kind is Part:
        if "name" not in settings:
            raise SettingError(f"[{section}] needs a name.", f"Known: {', '.join(KINDS[section].table)}.")
        name = settings.pop("name")
        if not isinstance(name, str):
            raise SettingError(f"{section}.name must be text; it is {name!r}.")
        return Part(name, settings)
    if isinstance(kind, type) and is_dataclass(kind):
        options = options_of(kind)
        missing = [name for name, option in options.items() if option.required and name not in settings]
        if missing:
            raise SettingError(f"[{section}] needs {missing[0]}.")
        return kind(**check(section, options, settings))
    wrong = [name for name, digest in settings.items() if not isinstance(digest, str)]
    if wrong:
        raise SettingError(f"{section}.{wrong[0]!r} must be the SHA-256 of that file; it is {settings[wrong[0]]!r}.")
    return settings


def _keys(section: str, value: Any) -> list[str]:
    if isinstance(value, Part):
        return ["name", *value.options]
    return [f.name for f in fields(value)] if is_dataclass(value) else []


def _comments(section: Any) -> list[str]:
    """A comment for each setting that is None, for which TOML has no word: what happens without it, where that is known."""
    part = isinstance(section, Part)
    options = {} if part or not is_dataclass(section) else options_of(type(section))
    meanings = {name: option.unset for name, option in options.items() if option.unset}
    values = section.options if part else _plain(section)
    return [
        f"# {_toml_key(name)} = (not set){f': {meanings[name]}' if name in meanings else ''}"
        for name, value in values.items()
        if value is None
    ]


def _plain(value: Any) -> dict[str, Any]:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else dict(value)


def _mirrored(hidden: Any) -> Any:
    if isinstance(hidden, CommandText):
        widths = hidden.strip().removeprefix("[").removesuffix("]").split(",")
        return CommandText(",".join(reversed(widths)))
    return tuple(reversed(hidden)) if isinstance(hidden, list | tuple) else hidden


def _toml_key(key: str) -> str:
    bare = key.isascii() and key.replace("_", "").replace("-", "").isalnum()
    return key if bare else _toml_value(key)


def _toml_value(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # TOML forbids that one character JSON allows
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml_value(item) for item in value)}]"
    return repr(value)
