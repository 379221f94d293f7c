"""One error family: every message says what was asked, what came, and what to do.

The command line turns an error into one clear message and its ``exit_code``; `--debug` shows the traceback.
"""

from __future__ import annotations


class VaelidError(Exception):
    """Base of all errors that vaelid raises on purpose.

    ``problem`` says what was asked and what came instead; ``remedy`` says what to do about it.
    """

    exit_code = 1

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(f"{problem}\n{remedy}" if remedy else problem)
        self.problem = problem
        self.remedy = remedy


class UserError(VaelidError):
    """The request cannot be carried out as it stands (exit code 2)."""

    exit_code = 2


class SettingError(UserError):
    """A setting is unknown, of the wrong type, or outside its stated range."""


class DataError(UserError):
    """The images, labels or splits are not what the settings say they are."""


class SupportError(DataError):
    """A batch holds values outside the support that a likelihood declares."""


class PartError(UserError):
    """A part (posterior, likelihood, prior, network …) breaks its contract or cannot be built."""


class RunError(UserError):
    """A run folder is missing, locked, damaged, or belongs to other settings."""


class MachineError(UserError):
    """Disk, network or memory failed us; nothing that was saved before is lost."""


class CheckFailed(VaelidError):
    """A check of a number or a part failed (exit code 3)."""

    exit_code = 3


class Diverged(VaelidError):
    """Training met NaN or infinity and stopped at once (exit code 5)."""

    exit_code = 5


class Interrupted(VaelidError):
    """The user stopped the work; what was done is saved (exit code 130)."""

    exit_code = 130
