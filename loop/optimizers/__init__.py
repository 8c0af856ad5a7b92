"""Optimizers that run inside the compiled loop; one file a family."""

from loop.optimizers.adam import Adam, AdamW
from loop.optimizers.base import LearningRate, Optimizer
from loop.optimizers.sgd import SGD, Momentum

__all__ = ["SGD", "Adam", "AdamW", "LearningRate", "Momentum", "Optimizer"]
