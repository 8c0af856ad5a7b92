"""Metrics over a whole data set: explicit states that add up, whatever the batches and replicas."""

from loop.metrics.auc import AUC
from loop.metrics.classification import Accuracy, ConfusionMatrix, TopK
from loop.metrics.keras_metric import KerasMetric
from loop.metrics.mean import Mean
from loop.metrics.metric import Metric, State, Values

__all__ = [
    "AUC",
    "Accuracy",
    "ConfusionMatrix",
    "KerasMetric",
    "Mean",
    "Metric",
    "State",
    "TopK",
    "Values",
]
