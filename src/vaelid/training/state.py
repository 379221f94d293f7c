"""Where a training stands, and how that is saved and restored: nothing else decides what the next step does.

The torch generator is part of it. The order of images, their binarization and the noise of validation are functions of the seed
and the epoch, so they need no state.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from vaelid.data import Data
from vaelid.errors import Diverged
from vaelid.folder import RunFolder
from vaelid.objectives import Objective
from vaelid.optimizers import Schedule, fuse, make_step, take_numbers_from_the_device
from vaelid.recipe import TrainingSettings
from vaelid.training.checkpoint import Checkpoint, save_checkpoint
from vaelid.training.cuda import Pixels, Recorded, Translate, Update, can_record
from vaelid.training.engines import Compile, Eager, Graph, as_it_is, compiled_if_possible
from vaelid.training.flat import FlatParameters
from vaelid.training.snapshots import Snapshots
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
    best: float = math.inf  # best validation −ELBO
    best_epoch: int = 0
    last: float = math.inf  # validation −ELBO of the epoch finished last
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
    identity: Mapping[str, Any]  # the settings that make these weights what they are, flat
    engine: Eager  # gives loss and gradients of a batch
    recorded: Recorded | None = None  # on a GPU: what else there is to a step
    state: State = field(default_factory=State)
    kept_weights: dict[str, Tensor] = field(default_factory=dict)  # of the best epoch or the last, as the settings say
    kept_saved: bool = True  # whether model.safetensors is known to hold ``kept_weights``
    history: list[dict[str, Any]] = field(default_factory=list)
    validated: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.float64))  # −ELBO per image, last epoch's
    track: Callable[[Mapping[str, Any]], None] = lambda _line: None  # told the line of every epoch

    def __post_init__(self) -> None:
        self._lr = float(self.optimizer.defaults["lr"])

    @property
    def batches(self) -> int:
        """Batches in an epoch."""
        return math.ceil(len(self.data.train) / self.settings.batch_size)

    @property
    def warming_up(self) -> bool:
        """Whether the epoch just finished was one in which the objective still changed."""
        return self.state.epoch <= self.objective.warmup

    @property
    def outcome(self) -> str:
        """Why training is over, in words; empty while it is not."""
        if 0 < self.settings.patience < self.state.epochs_without_improvement:
            return f"no improvement for {self.state.epochs_without_improvement} epochs"
        if self.state.epoch >= self.settings.epochs:
            return "the one epoch done" if self.settings.epochs == 1 else f"all {self.settings.epochs} epochs done"
        return ""

    @property
    def lr(self) -> float:
        """The learning rate of the last step."""
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        self._lr = value
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(value)
            else:
                group["lr"] = value

    def use(self, engine: Eager) -> None:
        """Compute the steps with this engine from now on. On a GPU one that replays has what surrounds it recorded as well."""
        self.engine, self.recorded = engine, None
        if isinstance(engine, Graph) and can_record(self.weights.flat):
            translate: Translate = as_it_is
            if isinstance(engine, Compile):
                translate = compiled_if_possible
                fuse(self.optimizer)
            update = Update(self.update, self.changing) if take_numbers_from_the_device(self.optimizer) else self.update
            self.recorded = Recorded(Pixels(self.data.train, self.settings.batch_size, translate), update)

    def update(self, norm: Tensor) -> None:
        """Change the weights by the gradients that are in place; ``norm`` is that of these gradients."""
        self.weights.clip(norm, self.settings.clip_norm)
        make_step(self.optimizer)
        if self.average is not self.model:
            update_average(self.average, self.model, self.settings.ema)

    def changing(self) -> list[Tensor]:
        """What :meth:`update` overwrites."""
        average = [] if self.average is self.model else [*self.average.parameters(), *self.average.buffers()]
        slots = [value for slots in self.optimizer.state.values() for value in slots.values() if isinstance(value, Tensor)]
        return [t.detach() for t in (self.weights.flat, self.weights.grad, *slots, *average)]

    @property
    def kept_epoch(self) -> int:
        """After how many epochs the kept weights were had; 0 before the first."""
        return self.state.epoch if self.settings.keep == "last" else self.state.best_epoch

    def note_best(self, neg_elbo: float) -> None:
        """The epoch just finished is the best so far."""
        self.state.best, self.state.best_epoch, self.state.epochs_without_improvement = neg_elbo, self.state.epoch, 0
        self.snapshots.take(self.average, self.state.epoch)

    def keep_weights(self) -> None:
        """The weights as they are now are those to keep."""
        self.kept_weights = {name: t.detach().clone() for name, t in self.average.state_dict().items()}
        self.kept_saved = False

    def save_kept(self) -> None:
        """Write model.safetensors if there is something new."""
        if not self.kept_saved:
            neg_elbo = self.state.last if self.settings.keep == "last" else self.state.best
            about = {"epoch": self.kept_epoch, "neg_elbo": neg_elbo, "recipe": dict(self.identity)}
            self.folder.write_weights(self.kept_weights, about)
            self.kept_saved = True

    def checkpoint(self) -> None:
        """Save everything. The checkpoint comes last, so that what stands beside it is never older; ``restore`` cuts it back.

        Raises:
            Diverged: if the weights are not finite; nothing is written then.
            MachineError: if the disk refuses; the earlier checkpoints are still there.
        """
        self.refuse_infinite("weights", float(self.weights.flat.detach().abs().max()))
        self.folder.sync_metrics()
        self.save_kept()
        self.snapshots.save()
        tensors = {"rng.cpu": torch.get_rng_state(), "validated": self.validated}
        if self.weights.flat.is_cuda:
            tensors["rng.cuda"] = torch.cuda.get_rng_state(self.weights.flat.device)
        groups = {"model": self.model.state_dict(), "best": self.kept_weights, "optimizer": _optimizer_tensors(self.optimizer)}
        if self.average is not self.model:
            groups["average"] = self.average.state_dict()
        for prefix, group in groups.items():
            tensors.update({f"{prefix}.{name}": t for name, t in group.items()})
        facts = {
            "state": asdict(self.state),
            "schedule": self.schedule.state(),
            "lr": self.lr,
            "torch": str(torch.__version__),
        }
        save_checkpoint(self.folder, Checkpoint(tensors, facts), self.state.step, self.state.epoch)

    def restore(self, checkpoint: Checkpoint, say: Callable[[str], None]) -> None:
        """Continue exactly where ``checkpoint`` was made; what the folder knows beyond it is forgotten."""
        self.state = State(**checkpoint.facts["state"])
        self.schedule.load(checkpoint.facts["schedule"])
        self.model.load_state_dict(checkpoint.group("model"))
        if self.average is not self.model:
            self.average.load_state_dict(checkpoint.group("average"))
        self.kept_weights = checkpoint.group("best")
        self.kept_saved = not self.kept_weights  # the file may be of a later epoch, or damaged: write it again
        _load_optimizer(self.optimizer, checkpoint.group("optimizer"))
        self.lr = checkpoint.facts.get("lr", self.lr)  # of the last step: the line of an epoch that ended there tells it
        self.folder.keep_metrics(self.state.epoch)
        self.history = self.folder.metrics()
        self.snapshots.load(self.state.epoch, say)
        self.validated = checkpoint.tensors.get("validated", self.validated)  # not in checkpoints of earlier versions
        torch.set_rng_state(checkpoint.tensors["rng.cpu"])
        if "rng.cuda" in checkpoint.tensors and self.weights.flat.is_cuda:
            torch.cuda.set_rng_state(checkpoint.tensors["rng.cuda"], self.weights.flat.device)

    def refuse_infinite(self, quantity: str, value: float, step: int | None = None) -> None:
        """Stop at the first value that is not finite; ``step`` is the one that gave it, unless that is the one under way.

        Raises:
            Diverged: names quantity, value, step and likely cause.
        """
        if math.isfinite(value):
            return
        state = self.state
        kept = f" and the {self.settings.keep} weights so far, those of epoch {self.kept_epoch}" if self.kept_epoch else ""
        cause = "Likely the learning rate is too large: try a smaller lr, training.clip_norm = 100, or schedule.warmup_steps."
        step = state.step + 1 if step is None else step
        if step == 1:
            cause = "It was the first step: likely the pixels' range, the start of a part, or code of your own is at fault."
        raise Diverged(
            f"Training stopped at step {step} (epoch {state.epoch + 1}, lr {self.lr:.3g}): {quantity} became {value}. "
            f"Kept: the last good checkpoint{kept}.",
            cause,
        )


def average_of(model: VAE, decay: float) -> VAE:
    """A copy that follows the model as a moving average, or the model itself where ``decay`` is 0."""
    return copy.deepcopy(model).requires_grad_(False) if decay else model


@torch.no_grad()
def update_average(average: VAE, model: VAE, decay: float) -> None:
    """average ← decay · average + (1 − decay) · model; buffers, which are statistics already, are copied."""
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
    for kept, current in zip(average.buffers(), model.buffers(), strict=True):
        kept.copy_(current)


def _optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    pairs = ((index, name, value) for index, slots in state.items() for name, value in slots.items())
    return {f"{index}.{name}": torch.as_tensor(value) for index, name, value in pairs if value is not None}


def _load_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, slot = name.split(".", 1)
        state.setdefault(int(index), {})[slot] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
