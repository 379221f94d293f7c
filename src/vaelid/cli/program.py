"""The program itself: its name, its help, and how errors become one clear message and an exit code."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from vaelid.errors import Interrupted, MachineError, VaelidError


class Group(TyperGroup):
    """Verbs under one name; the name alone is asking what there is, and no mistake."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The arguments; help where there are none."""
        return super().parse_args(ctx, args or ["--help"])


class Verbs(Group):
    """All verbs; Ctrl-C and a reader that goes away become errors of our own, which typer leaves alone."""

    def invoke(self, ctx: Any) -> Any:
        """Run the verb; Ctrl-C becomes ``Interrupted``."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except KeyboardInterrupt as error:
            raise Interrupted(
                "Interrupted.", "Training and evaluation go on where they were: run the same command again."
            ) from error
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the last flush would complain
            raise typer.Exit from None


app = typer.Typer(
    name="vaelid",
    cls=Verbs,
    help="Train variational autoencoders on images, and know exactly how good they are.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def program(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error; at any place.")] = False,
) -> None:
    """Options before the verb; ``main`` has taken ``--debug`` out."""
    if version:
        from vaelid import __version__

        print(f"vaelid {__version__}")
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: errors become one clear message and an exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without Greek letters is no reason to stop
    try:
        with _terminable():
            app([argument for argument in given if argument != "--debug"], prog_name="vaelid")
    except Exception as error:  # noqa: BLE001 - the border: nothing passes but a message and a code
        if debug:
            traceback.print_exception(error)
        message, code = _explain(error)
        print(f"vaelid: {message}", file=sys.stderr)
        sys.exit(code)


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM is Ctrl-C: what is done is saved before the end."""
    before = signal.getsignal(signal.SIGTERM)
    if before != signal.SIG_DFL or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _explain(error: Exception) -> tuple[str, int]:
    """What to say, and the exit code: a VaelidError knows both; the machine's refusals are not our fault; all else is."""
    if isinstance(error, VaelidError):
        return str(error), error.exit_code
    reason = f"{type(error).__name__}: {error}"
    if isinstance(error, OSError):
        return f"The machine refused: {reason}.\n--debug shows where.", MachineError.exit_code
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "allocate memory" in reason:  # torch's
        return f"Memory ran out: {reason}\nTry less at once: a smaller --batch-size, --batch or -n.", MachineError.exit_code
    return f"internal error: {reason}\nThis is our fault; --debug shows where.", 1
