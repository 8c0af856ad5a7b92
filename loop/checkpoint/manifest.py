"""The manifest of a checkpoint: what was written, from what, and how to notice damage.

The file is JSON in one canonical rendering (keys sorted, two spaces), and holds the SHA-256 of its
own body. A reader renders what it parsed and compares bytes, so a flipped bit anywhere in the file
is noticed, also in white space or in a number that would still parse.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

FORMAT_VERSION = 1
FILE_NAME = "manifest.json"
MAXIMUM_BYTES = 16 * 2**20  # a manifest of 100,000 variables has about 12 MiB

# What JSON can hold; the recursion is left to `checked_metadata`.
Json = bool | int | float | str | list[Any] | dict[str, Any] | None

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True)
class FileEntry:
    """A file of the checkpoint.

    Attributes:
      bytes: its size.
      sha256: its SHA-256, 64 lower-case hexadecimal digits.
    """

    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class VariableEntry:
    """A variable of the checkpoint.

    Attributes:
      dtype: TensorFlow's name of the type, as "float32".
      shape: its shape.
    """

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a checkpoint holds.

    Attributes:
      step: the global step it was taken at.
      created: time of writing, ISO 8601, UTC; for people, never compared.
      files: name -> size and SHA-256.
      variables: name -> dtype and shape.
      state_sha256: SHA-256 of the variables (`state_sha256` says in which order).
      metadata: what the caller stored with it.
    """

    step: int
    created: str
    files: dict[str, FileEntry]
    variables: dict[str, VariableEntry]
    state_sha256: str
    metadata: dict[str, Any]


def checked_metadata(metadata: Mapping[str, Json]) -> dict[str, Any]:
    """A deep copy of `metadata` as JSON gives it back (tuples become lists).

    Raises:
      TypeError: names the first key whose value JSON cannot hold exactly.
    """
    copies: dict[str, Any] = {}
    for key, value in metadata.items():
        if not isinstance(key, str):
            raise TypeError(f"metadata: keys must be strings, got {key!r}")
        try:
            copies[key] = json.loads(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError, RecursionError) as error:
            raise TypeError(
                f"metadata[{key!r}]: expected JSON values (finite numbers, strings, booleans, "
                f"None, lists, dicts with string keys), got {value!r}: {error}"
            ) from None
    return copies


def _render(body: Mapping[str, Any]) -> bytes:
    def text(value: Any) -> bytes:
        rendered = json.dumps(value, sort_keys=True, indent=2, allow_nan=False, ensure_ascii=True)
        return (rendered + "\n").encode("ascii")

    return text({"manifest": body, "sha256": hashlib.sha256(text(body)).hexdigest()})


def encode(manifest: Manifest) -> bytes:
    """The bytes of the manifest's file."""
    body = {"format_version": FORMAT_VERSION, **dataclasses.asdict(manifest)}
    return _render(body)


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise ValueError(f"{FILE_NAME}: {problem}")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _file_entry(name: str, entry: Any) -> FileEntry:
    _require(
        _PLAIN_NAME.fullmatch(name) is not None and name != FILE_NAME,
        f"file name {name!r} is refused: expected a plain name inside the checkpoint "
        "(no '/', no '..', not absolute)",
    )
    _require(
        isinstance(entry, dict)
        and set(entry) == {"bytes", "sha256"}
        and _is_count(entry["bytes"])
        and isinstance(entry["sha256"], str)
        and _SHA256.fullmatch(entry["sha256"]) is not None,
        f"file {name!r}: expected a size and a SHA-256, found {str(entry)[:80]}",
    )
    return FileEntry(entry["bytes"], entry["sha256"])


def _variable_entry(name: str, entry: Any) -> VariableEntry:
    _require(
        isinstance(entry, dict)
        and set(entry) == {"dtype", "shape"}
        and isinstance(entry["dtype"], str)
        and isinstance(entry["shape"], list)
        and all(_is_count(size) for size in entry["shape"]),
        f"variable {name[:80]!r}: expected a dtype and a shape, found {str(entry)[:80]}",
    )
    return VariableEntry(entry["dtype"], tuple(entry["shape"]))


def decode(content: bytes) -> Manifest:
    """The manifest in a file's bytes.

    Raises:
      ValueError: in one line, what is wrong: damaged, of another format version, or with names
        that point out of the checkpoint.
    """
    _require(len(content) <= MAXIMUM_BYTES, f"longer than {MAXIMUM_BYTES} bytes: refused")
    try:
        document = json.loads(content.decode("ascii"))
        body = document["manifest"]
        same = _render(body) == content
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ValueError(f"{FILE_NAME}: not a manifest (truncated or overwritten)") from None
    _require(same, "does not match its own SHA-256 (a bit flipped, or edited by hand)")
    version = body.get("format_version") if isinstance(body, dict) else None
    _require(version == FORMAT_VERSION, f"format version {version!r}, expected {FORMAT_VERSION}")
    fields = {field.name for field in dataclasses.fields(Manifest)}
    found = set(body) - {"format_version"}
    _require(found == fields, f"expected the fields {sorted(fields)}, found {sorted(found)}")
    _require(_is_count(body["step"]), f"step: expected a count, found {str(body['step'])[:40]}")
    for key in ("created", "state_sha256"):
        _require(isinstance(body[key], str), f"{key}: expected a string")
    for key in ("files", "variables", "metadata"):
        _require(isinstance(body[key], dict), f"{key}: expected an object")
    return Manifest(
        step=body["step"],
        created=body["created"],
        files={name: _file_entry(name, entry) for name, entry in body["files"].items()},
        variables={name: _variable_entry(name, e) for name, e in body["variables"].items()},
        state_sha256=body["state_sha256"],
        metadata=body["metadata"],
    )
