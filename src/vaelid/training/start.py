"""From a recipe, data and a folder to a training under way: fresh, resumed, or already finished."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from vaelid import kernels
from vaelid.build import build_model, build_objective, build_optimizer, build_schedule
from vaelid.data import Data, Shades
from vaelid.errors import DataError, Diverged, MachineError, PartError, RunError, SupportError, VaelidError
from vaelid.evaluation.likelihood import PosteriorDraws
from vaelid.folder import DIVERGED, RunFolder, write_atomic
from vaelid.likelihoods import Likelihood
from vaelid.progress import Reporter
from vaelid.recipe import Recipe
from vaelid.training.begin import DTYPE, begin, clear, note_outcome, require_room, require_same
from vaelid.training.checkpoint import load_checkpoint
from vaelid.training.engines import AUTO, ENGINES, SAME_BITS, Choice, Eager, choose, require_engine
from vaelid.training.flat import FlatParameters
from vaelid.training.loop import LEGEND, fit
from vaelid.training.snapshots import Snapshots
from vaelid.training.state import Training, average_of
from vaelid.training.surroundings import fixed_numerics, own_randomness, stop_on_signal
from vaelid.training.tracking import Tracker, tracked
from vaelid.vae import VAE

__all__ = ["Conditions", "choose_device", "own_randomness", "train_in"]

#: How many training images the parts may look at before training (output bias, k-means).
_FIRST_LOOK = 10_000
#: Real pixels beyond ± this are far from the scale of standardized ones.
_FAR = 10.0
#: From so many weights on, compiled loops are worth their second at the start.
_MANY_WEIGHTS = 2**18


@dataclass(frozen=True)
class Conditions:
    """How to train, apart from what: none of this is part of a run's identity, but for where its first weights came from."""

    device: torch.device
    overwrite: bool = False
    engine: str = AUTO  # at the first start; later ones keep to it
    init_from: Path | None = None
    checkpoint_seconds: float = 10.0  # at least so long between checkpoints; 0: after every step
    trackers: Mapping[str, Tracker] = field(default_factory=dict)  # by name; told of every epoch

    def __post_init__(self) -> None:
        require_engine(self.engine)


def train_in(folder: RunFolder, recipe: Recipe, code_from: Path, data: Data, conditions: Conditions, reporter: Reporter) -> str:
    """Train the resolved ``recipe`` in ``folder``, from scratch or from where it stands; returns why it ended, in words.

    Args:
        code_from: where the recipe's files of user code lie; they are copied into the folder

    Raises:
        RunError: if the folder belongs to other settings or data, holds no run but other files, or is in use.
        DataError: if the images do not fit the likelihood.
        Diverged, Interrupted, MachineError: see ``loop.fit``.
    """
    with folder.lock():
        with (
            fixed_numerics(*numerics_of(folder, recipe, data, conditions)),
            own_randomness(recipe.training.seed),
            stop_on_signal() as stop_asked,
            under_way(folder, recipe, code_from, data, conditions, reporter) as training,
        ):
            if not training.outcome:
                reporter.say(LEGEND)
                with reporter.bar("training", recipe.training.epochs * training.batches, training.state.step):
                    fit(training, reporter, stop_asked, conditions.checkpoint_seconds)
        return training.outcome


def numerics_of(folder: RunFolder, recipe: Recipe, data: Data, conditions: Conditions) -> tuple[int, str]:
    """Threads and type of numbers for this training: those of now, or those with which a run that is there was begun.

    Raises:
        RunError: if the folder belongs to other settings or data, or holds no run but other files.
    """
    require_room(folder)
    if conditions.overwrite or not folder.exists:
        return torch.get_num_threads(), DTYPE
    require_same(folder, recipe, data, conditions.engine, conditions.init_from)
    about = folder.require().read_json(folder.environment_file)
    return int(about["threads"]), about.get("dtype", DTYPE)


@contextmanager
def under_way(
    folder: RunFolder, recipe: Recipe, code_from: Path, data: Data, conditions: Conditions, reporter: Reporter
) -> Iterator[Training]:
    """A training, fresh or taken up where it stands, with everything that follows it; how it ends is written down at the end.

    The caller holds the folder's lock, has asked :func:`numerics_of`, and has seeded torch.
    """
    first = conditions.overwrite or not folder.exists
    training = prepare(folder, recipe, data, conditions.device, code_from if first else folder.code)
    if first:
        warn_of_range(training, recipe, reporter)
        start_afresh(training, recipe, code_from, conditions, reporter)
    else:
        go_on(training, recipe, reporter)
    with tracked(conditions.trackers, folder, recipe.flat(), training.history, reporter) as training.track:
        if training.outcome:
            training.save_kept()
            reporter.say(f"{folder.path} is finished: {training.outcome}. Raise --epochs or --patience to go on.")
        else:
            if not first:
                training.use(keep_engine(training, recipe))
            note_outcome(folder, "")
        try:
            yield training
        except Diverged as error:  # the same command still tries again from the checkpoint
            note_divergence(folder, error)
            raise
    note_outcome(folder, training.outcome)


