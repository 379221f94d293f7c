"""Where a number was made: versions, machine, and the commit of the code."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import numpy
import torch

from vaelid import __version__

_HERE = Path(__file__).parent


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Versions, device and commit, as plain values for a JSON file."""
    return {
        "vaelid": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": numpy.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "device": str(device) if device.type != "cuda" else f"{device} ({torch.cuda.get_device_name(device)})",
    }


@cache
def _commit() -> str | None:
    """The commit of a checkout, with ``+`` when files differ from it; None for an installed package."""
    if not (_HERE.parents[1] / ".git").exists():
        return None
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        return f"{head}+" if _git("status", "--porcelain", "--untracked-files=no", "--", "src") else head
    except (OSError, subprocess.SubprocessError):  # no git, not its folder, or too slow an answer
        return None


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(_HERE.parents[1]), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


@cache
def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} ({len(names)} cores)" if names else platform.processor()
