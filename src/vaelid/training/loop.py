"""The training loop, in the open.

    epoch:  shuffle ─> for each batch: pass ─> objective ─> loss = −bound.mean() ─> gradients ─> optimizer step
            ─> fixed validation ─> weights to keep, patience ─> checkpoint

``Training`` plus torch's generator is all there is; what a checkpoint holds is exactly that, so a resumed run is the same run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from vaelid.errors import Diverged, Interrupted
from vaelid.objectives import Objective
from vaelid.progress import Reporter
from vaelid.randomness import permutation
from vaelid.training.state import Training
from vaelid.training.trouble import count_dead_components, troubles
from vaelid.training.validation import Validation, validate

#: Steps between two looks at a GPU.
_STEPS_UNREAD = 100

#: What the lines of :func:`tell` hold.
LEGEND = "per epoch, in nats per image: loss in training, −ELBO = distortion + rate in validation; * is the best so far"


class Pace:
    """When to save: every so many seconds, but saving takes at most a twentieth of the time; 0 seconds: after every step."""

    def __init__(self, seconds: float) -> None:
        self.seconds = self.wait = seconds
        self.saved = time.monotonic()

    def due(self) -> bool:
        """Whether it is time to save."""
        return time.monotonic() - self.saved >= self.wait

    def save(self, training: Training) -> None:
        """Write a checkpoint, and set the wait by what that took."""
        begun = time.monotonic()
        training.checkpoint()
        self.saved = time.monotonic()
        self.wait = max(self.seconds, 20 * (self.saved - begun)) if self.seconds else 0.0


class Tally:
    """Adds up loss and gradient norm of an epoch, and stops at the first that is not finite.

    Reading a number waits for the device, so that it would idle between steps; a GPU is asked only now and then, and before
    anything is saved.
    """

    def __init__(self, training: Training) -> None:
        self.training, self.loss = training, math.nan
        self.patience = _STEPS_UNREAD if training.weights.flat.is_cuda else 1
        self.unread: list[tuple[int, Tensor, int]] = []  # step, (loss, norm), images

    def add(self, numbers: Tensor, images: int) -> None:
        """Count a step, before its update is made; ``numbers``, loss and norm ``(2,)``, must stay as they are."""
        self.unread.append((self.training.state.step + 1, numbers, images))
        if len(self.unread) >= self.patience:
            self.settle()

    def settle(self) -> None:
        """Read what was not read yet.

        Raises:
            Diverged: names the step.
        """
        unread, self.unread = self.unread, []
        numbers = torch.stack([pair for _, pair, _ in unread]).tolist() if unread else []
        for (step, _, images), (self.loss, norm) in zip(unread, numbers, strict=True):
            self.training.refuse_infinite("the loss", self.loss, step)
            self.training.refuse_infinite("the gradient norm", norm, step)
            self.training.state.loss_sum += self.loss * images
            self.training.state.norm_sum += norm


def fit(training: Training, reporter: Reporter, stop_asked: Callable[[], bool], checkpoint_seconds: float) -> None:
    """Train until the patience or the epochs run out.

    Raises:
        Interrupted: when ``stop_asked()`` turns true; the step under way is finished and everything is saved.
        Diverged: at the first loss, gradient, weight or validation that is not finite; the last good checkpoint stays.
        MachineError: when the disk refuses; the last checkpoint stays.
    """
    pace = Pace(checkpoint_seconds)
    try:
        while not training.outcome:
            if not train_epoch(training, reporter, stop_asked, pace):
                training.checkpoint()
                where = f"step {training.state.step} (batch {training.state.batch} of epoch {training.state.epoch + 1})"
                raise Interrupted(f"Stopped after {where}; everything is saved.", "Run the same command again to go on.")
            finish_epoch(training, reporter)
            if training.outcome or pace.due():
                pace.save(training)
    except Diverged:
        training.save_kept()  # they may be newer than the last checkpoint
        raise


class Epoch:
    """The epoch under way: what its batches are, and what is done with the gradients of each."""

    def __init__(self, training: Training) -> None:
        settings, train = training.settings, training.data.train
        self.training, self.tally = training, Tally(training)
        self.order = permutation(len(train), settings.seed, training.state.epoch).to(train.device)
        training.model.train()

    @property
    def positions(self) -> Tensor:
        """Which training images the next step is about, ``(B,)``."""
        size = self.training.settings.batch_size
        return self.order[self.training.state.batch * size :][:size]

    def batches(self) -> Iterator[Tensor]:
        """The batches that are left, one after the other."""
        settings, state = self.training.settings, self.training.state
        left = self.order.split(settings.batch_size)[state.batch :]
        return (self.training.recorded or self.training.data.train).batches(left, state.epoch, settings.seed)

    @property
    def objective(self) -> Objective:
        """What the next step is to raise."""
        state = self.training.state
        return self.training.objective.at(state.epoch + state.batch / self.training.batches)

    def update(self, loss: Tensor, norm: Tensor, images: int) -> None:
        """Make the step whose gradients are in place.

        Raises:
            Diverged: if loss or gradient is not finite.
        """
        self.note(torch.stack([loss, norm]), images)
        (self.training.recorded or self.training).update(norm)
        self.next()

    def note(self, numbers: Tensor, images: int) -> None:
        """Before an update: set the learning rate, and take down loss and gradient norm, ``(2,)``."""
        training, state = self.training, self.training.state
        total = training.settings.epochs * training.batches
        training.lr = training.optimizer.defaults["lr"] * training.schedule.factor(state.step, total, state.epoch)
        self.tally.add(numbers, images)

    def next(self) -> None:
        """After an update: go to the next batch."""
        self.training.state.batch += 1
        self.training.state.step += 1


def train_epoch(training: Training, reporter: Reporter, stop_asked: Callable[[], bool], pace: Pace) -> bool:
    """The rest of the epoch under way; False when it was broken off by ``stop_asked()``."""
    state, epoch, clock = training.state, Epoch(training), Clock(training)
    for x in epoch.batches():
        loss, norm = training.engine(x, epoch.objective)  # loss = −bound.mean(); the gradients are in training.weights.grad
        epoch.update(loss, norm, len(x))

        reporter.advance(1, words(training, epoch.tally.loss))
        if stop_asked():
            epoch.tally.settle()
            clock.stop()
            return False
        if state.batch < training.batches and pace.due():
            epoch.tally.settle()
            clock.stop()
            pace.save(training)
            clock.start()
    epoch.tally.settle()
    clock.stop()
    return True


class Clock:
    """Adds the seconds between start and stop to the epoch's."""

    def __init__(self, training: Training) -> None:
        self.state = training.state
        self.start()

    def start(self) -> None:
        """Count from now."""
        self.begun = time.perf_counter()

    def stop(self, members: int = 1) -> None:
        """Book the time since the start; one that ``members`` shared is divided among them."""
        self.state.seconds += (time.perf_counter() - self.begun) / members


