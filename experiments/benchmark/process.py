"""A contender's process, as its referee sees it: orders out, answers in, each within a time."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from experiments.benchmark import install_peers

PATIENCE_SECONDS = 600.0
"""How long an answer may take where no other limit is given."""


class ContenderError(Exception):
    """A contender that could not start or stopped in the middle; the message is one line."""


class TooSlowError(ContenderError):
    """A contender that did not answer in its time."""


@dataclasses.dataclass(frozen=True)
class Ready:
    """What a contender reports once it is built.

    Attributes:
      compile_s: from its first operation to the end of its first whole call.
      start_s: from the start of its process until it was ready.
      losses: of the first steps.
      ms: a step, in its first call after the warm one.
      steps_per_call: the most steps it makes in a call; its own choice or as it was told.
      compile: the compiler it chose; "" where it has no choice.
      note: its own remark.
      versions: distribution -> version.
    """

    compile_s: float
    start_s: float
    losses: list[float]
    ms: float
    steps_per_call: int
    compile: str
    note: str
    versions: dict[str, str]


@contextlib.contextmanager
def fresh_caches() -> Iterator[pathlib.Path]:
    """An empty folder for the contenders' caches, gone at the end.

    What an earlier run left (our choices, maybe made on a busy machine; torch.compile's code) would
    otherwise decide what is raced and how long a start takes.
    """
    with tempfile.TemporaryDirectory(prefix="tapestep-benchmark-") as folder:
        yield pathlib.Path(folder)


def _environment(caches: pathlib.Path | None) -> dict[str, str]:
    variables = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    if caches is not None:
        variables["XDG_CACHE_HOME"] = str(caches)
        variables["TORCHINDUCTOR_CACHE_DIR"] = str(caches / "torchinductor")
    return variables


class Process:
    """A contender's process; a context manager that ends it.

    Args:
      contender: a module in `peers`.
      workload: its name.
      steps_per_call: for the contenders that run several steps in one call and do not choose.
      peer: the environment in .venv-peers it runs in; None for our own.
      caches: a folder for what it keeps for its next start; None for the user's own.
      start_up: measures its start alone, see `peers.worker`.

    Attributes:
      measured: what else the contender said that it has measured, with its last round.

    Raises:
      ContenderError: where its environment is not installed.
    """

    def __init__(
        self,
        contender: str,
        workload: str,
        steps_per_call: int,
        *,
        peer: str | None = None,
        caches: pathlib.Path | None = None,
        start_up: bool = False,
    ) -> None:
        python = pathlib.Path(sys.executable) if peer is None else install_peers.interpreter(peer)
        if not python.exists():
            raise ContenderError(
                f"{contender}: not installed ({python} is missing); make bench-peers"
            )
        module = f"experiments.benchmark.peers.{contender}"
        command = [str(python), "-m", module, f"--workload={workload}"]
        command.append(f"--steps_per_call={steps_per_call}")
        if start_up:
            command.append(f"--started_at={time.time()!r}")
        self.measured: dict[str, float] = {}
        self._contender = contender
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed by __exit__
        self._started = time.perf_counter()
        self._process = subprocess.Popen(
            command,
            cwd=install_peers.ROOT,
            env=_environment(caches),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.end(seconds=5.0)

    def end(self, *, seconds: float = 0.0) -> None:
        """Ends the process, by force after `seconds`; ending it twice does nothing."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()

    def answer(self, seconds: float = PATIENCE_SECONDS) -> dict[str, Any]:
        """The next line from the contender.

        Raises:
          TooSlowError: when none comes within `seconds`; the process is of no use then.
          ContenderError: when it stops instead.
        """
        assert self._process.stdout is not None
        # It answers in whole lines, one for each order: none can wait in the buffer.
        readable, _, _ = select.select([self._process.stdout], [], [], seconds)
        if not readable:
            raise TooSlowError(f"{self._contender}: no answer within {seconds:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            self._errors.seek(0)
            last = [text.strip() for text in self._errors.read().splitlines() if text.strip()]
            reason = last[-1][:300] if last else "it wrote nothing"
            raise ContenderError(f"{self._contender}: stopped with status {status}: {reason}")
        return dict(json.loads(line))

    def ready(self, seconds: float = PATIENCE_SECONDS) -> Ready:
        """Waits until the contender is built and warm.

        Raises:
          TooSlowError: when that takes longer than `seconds`.
          ContenderError: when it stops instead.
        """
        message = self.answer(seconds)["ready"]
        return Ready(start_s=time.perf_counter() - self._started, **message)

    def go(self, steps: int, seconds: float = PATIENCE_SECONDS) -> tuple[float, int]:
        """Runs `steps` steps; (milliseconds a step, peak resident bytes).

        Raises:
          TooSlowError: when that takes longer than `seconds`.
          ContenderError: when the contender stops instead.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"go {steps}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the missing answer says why
        answer = self.answer(seconds)
        self.measured = answer.get("measured", {})
        return float(answer["ms"]), int(answer["peak_rss_bytes"])
