"""A comparison of kernels as rows of the JSON file."""

from __future__ import annotations

import dataclasses
from typing import Any

from experiments.benchmark import timing

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Measured:
    """What one comparison came to; a row for each reference."""

    kernel: str
    shape: tuple[int, ...]
    dtype: str
    target: str
    milliseconds: dict[str, list[float]]

    def rows(self) -> list[Row]:
        """The JSON file's rows."""
        ours = self.milliseconds["ours"]
        summary = timing.summarize(ours)
        return [
            {
                "kernel": self.kernel,
                "shape": list(self.shape),
                "dtype": self.dtype,
                "target": self.target,
                "ours_ms": summary.median,
                "ours_ms_min": summary.minimum,
                "ours_ms_max": summary.maximum,
                "reference": name,
                "reference_ms": timing.summarize(theirs).median,
                "reference_ms_min": timing.summarize(theirs).minimum,
                "reference_ms_max": timing.summarize(theirs).maximum,
                "ratio": timing.median_ratio(ours, theirs),
            }
            for name, theirs in self.milliseconds.items()
            if name != "ours"
        ]
