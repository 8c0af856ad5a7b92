"""How a program of tapestep is called, and how one of them starts another."""

from __future__ import annotations

import os
import sys

import tapestep

_START = """
import runpy, sys
sys.path[:] = [folder for folder in sys.path if folder] + [{root!r}]
runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
""".strip()


def called(script: str, module: str) -> str:
    """How the program is called, by its `sys.argv[0]`: an installed script, or a module."""
    name = os.path.basename(script)
    return name if name.startswith("tapestep-") else f"python -m {module}"


def command(module: str) -> list[str]:
    """What starts a module as a program in a new process; its arguments follow.

    `python -m` looks into the current folder first, where a user may have a package `experiments`.
    """
    root = os.path.dirname(os.path.abspath(tapestep.__file__))
    return [sys.executable, "-c", _START.format(root=root, module=module)]
