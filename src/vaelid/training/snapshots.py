"""Pictures of progress: 16 samples from the same random numbers at every epoch that improved, kept as 8-bit arrays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from vaelid.data import Shades
from vaelid.errors import RunError
from vaelid.folder import RunFolder
from vaelid.training.surroundings import own_randomness
from vaelid.vae import VAE

COUNT = 16


class Snapshots:
    """Pixel means of 16 samples per improved epoch.

    Stored in ``samples/progress.npz`` as ``epochs`` (T,) and ``means`` (T, 16, *X) uint8, 0 black and 255 white in ``shades``.
    """

    def __init__(self, folder: RunFolder, seed: int, shades: Shades) -> None:
        self.file = folder.progress_file
        self.folder, self.seed, self.shades = folder, seed, shades
        self.epochs: list[int] = []
        self.means: list[np.ndarray] = []
        self.saved = True

    def take(self, model: VAE, epoch: int) -> None:
        """Sample with fixed random numbers; training's own generator is left as it was."""
        with own_randomness(self.seed):
            means = self.shades.of_pixels(model.sample(COUNT).means)
        self.epochs.append(epoch)
        self.means.append((means.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy())
        self.saved = False

    def save(self) -> None:
        """Write what was taken so far, if anything is new."""
        if not self.saved:
            self.folder.write_arrays(self.file, {"epochs": np.array(self.epochs), "means": np.stack(self.means)})
            self.saved = True

    def load(self, epochs: int, say: Callable[[str], None]) -> None:
        """Continue from the file, as it was after ``epochs`` epochs: it may be newer than the checkpoint being resumed."""
        try:
            stored = self.folder.read_arrays(self.file)
        except RunError as error:  # pictures are not worth an end of training
            say(f"warning: {error.problem} The pictures of earlier epochs are lost.")
            stored = {}
        pairs = [(int(e), m) for e, m in zip(stored["epochs"], stored["means"], strict=True) if e <= epochs] if stored else []
        self.epochs, self.means = [e for e, _ in pairs], [m for _, m in pairs]
        self.saved = len(pairs) == len(stored.get("epochs", ()))
