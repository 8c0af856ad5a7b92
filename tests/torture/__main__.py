"""Every fault, caused for real, in one table: tried, survived, lost.

    python -m tests.torture                # 200 kills, 300 corruptions, ...: about an hour
    python -m tests.torture --scale=0.1    # a tenth of each

Exit status: 0 if all was survived, 1 if anything was lost, 2 if a tool is missing.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import shutil
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from tests.torture import runs, saves
from tests.torture.table import show


def main() -> int:
    """Causes all faults and prints the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="of every number of faults")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if shutil.which("strace") is None:
        parser.error("strace is not installed: expected for faults at each system call of a save")
    begin = time.monotonic()
    scale: float = options.scale

    def scaled(number: int) -> int:
        return max(1, round(number * scale))

    root = os.geteuid() == 0
    counts = runs.cause(
        kill=scaled(200),
        stop=scaled(50),
        limit=scaled(60),
        worker_kill=scaled(20),
        modes=list(runs.MODES),
        seed=options.seed,
    )
    counts += saves.cause(
        kill=scaled(200), damage=scaled(300), limit=scaled(100), tmpfs=root, seed=options.seed
    )
    counts += saves.system_calls(stride=max(1, round(1 / scale)))
    status: int = show(counts)
    minutes = (time.monotonic() - begin) / 60
    now = datetime.datetime.now(datetime.timezone.utc)
    print(
        f"{now:%Y-%m-%d}, {os.cpu_count()} CPUs, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, scale {scale:g}, {minutes:.0f} minutes"
        + ("" if root else "; full disks on tmpfs not tried: they need root")
    )
    return status


if __name__ == "__main__":
    sys.exit(main())
