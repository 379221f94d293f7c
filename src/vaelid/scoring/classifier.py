"""A small convolutional classifier, trained on the labels of the run's own data set: its last hidden layer is the feature space.

It is trained on the training split only, each image either gray or binarized as the run sees it, so that pixel draws and pixel
means both lie in what it knows. The weights go to the user's cache folder, one file per data fingerprint.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from filelock import FileLock
from torch import Tensor, nn

from vaelid.data import Data, Split
from vaelid.data.store import cache_folder
from vaelid.errors import DataError, MachineError
from vaelid.folder import write_atomic
from vaelid.progress import Reporter
from vaelid.randomness import key, permutation, uniform
from vaelid.scoring.features import Extractor, Features
from vaelid.training.surroundings import own_randomness

#: Raised when architecture or training change: older files in the cache are then left alone.
_VERSION = 1
_SEED, _BATCH, _EPOCHS, _LEAST_STEPS, _MOST_LR = 0, 128, 6, 600, 4e-3
_WIDTHS, _FEATURES = (16, 32, 64), 64
_ABOUT = "about"


class ClassifierNet(nn.Module):
    """Three convolutions, each followed by batch norm, ReLU and a 2 × 2 maximum; a hidden layer of 64 features; the classes."""

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        layers: list[nn.Module] = []
        for out in _WIDTHS:
            layers += [nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
            channels, height, width = out, -(-height // 2), -(-width // 2)
        self.trunk = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * height * width, _FEATURES), nn.ReLU())
        self.head = nn.Linear(_FEATURES, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features ``(B, 64)`` and log p(class|image) ``(B, C)`` nats of images ``(B, channels, height, width)``."""
        features = self.trunk(x)
        return features, self.head(features).log_softmax(-1)


class Classifier(Extractor):
    """The trained network as an extractor."""

    name = "classifier"

    def __init__(self, net: ClassifierNet, digest: str, about: dict[str, Any]) -> None:
        self.net, self.digest, self.about = net.eval(), digest, about

    def __call__(self, x: Tensor) -> Features:
        return Features(*self.net(x.float()))

    def to(self, device: torch.device) -> Classifier:
        return Classifier(self.net.to(device), self.digest, self.about)


def can_classify(data: Data) -> bool:
    """Whether there are pictures with at least two labels to train a classifier on."""
    labels = data.train.labels
    return labels is not None and len(data.shape) == 3 and len(labels.unique()) > 1


def classifier_of(data: Data, reporter: Reporter) -> Classifier:
    """The classifier of these data, from the cache or trained now.

    Raises:
        DataError: if the data have no labels, or are no pictures.
        MachineError: if the file in the cache is damaged, or none can be written.
    """
    if not can_classify(data):
        raise DataError(
            f"{data.name} has no labels to train a classifier on, or its images are no pictures (shape {data.shape}).",
            "Score with --extractor random-projection.",
        )
    file = cache_folder() / "extractors" / f"classifier-{_VERSION}-{data.fingerprint[:32]}.safetensors"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock"):
            if not file.is_file():
                reporter.say(f"training a classifier on the labels of {data.name}, once; it goes to {file}")
                write_atomic(file, _trained(data, reporter))
            return _loaded(file, data)
    except OSError as error:
        raise MachineError(f"{file} cannot be used: {error}.", "Set VAELID_CACHE to a folder that can be written to.") from error


def _loaded(file: Path, data: Data) -> Classifier:
    try:
        raw = file.read_bytes()
        weights = safetensors.torch.load(raw)
        with safetensors.safe_open(str(file), framework="pt") as opened:
            about = json.loads((opened.metadata() or {})[_ABOUT])
        net = ClassifierNet(data.shape, about["classes"])
        net.load_state_dict(weights)
    except (safetensors.SafetensorError, KeyError, RuntimeError, ValueError) as error:
        raise MachineError(f"{file} is damaged: {error}.", "Remove it; the classifier is then trained again.") from error
    return Classifier(net.requires_grad_(False), hashlib.sha256(raw).hexdigest(), about)


def _trained(data: Data, reporter: Reporter) -> bytes:
    """The file of a classifier trained on ``data.train``: weights, and its accuracy on ``data.test``."""
    classes = _classes(data)
    with own_randomness(_SEED):
        net = ClassifierNet(data.shape, len(classes))
        _fit(net.to(data.train.device), data.train, classes, reporter)
    about = {
        "classes": len(classes),
        "data": data.fingerprint,
        "trained_on": len(data.train),
        "tested_on": len(data.test),
        "test_accuracy": accuracy(net, data.test, classes, gray=False),
        "test_accuracy_gray": accuracy(net, data.test, classes, gray=True),
    }
    weights = {name: tensor.cpu().contiguous() for name, tensor in net.state_dict().items()}
    return safetensors.torch.save(weights, metadata={_ABOUT: json.dumps(about)})


def _classes(data: Data) -> Tensor:
    """All labels that occur in training, sorted, ``(C,)``."""
    labels = data.train.labels
    assert labels is not None  # can_classify has looked
    return labels.unique()


def _fit(net: ClassifierNet, train: Split, classes: Tensor, reporter: Reporter) -> None:
    """Adam under one cycle of the learning rate, on gray and binarized images alike; at least 600 steps however small the set."""
    labels = train.labels
    assert labels is not None
    targets = torch.searchsorted(classes, labels)
    batch = min(_BATCH, len(train))
    per_epoch = len(train) // batch
    epochs = max(_EPOCHS, -(-_LEAST_STEPS // per_epoch))
    optimizer = torch.optim.Adam(net.parameters(), lr=_MOST_LR / 10, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _MOST_LR, total_steps=epochs * per_epoch)
    net.train()
    with reporter.bar("classifier", epochs * per_epoch):
        for epoch in range(epochs):
            order = permutation(len(train), _SEED, epoch)
            for positions in order[: per_epoch * batch].view(per_epoch, batch):
                _, log_probabilities = net(_mixed(train, positions, epoch))
                loss = nn.functional.nll_loss(log_probabilities, targets[positions.to(targets.device)])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                reporter.advance(1, f"epoch {epoch + 1} of {epochs}")
    net.eval()


def _mixed(train: Split, positions: Tensor, epoch: int) -> Tensor:
    """Images ``(B, *X)``, each of them gray or as the model sees it, by the toss of a coin."""
    coins = uniform(key("classifier-gray", _SEED, epoch, positions), 1).view(-1, 1, 1, 1).to(train.device)
    return torch.where(coins < 0.5, train.gray(positions), train.batch(positions, epoch, _SEED))


@torch.no_grad()
def accuracy(net: ClassifierNet, split: Split, classes: Tensor, gray: bool) -> float:
    """Share of the images of a split whose likeliest class is their label, before (``gray``) or after binarization."""
    labels = split.labels
    assert labels is not None
    right = 0
    for positions in torch.arange(len(split)).split(500):
        x = split.gray(positions) if gray else split.batch(positions)
        right += int((classes[net(x)[1].argmax(1)] == labels[positions.to(labels.device)]).sum())
    return right / len(split)
