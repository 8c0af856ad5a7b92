"""The text of `--help`: flags in groups, with choices, ranges and defaults."""

from __future__ import annotations

import textwrap

from experiments.flags.flag import Flag
from experiments.flags.settings import FLAGS

_WIDTH = 96
_INDENT = " " * 8


def _usage(flag: Flag) -> str:
    return flag.usage if len(flag.usage) < _WIDTH - 2 else f"--{flag.name}=NAME"


def _entry(flag: Flag) -> str:
    notes = []
    if flag.kind == "choice" and _usage(flag).endswith("=NAME"):
        notes.append(flag.expected)
    if flag.kind not in ("bool", "choice", "text"):
        notes.append(flag.expected)
    if flag.written_default and flag.kind != "bool":
        notes.append(f"default {flag.written_default}")
    if flag.only_with and len(flag.only_with[1]) < 6:
        notes.append(f"only with --{flag.only_with[0]}={'|'.join(flag.only_with[1])}")
    text = flag.help + (f" ({'; '.join(notes)})" if notes else "")
    body = textwrap.fill(
        text,
        _WIDTH,
        initial_indent=_INDENT,
        subsequent_indent=_INDENT,
        break_on_hyphens=False,
        break_long_words=False,
    )
    return f"  {_usage(flag)}\n{body}"


def text(program: str) -> str:
    """The whole help.

    Args:
      program: how the binary is called.
    """
    parts = [f"usage: {program} [--flag=value ...] [--flagfile=PATH]"]
    group = None
    for flag in FLAGS:
        if flag.group != group:
            group = flag.group
            parts.append(f"\n{group}:")
        parts.append(_entry(flag))
    return "\n".join(parts) + "\n"
