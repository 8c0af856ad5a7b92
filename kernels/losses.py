"""Losses, one value an example: softmax and sigmoid cross-entropy, focal, Huber.

All take float32, float64, bfloat16 or float16. The half types are computed, and returned, in
float32: a sum of exponentials needs more than their 8 or 11 bits. None looks at values on the host.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import tensorflow as tf

from kernels.embedding import in_range

Gradient = Callable[..., tf.Tensor | tuple[tf.Tensor, ...]]


def softmax_cross_entropy(
    labels: tf.Tensor,
    logits: tf.Tensor,
    *,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
) -> tf.Tensor:
    """Cross-entropy of `softmax(logits)` with integer labels.

    As `tf.nn.sparse_softmax_cross_entropy_with_logits`. A label out of range gives NaN under every
    compiler, in the loss and in its gradient, so that a step's finite check reports it.

    Args:
      labels: integer [...], each in [0, K) or `ignore_index`.
      logits: floating [..., K].
      label_smoothing: the share of the target spread evenly over all K classes, in [0, 1)
        (Szegedy et al., 2016, arXiv:1512.00567, section 7).
      ignore_index: the label of the examples that do not count: their loss and gradient are 0.

    Returns:
      The loss [...]: float64 for float64 logits, else float32.

    Raises:
      ValueError: if a shape, a dtype or `label_smoothing` does not fit.
    """
    name = "softmax_cross_entropy"
    if not 0.0 <= label_smoothing < 1.0:
        raise ValueError(f"{name}: label_smoothing must be in [0, 1), got {label_smoothing!r}")
    labels, logits = _labels_and_logits(name, labels, logits)
    classes = logits.shape[-1] or tf.shape(logits)[-1]
    zero = tf.constant(0.0, logits.dtype)
    weight = _weight(labels, classes, ignore_index, logits.dtype)
    # A comparison with every class fuses into the pass over the logits; a gather does not.
    hot = tf.equal(tf.cast(labels, tf.int32)[..., None], tf.range(classes))

    def loss_of(logits: tf.Tensor) -> tuple[tf.Tensor, Gradient]:
        shifted, exponential, total = _softmax_parts(logits)
        own = tf.reduce_sum(tf.where(hot, shifted, zero), -1)
        loss = tf.math.log(tf.squeeze(total, -1)) - (1.0 - label_smoothing) * own
        if label_smoothing:
            loss -= label_smoothing * tf.reduce_mean(shifted, -1)

        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            scale = (upstream * weight)[..., None]
            target = tf.where(hot, (1.0 - label_smoothing) * scale, zero)
            if label_smoothing:
                target += scale * (label_smoothing / tf.cast(classes, scale.dtype))
            return exponential * (scale / total) - target

        # Where weight is 0 the loss may be infinite: select, so as not to make NaN of it.
        return tf.where(tf.equal(weight, zero), zero, loss * weight), gradient

    return tf.custom_gradient(loss_of)(logits)


def softmax_cross_entropy_soft(targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Cross-entropy of `softmax(logits)` with probabilities of the classes (mixup, distillation).

    As `tf.nn.softmax_cross_entropy_with_logits`; differentiable in both arguments.

    Args:
      targets: floating [..., K]; each row sums to 1 if it is a distribution.
      logits: floating [..., K].

    Returns:
      The loss [...]: float64 for float64 logits, else float32.

    Raises:
      ValueError: if a shape or a dtype does not fit.
    """
    name = "softmax_cross_entropy_soft"
    targets, logits = _same_shape(name, "targets", targets, logits)

    def loss_of(targets: tf.Tensor, logits: tf.Tensor) -> tuple[tf.Tensor, Gradient]:
        shifted, exponential, total = _softmax_parts(logits)
        mass = tf.reduce_sum(targets, -1, keepdims=True)
        log_total = tf.math.log(total)
        own = tf.reduce_sum(targets * shifted, -1)

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            upstream = upstream[..., None]
            in_logits = exponential * (upstream * mass / total) - upstream * targets
            return upstream * (log_total - shifted), in_logits

        return tf.squeeze(mass * log_total, -1) - own, gradient

    return tf.custom_gradient(loss_of)(targets, logits)


