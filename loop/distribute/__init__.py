"""Where the steps run: one device, several devices of a machine, several machines."""

from loop.distribute.strategies import (
    Replicas,
    make,
    mirrored,
    multi_worker,
    single,
)

__all__ = ["Replicas", "make", "mirrored", "multi_worker", "single"]
