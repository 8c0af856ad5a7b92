"""Reads `--flagfile`s: a flag a line, `#` or `//` before a comment, as absl does.

absl's own reader prints a second line about a cycle, blocks on a pipe and lets a file that is not
text end in a traceback.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from experiments.entry.errors import InputError

_LARGEST = 1 << 20
_MOST = 64
_NAMES = ("--flagfile", "-flagfile")


def _lines(path: str) -> list[str]:
    where = f"--flagfile={path}"
    mend = "give the path of a text file with a flag a line"
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST:
            raise InputError(
                where,
                expected="a regular file of at most 1 MiB",
                found="another kind" if status.st_size <= _LARGEST else f"{status.st_size} bytes",
                mend=mend,
            )
        with open(path, encoding="utf-8") as file:
            lines = [line.strip() for line in file]
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(where, expected="a readable text file", found=reason, mend=mend) from error
    return [line for line in lines if line and not line.startswith(("#", "//"))]


def without(arguments: Sequence[str]) -> list[str]:
    """`arguments` without any `--flagfile`: what was given directly."""
    direct: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument == "--":
            return [*direct, argument, *rest]
        if argument in _NAMES:
            del rest[:1]
        elif argument.partition("=")[0] not in _NAMES:
            direct.append(argument)
    return direct


def expand(arguments: Sequence[str]) -> list[str]:
    """`arguments`, those after the program's name, with the flags in place of each `--flagfile`.

    Each file is read once, and at most 64 of them: files that name each other twice would double
    the flags with every file.

    Raises:
      InputError: if a file cannot be read, names itself, or is named twice; if there are too many.
    """
    return _expanded(arguments, (), set())


def _expanded(arguments: Sequence[str], within: tuple[str, ...], read: set[str]) -> list[str]:
    """See `expand`; `within` are the files being read, outermost first, `read` all so far."""
    expanded: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        name, equals, path = argument.partition("=")
        if argument == "--":
            return [*expanded, argument, *rest]
        if name not in _NAMES:
            expanded.append(argument)
            continue
        if not equals:
            path = rest.pop(0) if rest else ""
        path = os.path.expanduser(path)
        if not path:
            raise InputError(
                "--flagfile",
                expected="the path of a file",
                found="nothing",
                mend="give --flagfile=PATH",
            )
        real = os.path.realpath(path)
        if real in within:
            raise InputError(
                f"--flagfile={path}",
                expected="a file that does not read itself",
                found="a cycle",
                mend=f"remove the line that names it in {within[-1]}",
            )
        if real in read or len(read) == _MOST:
            raise InputError(
                f"--flagfile={path}",
                expected=f"each file once, and no more than {_MOST} of them",
                found="the same file again" if real in read else "more",
                mend="name each file in one place",
            )
        read.add(real)
        expanded += _expanded(_lines(path), (*within, real), read)
    return expanded
