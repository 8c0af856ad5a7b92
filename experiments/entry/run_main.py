"""Runs a binary's `main`: bad input ends with one line and status 2."""

from __future__ import annotations

import contextlib
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from experiments.entry.errors import InputError
from experiments.entry.shown import shown
from experiments.flags import flagfile

EXIT_FAILED = 1
# absl's own is 1, which a fault of the program has too.
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 128 + signal.SIGINT


def debug_requested(arguments: Sequence[str]) -> bool:
    """Whether `--debug` is given, flagfiles included; the last one counts, as with every flag."""
    debug = False
    with contextlib.suppress(InputError):
        arguments = flagfile.expand(arguments)
    for argument in arguments:
        name, _, value = argument.partition("=")
        if argument == "--":
            break
        if name in ("--debug", "-debug"):
            debug = value.lower() not in ("false", "f", "0", "n", "no")
        elif argument in ("--nodebug", "-nodebug"):
            debug = False
    return debug


def run_main(
    main: Callable[[list[str]], int | None],
    argv: Sequence[str] | None = None,
    *,
    doc: str | None = None,
) -> NoReturn:
    """Runs a binary's `main` and exits the process with its status.

    A standard output or error that cannot be written ends nothing: what is for them is dropped from
    then on. Results that were dropped are said on standard error, and a status of 0 becomes 1.

    An `InputError` ends with status 2 and its line on stderr, preceded by the traceback with
    `--debug`, and so does an interrupt from the keyboard, with status 130; every other exception is
    a fault of the program and keeps its traceback.

    Args:
      main: takes the whole argument list, program name first; None returned means 0.
      argv: `sys.argv` when None.
      doc: what `--help` prints as the first argument; None where `main` has a help of its own.
    """
    arguments = list(sys.argv if argv is None else argv)
    if doc is not None and arguments[1:2] in (["--help"], ["-h"]):
        print(doc.strip())
        sys.exit(0)
    with shown() as (output, _):
        try:
            status: Any = main(arguments)
        except SystemExit as ended:  # As after a help.
            status = ended.code
        except (InputError, KeyboardInterrupt) as error:
            if debug_requested(arguments[1:]):
                traceback.print_exc()
            bad_input = isinstance(error, InputError)
            print(f"error: {error}" if bad_input else "interrupted", file=sys.stderr, flush=True)
            sys.exit(EXIT_BAD_INPUT if bad_input else EXIT_INTERRUPTED)
        if output is not None:
            output.flush()
            if output.error is not None:
                reason = output.error.strerror
                print(f"error: standard output: not all was written ({reason})", file=sys.stderr)
                status = status or EXIT_FAILED
    sys.exit(status or 0)