def finish_epoch(training: Training, reporter: Reporter) -> None:
    """Validate, keep the best or the last weights, count patience, and write the epoch's line."""
    state, settings = training.state, training.settings
    begun = time.perf_counter()
    seen = validate(training.average, training.data.validation, settings.validation_samples, state.epoch, settings.seed)
    training.refuse_infinite("the validation −ELBO", seen.neg_elbo)
    loss, grad_norm, seconds = state.loss_sum / len(training.data.train), state.norm_sum / training.batches, state.seconds
    state.epoch, state.batch, state.loss_sum, state.norm_sum, state.seconds = state.epoch + 1, 0, 0.0, 0.0, 0.0
    state.last, best_yet = seen.neg_elbo, seen.neg_elbo < state.best
    if best_yet:
        training.note_best(seen.neg_elbo)
    elif not training.warming_up:
        state.epochs_without_improvement += 1
    if best_yet or settings.keep == "last":
        training.keep_weights()
    if not training.warming_up:  # until then a rise of −ELBO is the objective's doing, not the learning rate's
        training.schedule.observe(seen.neg_elbo)
    change_se, training.validated = seen.change_se(training.validated), seen.values
    line = {
        "epoch": state.epoch,
        "step": state.step,
        "loss": loss,
        "neg_elbo": seen.neg_elbo,
        "rate": seen.rate,
        "distortion": seen.distortion,
        "change_se": change_se,  # of neg_elbo since the epoch before, paired by image
        "lr": training.lr,
        "grad_norm": grad_norm,
        "train_seconds": round(seconds, 4),
        "validation_seconds": round(time.perf_counter() - begun, 4),
        "best": state.best,
        "rate_kind": seen.rate_kind,
        "active_units": seen.active_units,
        "latent": seen.latent,
        "dead_components": count_dead_components(training.average.prior()),
    }
    training.folder.append_metrics(line)
    training.history.append(line)
    tell(training, seen, line, reporter)
    training.track(line)


def words(training: Training, loss: float) -> str:
    """What stands beside the progress bar."""
    state, last = training.state, training.history[-1] if training.history else None
    text = f"epoch {state.epoch + 1} loss {loss:.2f}"
    if last is None:
        return text
    left = training.settings.patience - state.epochs_without_improvement
    patience = f" patience {left}" if training.settings.patience else ""
    return f"{text} −ELBO {last['neg_elbo']:.2f} = {last['distortion']:.2f} + {last['rate']:.2f} best {state.best:.2f}{patience}"


def tell(training: Training, seen: Validation, line: dict[str, Any], reporter: Reporter) -> None:
    """One line per epoch to the log and the reporter, and any trouble."""
    star = " *" if training.state.best_epoch == training.state.epoch else ""
    text = (
        f"epoch {line['epoch']:4d}  loss {line['loss']:9.3f}  −ELBO {seen.neg_elbo:9.3f}"
        f" = distortion {seen.distortion:8.3f} + rate {seen.rate:7.3f}  {line['train_seconds']:6.2f} s{star}"
    )
    for sentence in [text, *(f"warning: {t}" for t in troubles(training.history))]:
        training.folder.log(sentence)
        reporter.say(sentence)