def note_divergence(folder: RunFolder, error: Diverged) -> None:
    """Write down that it was a divergence that ended the training."""
    with suppress(MachineError):  # the divergence is the news, not a disk that refuses a note of it
        note_outcome(folder, f"{DIVERGED}: {error.problem}")


def prepare(folder: RunFolder, recipe: Recipe, data: Data, device: torch.device, code: Path) -> Training:
    """All objects of a training, as they are before its start; nothing is written."""
    if device.type == "cuda":
        torch.cuda.init()
    model = build_model(recipe, data.shape, data.support, code).to(device)
    average = average_of(model, recipe.training.ema)
    # A user's own part may do with the weights of a layer what it likes, so there autograd keeps all gradients.
    weights = FlatParameters(model, () if recipe.code else [m for m in model.modules() if type(m) is nn.Linear])
    if weights.flat.numel() >= _MANY_WEIGHTS:
        kernels.start()
    return Training(
        engine=Eager(model, weights, recipe.training.precision == "bfloat16"),
        settings=recipe.training,
        folder=folder,
        data=data.to(device),
        model=model,
        average=average,
        objective=build_objective(recipe, code),
        weights=weights,
        optimizer=build_optimizer(recipe, [weights.flat], code),
        schedule=build_schedule(recipe, code),
        # Data may move, and their fingerprint tells whether they are the same.
        identity={key: value for key, value in recipe.identity().items() if key != "data.name"},
        snapshots=Snapshots(folder, recipe.training.seed, Shades.of(data.train)),
    )


def start_afresh(training: Training, recipe: Recipe, code_from: Path, conditions: Conditions, reporter: Reporter) -> None:
    """Check the data, look at them once, and make the folder a run; whatever is refused is refused before anything is written."""
    folder = training.folder
    check_data(training.model.likelihood, training.data)
    if conditions.init_from is not None:
        load_weights(training.model, RunFolder(conditions.init_from).require())
    else:
        first_look(training.model, training.data)
    training.average.load_state_dict(training.model.state_dict())
    if recipe.code:
        try_out(training)
    chosen = find_engine(conditions.engine, training, recipe)
    training.use(chosen.engine)
    code = {name: (code_from / name).read_bytes() for name in recipe.code}
    clear(folder)
    engine = {"engine": chosen.engine.name, "engine_asked": conditions.engine, "engine_reason": chosen.reason}
    begin(folder, code, training.data, conditions.device, engine, conditions.init_from)
    sentence = f"engine: {chosen.engine.name} ({chosen.reason})"
    folder.log(sentence)
    if conditions.engine not in (AUTO, chosen.engine.name):
        reporter.say(f"warning: {sentence}")
    # From now on every start resumes: the look at the data is over for good. With the recipe the folder is a run.
    training.checkpoint()
    write_atomic(folder.recipe_file, recipe.to_toml().encode())


def warn_of_range(training: Training, recipe: Recipe, reporter: Reporter) -> None:
    """Say so where real pixels are far from the scale that networks and learning rates are made for."""
    train = training.data.train
    if train.support.name != "real":
        return
    seen = Shades.of(train)
    if max(abs(seen.black), abs(seen.white)) > _FAR:
        reporter.say(
            f"warning: pixels are real numbers, in the first images from {seen.black:g} to {seen.white:g}: on that scale "
            f"training may diverge, and {recipe.likelihood.name} gives densities. "
            "Scale them to [0, 1]; or save whole gray values as uint8."
        )


def go_on(training: Training, recipe: Recipe, reporter: Reporter) -> None:
    """Take up the run where its last whole checkpoint stands."""
    folder = training.folder
    folder.remove_leftovers()
    checkpoint = load_checkpoint(folder, reporter.say)
    training.restore(checkpoint, reporter.say)
    if checkpoint.facts["torch"] != torch.__version__:
        reporter.say(
            f"warning: the run was made with torch {checkpoint.facts['torch']}, this is {torch.__version__}: "
            "it goes on, but not bit for bit as it would have."
        )
    resolved = recipe.to_toml().encode()
    if resolved != folder.recipe_file.read_bytes():
        write_atomic(folder.recipe_file, resolved)  # epochs or patience were raised
    if not training.outcome:
        sentence = f"resuming {folder.path} after epoch {training.state.epoch} (step {training.state.step})"
        folder.log(sentence)
        reporter.say(sentence)


