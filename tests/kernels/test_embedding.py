"""Rows by id: NumPy's take, NaN for an id that has no row, sparse gradients; by every compiler."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from kernels import embedding_lookup, target
from kernels.embedding import in_range

FORMS = ("eager", "graph", "xla", "xla_untold")


def called(form: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """The function's result under a compiler; "xla_untold" is a user's own jit_compile."""
    compiler: Any = "xla" if form == "xla" else None
    if form != "eager":
        function = tf.function(function, jit_compile=form.startswith("xla"), autograph=False)
    with target.tracing_for(compiler) if compiler else contextlib.nullcontext():
        return function(*arguments)


def _table(dtype: Any = np.float64) -> Any:
    return np.random.default_rng(3).normal(0.4, 1.0, [6, 4]).astype(dtype)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("ids", [[4, 0, 4, 5, 1], [4, 7, 0, -1, 5]], ids=["inside", "outside"])
@pytest.mark.parametrize("dtype", ["int32", "int64", "int8"])
def test_values_and_gradient(form: str, ids: list[int], dtype: str) -> None:
    """NumPy's rows and scatter, to the bit; an id outside marks its own row and row 0 with NaN."""
    table, ids = _table(), np.array(ids, dtype)
    outside = (ids < 0) | (ids >= 6)
    upstream = np.random.default_rng(4).normal(1.0, 1.0, [5, 4])
    variable = tf.Variable(table)

    def compute(ids: tf.Tensor) -> Any:
        with tf.GradientTape() as tape:
            rows = embedding_lookup(variable, ids)
            loss = tf.reduce_sum(tf.where(outside[:, None], tf.zeros_like(rows), rows * upstream))
        slices = tape.gradient(loss, variable)
        assert isinstance(slices, tf.IndexedSlices)
        return rows, loss, slices.values, slices.indices

    rows, loss, values, indices = (x.numpy() for x in called(form, compute, tf.constant(ids)))
    safe = np.where(outside, 0, ids)
    np.testing.assert_array_equal(rows, np.where(outside[:, None], np.nan, table[safe]))
    np.testing.assert_allclose(loss, (table[safe] * upstream)[~outside].sum(), rtol=1e-12)
    # NaN although none of the loss is: the model has dropped the rows.
    np.testing.assert_array_equal(values, np.where(outside[:, None], np.nan, upstream))
    np.testing.assert_array_equal(indices, safe)


@pytest.mark.parametrize("form", FORMS)
def test_shapes_and_dtypes(form: str) -> None:
    """Ids of any rank, none at all, a table of vectors or of a half type; the result is its own."""
    for shape, dtype in (((), tf.float32), ((2, 0), tf.float32), ((3, 2), tf.bfloat16)):
        table = tf.cast(_table(), dtype)
        ids = tf.reshape(tf.range(int(np.prod(shape)), dtype=tf.int64), shape)
        found = called(form, lambda ids, table=table: embedding_lookup(table, ids), ids)
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, table.numpy()[ids.numpy()])
    vector = called(
        form, lambda ids: embedding_lookup(_constant_vector(), ids), tf.constant([2, 9])
    )
    np.testing.assert_array_equal(vector, [2.0, np.nan])


def _constant_vector() -> tf.Tensor:
    return tf.range(5.0)


def test_an_id_wider_than_int32_is_outside() -> None:
    """It is not cut to its low bits, nor is the size to those of a narrow id."""
    ids = tf.constant([2**32 + 1, 1, -(2**32)], tf.int64)
    np.testing.assert_array_equal(in_range(ids, 6), [False, True, False])
    np.testing.assert_array_equal(in_range(tf.constant([1, 255], tf.uint8), 257), [True, True])
    rows = embedding_lookup(tf.constant(_table()), ids).numpy()
    np.testing.assert_array_equal(np.isnan(rows).all(1), [True, False, True])


def test_the_graph_makes_no_pass_over_good_rows() -> None:
    """On a CPU outside XLA the product is in a branch, which is not taken."""
    traced = tf.function(lambda ids: embedding_lookup(tf.constant(_table()), ids), autograph=False)
    with target.tracing_for("graph", "cpu"):
        graph = traced.get_concrete_function(tf.TensorSpec([5], tf.int32)).graph
    kinds = [operation.type for operation in graph.get_operations()]
    assert kinds.count("If") + kinds.count("StatelessIf") == 1
    assert "Mul" not in kinds


def test_what_does_not_fit_is_refused() -> None:
    """Ids that are no integers, and a table that cannot hold NaN."""
    with pytest.raises(ValueError, match="ids must be integers, got float32"):
        embedding_lookup(tf.constant(_table()), tf.constant([1.0]))
    with pytest.raises(ValueError, match="table must be floating, got int32"):
        embedding_lookup(tf.range(4), tf.constant([1]))
