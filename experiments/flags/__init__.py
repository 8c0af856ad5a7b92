"""The command line of `python -m experiments.train`."""

from experiments.flags.parse import define, parse
from experiments.flags.settings import Settings

__all__ = ["Settings", "define", "parse"]
