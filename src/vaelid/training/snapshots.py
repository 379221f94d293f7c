"""Pictures of progress: 16 samples from the same random numbers at every epoch that improved, kept as 8-bit arrays."""

from __future__ import annotations

import numpy as np
import torch

from vaelid.folder import RunFolder
from vaelid.vae import VAE

COUNT = 16


class Snapshots:
    """Pixel means of 16 samples per improved epoch; stored in ``samples/progress.npz`` as ``epochs`` (T,) and ``means`` (T, 16, *X) uint8."""

    def __init__(self, folder: RunFolder, seed: int) -> None:
        self.file = folder.samples / "progress.npz"
        self.folder, self.seed = folder, seed
        self.epochs: list[int] = []
        self.means: list[np.ndarray] = []

    def take(self, model: VAE, epoch: int) -> None:
        """Sample with fixed random numbers; training's own generator is left as it was."""
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(self.seed)
            means = model.sample(COUNT).means
        self.epochs.append(epoch)
        self.means.append((means.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy())

    def save(self) -> None:
        """Write what was taken so far."""
        if self.epochs:
            self.folder.write_arrays(self.file, {"epochs": np.array(self.epochs), "means": np.stack(self.means)})

    def load(self, epochs: int) -> None:
        """Continue from the file, as it was after ``epochs`` epochs."""
        stored = self.folder.read_arrays(self.file)
        pairs = [(int(e), m) for e, m in zip(stored["epochs"], stored["means"], strict=True) if e <= epochs] if stored else []
        self.epochs, self.means = [e for e, _ in pairs], [m for _, m in pairs]
