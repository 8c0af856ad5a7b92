"""Lists, verifies and compares the checkpoints of a run. Changes nothing.

    python -m experiments.checkpoints list runs/a
    tapestep-checkpoints verify runs/a
    python -m experiments.checkpoints diff runs/a/checkpoint-000000000100 runs/b

A DIRECTORY is a run's directory or one checkpoint; `diff` takes a run's newest one. The exit status
is 0 if all is well, 1 if a checkpoint is damaged or there is none, 2 on bad usage.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from experiments.entry import tensorflow_import
from experiments.entry.program import called
from experiments.entry.run_main import run_main
from experiments.entry.significant import significant

if TYPE_CHECKING:
    from loop.checkpoint import Checkpoint
    from loop.checkpoint.reading import Contents

_DAMAGED = 1
_BAD_USAGE = 2


class _OneLineParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(_BAD_USAGE, f"{self.prog}: {message}; see {self.prog} --help\n")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _OneLineParser(
        prog=called(sys.argv[0], "experiments.checkpoints"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, what, directories in (
        ("list", "a line for each checkpoint", "+"),
        ("verify", "read everything and say what is damaged", "+"),
        ("diff", "which variables and which metadata differ, and by how much", 2),
    ):
        command = commands.add_parser(name, help=what, description=what, allow_abbrev=False)
        command.add_argument("directories", nargs=directories, metavar="DIRECTORY", type=Path)
    options = parser.parse_args(arguments)
    for directory in options.directories:
        if not directory.is_dir():
            parser.error(f"{directory}: expected a directory, found {_kind(directory)}")
    return options


def _kind(path: Path) -> str:
    return "a file" if path.exists() else "nothing"


def _print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    for row in [header, *rows]:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def _checkpoints(directory: Path) -> list[Checkpoint]:
    """The checkpoints in a run's directory, or the one that `directory` is."""
    from loop import checkpoint

    root = Path(os.path.abspath(directory))
    found = [c for c in checkpoint.scan(root.parent) if c.path == root] or checkpoint.scan(root)
    if not found:
        raise checkpoint.CheckpointError(
            f"{root}: no checkpoint-* in it; expected a run's directory or a checkpoint"
        )
    return found


def _list(directories: Sequence[Path]) -> int:
    from loop import checkpoint

    rows = []
    for directory in directories:
        for found in _checkpoints(directory):
            try:
                manifest = checkpoint.read_manifest(found.path)
            except checkpoint.CheckpointError as error:
                rows.append([str(found.step), "-", "-", "-", str(error)])
                continue
            size = sum(entry.bytes for entry in manifest.files.values())
            rows.append(
                [
                    str(found.step),
                    manifest.created,
                    significant(size / 2**20, 3),
                    str(len(manifest.variables)),
                    str(found.path),
                ]
            )
    _print_table(["step", "written (UTC)", "MiB", "variables", "path"], rows)
    return 0


def _verify(directories: Sequence[Path]) -> int:
    from loop import checkpoint

    damaged = 0
    for directory in directories:
        for found in _checkpoints(directory):
            problems = checkpoint.verify(found.path)
            damaged += bool(problems)
            for problem in problems or ["sound"]:
                print(f"{found.path}: {problem}")
    return _DAMAGED if damaged else 0


def _diff(directories: Sequence[Path]) -> int:
    from loop import checkpoint
    from loop.checkpoint.reading import read_contents

    first, second = (read_contents(_checkpoints(directory)[-1].path) for directory in directories)
    print(f"A {first.path}\nB {second.path}")
    rows = _variable_rows(first, second)
    if rows:
        _print_table(["variable", "differs", "largest", "mean", "A's largest"], rows)
    print(f"{len(rows)} of {len(first.values.keys() | second.values.keys())} variables differ")
    lines = checkpoint.differences(first.metadata, second.metadata)
    print("\n".join(["metadata, A as saved and B as now:", *lines] if lines else ["same metadata"]))
    return 0


def _variable_rows(first: Contents, second: Contents) -> list[list[str]]:
    from loop.checkpoint.comparison import variable_difference

    rows = []
    for name in sorted(first.values.keys() | second.values.keys()):
        if name not in second.values or name not in first.values:
            only = "A" if name in first.values else "B"
            rows.append([name, f"only in {only}", "-", "-", "-"])
            continue
        difference = variable_difference(first.values[name], second.values[name])
        if difference is not None:
            rows.append([name, *difference.cells()])
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and gives the exit status."""
    options = _parse(arguments)
    # After the arguments were found good: TensorFlow takes seconds to import.
    with tensorflow_import.without_banner():
        from loop.checkpoint import CheckpointError

    commands = {"list": _list, "verify": _verify, "diff": _diff}
    try:
        return commands[options.command](options.directories)
    except CheckpointError as error:
        print(f"experiments.checkpoints: {error}", file=sys.stderr)
        return _DAMAGED


def cli() -> NoReturn:
    """The program: a pipe that is closed early (`| head`) is no fault of it."""
    run_main(lambda argv: main(argv[1:]))


if __name__ == "__main__":
    cli()
