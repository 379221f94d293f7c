"""Lightning's trainer as a contestant, with the notebook's model; ``peers.txt`` says which version to install."""

from __future__ import annotations

import argparse
import logging
import warnings

import lightning
import notebook_loop
import torch
from contest import Steps, Watch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from training_epoch import Endless, batches_in_memory, data_of, notebook_of


class Module(lightning.LightningModule):
    """The notebook's model as Lightning asks for it; the optimizer lives from turn to turn."""

    def __init__(self, notebook: notebook_loop.Notebook) -> None:
        super().__init__()
        self.model, self.kept = notebook.model, notebook.optimizer

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        """The loss of a batch."""
        loss: Tensor = self.model(batch[0])
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The one there is."""
        return self.kept


class Timed(Callback):
    """Times the batches, and not what ``fit`` does before and after them."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Everything is set up."""
        self.watch.start()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """The last batch is done."""
        self.watch.stop()


def lightning_steps(options: argparse.Namespace, watch: Watch, precision: str = "32-true", loader: bool = True) -> Steps:
    """``Trainer.fit`` without logger, checkpoints, bar and summary; batches from a default ``DataLoader``, or cut from memory."""
    warnings.filterwarnings("ignore", module="lightning")  # it would like more workers, validation and a logger
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    data = data_of(options)
    notebook = notebook_of(data, options.batch_size)
    module = Module(notebook)
    endless = Endless(notebook.loader)
    if not loader:
        endless.batches = batches_in_memory(data, options.batch_size)

    def run(steps: int) -> None:
        endless.steps = steps
        trainer = lightning.Trainer(
            accelerator="cpu",
            devices=1,
            precision=precision,  # type: ignore[arg-type]
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[Timed(watch)],
        )
        trainer.fit(module, endless)

    return run
