"""The training loop, in the open.

    epoch:  shuffle ─> for each batch: pass ─> objective ─> loss = −bound.mean() ─> gradients ─> optimizer step
            ─> fixed validation ─> best weights, patience ─> checkpoint

The state below plus torch's generator is all there is; what a checkpoint holds is exactly that, so a resumed run is the same run.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from vaelid.data import Data
from vaelid.errors import Diverged, Interrupted
from vaelid.folder import RunFolder
from vaelid.objectives import Objective
from vaelid.optimizers import Schedule
from vaelid.progress import Reporter
from vaelid.randomness import permutation
from vaelid.recipe import TrainingSettings
from vaelid.training.checkpoint import Checkpoint, save_checkpoint
from vaelid.training.flat import FlatParameters
from vaelid.training.snapshots import Snapshots
from vaelid.training.trouble import count_dead_components, troubles
from vaelid.training.validation import Validation, validate
from vaelid.vae import VAE


@dataclass
class State:
    """Where training stands. Sums are over the batches of the epoch under way."""

    epoch: int = 0  # finished epochs
    batch: int = 0  # batches done in the epoch under way
    step: int = 0  # optimizer steps in all
    loss_sum: float = 0.0
    norm_sum: float = 0.0
    seconds: float = 0.0
    best: float = math.inf  # validation −ELBO of the best weights
    best_epoch: int = 0
    epochs_without_improvement: int = 0


@dataclass
class Training:
    """Everything that one training works with; made by ``training.start``."""

    settings: TrainingSettings
    folder: RunFolder
    data: Data
    model: VAE
    average: VAE  # the moving average of the weights, or the model itself
    objective: Objective
    weights: FlatParameters
    optimizer: Optimizer
    schedule: Schedule
    snapshots: Snapshots
    state: State = field(default_factory=State)
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def batches(self) -> int:
        """Batches in an epoch."""
        return math.ceil(len(self.data.train) / self.settings.batch_size)

    @property
    def outcome(self) -> str:
        """Why training is over, in words; empty while it is not."""
        if 0 < self.settings.patience < self.state.epochs_without_improvement:
            return f"no improvement for {self.state.epochs_without_improvement} epochs"
        if self.state.epoch >= self.settings.epochs:
            return f"all {self.settings.epochs} epochs done"
        return ""

    def checkpoint(self) -> None:
        """Save everything; the best weights first, so that they are never older than the checkpoint."""
        if self.best_weights:
            about = {"epoch": self.state.best_epoch, "neg_elbo": self.state.best}
            self.folder.write_weights(self.best_weights, about)
        self.snapshots.save()
        tensors = {"rng.cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            tensors["rng.cuda"] = torch.cuda.get_rng_state()
        groups = {"model": self.model.state_dict(), "best": self.best_weights, "optimizer": _optimizer_tensors(self.optimizer)}
        if self.average is not self.model:
            groups["average"] = self.average.state_dict()
        for prefix, group in groups.items():
            tensors.update({f"{prefix}.{name}": t for name, t in group.items()})
        facts = {"state": asdict(self.state), "schedule": self.schedule.state(), "torch": str(torch.__version__)}
        save_checkpoint(self.folder, Checkpoint(tensors, facts), self.state.step)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue exactly where ``checkpoint`` was made."""
        self.state = State(**checkpoint.facts["state"])
        self.schedule.load(checkpoint.facts["schedule"])
        self.model.load_state_dict(checkpoint.group("model"))
        if self.average is not self.model:
            self.average.load_state_dict(checkpoint.group("average"))
        self.best_weights = checkpoint.group("best")
        _load_optimizer(self.optimizer, checkpoint.group("optimizer"))
        self.folder.keep_metrics(self.state.epoch)
        self.history = self.folder.metrics()
        self.snapshots.load(self.state.epoch)
        torch.set_rng_state(checkpoint.tensors["rng.cpu"])
        if "rng.cuda" in checkpoint.tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(checkpoint.tensors["rng.cuda"])


def fit(training: Training, reporter: Reporter, stop_asked: Callable[[], bool], checkpoint_seconds: float) -> None:
    """Train until the patience or the epochs run out.

    Raises:
        Interrupted: when ``stop_asked()`` turns true; the step under way is finished and everything is saved.
        Diverged: at the first loss or gradient that is not finite; the last good checkpoint stays.
    """
    saved = time.monotonic()
    pace = checkpoint_seconds
    while not training.outcome:
        if not train_epoch(training, reporter, stop_asked):
            training.checkpoint()
            raise Interrupted(f"Stopped after step {training.state.step}; everything is saved.", "Run the same command again to go on.")
        finish_epoch(training, reporter)
        if training.outcome or time.monotonic() - saved >= pace:
            begun = time.monotonic()
            training.checkpoint()
            saved = time.monotonic()
            pace = max(checkpoint_seconds, 20 * (saved - begun))  # large models: saving takes at most a twentieth of the time


