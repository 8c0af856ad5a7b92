"""A contender's process, as its referee sees it: orders out, answers in, each within a time."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from experiments.benchmark import install_contenders
from experiments.benchmark.contenders.table import CONTENDERS

PATIENCE_SECONDS = 600.0
"""How long an answer may take where no other limit is given."""


class ContenderError(Exception):
    """A contender that could not start or stopped in the middle; the message is one line."""


class TooSlowError(ContenderError):
    """A contender that did not answer in its time."""


class Ready(NamedTuple):
    """What a contender reports once it is built."""

    compile_s: float  # from its first operation to the end of its first whole call
    start_s: float  # from the start of its process until it was ready
    losses: list[float]  # of the first steps
    ms: float  # a step, in its first call after the warm one
    steps_per_call: int  # the most steps it makes in a call; its own choice or as it was told
    compile: str  # the compiler it chose; "" where it has no choice
    note: str  # its own remark
    versions: dict[str, str]  # distribution -> version


@contextlib.contextmanager
def fresh_caches() -> Iterator[pathlib.Path]:
    """An empty folder for the contenders' caches, gone at the end.

    What an earlier run left (our choices, maybe made on a busy machine; torch.compile's code) would
    otherwise decide what is raced and how long a start takes.
    """
    with tempfile.TemporaryDirectory(prefix="tapestep-benchmark-") as folder:
        yield pathlib.Path(folder)


def last_line(errors: str) -> str:
    """The last line that a program which died has written, at most 300 characters."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it wrote nothing"


class Process:
    """A contender's process; a context manager that ends it.

    Args:
      contender: its name.
      workload: its name.
      caches: a folder for what it keeps for its next start. Two contenders that share one take up
        each other's choices.
      steps_per_call: for the contenders that run several steps in one call and do not choose; 0 for
        the workload's.
      start_up: measures its start only, see `contenders.worker`.

    Raises:
      ContenderError: where its environment is not installed.
    """

    def __init__(
        self,
        contender: str,
        workload: str,
        caches: pathlib.Path,
        *,
        steps_per_call: int = 0,
        start_up: bool = False,
    ) -> None:
        environment = CONTENDERS[contender].environment
        own = pathlib.Path(sys.executable)
        python = install_contenders.interpreter(environment) if environment else own
        if not python.exists():
            raise ContenderError(
                f"{contender}: not installed ({python} is missing); make bench-contenders"
            )
        command = [str(python), "-m", "experiments.benchmark.contenders.worker", contender]
        command += [f"--workload={workload}", f"--steps_per_call={steps_per_call}"]
        command += [f"--started_at={time.time()!r}"] if start_up else []
        torch = {"TORCHINDUCTOR_CACHE_DIR": str(caches / "torchinductor")}
        variables = {"XDG_CACHE_HOME": str(caches), "TF_CPP_MIN_LOG_LEVEL": "3", **torch}
        self._contender = contender
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed by `end`
        self._started = time.perf_counter()
        self._process = subprocess.Popen(
            command,
            cwd=install_contenders.ROOT,
            env={**os.environ, **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._orders, self._answers = self._process.stdin, self._process.stdout

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.end(seconds=5.0)

    def end(self, *, seconds: float = 0.0) -> None:
        """Ends the process, by force after `seconds`; ending it twice does nothing."""
        with contextlib.suppress(BrokenPipeError):
            self._orders.close()
        try:
            self._process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._answers.close()
        self._errors.close()

    def answer(self, seconds: float = PATIENCE_SECONDS) -> dict[str, Any]:
        """The next line from the contender.

        Raises:
          TooSlowError: when none comes within `seconds`; the process is of no use then.
          ContenderError: when it stops instead.
        """
        # It answers in whole lines, one for each order: none can wait in the buffer.
        if not select.select([self._answers], [], [], seconds)[0]:
            raise TooSlowError(f"{self._contender}: no answer within {seconds:.0f} s")
        line = self._answers.readline()
        if not line:
            status = self._process.wait()
            self._errors.seek(0)
            last = last_line(self._errors.read())
            raise ContenderError(f"{self._contender}: stopped with status {status}: {last}")
        return dict(json.loads(line))

    def ready(self, seconds: float = PATIENCE_SECONDS) -> Ready:
        """Waits until the contender is built and warm; raises as `answer` does."""
        message = self.answer(seconds)["ready"]
        return Ready(start_s=time.perf_counter() - self._started, **message)

    def go(
        self, steps: int, seconds: float = PATIENCE_SECONDS
    ) -> tuple[float, int, dict[str, float]]:
        """Runs `steps` steps; milliseconds a step, peak resident bytes, what else it measured."""
        with contextlib.suppress(BrokenPipeError):  # the missing answer says why
            self._orders.write(f"go {steps}\n")
            self._orders.flush()
        answer = self.answer(seconds)
        return float(answer["ms"]), int(answer["peak_rss_bytes"]), answer["measured"]
