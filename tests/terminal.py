"""A terminal for tests: runs a command on a pty of a given width, and what its screen shows."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_ROWS = 500  # Nothing scrolls away.
_SEQUENCE = re.compile(r"\x1b\[(\??\d*)([A-Za-z])")


def run(
    command: Sequence[str],
    *,
    columns: int,
    stdout: int | None = None,
    seconds: float = 120.0,
    environment: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """The command's exit status and what it wrote to the terminal, escape sequences included.

    Args:
      command: to run, in the repository's root.
      columns: the terminal's width.
      stdout: a descriptor for its output; None for the terminal.
      seconds: until it is killed.
      environment: what it has beside the test's own.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", _ROWS, columns, 0, 0))
    variables = {
        name: text for name, text in os.environ.items() if name not in ("COLUMNS", "LINES")
    }
    process = subprocess.Popen(
        command,
        cwd=_ROOT,
        stdin=theirs,
        stdout=theirs if stdout is None else stdout,
        stderr=theirs,
        env={**variables, "TERM": "xterm", **(environment or {})},
    )
    os.close(theirs)
    written, deadline = b"", time.monotonic() + seconds
    try:
        while time.monotonic() < deadline:
            if not select.select([ours], [], [], 0.1)[0]:
                continue
            try:
                part = os.read(ours, 65536)
            except OSError:  # Linux's word for the end of a terminal.
                break
            if not part:
                break
            written += part
        else:
            process.kill()
    finally:
        os.close(ours)
    return process.wait(), written.decode()


def screen(written: str, columns: int) -> list[str]:
    """The lines that a terminal shows after it was sent `written`, blanks at their ends left out.

    Knows what rich sends: carriage returns, new lines, moves upwards, erased lines; colours and the
    cursor's visibility change no text.
    """
    lines, row, column, place = [[" "] * columns], 0, 0, 0
    while place < len(written):
        found = _SEQUENCE.match(written, place)
        if found:
            number, kind = found[1], found[2]
            if kind == "A":
                row = max(0, row - int(number or 1))
            elif kind == "K":
                assert number == "2"
                lines[row] = [" "] * columns
            else:
                assert kind in "mhl", found[0]
            place = found.end()
            continue
        character = written[place]
        place += 1
        if character == "\r":
            column = 0
        elif character == "\n":
            row += 1
        else:
            if column == columns:
                row, column = row + 1, 0
            lines += [[" "] * columns for _ in range(row + 1 - len(lines))]
            lines[row][column] = character
            column += 1
        lines += [[" "] * columns for _ in range(row + 1 - len(lines))]
    return ["".join(line).rstrip() for line in lines]
