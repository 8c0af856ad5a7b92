"""What a result was measured on: processor, memory, versions, date."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import pathlib
import platform


def _first_field(path: str, name: str) -> str | None:
    """The value of the first `name: value` line of a /proc file; None where there is none."""
    try:
        lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None


def describe() -> dict[str, str | int | list[str] | None]:
    """The processor, its cores and vector instructions, the memory, the system, the date (UTC)."""
    memory = _first_field("/proc/meminfo", "MemTotal")
    flags = (_first_field("/proc/cpuinfo", "flags") or "").split()
    vector = [flag for flag in flags if flag.startswith(("avx", "amx", "fma"))]
    return {
        "cpu": _first_field("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "vector_instructions": vector,
        "memory_bytes": int(memory.split()[0]) * 1024 if memory else None,
        "system": platform.platform(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def versions(names: tuple[str, ...] = ("tensorflow", "keras", "numpy")) -> dict[str, str]:
    """Python's and the named distributions' versions, those that are installed here."""
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
