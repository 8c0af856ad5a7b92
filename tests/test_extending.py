"""docs/extending.md: its optimizer and its schedule, added to a copy of the tree as written."""

from __future__ import annotations

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
_BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


def _applied(heading: str, tree: Path) -> list[str]:
    """Applies a section's file and its line at the end of a table; its command comes back."""
    text = (_ROOT / "docs" / "extending.md").read_text()
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    (file, line, command) = (block for _, block in _BLOCK.findall(section))
    new = re.search(r"new file, here `(\S+?)`", section)
    table = re.search(r"at the end of `(\w+)` in `(\S+?)`", section)
    assert new is not None
    assert table is not None
    shutil.copy(_ROOT / "tapestep.py", tree)
    for package in ("kernels", "loop", "experiments"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(_ROOT / package, tree / package, ignore=ignored)
    (tree / new[1]).write_text(file)
    path = tree / table[2]
    before, opening, after = path.read_text().partition(f"\n{table[1]} = (\n")
    entries, closing, rest = after.partition("\n)\n")
    assert opening
    assert closing
    path.write_text(f"{before}{opening}{entries}\n{line.rstrip()}{closing}{rest}")
    return shlex.split(command)


def _trained(tree: Path, command: list[str], *flags: str) -> list[dict[str, float]]:
    """The rows of the metrics of a run in the copy."""
    assert command[:3] == ["python", "-m", "experiments.train"]
    ended = subprocess.run(
        [sys.executable, *command[1:], "--directory=run", *flags],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    lines = (tree / "run" / "metrics.jsonl").read_text().splitlines()
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
