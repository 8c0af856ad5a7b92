"""Checks the paths that flags name, before TensorFlow is imported: `Flag.check` of each kind."""

from __future__ import annotations

import os

from experiments.entry.errors import InputError


def path(name: str, text: str) -> None:
    """Any path.

    Raises:
      InputError: where a flagfile could not hold it, since it strips its lines.
    """
    if not text or text != text.strip() or not text.isprintable():
        raise InputError(
            f"--{name}",
            expected="a path of printable characters without blanks at its ends",
            found=repr(text),
            mend="rename it",
        )


def folder(name: str, text: str) -> None:
    """A folder, or where one can be made."""
    path(name, text)
    if not _can_be_folder(text):
        raise InputError(
            f"--{name}={text}",
            expected="a folder, or a path where one can be made",
            found="a file on the way",
            mend="choose another path",
        )


def existing_folder(
    name: str, text: str, *, what: str = "an existing folder", mend: str = "correct the path"
) -> None:
    """A folder that is there."""
    path(name, text)
    if not os.path.isdir(text):
        found = "a file" if os.path.exists(text) else "nothing"
        raise InputError(f"--{name}={text}", expected=what, found=found, mend=mend)


def run_or_checkpoint(name: str, text: str) -> None:
    """The folder of one or the other."""
    existing_folder(name, text, what="the folder of a run or of a checkpoint")


def new_folder(name: str, text: str) -> None:
    """A folder that is not there yet and can be made."""
    path(name, text)
    if os.path.lexists(text) or not _can_be_folder(text):
        raise InputError(
            f"--{name}={text}",
            expected="a path where nothing is and a folder can be made",
            found="something there" if os.path.lexists(text) else "a file on the way",
            mend="remove what is there, or choose another path",
        )


def stem(name: str, text: str, *, what: str = "a name") -> None:
    """A name in an existing folder, which endings are added to."""
    path(name, text)
    parent = os.path.dirname(text) or "."
    if not os.path.isdir(parent) or (what != "a name" and os.path.isdir(text)):
        raise InputError(
            f"--{name}={text}",
            expected=f"{what} in an existing folder",
            found=f"no folder {parent}" if not os.path.isdir(parent) else "a folder",
            mend="make the folder, or choose another path",
        )


def archive(name: str, text: str) -> None:
    """An .npz file in an existing folder, there or not."""
    if not text.endswith(".npz"):
        path(name, text)
        raise InputError(
            f"--{name}={text}",
            expected="a name that ends in .npz",
            found=os.path.basename(text),
            mend="add the ending",
        )
    stem(name, text, what="a file")


def _can_be_folder(text: str) -> bool:
    """Whether the nearest existing part of the path is a folder."""
    text = os.path.abspath(text)
    while not os.path.lexists(text) and os.path.dirname(text) != text:
        text = os.path.dirname(text)
    return os.path.isdir(text)
