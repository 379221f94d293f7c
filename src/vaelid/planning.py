"""What a study is to train: every member resolved and checked before anything is written, and held to what the folder has."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from vaelid import __version__, pool
from vaelid.build import build_model
from vaelid.errors import RunError, UserError
from vaelid.recipe import Recipe, expand, from_toml
from vaelid.settings import at_least_one
from vaelid.sweeps.grid import canonical, combinations, label
from vaelid.sweeps.ledger import Ledger, Member, StudyFolder, plain, require_same
from vaelid.training.begin import clear, require_room
from vaelid.training.engines import require_engine
from vaelid.training.request import Request, base_recipe, named, request
from vaelid.training.start import choose_device
from vaelid.training.surroundings import own_randomness
from vaelid.training.tracking import trackers_of
from vaelid.worker import Order

_FINGERPRINT = "data (fingerprint)"


@dataclass(frozen=True)
class Common:
    """What all members of a study share: the arguments of ``train``."""

    data: str | Path | None
    recipe: str | Recipe | None
    settings: Mapping[str, Any]
    device: str = "auto"
    init_from: Path | None = None
    checkpoint_seconds: float = 10.0
    track: tuple[str, ...] = ()
    engine: str = "auto"

    def require_possible(self) -> None:
        """Refuse a device, an engine or a tracker that is not to be had."""
        choose_device(self.device)
        require_engine(self.engine)
        trackers_of(self.track)


@dataclass(frozen=True)
class Plan:
    """The members that were asked for, and what is to be done for each."""

    grid: dict[str, list[Any]]
    seeds: list[int]
    members: dict[str, Member]
    orders: dict[str, Order]


def plan(out: Path, common: Common, grid: Mapping[str, Sequence[Any]], seeds: int, jobs: int) -> Plan:
    """Every member of the grid, resolved and checked.

    Raises:
        UserError: for numbers below 1, members that are equal, and all that ``train`` would refuse.
    """
    at_least_one(seeds, "seeds")
    at_least_one(jobs, "jobs")
    common.require_possible()
    axes = [canonical(name) for name in grid]
    planned = Plan({axis: [] for axis in axes}, [], {}, {})
    for own in combinations(grid):
        asked = asked_for(out, common, own)
        first = asked.recipe.training.seed
        planned.seeds[:] = range(first, first + seeds)
        combination, kind = label(axes, asked.recipe), kind_of(asked)
        for axis in axes:
            planned.grid[axis] = list(dict.fromkeys([*planned.grid[axis], label([axis], asked.recipe).partition("=")[2]]))
        for seed in planned.seeds:
            name = f"{combination},seed={seed}" if axes else f"seed={seed}"
            if name in planned.members:
                raise UserError(f"The grid holds {combination} twice.", "Give every value once.")
            one = replace(asked.recipe, training=replace(asked.recipe.training, seed=seed))
            planned.orders[name] = order_of(out / name, one, asked.code_from, common, jobs)
            planned.members[name] = member_of(name, combination, seed, own, one, asked, kind, common)
    return planned


def taken_up(folder: StudyFolder, planned: Plan, overwrite: bool) -> Ledger:
    """The study as it stands, with the members that were asked for added; the caller holds the folder's lock.

    Raises:
        RunError: if the study was made with other settings.
    """
    folder.require_room()
    ledger = folder.read() if folder.exists else Ledger()
    if ledger.search and not overwrite:
        raise RunError(f"{folder.path} holds a search, not a grid.", "Give another --out, or --overwrite to start afresh.")
    if overwrite:
        clear_members(folder, {**ledger.members, **planned.members})
        ledger = Ledger()
    shared = [name for name in planned.members if name in ledger.members]
    for name in shared:
        _hold_to(folder, ledger.members[name], planned.members[name], planned.orders[name])
    if ledger.members and not shared:
        axes = {*ledger.grid, *planned.grid}
        stood, asked = next(iter(ledger.members.values())), next(iter(planned.members.values()))
        require_same(settings_in_common(stood.recipe, axes), settings_in_common(asked.recipe, axes), folder.path)
    return replace(
        ledger,
        grid={**ledger.grid, **{a: list(dict.fromkeys([*ledger.grid.get(a, []), *v])) for a, v in planned.grid.items()}},
        seeds=sorted({*ledger.seeds, *planned.seeds}),
        members={**ledger.members, **{name: m for name, m in planned.members.items() if name not in ledger.members}},
        vaelid=__version__,
    )


def asked_for(out: Path, common: Common, own: Mapping[str, Any]) -> Request:
    """What ``train`` would do with the common settings and a combination's ``own``.

    In this order, so that a prior of the grid takes those of the common options that it knows: ``components`` says nothing to a
    standard normal, and that is no error here.
    """
    base = base_recipe(common.data, common.recipe).override(expand({key: named(value) for key, value in common.settings.items()}))
    return request(None, base, out, own)


def order_of(folder: Path, recipe: Recipe, code_from: Path, common: Common, jobs: int) -> Order:
    """What a worker is told to train ``recipe`` in the member's ``folder``."""
    run = StudyFolder(folder.parent).member(folder.name)
    about = run.read_json(run.environment_file)
    # A run keeps the threads that it began with, since the last bits of its sums depend on their number.
    threads = int(about.get("threads", max(1, min(torch.get_num_threads(), pool.cores() // jobs))))
    start = str(common.init_from.resolve()) if common.init_from is not None else None
    where = (str(code_from.resolve()), str(folder.resolve()))
    return Order(recipe.to_toml(), *where, common.device, start, common.checkpoint_seconds, threads, common.track, common.engine)


def member_of(
    name: str, combination: str, seed: int, own: Mapping[str, Any], recipe: Recipe, asked: Request, kind: str, common: Common
) -> Member:
    """The entry in study.json of one member, whose ``recipe`` differs from what was ``asked`` for in its seed alone."""
    sections = recipe.to_dict()
    keys = [key.partition(".") for key in expand(own)]
    settings = {f"{section}.{key}": sections[section].get(key) for section, _, key in keys} | {"training.seed": seed}
    identity = {**recipe.identity(), _FINGERPRINT: asked.data.fingerprint}
    if common.init_from is not None:
        identity["--init-from"] = str(common.init_from.resolve())
    return Member(name, combination, seed, plain(settings), plain(identity), asked.data.validation.fingerprint, kind)


def kind_of(asked: Request) -> str:
    """What the model's −ELBO is about: values of one kind only can be compared."""
    with own_randomness(0):
        model = build_model(asked.recipe, asked.data.shape, asked.data.support, asked.code_from)
    return "probability" if model.likelihood.support.discrete else "density"


def clear_members(folder: StudyFolder, names: Mapping[str, Member]) -> None:
    """Remove what the runs of these members made."""
    for name in names:
        run = folder.member(name)
        if run.exists:
            with run.lock():
                require_room(run)
                clear(run)


def _hold_to(folder: StudyFolder, stood: Member, asked: Member, order: Order) -> None:
    """Refuse other settings for a member that is there; one whose epochs or patience are raised is to go on.

    Raises:
        RunError: with every setting that differs.
    """
    require_same(stood.recipe, asked.recipe, folder.path)
    run = folder.member(stood.name)
    if not run.exists:
        stood.status = "waiting"
        return
    before, after = run.recipe().training, from_toml(order.recipe).training
    lowered = {"training.epochs": (before.epochs, after.epochs)} if after.epochs < before.epochs else {}
    if (after.patience or math.inf) < (before.patience or math.inf):
        lowered["training.patience"] = (before.patience, after.patience)
    require_same({key: a for key, (a, _) in lowered.items()}, {key: b for key, (_, b) in lowered.items()}, folder.path)
    if (before.epochs, before.patience) != (after.epochs, after.patience) and stood.status == "finished":
        stood.status = "waiting"


def settings_in_common(recipe: Mapping[str, Any], axes: set[str]) -> dict[str, Any]:
    """The settings that no axis touches: an axis that names a part takes the part's options along, the data their likelihood."""
    own = {key for axis in axes for key in expand({axis: None})} | {"training.seed"}
    sections = {key.partition(".")[0] for key in own if key.endswith(".name")}
    if any(key.startswith("data.") for key in own):
        sections |= {"likelihood", _FINGERPRINT}
    return {key: value for key, value in recipe.items() if key not in own and key.partition(".")[0] not in sections}
