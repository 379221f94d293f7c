"""Extractors by name, and which one fits data without further thought."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vaelid.data import Data
from vaelid.errors import UserError
from vaelid.progress import Reporter
from vaelid.scoring.classifier import can_classify, classifier_of
from vaelid.scoring.features import Extractor
from vaelid.scoring.fid_weights import inception
from vaelid.scoring.projection import RandomProjection
from vaelid.settings import unknown

AUTO = "auto"

#: What is needed to make one: the data of the run, a weights file (inception only), and where words go.
EXTRACTORS: dict[str, Callable[[Data, Path | None, Reporter], Extractor]] = {
    "classifier": lambda data, _weights, reporter: classifier_of(data, reporter),
    "random-projection": lambda data, _weights, _reporter: RandomProjection(data.shape),
    "inception": lambda _data, weights, _reporter: inception(weights),
}


def settle_extractor(name: str, data: Data, weights: Path | None) -> str:
    """The extractor's name, with ``auto`` decided: ``classifier`` for labeled pictures, else ``random-projection``.

    Raises:
        SettingError: if there is no such extractor.
        UserError: for weights that belong to another one.
    """
    if name != AUTO and name not in EXTRACTORS:
        raise unknown("extractor", name, [AUTO, *EXTRACTORS])
    if weights is not None and name not in (AUTO, "inception"):
        raise UserError(f"--weights are those of the extractor inception; {name} was asked for.", "Leave one of them out.")
    if name == AUTO and weights is not None:
        return "inception"
    if name == AUTO:
        return "classifier" if can_classify(data) else "random-projection"
    return name