def find_engine(asked: str, training: Training, recipe: Recipe) -> Choice:
    """The engine asked for or, where it cannot be used, eager. It is tried on the first images; nothing is changed by that."""
    split, settings = training.data.train, recipe.training
    x = split.batch(torch.arange(min(settings.batch_size, len(split))), seed=settings.seed)
    steps = settings.epochs * training.batches - training.state.step
    training.model.train()
    return choose(asked, training.engine, x, training.objective.at(0), steps, bool(recipe.code))


def keep_engine(training: Training, recipe: Recipe) -> Eager:
    """The engine that the run was begun with.

    Raises:
        RunError: if it cannot be used here and another would give other digits.
    """
    begun_with = training.folder.read_json(training.folder.environment_file)["engine"]
    if begun_with not in ENGINES:
        raise RunError(f"{training.folder.path} was begun with engine {begun_with!r}, which this version does not know.")
    choice = find_engine(begun_with, training, recipe)
    if choice.engine.name != begun_with and begun_with not in SAME_BITS:
        raise RunError(
            f"{training.folder.path} was begun with --engine {begun_with}, but {choice.reason}.",
            "Go on on a machine like that of its start, or train anew with --engine auto.",
        )
    return choice.engine


@torch.no_grad()
def try_out(training: Training) -> None:
    """Run the parts of a user's own on two images: what breaks in them is said now, and as theirs.

    Raises:
        PartError: with what was raised.
    """
    x = training.data.train.batch(torch.arange(min(2, len(training.data.train))))
    try:
        with own_randomness(0):
            bound = training.objective(training.model(x, training.objective.samples))
    except VaelidError:
        raise
    except Exception as error:
        raise PartError(
            f"The model with your own parts fails on training images: {type(error).__name__}: {error}.", "--debug shows where."
        ) from error
    if bound.shape != (len(x),):
        raise PartError(
            f"With your own parts the objective gives shape {tuple(bound.shape)} for {len(x)} images.",
            "Each part has to keep to its contract, one number per image: vaelid.audit tells which does not.",
        )


def load_weights(model: VAE, source: RunFolder) -> None:
    """Start from the trained weights of another run.

    Raises:
        RunError: if they belong to a model of another make.
    """
    try:
        model.load_state_dict(source.weights())
    except RuntimeError as error:
        reason = "; ".join(line.strip() for line in str(error).splitlines()[1:4])
        raise RunError(
            f"The weights of {source.path} do not fit this model: {reason}",
            "Give --init-from a run with the same parts, latents and networks.",
        ) from error


@torch.no_grad()
def first_look(model: VAE, data: Data) -> None:
    """Let the likelihood and the prior start from training images, where they ask for it."""
    model.eval()
    positions = torch.arange(min(_FIRST_LOOK, len(data.train)))
    x = data.train.batch(positions)
    model.likelihood.initialize(x)
    if model.prior.wants_data:
        draws = PosteriorDraws(model, x, positions, "first look", 0)
        model.prior.initialize(draws.draw(0, 1)[0])


def check_data(likelihood: Likelihood, data: Data) -> None:
    """Refuse data outside the likelihood's support before any time is spent.

    Raises:
        SupportError: with the split, the image, the value, its index and the remedy.
    """
    support = likelihood.support
    if support.contains(data.support):
        return
    for split in data.splits.values():
        for positions in torch.arange(len(split)).split(1000):
            x = split.batch(positions)
            wrong = support.outside(x).flatten(1).any(1)
            if wrong.any():
                first = int(wrong.nonzero()[0])
                try:
                    support.check(x[first], likelihood.remedy)
                except DataError as error:
                    image = f"{split.name} image {int(positions[first])}"
                    raise SupportError(f"{data.name}, {image}: {error.problem}", error.remedy) from error


def choose_device(name: str) -> torch.device:
    """``auto`` is CUDA, else MPS, else CPU.

    Raises:
        MachineError: if the device asked for is not there.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, there in available.items() if there))
    if not available.get(name.partition(":")[0], False):
        there = ", ".join(kind for kind, ok in available.items() if ok)
        raise MachineError(f"Device {name!r} was asked for; this machine has: {there}.", "Choose --device auto.")
    return torch.device(name)
