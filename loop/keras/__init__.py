"""Keras's models, layers, metrics and optimizers in the loop; no other package imports Keras."""

from loop.keras.adapter import KerasOptimizer

__all__ = ["KerasOptimizer"]
