"""Optimizers that run inside the compiled loop; one file a family."""

from loop.optimizers.adagrad import Adadelta, Adagrad
from loop.optimizers.adam import Adam, AdamW, AMSGrad, Nadam
from loop.optimizers.base import LearningRate, Optimizer
from loop.optimizers.layerwise import LAMB, LARS
from loop.optimizers.lion import Lion
from loop.optimizers.muon import Muon
from loop.optimizers.rmsprop import RMSProp
from loop.optimizers.sgd import SGD, Momentum

__all__ = [
    "LAMB",
    "LARS",
    "SGD",
    "AMSGrad",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "LearningRate",
    "Lion",
    "Momentum",
    "Muon",
    "Nadam",
    "Optimizer",
    "RMSProp",
]
