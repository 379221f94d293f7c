"""The page on paper: chromium prints it, since it is the one that knows the page's style."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from vaelid.errors import MachineError

#: Names under which the browser is installed.
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_QUIET = (
    *("--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--no-default-browser-check", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-extensions", "--no-pdf-header-footer"),
)
_SECONDS = 120


def find_browser() -> str:
    """The browser's program.

    Raises:
        MachineError: if none of ``BROWSERS`` is on the PATH; says what to install.
    """
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        raise MachineError(
            f"A PDF is printed by chromium or Chrome, and none is on the PATH (looked for {', '.join(BROWSERS)}).",
            "Install one (Debian and Ubuntu: apt-get install chromium), or leave out --pdf: the HTML prints from any browser.",
        )
    return found


def print_page(page: Path, out: Path, browser: str) -> None:
    """Print an HTML file to a PDF; a PDF that is there is replaced only by a whole new one.

    Raises:
        MachineError: if the browser fails.
    """
    with tempfile.TemporaryDirectory() as scratch:
        printed = Path(scratch) / "page.pdf"
        # A profile of its own: no trace in the user's, and no window of theirs that would answer instead. Without a sandbox, as
        # containers and root have none; the page is our own, and its policy forbids everything but itself.
        command = [browser, *_QUIET, "--no-sandbox", f"--user-data-dir={scratch}/profile", f"--print-to-pdf={printed}"]
        try:
            done = subprocess.run(
                [*command, page.resolve().as_uri()], capture_output=True, text=True, timeout=_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise MachineError(
                f"{browser} did not print {page}: {error}.", "The HTML file is whole; print it by hand."
            ) from error
        if not printed.is_file():
            last = "".join(done.stderr.splitlines()[-1:]) or f"exit code {done.returncode}"
            raise MachineError(f"{browser} did not print {page}: {last}.", "The HTML file is whole; print it by hand.")
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(printed, out)
