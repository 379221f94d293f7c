"""The trials of a search, as Optuna keeps them: a journal file in the study's folder, which several processes may share.

    ask ─> values of a trial ─> report every epoch ─> "stop it" or not ─> tell how it ended

The caller sees to it that one process at a time is here. What is proposed for trial n depends on the seed, n, and the trials
before it, so that a search that was interrupted goes on as if it had not been (with one training at a time; with several, it also
depends on which of them ends first).

References:
    Akiba et al. 2019, Optuna; Bergstra et al. 2011, Algorithms for Hyper-Parameter Optimization (TPE);
    Golovin et al. 2017, Google Vizier, section 3.1 (median rule); Li et al. 2018, Hyperband.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from vaelid.errors import MachineError, RunError
from vaelid.randomness import key
from vaelid.sweeps.space import Axis, Choice

_STUDY = "vaelid"
#: Trials that are never stopped by the median, and before which nothing is learned from those that have ended.
STARTING = 5

#: From Optuna and the most epochs of a trial.
PRUNERS: dict[str, Callable[[ModuleType, int], Any]] = {
    # Worse at its best than half of the others were at that epoch; not in the first tenth of the epochs.
    "median": lambda optuna, epochs: optuna.pruners.MedianPruner(STARTING, n_warmup_steps=epochs // 10 + 1),
    # A third of the trials goes on at each of a few epochs, which are other ones in every bracket.
    "hyperband": lambda optuna, epochs: optuna.pruners.HyperbandPruner(max(1, epochs // 9), max(2, epochs)),
    "none": lambda optuna, _epochs: optuna.pruners.NopPruner(),
}


def optuna_or_refuse() -> ModuleType:
    """The package optuna.

    Raises:
        MachineError: if it is not installed; says how to do that.
    """
    try:
        import optuna
    except ImportError as error:
        raise MachineError(
            f"--search needs the package optuna, which cannot be imported: {error}.", "Install it: pip install 'vaelid[search]'"
        ) from error
    return optuna


class Trials:
    """The trials in a journal file.

    Args:
        file: the journal; made if it is not there
        pruner: a name of ``PRUNERS``
        seed: of all proposals
        epochs: the most that a trial trains
    """

    def __init__(self, file: Path, space: Mapping[str, Axis], pruner: str, seed: int, epochs: int) -> None:
        self._optuna = optuna_or_refuse()
        self._optuna.logging.set_verbosity(self._optuna.logging.WARNING)  # what it would say, the study says
        self.space, self.seed = space, seed
        journal = self._optuna.storages.journal
        try:
            storage = self._optuna.storages.JournalStorage(journal.JournalFileBackend(str(file)))
            self._study = self._optuna.create_study(
                storage=storage, study_name=_STUDY, load_if_exists=True, pruner=PRUNERS[pruner](self._optuna, epochs)
            )
        except (OSError, ValueError, KeyError) as error:
            raise RunError(f"{file} cannot be read as Optuna's journal: {error}.", "Restore it from a copy.") from error

    def __len__(self) -> int:
        return len(self._study.get_trials(deepcopy=False))

    def open_trials(self) -> dict[int, dict[str, Any]]:
        """Values of the trials that have no end yet, by number, whether anyone works on them or not."""
        running = self._optuna.trial.TrialState.RUNNING
        return {trial.number: dict(trial.params) for trial in self._study.get_trials(deepcopy=False, states=(running,))}

    def ask(self, known: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        """The number and the values of a new trial.

        Args:
            known: values to begin with: the very first trial takes them
        """
        number = len(self)
        self._study.sampler = self._optuna.samplers.TPESampler(
            n_startup_trials=STARTING, seed=int(key("search", self.seed, number)) % 2**32, constant_liar=True
        )
        if number == 0 and known:
            self._study.enqueue_trial(dict(known))
        trial = self._study.ask({name: self._distribution(axis) for name, axis in self.space.items()})
        return trial.number, dict(trial.params)

    def reported(self, number: int) -> int:
        """The last epoch of a trial that was reported; 0 if none was."""
        return max(self._study.get_trials(deepcopy=False)[number].intermediate_values, default=0)

    def report(self, number: int, epoch: int, neg_elbo: float) -> None:
        """The validation −ELBO of a trial after an epoch."""
        self._trial(number).report(neg_elbo, epoch)

    def unpromising(self, number: int) -> bool:
        """Whether the trial should be stopped, by what was reported so far."""
        return bool(self._trial(number).should_prune())

    def tell(self, number: int, neg_elbo: float | None) -> None:
        """A trial has ended, with the value that counts; None: pruned or diverged, which the search takes for bad."""
        if neg_elbo is None or not math.isfinite(neg_elbo):
            self._study.tell(number, state=self._optuna.trial.TrialState.PRUNED)
        else:
            self._study.tell(number, neg_elbo)

    def _trial(self, number: int) -> Any:
        return self._optuna.trial.Trial(self._study, self._study.get_trials(deepcopy=False)[number]._trial_id)

    def _distribution(self, axis: Axis) -> Any:
        known = self._optuna.distributions
        if isinstance(axis, Choice):
            return known.CategoricalDistribution(axis.values)
        kind = known.IntDistribution if axis.whole else known.FloatDistribution
        return kind(*axis.ends, log=axis.logarithmic)
