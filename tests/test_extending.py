"""docs/extending.md: each of its changes, applied to a copy of the tree as written, and run."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

_ROOT = Path(__file__).parent.parent
_TEXT_AND_BLOCK = re.compile(r"(.*?)```(\w+)\n(.*?)```", re.DOTALL)


def _applied(heading: str, tree: Path) -> list[str]:
    """Applies a section's blocks to a copy of the tree; its command comes back.

    The text before a block says where it goes: a new file, the end of a table or class, or below a
    line; a block of the shell is the command.
    """
    for name in ("tapestep.py", "setup.cfg"):
        shutil.copy(_ROOT / name, tree)
    for package in ("kernels", "loop", "experiments", "tests"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(_ROOT / package, tree / package, ignore=ignored)
    text = (_ROOT / "docs" / "extending.md").read_text()
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    commands = []
    for instruction, language, block in _TEXT_AND_BLOCK.findall(section):
        words = " ".join(instruction.split())
        if language == "sh":
            commands.append(shlex.split(block))
        elif new := re.search(r"new file, here `(\S+?)`", words):
            (tree / new[1]).write_text(block)
        elif end := re.search(r"at the end of `(\w+)` in `(\S+?)`", words):
            _inserted(tree / end[2], _end_of(end[1], tree / end[2]), block)
        else:
            below = re.search(r"below `([^`]+)` in `(\S+?)`", words)
            assert below is not None, words
            lines = (tree / below[2]).read_text().splitlines()
            (number,) = [n for n, line in enumerate(lines, 1) if line.strip() == below[1]]
            _inserted(tree / below[2], number, block)
    (command,) = commands
    return command


def _end_of(name: str, path: Path) -> int:
    """The number of the line after which the last entry of a class or a literal is."""
    ends = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef) and node.name == name:
            ends.append(node.end_lineno)
        targets = node.targets if isinstance(node, ast.Assign) else []
        targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            ends.append((node.end_lineno or 0) - 1)  # before the bracket
    (end,) = ends
    assert end is not None
    return end


def _inserted(path: Path, after: int, block: str) -> None:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:after], block, *lines[after:]]))


def _run(tree: Path, command: list[str], *flags: str) -> subprocess.CompletedProcess[str]:
    assert command[:2] == ["python", "-m"]
    return subprocess.run(
        [sys.executable, *command[1:], *flags],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def _trained(
    tree: Path, command: list[str], *flags: str, run: str = "run"
) -> list[dict[str, float]]:
    """The rows of the metrics of a run in the copy."""
    ended = _run(tree, command, f"--directory={run}", *flags)
    assert ended.returncode == 0, ended.stderr
    lines = (tree / run / "metrics.jsonl").read_text().splitlines()
    return [row for line in lines if "learning_rate" in (row := json.loads(line))]


def test_an_optimizer_is_one_file_and_one_line(tmp_path: Path) -> None:
    """The documented optimizer trains with its registered rate, and each kernel has its slot."""
    command = _applied("How to add an optimizer", tmp_path)
    rows = _trained(tmp_path, command, "--dump_weights=weights.npz")
    assert [row["learning_rate"] for row in rows] == pytest.approx([0.001] * 3)
    with np.load(tmp_path / "weights.npz", allow_pickle=False) as weights:
        slots = [name for name in weights.files if name.endswith("kernel/momentum")]
        assert slots
        assert all(np.any(weights[name]) for name in slots)


def test_a_schedule_is_one_file_and_one_line(tmp_path: Path) -> None:
    """The documented schedule gives the run its rates: flat for a step, then its inverse root."""
    command = _applied("How to add a schedule", tmp_path)
    rows = _trained(tmp_path, command)
    rates = 0.002 / np.sqrt(np.maximum([0, 1, 2], 1))
    assert [row["learning_rate"] for row in rows] == pytest.approx(rates, rel=1e-6)


def test_a_flag_is_its_line_and_its_use(tmp_path: Path) -> None:
    """The documented flag has its effect, is stored, and makes another run of a resume."""
    command = _applied("How to add a flag", tmp_path)
    (given,) = [word for word in command if word.startswith("--in_order")]
    without = [word for word in command if word != given]
    rows, shuffled = _trained(tmp_path, command), _trained(tmp_path, without, run="shuffled")
    assert len(rows) == len(shuffled) == 3
    assert rows[0]["loss"] != shuffled[0]["loss"]
    assert "--in_order=true\n" in (tmp_path / "run" / "flags.txt").read_text()
    refused = _run(tmp_path, [*without, "--steps=4"], "--directory=run")
    assert refused.returncode == 2
    assert "in_order" in refused.stderr


@pytest.mark.parametrize("what", ["step", "feed", "kernel"])
def test_its_own_test_passes(tmp_path: Path, what: str) -> None:
    """The documented step learns, the feed is resumed, the kernel compared; imports are right."""
    command = _applied(f"How to add a {what}", tmp_path)
    ended = _run(tmp_path, command, "tests/test_imports.py")
    assert ended.returncode == 0, ended.stdout + ended.stderr
