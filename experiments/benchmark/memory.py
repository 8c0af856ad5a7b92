"""Whether streaming needs memory for its data: an epoch of data larger than the memory allowed.

What TensorFlow and a small model need by themselves is measured first; the limit lies a little
above it, and the data is `ratio` times the limit. Streamed records must train through it, with a
resident set that does not grow; the same data as arrays must die of the limit, and a little of it
as arrays must not, or the limit would prove nothing.
"""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
from typing import Any

from experiments.benchmark import install_peers, machine, memory_worker
from experiments.entry.errors import InputError

ROOM_BYTES = 128 * 2**20
"""Between what the process needs by itself and its limit: two calls' batches, and their copies."""

RATIO, QUICK_RATIO = 4.0, 1.5
_LITTLE = 256
_PATIENCE_SECONDS = 1800.0


def _worker(folder: pathlib.Path, feed: str, limit: int | None = None) -> dict[str, Any]:
    """What a worker printed; of one that died, its status and last words."""
    command = [sys.executable, "-m", "experiments.benchmark.memory_worker", str(folder)]
    command.append(f"--feed={feed}")
    if limit is not None:
        command.append(f"--limit_bytes={limit}")
    done = subprocess.run(
        command,
        cwd=install_peers.ROOT,
        capture_output=True,
        text=True,
        timeout=_PATIENCE_SECONDS,
        check=False,
    )
    if done.returncode == 0:
        return dict(json.loads(done.stdout.splitlines()[-1]))
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return {"status": done.returncode, "died": lines[-1][:200] if lines else "it said nothing"}


def _row(feed: str, data_bytes: int, limit: int, found: dict[str, Any]) -> dict[str, Any]:
    """A row, bytes in MB; growth is that of the resident set from the first tenth on."""
    row: dict[str, Any] = {"feed": feed, "data_mb": data_bytes / 1e6, "limit_mb": limit / 1e6}
    if "died" in found:
        return {**row, "outcome": f"died, status {found['status']}: {found['died']}"}
    expected = found["examples"] * (found["examples"] - 1) // 2
    resident = [sample["VmRSS"] for sample in found["samples"]]
    return {
        **row,
        "outcome": "trained",
        "each_once": found["number_sum"] == expected,
        "rss_mb": [round(each / 1e6, 1) for each in resident],
        "growth_mb": (max(resident) - resident[0]) / 1e6,
        "peak_rss_mb": found["VmHWM"] / 1e6,
        "data_segment_mb": max(sample["VmData"] for sample in found["samples"]) / 1e6,
    }


def _size(examples: int) -> int:
    return examples * memory_worker.RECORD_BYTES


def run(*, ratio: float) -> dict[str, Any]:
    """Measures; what goes into the JSON file.

    Args:
      ratio: the data's size by the limit.

    Raises:
      InputError: where there is no such limit, or no room for the data.
    """
    if sys.platform != "linux":
        raise InputError(
            "memory", expected="Linux", found=sys.platform, mend="run it on a Linux machine"
        )
    with tempfile.TemporaryDirectory() as scratch:
        little, folder = pathlib.Path(scratch, "little"), pathlib.Path(scratch, "all")
        for each in (little, folder):
            each.mkdir()
        memory_worker.write(little, range(_LITTLE))
        alone = _worker(little, "records")
        if "died" in alone:
            raise RuntimeError(f"memory: the worker failed without a limit: {alone['died']}")
        base = max(sample["VmData"] for sample in alone["samples"])
        limit = base + ROOM_BYTES
        # Whole batches, so that an epoch is a whole number of steps.
        steps = -(-int(ratio * limit) // _size(memory_worker.BATCH))
        examples = steps * memory_worker.BATCH
        _check_room(scratch, _size(examples))
        memory_worker.write(folder, range(examples))
        rows = [
            _row("records", _size(examples), limit, _worker(folder, "records", limit)),
            _row("arrays", _size(examples), limit, _worker(folder, "arrays", limit)),
            _row("little arrays", _size(_LITTLE), limit, _worker(little, "arrays", limit)),
        ]
    result: dict[str, Any] = {"machine": machine.describe(), "versions": machine.versions()}
    return {**result, "base_bytes": base, "limit_bytes": limit, "ratio": ratio, "rows": rows}


def _check_room(folder: str, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < 1.1 * needed:
        raise InputError(
            "memory",
            expected=f"room for {needed / 1e9:.1f} GB in {folder}",
            found=f"{free / 1e9:.1f} GB",
            mend="set TMPDIR to a folder with more",
        )
