"""Runs a grid of settings, in processes one after another, and prints a table.

    python -m experiments.train --sweep="learning_rate=.1,.03;seed=1,2" --steps=500
    tapestep-sweep "learning_rate=.1,.03;seed=1,2" --steps=500

The flags of the runs are those of `python -m experiments.train --help`.
Each run has its own directory and log in the sweep's; the same command with that `--directory`
again goes on where the sweep was interrupted. SIGTERM, SIGINT and SIGHUP end the sweep, and are
handed on to the run at work, each as often as it comes. Exit status: 0 if all runs ended with 0, 1
if one did not, 128 and the signal's number after one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import json
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from experiments import flags
from experiments.entry import program
from experiments.entry.errors import InputError
from experiments.entry.run_main import run_main
from experiments.entry.significant import significant
from experiments.entry.summary import show
from experiments.flags import Settings
from experiments.flags.sweep import grid_of

TABLE_FILE = "sweep.json"
_RESULTS = ("step", "train_loss", "test_loss", "test_accuracy", "examples_per_second")


@dataclasses.dataclass(frozen=True)
class Run:
    """One point of the grid.

    Attributes:
      values: flag -> its text.
      directory: of the run.
      command: what starts it.
    """

    values: dict[str, str]
    directory: Path
    command: list[str]


def main(argv: list[str]) -> int:
    """Reads the grid and the flags, then trains; returns the exit status."""
    if len(argv) < 2 or argv[1].startswith("-"):
        raise InputError(
            "command line",
            expected="a grid first",
            found=argv[1] if len(argv) > 1 else "nothing",
            mend='give for example "learning_rate=.1,.03;seed=1,2", then the flags of each run',
        )
    arguments = [argv[0], f"--sweep={argv[1]}", *argv[2:]]
    return run(arguments, flags.parse(arguments))


def run(argv: Sequence[str], settings: Settings) -> int:
    """Trains at every point of the grid; returns the exit status.

    Args:
      argv: the program's name and arguments, `--sweep` among them.
      settings: what they say.

    Raises:
      InputError: if a point of the grid is no valid run; nothing was started.
    """
    directory = Path(settings.directory or f"runs/sweep-{time.strftime('%Y%m%d-%H%M%S')}")
    runs = list(_runs(argv, settings.sweep or "", directory))
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            "--sweep",
            expected=f"{directory} to be writable",
            found=error.strerror,
            mend="give --directory",
        ) from error
    records: list[dict[str, Any]] = []
    with _signals() as received:
        for number, each in enumerate(runs, 1):
            print(f"run {number} of {len(runs)}: {_label(each.values)}", flush=True)
            records.append(_trained(each, received))
            text = json.dumps(records, indent=2)
            (directory / TABLE_FILE).write_text(text + "\n", encoding="utf-8")
            if received:
                break
    _show(records, settings.monitor)
    print(f"runs, logs and {TABLE_FILE} are in {directory}")
    if received:
        return 128 + received[0]
    return 1 if any(record["status"] for record in records) else 0


def _runs(argv: Sequence[str], sweep: str, directory: Path) -> Iterator[Run]:
    """Every point of the grid, checked as the run's own command line will be."""
    grid = grid_of(sweep)
    for texts in itertools.product(*grid.values()):
        values = dict(zip(grid, texts, strict=True))
        own = directory / _label(values)
        # The last of a flag counts: the run sweeps no more, and has its own directory.
        arguments = [f"--{name}={text}" for name, text in values.items()]
        arguments += ["--sweep=", f"--directory={own}"]
        flags.parse([*argv, *arguments])
        yield Run(values, own, [*program.command("experiments.train"), *argv[1:], *arguments])


def _label(values: dict[str, str]) -> str:
    return ",".join(f"{name}={text}" for name, text in values.items())


def _trained(each: Run, received: list[int]) -> dict[str, Any]:
    """Runs one point to its end; what it left as `result.json`."""
    log = each.directory.with_name(each.directory.name + ".log")
    with (
        log.open("ab") as file,
        subprocess.Popen(
            each.command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            # A group of its own: an interrupt from the terminal reaches it once, through here.
            start_new_session=True,
        ) as process,
    ):
        handed_on = 0
        while True:
            try:
                status = process.wait(timeout=0.2)
                break
            except subprocess.TimeoutExpired:
                for number in received[handed_on:]:
                    process.send_signal(number)
                    handed_on += 1
    result: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError, RecursionError):
        result = json.loads((each.directory / "result.json").read_text(encoding="utf-8"))
    if status:
        print(f"  failed with {status}: {_last_line(log)}", flush=True)
    return {**each.values, **{name: result.get(name) for name in _RESULTS}, "status": status}


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Notes the signals that end a program instead of dying of them."""
    received: list[int] = []
    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
        numbers.append(signal.SIGHUP)
    before = {n: signal.signal(n, lambda number, _: received.append(number)) for n in numbers}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _show(records: Sequence[dict[str, Any]], monitor: str) -> None:
    """Prints all runs, the best by the monitored metric behind a star."""
    column = f"test_{monitor}"
    done = [record for record in records if not record["status"] and record[column] is not None]
    sign = 1 if monitor == "loss" else -1
    best = min(done, key=lambda record: sign * record[column]) if done else None
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True)
    for name in ("", *records[0]):
        # Names of several words take several lines where there is no room.
        table.add_column(Text(name.replace("_", " ")), overflow="fold")
    for record in records:
        marked = record is best
        cells = ("*" if marked else "", *map(_cell, record.values()))
        table.add_row(*map(Text, cells), style="bold green" if marked else None)
    show(table, "sweep, no run ended well" if best is None else f"sweep, best {monitor} marked *")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return significant(value, 5) if isinstance(value, float) else str(value)


cli = functools.partial(run_main, main, doc=__doc__)

if __name__ == "__main__":
    cli()
