"""What a result was measured on: processor, memory, versions, date."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import os
import pathlib
import platform
from collections.abc import Iterable


def first_field(path: str, name: str) -> str | None:
    """The value of the first `name: value` line of a /proc file; None where there is none."""
    if pathlib.Path(path).exists():
        for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    return None


def describe() -> dict[str, str | int | list[str] | None]:
    """The processor, its cores and vector instructions, the memory, the system, the date (UTC)."""
    memory = first_field("/proc/meminfo", "MemTotal")
    flags = (first_field("/proc/cpuinfo", "flags") or "").split()
    mine = hasattr(os, "sched_getaffinity")
    return {
        "cpu": first_field("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": len(os.sched_getaffinity(0)) if mine else os.cpu_count(),
        "vector_instructions": [flag for flag in flags if flag.startswith(("avx", "amx", "fma"))],
        "memory_bytes": int(memory.split()[0]) * 1024 if memory else None,
        "system": platform.platform(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def versions(names: Iterable[str] = ("tensorflow", "keras", "numpy")) -> dict[str, str]:
    """Python's and the named distributions' versions, those that are installed here."""
    found = {"python": platform.python_version()}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
