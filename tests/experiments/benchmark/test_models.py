"""The race's models: one definition, and the same numbers from every set of operations."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kernels
from experiments.benchmark import workloads
from experiments.benchmark.contenders import keras_models, kernel_models, models


@pytest.mark.parametrize("name", ["tiny", "cnn", "resnet20", "transformer"])
def test_kernels_and_keras_compute_the_same_model(name: str) -> None:
    """Logits in training, by our kernels and by a Keras user's layers, from the same weights."""
    workload = workloads.WORKLOADS[name]
    weights = kernel_models.initial_weights(workload)

    def batch_norm(i: int, x: tf.Tensor, relu: bool) -> tf.Tensor:
        affine = weights[f"bn{i}/gamma"], weights[f"bn{i}/beta"]
        return kernels.batch_norm_training(x, *affine, epsilon=1e-3, relu=relu)[0]

    x = workloads.examples(workload)[0][:8]
    on = kernel_models.operations(weights, batch_norm)
    ours = models.logits(workload, on, tf.constant(x)).numpy()
    theirs = np.asarray(keras_models.build(keras, workload)(x, training=True))
    assert np.abs(ours).max() > 0.01
    np.testing.assert_allclose(ours.reshape(theirs.shape), theirs, rtol=1e-3, atol=1e-3)


def test_keras_trains_every_weight_of_the_workload() -> None:
    """No weight is left at Keras's own initial value: the transformer has the most kinds."""
    workload = workloads.WORKLOADS["transformer"]
    expected = sorted(float(np.sum(v)) for v in workloads.initial_weights(workload).values())
    model = keras_models.build(keras, workload)
    found = sorted(float(np.sum(v)) for v in model.get_weights())
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
