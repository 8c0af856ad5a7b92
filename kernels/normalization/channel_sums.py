"""Two sums per channel over everything else, in the form that each target runs fastest."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from kernels import channels, target

_Terms = Callable[..., tuple[tf.Tensor, tf.Tensor]]

# Slabs of the batch that one loop adds up.
_SLABS_MAX = 8
# From how many channels on a concatenation copies whole vectors.
_WIDE = 128


def pair_of_sums(
    terms: _Terms, inputs: Sequence[tf.Tensor], layout: channels.Layout
) -> tuple[tf.Tensor, tf.Tensor]:
    """Sums two elementwise functions of the same tensors over all axes but the channels'.

    Args:
      terms: takes tensors like `inputs`, or slices of all of them along the batch, and gives the
        two summands.
      inputs: tensors of the layout's shape, or with 1 in place of any axis but the batch's.
      layout: where the channels are.

    Returns:
      Both sums, [C].
    """
    here = target.current()
    batch = inputs[0].shape[0]
    if here.is_xla_cpu and batch:
        slabs = max(k for k in range(1, _SLABS_MAX + 1) if batch % k == 0)
        return _sums_by_slabs(terms, inputs, layout, slabs, batch // slabs)
    first, second = terms(*inputs)
    # Eigen's matrix product takes a third of the time of its sum down a column. GPUs may round the
    # factors of a product to TF32, so they sum.
    if layout.rank == 2 and here.device == "cpu" and here.compiler != "xla":
        return _sum_by_product(first), _sum_by_product(second)
    return tf.reduce_sum(first, layout.others), tf.reduce_sum(second, layout.others)


def _sums_by_slabs(
    terms: _Terms, inputs: Sequence[tf.Tensor], layout: channels.Layout, slabs: int, size: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Adds slabs of the batch elementwise, then sums what is left.

    XLA:CPU does not fuse the computation of a summand into a sum over the rows: it would write each
    summand to memory and read it again. It does fuse the elementwise addition of slabs.
    """
    pairs = [terms(*(t[k * size : (k + 1) * size] for t in inputs)) for k in range(slabs)]
    first, second = _added([p[0] for p in pairs]), _added([p[1] for p in pairs])
    if layout.axis != layout.rank - 1 or layout.size < _WIDE:
        return tf.reduce_sum(first, layout.others), tf.reduce_sum(second, layout.others)
    # Few rows are left if they are long. XLA:CPU fuses so small a sum, into a loop that reads
    # memory in large steps. It does not fuse the sum of a concatenation.
    both = tf.reduce_sum(tf.concat([first, second], -1), layout.others)
    return both[: layout.size], both[layout.size :]


def _added(terms: list[tf.Tensor]) -> tf.Tensor:
    """The sum of the terms, pairwise, for accuracy."""
    while len(terms) > 1:
        odd = terms[len(terms) & ~1 :]
        terms = [a + b for a, b in zip(terms[::2], terms[1::2], strict=False)] + odd
    return terms[0]


def _sum_by_product(x: tf.Tensor) -> tf.Tensor:
    """[B, C] summed over B."""
    return tf.matmul(tf.ones([1, tf.shape(x)[0]], x.dtype), x)[0]
