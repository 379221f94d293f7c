"""``python -m vaelid`` is ``vaelid``: the very first lines of the program, which Ctrl-C may already meet."""

from __future__ import annotations

import sys


def main() -> None:
    """Load the command line, then hand over to it."""
    try:
        from vaelid.cli import main as program  # takes a moment
    except KeyboardInterrupt:
        print("vaelid: Interrupted before anything was done.", file=sys.stderr)
        sys.exit(130)
    program()


if __name__ == "__main__":
    main()