def train_epoch(training: Training, reporter: Reporter, stop_asked: Callable[[], bool]) -> bool:
    """The rest of the epoch under way; False when it was broken off by ``stop_asked()``."""
    settings, state, model = training.settings, training.state, training.model
    order = permutation(len(training.data.train), settings.seed, state.epoch)
    total = settings.epochs * training.batches
    autocast = settings.precision == "bfloat16"
    model.train()
    begun = time.perf_counter()
    while state.batch < training.batches:
        positions = order[state.batch * settings.batch_size :][: settings.batch_size]
        x = training.data.train.batch(positions, state.epoch, settings.seed)
        objective = training.objective.at(state.epoch + state.batch / training.batches)
        for group in training.optimizer.param_groups:
            group["lr"] = training.optimizer.defaults["lr"] * training.schedule.factor(state.step, total)

        with torch.autocast(x.device.type, torch.bfloat16, enabled=autocast):
            bound = objective(model(x, objective.samples))
        loss = -bound.mean()
        training.weights.forget_gradients()
        loss.backward()
        norm = float(training.weights.gather_gradients())
        refuse_infinite(training, float(loss.detach()), norm)
        if 0 < settings.clip_norm < norm:
            training.weights.flat.grad.mul_(settings.clip_norm / norm)
        training.optimizer.step()
        if training.average is not model:
            update_average(training.average, model, settings.ema)

        state.loss_sum += float(loss.detach()) * len(x)
        state.norm_sum += norm
        state.batch += 1
        state.step += 1
        reporter.advance(1, words(training, float(loss.detach())))
        if stop_asked():
            state.seconds += time.perf_counter() - begun
            return False
    state.seconds += time.perf_counter() - begun
    return True


def finish_epoch(training: Training, reporter: Reporter) -> None:
    """Validate, keep the best weights, count patience, and write the epoch's line."""
    state, settings = training.state, training.settings
    begun = time.perf_counter()
    seen = validate(training.average, training.data.validation, settings.validation_samples, state.epoch, settings.seed)
    improved = seen.neg_elbo < state.best
    lr = training.optimizer.param_groups[0]["lr"]
    loss, grad_norm, seconds = state.loss_sum / len(training.data.train), state.norm_sum / training.batches, state.seconds
    state.epoch, state.batch, state.loss_sum, state.norm_sum, state.seconds = state.epoch + 1, 0, 0.0, 0.0, 0.0
    if improved:
        state.best, state.best_epoch, state.epochs_without_improvement = seen.neg_elbo, state.epoch, 0
        training.best_weights = {name: t.detach().clone() for name, t in training.average.state_dict().items()}
        training.snapshots.take(training.average, state.epoch)
    elif state.epoch > training.objective.warmup:  # patience is not counted while the objective still changes
        state.epochs_without_improvement += 1
    training.schedule.observe(seen.neg_elbo)
    line = {
        "epoch": state.epoch,
        "step": state.step,
        "loss": loss,
        "neg_elbo": seen.neg_elbo,
        "rate": seen.rate,
        "distortion": seen.distortion,
        "lr": lr,
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


def refuse_infinite(training: Training, loss: float, norm: float) -> None:
    """Stop at the first value that is not finite, before it reaches the weights."""
    if math.isfinite(loss) and math.isfinite(norm):
        return
    quantity, value = ("loss", loss) if not math.isfinite(loss) else ("gradient norm", norm)
    lr = training.optimizer.param_groups[0]["lr"]
    raise Diverged(
        f"The {quantity} became {value} at step {training.state.step + 1} (epoch {training.state.epoch + 1}, lr {lr:.3g}). "
        f"Training stopped; the checkpoints and the best weights so far (epoch {training.state.best_epoch}) are kept.",
        "Likely the learning rate is too large: try a smaller lr, training.clip_norm = 100, or schedule.warmup_steps.",
    )


@torch.no_grad()
def update_average(average: VAE, model: VAE, decay: float) -> None:
    """average ← decay · average + (1 − decay) · model."""
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)


def average_of(model: VAE, decay: float) -> VAE:
    """A copy that follows the model as a moving average, or the model itself where ``decay`` is 0."""
    return copy.deepcopy(model).requires_grad_(False) if decay else model


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


def _optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": torch.as_tensor(value) for index, slots in state.items() for name, value in slots.items() if value is not None}


def _load_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, slot = name.split(".", 1)
        state.setdefault(int(index), {})[slot] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
