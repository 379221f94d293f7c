"""``python -m vaelid`` is ``vaelid``."""

from vaelid.cli import main

main()
