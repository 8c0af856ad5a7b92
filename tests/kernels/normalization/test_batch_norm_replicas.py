"""Batch norm over several replicas: the whole batch's results, the same however it is divided."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from kernels.normalization.batch_norm import Moments, batch_norm_training
from tests.kernels.normalization.test_batch_norm import Array, assert_close, evaluate, inputs, truth


class LockStep:
    """Sums over threads that call it in turn, as an all-reduce does over replicas."""

    def __init__(self, replicas: int) -> None:
        self.barrier = threading.Barrier(replicas)
        self.lock = threading.Lock()
        self.given: dict[int, list[list[tf.Tensor]]] = {}

    def member(self) -> Callable[[list[tf.Tensor]], list[tf.Tensor]]:
        """One replica's all-reduce."""
        calls = 0

        def all_reduce_sum(tensors: list[tf.Tensor]) -> list[tf.Tensor]:
            nonlocal calls
            with self.lock:
                self.given.setdefault(calls, []).append(tensors)
            self.barrier.wait(60)
            total = [tf.add_n(list(each)) for each in zip(*self.given[calls], strict=True)]
            calls += 1
            return total

        return all_reduce_sum


@pytest.mark.parametrize(
    ("mean", "dtype", "tolerance"), [(1.5, "float64", 1e-10), (1e4, "float32", 5e-3)]
)
@pytest.mark.parametrize("shape", [(7, 5), (7, 3, 2, 5)])
def test_replicas_together_equal_the_whole_batch(
    shape: tuple[int, ...], mean: float, dtype: str, tolerance: float
) -> None:
    """Two unequal, padded replicas give the whole batch's results with one all-reduce each way."""
    a = inputs(shape, mean=mean)
    expected = truth(a["x"], a["scale"], a["offset"], a["dy"], relu=True)
    together = LockStep(2)
    slices = [(0, 4), (4, 7)]
    found: list[dict[str, Array]] = [{}, {}]

    def replica(number: int) -> None:
        first, last = slices[number]
        fill = np.zeros((4 - (last - first), *shape[1:]))
        mine = {k: np.concatenate([a[k][first:last], fill]) for k in ("x", "dy")}
        mask = tf.constant(np.arange(4) < last - first)
        found[number] = evaluate(
            {**a, **mine}, dtype, relu=True, mask=mask, all_reduce_sum=together.member()
        )

    threads = [threading.Thread(target=replica, args=(n,)) for n in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {call: len(given) for call, given in together.given.items()} == {0: 2, 1: 2}
    assert [len(given[0]) for given in together.given.values()] == [1, 1]
    whole = {k: np.concatenate([found[0][k], found[1][k][:3]]) for k in ("y", "dx")}
    whole |= {k: found[0][k] + found[1][k] for k in ("dscale", "doffset")}
    whole |= {k: found[1][k] for k in ("mean", "variance")}
    assert_close(whole, expected, tolerance)
    assert found[0]["count"] == np.prod(shape[:-1])


def _divided(x: tf.Tensor, sizes: list[int], data_format: Any) -> tuple[tf.Tensor, list[Moments]]:
    """The normalised batch and each replica's moments, of replicas that hold `sizes` examples."""
    parts = tf.split(x, sizes)
    shares: list[tf.Tensor] = []

    def share(tensors: list[tf.Tensor]) -> list[tf.Tensor]:
        shares.append(tensors[0])
        return tensors

    for part in parts:
        batch_norm_training(part, None, None, data_format=data_format, all_reduce_sum=share)
    total = tf.add_n(shares)
    found = [
        batch_norm_training(
            part, None, None, data_format=data_format, all_reduce_sum=lambda _: [total]
        )
        for part in parts
    ]
    return tf.concat([y for y, _ in found], 0), [moments for _, moments in found]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    ("shape", "data_format", "mean"),
    [((12, 3), "NHWC", 2.0), ((12, 7, 5, 3), "NHWC", 50.0), ((12, 3, 7, 5), "NCHW", -4.0)],
)
def test_moments_do_not_depend_on_the_division(
    shape: tuple[int, ...], data_format: str, mean: float, compiled: bool
) -> None:
    """In float32 one replica, two, three, and a reversed batch: moments and y equal to the bit."""
    x = tf.constant(inputs(shape, mean=mean)["x"], tf.float32)

    def normalised(x: tf.Tensor, sizes: list[int]) -> Any:
        return _divided(x, sizes, data_format)

    run = tf.function(normalised, autograph=False) if compiled else normalised
    y, (whole,) = run(x, [12])
    for sizes in ([6, 6], [1, 4, 7]):
        divided, moments = run(x, sizes)
        np.testing.assert_array_equal(divided, y)
        for one in moments:
            np.testing.assert_array_equal(one.mean, whole.mean)
            np.testing.assert_array_equal(one.variance, whole.variance)
    turned, (moments,) = run(x[::-1], [12])
    np.testing.assert_array_equal(turned[::-1], y)
    np.testing.assert_array_equal(moments.variance, whole.variance)
