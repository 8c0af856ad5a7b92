"""Graph calls without the fusions that hide a NaN.

With oneDNN, Grappler's remapper makes one operation of a product or convolution, its bias or batch
norm, and ReLU or ReLU6; that operation gives 0 where its argument is NaN. Eager mode and XLA give
NaN. A training step sees the NaN in its gradients; an evaluation has none and would report a number
for a model that is broken.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2, rewriter_config_pb2
from tensorflow.python.eager import context


def hides_nan() -> bool:
    """Whether a fused operation of a graph gives a number where its argument is NaN, here.

    A graph of three operations tells, in some 10 ms: TensorFlow uses oneDNN by the processor.
    """
    weight = tf.Variable(tf.ones([8, 8]), trainable=False)
    bias = tf.Variable(tf.zeros([8]), trainable=False)

    def layers(x: tf.Tensor) -> tf.Tensor:
        # Not the last operation, which would not be fused.
        return tf.matmul(tf.nn.relu(tf.matmul(x, weight) + bias), weight)

    hidden = tf.function(layers, autograph=False)(tf.fill([8, 8], np.nan))
    return not bool(tf.reduce_all(tf.math.is_nan(hidden)))


@contextlib.contextmanager
def unfused() -> Iterator[None]:
    """Inside it this thread's graphs run without the remapper; others, and later ones, with it.

    By the options of the calls, not by `tf.config.optimizer`: that would hold for the process, and
    could not be taken back to what it was.
    """
    here = context.context()
    before = here.function_call_options
    config = config_pb2.ConfigProto.FromString(before.config_proto_serialized)
    config.graph_options.rewrite_options.remapping = rewriter_config_pb2.RewriterConfig.OFF
    options = copy.copy(before)
    options.config_proto_serialized = config
    here.function_call_options = options
    try:
        yield
    finally:
        here.function_call_options = before
