"""Bad input, in one line: what, where, expected, found, how to mend."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import flags as absl_flags

EXIT_BAD_INPUT = 2
_LONGEST_VALUE = 200


def one_line(value: object) -> str:
    """`value` as text without line breaks or control characters, cut at 200 characters."""
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(value))
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."


class InputError(Exception):
    """A flag, a file or an environment variable that the user has to mend.

    Attributes:
      where: the flag, or the file and the offset or entry in it.
      expected: what would be right.
      found: what is there.
      mend: what to do about it.
    """

    def __init__(self, where: str, *, expected: str, found: object, mend: str) -> None:
        self.where = one_line(where)
        self.expected = one_line(expected)
        self.found = one_line(found)
        self.mend = one_line(mend)
        super().__init__(
            f"{self.where}: expected {self.expected}, found {self.found}; to mend: {self.mend}"
        )


def debug_requested(argv: Sequence[str]) -> bool:
    """Whether `--debug` is given, on the command line or in a flagfile; the last one counts."""
    try:
        no_flags = absl_flags.FlagValues()  # type: ignore[no-untyped-call]  # absl's own
        arguments = no_flags.read_flags_from_files(list(argv[1:]), force_gnu=False)
    except absl_flags.Error:
        arguments = list(argv[1:])
    debug = False
    for argument in arguments:
        if argument == "--":
            break
        name, _, value = argument.partition("=")
        if name in ("--debug", "-debug"):
            debug = value.lower() not in ("false", "f", "0", "n", "no")
        elif name in ("--nodebug", "-nodebug"):
            debug = False
    return debug


def run_main(
    main: Callable[[list[str]], int | None], argv: Sequence[str] | None = None
) -> NoReturn:
    """Runs a binary's `main` and exits the process with its status.

    An `InputError` ends with status 2 and its line on stderr, preceded by the traceback with
    `--debug`; every other exception is a fault of the program and keeps its traceback.

    Args:
      main: takes the whole argument list, program name first; None returned means 0.
      argv: `sys.argv` when None.
    """
    arguments = list(sys.argv if argv is None else argv)
    try:
        status = main(arguments)
    except InputError as error:
        if debug_requested(arguments):
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(EXIT_BAD_INPUT)
    sys.exit(status or 0)
