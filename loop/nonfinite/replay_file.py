"""Replay files: a step that was not finite, as a small JSON file to compute it again from.

The file lies in the run's directory beside the checkpoint of the step before, which it names.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loop import checkpoint
from loop.checkpoint.files import read_plain

FORMAT_VERSION = 1

_NAME = re.compile(r"nonfinite-(\d{12,19})\.json")
_CHECKPOINT = re.compile(r"checkpoint-\d{12,19}")
_MAXIMUM_BYTES = 16 * 2**20
_TYPES: dict[str, type | tuple[type, ...]] = {
    "step": int,
    "seed": int,
    "checkpoint": str,
    "state_sha256": str,
    "row": dict,
    "example_ids": (list, type(None)),
    "variables": (list, type(None)),
    "rebuild": dict,
}


class ReplayError(ValueError):
    """A replay file, or the checkpoint that it names, cannot be used; one line."""


@dataclasses.dataclass(frozen=True)
class Replay:
    """A step that was not finite.

    Attributes:
      step: finished steps before it.
      seed: the run's.
      checkpoint: the name of the checkpoint of the state before it, beside the file.
      state_sha256: of that state.
      row: what the step reported; a number that is not finite as text.
      example_ids: of its batch, by position; None where the feed has none.
      variables: whose gradients are not finite; None where unknown.
      rebuild: what the program needs to make the run's parts again, such as its flags.
    """

    step: int
    seed: int
    checkpoint: str
    state_sha256: str
    row: dict[str, float | str]
    example_ids: list[int] | None
    variables: list[str] | None
    rebuild: dict[str, Any]

    def write(self, directory: str | os.PathLike[str]) -> Path:
        """Writes the file into a run's directory, over one of the same step.

        Raises:
          CheckpointError: if it cannot be written.
        """
        path = Path(directory) / f"nonfinite-{self.step:012d}.json"
        content = {"format_version": FORMAT_VERSION, **dataclasses.asdict(self)}
        temporary = path.with_suffix(".json.new")
        try:
            temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
            os.replace(temporary, path)
        except OSError as error:
            raise checkpoint.CheckpointError(
                f"replay file {path} cannot be written: {error.strerror}"
            ) from error
        return path


def as_json(row: Mapping[str, float]) -> dict[str, float | str]:
    """Numbers as JSON has them: one that is not finite becomes its text."""
    return {name: value if abs(value) < float("inf") else str(value) for name, value in row.items()}


def read(path: str | os.PathLike[str]) -> Replay:
    """Reads a replay file.

    Raises:
      ReplayError: not there, or not such a file; says what is wrong.
    """
    try:
        content = json.loads(read_plain(Path(path), _MAXIMUM_BYTES))
    except OSError as error:
        raise ReplayError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ReplayError(f"{path}: no replay file: {str(error).splitlines()[0]}") from error
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise ReplayError(
            f"{path}: expected a replay file of format_version {FORMAT_VERSION}, found {version!r}"
        )
    for name, kind in _TYPES.items():
        if not isinstance(content.get(name), kind):
            raise ReplayError(f"{path}: {name!r} is missing or of another type")
    if not _CHECKPOINT.fullmatch(content["checkpoint"]):
        raise ReplayError(f"{path}: no name of a checkpoint: {content['checkpoint']!r}")
    return Replay(**{name: content[name] for name in _TYPES})


def steps_in(directory: str | os.PathLike[str]) -> list[int]:
    """The steps whose checkpoints the replay files of a directory need."""
    matches = (_NAME.fullmatch(name) for name in os.listdir(directory))
    return sorted(int(match[1]) for match in matches if match)


def restore(path: str | os.PathLike[str], replay: Replay, state: Mapping[str, Any]) -> None:
    """Sets `state` from the checkpoint that a replay file names.

    Raises:
      ReplayError: if it holds another state than the file says.
      CheckpointError, StateMismatchError: see `checkpoint.restore`.
    """
    checkpoint.restore(Path(path).parent / replay.checkpoint, state)
    found = checkpoint.state_sha256(state)
    if found != replay.state_sha256:
        raise ReplayError(
            f"{path}: {replay.checkpoint} beside it holds another state, of another run (SHA-256 "
            f"{found[:12]}..., expected {replay.state_sha256[:12]}...)"
        )
