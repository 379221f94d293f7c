"""pythae's trainer as a contestant; ``peers.txt`` says which version to install.

Its model has the networks of the recipe ``assignment``, a standard-normal prior and gray pixels, where the others have a mixture
of 16 and draw their pixels: less work than theirs. Its mixed precision is for CUDA alone.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import tempfile

import notebook_loop
import torch
from contest import Steps, Watch
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from torch import Tensor, nn
from training_epoch import Endless, data_of

HIDDEN, LATENT = 512, 20


class Encoder(BaseEncoder):
    """Mean and log variance, as pythae asks for them."""

    def __init__(self) -> None:
        super().__init__()
        self.network = notebook_loop.mlp(784, HIDDEN, 2 * LATENT)

    def forward(self, x: Tensor) -> ModelOutput:
        """Of a batch ``(B, 784)``."""
        mean, log_variance = torch.chunk(self.network(x), 2, dim=1)
        return ModelOutput(embedding=mean, log_covariance=log_variance)


class Decoder(BaseDecoder):
    """Pixel probabilities, as pythae asks for them."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(notebook_loop.mlp(LATENT, HIDDEN, 784), nn.Sigmoid())

    def forward(self, z: Tensor) -> ModelOutput:
        """Of latents ``(B, L)``."""
        return ModelOutput(reconstruction=self.network(z))


def pythae_steps(options: argparse.Namespace, watch: Watch) -> Steps:
    """``BaseTrainer.train_step``, which is pythae's epoch; without validation, logs to a file or checkpoints."""
    data = data_of(options)
    logging.disable(logging.INFO)  # the trainer's greetings
    x = data.train.images.gather(data.train.indices).flatten(1).float().div_(255)
    model = VAE(VAEConfig(input_dim=(784,), latent_dim=LATENT, reconstruction_loss="bce"), Encoder(), Decoder())
    config = BaseTrainerConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=options.batch_size,
        optimizer_cls="Adamax",
        learning_rate=1e-3,
        no_cuda=True,
        seed=options.seed,
    )
    trainer = BaseTrainer(model, BaseDataset(x, torch.zeros(len(x))), training_config=config)
    trainer.prepare_training()
    trainer.train_loader = endless = Endless(trainer.train_loader)

    def run(steps: int) -> None:
        endless.steps = steps
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):  # its bar
            watch.start()
            trainer.train_step(epoch=1)
            watch.stop()

    return run
