"""Whether a checkpoint is what was written: every file's size and SHA-256, every variable."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import tensorflow as tf

from loop.checkpoint import bundle
from loop.checkpoint.directory import absolute, step_of
from loop.checkpoint.errors import describe, first_line
from loop.checkpoint.files import NotAPlainFileError, read_plain, size_and_sha256
from loop.checkpoint.manifest import (
    FILE_NAME,
    MAXIMUM_BYTES,
    FileEntry,
    Manifest,
    VariableEntry,
    decode,
)
from loop.checkpoint.state import state_sha256


def load_manifest(path: Path) -> Manifest:
    """The manifest; a ValueError says in one line why there is none to trust."""
    if path.is_symlink():
        raise NotAPlainFileError(f"{path.name}: a symbolic link, not a directory: refused")
    if not path.is_dir():
        raise NotAPlainFileError(f"{path.name}: missing or not a directory")
    try:
        content = read_plain(path / FILE_NAME, MAXIMUM_BYTES + 1)
    except FileNotFoundError:
        raise ValueError(f"{FILE_NAME}: missing") from None
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        raise ValueError(f"{FILE_NAME}: cannot be read: {describe(error)}") from error
    manifest = decode(content)
    if set(manifest.files) != set(bundle.FILE_NAMES):
        raise ValueError(
            f"{FILE_NAME}: expected the files {sorted(bundle.FILE_NAMES)}, "
            f"found {sorted(manifest.files)[:4]}"
        )
    named = step_of(path.name)
    if named is not None and named != manifest.step:
        raise ValueError(f"{FILE_NAME}: of step {manifest.step}, in a directory named {path.name}")
    return manifest


def _file_problem(path: Path, entry: FileEntry) -> str | None:
    try:
        size, digest = size_and_sha256(path)
    except FileNotFoundError:
        return f"{path.name}: missing"
    except NotAPlainFileError as error:
        return str(error)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return f"{path.name}: cannot be read: {describe(error)}"
    if size != entry.bytes:
        how = "truncated" if size < entry.bytes else "grown"
        return f"{path.name}: {how}: {size} bytes, expected {entry.bytes}"
    if digest != entry.sha256:
        return f"{path.name}: SHA-256 is {digest[:12]}..., expected {entry.sha256[:12]}..."
    return None


def _bundle_problems(path: Path, expected: dict[str, VariableEntry]) -> list[str]:
    try:
        found = bundle.bundle_variables(path)
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        return [f"{bundle.FILE_NAMES[1]}: cannot be read: {first_line(error)}"]
    different = sorted(n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n))
    return [
        f"{bundle.FILE_NAMES[1]}: variable {n!r} is {found.get(n, 'absent')}, the manifest says "
        f"{expected.get(n, 'absent')}"
        for n in different[:5]
    ]


def inspect(path: Path) -> tuple[Manifest | None, list[str]]:
    """The manifest, if there is one to trust, and what is wrong, one line for each problem.

    Raises:
      OSError: if a file is there but cannot be read for a reason that is no damage (permission, too
        many open files; a bad sector, EIO, is damage): an older one would be no answer to it.
    """
    try:
        manifest = load_manifest(path)
    except ValueError as error:
        return None, [str(error)]
    problems = [_file_problem(path / name, entry) for name, entry in manifest.files.items()]
    found = [problem for problem in problems if problem is not None]
    return manifest, found or _bundle_problems(path, manifest.variables)


def verify(path: str | os.PathLike[str]) -> list[str]:
    """What is wrong with a checkpoint: one line for each problem, naming the file; [] if sound.

    Checks the manifest, every file's size and SHA-256, the variables' names, dtypes and shapes,
    and the SHA-256 of the values as TensorFlow reads them. Reads everything, changes nothing.

    Args:
      path: a checkpoint's directory.
    """
    root = absolute(path)
    try:
        manifest, problems = inspect(root)
        if manifest is None or problems:
            return problems
        values = bundle.read_bundle(root, manifest.variables)
    except (OSError, tf.errors.OpError, TypeError) as error:
        return [f"{root.name}: cannot be read: {describe(error)}"]
    digest = state_sha256(values)
    if digest != manifest.state_sha256:
        return [
            f"{bundle.FILE_NAMES[0]}: holds values with SHA-256 {digest[:12]}..., the manifest "
            f"says {manifest.state_sha256[:12]}..."
        ]
    return []