def sigmoid_cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Cross-entropy of `sigmoid(logits)` with labels in [0, 1]: the mean of an example's elements.

    Args:
      labels: [B, ...], integer, bool or floating.
      logits: floating [B, ...].

    Returns:
      The loss [B]: float64 for float64 logits, else float32.

    Raises:
      ValueError: if a shape or a dtype does not fit.
    """
    labels, logits = _same_shape("sigmoid_cross_entropy", "labels", labels, logits)
    return _per_example(tf.nn.sigmoid_cross_entropy_with_logits(labels, logits))


def sigmoid_focal(
    labels: tf.Tensor, logits: tf.Tensor, *, alpha: float = 0.25, gamma: float = 2.0
) -> tf.Tensor:
    """Focal loss on `sigmoid(logits)`, its mean over an example's elements.

    `-alpha * (1 - p)**gamma * log(p)` for label 1, `-(1 - alpha) * p**gamma * log(1 - p)` for label
    0 (Lin et al., 2017, arXiv:1708.02002); a label between has its share of both. (Keras's
    `BinaryFocalCrossentropy` agrees on labels 0 and 1 with `apply_class_balancing=True`.)

    Args:
      labels: [B, ...] in [0, 1], integer, bool or floating.
      logits: floating [B, ...].
      alpha: weight of label 1, in [0, 1].
      gamma: how much less the easy elements count; not negative, 0 for not at all.

    Returns:
      The loss [B]: float64 for float64 logits, else float32.

    Raises:
      ValueError: if a shape, a dtype, `alpha` or `gamma` does not fit.
    """
    name = "sigmoid_focal"
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"{name}: alpha must be in [0, 1], got {alpha!r}")
    if not 0.0 <= gamma < math.inf:
        raise ValueError(f"{name}: gamma must be finite and not negative, got {gamma!r}")
    labels, logits = _same_shape(name, "labels", labels, logits)
    positive_weight, negative_weight = alpha * labels, (1.0 - alpha) * (1.0 - labels)

    def loss_of(logits: tf.Tensor) -> tuple[tf.Tensor, Gradient]:
        minus_log_p, minus_log_q = _minus_log_sigmoids(logits)
        p, q = tf.sigmoid(logits), tf.sigmoid(-logits)
        # Powers through logarithms have a finite derivative at 0 whatever gamma is.
        easy_p = p * p if gamma == 2.0 else tf.exp(-gamma * minus_log_p)
        easy_q = q * q if gamma == 2.0 else tf.exp(-gamma * minus_log_q)
        positive, negative = positive_weight * easy_q, negative_weight * easy_p

        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            in_negative = negative * (gamma * q * minus_log_q + p)
            return upstream * (in_negative - positive * (gamma * p * minus_log_p + q))

        return positive * minus_log_p + negative * minus_log_q, gradient

    return _per_example(tf.custom_gradient(loss_of)(logits))


def huber(targets: tf.Tensor, predictions: tf.Tensor, *, delta: float = 1.0) -> tf.Tensor:
    """Huber's loss, its mean over an example's elements.

    `error**2 / 2` where `|error| <= delta`, `delta * (|error| - delta / 2)` beyond (Huber, 1964,
    doi:10.1214/aoms/1177703732). As `keras.losses.Huber` before its reduction over the batch.

    Args:
      targets: [B, ...], any real dtype.
      predictions: floating [B, ...].
      delta: where the parabola becomes a line; positive.

    Returns:
      The loss [B]: float64 for float64 predictions, else float32.

    Raises:
      ValueError: if a shape, a dtype or `delta` does not fit.
    """
    if not 0.0 < delta < math.inf:
        raise ValueError(f"huber: delta must be finite and above 0, got {delta!r}")
    targets, predictions = _same_shape("huber", "targets", targets, predictions)

    def loss_of(error: tf.Tensor) -> tuple[tf.Tensor, Gradient]:
        inner = tf.clip_by_value(error, -delta, delta)
        return inner * (error - 0.5 * inner), lambda upstream: upstream * inner

    return _per_example(tf.custom_gradient(loss_of)(predictions - targets))


def _minus_log_sigmoids(logits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """`-log(sigmoid(logits))` and `-log(sigmoid(-logits))`, stable, from one exponential."""

    def parts_of(logits: tf.Tensor) -> tuple[tuple[tf.Tensor, tf.Tensor], Gradient]:
        tail = tf.math.log1p(tf.exp(-tf.abs(logits)))
        parts = tf.maximum(-logits, 0.0) + tail, tf.maximum(logits, 0.0) + tail

        def gradient(in_p: tf.Tensor, in_q: tf.Tensor) -> tf.Tensor:
            # Written here, since |x| and max have no gradient at 0, where these are smooth.
            return in_q * tf.sigmoid(logits) - in_p * tf.sigmoid(-logits)

        return parts, gradient

    minus_log_p, minus_log_q = tf.custom_gradient(parts_of)(logits)
    return minus_log_p, minus_log_q


def _labels_and_logits(
    name: str, labels: tf.Tensor, logits: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """The labels as a tensor and the logits widened, their dtypes and shapes checked."""
    labels = tf.convert_to_tensor(labels)
    if not labels.dtype.is_integer:
        raise ValueError(f"{name}: labels must be integers, got {labels.dtype.name}")
    logits = _widened(name, "logits", logits)
    if logits.shape.rank == 0 or not labels.shape.is_compatible_with(logits.shape[:-1]):
        raise ValueError(
            f"{name}: labels must have the shape of logits without the last axis, got "
            f"{labels.shape} for logits {logits.shape}"
        )
    return labels, logits


def _weight(
    labels: tf.Tensor, classes: int | tf.Tensor, ignore_index: int | None, dtype: tf.DType
) -> tf.Tensor:
    """For each label 1, or 0 if it is ignored, or NaN if it is out of range."""
    one = tf.constant(1.0, dtype)
    weight = tf.where(in_range(labels, classes), one, math.nan * one)
    if ignore_index is None:
        return weight
    return tf.where(tf.equal(tf.cast(labels, tf.int64), ignore_index), 0.0 * one, weight)


def _softmax_parts(logits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """`logits - max`, its exponential, and that one's sum over the last axis, kept."""
    # The maximum only shifts: its gradient cancels.
    shifted = logits - tf.stop_gradient(tf.reduce_max(logits, -1, keepdims=True))
    exponential = tf.exp(shifted)
    return shifted, exponential, tf.reduce_sum(exponential, -1, keepdims=True)


def _widened(loss: str, name: str, values: tf.Tensor) -> tf.Tensor:
    """`values` in float64 if they are, else in float32."""
    values = tf.convert_to_tensor(values)
    if not values.dtype.is_floating:
        raise ValueError(f"{loss}: {name} must be floating, got {values.dtype.name}")
    return values if values.dtype == tf.float64 else tf.cast(values, tf.float32)


def _same_shape(
    loss: str, name: str, targets: tf.Tensor, predictions: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Both widened to one dtype; the second must be floating, their shapes equal."""
    predictions = _widened(loss, "logits" if loss != "huber" else "predictions", predictions)
    targets = tf.cast(targets, predictions.dtype)
    if predictions.shape.rank == 0 or not targets.shape.is_compatible_with(predictions.shape):
        raise ValueError(
            f"{loss}: {name} must have the shape of the predictions, [B, ...], got "
            f"{targets.shape} for {predictions.shape}"
        )
    return targets, predictions


def _per_example(losses: tf.Tensor) -> tf.Tensor:
    """The mean over all axes but the first."""
    if losses.shape.rank == 1:
        return losses
    return tf.reduce_mean(losses, list(range(1, losses.shape.rank)))
