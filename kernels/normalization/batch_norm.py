"""Batch normalisation with a closed-form gradient, statistics in float32, and an optional ReLU.

Source: Ioffe and Szegedy, "Batch Normalization" (2015), https://arxiv.org/abs/1502.03167; the
backward pass is their section 3. Across replicas the moments are combined as by Chan, Golub and
LeVeque, "Algorithms for Computing the Sample Variance" (1983).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import tensorflow as tf

from kernels import channels, target
from kernels.normalization.channel_sums import pair_of_sums

AllReduceSum = Callable[[list[tf.Tensor]], list[tf.Tensor]]

# cuDNN refuses a smaller one.
_FUSED_EPSILON_MIN = 1.001e-5


class Moments(NamedTuple):
    """A batch's statistics per channel, over all replicas if they were combined.

    Attributes:
      mean: [C], float32 (float64 for float64 inputs); 0 where `count` is 0.
      variance: [C], same dtype; biased or Bessel-corrected as asked for; 0 where `count` is 0.
      count: scalar, same dtype: the values behind each channel's statistics. At 0 there was
        no example, and moving statistics must not change.
    """

    mean: tf.Tensor
    variance: tf.Tensor
    count: tf.Tensor


def batch_norm_training(
    x: tf.Tensor,
    scale: tf.Tensor | None,
    offset: tf.Tensor | None,
    *,
    epsilon: float = 1e-3,
    data_format: channels.DataFormat = "NHWC",
    mask: tf.Tensor | None = None,
    relu: bool = False,
    all_reduce_sum: AllReduceSum | None = None,
    bessel: bool = False,
) -> tuple[tf.Tensor, Moments]:
    """Normalises a batch by its own moments.

    `y = (x - mean) / sqrt(variance + epsilon) * scale + offset`

    The variance that normalises is always the biased one (divided by the count). `bessel` chooses
    which one is *returned* for the moving average: False gives the biased one, which Keras 3
    stores; True multiplies it by count / (count - 1), which `tf.compat.v1.layers` and
    `tf.raw_ops.FusedBatchNormV3` store. Both targets follow it. No gradient flows through the
    returned moments; through `y` first and second derivatives do.

    Args:
      x: [B, C], [B, ..., C] ("NHWC") or [B, C, ...] ("NCHW"); float16, bfloat16, float32, float64.
      scale: [C], or None for 1.
      offset: [C], or None for 0.
      epsilon: added to the variance.
      data_format: "NHWC" (channels last) or "NCHW" (channels second).
      mask: bool [B], False for padding, which then counts in no moment and gets no gradient; its
        rows of `y` are 0. None when every example is real.
      relu: whether `y` is passed through a ReLU.
      all_reduce_sum: sums a list of tensors over the replicas. Called once in the forward pass,
        with one float64 tensor [1 + 2C] (count, sum, sum of squares), and once in the backward
        pass, with one [2C] in the moments' dtype (sum of dy, sum of dy * x_hat). The moments are
        the same to the bit however the batch is divided, on one replica too. The gradients of
        `scale` and `offset` are this replica's share, to be reduced with the other gradients.
      bessel: which variance is returned, see above.

    Returns:
      y: like x. moments: the batch's `Moments`.

    Raises:
      ValueError: on an unknown `data_format`, an unknown rank or number of channels, a negative
        epsilon or a mask that is not bool [B].
      TypeError: where x is not floating point.
    """
    x = tf.convert_to_tensor(x)
    layout = channels.layout_of(x, data_format, "batch_norm_training")
    if epsilon < 0:
        raise ValueError(f"batch_norm_training: epsilon must not be negative, got {epsilon}")
    if mask is not None and (mask.dtype != tf.bool or mask.shape.rank != 1):
        raise ValueError(
            f"batch_norm_training: mask must be bool [B], got {mask.dtype.name} {mask.shape}"
        )
    dtype = statistics_dtype(x.dtype)
    scale = _per_channel(scale, 1.0, layout.size, dtype, "scale")
    offset = _per_channel(offset, 0.0, layout.size, dtype, "offset")
    if mask is None and all_reduce_sum is None and _fused_op_serves(x, epsilon):
        y, mean, variance, count = _normalise_fused(x, scale, offset, layout, epsilon, relu)
    else:
        y, mean, variance, count = _normalise(
            x, scale, offset, layout, epsilon, mask, relu, all_reduce_sum
        )
    mean, variance, count = (tf.stop_gradient(m) for m in (mean, variance, count))
    if bessel:
        variance *= count / tf.maximum(count - 1, 1)
    return y, Moments(mean, variance, count)


def batch_norm_inference(
    x: tf.Tensor,
    scale: tf.Tensor | None,
    offset: tf.Tensor | None,
    mean: tf.Tensor,
    variance: tf.Tensor,
    *,
    epsilon: float = 1e-3,
    data_format: channels.DataFormat = "NHWC",
    relu: bool = False,
) -> tf.Tensor:
    """Normalises by given moments: `(x - mean) * (scale / sqrt(variance + epsilon)) + offset`.

    The mean is subtracted first, not folded into the offset: folded, `x` of mean 1e4 and deviation
    1 would lose three digits in float32, and a fused loop gains nothing by it. No gradient flows to
    the moments.

    Args:
      x: [B, C], [B, ..., C] ("NHWC") or [B, C, ...] ("NCHW"), floating point.
      scale: [C], or None for 1.
      offset: [C], or None for 0.
      mean: [C], the moving mean.
      variance: [C], the moving variance.
      epsilon: added to the variance.
      data_format: "NHWC" or "NCHW".
      relu: whether the result is passed through a ReLU.

    Returns:
      Like x.

    Raises:
      ValueError: on an unknown `data_format`, rank or number of channels, or a negative epsilon.
      TypeError: where x is not floating point.
    """
    x = tf.convert_to_tensor(x)
    layout = channels.layout_of(x, data_format, "batch_norm_inference")
    if epsilon < 0:
        raise ValueError(f"batch_norm_inference: epsilon must not be negative, got {epsilon}")
    dtype = statistics_dtype(x.dtype)
    scale = _per_channel(scale, 1.0, layout.size, dtype, "scale")
    offset = _per_channel(offset, 0.0, layout.size, dtype, "offset")
    mean = _per_channel(tf.stop_gradient(mean), 0.0, layout.size, dtype, "mean")
    variance = _per_channel(tf.stop_gradient(variance), 1.0, layout.size, dtype, "variance")
    if _fused_op_serves(x, epsilon):
        y = tf.raw_ops.FusedBatchNormV3(
            x=layout.to_nhwc(x),
            scale=scale,
            offset=offset,
            mean=mean,
            variance=variance,
            epsilon=epsilon,
            is_training=False,
        ).y
        return layout.from_nhwc(tf.nn.relu(y) if relu else y, x)
    factor = scale * tf.math.rsqrt(variance + tf.constant(epsilon, dtype))
    centred = tf.cast(x, dtype) - layout.spread(mean)
    y = centred * layout.spread(factor) + layout.spread(offset)
    return tf.cast(tf.nn.relu(y) if relu else y, x.dtype)


def statistics_dtype(dtype: tf.DType) -> tf.DType:
    """The dtype of the moments of inputs of `dtype`: float64 for float64, otherwise float32."""
    return tf.float64 if dtype == tf.float64 else tf.float32


def _per_channel(
    value: tf.Tensor | None, default: float, size: int, dtype: tf.DType, name: str
) -> tf.Tensor:
    """`value` as [C] of `dtype`, or a constant where there is none."""
    if value is None:
        return tf.fill([size], tf.constant(default, dtype))
    value = tf.cast(tf.convert_to_tensor(value), dtype)
    if not value.shape.is_compatible_with([size]):
        raise ValueError(f"batch_norm: {name} must be [{size}] as x's channels, got {value.shape}")
    return value


def _fused_op_serves(x: tf.Tensor, epsilon: float) -> bool:
    """Whether `FusedBatchNormV3` is the fast form here and takes these arguments."""
    here = target.current()
    # On [B, C] it is slower on a CPU than plain operations; on an empty x it gives NaN.
    if here.compiler == "xla" or x.dtype == tf.float64 or x.shape[0] == 0:
        return False
    return x.shape.rank > 2 if here.device == "cpu" else epsilon >= _FUSED_EPSILON_MIN


def _normalise_fused(
    x: tf.Tensor,
    scale: tf.Tensor,
    offset: tf.Tensor,
    layout: channels.Layout,
    epsilon: float,
    relu: bool,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """TensorFlow's own op and its own gradient, which is differentiable again."""
    count = layout.count(x, scale.dtype)
    about = None
    if x.dtype == tf.float32 and target.current().device == "cpu" and not target.has_onednn():
        # Without oneDNN the operation sums in float32 from 0: at mean 1e4 and deviation 1 its mean
        # would be wrong by half a percent of the deviation. Around a value near the mean it is not.
        about = tf.stop_gradient(layout.sample(x, None, scale.dtype))
        x = x - layout.spread(about)

    def forward(x: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor) -> Any:
        y, mean, variance, *reserved = tf.raw_ops.FusedBatchNormV3(
            x=x, scale=scale, offset=offset, mean=[], variance=[], epsilon=epsilon, is_training=True
        )
        if relu:
            y = tf.nn.relu(y)

        def backward(dy: tf.Tensor, *_: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            if relu:
                dy = tf.raw_ops.ReluGrad(gradients=dy, features=y)
            dx, dscale, doffset, _, _ = tf.raw_ops.FusedBatchNormGradV3(
                y_backprop=dy,
                x=x,
                scale=scale,
                reserve_space_1=reserved[0],
                reserve_space_2=reserved[1],
                reserve_space_3=reserved[2],
                epsilon=epsilon,
                is_training=True,
            )
            return dx, dscale, doffset

        return (y, mean, variance), backward

    y, mean, variance = tf.custom_gradient(forward)(layout.to_nhwc(x), scale, offset)
    # The op returns the Bessel-corrected variance, and NaN for an empty batch.
    seen = count > 0
    mean = tf.where(seen, mean if about is None else about + mean, 0.0)
    variance = tf.where(seen, variance, 0.0) * (tf.maximum(count - 1, 1) / tf.maximum(count, 1))
    return layout.from_nhwc(y, x), mean, variance, count


def _normalise(
    x: tf.Tensor,
    scale: tf.Tensor,
    offset: tf.Tensor,
    layout: channels.Layout,
    epsilon: float,
    mask: tf.Tensor | None,
    relu: bool,
    all_reduce_sum: AllReduceSum | None,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Plain operations, which XLA fuses: passes for the moments, for y, for the sums, for dx."""
    dtype = scale.dtype
    real = [] if mask is None else [layout.per_example(mask)]

    def forward(x: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor) -> Any:
        if all_reduce_sum is None:
            mean, variance, count = _moments(x, layout, mask, real, dtype)
        else:
            mean, variance, count = _reduced_moments(x, layout, mask, real, dtype, all_reduce_sum)
        deviation = tf.math.rsqrt(variance + tf.constant(epsilon, dtype))
        factor = scale * deviation

        def centre(x: tf.Tensor) -> tf.Tensor:
            return tf.cast(x, dtype) - layout.spread(mean)

        def affine(centred: tf.Tensor) -> tf.Tensor:
            return centred * layout.spread(factor) + layout.spread(offset)

        y = _masked(affine(centre(x)), real)
        y = tf.cast(tf.nn.relu(y) if relu else y, x.dtype)

        def backward(dy: tf.Tensor, *_: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            def parts(dy: tf.Tensor, x: tf.Tensor, y: tf.Tensor, *real: tf.Tensor) -> Any:
                centred = centre(x)
                if relu:
                    dy = _relu_gradient(dy, y, lambda: affine(centred))
                return _masked(tf.cast(dy, dtype), real), centred

            def summands(*slices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
                dy, centred = parts(*slices)
                return dy, dy * centred

            doffset, dy_centred = pair_of_sums(summands, [dy, x, y, *real], layout)
            dscale = dy_centred * deviation
            total = [doffset, dscale]
            if all_reduce_sum is not None:
                total = tf.split(all_reduce_sum([tf.concat(total, 0)])[0], 2)
            mean_dy, mean_dy_normal = (t / tf.maximum(count, 1) for t in total)
            dy, centred = parts(dy, x, y, *real)
            slope = layout.spread(mean_dy_normal * deviation)
            dx = layout.spread(factor) * (dy - layout.spread(mean_dy) - centred * slope)
            return tf.cast(_masked(dx, real), x.dtype), dscale, doffset

        return (y, mean, variance, count), backward

    return cast(
        "tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]",
        tf.custom_gradient(forward)(x, scale, offset),
    )


def _masked(value: tf.Tensor, real: Sequence[tf.Tensor]) -> tf.Tensor:
    """`value`, or 0 where there is a mask and it is False."""
    return tf.where(real[0], value, tf.zeros([], value.dtype)) if real else value


def _relu_gradient(dy: tf.Tensor, y: tf.Tensor, before: Callable[[], tf.Tensor]) -> tf.Tensor:
    """`dy` where y > 0. XLA computes the ReLU's input faster than it reads the output."""
    if target.current().compiler == "xla":
        return tf.where(before() > 0, dy, tf.zeros([], dy.dtype))
    return tf.raw_ops.ReluGrad(gradients=dy, features=y)


def _moments(
    x: tf.Tensor,
    layout: channels.Layout,
    mask: tf.Tensor | None,
    real: list[tf.Tensor],
    dtype: tf.DType,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Mean, biased variance and count of this replica's real examples.

    Both sums are taken around a value near the mean (a real example's), so that subtracting the
    squares loses nothing at any mean.
    """
    count = layout.count(x, dtype, mask)
    about = tf.stop_gradient(layout.sample(x, mask, dtype))

    def summands(x: tf.Tensor, *real: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        shifted = _masked(tf.cast(x, dtype) - layout.spread(about), real)
        return shifted, tf.square(shifted)

    sums = pair_of_sums(summands, [x, *real], layout)
    first, second = (s / tf.maximum(count, 1) for s in sums)
    variance = tf.maximum(second - tf.square(first), 0)
    return tf.where(count > 0, about + first, 0), variance, count


def _reduced_moments(
    x: tf.Tensor,
    layout: channels.Layout,
    mask: tf.Tensor | None,
    real: list[tf.Tensor],
    dtype: tf.DType,
    all_reduce_sum: AllReduceSum,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Mean, biased variance and count over all replicas by one all-reduce.

    Each example is summed by itself in `dtype`, around its own mean; the examples in float64, so
    that the rounding to `dtype` hides their order. So the moments are those of the global batch to
    the bit, however it is divided.
    """
    size, within = layout.size, layout.others[1:]
    x = tf.cast(x, dtype)
    means = tf.reduce_mean(x, within, keepdims=True)
    squares = tf.reduce_sum(tf.square(x - means), within)
    means, squares = (
        tf.cast(tf.reshape(part, [-1, size]), tf.float64) for part in (means, squares)
    )
    count = layout.count(x, tf.float64, mask)
    each = layout.count(x[:1], tf.float64)
    seen = [tf.reshape(part, [-1, 1]) for part in real]
    sums = [
        tf.reduce_sum(_masked(part, seen), 0)
        for part in (each * means, squares + each * tf.square(means))
    ]
    packed = all_reduce_sum([tf.concat([count[None], *sums], 0)])[0]
    packed = tf.ensure_shape(packed, [1 + 2 * size])
    count = packed[0]
    mean, square = tf.split(packed[1:] / tf.maximum(count, 1), 2)
    variance = tf.maximum(square - tf.square(mean), 0)
    return tf.cast(mean, dtype), tf.cast(variance, dtype), tf.cast(count, dtype)
